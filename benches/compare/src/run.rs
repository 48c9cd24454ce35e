//! How a run goes.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::calls::Counter;
use crate::job;
use crate::measure::Figures;
use crate::plan::Plan;
use crate::producer::{self, Produced};
use crate::table;
use crate::trace;

/// One run of a plan.
#[derive(Clone, Debug)]
pub struct Run {
    pub consumer: String,
    pub rate: u64,
    /// None for the run in which system calls and allocations were counted, whose times say nothing.
    pub round: Option<usize>,
    pub produced: Produced,
    pub figures: Figures,
}

/// A plan and what came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub plan: Plan,
    pub runs: Vec<Run>,
}

/// Runs every plan, prints it as it is done, and writes each run to the file.
pub fn run(plans: Vec<Plan>, counter: Option<Counter>, csv: &mut Option<File>) -> Result<Vec<Outcome>, Box<dyn Error>> {
    let counter = counter.unwrap_or_else(Counter::best);
    let mut outcomes = Vec::new();
    for plan in plans {
        let runs = outcome(&plan, counter, csv)?;
        let outcome = Outcome { plan, runs };
        table::print(&outcome, counter);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

fn outcome(plan: &Plan, counter: Counter, csv: &mut Option<File>) -> Result<Vec<Run>, Box<dyn Error>> {
    let mut runs = Vec::new();
    let rounds = (0..plan.rounds).map(Some).chain((0..plan.counted).map(|_| None));
    for round in rounds {
        for &rate in &plan.rates {
            for consumer in &plan.consumers {
                let counter = if round.is_some() { Counter::None } else { counter };
                let name = round.map_or("counting".into(), |round| format!("round {}", round + 1));
                progress(&format!("{}: {name}, {}/s, {consumer}", plan.title, table::rate(rate)));
                let (produced, figures) = one(plan, consumer, rate, counter)?;
                let run = Run {
                    consumer: consumer.clone(),
                    rate,
                    round,
                    produced,
                    figures,
                };
                if let Some(file) = csv {
                    writeln!(file, "{}", table::csv(plan, &run))?;
                }
                runs.push(run);
            }
        }
    }
    progress("");
    Ok(runs)
}

/// What is being done, for who watches.
fn progress(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{what}");
    }
}

/// How much longer than it should a run may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn one(plan: &Plan, consumer: &str, rate: u64, counter: Counter) -> Result<(Produced, Figures), Box<dyn Error>> {
    let dir = scratch()?;
    producer::prepare(plan.kind, &producer::dirs(dir.path(), plan.dirs))?;
    let order = job::Order {
        consumer: consumer.to_owned(),
        kind: plan.kind,
        dir: dir.path().to_owned(),
        dirs: plan.dirs,
        instances: plan.instances,
        stall: plan.stall,
        // Unlimited, nobody knows before; it is a good deal more than this.
        count: (if rate == 0 { 100_000.0 } else { rate as f64 } * plan.seconds) as u64,
        counter,
    };
    let reading = Started::new("consume", &order)?;
    let tracer = (counter == Counter::Trace).then(|| reading.traced()).transpose()?;
    reading
        .expect("ready")
        .map_err(|error| format!("{consumer}: {error}"))?;
    let producing = Started::new(
        "produce",
        &producer::Order {
            kind: plan.kind,
            dir: order.dir,
            dirs: plan.dirs,
            mark_each: plan.instances,
            rate,
            time: (plan.seconds * 1e9) as u64,
        },
    )?;
    let patience = PATIENCE + Duration::from_secs_f64(plan.seconds * 4.0);
    let produced = producing.line(patience).map_err(|error| format!("producer: {error}"))?;
    let produced: Produced = serde_json::from_str(&produced)?;
    let figures = reading.line(patience).map_err(|error| format!("{consumer}: {error}"))?;
    let mut figures: Figures = serde_json::from_str(&figures)?;
    if let Some(tracer) = tracer {
        drop(reading);
        figures.calls = Some(tracer.join().map_err(|_| "the tracer panicked")??);
    }
    honest(consumer, rate, produced.events, figures.events, figures.overflows)?;
    Ok((produced, figures))
}

/// A run in which events went missing unsaid, or came twice, is an error and not a figure.
pub fn honest(consumer: &str, rate: u64, produced: u64, seen: u64, overflows: u64) -> Result<(), String> {
    if seen == produced || overflows > 0 && seen < produced {
        return Ok(());
    }
    let rate = table::rate(rate);
    Err(format!(
        "{consumer} saw {seen} of {produced} events at {rate}/s and {overflows} overflows; nothing of this is reported"
    ))
}

/// A directory of our own in a place whose files cost the least.
pub fn scratch() -> std::io::Result<tempfile::TempDir> {
    let shared = PathBuf::from("/dev/shm");
    let place = if shared.is_dir() { shared } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("ringwatch-compare-").tempdir_in(place)
}

/// A child that does not outlive its run, and what it says.
pub struct Started {
    child: Child,
    lines: Receiver<String>,
}

impl Started {
    pub fn new(command: &str, order: &impl Serialize) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([command, &serde_json::to_string(order)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let (send, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Ok(Self { child, lines })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it something, as one line.
    pub fn tell(&mut self, word: &impl Serialize) -> Result<(), Box<dyn Error>> {
        let line = serde_json::to_string(word)? + "\n";
        self.child
            .stdin
            .as_ref()
            .ok_or("no input")?
            .write_all(line.as_bytes())?;
        Ok(())
    }

    pub fn line(&self, patience: Duration) -> Result<String, String> {
        self.lines.recv_timeout(patience).map_err(|cause| match cause {
            RecvTimeoutError::Timeout => format!("no answer within {patience:?}"),
            RecvTimeoutError::Disconnected => "ended without an answer".into(),
        })
    }

    pub fn expect(&self, word: &str) -> Result<(), String> {
        let line = self.line(PATIENCE)?;
        if line == word {
            Ok(())
        } else {
            Err(format!("{line:?} instead of {word:?}"))
        }
    }

    /// Counts its system calls on a thread of its own, since only who began to trace can go on.
    fn traced(&self) -> Result<thread::JoinHandle<std::io::Result<u64>>, Box<dyn Error>> {
        self.expect("here")?;
        let process = self.child.id() as i32;
        let (send, seized) = channel();
        let tracer = thread::spawn(move || {
            let result = trace::seize(process);
            let begun = result.is_ok();
            let _ = send.send(result);
            if begun { trace::count() } else { Ok(0) }
        });
        seized.recv()??;
        self.child.stdin.as_ref().ok_or("no input")?.write_all(b"\n")?;
        Ok(tracer)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
