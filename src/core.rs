//! What an instance is made of, shared by its handles and its reading half.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::backend::{Backend, BackendKind, BackendReport, Features};
use crate::batch::{EventBatch, Shelf};
use crate::causes::{descriptor_error, is_out_of_descriptors, malformed_error};
use crate::engine::Source;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::{Failure, Feed, Taken, add};
use crate::stats::Stats;
use crate::sys::fork::Home;
use crate::sys::inotify::InotifyFd;
use crate::sys::pool::{Buffer, Pool};
use crate::sys::probe;
use crate::table::{Recent, Table};

/// One inotify instance. The control half is the table, the data half the feed; they share the descriptor and no more.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) instance: u64,
    pub(crate) table: Table,
    pub(crate) feed: Arc<Feed>,
    pub(crate) window: Duration,
    choice: Backend,
    report: Mutex<BackendReport>,
    shelf: Arc<Shelf>,
    home: Home,
}

/// What the consumer gets.
#[derive(Debug)]
pub(crate) enum Next {
    Batch(EventBatch),
    /// An error in its place; more may follow.
    Interposed(Error),
    /// The reading ended by a failure.
    Failed(Failure),
    /// The reading ended by `close`.
    Closed,
    Empty,
}

/// Why what reads could not be made.
pub(crate) enum Unmade {
    /// By its backend; another may do.
    Backend(io::Error),
    /// By something that has nothing to do with it.
    Other(Error),
}

impl From<io::Error> for Unmade {
    fn from(cause: io::Error) -> Self {
        Self::Backend(cause)
    }
}

impl Core {
    pub(crate) fn new(
        fd: InotifyFd,
        pool: Arc<Pool>,
        choice: Backend,
        report: BackendReport,
        window: Duration,
    ) -> Self {
        static INSTANCES: AtomicU64 = AtomicU64::new(1);
        let instance = INSTANCES.fetch_add(1, Ordering::Relaxed);
        Self {
            instance,
            table: Table::new(instance, fd, pool.bytes()),
            feed: Feed::new(pool),
            window,
            choice,
            report: Mutex::new(report),
            shelf: Shelf::new(),
            home: Home::new(),
        }
    }

    /// An error in a child of the process that made it: the locks of this instance may be held by threads that the child
    /// does not have, and what it did to the descriptor would be done to the parent's.
    #[inline]
    pub(crate) fn check_home(&self, operation: &'static str) -> Result<()> {
        match self.is_here() {
            true => Ok(()),
            false => Err(Error::forked(operation)),
        }
    }

    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.home.is_here()
    }

    pub(crate) fn report(&self) -> BackendReport {
        if let Err(forked) = self.check_home("read events") {
            return BackendReport::epoll(Some(forked));
        }
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn source(&self, operation: &'static str) -> Result<Source> {
        self.check_home(operation)?;
        Ok(Source {
            fd: self.table.fd(operation)?,
            feed: Arc::clone(&self.feed),
        })
    }

    /// Makes what reads, with io_uring or without. If io_uring fails now and the choice was left to us, without.
    pub(crate) fn with_backend<T>(
        &self,
        operation: &'static str,
        make: impl Fn(Option<Features>) -> Result<T, Unmade>,
    ) -> Result<T> {
        let report = self.report();
        if report.kind() == BackendKind::Uring {
            let refused = match make(Some(report.features())) {
                Ok(made) => return Ok(made),
                Err(Unmade::Other(error)) => return Err(error),
                // Not a word about io_uring: epoll would meet the same.
                Err(Unmade::Backend(cause)) if is_out_of_descriptors(&cause) => {
                    return Err(descriptor_error(operation, &cause));
                }
                Err(Unmade::Backend(cause)) => probe::refusal("set up io_uring", &cause),
            };
            if self.choice == Backend::Uring {
                return Err(refused);
            }
            self.fall_back(refused);
        }
        make(None).map_err(|unmade| match unmade {
            Unmade::Other(error) => error,
            Unmade::Backend(cause) => descriptor_error(operation, &cause),
        })
    }

    /// Reading has failed. Answers the error; or none, if it was a ring's, nothing is lost, and the choice of the backend was
    /// left to us: then it can go on with epoll.
    pub(crate) fn outlives(&self, failure: Failure) -> Option<Error> {
        let Failure { error, lossless } = failure;
        if !lossless || self.choice == Backend::Uring || self.report().kind() != BackendKind::Uring {
            return Some(error);
        }
        self.fall_back(error.of_kind(ErrorKind::BackendUnavailable));
        None
    }

    pub(crate) fn set_report(&self, report: BackendReport) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// Why there is nothing more to come.
    pub(crate) fn ended(&self, operation: &'static str) -> Error {
        if let Err(forked) = self.check_home(operation) {
            return forked;
        }
        if self.feed.queue.is_closed() {
            return Error::closed(operation);
        }
        Error::text(ErrorKind::ReaderFailed, operation, "reading has failed before")
            .mended_by("drop this reader or stream and open another")
    }

    /// From now on epoll, if the choice was left to us. Answers whether it was.
    pub(crate) fn fall_back(&self, refusal: Error) -> bool {
        if self.choice == Backend::Uring {
            return false;
        }
        #[cfg(feature = "tracing")]
        tracing::info!(instance = self.instance, %refusal, "going on with epoll");
        self.set_report(BackendReport::epoll(Some(refusal)));
        true
    }

    /// What comes next. With `waker`, it is woken once that is more than nothing.
    pub(crate) fn take(&self, recent: &mut Recent, waker: Option<&Waker>) -> Next {
        loop {
            if let Some(next) = self.deliver(self.feed.queue.take(waker), recent) {
                return next;
            }
        }
    }

    /// What comes next, waiting for it until `deadline`, or for ever.
    pub(crate) fn wait(&self, recent: &mut Recent, deadline: Option<Instant>) -> Next {
        loop {
            if let Some(next) = self.deliver(self.feed.queue.wait(deadline), recent) {
                return next;
            }
        }
    }

    /// None if what was taken has nothing to show.
    fn deliver(&self, taken: Taken, recent: &mut Recent) -> Option<Next> {
        let buffer = match taken {
            Taken::Buffer(buffer) => buffer,
            Taken::Interposed(error) => return Some(Next::Interposed(error)),
            Taken::Failed(failure) => return Some(Next::Failed(failure)),
            Taken::Closed => return Some(Next::Closed),
            Taken::Empty => return Some(Next::Empty),
        };
        self.batch(buffer, recent).map(Next::Batch)
    }

    /// What a buffer holds. None if that is nothing to show.
    pub(crate) fn batch(&self, buffer: Buffer, recent: &mut Recent) -> Option<EventBatch> {
        let resolver = self.table.resolve(recent, buffer.filled().len());
        let (batch, malformed) = EventBatch::resolve(buffer, resolver, &self.shelf, self.instance);
        if let Some(malformed) = malformed {
            self.feed.queue.interpose(malformed_error(malformed));
        }
        if batch.is_empty() {
            return None;
        }
        let counters = &self.feed.counters;
        add(&counters.batches, 1);
        add(&counters.events, batch.len() as u64);
        if batch.overflowed() {
            #[cfg(feature = "tracing")]
            tracing::warn!(
                instance = self.instance,
                "the kernel's queue overflowed: events were lost"
            );
            add(&counters.overflows, u64::from(batch.overflows()));
        }
        Some(batch)
    }

    /// All but the number of watches.
    pub(crate) fn stats(&self) -> Stats {
        if !self.is_here() {
            return Stats::default();
        }
        let counters = &self.feed.counters;
        let pool = &self.feed.pool;
        let fd = self.table.fd("read stats").ok();
        Stats {
            events: counters.events.load(Ordering::Relaxed),
            batches: counters.batches.load(Ordering::Relaxed),
            // Behind what it counts, so that this can be taken.
            reads: counters.reads.load(Ordering::Acquire),
            wakeups: counters.wakeups.load(Ordering::Relaxed),
            overflows: counters.overflows.load(Ordering::Relaxed),
            watches: 0,
            budget_used: pool.used_bytes(),
            budget: pool.bytes(),
            kernel_queue: fd.and_then(|fd| fd.queued_bytes().ok()).unwrap_or(0),
        }
    }

    /// The consumer is gone.
    pub(crate) fn leave(&self) {
        if self.is_here() {
            self.feed.queue.leave(&self.feed);
        }
    }

    /// Whether it was closed. In a child of `fork` it is as if it was.
    pub(crate) fn is_closed(&self) -> bool {
        !self.is_here() || self.feed.queue.is_closed()
    }

    pub(crate) fn close(&self) {
        if !self.is_here() {
            return;
        }
        self.feed.queue.close(&self.feed);
        self.table.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core() -> Core {
        let pool = Pool::new(4, 4096).unwrap();
        let fd = InotifyFd::new().unwrap();
        let report = BackendReport::epoll(None);
        Core::new(fd, pool, Backend::Epoll, report, Duration::ZERO)
    }

    fn push(core: &Core, bytes: &[u8]) {
        let mut buffer = core.feed.pool.take().unwrap();
        assert!(buffer.append(bytes));
        drop(core.feed.push(buffer));
    }

    fn record(wd: i32, mask: u32, len: u32, name: &[u8]) -> Vec<u8> {
        let fields = [wd.cast_unsigned(), mask, 0, len];
        let mut bytes: Vec<u8> = fields.iter().flat_map(|f| f.to_ne_bytes()).collect();
        bytes.extend(name);
        bytes
    }

    #[test]
    fn a_malformed_record_is_an_error_in_its_place_and_the_rest_goes_on() {
        let core = core();
        let mut bytes = record(5, libc::IN_CREATE, 16, b"good\0\0\0\0\0\0\0\0\0\0\0\0");
        bytes.extend(record(5, libc::IN_CREATE, 4_000_000_000, b"bad"));
        // Too long to be packed together.
        bytes.resize(4096 - 8, 0);
        push(&core, &bytes);
        push(&core, &record(5, 0x0100_0000 | libc::IN_DELETE, 0, b""));
        let Next::Batch(batch) = core.take(&mut Recent::default(), None) else {
            panic!()
        };
        assert_eq!(batch.len(), 1);
        assert_eq!(batch.iter().next().unwrap().name().unwrap(), "good");
        let Next::Interposed(error) = core.take(&mut Recent::default(), None) else {
            panic!()
        };
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(
            error
                .to_string()
                .contains("the record at byte 32 of a read claims 4000000016")
        );
        let Next::Batch(batch) = core.take(&mut Recent::default(), None) else {
            panic!()
        };
        // A bit that nobody knows is kept.
        assert_eq!(
            batch.iter().next().unwrap().mask().bits(),
            0x0100_0000 | libc::IN_DELETE
        );
        assert!(matches!(core.take(&mut Recent::default(), None), Next::Empty));
    }

    #[test]
    fn an_overflow_has_no_watch_and_no_path_and_is_counted() {
        let core = core();
        push(&core, &record(-1, libc::IN_Q_OVERFLOW, 0, b""));
        let Next::Batch(batch) = core.take(&mut Recent::default(), None) else {
            panic!()
        };
        assert!(batch.overflowed());
        let event = batch.iter().next().unwrap();
        assert!(event.watch().is_none() && event.path().is_none() && event.name().is_none());
        assert_eq!(core.feed.counters.overflows.load(Ordering::Relaxed), 1);
    }

    /// What is not read from the kernel fills its queue, so no marker finds room. What is read says each time that it overflowed.
    #[test]
    fn a_barrier_whose_markers_are_all_lost_arrives_when_all_before_it_was_taken() {
        let core = core();
        let fd = core.table.fd("test").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let files = ["a", "b"].map(|name| std::fs::File::create(dir.path().join(name)).unwrap());
        core.table.add(dir.path(), crate::Mask::MODIFY).unwrap();
        let mut full = 0;
        while full == 0 || fd.queued_bytes().unwrap() > full {
            full = fd.queued_bytes().unwrap();
            // Equal events in a row become one.
            files
                .iter()
                .for_each(|file| file.set_modified(std::time::UNIX_EPOCH).unwrap());
        }
        let number = core.table.barrier().unwrap();
        // As much as the buffers and the queue hold may have been queued before the barrier.
        let buffer = record(-1, libc::IN_Q_OVERFLOW, 4096 - 16, &[0; 4096 - 16]);
        for taken in (0..).step_by(buffer.len()) {
            push(&core, &buffer);
            let Next::Batch(batch) = core.take(&mut Recent::default(), None) else {
                panic!()
            };
            let events: Vec<_> = batch.iter().collect();
            assert_eq!(events.len(), batch.len());
            let arrived = events[0].barrier().map(|barrier| barrier.number);
            if arrived.is_none() {
                assert!(events.len() == 1 && events[0].mask() == crate::Mask::Q_OVERFLOW);
                assert!(taken <= core.feed.pool.bytes() + full + buffer.len());
                continue;
            }
            assert!(events[0].mask() == crate::Mask::IGNORED && events[0].is_overtaken());
            assert!(arrived == Some(number) && events[1].mask() == crate::Mask::Q_OVERFLOW);
            assert!(taken >= core.feed.pool.bytes() + full);
            break;
        }
    }

    /// The locks are held by this very thread, so who waits for one in the child waits for ever.
    #[test]
    fn in_a_child_nothing_waits_for_a_lock() {
        let core = Arc::new(core());
        let wd = core.table.fd("test").unwrap().add_watch(c"/", crate::Mask::MOVE_SELF);
        push(&core, &record(wd.unwrap(), libc::IN_MOVE_SELF, 0, b""));
        let Next::Batch(batch) = core.take(&mut Recent::default(), None) else {
            panic!()
        };
        let (table, queue) = (core.table.hold(), core.feed.queue.hold());
        let (report, drivers) = (core.report.lock(), crate::driver::hold());
        assert!(crate::sys::fork::in_child(|| {
            let inotify = crate::Inotify::from_core(Arc::clone(&core));
            inotify.close();
            drop((inotify.stats(), inotify.watches(), inotify.backend()));
            let refused = inotify.add_watch("/", crate::Mask::ALL).is_err() && inotify.barrier().is_err();
            let unread = inotify.stream().is_err() && inotify.reader().is_err() && inotify.is_closed();
            core.leave();
            drop(batch);
            let own = crate::Inotify::builder().backend(Backend::Epoll).build().unwrap();
            refused && unread && own.stream().is_ok()
        }));
        drop((table, queue, report, drivers));
    }
}
