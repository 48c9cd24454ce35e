//! Consumers with an instance for each directory, all in one process.

use std::error::Error;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use ringwatch::{Inotify, Mask};
use tokio::task::LocalSet;

use crate::bare::{self, BUFFER, Epoll};
use crate::crates;
use crate::histogram::Histogram;
use crate::job::{Order, say};
use crate::measure::{Figures, Meter, Said, Seen, now, said};

/// Every consumer by name. `streams` share a thread and a ring, as streams with one window do; `threads` of ringwatch is
/// the same with a window of its own for each, by a microsecond, so that each has its own thread and ring.
pub const CONSUMERS: &[&str] = &[
    "bare-epoll",
    "bare-threads",
    "inotify-tokio",
    "streams",
    "streams-w1000",
    "streams-threads-w1000",
];

/// What all instances of a run have in common.
#[derive(Debug, Default)]
struct Share {
    /// Latencies of all but the first instance: of events made while the first stalls, and of the others.
    beside: Histogram,
    calm: Histogram,
    /// When the stall began, and when it was over; 0 is not yet.
    stall_began: AtomicU64,
    stall_ended: AtomicU64,
}

/// One instance's own count.
#[derive(Debug)]
struct Slot {
    share: Arc<Share>,
    first: bool,
    events: u64,
    overflows: u64,
    ended: bool,
    /// How long to stall, after how many events.
    stall: Duration,
    stall_after: u64,
}

impl Slot {
    #[inline]
    fn see(&mut self, mask: u32, name: &[u8]) {
        match said(mask, name) {
            Said::Event => self.events += 1,
            Said::Made(at) => {
                self.events += 1;
                if !self.first {
                    self.record(at);
                }
            }
            Said::Overflow => self.overflows += 1,
            Said::End => self.ended = true,
            Said::Nothing => {}
        }
    }

    fn record(&self, made: u64) {
        let began = self.share.stall_began.load(Ordering::Relaxed);
        let ended = self.share.stall_ended.load(Ordering::Relaxed);
        let beside = began > 0 && made >= began && (ended == 0 || made < ended);
        let latencies = if beside { &self.share.beside } else { &self.share.calm };
        latencies.record(now().saturating_sub(made));
    }

    /// How long to stall now, if at all. Whoever stalls calls `stalled` when it is over.
    fn stalls(&mut self) -> Option<Duration> {
        if self.stall.is_zero() || self.events < self.stall_after {
            return None;
        }
        self.share.stall_began.store(now(), Ordering::Relaxed);
        Some(std::mem::take(&mut self.stall))
    }

    fn stalled(&self) {
        self.share.stall_ended.store(now(), Ordering::Relaxed);
    }

    fn stall_in_place(&mut self) {
        if let Some(time) = self.stalls() {
            thread::sleep(time);
            self.stalled();
        }
    }
}

/// All instances of a run.
struct Crowd {
    dirs: Vec<PathBuf>,
    mask: u32,
    slots: Vec<Slot>,
    share: Arc<Share>,
    meter: Meter,
}

pub fn consume(name: &str, order: &Order) -> Result<Figures, Box<dyn Error>> {
    let share = Arc::new(Share::default());
    let dirs = order.paths();
    let each = order.count / dirs.len() as u64;
    let slot = |i: usize| Slot {
        share: Arc::clone(&share),
        first: i == 0,
        events: 0,
        overflows: 0,
        ended: false,
        stall: if i == 0 { order.stall() } else { Duration::ZERO },
        // Not at the start, which has delays of its own, and not so late that the producer is done.
        stall_after: each / 4,
    };
    let crowd = Crowd {
        slots: (0..dirs.len()).map(slot).collect(),
        dirs,
        mask: order.mask(),
        share,
        meter: order.meter()?,
    };
    match name {
        "bare-epoll" => bare_epoll(crowd),
        "bare-threads" => bare_threads(crowd),
        "inotify-tokio" => inotify_tokio(crowd),
        _ if name.starts_with("streams") => streams(crowd, name),
        _ => Err(format!("no consumer of many instances is named {name:?}").into()),
    }
}

impl Crowd {
    fn ready(&mut self) {
        say("ready");
        self.meter.begin();
    }

    fn figures(&self, slots: &[Slot]) -> Figures {
        let seen = Seen {
            events: slots.iter().map(|slot| slot.events).sum(),
            overflows: slots.iter().map(|slot| slot.overflows).sum(),
            ..Seen::default()
        };
        Figures {
            latency: self.share.calm.percentiles(),
            latency_beside: self.share.beside.percentiles(),
            ..self.meter.end(&seen)
        }
    }
}

/// The instances of the run before are given back a while after it has ended, and a user has 128 of them.
fn patiently<T>(mut make: impl FnMut() -> Result<T, Box<dyn Error>>) -> Result<T, Box<dyn Error>> {
    const PATIENCE: u64 = 5_000_000_000;
    let deadline = now() + PATIENCE;
    loop {
        match make() {
            Err(_) if now() < deadline => thread::sleep(Duration::from_millis(20)),
            made => return made,
        }
    }
}

/// One loop for all. It has nobody else to go on when it stalls.
fn bare_epoll(mut crowd: Crowd) -> Result<Figures, Box<dyn Error>> {
    let mut fds = Vec::new();
    for dir in &crowd.dirs {
        let make = || bare::instance(libc::IN_NONBLOCK, std::slice::from_ref(dir), crowd.mask);
        fds.push(patiently(make)?);
    }
    let epoll = Epoll::new(&fds)?;
    let mut room = bare::room(fds.len());
    let mut buffer = vec![0; BUFFER / 8];
    let mut slots = std::mem::take(&mut crowd.slots);
    crowd.ready();
    while slots.iter().any(|slot| !slot.ended) {
        for i in epoll.wait(&mut room)? {
            let slot = &mut slots[i];
            while let Some(bytes) = bare::records(fds[i].as_raw_fd(), &mut buffer) {
                bare::decode(bytes, |_, mask, name| slot.see(mask, name));
                slot.stall_in_place();
            }
        }
    }
    Ok(crowd.figures(&slots))
}

/// A thread for each, with reads that wait.
fn bare_threads(mut crowd: Crowd) -> Result<Figures, Box<dyn Error>> {
    let slots = std::mem::take(&mut crowd.slots);
    let met = Arc::new(Barrier::new(slots.len() + 1));
    let mut threads = Vec::new();
    let (send, counted) = std::sync::mpsc::channel();
    for (dir, mut slot) in crowd.dirs.iter().zip(slots) {
        let fd = patiently(|| bare::instance(0, std::slice::from_ref(dir), crowd.mask))?;
        let (met, send) = (Arc::clone(&met), send.clone());
        threads.push(thread::spawn(move || {
            let mut buffer = vec![0; BUFFER / 8];
            met.wait();
            while !slot.ended
                && let Some(bytes) = bare::records(fd.as_raw_fd(), &mut buffer)
            {
                bare::decode(bytes, |_, mask, name| slot.see(mask, name));
                slot.stall_in_place();
            }
            let _ = send.send(slot);
            // Memory and threads are looked at while all are there.
            met.wait();
        }));
    }
    met.wait();
    crowd.ready();
    let slots: Vec<Slot> = counted.iter().take(threads.len()).collect();
    let figures = crowd.figures(&slots);
    met.wait();
    Ok(figures)
}

/// One current-thread runtime with a task for each, which sleeps when it stalls.
fn on_tokio<S: 'static>(
    mut crowd: Crowd,
    mut open: impl FnMut(usize, &Path, u32) -> Result<S, Box<dyn Error>>,
    see: impl AsyncFn(S, &mut Slot) -> Result<S, Box<dyn Error>> + 'static,
) -> Result<Figures, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    LocalSet::new().block_on(&runtime, async move {
        let see = Rc::new(see);
        let mut opened = Vec::new();
        for (i, dir) in crowd.dirs.iter().enumerate() {
            opened.push(patiently(|| open(i, dir, crowd.mask))?);
        }
        let slots = std::mem::take(&mut crowd.slots);
        crowd.ready();
        let tasks: Vec<_> = opened
            .into_iter()
            .zip(slots)
            .map(|(stream, mut slot)| {
                let see = Rc::clone(&see);
                tokio::task::spawn_local(async move {
                    let stream = see(stream, &mut slot).await.map_err(|error| error.to_string())?;
                    Ok::<_, String>((slot, stream))
                })
            })
            .collect();
        let (mut slots, mut streams) = (Vec::new(), Vec::new());
        for task in tasks {
            let (slot, stream) = task.await??;
            slots.push(slot);
            // Memory and threads are looked at while all are there.
            streams.push(stream);
        }
        Ok(crowd.figures(&slots))
    })
}

async fn stall_task(slot: &mut Slot) {
    if let Some(time) = slot.stalls() {
        tokio::time::sleep(time).await;
        slot.stalled();
    }
}

fn streams(crowd: Crowd, name: &str) -> Result<Figures, Box<dyn Error>> {
    let threads = name.contains("-threads");
    let window: Option<u64> = name.split('-').find_map(|part| part.strip_prefix('w')?.parse().ok());
    let open = |i: usize, dir: &Path, mask: u32| {
        let mut builder = Inotify::builder();
        if let Some(window) = window {
            let own = if threads { i as u64 } else { 0 };
            builder = builder.batch_window(Duration::from_micros(window + own));
        }
        let inotify = builder.build()?;
        inotify.add_watch(dir, Mask::from_bits_retain(mask))?;
        Ok(inotify.stream()?)
    };
    on_tokio(crowd, open, async |mut stream, slot: &mut Slot| {
        while !slot.ended {
            let batch = next(&mut stream).await??;
            for event in &batch {
                let name = event.name().map_or(&[][..], OsStrExt::as_bytes);
                slot.see(event.mask().bits(), name);
            }
            drop(batch);
            stall_task(slot).await;
        }
        Ok(stream)
    })
}

fn inotify_tokio(crowd: Crowd) -> Result<Figures, Box<dyn Error>> {
    let open = |_: usize, dir: &Path, mask: u32| {
        let inotify = crates::inotify(&[dir.to_owned()], mask)?;
        Ok(inotify.into_event_stream(vec![0; BUFFER])?)
    };
    on_tokio(crowd, open, async |mut stream, slot: &mut Slot| {
        while !slot.ended {
            let event = next(&mut stream).await??;
            slot.see(
                event.mask.bits(),
                event.name.as_deref().map_or(&[][..], OsStrExt::as_bytes),
            );
            stall_task(slot).await;
        }
        Ok(stream)
    })
}

async fn next<S: Stream + Unpin>(stream: &mut S) -> Result<S::Item, Box<dyn Error>> {
    stream
        .next()
        .await
        .ok_or_else(|| "the stream ended before the end".into())
}
