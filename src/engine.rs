//! What reads the descriptors: one of two backends, behind one contract.
//!
//! An engine serves any number of sources. Each source is an inotify descriptor and the feed its events go to.
//!
//! - `attach` takes a source in; from the next turn on it is read.
//! - `turn` waits until something was read, a signal came through the notifier, or the time is over; it may return sooner
//!   with nothing. All that can be read is read, in order, into buffers of each source's own pool, and pushed to its feed.
//!   With a window, a turn that follows a busy one waits at least until the window has passed since that one, so that more
//!   comes at once. An engine that is `in_place` answers the first buffer of its one source instead of pushing it: whoever
//!   drives it is the consumer.
//! - If a pool is empty, its source is left unread until a buffer comes back, which signals the notifier. The kernel's
//!   queue holds the events meanwhile, and says so when it overflows. Nothing is dropped here.
//! - If a source can't be read any more, its feed is failed with the reason, and the others go on.
//! - `detach` stops reading a source. When it returns, the kernel writes to none of its buffers, and what had been read
//!   is in its feed.
//!
//! An engine made on one thread may be used and dropped on another, if it is asked `usable_here` first: a ring serves only
//! the thread that made it, so there it must be dropped and made again.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::Features;
use crate::error::{Error, ErrorKind};
use crate::queue::Feed;
use crate::sys::epoll::Epoll;
use crate::sys::inotify::InotifyFd;
use crate::sys::notifier::Notifier;
use crate::sys::pool::Buffer;
use crate::sys::probe;
use crate::sys::uring::Uring;

/// A descriptor to read, and where its events go.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) fd: Arc<InotifyFd>,
    pub(crate) feed: Arc<Feed>,
}

/// How long a turn may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// The most it waits; none waits for ever, zero not at all.
    pub(crate) timeout: Option<Duration>,
    /// The least time between the ends of two busy turns. Ignored if the timeout is zero.
    pub(crate) window: Duration,
}

impl Wait {
    pub(crate) const NOT: Self = Self {
        timeout: Some(Duration::ZERO),
        window: Duration::ZERO,
    };

    pub(crate) fn forever(window: Duration) -> Self {
        Self { timeout: None, window }
    }

    pub(crate) fn is_not(&self) -> bool {
        self.timeout == Some(Duration::ZERO)
    }
}

/// Names a source of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceId(pub(crate) u16);

#[derive(Debug)]
pub(crate) enum Engine {
    Uring(Box<Uring>),
    Epoll(Epoll),
}

impl Engine {
    /// An engine for this thread: io_uring with these features, or epoll. `sources` is how many are expected.
    pub(crate) fn new(uring: Option<Features>, sources: usize, notifier: Arc<Notifier>) -> io::Result<Self> {
        match uring {
            Some(features) => Uring::new(features, sources, notifier).map(|uring| Self::Uring(Box::new(uring))),
            None => Epoll::new(notifier).map(Self::Epoll),
        }
    }

    /// An engine for one source, driven by its consumer.
    pub(crate) fn in_place(uring: Option<Features>, source: Source, notifier: Arc<Notifier>) -> io::Result<Self> {
        let mut engine = Self::new(uring, 1, notifier)?;
        engine.attach(source)?;
        match &mut engine {
            Self::Uring(uring) => uring.in_place = true,
            Self::Epoll(epoll) => epoll.in_place = true,
        }
        Ok(engine)
    }

    pub(crate) fn attach(&mut self, source: Source) -> io::Result<SourceId> {
        match self {
            Self::Uring(uring) => uring.attach(source),
            Self::Epoll(epoll) => epoll.attach(source),
        }
    }

    pub(crate) fn detach(&mut self, id: SourceId) {
        match self {
            Self::Uring(uring) => uring.detach(id),
            Self::Epoll(epoll) => epoll.detach(id),
        }
    }

    pub(crate) fn turn(&mut self, wait: Wait) -> io::Result<Option<Buffer>> {
        match self {
            Self::Uring(uring) => uring.turn(wait),
            Self::Epoll(epoll) => epoll.turn(wait),
        }
    }

    /// Somebody else took a signal of the notifier: what it may have been about is looked at in the next turn.
    pub(crate) fn signalled(&mut self) {
        match self {
            Self::Uring(uring) => uring.signalled(),
            Self::Epoll(epoll) => epoll.signalled(),
        }
    }

    /// Whether the last turn read all that was there, as far as that can be known without asking again.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code, reason = "only the stream on tokio asks"))]
    pub(crate) fn has_read_all(&self) -> bool {
        match self {
            Self::Uring(uring) => uring.has_read_all(),
            Self::Epoll(epoll) => epoll.has_read_all(),
        }
    }

    /// The error with which the kernel has refused it, which a `detach` does not say. Nothing more can be read by it.
    pub(crate) fn refused(&self) -> Option<io::Error> {
        match self {
            Self::Uring(uring) => uring.refused().map(io::Error::from_raw_os_error),
            Self::Epoll(_) => None,
        }
    }

    /// After a turn that failed: whether all that was taken from the kernel's queue has come here.
    pub(crate) fn lost_nothing(&mut self) -> bool {
        match self {
            Self::Uring(uring) => uring.lost_nothing(),
            Self::Epoll(_) => true,
        }
    }

    /// Why a turn failed.
    pub(crate) fn failure(&self, cause: &io::Error) -> Error {
        match self {
            Self::Uring(_) => {
                let error = probe::refusal("wait for events through io_uring", cause);
                error.of_kind(ErrorKind::ReaderFailed)
            }
            Self::Epoll(_) => Error::os(ErrorKind::ReaderFailed, "wait for events through epoll", cause),
        }
    }

    pub(crate) fn usable_here(&self) -> bool {
        match self {
            Self::Uring(uring) => uring.usable_here(),
            Self::Epoll(_) => true,
        }
    }
}

/// Keeps the window where the kernel does not: sleeps before a turn until the window of the busy turn before is over.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last_busy: Option<Instant>,
}

impl Pace {
    /// Sleeps what is left of the window. Answers what is left of the timeout, or none if a signal came.
    pub(crate) fn hold(&mut self, wait: Wait, notifier: &Notifier) -> Option<Option<Duration>> {
        let Some(last_busy) = self.last_busy.take() else {
            return Some(wait.timeout);
        };
        if wait.window.is_zero() || wait.is_not() {
            return Some(wait.timeout);
        }
        let before = Instant::now();
        let left = wait.window.saturating_sub(before - last_busy);
        let left = wait.timeout.map_or(left, |timeout| left.min(timeout));
        if !left.is_zero() && notifier.sleep(left) {
            // The window is not over: whoever looks next must still keep it.
            self.last_busy = Some(last_busy);
            return None;
        }
        let slept = before.elapsed();
        Some(wait.timeout.map(|timeout| timeout.saturating_sub(slept)))
    }

    /// A turn brought events.
    pub(crate) fn busy(&mut self) {
        self.last_busy = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Mask;
    use crate::sys::pool::Pool;

    /// An engine of each kind there is, reading an instance of its own.
    fn engines() -> Vec<(Engine, Source, SourceId)> {
        let uring = probe::features_for_a_test().map(Some);
        uring
            .into_iter()
            .chain([None])
            .map(|uring| {
                let notifier = Arc::new(Notifier::new().unwrap());
                let mut engine = Engine::new(uring, 1, notifier).unwrap();
                let source = Source {
                    fd: Arc::new(InotifyFd::new().unwrap()),
                    feed: Feed::new(Pool::new(2, 4096).unwrap()),
                };
                let id = engine.attach(source.clone()).unwrap();
                (engine, source, id)
            })
            .collect()
    }

    /// One event, the end of a watch.
    fn cause(source: &Source) {
        let wd = source.fd.add_watch(c"/", Mask::MOVE_SELF).unwrap();
        source.fd.rm_watch(wd).unwrap();
    }

    #[test]
    fn an_idle_engine_sleeps_with_a_window_and_without() {
        for (mut engine, source, _) in engines() {
            for window in [Duration::ZERO, Duration::from_millis(1)] {
                cause(&source);
                let until = Instant::now() + Duration::from_millis(100);
                let mut turns = 0;
                while Instant::now() < until {
                    let timeout = Some(until.saturating_duration_since(Instant::now()));
                    engine.turn(Wait { timeout, window }).unwrap();
                    turns += 1;
                }
                assert!(turns <= 5, "{turns} turns of {engine:?} with {window:?}");
            }
        }
    }

    /// An engine that could not read all there was must not wait for a window to read the rest.
    #[test]
    fn the_window_is_kept_only_when_all_was_read() {
        for (mut engine, source, id) in engines() {
            engine.detach(id);
            let feed = Feed::new(Pool::new(64, 544).unwrap());
            let source = Source { feed, ..source };
            engine.attach(source.clone()).unwrap();
            // 34 records a buffer, in more buffers than one turn takes.
            (0..34 * 40).for_each(|_| cause(&source));
            let mut turns = 0;
            while source.fd.queued_bytes().unwrap() > 0 {
                engine.turn(Wait::forever(Duration::ZERO)).unwrap();
                turns += 1;
                if source.fd.queued_bytes().unwrap() > 0 {
                    assert!(!engine.has_read_all(), "{engine:?} after {turns}");
                }
            }
            assert!(turns > 1, "{engine:?}");
            cause(&source);
            engine.turn(Wait::forever(Duration::ZERO)).unwrap();
            assert!(engine.has_read_all(), "{engine:?}");
        }
    }

    #[test]
    fn a_signal_ends_a_turn_that_would_wait_for_ever() {
        for (mut engine, _, _) in engines() {
            let notifier = match &engine {
                Engine::Uring(uring) => uring.notifier(),
                Engine::Epoll(epoll) => epoll.notifier(),
            };
            for window in [Duration::ZERO, Duration::from_millis(1)] {
                notifier.signal();
                engine.turn(Wait::forever(window)).unwrap();
                assert!(!notifier.clear());
            }
        }
    }

    #[test]
    fn a_source_can_be_detached_and_attached_again() {
        let read_again = |engine: &mut Engine, source: &Source| {
            let reads = || source.feed.counters.reads.load(std::sync::atomic::Ordering::Relaxed);
            let before = reads();
            while reads() == before {
                engine.turn(Wait::forever(Duration::ZERO)).unwrap();
            }
        };
        for (mut engine, source, mut id) in engines() {
            for round in 1..=100 {
                cause(&source);
                read_again(&mut engine, &source);
                engine.detach(id);
                // Not read any more.
                cause(&source);
                engine.turn(Wait::NOT).unwrap();
                assert_eq!(
                    source.feed.counters.reads.load(std::sync::atomic::Ordering::Relaxed),
                    2 * round - 1
                );
                id = engine.attach(source.clone()).unwrap();
                read_again(&mut engine, &source);
                drop(source.feed.queue.take(None));
            }
            assert_eq!(source.fd.queued_bytes().unwrap(), 0);
        }
    }
}
