//! Under load: order is kept, nothing is missing, nothing comes twice, whatever the consumer does.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use futures_util::{StreamExt, poll};
use ringwatch::{EventBatch, Inotify, Mask};
use support::{backends, often, on_every_backend};

/// Makes files with numbered names in a directory, never so far ahead of the consumer that the kernel's queue overflows.
struct Numbered {
    dir: PathBuf,
    count: usize,
    seen: AtomicUsize,
}

/// Below the least `max_queued_events` of any system the tests run on.
const AHEAD: usize = 12_000;

impl Numbered {
    fn new(dir: &Path, count: usize) -> Self {
        Self {
            dir: dir.to_owned(),
            count,
            seen: AtomicUsize::new(0),
        }
    }

    fn produce(&self) {
        let mut made = Vec::new();
        for number in 0..self.count {
            while number.saturating_sub(self.seen.load(Ordering::Relaxed)) >= AHEAD {
                support::pause();
            }
            let path = self.dir.join(format!("{number:012}"));
            fs::File::create(&path).expect("a file");
            made.push(path);
            if made.len() == 500 {
                made.drain(..).for_each(|path| fs::remove_file(path).expect("no file"));
            }
        }
    }

    /// Checks that the events go on where those before ended. Answers whether that was the last.
    fn check(&self, batch: &EventBatch) -> bool {
        let _release = Release(self);
        let mut next = self.seen.load(Ordering::Relaxed);
        assert!(!batch.is_empty() && !batch.overflowed(), "behind {next}: {batch:?}");
        let mut length = 0;
        for event in batch {
            assert_eq!(event.mask(), Mask::CREATE);
            let name = event.name().and_then(|name| name.to_str()).expect("a name");
            assert_eq!(name.parse(), Ok(next), "in {batch:?}");
            next += 1;
            length += 1;
        }
        assert_eq!(length, batch.len());
        self.seen.store(next, Ordering::Relaxed);
        next == self.count
    }
}

/// If the check fails, the producer does not wait for it any longer.
struct Release<'a>(&'a Numbered);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.seen.store(self.0.count, Ordering::Relaxed);
        }
    }
}

/// A directory whose files cost little.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()),
        false => tempfile::tempdir(),
    }
    .expect("a directory")
}

fn complete_and_in_order(count: usize, rest: impl Fn(usize)) {
    on_every_backend(|setup| {
        let dir = directory();
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::CREATE);
        let numbered = Numbered::new(dir.path(), count);
        thread::scope(|scope| {
            scope.spawn(|| numbered.produce());
            for batches in 0.. {
                if numbered.check(&recorder.batch()) {
                    break;
                }
                rest(batches);
            }
        });
        // Nothing comes behind the last.
        assert_eq!(recorder.events(), []);
        let stats = recorder.inotify.stats();
        assert_eq!(stats.events, count as u64 + 1);
        assert_eq!((stats.overflows, stats.budget_used, stats.kernel_queue), (0, 0, 0));
        assert!(stats.batches <= stats.reads && stats.wakeups <= stats.reads);
    });
}

#[test]
fn a_fast_consumer_gets_all_events_in_order() {
    complete_and_in_order(often(200_000), |_| {});
}

#[test]
fn a_slow_consumer_gets_all_events_in_order() {
    complete_and_in_order(often(60_000), |_| thread::sleep(Duration::from_micros(200)));
}

#[test]
fn a_consumer_that_stops_now_and_then_gets_all_events_in_order() {
    complete_and_in_order(often(100_000), |batches| {
        if batches % 50 == 0 {
            thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn a_consumer_that_holds_its_batches_gets_all_events_in_order() {
    // Few small buffers, so that reading starves and resumes again and again.
    on_every_backend(|setup| {
        let dir = directory();
        let builder = setup.builder().buffers(6).buffer_size(1024);
        let mut recorder = setup.read(builder.build().expect("an instance"));
        recorder.watch(dir.path(), Mask::CREATE);
        let numbered = Numbered::new(dir.path(), often(40_000));
        thread::scope(|scope| {
            scope.spawn(|| numbered.produce());
            let mut held = Vec::new();
            loop {
                let batch = recorder.batch();
                let last = numbered.check(&batch);
                held.push(batch);
                if held.len() == 5 {
                    held.clear();
                }
                if last {
                    break;
                }
            }
        });
        assert_eq!(recorder.inotify.stats().budget_used, 0);
    });
}

#[test]
fn a_stalled_stream_fills_nearly_the_whole_budget_then_the_kernels_queue_then_says_what_was_lost() {
    for &backend in backends() {
        let dir = directory();
        let builder = Inotify::builder().backend(backend).batch_window(Duration::ZERO);
        let inotify = builder.buffers(16).buffer_size(4096).build().expect("an instance");
        inotify.add_watch(dir.path(), Mask::MODIFY).expect("a watch");
        let mut stream = inotify.stream().expect("a stream");
        let mut flood = support::Flood::new(dir.path());
        // Each read brings little, since the reader is woken for every event. A buffer that was just filled, and is about to
        // be emptied into the one before, counts as used for a moment.
        let mut full = 0;
        for _ in 0..1_000_000 {
            let stats = inotify.stats();
            let is_full = stats.budget_used == stats.budget && stats.kernel_queue > 0;
            full = if is_full { full + 1 } else { 0 };
            if full == 1_000 {
                break;
            }
            flood.cause(1);
            thread::yield_now();
        }
        let stats = inotify.stats();
        assert!(
            stats.budget_used == stats.budget && stats.kernel_queue > 0,
            "{stats:?} on {backend:?}"
        );
        let in_budget = {
            let mut events = 0;
            let mut batches = Vec::new();
            for _ in 0..16 {
                let batch = stream.wait().expect("it goes on").expect("a batch");
                events += batch.len();
                batches.push(batch);
            }
            drop(batches);
            events
        };
        // One event with its name is 32 bytes; the last buffer may hold less than it could.
        assert!(in_budget >= 15 * 4096 / 32, "{in_budget} on {backend:?}");

        // Reading has resumed by itself. Now to the end: everything full, and more.
        let lost_after = |inotify: &Inotify| inotify.stats().overflows;
        flood.cause(80_000);
        let mut overflows = 0;
        let barrier = inotify.barrier().expect("a barrier");
        let reached = stream.blocking().any(|batch| {
            let batch = batch.expect("a batch");
            overflows += u64::from(batch.overflowed());
            batch.iter().any(|event| event.barrier() == Some(barrier))
        });
        assert!(
            reached && overflows >= 1 && lost_after(&inotify) == overflows,
            "on {backend:?}"
        );
    }
}

#[test]
fn a_consumer_that_drops_next_half_way_thousands_of_times_misses_nothing() {
    for &backend in backends() {
        let dir = directory();
        let inotify = Inotify::builder().backend(backend).batch_window(Duration::ZERO);
        let inotify = inotify.build().expect("an instance");
        inotify.add_watch(dir.path(), Mask::CREATE).expect("a watch");
        let mut stream = inotify.stream().expect("a stream");
        let numbered = Numbered::new(dir.path(), often(60_000));
        let mut dropped = 0;
        thread::scope(|scope| {
            scope.spawn(|| numbered.produce());
            futures_executor::block_on(async {
                loop {
                    // Polled once, so that it is registered, then dropped.
                    let once = {
                        let next = pin!(stream.next());
                        poll!(next)
                    };
                    let batch = match once {
                        Poll::Ready(batch) => batch,
                        Poll::Pending if dropped % 10 == 9 => {
                            dropped += 1;
                            stream.next().await
                        }
                        Poll::Pending => {
                            dropped += 1;
                            continue;
                        }
                    };
                    if numbered.check(&batch.expect("it goes on").expect("a batch")) {
                        break;
                    }
                }
            });
        });
        assert!(dropped > often(2_000), "only {dropped} dropped on {backend:?}");
    }
}

#[test]
fn a_reading_half_delivers_what_the_one_before_had_read() {
    for &backend in backends() {
        let dir = directory();
        let inotify = Inotify::builder().backend(backend).build().expect("an instance");
        inotify.add_watch(dir.path(), Mask::CREATE).expect("a watch");
        let numbered = Numbered::new(dir.path(), often(40_000));
        thread::scope(|scope| {
            scope.spawn(|| numbered.produce());
            for round in 0.. {
                let last = if round % 2 == 0 {
                    let mut stream = inotify.stream().expect("a stream");
                    (0..round % 7).any(|_| numbered.check(&stream.wait().expect("it goes on").expect("a batch")))
                } else {
                    let mut reader = inotify.reader().expect("a reader");
                    (0..round % 7).any(|_| numbered.check(&reader.wait().expect("it goes on").expect("a batch")))
                };
                if last {
                    break;
                }
            }
        });
    }
}

#[test]
fn watches_are_added_and_removed_while_the_queue_never_drains() {
    on_every_backend(|setup| {
        let dir = directory();
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::MODIFY);
        let inotify = recorder.inotify.clone();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut flood = support::Flood::new(dir.path());
                while !done.load(Ordering::Relaxed) {
                    flood.cause(100);
                }
            });
            let controls = [0, 1].map(|thread| {
                let (inotify, dir) = (&inotify, dir.path());
                scope.spawn(move || {
                    for round in 0..1_000 {
                        let path = dir.join(format!("watched-{thread}-{round}"));
                        fs::create_dir(&path).expect("a directory");
                        let watch = inotify.add_watch(&path, Mask::ALL).expect("a watch");
                        inotify.rm_watch(&watch).expect("no watch");
                    }
                })
            });
            while !controls.iter().all(|control| control.is_finished()) {
                // Not so fast that it drains: the flood goes on meanwhile.
                drop(recorder.batch());
            }
            done.store(true, Ordering::Relaxed);
        });
        recorder.skip_to_now();
        assert_eq!(recorder.inotify.watches().len(), 1);
    });
}

#[test]
fn watches_are_added_and_removed_while_nobody_reads() {
    on_every_backend(|setup| {
        let dir = directory();
        let recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::MODIFY);
        support::Flood::new(dir.path()).cause(300_000);
        for round in 0..1_000 {
            let path = dir.path().join(format!("watched-{round}"));
            fs::create_dir(&path).expect("a directory");
            let watch = recorder.watch(&path, Mask::ALL);
            recorder.inotify.rm_watch(&watch).expect("no watch");
        }
    });
}
