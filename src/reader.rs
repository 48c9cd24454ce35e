//! The reading half that is driven in place, by whoever asks it.

use std::borrow::Cow;
#[cfg(feature = "tokio")]
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{BackendKind, BackendReport};
use crate::batch::EventBatch;
use crate::causes::descriptor_error;
use crate::core::{Core, Next};
use crate::engine::{Engine, Source, Wait};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::{Failure, Half};
#[cfg(feature = "tokio")]
use crate::sys::epoll::EpollFd;
use crate::sys::gate::Gate;
#[cfg(feature = "tokio")]
use crate::sys::inotify::InotifyFd;
use crate::sys::notifier::Notifier;
use crate::table::Recent;

const WAIT: &str = "wait for events";

/// A ring serves one thread, so a reader that moves gets a new one. One that keeps moving is better off without.
const MOST_MOVES: u32 = 4;

/// Looks at a kernel that says it has events and gives none. One is normal, more are not seen.
const MOST_LOOKS: u32 = 64;

/// The events of an instance, read in place by the thread that asks: no other thread, no second wake-up, the lowest
/// latency.
///
/// It is `Send`: it may be handed to another thread at any time, also if the one it was used on has ended. Its io_uring is
/// made again there, which costs some tens of microseconds; after the fourth move [`Backend::Auto`](crate::Backend::Auto)
/// goes on with epoll, which does not care about threads.
///
/// It is an iterator of batches that waits for each and ends when the instance is [closed](crate::Inotify::close).
///
/// **Other event loops** wait on its descriptor ([`AsFd`]): it is readable when [`try_next`](Self::try_next) has
/// something to do. Take until `try_next` answers `None`, then wait again. With a
/// [batch window](crate::Builder::batch_window) a busy reader's descriptor becomes readable once a window.
///
/// What it has read and not delivered when it is dropped is the next reading half's.
///
/// ```
/// use std::time::Duration;
/// use ringwatch::{Inotify, Mask};
///
/// let inotify = Inotify::new()?;
/// inotify.add_watch("/tmp", Mask::ALL)?;
/// let mut reader = inotify.reader()?;
/// match reader.wait_timeout(Duration::from_millis(10))? {
///     Some(batch) => println!("{batch:?}"),
///     None => println!("nothing happened"),
/// }
/// # Ok::<(), ringwatch::Error>(())
/// ```
#[derive(Debug)]
pub struct Reader {
    core: Arc<Core>,
    recent: Recent,
    source: Source,
    /// Made at the first use, so that a reader can be made on one thread and used on another at no cost.
    engine: Option<Engine>,
    notifier: Arc<Notifier>,
    gate: Gate,
    moves: u32,
    /// What was true before this reader gave its ring up.
    with_ring: Option<BackendReport>,
    ended: bool,
}

impl Reader {
    pub(crate) fn new(core: Arc<Core>) -> Result<Self> {
        const OPERATION: &str = "open reader";
        let source = core.source(OPERATION)?;
        let failed = |cause| descriptor_error(OPERATION, &cause);
        let notifier = Arc::new(Notifier::new().map_err(failed)?);
        let gate = Gate::new(&notifier).map_err(failed)?;
        let half = Half::Reader(Arc::clone(&notifier));
        core.feed.enter(OPERATION, half, || ())?;
        Ok(Self {
            core,
            recent: Recent::default(),
            source,
            engine: None,
            notifier,
            gate,
            moves: 0,
            with_ring: None,
            ended: false,
        })
    }

    /// The next batch, waiting for it. None once the instance is closed.
    ///
    /// Signals that are handled on this thread meanwhile do not end the wait.
    pub fn wait(&mut self) -> Option<Result<EventBatch>> {
        if self.ended {
            return None;
        }
        match self.wait_until(None) {
            Ok(batch) => batch.map(Ok),
            Err(error) if error.kind() == ErrorKind::Closed => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// The next batch, waiting for it for at most `timeout`. `Ok(None)` if there is none by then.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) once the instance is closed and all that was read is delivered,
    /// [`Malformed`](ErrorKind::Malformed), after which reading goes on, [`ReaderFailed`](ErrorKind::ReaderFailed), after
    /// which it does not, and [`BackendUnavailable`](ErrorKind::BackendUnavailable).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<EventBatch>> {
        self.wait_until(Instant::now().checked_add(timeout))
    }

    fn wait_until(&mut self, deadline: Option<Instant>) -> Result<Option<EventBatch>> {
        self.check_home()?;
        let shown = self.is_shown()?;
        let batch = self.wait_for(deadline);
        if !shown {
            return batch;
        }
        let opened = self.gate.open(&self.source.fd);
        self.show_rest();
        match opened {
            Ok(()) => batch,
            Err(cause) => self.behind(batch?, &cause),
        }
    }

    fn wait_for(&mut self, deadline: Option<Instant>) -> Result<Option<EventBatch>> {
        let mut last = false;
        self.check_not_ended()?;
        loop {
            if let Some(batch) = self.take_news()? {
                return Ok(Some(batch));
            }
            if last {
                return Ok(None);
            }
            if self.settle()? {
                continue;
            }
            let mut wait = Wait::forever(self.core.window);
            if let Some(deadline) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                last = left.is_zero();
                wait.timeout = Some(left);
            }
            if let Some(batch) = self.turn(wait)? {
                return Ok(Some(batch));
            }
        }
    }

    /// The next batch if there is one now; it does not wait.
    ///
    /// # Errors
    /// As [`wait_timeout`](Self::wait_timeout).
    pub fn try_next(&mut self) -> Result<Option<EventBatch>> {
        self.check_home()?;
        let shown = self.is_shown()?;
        if shown {
            self.take_signal();
        }
        self.check_not_ended()?;
        let mut batch = self.take()?;
        let mut gated = Ok(());
        if batch.is_none() && !self.gate.is_shut() {
            batch = self.ask()?;
            gated = if batch.is_none() && shown && self.is_starved() {
                self.gate.starved(&self.source.fd)
            } else {
                self.gate.asked(&self.source.fd, batch.is_some(), self.core.window)
            };
        }
        if shown {
            self.show_rest();
        }
        match gated {
            Ok(()) => Ok(batch),
            Err(cause) => self.behind(batch, &cause),
        }
    }

    fn is_shown(&mut self) -> Result<bool> {
        match self.gate.shown() {
            // There is nothing more to be shown.
            Err(_) if self.core.feed.queue.is_closed() => Ok(false),
            shown => shown.map_err(|cause| self.failed(&cause)),
        }
    }

    /// The batch that was taken, and behind it what has failed since.
    #[cold]
    fn behind(&mut self, batch: Option<EventBatch>, cause: &std::io::Error) -> Result<Option<EventBatch>> {
        if batch.is_none() {
            return Err(self.failed(cause));
        }
        let queue = &self.core.feed.queue;
        if !queue.is_closed() {
            queue.fail(Error::os(ErrorKind::ReaderFailed, WAIT, cause), false);
        }
        Ok(batch)
    }

    /// What tokio is to wait on, from now on.
    #[cfg(feature = "tokio")]
    pub(crate) fn enter_tokio(&mut self) -> io::Result<Descriptors> {
        self.check_home()?;
        self.show_rest();
        if self.core.window.is_zero() {
            // It is not asked meanwhile, and must not be found shut when it is again.
            self.gate.open(&self.source.fd)?;
            // Both would poll the descriptor, for one read.
            let cause = "tokio waits with epoll, and a ring behind that costs more than it saves";
            self.give_ring_up(cause, "ask for Backend::Uring by name to have one all the same");
            return Ok(Descriptors::Own(
                Arc::clone(&self.source.fd),
                Arc::clone(&self.notifier),
            ));
        }
        let shown = self.gate.show(&self.source.fd, &self.notifier, self.core.window);
        Ok(Descriptors::Gate(Arc::clone(shown)))
    }

    /// Tokio waits no longer.
    #[cfg(feature = "tokio")]
    pub(crate) fn leave_tokio(&mut self) {
        if self.moves < MOST_MOVES && self.core.is_here() {
            self.take_ring_again();
        }
    }

    /// As `try_next`, for a loop that hears of everything that comes after this call began, on the reader's own
    /// descriptors. Answers also whether nothing is known to be left, so that there is no need to ask again.
    #[cfg(feature = "tokio")]
    pub(crate) fn next_heard_of(&mut self) -> Result<(Option<EventBatch>, bool)> {
        self.check_home()?;
        self.check_not_ended()?;
        self.take_signal();
        let mut batch = self.take_news()?;
        if batch.is_none() {
            batch = self.look()?;
        }
        if batch.is_none() && matches!(self.engine, Some(Engine::Uring(_))) {
            batch = self.ask()?;
        }
        let read_all = self.engine.as_ref().is_some_and(Engine::has_read_all);
        // A look can bring nothing that is shown and leave something all the same.
        let nothing_left = read_all && !self.core.feed.queue.has_news();
        Ok((batch, nothing_left))
    }

    fn take_signal(&mut self) {
        if self.notifier.is_signalled()
            && self.notifier.clear()
            && let Some(engine) = &mut self.engine
        {
            engine.signalled();
        }
    }

    /// More may be here already, which the kernel's descriptor does not show.
    fn show_rest(&self) {
        if self.core.feed.queue.has_news() {
            self.notifier.signal();
        }
    }

    /// Asks the kernel, without waiting.
    fn ask(&mut self) -> Result<Option<EventBatch>> {
        // The ring can be behind the descriptor by a moment, and whoever waits for an edge would then wait too long. So
        // nothing came only if nothing waits.
        for _ in 0..MOST_LOOKS {
            if !self.kernel_has_events()? || self.has_no_room() {
                return Ok(None);
            }
            let batch = self.look()?;
            if batch.is_some() {
                return Ok(batch);
            }
        }
        // The kernel puts it off. There will be no other edge for these events: the reader is to be asked again.
        self.notifier.signal();
        Ok(None)
    }

    /// One turn without waiting, and the first batch there is then.
    fn look(&mut self) -> Result<Option<EventBatch>> {
        self.settle()?;
        match self.turn(Wait::NOT)? {
            Some(batch) => Ok(Some(batch)),
            None => self.take_news(),
        }
    }

    fn kernel_has_events(&mut self) -> Result<bool> {
        match self.source.fd.queued_bytes() {
            Ok(bytes) => Ok(bytes > 0),
            Err(cause) => Err(self.failed(&cause)),
        }
    }

    /// Whether every buffer holds events.
    fn has_no_room(&self) -> bool {
        let pool = &self.core.feed.pool;
        pool.used_bytes() == pool.bytes()
    }

    /// Whether every buffer holds events; if so, the notifier is signalled when one comes back.
    fn is_starved(&self) -> bool {
        self.has_no_room() && self.core.feed.pool.starve(&self.notifier)
    }

    /// The next batch of those that were read.
    fn take(&mut self) -> Result<Option<EventBatch>> {
        match self.core.take(&mut self.recent, None) {
            Next::Batch(batch) => Ok(Some(batch)),
            Next::Empty => Ok(None),
            Next::Interposed(error) => Err(error),
            Next::Failed(failure) => self.outlive(failure),
            Next::Closed => {
                self.end();
                Err(Error::closed(WAIT))
            }
        }
    }

    fn take_news(&mut self) -> Result<Option<EventBatch>> {
        match self.core.feed.queue.has_news() {
            true => self.take(),
            false => Ok(None),
        }
    }

    #[inline]
    pub(crate) fn check_home(&mut self) -> Result<()> {
        let checked = self.core.check_home(WAIT);
        if checked.is_err() {
            self.end();
        }
        checked
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    fn check_not_ended(&self) -> Result<()> {
        if self.ended {
            return Err(self.core.ended(WAIT));
        }
        Ok(())
    }

    fn end(&mut self) {
        self.ended = true;
        self.engine = None;
    }

    /// Sees to it that there is an engine, and that it serves this thread. Answers whether it had to be made, in which case
    /// there may be news: what an engine on another thread had read.
    fn settle(&mut self) -> Result<bool> {
        match &self.engine {
            Some(engine) if engine.usable_here() => return Ok(false),
            Some(_) => {
                self.engine = None;
                self.moves += 1;
            }
            None => {}
        }
        if self.moves == MOST_MOVES {
            let cause = format!("the reader moved between threads {MOST_MOVES} times");
            self.give_ring_up(cause, "keep it on one thread, or use a stream");
        }
        let engine = self.core.with_backend(WAIT, |uring| {
            let engine = Engine::in_place(uring, self.source.clone(), Arc::clone(&self.notifier));
            Ok(engine?)
        });
        // Without an engine there is nothing more to come.
        self.engine = Some(engine.inspect_err(|_| self.end())?);
        Ok(true)
    }

    /// Goes on without a ring, if the choice was left to us.
    fn give_ring_up(&mut self, cause: impl Into<Cow<'static, str>>, remedy: &'static str) {
        let before = self.core.report();
        let refusal = Error::text(ErrorKind::BackendUnavailable, "use io_uring", cause).mended_by(remedy);
        if before.kind() == BackendKind::Uring && self.core.fall_back(refusal) {
            self.engine = None;
            self.with_ring = Some(before);
        }
    }

    /// Whoever reads next has a ring again.
    fn take_ring_again(&mut self) {
        if let Some(report) = self.with_ring.take() {
            self.engine = None;
            self.core.set_report(report);
        }
    }

    /// One turn of the engine, and the first batch it read. Others are behind it in the queue.
    fn turn(&mut self, wait: Wait) -> Result<Option<EventBatch>> {
        let Some(engine) = &mut self.engine else {
            return Ok(None);
        };
        match engine.turn(wait) {
            Ok(None) => Ok(None),
            Ok(Some(buffer)) => Ok(self.core.batch(buffer, &mut self.recent)),
            Err(cause) => {
                let lossless = engine.lost_nothing();
                let error = engine.failure(&cause);
                if lossless && self.core.feed.queue.is_closed() {
                    // What was read comes, and then the end.
                    self.engine = None;
                    return Ok(None);
                }
                self.outlive(Failure { error, lossless })
            }
        }
    }

    /// Reading has failed. If it can go on with epoll, it does, from the next turn on.
    fn outlive(&mut self, failure: Failure) -> Result<Option<EventBatch>> {
        match self.core.outlives(failure) {
            Some(error) => {
                self.end();
                Err(error)
            }
            None => {
                self.engine = None;
                Ok(None)
            }
        }
    }

    fn failed(&mut self, cause: &std::io::Error) -> Error {
        self.end();
        match self.core.feed.queue.is_closed() {
            true => Error::closed(WAIT),
            false => Error::os(ErrorKind::ReaderFailed, WAIT, cause),
        }
    }
}

/// What tells that a reader has something to do.
#[cfg(feature = "tokio")]
pub(crate) enum Descriptors {
    /// The events' and the signals' own.
    Own(Arc<InotifyFd>, Arc<Notifier>),
    /// The one that keeps the window.
    Gate(Arc<EpollFd>),
}

/// Waits for each batch. Ends when the instance is closed.
impl Iterator for Reader {
    type Item = Result<EventBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.wait()
    }
}

impl std::iter::FusedIterator for Reader {}

#[cfg(feature = "tokio")]
impl Reader {
    /// The reader as a stream of its thread, woken by tokio's own event loop. See [`ReaderStream`](crate::ReaderStream).
    ///
    /// # Errors
    /// [`ReaderFailed`](ErrorKind::ReaderFailed) if the runtime does not take the descriptor.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in one without I/O enabled.
    pub fn into_stream(self) -> Result<crate::ReaderStream> {
        crate::ReaderStream::new(self)
    }
}

/// Readable when [`try_next`](Reader::try_next) has something to do. For waiting on only.
impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        if self.core.is_here() {
            self.show_rest();
            self.gate.show(&self.source.fd, &self.notifier, self.core.window);
        }
        self.gate.as_fd()
    }
}

impl AsRawFd for Reader {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // First nobody reads any more, then the place is free.
        self.engine = None;
        if self.core.is_here() {
            self.take_ring_again();
            self.core.leave();
        }
    }
}
