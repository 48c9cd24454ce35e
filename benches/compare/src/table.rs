//! Figures as a table for people and as CSV for programs.

use std::fmt::Write;

use crate::calls::Counter;
use crate::consumers::{BARE, CRATE};
use crate::plan::Plan;
use crate::run::{Outcome, Run};

pub const CSV_HEADER: &str = "title,kind,dirs,stall_ms,round,rate,consumer,produced,produced_per_s,events,overflows,\
                              user_ns_per_event,system_ns_per_event,wakeups_per_event,calls_per_event,\
                              allocations_per_event,p50_ns,p99_ns,p999_ns,max_ns,beside_p50_ns,beside_p99_ns,\
                              beside_p999_ns,beside_max_ns,peak_kib,private_kib,threads";

/// One run. Counting slows, so a run that was counted has no times.
pub fn csv(plan: &Plan, run: &Run) -> String {
    let figures = &run.figures;
    let mut line = format!(
        "\"{}\",{:?},{},{},{},{},{},{},{:.0},{},{}",
        plan.title,
        plan.kind,
        plan.dirs,
        plan.stall,
        run.round.map_or("counted".into(), |round| round.to_string()),
        run.rate,
        run.consumer,
        run.produced.events,
        run.made_a_second(),
        figures.events,
        figures.overflows,
    );
    let timed = run.round.is_some();
    let mut cell = |value: Option<f64>, digits: usize| {
        line.push(',');
        if let Some(value) = value {
            let _ = write!(line, "{value:.digits$}");
        }
    };
    cell(timed.then(|| run.per_event(figures.user)), 1);
    cell(timed.then(|| run.per_event(figures.system)), 1);
    cell(timed.then(|| run.per_event(figures.switches)), 5);
    cell(figures.calls.map(|calls| run.per_event(calls)), 5);
    cell(figures.allocations, 5);
    for latency in [figures.latency, figures.latency_beside] {
        for i in 0..4 {
            cell(latency.filter(|_| timed).map(|latency| latency[i] as f64), 0);
        }
    }
    for count in [figures.peak_memory, figures.private_memory, figures.threads] {
        cell(Some(count as f64), 0);
    }
    line
}

impl Run {
    pub fn per_event(&self, count: u64) -> f64 {
        count as f64 / self.figures.events.max(1) as f64
    }

    pub fn cpu_per_event(&self) -> f64 {
        self.per_event(self.figures.cpu())
    }

    /// NaN where they were not counted.
    pub fn calls_per_event(&self) -> f64 {
        self.figures.calls.map_or(f64::NAN, |calls| self.per_event(calls))
    }

    pub fn made_a_second(&self) -> f64 {
        self.produced.events as f64 * 1e9 / self.produced.time.max(1) as f64
    }

    pub fn lost(&self) -> f64 {
        self.produced.events.saturating_sub(self.figures.events) as f64
    }

    /// Microseconds; NaN if no event said when it was caused.
    pub fn latency(&self, which: usize) -> f64 {
        self.figures.latency.map_or(f64::NAN, |l| l[which] as f64 / 1_000.0)
    }
}

/// A median, and the least and the most.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// None without values, and if one is not a number.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        if values.is_empty() || values.iter().any(|value| value.is_nan()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let last = values.len() - 1;
        Some(Self {
            median: (values[last / 2] + values[values.len() / 2]) / 2.0,
            least: values[0],
            most: values[last],
        })
    }
}

impl Outcome {
    /// The timed runs of a consumer at a rate, by round.
    pub fn timed(&self, consumer: &str, rate: u64) -> impl Iterator<Item = &Run> {
        let of = move |run: &&Run| run.round.is_some() && run.rate == rate && run.consumer == consumer;
        self.runs.iter().filter(of)
    }

    /// The runs in which system calls were counted.
    pub fn counted(&self, consumer: &str, rate: u64) -> impl Iterator<Item = &Run> {
        let of = move |run: &&Run| run.round.is_none() && run.rate == rate && run.consumer == consumer;
        self.runs.iter().filter(of)
    }

    /// Says so where the producer could not keep a rate beside every consumer: then each had what it let be made.
    pub fn shortfall(&self, rate: u64) -> Option<String> {
        let timed = self.runs.iter().filter(|run| run.round.is_some() && run.rate == rate);
        let made = Spread::of(timed.map(Run::made_a_second))?;
        (made.least < 0.95 * rate as f64).then(|| {
            let Spread { least, most, .. } = made;
            format!(
                "{}: of {rate}/s the producer made {least:.0} to {most:.0}.",
                self.plan.title
            )
        })
    }

    pub fn spread(&self, consumer: &str, rate: u64, figure: impl Fn(&Run) -> f64) -> Option<Spread> {
        Spread::of(self.timed(consumer, rate).map(figure))
    }

    /// Ratios of a figure to that of another consumer in the same round.
    pub fn ratio(&self, consumer: &str, to: &str, rate: u64, figure: impl Fn(&Run) -> f64) -> Option<Spread> {
        let pairs = self.timed(consumer, rate).zip(self.timed(to, rate));
        Spread::of(pairs.map(|(one, other)| figure(one) / figure(other)))
    }
}

/// A rate as it is shown.
pub fn rate(rate: u64) -> String {
    if rate == 0 { "max".into() } else { rate.to_string() }
}

/// A line for each consumer and rate: medians over the rounds, and ratios to the bare epoll loop of the same round.
pub fn print(outcome: &Outcome, counter: Counter) {
    let plan = &outcome.plan;
    println!("\n{}", plan.describe());
    let mut table = Table::default();
    for &at in &plan.rates {
        for consumer in &plan.consumers {
            table.line();
            line(&mut table, outcome, consumer, at);
        }
    }
    table.print();
    for &at in &plan.rates {
        if let Some(short) = outcome.shortfall(at) {
            println!("{short}");
        }
    }
    println!("user and system are the kernel's guess from its ticks, right over many events; their sum is exact.");
    if plan.counted > 0 {
        println!("{}", note(counter));
    }
}

fn note(counter: Counter) -> &'static str {
    match counter {
        Counter::Perf => {
            "calls/ev and allocs/ev are of runs of their own, counted by the kernel's tracepoint, which hardly slows."
        }
        Counter::Trace => {
            "calls/ev and allocs/ev are of runs of their own under a tracer. It slows each call, so that whoever is woken \
             often finds more events at once: at high rates its calls are more than is shown."
        }
        Counter::None => "",
    }
}

fn line(table: &mut Table, outcome: &Outcome, consumer: &str, at: u64) {
    let spread = |figure: &dyn Fn(&Run) -> f64| outcome.spread(consumer, at, figure);
    let median = |figure: &dyn Fn(&Run) -> f64| spread(figure).map(|spread| spread.median);
    let ratio = |to: &str, figure: &dyn Fn(&Run) -> f64| outcome.ratio(consumer, to, at, figure);
    let in_place = consumer.contains("inplace");
    table.text("events/s", rate(at));
    table.number("made/s", median(&Run::made_a_second), 0);
    table.text("consumer", consumer.to_owned());
    let received = |run: &Run| 100.0 * run.figures.events as f64 / run.produced.events.max(1) as f64;
    table.number("seen %", median(&received), 2);
    table.number("lost", median(&Run::lost), 0);
    table.number("overflows", median(&|run| run.figures.overflows as f64), 0);
    table.number("CPU ns/ev", median(&Run::cpu_per_event), 0);
    table.range("", spread(&Run::cpu_per_event), 0);
    table.number("user", median(&|run| run.per_event(run.figures.user)), 0);
    table.number("system", median(&|run| run.per_event(run.figures.system)), 0);
    let cpu = ratio(BARE, &Run::cpu_per_event);
    table.number("ratio", cpu.map(|spread| spread.median), 2);
    table.range("", cpu, 2);
    let cpu = ratio(CRATE, &Run::cpu_per_event).filter(|_| in_place);
    table.number("to crate", cpu.map(|spread| spread.median), 2);
    table.number("wakes/ev", median(&|run| run.per_event(run.figures.switches)), 4);
    let calls = outcome.counted(consumer, at).map(Run::calls_per_event);
    table.number("calls/ev", Spread::of(calls).map(|spread| spread.median), 4);
    let allocations = outcome.counted(consumer, at).filter_map(|run| run.figures.allocations);
    table.number("allocs/ev", Spread::of(allocations).map(|spread| spread.median), 4);
    for (i, name) in ["p50 us", "p99 us", "p99.9 us", "max us"].into_iter().enumerate() {
        table.number(name, median(&|run| run.latency(i)), 1);
        if i == 0 {
            table.range("", spread(&|run| run.latency(0)), 1);
        }
    }
    let p50 = |run: &Run| run.latency(0);
    table.number("p50 ratio", ratio(BARE, &p50).map(|spread| spread.median), 2);
    let to_crate = ratio(CRATE, &p50).filter(|_| in_place);
    table.number("p50 to crate", to_crate.map(|spread| spread.median), 2);
    let beside = |i: usize| move |run: &Run| run.figures.latency_beside.map_or(f64::NAN, |l| l[i] as f64 / 1_000.0);
    table.number("p50 beside", median(&beside(0)), 1);
    table.number("p99 beside", median(&beside(1)), 1);
    table.number("peak KiB", median(&|run| run.figures.peak_memory as f64), 0);
    table.number("private KiB", median(&|run| run.figures.private_memory as f64), 0);
    table.number("threads", median(&|run| run.figures.threads as f64), 0);
}

/// Lines of named cells. A column without a figure is left out.
#[derive(Default)]
pub struct Table {
    names: Vec<&'static str>,
    lines: Vec<Vec<String>>,
}

const NOTHING: &str = "-";

impl Table {
    /// Every line has the same columns, in the same order.
    pub fn line(&mut self) {
        self.lines.push(Vec::new());
    }

    pub fn text(&mut self, name: &'static str, text: String) {
        let Some(line) = self.lines.last_mut() else {
            return;
        };
        line.push(text);
        if line.len() > self.names.len() {
            self.names.push(name);
        }
    }

    pub fn number(&mut self, name: &'static str, number: Option<f64>, digits: usize) {
        let text = number.map_or_else(|| NOTHING.into(), |number| format!("{number:.digits$}"));
        self.text(name, text);
    }

    /// From the least to the most.
    pub fn range(&mut self, name: &'static str, spread: Option<Spread>, digits: usize) {
        let text = spread.map_or_else(
            || NOTHING.into(),
            |Spread { least, most, .. }| format!("{least:.digits$}..{most:.digits$}"),
        );
        self.text(name, text);
    }

    pub fn print(&self) {
        let column = |i: usize| self.lines.iter().map(move |line| line[i].as_str());
        let shown: Vec<usize> = (0..self.names.len())
            .filter(|&i| column(i).any(|cell| cell != NOTHING))
            .collect();
        let width = |i: usize| column(i).map(str::len).max().unwrap_or(0).max(self.names[i].len());
        let widths: Vec<usize> = (0..self.names.len()).map(width).collect();
        let all = std::iter::once(self.names.iter().map(|&name| name.to_owned()).collect());
        for line in all.chain(self.lines.iter().cloned()) {
            let cells = shown.iter().map(|&i| {
                let width = widths[i];
                // Names to the left, figures to the right.
                if self.names[i] == "consumer" {
                    format!("{:<width$}", line[i])
                } else {
                    format!("{:>width$}", line[i])
                }
            });
            println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
}
