//! What comes and goes while the lanes read: watches, instances, trees. Each is its own producer, and counts.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use ringwatch::tree::Tree;
use ringwatch::{Barrier, EventBatch, Inotify, Mask};

use super::lane::{Result, backend, patiently};
use super::plan::{CHURNED, Random, Setup};
use super::tree::STATIC;

/// Writes to two files in turn, since equal events in a row become one.
struct Writer([File; 2]);

impl Writer {
    fn new(dir: &std::path::Path) -> Result<Self> {
        Ok(Self([File::create(dir.join("x"))?, File::create(dir.join("y"))?]))
    }

    fn write(&self, times: u64) -> Result<()> {
        for number in 0..times {
            self.0[number as usize % 2].write_at(b"x", 0)?;
        }
        Ok(())
    }
}

/// Adds and removes watches of these instances, in bursts at full speed with some rest, so that their events are not too
/// many to be kept while a consumer stalls. Answers how many, instance by instance.
pub fn watches(setup: &Setup, inotifies: &[Inotify], stop: &AtomicBool) -> Result<Vec<u64>> {
    const BURST: usize = 64;
    let dirs: Vec<_> = (0..CHURNED).map(|number| setup.churned(number)).collect();
    let writers = dirs.iter().map(|dir| Writer::new(dir)).collect::<Result<Vec<_>>>()?;
    let mut churned = vec![0; inotifies.len()];
    for round in 0.. {
        if stop.load(Ordering::Relaxed) || inotifies.is_empty() {
            break;
        }
        if round % BURST == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        let (instance, number) = (round % inotifies.len(), round / inotifies.len() % CHURNED);
        let inotify = &inotifies[instance];
        let watch = inotify.add_watch(&dirs[number], Mask::MODIFY)?;
        writers[number].write(number as u64)?;
        inotify.rm_watch(&watch)?;
        churned[instance] += 1;
    }
    Ok(churned)
}

/// Makes instances, has each see some events of its own, and drops it, in one order or another.
pub fn instances(setup: &Setup, seed: u64, stop: &AtomicBool) -> Result<u64> {
    let dir = tempfile::tempdir_in(&setup.dir)?;
    let writer = Writer::new(dir.path())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut random = Random::new(seed);
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let builder = Inotify::builder().backend(backend(setup, random.one_in(2))?);
        let inotify = patiently(|| builder.clone().build())?;
        inotify.add_watch(dir.path(), Mask::MODIFY)?;
        let events = random.below(500);
        let mut count = Count::default();
        let half = random.below(4);
        match half {
            0 => {
                let mut stream = inotify.stream()?;
                writer.write(events)?;
                count.finish(|| stream.wait(), inotify.barrier()?)?;
            }
            1 => {
                let mut reader = inotify.reader()?;
                writer.write(events)?;
                count.finish(|| reader.wait(), inotify.barrier()?)?;
            }
            2 => {
                // What was read and not delivered is for the next.
                let mut stream = inotify.stream()?;
                writer.write(events)?;
                let end = inotify.barrier()?;
                count.add(&stream.wait().ok_or("it ended")??, end);
                drop(stream);
                let mut reader = inotify.reader()?;
                count.finish(|| reader.wait(), end)?;
            }
            _ => {
                let reader = inotify.reader()?;
                let mut stream = runtime.block_on(async { reader.into_stream() })?;
                writer.write(events)?;
                count.finish(|| runtime.block_on(stream.next()), inotify.barrier()?)?;
            }
        }
        if !(count.seen == events || count.overflowed && count.seen < events) {
            return Err(format!("an instance that was just made: {count:?} of {events} events (half {half})").into());
        }
        rounds += 1;
    }
    Ok(rounds)
}

/// Events up to a barrier, and whether a loss was said.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    seen: u64,
    overflowed: bool,
    ended: bool,
}

impl Count {
    fn add(&mut self, batch: &EventBatch, end: Barrier) {
        for event in batch {
            self.seen += u64::from(event.mask().contains(Mask::MODIFY));
            self.overflowed |= event.mask().contains(Mask::Q_OVERFLOW);
            self.ended |= event.barrier() == Some(end);
        }
    }

    fn finish(&mut self, mut next: impl FnMut() -> Option<ringwatch::Result<EventBatch>>, end: Barrier) -> Result<()> {
        while !self.ended {
            self.add(&next().ok_or("it ended")??, end);
        }
        Ok(())
    }
}

/// Opens trees over what the producer changes, lists what is there, and closes them at one time or another.
pub fn trees(setup: &Setup, seed: u64, stop: &AtomicBool) -> Result<u64> {
    let mut random = Random::new(seed);
    let mut rounds = 0;
    let kept = setup.tree().join("static");
    while !stop.load(Ordering::Relaxed) {
        let builder = Tree::builder(setup.tree())
            .backend(backend(setup, random.one_in(2))?)
            .report_existing(true);
        let tree = patiently(|| builder.clone().open())?;
        rounds += 1;
        if random.one_in(4) {
            continue;
        }
        let mut stream = tree.stream()?;
        if random.one_in(4) {
            drop(tree);
            drop(stream.wait());
            continue;
        }
        let barrier = tree.barrier()?;
        let mut found = 0;
        'all: loop {
            let batch = stream.wait().ok_or("it ended")??;
            for change in &batch {
                found += usize::from(!change.is_dir() && change.dir().is_some_and(|dir| dir.starts_with(&kept)));
                if change.barrier() == Some(barrier) {
                    break 'all;
                }
            }
        }
        if found != STATIC {
            return Err(format!("a tree that was just opened found {found} of {STATIC} files").into());
        }
        // A root more, and gone again.
        let more = setup.churned(0);
        tree.add_root(&more)?;
        tree.remove_root(&more)?;
        fs::metadata(&kept)?;
    }
    Ok(rounds)
}

/// A thread that churns until it is told to stop.
pub struct Churner<T> {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<T>>,
}

impl<T: Send + 'static> Churner<T> {
    pub fn new(body: impl FnOnce(&AtomicBool) -> Result<T> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        Self {
            stop,
            thread: thread::spawn(move || body(&told)),
        }
    }

    /// None if it has not ended by then.
    pub fn stop(self, by: Instant) -> Option<Result<T>> {
        self.stop.store(true, Ordering::Relaxed);
        while !self.thread.is_finished() {
            if Instant::now() >= by {
                return None;
            }
            thread::sleep(Duration::from_millis(1));
        }
        Some(self.thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
    }
}
