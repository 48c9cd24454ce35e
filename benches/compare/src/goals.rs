//! What ringwatch sets out to do, and whether it does.

use std::error::Error;
use std::fs::File;

use crate::calls::Counter;
use crate::consumers::{BARE, CRATE};
use crate::drain::{self, Drained};
use crate::idle::{self, Idle};
use crate::plan::{Choice, Plan};
use crate::producer::Kind;
use crate::run::{self, Outcome, Run};
use crate::table::{Spread, Table};

const RATES: [u64; 4] = [1_000, 10_000, 100_000, 300_000];
const IN_PLACE: [&str; 2] = ["tokio-inplace-w0", "tokio-uring-inplace-w0"];
const STREAM: &str = "stream-uring";
const READER: &str = "reader-uring-w0";
const WINDOWED: &str = "reader-uring-w1000";
const SOON: &str = "stream-uring-w0";
/// With room for what 300,000 events a second leave behind in a second.
const ROOMY: &str = "stream-uring-b24";

struct Goal {
    what: String,
    figure: Option<Spread>,
    limit: f64,
    digits: usize,
}

/// Runs what the goals are about, and nothing else; one line for each at the end.
pub fn goals(choice: &Choice, csv: &mut Option<File>) -> Result<Vec<Outcome>, Box<dyn Error>> {
    let outcomes = run::run(plans(choice), choice.counter, csv)?;
    let idle = idle::idle(&[STREAM.to_owned()])?;
    idle::print(&idle);
    let drained = drain::drain(choice.rounds * 6)?;
    drain::print(&drained);
    let mut goals = Goals::default();
    let evidence = Evidence::from(outcomes.clone()).ok_or("some of the goals were not measured")?;
    evidence.stream(&mut goals, &idle);
    evidence.reader(&mut goals);
    evidence.in_place(&mut goals);
    drains(&mut goals, &drained);
    evidence.allocations(&mut goals);
    print(&goals.0);
    let shortfalls = |outcome: &Outcome| RATES.iter().filter_map(|&at| outcome.shortfall(at)).collect::<Vec<_>>();
    outcomes
        .iter()
        .flat_map(shortfalls)
        .for_each(|shortfall| println!("{shortfall}"));
    Ok(outcomes)
}

/// What was run, each for some of the goals.
struct Evidence<T> {
    cpu: T,
    windowed: T,
    latency: T,
    /// As fast as files can be renamed, but not made.
    fast: T,
    soon: T,
    short: T,
    long: T,
}

impl<T> Evidence<T> {
    fn from(list: Vec<T>) -> Option<Self> {
        let [cpu, windowed, latency, fast, soon, short, long] = <[T; 7]>::try_from(list).ok()?;
        Some(Self {
            cpu,
            windowed,
            latency,
            fast,
            soon,
            short,
            long,
        })
    }

    fn list(self) -> Vec<T> {
        vec![
            self.cpu,
            self.windowed,
            self.latency,
            self.fast,
            self.soon,
            self.short,
            self.long,
        ]
    }
}

fn plans(choice: &Choice) -> Vec<Plan> {
    let cpu = |rates: &[u64]| Plan::new("CPU per event", Kind::Modify, rates);
    let time = |kind: Kind, rates: &[u64]| Plan::new("From the call to the consumer", kind, rates);
    let in_time = [BARE, READER, CRATE, IN_PLACE[0], IN_PLACE[1]];
    let [short, long] = Plan::stalls();
    let evidence = Evidence {
        cpu: cpu(&RATES).of(&[BARE, STREAM, READER, CRATE, IN_PLACE[0], IN_PLACE[1]]),
        windowed: cpu(&[100_000]).of(&[BARE, WINDOWED]),
        latency: time(Kind::Create, &RATES[..3]).of(&in_time),
        fast: time(Kind::Rename, &RATES[3..]).of(&in_time),
        soon: time(Kind::Create, &[1_000]).of(&[BARE, SOON]),
        short: short.of(&[BARE, STREAM]),
        long: long.of(&[BARE, ROOMY]),
    };
    let mut plans = evidence.list();
    for plan in &mut plans {
        // Whatever else is asked for would not be judged.
        plan.rounds = choice.rounds;
        plan.seconds = choice.seconds.max(plan.stall as f64 / 1_000.0 * 1.5);
        plan.counted = 0;
    }
    if choice.counter != Some(Counter::None) {
        // One says little where it is chance how many events a wake-up finds.
        plans[0].counted = choice.rounds.min(3);
    }
    plans
}

#[derive(Default)]
struct Goals(Vec<Goal>);

impl Goals {
    fn add(&mut self, what: impl Into<String>, figure: Option<Spread>, limit: f64, digits: usize) {
        self.0.push(Goal {
            what: what.into(),
            figure,
            limit,
            digits,
        });
    }

    /// At most as much as the other, in the same round.
    fn ratio(&mut self, what: impl Into<String>, figure: Option<Spread>, limit: f64) {
        self.add(what, figure, limit, 2);
    }

    /// None at all.
    fn none(&mut self, what: impl Into<String>, figure: Option<Spread>, digits: usize) {
        self.add(what, figure, 0.0, digits);
    }
}

fn p50(run: &Run) -> f64 {
    run.latency(0)
}

impl Evidence<Outcome> {
    fn p50(&self, consumer: &str, to: &str, at: u64) -> Option<Spread> {
        let outcome = if at > 100_000 { &self.fast } else { &self.latency };
        outcome.ratio(consumer, to, at, p50)
    }

    fn stream(&self, goals: &mut Goals, idle: &[Idle]) {
        for (at, limit) in [(100_000, 0.25), (300_000, 0.35), (10_000, 0.35), (1_000, 1.9)] {
            let ratio = self.cpu.ratio(STREAM, BARE, at, Run::cpu_per_event);
            goals.ratio(format!("stream, {at}/s: CPU to bare epoll"), ratio, limit);
        }
        let wakes = idle
            .iter()
            .flat_map(|idle| [idle.at_first.switches, idle.after_burst.switches]);
        let wakes = Spread::of(wakes.map(|count| count as f64));
        goals.none("stream, idle: wake-ups in 2 s", wakes, 0);
        let ratio = self.soon.ratio(SOON, BARE, 1_000, p50);
        goals.ratio("stream, window 0, 1000/s: p50 to bare epoll", ratio, 1.4);
        let lost = self.short.spread(STREAM, 300_000, Run::lost);
        goals.none("stream, stall of 300 ms: events lost", lost, 0);
        let lost = self.long.spread(ROOMY, 300_000, Run::lost);
        goals.none("stream, 24 MiB, stall of 1 s: events lost", lost, 0);
    }

    fn reader(&self, goals: &mut Goals) {
        let ratio = self.windowed.ratio(WINDOWED, BARE, 100_000, Run::cpu_per_event);
        goals.ratio("reader, window 1 ms, 100000/s: CPU to bare epoll", ratio, 0.20);
        for at in RATES {
            let name = format!("reader, window 0, {at}/s");
            let ratio = self.cpu.ratio(READER, BARE, at, Run::cpu_per_event);
            goals.ratio(format!("{name}: CPU to bare epoll"), ratio, 1.05);
            goals.ratio(format!("{name}: p50 to bare epoll"), self.p50(READER, BARE, at), 1.05);
            let pairs = self.cpu.counted(READER, at).zip(self.cpu.counted(BARE, at));
            let ratio = Spread::of(pairs.map(|(mine, bare)| mine.calls_per_event() / bare.calls_per_event()));
            goals.ratio(format!("{name}: system calls to bare epoll"), ratio, 0.34);
        }
    }

    fn in_place(&self, goals: &mut Goals) {
        for consumer in IN_PLACE {
            for at in RATES {
                let ratio = self.cpu.ratio(consumer, CRATE, at, Run::cpu_per_event);
                goals.ratio(format!("{consumer}, {at}/s: CPU to {CRATE}"), ratio, 1.0);
                let ratio = self.p50(consumer, CRATE, at);
                goals.ratio(format!("{consumer}, {at}/s: p50 to {CRATE}"), ratio, 1.0);
            }
        }
    }

    fn allocations(&self, goals: &mut Goals) {
        for consumer in [STREAM, READER] {
            let counted = RATES.iter().flat_map(|&at| self.cpu.counted(consumer, at));
            let allocations = Spread::of(counted.filter_map(|run| run.figures.allocations));
            goals.none(format!("{consumer}, any rate: allocations an event"), allocations, 4);
        }
    }
}

fn drains(goals: &mut Goals, drained: &[Drained]) {
    const READER: &str = "reader-uring";
    for consumer in [READER, STREAM] {
        let ratio = drain::ratio(drained, consumer);
        goals.add(
            format!("{consumer}, draining a full queue: CPU to bare"),
            ratio,
            1.05,
            3,
        );
    }
    let reader = drained.iter().find(|drained| drained.consumer == READER);
    let path = reader.and_then(drain::path);
    goals.add("full path with write_path: ns an event more", path, 30.0, 1);
}

fn print(goals: &[Goal]) {
    println!("\nGoals: medians of the ratios of each round, from the least to the most");
    let mut table = Table::default();
    let mut missed = 0;
    for goal in goals {
        table.line();
        table.text("consumer", goal.what.clone());
        table.number("at most", Some(goal.limit), 2);
        table.number("is", goal.figure.map(|spread| spread.median), goal.digits);
        table.range("", goal.figure, goal.digits);
        let met = goal.is_met();
        missed += usize::from(!met);
        table.text("", if met { "met".into() } else { "MISSED".into() });
    }
    table.print();
    println!("{} of {} met", goals.len() - missed, goals.len());
}

impl Goal {
    /// As it is printed; where none is allowed, the worst decides.
    fn is_met(&self) -> bool {
        let unit = 10_f64.powi(self.digits as i32);
        self.figure.is_some_and(|spread| {
            let figure = if self.limit == 0.0 { spread.most } else { spread.median };
            (figure * unit).round() <= self.limit * unit
        })
    }
}
