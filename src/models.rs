//! Models of what threads hand over to each other, for loom, which runs each in every order in which its threads can meet,
//! with no more than a few interruptions of one by another (see [`MODELS`]).
//!
//! Only under `--cfg loom`: `bash ci/loom`. The pool, the queue, the notifier, the outlet of a tree and the driver's mailbox are
//! the real ones; what drives an engine is a few lines here, for the kernel is not loom's. Each model ends with every buffer
//! back in its pool, and loom fails it if a thread waits for ever, or if two touch a buffer with nothing to order them.
#![allow(missing_docs, reason = "it is not part of the library")]

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use loom::thread;

use crate::decode::Records;
use crate::driver::Driver;
use crate::error::ErrorKind;
use crate::queue::{Feed, Half, Taken};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::sys::notifier::Notifier;
use crate::sys::pool::{Buffer, Pool};
use crate::tree::a_tree_waits_for_room;

/// Each with its name, and how often one thread may interrupt another in it; the rest is tried without a limit.
pub const MODELS: &[(&str, usize, fn())] = &[
    ("a thread waits for buffers", 3, a_thread_waits_for_buffers),
    ("a task waits for buffers", 3, a_task_waits_for_buffers),
    (
        "buffers are lent as they come back",
        3,
        buffers_are_lent_as_they_come_back,
    ),
    ("an event loop waits for buffers", 3, an_event_loop_waits_for_buffers),
    ("small reads are put together", 3, small_reads_are_put_together),
    (
        "batches are dropped on another thread",
        3,
        batches_are_dropped_elsewhere,
    ),
    ("close ends a stream behind what was read", 3, close_ends_a_stream),
    ("close ends a reader that waits", 3, close_ends_a_reader),
    ("a place is taken over", 3, a_place_is_taken_over),
    ("a driver that failed lets go", 3, a_failed_driver_lets_go),
    (
        "what was read and not taken is the next one's",
        3,
        what_is_left_is_the_next_ones,
    ),
    ("signals are folded and not lost", 4, signals_are_folded_and_not_lost),
    ("a tree waits for room", 3, a_tree_waits_for_room),
];

/// The kernel's part of an eventfd.
#[derive(Debug)]
pub(crate) struct EventFd {
    count: Mutex<u64>,
    above_zero: Condvar,
}

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            count: Mutex::new(0),
            above_zero: Condvar::new(),
        })
    }

    pub(crate) fn add_one(&self) -> bool {
        *self.count.lock().expect("the count") += 1;
        self.above_zero.notify_all();
        true
    }

    pub(crate) fn take(&self) -> bool {
        std::mem::take(&mut *self.count.lock().expect("the count")) > 0
    }

    /// In a model, no time is ever over.
    pub(crate) fn wait(&self, _: Duration) -> io::Result<bool> {
        let mut count = self.count.lock().expect("the count");
        while *count == 0 {
            count = self.above_zero.wait(count).expect("the count");
        }
        Ok(true)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!("no model gives a descriptor to the kernel")
    }
}

/// What an executor does for a task: runs it again once it was woken.
pub(crate) struct Executor(EventFd);

impl Wake for Executor {
    fn wake(self: Arc<Self>) {
        self.0.add_one();
    }
}

impl Executor {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(EventFd::new().expect("a count")))
    }

    pub(crate) fn run<T>(self: &Arc<Self>, mut poll: impl FnMut(&Waker) -> Option<T>) -> T {
        let waker = Waker::from(Arc::clone(self));
        loop {
            if let Some(ready) = poll(&waker) {
                return ready;
            }
            self.0.wait(Duration::MAX).expect("a wait");
            self.0.take();
        }
    }
}

/// Records of 32 bytes: one fits a buffer of 32, two one of 64.
const RECORD: usize = 32;

struct Scene {
    feed: Arc<Feed>,
    notifier: Arc<Notifier>,
    buffers: usize,
}

impl Scene {
    fn new(buffers: usize, records_a_buffer: usize) -> Self {
        let pool = Pool::new(buffers, records_a_buffer * RECORD).expect("memory");
        Self {
            feed: Feed::new(pool),
            notifier: notifier(),
            buffers,
        }
    }

    /// A thread that reads, as an engine does: without a buffer it waits for the signal that one came back.
    fn read(&self, records: Range<i32>) -> thread::JoinHandle<()> {
        let (feed, notifier) = (Arc::clone(&self.feed), Arc::clone(&self.notifier));
        thread::spawn(move || {
            let mut spare = None;
            for number in records {
                let mut buffer = loop {
                    if let Some(buffer) = spare.take().or_else(|| feed.pool.take_or_starve(&notifier)) {
                        break buffer;
                    }
                    notifier.sleep(Duration::MAX);
                    notifier.clear();
                };
                let fields = [number.cast_unsigned(), 0, 0, 16];
                fields
                    .iter()
                    .for_each(|field| assert!(buffer.append(&field.to_ne_bytes())));
                assert!(buffer.append(b"a name\0\0\0\0\0\0\0\0\0\0"));
                spare = feed.push(buffer);
            }
        })
    }

    /// Every buffer is back, once.
    fn end(self) {
        assert_eq!(self.feed.pool.free(), self.buffers, "a buffer is lost");
        let buffers: Vec<_> = std::iter::from_fn(|| self.feed.pool.take()).collect();
        let mut names: Vec<_> = buffers.iter().map(|buffer| format!("{buffer:?}")).collect();
        names.dedup();
        assert_eq!(names.len(), self.buffers, "a buffer was given back twice");
    }
}

fn notifier() -> Arc<Notifier> {
    Arc::new(Notifier::new().expect("a notifier"))
}

/// Takes what there is and checks that it goes on where it was. False once it was closed.
fn consume(taken: Taken, next: &mut i32) -> bool {
    match taken {
        Taken::Buffer(buffer) => {
            for record in Records::new(buffer.filled()) {
                assert_eq!(
                    record.expect("well-formed").wd,
                    *next,
                    "lost, or twice, or out of order"
                );
                *next += 1;
            }
            true
        }
        Taken::Closed => false,
        other => panic!("{other:?}"),
    }
}

fn a_thread_waits_for_buffers() {
    let scene = Scene::new(1, 1);
    let reading = scene.read(0..3);
    let mut next = 0;
    while next < 3 {
        consume(scene.feed.queue.wait(None), &mut next);
    }
    reading.join().expect("the reading thread");
    scene.end();
}

fn a_task_waits_for_buffers() {
    let scene = Scene::new(1, 1);
    let reading = scene.read(0..3);
    let executor = Executor::new();
    let mut next = 0;
    while next < 3 {
        let taken = executor.run(|waker| match scene.feed.queue.take(Some(waker)) {
            Taken::Empty => None,
            taken => Some(taken),
        });
        consume(taken, &mut next);
    }
    reading.join().expect("the reading thread");
    scene.end();
}

/// Two buffers are dropped, each on a thread of its own.
fn drop_elsewhere(pool: &Arc<Pool>) -> [thread::JoinHandle<()>; 2] {
    std::array::from_fn(|_| {
        let buffer = pool.take().expect("a buffer");
        thread::spawn(move || assert!(buffer.filled().is_empty()))
    })
}

/// What the kernel does with a buffer that is lent to it.
fn write_to(buffer: &mut Option<Buffer>) {
    assert!(buffer.as_mut().expect("a buffer").append(&[0; RECORD]));
}

/// As `Lane::supply` does it: as many as there are, and if there is none, the signal that one came back.
fn buffers_are_lent_as_they_come_back() {
    let scene = Scene::new(2, 1);
    let (pool, notifier) = (&scene.feed.pool, &scene.notifier);
    let dropping = drop_elsewhere(pool);
    let mut lent = [None, None];
    loop {
        pool.fill(&mut lent);
        if lent[0].is_none() {
            lent[0] = pool.take_or_starve(notifier);
        }
        if lent[0].is_some() {
            break;
        }
        notifier.sleep(Duration::MAX);
        notifier.clear();
    }
    write_to(&mut lent[0]);
    dropping.into_iter().for_each(|one| one.join().expect("a thread"));
    if lent[1].is_none() {
        pool.fill(&mut lent[1..]);
    }
    write_to(&mut lent[1]);
    drop(lent);
    scene.end();
}

/// As `Reader::try_next` does it: it takes nothing before it is called again, and has itself woken for that.
fn an_event_loop_waits_for_buffers() {
    let scene = Scene::new(2, 1);
    let (pool, notifier) = (&scene.feed.pool, &scene.notifier);
    let dropping = drop_elsewhere(pool);
    while pool.starve(notifier) {
        notifier.sleep(Duration::MAX);
        notifier.clear();
    }
    let mut lent = [None];
    pool.fill(&mut lent);
    write_to(&mut lent[0]);
    dropping.into_iter().for_each(|one| one.join().expect("a thread"));
    drop(lent);
    scene.end();
}

fn small_reads_are_put_together() {
    let scene = Scene::new(2, 2);
    let reading = scene.read(0..4);
    let mut next = 0;
    while next < 4 {
        consume(scene.feed.queue.wait(None), &mut next);
    }
    reading.join().expect("the reading thread");
    scene.end();
}

fn batches_are_dropped_elsewhere() {
    let scene = Scene::new(1, 1);
    let reading = scene.read(0..2);
    let Taken::Buffer(first) = scene.feed.queue.wait(None) else {
        panic!("the first record is missing");
    };
    let elsewhere = thread::spawn(move || assert!(consume(Taken::Buffer(first), &mut 0)));
    consume(scene.feed.queue.wait(None), &mut 1);
    reading.join().expect("the reading thread");
    elsewhere.join().expect("the other thread");
    scene.end();
}

fn close_ends_a_stream() {
    let scene = Scene::new(2, 1);
    scene.read(0..1).join().expect("the reading thread");
    let closing: [_; 2] = std::array::from_fn(|_| {
        let feed = Arc::clone(&scene.feed);
        thread::spawn(move || feed.queue.close(&feed))
    });
    let mut next = 0;
    while consume(scene.feed.queue.wait(None), &mut next) {}
    assert_eq!(next, 1, "what was read before is delivered");
    closing.into_iter().for_each(|one| one.join().expect("a thread"));
    scene.end();
}

/// A reader is woken by its notifier, and then looks for news without a lock.
fn close_ends_a_reader() {
    let scene = Scene::new(1, 1);
    let half = Half::Reader(Arc::clone(&scene.notifier));
    scene.feed.enter("model", half, || ()).expect("the place");
    let feed = Arc::clone(&scene.feed);
    let closing = thread::spawn(move || feed.queue.close(&feed));
    while !scene.feed.queue.has_news() {
        scene.notifier.sleep(Duration::MAX);
        scene.notifier.clear();
    }
    assert!(!consume(scene.feed.queue.take(None), &mut 0));
    scene.feed.queue.leave(&scene.feed);
    closing.join().expect("the closing thread");
    scene.end();
}

/// A stream is dropped, and the next half waits until the driver has let go; or the instance is closed meanwhile.
fn a_place_is_taken_over() {
    let scene = Scene::new(1, 1);
    let driver = Driver::modelled(Arc::clone(&scene.notifier));
    let half = Half::Stream(driver.clone());
    scene.feed.enter("model", half, || ()).expect("the place");
    let driving = thread::spawn(move || driver.obey());
    let feed = Arc::clone(&scene.feed);
    let closing = thread::spawn(move || feed.queue.close(&feed));
    scene.feed.queue.leave(&scene.feed);
    let reader = Half::Reader(notifier());
    if let Err(error) = scene.feed.enter("model", reader, || ()) {
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
    closing.join().expect("the closing thread");
    driving.join().expect("the driver");
    assert!(!consume(scene.feed.queue.take(None), &mut 0));
    scene.end();
}

/// The driver's thread fails while the stream is dropped: its place gets free all the same.
fn a_failed_driver_lets_go() {
    let scene = Scene::new(1, 1);
    let driver = Driver::modelled(notifier());
    let half = Half::Stream(driver.clone());
    scene.feed.enter("model", half, || ()).expect("the place");
    let failing = thread::spawn(move || driver.fail());
    scene.feed.queue.leave(&scene.feed);
    let half = Half::Reader(notifier());
    scene.feed.enter("model", half, || ()).expect("the place");
    failing.join().expect("the driver");
    scene.end();
}

fn what_is_left_is_the_next_ones() {
    let scene = Scene::new(2, 1);
    let driver = Driver::modelled(notifier());
    let half = Half::Stream(driver.clone());
    scene.feed.enter("model", half, || ()).expect("the place");
    // What was read is in the feed before its source is let go, so the thread that lets go comes last.
    let reading = scene.read(0..2);
    let driving = thread::spawn(move || {
        reading.join().expect("the reading thread");
        driver.obey();
    });
    let mut next = 0;
    consume(scene.feed.queue.wait(None), &mut next);
    scene.feed.queue.leave(&scene.feed);
    let half = Half::Reader(notifier());
    scene.feed.enter("model", half, || ()).expect("the place");
    assert_eq!(next, 1);
    consume(scene.feed.queue.take(None), &mut next);
    assert_eq!(next, 2, "what was read is there when the place is free");
    driving.join().expect("the driver");
    scene.end();
}

fn signals_are_folded_and_not_lost() {
    let notifier = notifier();
    // Relaxed: that what was put in place is seen is for the notifier alone to see to.
    let told: Arc<[AtomicBool; 2]> = Arc::new(std::array::from_fn(|_| AtomicBool::new(false)));
    let telling: [_; 2] = std::array::from_fn(|number| {
        let (notifier, told) = (Arc::clone(&notifier), Arc::clone(&told));
        thread::spawn(move || {
            told[number].store(true, Ordering::Relaxed);
            notifier.signal();
        })
    });
    while !told.iter().all(|told| told.load(Ordering::Relaxed)) {
        notifier.sleep(Duration::MAX);
        notifier.clear();
    }
    telling.into_iter().for_each(|one| one.join().expect("a thread"));
}
