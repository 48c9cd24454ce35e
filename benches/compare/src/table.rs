//! Figures as a table for people and as CSV for programs.

use std::fmt::Write;

use crate::run::{Plan, Run};

pub const CSV_HEADER: &str = "title,round,rate,consumer,produced,events,overflows,cpu_ns_per_event,switches_per_event,\
                              p50_ns,p99_ns,p999_ns,max_ns,peak_kib";

pub fn csv(plan: &Plan, round: usize, run: &Run) -> String {
    let figures = &run.figures;
    let mut line = format!(
        "\"{}\",{round},{},{},{},{},{},{:.1},{:.4}",
        plan.title,
        run.rate,
        run.consumer,
        run.produced,
        figures.seen.events,
        figures.seen.overflows,
        per_event(run, figures.cpu),
        per_event(run, figures.switches),
    );
    for i in 0..4 {
        let latency = figures
            .latency
            .map_or_else(String::new, |latency| latency[i].to_string());
        let _ = write!(line, ",{latency}");
    }
    let _ = write!(line, ",{}", figures.peak_memory);
    line
}

fn per_event(run: &Run, count: u64) -> f64 {
    count as f64 / run.figures.seen.events.max(1) as f64
}

/// Median, and the spread around it.
fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    (values[last / 2], values[0], values[last])
}

/// A line for each consumer and rate: medians over the rounds, and ratios to the bare epoll loop of the same round.
pub fn print(plan: &Plan, runs: &[Run]) {
    println!(
        "\n{} ({} director{}, {} rounds)",
        plan.title,
        plan.dirs,
        if plan.dirs == 1 { "y" } else { "ies" },
        plan.rounds
    );
    println!(
        "{:>9} {:<24} {:>9} {:>15} {:>6} {:>9} {:>8} {:>8} {:>8} {:>6} {:>9} {:>9}",
        "events/s",
        "consumer",
        "CPU ns/ev",
        "min..max",
        "ratio",
        "switch/ev",
        "p50 us",
        "p99 us",
        "max us",
        "ratio",
        "lost",
        "peak KiB"
    );
    for &rate in &plan.rates {
        for consumer in &plan.consumers {
            let of = |name: &str| -> Vec<&Run> {
                runs.iter()
                    .filter(|run| run.rate == rate && run.consumer == name)
                    .collect()
            };
            let (mine, bare) = (of(consumer), of("bare-epoll"));
            let figure = |figure: &dyn Fn(&Run) -> f64| median(mine.iter().map(|run| figure(run)).collect());
            let ratio = |figure: &dyn Fn(&Run) -> f64| {
                median(
                    mine.iter()
                        .zip(&bare)
                        .map(|(mine, bare)| figure(mine) / figure(bare))
                        .collect(),
                )
                .0
            };
            let cpu = |run: &Run| per_event(run, run.figures.cpu);
            let latency = |i: usize| move |run: &Run| run.figures.latency.map_or(f64::NAN, |l| l[i] as f64 / 1_000.0);
            let (median_cpu, least, most) = figure(&cpu);
            println!(
                "{rate:>9} {consumer:<24} {median_cpu:>9.0} {:>15} {:>6.2} {:>9.4} {:>8} {:>8} {:>8} {:>6} {:>9.0} {:>9.0}",
                format!("{least:.0}..{most:.0}"),
                ratio(&cpu),
                figure(&|run| per_event(run, run.figures.switches)).0,
                shown(figure(&latency(0)).0, 1),
                shown(figure(&latency(1)).0, 1),
                shown(figure(&latency(3)).0, 0),
                shown(ratio(&latency(0)), 2),
                figure(&|run| run.produced.saturating_sub(run.figures.seen.events) as f64).0,
                figure(&|run| run.figures.peak_memory as f64).0,
            );
        }
    }
}

fn shown(value: f64, digits: usize) -> String {
    if value.is_nan() {
        "-".into()
    } else {
        format!("{value:.digits$}")
    }
}
