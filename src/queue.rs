//! The bounded queue of filled buffers between whoever reads and whoever consumes.
//!
//! An engine pushes, the one reading half takes. What was read and not taken stays here, so the next reading half
//! delivers it. It is bounded by the pool: every entry owns a buffer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Waker;
use std::time::Instant;

use crate::decode::Records;
use crate::driver::Driver;
use crate::error::{Error, ErrorKind, Result};
use crate::mask::Mask;
use crate::sync::MutexGuard;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sys::notifier::Notifier;
use crate::sys::pool::{Buffer, Pool};
use crate::waiting::{Awaited, Waited};

/// The data half of an instance: its memory, its queue, its counters. Engines know no more of an instance than this.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) pool: Arc<Pool>,
    pub(crate) queue: Queue,
    pub(crate) counters: Counters,
    #[cfg(test)]
    pub(crate) faults: crate::sys::faults::Faults,
}

/// What [`Stats`](crate::Stats) counts. Each has one writer at a time: the first three the consumer, the others whoever
/// reads for it. Relaxed: each is a sum and orders nothing.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) events: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) overflows: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) wakeups: AtomicU64,
}

/// Counts. With one writer at a time, a load and a store do, which cost a tenth of an atomic addition.
#[inline]
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

impl Feed {
    pub(crate) fn new(pool: Arc<Pool>) -> Arc<Self> {
        Arc::new(Self {
            queue: Queue::new(pool.buffers()),
            counters: Counters::default(),
            #[cfg(test)]
            faults: Default::default(),
            pool,
        })
    }

    /// Counts a read whose buffer goes past the queue, straight to the consumer. Not so if something is queued: that comes
    /// first.
    #[inline]
    pub(crate) fn pass_by(&self) -> bool {
        let passes = !self.queue.has_news();
        if passes {
            add(&self.counters.reads, 1);
        }
        passes
    }

    /// What the kernel writes where its queue overflowed.
    fn overflow(&self) -> Option<Buffer> {
        let mut buffer = [None];
        self.pool.fill(&mut buffer);
        let [Some(mut buffer)] = buffer else { return None };
        let record = [u32::MAX, Mask::Q_OVERFLOW.bits(), 0, 0];
        record.iter().for_each(|field| {
            buffer.append(&field.to_ne_bytes());
        });
        Some(buffer)
    }

    /// Takes the place of the one reading half. What `begin` does comes before anything that a `close` does. A loss that the half
    /// before was not told of any more is said to this one, behind what was read.
    pub(crate) fn enter<T>(&self, operation: &'static str, half: Half, begin: impl FnOnce() -> T) -> Result<T> {
        self.queue.enter(self, operation, half, begin)
    }

    /// Takes in what one read brought. Answers the buffer, emptied, if its contents fitted behind what the consumer has
    /// not taken yet; so a stalled consumer can use the whole budget, however little each read brings.
    pub(crate) fn push(&self, buffer: Buffer) -> Option<Buffer> {
        self.queue.push(buffer, &self.counters.reads)
    }
}

#[derive(Debug)]
pub(crate) struct Queue {
    state: Awaited<State>,
    /// Whether there is something to take. Written under the lock, read without it.
    news: AtomicBool,
}

#[derive(Debug)]
struct State {
    filled: VecDeque<Buffer>,
    /// An error that belongs before the next buffer and does not end the reading.
    interposed: Option<Error>,
    /// Why reading ended, if not by `close`.
    failure: Option<Failure>,
    closed: bool,
    half: Half,
}

/// Why reading ended.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Whether what was not read is still in the kernel's queue, so that reading could go on some other way.
    pub(crate) lossless: bool,
}

/// Who reads.
#[derive(Debug)]
pub(crate) enum Half {
    Nobody,
    Stream(Driver),
    Reader(Arc<Notifier>),
    /// A stream was dropped, and its driver has not let go of the descriptor yet.
    Leaving,
}

/// What the consumer finds.
#[derive(Debug)]
pub(crate) enum Taken {
    Buffer(Buffer),
    /// An error in its place; more may follow.
    Interposed(Error),
    /// Reading ended by a failure.
    Failed(Failure),
    /// Reading ended by `close`.
    Closed,
    /// Nothing yet.
    Empty,
}

impl Queue {
    fn new(capacity: usize) -> Self {
        Self {
            state: Awaited::new(State {
                filled: VecDeque::with_capacity(capacity),
                interposed: None,
                failure: None,
                closed: false,
                half: Half::Nobody,
            }),
            news: AtomicBool::new(false),
        }
    }

    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Sized + '_ {
        self.state.lock()
    }

    /// Counts a read under the lock and behind `news`: what is counted can be taken, and what was taken is counted.
    fn push(&self, mut buffer: Buffer, reads: &AtomicU64) -> Option<Buffer> {
        let mut state = self.state.lock();
        let count = || reads.store(reads.load(Ordering::Relaxed) + 1, Ordering::Release);
        if let Some(last) = state.filled.back_mut() {
            let fitting = fitting_records(buffer.filled(), last.room_left());
            last.append(&buffer.filled()[..fitting]);
            buffer.forget_front(fitting);
            if buffer.filled().is_empty() {
                // Whoever is to take `last` was woken when it came.
                count();
                return Some(buffer);
            }
        }
        state.filled.push_back(buffer);
        self.news.store(true, Ordering::Release);
        count();
        self.state.wake(state);
        None
    }

    /// Wakes the consumer, and whoever waits for its place.
    fn wake(&self, state: MutexGuard<'_, Waited<State>>) {
        self.news.store(state.has_news(), Ordering::Release);
        self.state.wake(state);
    }

    /// What comes next. With `waker`, it is woken once that is more than nothing.
    pub(crate) fn take(&self, waker: Option<&Waker>) -> Taken {
        let taken = self.state.take(waker, |state| self.next(state));
        taken.unwrap_or(Taken::Empty)
    }

    /// What comes next, waiting for it until `deadline`, or for ever.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Taken {
        let taken = self.state.wait(deadline, |state| self.next(state));
        taken.unwrap_or(Taken::Empty)
    }

    fn next(&self, state: &mut State) -> Option<Taken> {
        let taken = state.next();
        self.news.store(state.has_news(), Ordering::Release);
        taken
    }

    /// Puts an error before what comes next.
    pub(crate) fn interpose(&self, error: Error) {
        let mut state = self.state.lock();
        state.interposed = Some(error);
        self.news.store(true, Ordering::Release);
    }

    /// Whether [`take`](Self::take) has something to give. Takes no lock; what another thread does at this moment may not
    /// show yet.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Ends the reading with an error, behind everything that was read. Once it was closed, only what is lost is worth one.
    pub(crate) fn fail(&self, error: Error, lossless: bool) {
        let mut state = self.state.lock();
        if state.closed && lossless {
            return;
        }
        state.failure = Some(Failure { error, lossless });
        self.wake(state);
    }

    /// Ends the reading for good: what was read is still delivered, then nothing.
    pub(crate) fn close(self: &Queue, feed: &Arc<Feed>) {
        let mut state = self.state.lock();
        state.closed = true;
        // Before the signal: whoever it wakes looks for news.
        self.news.store(state.has_news(), Ordering::Release);
        if let Half::Reader(notifier) = &state.half {
            notifier.signal();
        }
        let driver = state.release_stream();
        self.wake(state);
        if let Some(driver) = driver {
            driver.detach(Arc::clone(feed));
        }
    }

    fn enter<T>(&self, feed: &Feed, operation: &'static str, half: Half, begin: impl FnOnce() -> T) -> Result<T> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Err(Error::closed(operation));
            }
            match state.half {
                Half::Nobody => break,
                Half::Leaving => state = self.state.park(state, None),
                Half::Stream(_) | Half::Reader(_) => {
                    let cause = "this instance is being read already";
                    let remedy = "drop its stream or reader first, or make an instance of its own";
                    return Err(Error::text(ErrorKind::AlreadyReading, operation, cause).mended_by(remedy));
                }
            }
        }
        if let Some(Failure { error, lossless: false }) = state.failure.take() {
            match feed.overflow() {
                Some(buffer) => state.filled.push_back(buffer),
                None => state.interposed = Some(error),
            }
        }
        state.half = half;
        self.news.store(state.has_news(), Ordering::Release);
        Ok(begin())
    }

    /// The consumer is gone. A stream's driver is told, and frees the place when it has let go.
    pub(crate) fn leave(&self, feed: &Arc<Feed>) {
        let mut state = self.state.lock();
        let waker = state.forget_waker();
        if let Half::Reader(_) = &state.half {
            state.half = Half::Nobody;
        }
        let driver = state.release_stream();
        self.wake(state);
        if let Some(driver) = driver {
            driver.detach(Arc::clone(feed));
        }
        drop(waker);
    }

    /// The place is free again: nobody reads the descriptor any more.
    pub(crate) fn left(&self) {
        let mut state = self.state.lock();
        state.half = Half::Nobody;
        self.wake(state);
    }
}

/// Bytes of the first records that fit into `room`.
fn fitting_records(bytes: &[u8], room: usize) -> usize {
    if bytes.len() <= room {
        return bytes.len();
    }
    let mut records = Records::new(bytes);
    let mut fitting = 0;
    // What is malformed is for the consumer to find, in its place.
    while let Some(Ok(_)) = records.next()
        && records.offset() <= room
    {
        fitting = records.offset();
    }
    fitting
}

impl State {
    /// The driver of the stream that reads, to be told that it is over.
    fn release_stream(&mut self) -> Option<Driver> {
        let Half::Stream(driver) = &self.half else {
            return None;
        };
        let driver = driver.clone();
        self.half = Half::Leaving;
        Some(driver)
    }

    fn has_news(&self) -> bool {
        !self.filled.is_empty() || self.interposed.is_some() || self.failure.is_some() || self.closed
    }

    fn next(&mut self) -> Option<Taken> {
        if let Some(error) = self.interposed.take() {
            return Some(Taken::Interposed(error));
        }
        if let Some(buffer) = self.filled.pop_front() {
            return Some(Taken::Buffer(buffer));
        }
        if let Some(failure) = self.failure.take() {
            return Some(Taken::Failed(failure));
        }
        self.closed.then_some(Taken::Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(buffers: usize) -> Arc<Feed> {
        Feed::new(Pool::new(buffers, 512).unwrap())
    }

    /// A read of so many records of 32 bytes, numbered from `first`.
    fn push(feed: &Feed, first: usize, records: usize) -> bool {
        let Some(mut buffer) = feed.pool.take() else {
            return false;
        };
        for number in first..first + records {
            let fields = [number as u32, libc::IN_MODIFY, 0, 16];
            fields
                .iter()
                .for_each(|field| assert!(buffer.append(&field.to_ne_bytes())));
            assert!(buffer.append(b"a name\0\0\0\0\0\0\0\0\0\0"));
        }
        drop(feed.push(buffer));
        true
    }

    #[test]
    fn a_stalled_consumer_uses_nearly_the_whole_budget_however_large_the_reads() {
        for records in [1, 3, 5, 9, 16] {
            let feed = feed(8);
            let mut pushed = 0;
            while push(&feed, pushed, records) {
                pushed += records;
            }
            // At most the last buffer has room left: what did not fit into those before began it.
            assert!(pushed > 7 * (512 / 32), "{pushed} with {records}");
            let mut seen = 0;
            while let Taken::Buffer(buffer) = feed.queue.take(None) {
                for record in Records::new(buffer.filled()) {
                    assert_eq!(record.unwrap().wd, seen);
                    seen += 1;
                }
            }
            assert_eq!(seen as usize, pushed);
            assert_eq!(feed.pool.free(), 8);
        }
    }

    #[test]
    fn a_loss_that_nobody_was_told_of_is_said_to_whoever_reads_next() {
        for (lossless, is_told, buffers) in [(false, false, 4), (false, true, 4), (true, false, 4), (false, false, 1)] {
            let feed = feed(buffers);
            assert!(push(&feed, 7, 1));
            feed.queue
                .fail(Error::text(ErrorKind::ReaderFailed, "read", "x"), lossless);
            if is_told {
                assert!(matches!(feed.queue.take(None), Taken::Buffer(_)));
                assert!(matches!(feed.queue.take(None), Taken::Failed(_)));
            }
            let notifier = Arc::new(Notifier::new().unwrap());
            feed.enter("test", Half::Reader(notifier), || ()).unwrap();
            let mut found = Vec::new();
            loop {
                match feed.queue.take(None) {
                    Taken::Buffer(buffer) => {
                        found.extend(Records::new(buffer.filled()).map(|record| record.unwrap().wd))
                    }
                    Taken::Interposed(_) => found.push(-2),
                    Taken::Empty => break,
                    other => panic!("{other:?}"),
                }
            }
            let expected: &[_] = match (lossless, is_told, buffers) {
                (_, true, _) => &[],
                (true, ..) => &[7],
                (_, _, 1) => &[-2, 7],
                _ => &[7, -1],
            };
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_was_read_is_delivered_before_close_and_before_failure() {
        const READ: [u8; 2] = [1, 6];
        const FAILED: u8 = 9;
        for (closed_first, lossless) in [(false, true), (false, false), (true, true), (true, false)] {
            let feed = feed(4);
            push(&feed, 1, 12);
            // Four of these fit behind the first.
            push(&feed, 2, 12);
            if closed_first {
                feed.queue.close(&feed);
            }
            let error = Error::text(ErrorKind::ReaderFailed, "read", "x");
            feed.queue.fail(error, lossless);
            feed.queue.close(&feed);
            let order: Vec<_> = std::iter::from_fn(|| match feed.queue.take(None) {
                Taken::Closed => None,
                Taken::Buffer(buffer) => Some(buffer.filled()[0]),
                Taken::Failed(_) => Some(FAILED),
                other => panic!("{other:?}"),
            })
            .collect();
            let told = !(closed_first && lossless);
            let expected: Vec<_> = READ.into_iter().chain(told.then_some(FAILED)).collect();
            assert_eq!(order, expected, "closed first: {closed_first}, lossless: {lossless}");
        }
    }
}
