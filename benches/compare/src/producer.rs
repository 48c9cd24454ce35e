//! Causes events at a fixed rate, in a process of its own.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::measure::{now, pin};

/// What causes the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// One byte written, to each file in turn: the kernel merges nothing.
    Modify,
    /// A file made whose name is the time.
    Create,
    /// A file renamed there and back: two events each.
    Rename,
}

#[derive(Clone, Debug, Args)]
pub struct Order {
    pub kind: Kind,
    pub dir: PathBuf,
    /// Directories below `dir`.
    pub dirs: usize,
    /// Events a second; 0 is as fast as it goes.
    pub rate: u64,
    /// Events in all.
    pub count: u64,
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
    match order.kind {
        Kind::Modify => modify(order, &dirs)?,
        Kind::Create => create(order, &dirs)?,
        Kind::Rename => rename(order, &dirs)?,
    }
    // The mark at the end is made again until it is seen: an overflow can swallow it.
    for i in 0.. {
        File::create(dirs[0].join(format!("end{i}")))?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn modify(order: &Order, dirs: &[PathBuf]) -> Result<(), Box<dyn Error>> {
    let files: Vec<File> = (0..FILES.max(dirs.len()))
        .map(|i| {
            let path = dirs[i % dirs.len()].join(format!("{i:024}"));
            OpenOptions::new().write(true).open(path)
        })
        .collect::<Result<_, _>>()?;
    let mut pace = Pace::new(order.rate);
    for i in 0..order.count {
        pace.wait();
        files[i as usize % files.len()].write_at(b"x", 0)?;
    }
    Ok(())
}

/// Files there must be before the watches are.
pub fn prepare(kind: Kind, dirs: &[PathBuf]) -> std::io::Result<()> {
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

fn create(order: &Order, dirs: &[PathBuf]) -> Result<(), Box<dyn Error>> {
    let mut pace = Pace::new(order.rate);
    let mut made = Vec::new();
    for i in 0..order.count {
        pace.wait();
        let path = dirs[i as usize % dirs.len()].join(format!("{:024}", now()));
        File::create_new(&path)?;
        made.push(path);
        if made.len() == 1_000 {
            made.drain(..).try_for_each(fs::remove_file)?;
        }
    }
    Ok(())
}

fn rename(order: &Order, dirs: &[PathBuf]) -> Result<(), Box<dyn Error>> {
    let mut pace = Pace::new(order.rate / 2);
    for i in 0..order.count as usize / 2 {
        pace.wait();
        let file = i % dirs.len();
        let (one, other) = (format!("{file:024}"), format!("{file:023}x"));
        let (from, to) = if (i / dirs.len()).is_multiple_of(2) {
            (one, other)
        } else {
            (other, one)
        };
        fs::rename(dirs[file].join(from), dirs[file].join(to))?;
    }
    Ok(())
}

/// Open loop: when it falls behind, it does not wait until it has caught up.
struct Pace {
    next: u64,
    gap: u64,
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self {
            next: now(),
            gap: 1_000_000_000u64.checked_div(rate).unwrap_or(0),
        }
    }

    fn wait(&mut self) {
        if self.gap == 0 {
            return;
        }
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
}
