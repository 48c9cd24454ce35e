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
/// Streams and readers whose allocations are counted.
const ALLOCATING: [&str; 2] = [STREAM, "reader-uring-w0"];

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
    print(&judge(&outcomes, &idle, &drained));
    Ok(outcomes)
}

fn plans(choice: &Choice) -> Vec<Plan> {
    let everywhere = [BARE, STREAM, "reader-uring-w0", CRATE, IN_PLACE[0], IN_PLACE[1]];
    let plan = |title: &str, kind: Kind, rates: &[u64], consumers: &[&str]| Plan::new(title, kind, rates).of(consumers);
    let in_time = [BARE, "reader-uring-w0", CRATE, IN_PLACE[0], IN_PLACE[1]];
    let [short, long] = Plan::stalls();
    let mut plans = vec![
        plan("CPU per event", Kind::Modify, &RATES, &everywhere),
        plan(
            "CPU per event",
            Kind::Modify,
            &RATES[2..3],
            &[BARE, "reader-uring-w1000"],
        ),
        plan("From the call to the consumer", Kind::Create, &RATES, &in_time),
        plan(
            "From the call to the consumer",
            Kind::Create,
            &RATES[..1],
            &[BARE, "stream-uring-w0"],
        ),
        short.of(&[STREAM]),
        long.of(&["stream-uring-b24"]),
    ];
    for plan in &mut plans {
        // Whatever else is asked for would not be judged.
        plan.rounds = choice.rounds;
        plan.seconds = choice.seconds.max(plan.stall as f64 / 1_000.0 * 1.5);
        plan.counted = false;
    }
    plans[0].counted = choice.counter != Some(Counter::None);
    plans
}

fn judge(outcomes: &[Outcome], idle: &[Idle], drained: &[Drained]) -> Vec<Goal> {
    let [cpu, windowed, latency, soon, short, long] = outcomes else {
        return Vec::new();
    };
    let mut goals = Vec::new();
    let mut goal = |what: String, figure: Option<Spread>, limit: f64, digits: usize| {
        goals.push(Goal {
            what,
            figure,
            limit,
            digits,
        });
    };
    let p50 = |run: &Run| run.latency(0);
    for (at, limit) in [(100_000, 0.25), (300_000, 0.35), (10_000, 0.35), (1_000, 1.9)] {
        let ratio = cpu.ratio(STREAM, BARE, at, Run::cpu_per_event);
        goal(format!("stream, {at}/s: CPU to bare epoll"), ratio, limit, 2);
    }
    let wakes = idle
        .iter()
        .flat_map(|idle| [idle.at_first.switches, idle.after_burst.switches]);
    goal(
        "stream, idle: wake-ups in 2 s".into(),
        Spread::of(wakes.map(|count| count as f64)),
        0.0,
        0,
    );
    let ratio = windowed.ratio("reader-uring-w1000", BARE, 100_000, Run::cpu_per_event);
    goal(
        "reader, window 1 ms, 100000/s: CPU to bare epoll".into(),
        ratio,
        0.20,
        2,
    );
    for at in RATES {
        let reader = "reader-uring-w0";
        let ratio = cpu.ratio(reader, BARE, at, Run::cpu_per_event);
        goal(format!("reader, window 0, {at}/s: CPU to bare epoll"), ratio, 1.05, 2);
        let ratio = latency.ratio(reader, BARE, at, p50);
        goal(format!("reader, window 0, {at}/s: p50 to bare epoll"), ratio, 1.05, 2);
        let calls = |name: &str| {
            cpu.counted(name, at)
                .and_then(|run| Some(run.per_event(run.figures.calls?)))
        };
        let ratio = calls(reader)
            .zip(calls(BARE))
            .and_then(|(mine, bare)| Spread::of([mine / bare]));
        goal(
            format!("reader, window 0, {at}/s: system calls to bare epoll"),
            ratio,
            0.34,
            2,
        );
    }
    for consumer in IN_PLACE {
        for at in RATES {
            let ratio = cpu.ratio(consumer, CRATE, at, Run::cpu_per_event);
            goal(format!("{consumer}, {at}/s: CPU to {CRATE}"), ratio, 1.0, 2);
            let ratio = latency.ratio(consumer, CRATE, at, p50);
            goal(format!("{consumer}, {at}/s: p50 to {CRATE}"), ratio, 1.0, 2);
        }
    }
    let ratio = soon.ratio("stream-uring-w0", BARE, 1_000, p50);
    goal("stream, window 0, 1000/s: p50 to bare epoll".into(), ratio, 1.4, 2);
    for consumer in ["reader-uring", STREAM] {
        let ratio = drain::ratio(drained, consumer);
        goal(
            format!("{consumer}, draining a full queue: CPU to bare"),
            ratio,
            1.05,
            3,
        );
    }
    let path = drained
        .iter()
        .find(|drained| drained.consumer == "reader-uring")
        .and_then(drain::path);
    goal("full path with write_path: ns an event more".into(), path, 30.0, 1);
    let lost = short.spread(STREAM, 300_000, Run::lost);
    goal("stream, stall of 300 ms: events lost".into(), lost, 0.0, 0);
    let lost = long.spread("stream-uring-b24", 300_000, Run::lost);
    goal("stream, 24 MiB, stall of 1 s: events lost".into(), lost, 0.0, 0);
    for consumer in ALLOCATING {
        let counted = RATES
            .iter()
            .filter_map(|&at| cpu.counted(consumer, at)?.figures.allocations);
        goal(
            format!("{consumer}: allocations an event, any rate"),
            Spread::of(counted),
            0.0,
            4,
        );
    }
    goals
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
