//! ringwatch beside a bare epoll loop, a bare blocking read, and the crates `inotify` and `notify`.
//!
//! ```text
//! cargo run --release -p ringwatch-compare                 # everything, an hour or so
//! cargo run --release -p ringwatch-compare -- goals        # what ringwatch sets out to do, and whether it does
//! cargo run --release -p ringwatch-compare -- core         # the core's own figures
//! cargo run --release -p ringwatch-compare -- soak         # half an hour of high load: every event is counted
//! ```
//!
//! Every run is three processes: this one, a producer pinned to the first CPU that causes events at a fixed rate, and a
//! consumer whose CPU time and memory are measured as a whole. Consumers take turns, round after round, so that a machine
//! that drifts drifts for all of them. A run in which events went missing unsaid is an error, not a figure.

mod allocations;
mod bare;
mod calls;
mod chart;
mod consumers;
mod crates;
mod drain;
mod goals;
mod halves;
mod histogram;
mod idle;
mod instances;
mod job;
mod machine;
mod measure;
mod plan;
mod plot;
mod producer;
mod run;
mod soak;
mod table;
mod trace;

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::plan::{Choice, Plan};

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// Compares ringwatch with what else reads inotify.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    choice: Choice,
    /// Write the figures of every run to this file, as CSV.
    #[arg(long, global = true)]
    csv: Option<PathBuf>,
    /// Write plots of what was measured to this directory, as SVG.
    #[arg(long, global = true)]
    plots: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// CPU per event at fixed rates, files modified in turn.
    Cpu,
    /// Time from the call that causes an event to the consumer.
    Latency,
    /// Events lost when the consumer stalls once.
    Stall,
    /// CPU per event, every kind of event, in one directory and in 1,000.
    Matrix,
    /// 100 instances in one process.
    Instances,
    /// What consumers do while nothing happens.
    Idle,
    /// A full queue drained.
    Drain,
    /// The goals, one line each.
    Goals,
    /// CPU, latency and stalls of ringwatch and what it is measured against.
    Core,
    /// High load for long: every event is counted, and nothing may grow.
    Soak(soak::Soak),
    #[command(hide = true)]
    Produce { order: String },
    #[command(hide = true)]
    Consume { order: String },
    #[command(hide = true)]
    SoakProduce { setup: String },
    #[command(hide = true)]
    SoakConsume { setup: String },
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), Box<dyn Error>> {
    match &options.command {
        Some(Command::Produce { order }) => return producer::produce(&serde_json::from_str(order)?),
        Some(Command::Consume { order }) => return consumers::consume(&serde_json::from_str(order)?),
        Some(Command::SoakProduce { setup }) => return soak::produce(setup),
        Some(Command::SoakConsume { setup }) => return soak::consume(setup),
        Some(Command::Soak(options)) => {
            println!("{}", machine::machine());
            return soak::soak(options);
        }
        _ => {}
    }
    more_descriptors();
    println!("{}", machine::machine());
    let choice = &options.choice;
    let mut csv = options.csv.as_ref().map(File::create).transpose()?;
    if let Some(file) = &mut csv {
        writeln!(file, "{}", table::CSV_HEADER)?;
    }
    let plans = match options.command {
        Some(Command::Cpu) => vec![Plan::cpu()],
        Some(Command::Latency) => vec![Plan::latency()],
        Some(Command::Stall) => Plan::stalls().into(),
        Some(Command::Matrix) => Plan::matrix(),
        Some(Command::Instances) => Plan::instances().into(),
        Some(Command::Core) => Plan::core(),
        Some(_) => Vec::new(),
        None => everything(),
    };
    let plans = plans.into_iter().flat_map(|plan| plan.chosen(choice)).collect();
    let outcomes = match options.command {
        Some(Command::Goals) => goals::goals(choice, &mut csv)?,
        _ => run::run(plans, choice.counter, &mut csv)?,
    };
    if matches!(options.command, None | Some(Command::Idle)) {
        let idle = idle::idle(&Plan::idlers(choice))?;
        idle::print(&idle);
        idle::judge(&idle)?;
    }
    if matches!(options.command, None | Some(Command::Drain)) {
        drain::print(&drain::drain(choice.rounds * 6)?);
    }
    if let Some(dir) = &options.plots {
        fs::create_dir_all(dir)?;
        plot::plot(dir, &outcomes)?;
    }
    Ok(())
}

fn everything() -> Vec<Plan> {
    let mut plans = Plan::matrix();
    plans.extend(Plan::stalls());
    plans.extend(Plan::instances());
    plans
}

/// Hundreds of instances and a thousand open files need more than the usual 1,024.
fn more_descriptors() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the call writes the struct, which lives through it.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the call only reads the struct.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}
