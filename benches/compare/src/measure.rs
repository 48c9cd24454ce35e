//! Clocks, counters, and what they amount to.

use std::fs;
use std::mem::MaybeUninit;

use serde::{Deserialize, Serialize};

/// Nanoseconds of the monotonic clock, which all processes share.
pub fn now() -> u64 {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call writes the whole struct, and can't fail for this clock.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, time.as_mut_ptr());
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
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub cpu: u64,
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
            cpu: nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime),
            switches: usage.ru_nvcsw as u64,
        }
    }
}

/// The most memory this process had, in KiB.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok())
        .unwrap_or(0)
}

/// What a consumer saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    pub events: u64,
    pub overflows: u64,
    /// Bytes of names looked at, so that nobody gets away without looking.
    pub name_bytes: u64,
    /// From the call to the consumer, in nanoseconds, where the name says when that was.
    #[serde(skip)]
    pub latencies: Vec<u64>,
    pub ended: bool,
}

impl Seen {
    /// One event, as every consumer reports it.
    #[inline]
    pub fn see(&mut self, mask: u32, name: &[u8]) {
        if mask & libc::IN_Q_OVERFLOW != 0 {
            self.overflows += 1;
            return;
        }
        if mask & (libc::IN_CREATE | libc::IN_MODIFY | libc::IN_MOVE) == 0 {
            return;
        }
        if mask & libc::IN_CREATE != 0 && name.starts_with(b"end") {
            self.ended = true;
            return;
        }
        self.events += 1;
        self.name_bytes += name.len() as u64;
        if mask & libc::IN_CREATE != 0
            && let Some(made) = std::str::from_utf8(name).ok().and_then(|name| name.parse::<u64>().ok())
        {
            self.latencies.push(now().saturating_sub(made));
        }
    }
}

/// The figures of one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    pub seen: Seen,
    /// Nanoseconds of CPU, user and system, of the whole process.
    pub cpu: u64,
    pub switches: u64,
    pub peak_memory: u64,
    /// p50, p99, p99.9 and maximum, in nanoseconds.
    pub latency: Option<[u64; 4]>,
}

impl Figures {
    pub fn since(before: Usage, mut seen: Seen) -> Self {
        let after = Usage::now();
        let mut latencies = std::mem::take(&mut seen.latencies);
        latencies.sort_unstable();
        let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
        Self {
            cpu: after.cpu - before.cpu,
            switches: after.switches - before.switches,
            peak_memory: peak_memory(),
            latency: (!latencies.is_empty()).then(|| [at(0.5), at(0.99), at(0.999), at(1.0)]),
            seen,
        }
    }
}
