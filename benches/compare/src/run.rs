//! Which runs there are, and how one goes.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::consumers::CONSUMERS;
use crate::measure::Figures;
use crate::producer::{self, Kind};
use crate::table;

/// One table: every consumer at every rate.
#[derive(Clone, Debug)]
pub struct Plan {
    pub title: &'static str,
    pub kind: Kind,
    pub dirs: usize,
    pub rates: Vec<u64>,
    /// Milliseconds of stall.
    pub stall: u64,
    pub consumers: Vec<String>,
    pub rounds: usize,
    pub seconds: f64,
    pub core_only: bool,
}

/// One run of a plan.
#[derive(Clone, Debug)]
pub struct Run {
    pub consumer: String,
    pub rate: u64,
    pub produced: u64,
    pub figures: Figures,
}

impl Plan {
    fn new(title: &'static str, kind: Kind, rates: &[u64]) -> Self {
        Self {
            title,
            kind,
            dirs: 1,
            rates: rates.to_vec(),
            stall: 0,
            consumers: Vec::new(),
            rounds: 0,
            seconds: 0.0,
            core_only: false,
        }
    }

    pub fn cpu() -> Self {
        Self::new(
            "CPU per event, files modified in turn",
            Kind::Modify,
            &[1_000, 10_000, 100_000, 300_000],
        )
    }

    pub fn latency() -> Self {
        Self::new("From the call to the consumer, files created", Kind::Create, &[1_000])
    }

    pub fn stall() -> Self {
        let mut plan = Self::new("Lost in one stall of 300 ms", Kind::Modify, &[300_000]);
        plan.stall = 300;
        plan
    }

    /// Only what says how ringwatch's own core does.
    pub fn core(mut self) -> Self {
        self.core_only = true;
        self
    }

    pub fn with(mut self, rounds: usize, seconds: f64, only: &[String], also: &[String], rates: &[u64]) -> Self {
        self.rounds = rounds;
        self.seconds = seconds;
        if !rates.is_empty() {
            self.rates = rates.to_vec();
        }
        let wanted = |name: &str| only.is_empty() || only.iter().any(|part| name.contains(part.as_str()));
        self.consumers = CONSUMERS
            .iter()
            .filter(|(name, core)| (*core || !self.core_only) && (wanted(name) || *name == "bare-epoll"))
            .map(|(name, _)| (*name).to_owned())
            .chain(also.iter().cloned())
            .collect();
        self
    }
}

pub fn run(plans: &[Plan], csv: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let mut file = csv.map(fs::File::create).transpose()?;
    if let Some(file) = &mut file {
        writeln!(file, "{}", table::CSV_HEADER)?;
    }
    for plan in plans {
        let mut runs = Vec::new();
        for round in 0..plan.rounds {
            for &rate in &plan.rates {
                for consumer in &plan.consumers {
                    eprint!("\x1b[1G\x1b[K{}: round {}, {rate}/s, {consumer}", plan.title, round + 1);
                    let run = one(plan, consumer, rate)?;
                    if let Some(file) = &mut file {
                        writeln!(file, "{}", table::csv(plan, round, &run))?;
                    }
                    runs.push(run);
                }
            }
        }
        eprint!("\r\x1b[K");
        table::print(plan, &runs);
    }
    Ok(())
}

fn one(plan: &Plan, consumer: &str, rate: u64) -> Result<Run, Box<dyn Error>> {
    let dir = tempfile::Builder::new()
        .prefix("ringwatch-compare-")
        .tempdir_in(memory())?;
    producer::prepare(plan.kind, &producer::dirs(dir.path(), plan.dirs))?;
    let kind = format!("{:?}", plan.kind).to_lowercase();
    let dirs = plan.dirs.to_string();
    let produced = if rate == 0 {
        1_000_000
    } else {
        (rate as f64 * plan.seconds) as u64
    };
    let place = dir.path().as_os_str();

    let mut reading = Started(
        Command::new(std::env::current_exe()?)
            .args(["consume", consumer, &kind])
            .arg(place)
            .args([&dirs, &plan.stall.to_string()])
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let output = reading.0.stdout.take().ok_or("no output")?;
    let mut lines = BufReader::new(output).lines();
    let mut line = || lines.next().unwrap_or_else(|| Ok(String::new()));
    if line()? != "ready" {
        return Err(format!("{consumer} did not get ready").into());
    }
    let producing = Started(
        Command::new(std::env::current_exe()?)
            .args(["produce", &kind])
            .arg(place)
            .args([&dirs, &rate.to_string(), &produced.to_string()])
            .spawn()?,
    );
    let figures: Figures = serde_json::from_str(&line()?).map_err(|_| format!("{consumer} gave no figures"))?;
    drop(producing);
    let seen = &figures.seen;
    if seen.overflows == 0 && seen.events != produced {
        let message = format!(
            "{consumer} saw {} of {produced} events at {rate}/s and no overflow",
            seen.events
        );
        return Err(message.into());
    }
    Ok(Run {
        consumer: consumer.to_owned(),
        rate,
        produced,
        figures,
    })
}

/// A place whose files cost the least.
fn memory() -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

/// A child that does not outlive its run.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
