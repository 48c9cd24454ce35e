//! ringwatch beside a bare epoll loop, a bare blocking read, and the crates `inotify` and `notify`.
//!
//! ```text
//! cargo run --release -p ringwatch-compare                 # everything, some minutes
//! cargo run --release -p ringwatch-compare -- core         # the core's own figures
//! ```
//!
//! Every run is three processes: this one, a producer pinned to the first CPU that causes events at a fixed rate, and a
//! consumer whose CPU time and memory are measured as a whole. Consumers take turns, round after round, so that a machine
//! that drifts drifts for all of them. A run in which events went missing unsaid is an error, not a figure.

mod consumers;
mod measure;
mod producer;
mod run;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::run::Plan;

/// Compares ringwatch with what else reads inotify.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// Rounds; each figure is the median over them.
    #[arg(long, global = true, default_value_t = 3)]
    rounds: usize,
    /// Seconds a run lasts.
    #[arg(long, global = true, default_value_t = 2.0)]
    seconds: f64,
    /// Only consumers whose name contains one of these.
    #[arg(long, global = true, value_delimiter = ',')]
    only: Vec<String>,
    /// More consumers, such as stream-uring-w4000: ringwatch with a window of so many microseconds.
    #[arg(long, global = true, value_delimiter = ',')]
    also: Vec<String>,
    /// Events a second, instead of those of the command.
    #[arg(long, global = true, value_delimiter = ',')]
    rates: Vec<u64>,
    /// Write the figures of every run to this file, as CSV.
    #[arg(long, global = true)]
    csv: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// CPU per event at fixed rates, files modified in turn.
    Cpu,
    /// Time from the call that causes an event to the consumer.
    Latency,
    /// Events lost when the consumer stalls once.
    Stall,
    /// The three above, of ringwatch and the bare loop only.
    Core,
    #[command(hide = true)]
    Produce(producer::Order),
    #[command(hide = true)]
    Consume(consumers::Order),
}

fn main() -> ExitCode {
    let options = Options::parse();
    let plan = |plan: Plan| {
        plan.with(
            options.rounds,
            options.seconds,
            &options.only,
            &options.also,
            &options.rates,
        )
    };
    let plans = match options.command {
        Some(Command::Produce(order)) => return finish(producer::produce(&order)),
        Some(Command::Consume(order)) => return finish(consumers::consume(&order)),
        Some(Command::Cpu) => vec![plan(Plan::cpu())],
        Some(Command::Latency) => vec![plan(Plan::latency())],
        Some(Command::Stall) => vec![plan(Plan::stall())],
        Some(Command::Core) => [Plan::cpu(), Plan::latency(), Plan::stall()]
            .map(|wanted| plan(wanted.core()))
            .into(),
        None => [Plan::cpu(), Plan::latency(), Plan::stall()].map(plan).into(),
    };
    finish(run::run(&plans, options.csv.as_deref()))
}

fn finish(result: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
