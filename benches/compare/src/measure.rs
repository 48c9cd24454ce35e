//! Clocks, counters, and what they amount to.

use std::error::Error;
use std::fs;
use std::mem::MaybeUninit;

use serde::{Deserialize, Serialize};

use crate::allocations;
use crate::calls::{Calls, Counter};
use crate::histogram::Histogram;
use crate::trace;

/// Nanoseconds of the monotonic clock, which all processes share.
pub fn now() -> u64 {
    nanoseconds(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds of CPU this process has used.
pub fn cpu() -> u64 {
    nanoseconds(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn nanoseconds(clock: libc::clockid_t) -> u64 {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call writes the whole struct, and can't fail for these clocks.
    let time = unsafe {
        libc::clock_gettime(clock, time.as_mut_ptr());
        time.assume_init()
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Keeps this process on one CPU.
pub fn pin(cpu: usize) {
    // SAFETY: an all-zero set is a valid, empty one; the call only reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

/// CPU time and voluntary context switches of this process so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub user: u64,
    pub system: u64,
    pub switches: u64,
}

impl Usage {
    pub fn now() -> Self {
        let mut usage = MaybeUninit::<libc::rusage>::uninit();
        // SAFETY: the call writes the whole struct, and can't fail for this process.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        let nanoseconds = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1_000;
        Self {
            user: nanoseconds(usage.ru_utime),
            system: nanoseconds(usage.ru_stime),
            switches: usage.ru_nvcsw as u64,
        }
    }
}

/// The lines `NAME…: N kB` of a file in `/proc`, in KiB.
pub fn kibibytes(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    values.sum()
}

/// What a consumer saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub events: u64,
    pub overflows: u64,
    /// Bytes of names looked at, so that nobody gets away without looking.
    pub name_bytes: u64,
    /// From the call to the consumer, in nanoseconds, where the name says when that was.
    pub latencies: Histogram,
    pub ended: bool,
}

/// What an event is to a consumer here.
pub enum Said {
    Event,
    /// An event made at this time.
    Made(u64),
    Overflow,
    End,
    Nothing,
}

/// What mask and name say.
#[inline]
pub fn said(mask: u32, name: &[u8]) -> Said {
    if mask & libc::IN_Q_OVERFLOW != 0 {
        return Said::Overflow;
    }
    if mask & (libc::IN_CREATE | libc::IN_MODIFY | libc::IN_MOVE) == 0 {
        return Said::Nothing;
    }
    // The name of the other half of a rename says when the one before was.
    if mask & (libc::IN_CREATE | libc::IN_MOVED_TO) == 0 {
        return Said::Event;
    }
    if name.starts_with(b"end") {
        return Said::End;
    }
    let made = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    made.map_or(Said::Event, Said::Made)
}

impl Seen {
    /// One event, as every consumer reports it.
    #[inline]
    pub fn see(&mut self, mask: u32, name: &[u8]) {
        match said(mask, name) {
            Said::Event => {}
            Said::Made(at) => self.latencies.record(now().saturating_sub(at)),
            Said::Overflow => {
                self.overflows += 1;
                return;
            }
            Said::End => {
                self.ended = true;
                return;
            }
            Said::Nothing => return,
        }
        self.events += 1;
        self.name_bytes += name.len() as u64;
    }
}

/// The figures of one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    pub events: u64,
    pub overflows: u64,
    /// Nanoseconds of CPU, of the whole process.
    pub user: u64,
    pub system: u64,
    pub switches: u64,
    /// System calls, where they were counted.
    pub calls: Option<u64>,
    /// Allocations an event, in the second half of the run, where they were counted.
    pub allocations: Option<f64>,
    /// KiB: the most that was resident, and what nobody shares at the end.
    pub peak_memory: u64,
    pub private_memory: u64,
    pub threads: u64,
    /// p50, p99, p99.9 and maximum, in nanoseconds.
    pub latency: Option<[u64; 4]>,
    /// The same of instances next to one that stalls, while it does.
    pub latency_beside: Option<[u64; 4]>,
}

impl Figures {
    pub fn cpu(&self) -> u64 {
        self.user + self.system
    }
}

/// Measures a consumer from where it is ready to its last event; what it costs to set up and to tear down is left out.
pub struct Meter {
    counter: Counter,
    calls: Option<Calls>,
    before: Usage,
    /// Events after which allocations are counted: by then everything that is made once is made.
    steady: u64,
    /// Events there were when that was noticed.
    steady_from: Option<u64>,
}

impl Meter {
    /// Before any thread is made: those of before are not counted.
    pub fn new(counter: Counter, steady: u64) -> Result<Self, Box<dyn Error>> {
        let calls = (counter == Counter::Perf).then(Calls::new).transpose()?;
        Ok(Self {
            counter,
            calls,
            before: Usage::default(),
            steady: if counter == Counter::None { u64::MAX } else { steady },
            steady_from: None,
        })
    }

    pub fn begin(&mut self) {
        self.before = Usage::now();
        if let Some(calls) = &mut self.calls {
            calls.restart();
        }
        if self.counter == Counter::Trace {
            trace::mark();
        }
    }

    #[inline]
    pub fn passed(&mut self, events: u64) {
        if events >= self.steady {
            self.steady = u64::MAX;
            self.steady_from = Some(events);
            allocations::begin();
        }
    }

    pub fn end(&self, seen: &Seen) -> Figures {
        let after = Usage::now();
        let allocated = allocations::count();
        let calls = self.calls.as_ref().map(Calls::count);
        if self.counter == Counter::Trace {
            trace::mark();
        }
        let rest = self.steady_from.map(|from| seen.events - from).filter(|&rest| rest > 0);
        Figures {
            events: seen.events,
            overflows: seen.overflows,
            user: after.user - self.before.user,
            system: after.system - self.before.system,
            switches: after.switches - self.before.switches,
            calls,
            allocations: rest.map(|rest| allocated as f64 / rest as f64),
            peak_memory: kibibytes("/proc/self/status", "VmHWM"),
            private_memory: kibibytes("/proc/self/smaps_rollup", "Private_"),
            threads: fs::read_dir("/proc/self/task").map_or(0, |threads| threads.count() as u64),
            latency: seen.latencies.percentiles(),
            latency_beside: None,
        }
    }
}
