//! A full queue, drained and looked at: what an event costs when nobody waits for it.

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ringwatch::{EventBatch, Inotify, Limits, Mask, Reader, Watch};

use crate::bare::{self, BUFFER};
use crate::halves;
use crate::measure::cpu;
use crate::producer::{self, Kind};
use crate::run::{honest, scratch};
use crate::table::{Spread, Table};

/// Less than the queue holds by default.
const EVENTS: u64 = 16_000;
const CONSUMERS: [&str; 4] = ["reader-uring", "reader-epoll", "stream-uring", "stream-epoll"];

/// Until every thread sleeps. That costs some microseconds, for everybody.
const SETTLE: Duration = Duration::from_millis(4);

/// Nanoseconds of CPU an event, of the whole process, by round.
#[derive(Clone, Debug)]
pub struct Drained {
    pub consumer: String,
    pub looked: Vec<f64>,
    /// With the path written too; the bare loop has none.
    pub with_path: Vec<f64>,
}

/// What is drained: an instance of its own, with a directory of its own.
struct Subject {
    name: String,
    files: Vec<File>,
    half: Half,
}

enum Half {
    Bare {
        fd: OwnedFd,
        buffer: Vec<u64>,
    },
    Reader {
        reader: Reader,
        watch: Watch,
    },
    /// Opened when the queue is full, or it would never be.
    Stream {
        inotify: Inotify,
        watch: Watch,
    },
}

/// What was looked at.
#[derive(Default)]
struct Looked {
    events: u64,
    overflows: u64,
    masks: u32,
    bytes: usize,
    watched: u64,
    path: PathBuf,
}

impl Looked {
    fn batch(&mut self, batch: &EventBatch, watch: &Watch, with_path: bool) {
        for event in batch {
            self.overflows += u64::from(event.mask().contains(Mask::Q_OVERFLOW));
            self.masks |= event.mask().bits();
            self.bytes += event.name().map_or(0, |name| name.len());
            self.watched += u64::from(event.watch() == Some(watch));
            if with_path && event.write_path(&mut self.path) {
                self.bytes += self.path.as_os_str().len();
            }
            self.events += 1;
        }
    }

    fn record(&mut self, wd: u32, mask: u32, name: &[u8]) {
        self.overflows += u64::from(mask & libc::IN_Q_OVERFLOW != 0);
        self.masks |= mask;
        self.bytes += name.len();
        self.watched += u64::from(wd == 1);
        self.events += 1;
    }
}

impl Subject {
    fn new(name: &str, place: &Path) -> Result<Self, Box<dyn Error>> {
        let dirs = [place.join(name)];
        producer::prepare(Kind::Modify, &dirs)?;
        let half = if name == "bare" {
            Half::Bare {
                fd: bare::instance(libc::IN_NONBLOCK, &dirs, libc::IN_MODIFY)?,
                buffer: vec![0; BUFFER / 8],
            }
        } else {
            let inotify = halves::inotify(name)?;
            let watch = inotify.add_watch(&dirs[0], Mask::MODIFY)?;
            if name.starts_with("reader") {
                let reader = inotify.reader()?;
                Half::Reader { reader, watch }
            } else {
                Half::Stream { inotify, watch }
            }
        };
        let files = producer::files(&dirs)?;
        Ok(Self {
            name: name.to_owned(),
            files,
            half,
        })
    }

    /// Fills the queue, and answers what an event costs to drain.
    fn drain(&mut self, events: u64, with_path: bool) -> Result<f64, Box<dyn Error>> {
        for i in 0..events as usize {
            self.files[i % self.files.len()].write_at(b"x", 0)?;
        }
        let mut looked = Looked::default();
        let before = cpu();
        match &mut self.half {
            Half::Bare { fd, buffer } => {
                while let Some(bytes) = bare::records(fd.as_raw_fd(), buffer) {
                    bare::decode(bytes, |wd, mask, name| looked.record(wd, mask, name));
                }
            }
            Half::Reader { reader, watch } => {
                while looked.events < events {
                    let batch = reader.wait().ok_or("the reader ended")??;
                    looked.batch(&batch, watch, with_path);
                    drop(batch);
                }
            }
            Half::Stream { inotify, watch } => {
                let mut stream = inotify.stream()?;
                while looked.events < events {
                    let batch = stream.wait().ok_or("the stream ended")??;
                    looked.batch(&batch, watch, with_path);
                    drop(batch);
                }
            }
        }
        // The time of another thread that runs right now is known when it next sleeps.
        thread::sleep(SETTLE);
        let after = cpu();
        black_box((looked.masks, looked.bytes));
        honest(&self.name, 0, events, looked.watched, looked.overflows)?;
        Ok((after - before) as f64 / events as f64)
    }
}

/// Every subject in turn, round after round; a first round, in which memory is touched for the first time, does not count.
pub fn drain(rounds: usize) -> Result<Vec<Drained>, Box<dyn Error>> {
    let dir = scratch()?;
    let events = EVENTS.min(Limits::read()?.max_queued_events.saturating_sub(1));
    let names = std::iter::once("bare").chain(CONSUMERS);
    let mut subjects: Vec<Subject> = names
        .map(|name| Subject::new(name, dir.path()))
        .collect::<Result<_, _>>()?;
    let mut drained: Vec<Drained> = subjects
        .iter()
        .map(|subject| Drained {
            consumer: subject.name.clone(),
            looked: Vec::new(),
            with_path: Vec::new(),
        })
        .collect();
    for round in 0..=rounds {
        for (subject, drained) in subjects.iter_mut().zip(&mut drained) {
            let looked = subject.drain(events, false)?;
            let with_path = if subject.name == "bare" {
                f64::NAN
            } else {
                subject.drain(events, true)?
            };
            if round > 0 {
                drained.looked.push(looked);
                drained.with_path.push(with_path);
            }
        }
    }
    Ok(drained)
}

/// Of a consumer, as a ratio to the bare loop in the same round.
pub fn ratio(drained: &[Drained], consumer: &str) -> Option<Spread> {
    let of = |name: &str| drained.iter().find(|drained| drained.consumer == name);
    let pairs = of(consumer)?.looked.iter().zip(&of("bare")?.looked);
    Spread::of(pairs.map(|(mine, bare)| mine / bare))
}

/// What the path costs, in nanoseconds an event.
pub fn path(drained: &Drained) -> Option<Spread> {
    Spread::of(
        drained
            .with_path
            .iter()
            .zip(&drained.looked)
            .map(|(with, without)| with - without),
    )
}

pub fn print(drained: &[Drained]) {
    let rounds = drained.first().map_or(0, |drained| drained.looked.len());
    println!("\nA full queue of {EVENTS} events drained, masks, names and watches looked at; {rounds} rounds");
    let mut table = Table::default();
    for one in drained {
        table.line();
        table.text("consumer", one.consumer.clone());
        let looked = Spread::of(one.looked.iter().copied());
        table.number("CPU ns/ev", looked.map(|spread| spread.median), 1);
        table.range("", looked, 1);
        let ratio = ratio(drained, &one.consumer);
        table.number("ratio", ratio.map(|spread| spread.median), 3);
        table.range("", ratio, 3);
        let path = path(one);
        table.number("path ns/ev more", path.map(|spread| spread.median), 1);
        table.range("", path, 1);
    }
    table.print();
}
