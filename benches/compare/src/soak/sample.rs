//! What a process has: descriptors, threads, memory, and watches by the kernel's own list.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub descriptors: usize,
    pub threads: usize,
    pub mappings: usize,
    pub watches: usize,
    /// KiB that were allocated and not freed.
    pub heap: u64,
    /// KiB that are mapped to be written by this process alone, whether they are used or not.
    pub reserved: u64,
    /// KiB that nobody shares. The buffers of a lane are among it once its consumer has stalled, until it is made anew.
    pub memory: u64,
}

impl Sample {
    /// Of what must be exactly the same, what is not.
    pub fn not_as_many(&self, other: &Self) -> Vec<&'static str> {
        let figures = [
            ("descriptors", self.descriptors, other.descriptors),
            ("threads", self.threads, other.threads),
            ("watches", self.watches, other.watches),
        ];
        let differing = figures.into_iter().filter(|(_, one, other)| one != other);
        differing.map(|(what, ..)| what).collect()
    }

    /// Threads end and watches are released a moment after the last handle is dropped: waits until there is as much as
    /// before, though not longer than the patience; or for a moment where it is not known.
    pub fn settled(before: Option<&Self>, patience: Duration) -> Self {
        let begun = Instant::now();
        if before.is_none() {
            thread::sleep(Duration::from_secs(1));
        }
        loop {
            let now = Self::now();
            if before.is_none_or(|before| now.not_as_many(before).is_empty()) || begun.elapsed() > patience {
                return now;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn now() -> Self {
        // What the allocator keeps for later is not what is measured.
        // SAFETY: no pointers are passed.
        unsafe { libc::malloc_trim(0) };
        // SAFETY: none are passed here either.
        let heap = unsafe { libc::mallinfo2() };
        let entries = |path| fs::read_dir(path).map_or(0, Iterator::count);
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let infos = fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten();
        let watches = infos.map(|entry| fs::read_to_string(entry.path()).unwrap_or_default());
        Self {
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            mappings: text("/proc/self/maps").lines().count(),
            watches: watches.map(|info| info.matches("inotify wd:").count()).sum(),
            heap: (heap.uordblks + heap.hblkhd) as u64 / 1024,
            reserved: crate::measure::kibibytes("/proc/self/status", "VmData"),
            memory: crate::measure::kibibytes("/proc/self/smaps_rollup", "Private_"),
        }
    }
}
