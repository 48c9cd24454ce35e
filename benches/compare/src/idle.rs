//! What a consumer does while nothing happens: nothing, if it is any good.

use std::error::Error;
use std::fs;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use crate::calls::Counter;
use crate::job;
use crate::producer::{self, Kind};
use crate::run::{Started, scratch};
use crate::table::Table;

/// How long nothing happens.
const PAUSE: Duration = Duration::from_secs(2);
/// Until everybody has done what there was to do.
const SETTLE: Duration = Duration::from_millis(500);
/// Events of the burst after which nothing happens again.
const BURST: usize = 1_000;

/// Times any thread of a process went to sleep or was put aside, and nanoseconds of CPU. A thread that did neither in the
/// meantime was asleep all along, and made no system call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    pub switches: u64,
    pub cpu: u64,
    pub threads: u64,
}

#[derive(Clone, Debug)]
pub struct Idle {
    pub consumer: String,
    pub at_first: Activity,
    /// Which shows that it can be seen.
    pub burst: Activity,
    pub after_burst: Activity,
}

/// All consumers at once, since they have nothing to do.
pub fn idle(consumers: &[String]) -> Result<Vec<Idle>, Box<dyn Error>> {
    let dir = scratch()?;
    let dirs = producer::dirs(dir.path(), 1);
    producer::prepare(Kind::Modify, &dirs)?;
    let mut started = Vec::new();
    for consumer in consumers {
        let order = job::Order {
            consumer: consumer.clone(),
            kind: Kind::Modify,
            dir: dir.path().to_owned(),
            dirs: 1,
            instances: false,
            stall: 0,
            count: BURST as u64,
            counter: Counter::None,
        };
        let process = Started::new("consume", &order)?;
        process
            .expect("ready")
            .map_err(|error| format!("{consumer}: {error}"))?;
        started.push(process);
    }
    let first = pause(&started)?;
    let files = producer::files(&dirs)?;
    for i in 0..BURST {
        files[i % files.len()].write_at(b"x", 0)?;
    }
    let second = pause(&started)?;
    let all = consumers.iter().zip(first.into_iter().zip(second));
    all.map(|(consumer, (first, second))| {
        let burst = second.before.since(first.after);
        if burst.switches == 0 {
            return Err(format!("{consumer} did not wake for {BURST} events, so that it is idle says nothing").into());
        }
        Ok(Idle {
            consumer: consumer.clone(),
            at_first: first.after.since(first.before),
            burst,
            after_burst: second.after.since(second.before),
        })
    })
    .collect()
}

impl Activity {
    fn since(self, before: Self) -> Self {
        Self {
            switches: self.switches - before.switches,
            cpu: self.cpu - before.cpu,
            threads: self.threads,
        }
    }
}

/// All there was at either end of a pause.
struct Pause {
    before: Activity,
    after: Activity,
}

fn pause(started: &[Started]) -> Result<Vec<Pause>, Box<dyn Error>> {
    thread::sleep(SETTLE);
    let all = || {
        started
            .iter()
            .map(|process| activity(process.id()))
            .collect::<Result<Vec<_>, _>>()
    };
    let before = all()?;
    thread::sleep(PAUSE);
    let after = all()?;
    Ok(before
        .into_iter()
        .zip(after)
        .map(|(before, after)| Pause { before, after })
        .collect())
}

fn activity(process: u32) -> Result<Activity, Box<dyn Error>> {
    let mut sum = Activity::default();
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = thread?.path();
        let status = fs::read_to_string(thread.join("status"))?;
        let switches = status
            .lines()
            .filter_map(|line| line.split_once("voluntary_ctxt_switches:"));
        sum.switches += switches
            .filter_map(|(_, count)| count.trim().parse::<u64>().ok())
            .sum::<u64>();
        let times = fs::read_to_string(thread.join("schedstat"))?;
        sum.cpu += times.split_whitespace().next().unwrap_or("0").parse::<u64>()?;
        sum.threads += 1;
    }
    Ok(sum)
}

/// An error if ringwatch woke for nothing.
pub fn judge(idle: &[Idle]) -> Result<(), Box<dyn Error>> {
    let ours = |idle: &&Idle| {
        ["stream", "reader", "tokio"]
            .iter()
            .any(|half| idle.consumer.starts_with(half))
    };
    for idle in idle.iter().filter(ours) {
        let wakeups = idle.at_first.switches + idle.after_burst.switches;
        if wakeups > 0 {
            return Err(format!("{} woke {wakeups} times while nothing happened", idle.consumer).into());
        }
    }
    Ok(())
}

pub fn print(idle: &[Idle]) {
    println!(
        "\nWhile nothing happens for {} s, at first and after a burst of {BURST} events. A process whose threads never ran \
         made no system call.",
        PAUSE.as_secs()
    );
    let mut table = Table::default();
    for Idle {
        consumer,
        at_first,
        burst,
        after_burst,
    } in idle
    {
        table.line();
        table.text("consumer", consumer.clone());
        table.number("wake-ups", Some(at_first.switches as f64), 0);
        table.number("CPU us", Some(at_first.cpu as f64 / 1_000.0), 1);
        table.number("wake-ups in burst", Some(burst.switches as f64), 0);
        table.number("wake-ups after burst", Some(after_burst.switches as f64), 0);
        table.number("CPU us", Some(after_burst.cpu as f64 / 1_000.0), 1);
        table.number("threads", Some(after_burst.threads as f64), 0);
    }
    table.print();
}
