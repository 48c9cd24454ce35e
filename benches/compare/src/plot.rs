//! Which charts there are of what was measured.

use std::error::Error;
use std::path::Path;

use crate::chart::{Bars, Line, Lines, Panel};
use crate::machine::machine;
use crate::producer::Kind;
use crate::run::{Outcome, Run};
use crate::table::Spread;

/// Writes those charts there are figures for.
pub fn plot(dir: &Path, outcomes: &[Outcome]) -> Result<(), Box<dyn Error>> {
    let machine = machine();
    let simple = |outcome: &&Outcome| !outcome.plan.instances && outcome.plan.stall == 0;
    let of = |kind: Kind| {
        outcomes
            .iter()
            .filter(simple)
            .filter(move |outcome| outcome.plan.kind == kind)
    };
    for outcome in outcomes.iter().filter(simple) {
        let limited = outcome.plan.rates.iter().filter(|&&rate| rate > 0).count();
        if limited > 1 && outcome.plan.consumers.len() > 1 {
            cpu(dir, &machine, outcome)?;
        }
    }
    if let Some(outcome) = of(Kind::Create).max_by_key(|outcome| outcome.plan.consumers.len()) {
        latency(dir, &machine, outcome)?;
    }
    let stalls: Vec<&Outcome> = outcomes
        .iter()
        .filter(|o| o.plan.stall > 0 && !o.plan.instances)
        .collect();
    if !stalls.is_empty() {
        lost(dir, &machine, &stalls)?;
    }
    let crowds: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.plan.instances).collect();
    if !crowds.is_empty() {
        instances(dir, &machine, &crowds)?;
    }
    Ok(())
}

fn kind(outcome: &Outcome) -> String {
    let plan = &outcome.plan;
    let kind = match plan.kind {
        Kind::Modify => "files modified",
        Kind::Create => "files created",
        Kind::Rename => "files renamed",
    };
    match plan.dirs {
        1 => format!("{kind} in one directory"),
        dirs => format!("{kind} in {dirs} directories"),
    }
}

fn thousands(value: u64) -> String {
    if value >= 1_000 {
        format!("{},{:03}", value / 1_000, value % 1_000)
    } else {
        value.to_string()
    }
}

fn cpu(dir: &Path, machine: &str, outcome: &Outcome) -> Result<(), Box<dyn Error>> {
    let plan = &outcome.plan;
    let rates = || plan.rates.iter().copied().filter(|&rate| rate > 0);
    let line = |name: &String| Line {
        name: name.clone(),
        points: rates()
            .filter_map(|rate| {
                let spread = outcome.spread(name, rate, Run::cpu_per_event)?;
                Some((rate as f64, spread.median))
            })
            .collect(),
    };
    let title = format!("CPU per event, {}", kind(outcome));
    let chart = Lines {
        title: &title,
        subtitle: machine,
        x: "events a second",
        y: "CPU per event, user and system, ns",
        marks: rates().map(|rate| (rate as f64, thousands(rate))).collect(),
        lines: plan.consumers.iter().map(line).collect(),
    };
    let name = format!("cpu-{:?}-{}.svg", plan.kind, plan.dirs).to_lowercase();
    chart.draw(&dir.join(name))
}

fn latency(dir: &Path, machine: &str, outcome: &Outcome) -> Result<(), Box<dyn Error>> {
    let plan = &outcome.plan;
    for &rate in plan.rates.iter().filter(|&&rate| rate > 0) {
        // The axis is logarithmic, and these are 1, 2, 3 and 4 on it.
        let names = ["p50", "p99", "p99.9", "max"];
        let place = |i: usize| 10_f64.powi(i as i32);
        let line = |name: &String| Line {
            name: name.clone(),
            points: (0..names.len())
                .filter_map(|i| {
                    let spread = outcome.spread(name, rate, |run| run.latency(i))?;
                    Some((place(i), spread.median.max(0.1)))
                })
                .collect(),
        };
        let title = format!("From the call to the consumer, {} events a second", thousands(rate));
        let chart = Lines {
            title: &title,
            subtitle: machine,
            x: "percentile of the events of a run",
            y: "latency, µs",
            marks: names
                .iter()
                .enumerate()
                .map(|(i, name)| (place(i), (*name).to_owned()))
                .collect(),
            lines: plan
                .consumers
                .iter()
                .map(line)
                .filter(|line| !line.points.is_empty())
                .collect(),
        };
        chart.draw(&dir.join(format!("latency-{rate}.svg")))?;
    }
    Ok(())
}

fn panel(outcome: &Outcome, name: String, unit: &'static str, rate: u64, figure: impl Fn(&Run) -> f64) -> Panel {
    let bar = |consumer: &String| {
        let Spread { median, least, most } = outcome.spread(consumer, rate, &figure)?;
        Some((consumer.clone(), median, least, most))
    };
    Panel {
        name,
        unit,
        bars: outcome.plan.consumers.iter().filter_map(bar).collect(),
    }
}

fn lost(dir: &Path, machine: &str, stalls: &[&Outcome]) -> Result<(), Box<dyn Error>> {
    let panels = stalls.iter().flat_map(|outcome| {
        let per_cent = |run: &Run| 100.0 * run.lost() / run.produced.events.max(1) as f64;
        outcome.plan.rates.iter().map(move |&rate| {
            let plan = &outcome.plan;
            let name = format!(
                "{} at {} events/s for {:.1} s",
                plan.title,
                thousands(rate),
                plan.seconds
            );
            panel(outcome, name, "% of the events lost", rate, per_cent)
        })
    });
    let chart = Bars {
        title: "Lost when the consumer stalls once",
        subtitle: machine,
        panels: panels.collect(),
    };
    chart.draw(&dir.join("stall.svg"))
}

fn instances(dir: &Path, machine: &str, crowds: &[&Outcome]) -> Result<(), Box<dyn Error>> {
    let mut panels = Vec::new();
    for outcome in crowds {
        let plan = &outcome.plan;
        for &rate in &plan.rates {
            let of = |what: &str| format!("{what}, {} events/s in all", thousands(rate));
            if plan.stall > 0 {
                let p99 = |run: &Run| run.figures.latency_beside.map_or(f64::NAN, |l| l[1] as f64 / 1_000.0);
                let name = format!("p99 of the others while one stalls for {} ms", plan.stall);
                panels.push(panel(outcome, of(&name), "µs", rate, p99));
                continue;
            }
            panels.push(panel(outcome, of("CPU per event"), "ns", rate, Run::cpu_per_event));
            let memory = |run: &Run| run.figures.private_memory as f64 / 1_024.0;
            panels.push(panel(outcome, of("Private memory"), "MiB", rate, memory));
        }
        if plan.stall == 0 {
            let threads = |run: &Run| run.figures.threads as f64;
            let rate = plan.rates.first().copied().unwrap_or(0);
            panels.push(panel(outcome, "Threads".into(), "count", rate, threads));
        }
    }
    let chart = Bars {
        title: "100 instances in one process",
        subtitle: machine,
        panels,
    };
    chart.draw(&dir.join("instances.svg"))
}
