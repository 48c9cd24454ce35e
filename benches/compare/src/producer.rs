//! Causes events at a fixed rate, in a process of its own.

use std::collections::VecDeque;
use std::error::Error;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::job::say;
use crate::measure::{now, pin};

/// What causes the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Kind {
    /// One byte written, to each file in turn: the kernel merges nothing.
    Modify,
    /// A file made whose name is the time.
    Create,
    /// A file renamed to the time, two events each: the only kind with a time that can be had 300,000 times a second.
    Rename,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    pub kind: Kind,
    pub dir: PathBuf,
    /// Directories below `dir`.
    pub dirs: usize,
    /// Each directory gets the mark at the end, not the first alone.
    pub mark_each: bool,
    /// Events a second; 0 is as fast as it goes.
    pub rate: u64,
    /// Nanoseconds.
    pub time: u64,
}

/// What was caused.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Produced {
    pub events: u64,
    /// Nanoseconds it took, which is more than was asked for if the rate is more than this machine can do.
    pub time: u64,
}

/// The directories that are watched.
pub fn dirs(dir: &Path, count: usize) -> Vec<PathBuf> {
    (0..count).map(|i| dir.join(format!("d{i:04}"))).collect()
}

/// Files that are modified, over all directories.
const FILES: usize = 64;

pub fn produce(order: &Order) -> Result<(), Box<dyn Error>> {
    pin(0);
    let dirs = dirs(&order.dir, order.dirs);
    let produced = match order.kind {
        Kind::Modify => modify(order, &dirs)?,
        Kind::Create => create(order, &dirs)?,
        Kind::Rename => rename(order, &dirs)?,
    };
    say(&serde_json::to_string(&produced)?);
    // The mark is made again until it is seen: an overflow can swallow it.
    let marked = if order.mark_each { &dirs[..] } else { &dirs[..1] };
    for i in 0.. {
        for dir in marked {
            File::create(dir.join(format!("end{i}")))?;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Files there must be before the watches are.
pub fn prepare(kind: Kind, dirs: &[PathBuf]) -> io::Result<()> {
    for dir in dirs {
        fs::create_dir_all(dir)?;
    }
    let files = match kind {
        Kind::Modify => FILES.max(dirs.len()),
        Kind::Create => 0,
        Kind::Rename => dirs.len(),
    };
    for i in 0..files {
        File::create(dirs[i % dirs.len()].join(format!("{i:024}")))?;
    }
    Ok(())
}

/// The files to modify.
pub fn files(dirs: &[PathBuf]) -> io::Result<Vec<File>> {
    (0..FILES.max(dirs.len()))
        .map(|i| {
            let path = dirs[i % dirs.len()].join(format!("{i:024}"));
            OpenOptions::new().write(true).open(path)
        })
        .collect()
}

fn modify(order: &Order, dirs: &[PathBuf]) -> Result<Produced, Box<dyn Error>> {
    let files = files(dirs)?;
    let mut pace = Pace::new(order, 1);
    while let Some(i) = pace.next() {
        files[i % files.len()].write_at(b"x", 0)?;
    }
    Ok(pace.produced())
}

/// Made and taken away by one call each, relative to the directory: this has to be faster than whoever watches.
fn create(order: &Order, dirs: &[PathBuf]) -> Result<Produced, Box<dyn Error>> {
    const KEPT: usize = 1_000;
    let dirs: Vec<File> = dirs.iter().map(File::open).collect::<Result<_, _>>()?;
    let mut made: VecDeque<(RawFd, CString)> = VecDeque::with_capacity(KEPT + 1);
    let mut pace = Pace::new(order, 1);
    while let Some(i) = pace.next() {
        let dir = dirs[i % dirs.len()].as_raw_fd();
        let name = CString::new(format!("{:024}", now()))?;
        // SAFETY: the name is NUL-terminated and lives through the call.
        checked(unsafe { libc::mknodat(dir, name.as_ptr(), libc::S_IFREG | 0o600, 0) })?;
        made.push_back((dir, name));
        if made.len() > KEPT
            && let Some((dir, name)) = made.pop_front()
        {
            // SAFETY: the name is NUL-terminated and lives through the call.
            checked(unsafe { libc::unlinkat(dir, name.as_ptr(), 0) })?;
        }
    }
    Ok(pace.produced())
}

/// A file of each directory gets the time as its name: two events for one call.
fn rename(order: &Order, dirs: &[PathBuf]) -> Result<Produced, Box<dyn Error>> {
    let first = (0..dirs.len()).map(|i| CString::new(format!("{i:024}")));
    let mut names: Vec<CString> = first.collect::<Result<_, _>>()?;
    let dirs: Vec<File> = dirs.iter().map(File::open).collect::<Result<_, _>>()?;
    let mut pace = Pace::new(order, 2);
    while let Some(i) = pace.next() {
        let i = i % dirs.len();
        let dir = dirs[i].as_raw_fd();
        let name = CString::new(format!("{:024}", now()))?;
        // SAFETY: both names are NUL-terminated and live through the call.
        checked(unsafe { libc::renameat(dir, names[i].as_ptr(), dir, name.as_ptr()) })?;
        names[i] = name;
    }
    Ok(pace.produced())
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Open loop: when it falls behind, it does not wait until it has caught up.
struct Pace {
    start: u64,
    next: u64,
    gap: u64,
    /// Calls to make; without a rate, as many as fit into the time.
    calls: u64,
    until: u64,
    made: u64,
    events_a_call: u64,
}

impl Pace {
    fn new(order: &Order, events_a_call: u64) -> Self {
        let start = now();
        let rate = order.rate / events_a_call;
        let (gap, calls) = match rate {
            0 => (0, u64::MAX),
            rate => (1_000_000_000 / rate, (order.time as f64 / 1e9 * rate as f64) as u64),
        };
        Self {
            start,
            next: start,
            gap,
            calls,
            until: start + order.time,
            made: 0,
            events_a_call,
        }
    }

    /// The number of the next call, when it is time for it.
    fn next(&mut self) -> Option<usize> {
        let call = self.made;
        if call >= self.calls || self.gap == 0 && call.is_multiple_of(64) && now() >= self.until {
            return None;
        }
        self.made += 1;
        if self.gap > 0 {
            self.wait();
        }
        Some(call as usize)
    }

    fn wait(&mut self) {
        self.next += self.gap;
        // A long gap is slept through, but for its end: a timer is late by tens of microseconds.
        let left = self.next.saturating_sub(now());
        if left > 200_000 {
            thread::sleep(Duration::from_nanos(left - 150_000));
        }
        while now() < self.next {
            std::hint::spin_loop();
        }
    }

    fn produced(&self) -> Produced {
        Produced {
            events: self.made * self.events_a_call,
            time: now() - self.start,
        }
    }
}
