//! High load for long, with watches, instances and trees that come and go, consumers that stall, and overflows.
//!
//! A producer causes events and counts them; a consumer, another process, has an instance or a tree for each lane. Each
//! event tells which is to follow, so that one which is missing, doubled or out of turn is noticed where it is; and the
//! counts of both are compared at the end of each phase. Between phases nothing happens, and what the consumer has by then
//! must not grow.

mod check;
mod churn;
mod consume;
mod lane;
mod plan;
mod produce;
mod sample;
mod tree;

use std::error::Error;
use std::time::{Duration, Instant};

use clap::Args;
use ringwatch::{Backend, Inotify};

use self::consume::{Report, name};
use self::plan::{Fault, LANES, Phase, Setup, TREE, TREES, WARM_UP, Word};
use self::produce::Caused;
use self::sample::Sample;
use crate::run::{Started, scratch};

#[derive(Clone, Debug, Args)]
pub struct Soak {
    /// How long it goes on.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// What chooses the phases; each run with it has the same.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The phase to begin with.
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// Seconds of a phase. 20, or less if there would be fewer than ten.
    #[arg(long)]
    phase: Option<f64>,
    /// Read with this one only: uring or epoll.
    #[arg(long)]
    backend: Option<String>,
    /// Break something on purpose, to see it caught.
    #[arg(long)]
    fault: Option<Fault>,
}

/// What the soak was told, and what it has come to.
#[derive(Debug, Default)]
struct Sum {
    events: u64,
    caused: u64,
    milliseconds: u64,
    overflows: u64,
    watches: u64,
    instances: u64,
    trees: u64,
    operations: u64,
    /// Of lanes in phases, those without a loss.
    exact: u64,
}

pub fn produce(setup: &str) -> Result<(), Box<dyn Error>> {
    produce::produce(&serde_json::from_str(setup)?)
}

pub fn consume(setup: &str) -> Result<(), Box<dyn Error>> {
    consume::consume(serde_json::from_str(setup)?)
}

pub fn soak(options: &Soak) -> Result<(), Box<dyn Error>> {
    let dir = scratch()?;
    let setup = Setup {
        dir: dir.path().to_owned(),
        backend: options.backend.clone().or_else(without_ring),
        fault: options.fault,
    };
    let mut producing = Started::new("soak-produce", &setup)?;
    producing.expect("ready")?;
    let mut reading = Started::new("soak-consume", &setup)?;
    reading.expect("ready")?;
    let length = Duration::from_secs_f64(options.minutes * 60.0);
    let each = options.phase.unwrap_or((options.minutes * 6.0).min(20.0));
    let begun = Instant::now();
    let (mut sum, mut samples) = (Sum::default(), Vec::new());
    for number in options.first.. {
        if begun.elapsed() >= length && samples.len() > WARM_UP + 1 {
            break;
        }
        let phase = Phase::of(options.seed, number, (each * 1_000.0) as u64);
        let (caused, report, sample) = run(&mut producing, &mut reading, &phase)
            .map_err(|error| format!("phase {number} of seed {}: {error}", options.seed))?;
        print(&phase, &caused, &report, &sample);
        judge(&caused, &report).map_err(|fault| format!("phase {number} of seed {}: {fault}", options.seed))?;
        sum.add(&caused, &report);
        samples.push(sample);
        flat(&samples).map_err(|fault| format!("after phase {number} of seed {}: {fault}", options.seed))?;
    }
    sum.print(begun.elapsed(), &samples);
    if sum.overflows == 0 {
        return Err("nothing has overflowed, so it was not seen whether that is said".into());
    }
    Ok(())
}

/// The one backend there is where io_uring can't be had.
fn without_ring() -> Option<String> {
    let refusal = Inotify::builder().backend(Backend::Uring).build().err()?;
    println!("all on epoll: {refusal}");
    Some("epoll".into())
}

fn run(
    producing: &mut Started,
    reading: &mut Started,
    phase: &Phase,
) -> Result<(Caused, Report, Sample), Box<dyn Error>> {
    // What a phase may take beyond its time: consumers that stalled catch up, trees are compared.
    let patience = Duration::from_millis(phase.milliseconds) + Duration::from_secs(180);
    let of = |who: &'static str| move |error: String| format!("{who}: {error}");
    producing.tell(&Word::Prepare(phase.clone()))?;
    producing.expect("ready").map_err(of("producer, at the beginning"))?;
    reading.tell(&Word::Begin(phase.clone()))?;
    reading.expect("ready").map_err(of("consumer, at the beginning"))?;
    producing.tell(&Word::Go)?;
    let caused = serde_json::from_str(&producing.line(patience).map_err(of("producer"))?)?;
    reading.tell(&Word::End)?;
    let report: Report = serde_json::from_str(&reading.line(patience).map_err(of("consumer"))?)?;
    if let Some(fault) = &report.fault {
        return Err(fault.clone().into());
    }
    producing.tell(&Word::Tidy)?;
    producing.expect("ready").map_err(of("producer, tidying up"))?;
    reading.tell(&Word::Sample)?;
    let sample = serde_json::from_str(&reading.line(patience).map_err(of("consumer, between phases"))?)?;
    Ok((caused, report, sample))
}

/// Whether everyone saw what was caused; less, where a loss was said, and never more.
fn judge(caused: &Caused, report: &Report) -> Result<(), String> {
    for (number, outcome) in report.lanes.iter().enumerate() {
        let name = name(number);
        if let Some(fault) = &outcome.fault {
            return Err(format!("{name}: {fault}"));
        }
        let (events, watches) = (caused.events[number.min(TREE)], report.watches[number]);
        let exact = outcome.seen == events && outcome.churned == watches;
        let less = outcome.seen <= events && outcome.churned <= watches;
        let honest = exact || less && outcome.overflows > 0;
        if !honest {
            return Err(format!(
                "{name} saw {} of {events} events, the end of {} of {watches} watches, and {} overflows",
                outcome.seen, outcome.churned, outcome.overflows
            ));
        }
    }
    Ok(())
}

/// KiB by which what is allocated may grow, from the first third of the samples to the last. It is a megabyte more or less
/// with what the lanes and trees of a phase are.
const GROWTH: u64 = 2 * 1024;

/// KiB by which what is mapped may grow. The allocator's share of it grows with the threads that came and went.
const RESERVED_GROWTH: u64 = 32 * 1024;

/// Whether what the consumer has does not grow: descriptors, threads and watches are exactly as many. What of its memory is
/// resident is not judged, as it depends on which buffers were ever filled.
fn flat(samples: &[Sample]) -> Result<(), String> {
    let Some((first, rest)) = samples.get(WARM_UP - 1..).and_then(<[Sample]>::split_first) else {
        return Ok(());
    };
    let Some(last) = rest.last() else { return Ok(()) };
    let differing = last.not_as_many(first);
    if !differing.is_empty() {
        let differing = differing.join(" and ");
        return Err(format!("not as many {differing}: {last:?}, and at first {first:?}"));
    }
    let third = rest.len() / 3;
    if third == 0 {
        return Ok(());
    }
    let [before, after] = [&rest[..third], &rest[rest.len() - third..]];
    let not_more = |what: &str, figure: fn(&Sample) -> u64, most: u64| {
        let (before, after) = (median(before, figure), median(after, figure));
        match after > before + most {
            true => Err(format!("{what} has grown from {before} to {after} KiB")),
            false => Ok(()),
        }
    };
    not_more("what is allocated", |sample| sample.heap, GROWTH)?;
    not_more("what is mapped", |sample| sample.reserved, RESERVED_GROWTH)
}

fn median(samples: &[Sample], figure: impl Fn(&Sample) -> u64) -> u64 {
    let mut figures: Vec<_> = samples.iter().map(figure).collect();
    figures.sort_unstable();
    figures[figures.len() / 2]
}

fn print(phase: &Phase, caused: &Caused, report: &Report, sample: &Sample) {
    let events: u64 = caused.events.iter().sum();
    let lost: Vec<_> = (0..report.lanes.len())
        .filter(|&number| report.lanes[number].overflows > 0)
        .map(|number| {
            let (outcome, events) = (&report.lanes[number], caused.events[number.min(TREE)]);
            format!("{} {} of {events}", name(number), outcome.seen)
        })
        .collect();
    let lost = if lost.is_empty() {
        "none".into()
    } else {
        lost.join(", ")
    };
    let fresh = phase.lanes.iter().filter(|lane| lane.fresh).count();
    let stalls: u64 = phase.lanes.iter().map(|lane| lane.stall * lane.stalls).sum();
    println!(
        "phase {}: {events} events in {:.1} s ({:.0}/s of {}/s asked), {} operations; churn of {} watches, {} instances, {} trees; \
         {fresh} lanes made anew; {stalls} ms stalled; overflowed: {lost}; now {} descriptors, {} threads, {} watches, \
         {} mappings, {} KiB of heap, {} KiB reserved, {} KiB",
        phase.number,
        caused.milliseconds as f64 / 1e3,
        events as f64 / (caused.milliseconds as f64 / 1e3),
        phase.rate,
        caused.operations,
        report.watches.iter().sum::<u64>(),
        report.instances,
        report.trees,
        sample.descriptors,
        sample.threads,
        sample.watches,
        sample.mappings,
        sample.heap,
        sample.reserved,
        sample.memory,
    );
}

impl Sum {
    fn add(&mut self, caused: &Caused, report: &Report) {
        self.events += report
            .lanes
            .iter()
            .map(|lane| lane.seen + lane.churned_events)
            .sum::<u64>();
        self.caused += caused.events.iter().sum::<u64>();
        self.milliseconds += caused.milliseconds;
        self.overflows += report.lanes.iter().map(|lane| lane.overflows).sum::<u64>();
        self.exact += report.lanes.iter().filter(|lane| lane.overflows == 0).count() as u64;
        self.watches += report.watches.iter().sum::<u64>();
        self.instances += report.instances;
        self.trees += report.trees;
        self.operations += caused.operations;
    }

    fn print(&self, time: Duration, samples: &[Sample]) {
        let range = |figure: &dyn Fn(&Sample) -> u64| {
            let after = &samples[WARM_UP - 1..];
            let figures = || after.iter().map(figure);
            format!("{}..{}", figures().min().unwrap_or(0), figures().max().unwrap_or(0))
        };
        let lanes = samples.len() * (LANES.len() + TREES.len());
        println!(
            "{} phases in {:.0} s: {} events caused ({:.0}/s while they were), {} seen; {} of {lanes} lanes exact to the event, the others with {} \
             overflows, all said; {} operations in the tree; {} watches, {} instances and {} trees came and went",
            samples.len(),
            time.as_secs_f64(),
            self.caused,
            self.caused as f64 / (self.milliseconds as f64 / 1e3),
            self.events,
            self.exact,
            self.overflows,
            self.operations,
            self.watches,
            self.instances,
            self.trees,
        );
        println!(
            "between phases: {} descriptors, {} threads, {} watches, {} mappings, {} KiB of heap, {} KiB reserved, {} KiB",
            range(&|sample| sample.descriptors as u64),
            range(&|sample| sample.threads as u64),
            range(&|sample| sample.watches as u64),
            range(&|sample| sample.mappings as u64),
            range(&|sample| sample.heap),
            range(&|sample| sample.reserved),
            range(&|sample| sample.memory),
        );
    }
}
