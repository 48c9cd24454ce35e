//! The reading half that a thread of ours drives.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_core::{FusedStream, Stream};

use crate::batch::EventBatch;
use crate::core::{Core, Next, Unmade};
use crate::driver::{Driver, Joined, Unattached, Wanted};
use crate::error::{Error, ErrorKind, Result};
use crate::event::OwnedEvent;
use crate::queue::{Failure, Half};
use crate::table::Recent;

const WAIT: &str = "wait for events";

/// The events of an instance as an async stream of batches, for every executor.
///
/// A reader thread moves what the kernel has into the instance's buffers, so a consumer that stalls loses nothing while
/// those last. It also serves threads without an executor: [`wait`](Self::wait), [`wait_timeout`](Self::wait_timeout),
/// [`blocking`](Self::blocking).
///
/// **Cancel safety.** Dropping a `next().await` half-way loses nothing: a batch leaves the queue only when it is returned.
/// Dropping the stream loses nothing either: what was read and not delivered is the next reading half's.
///
/// **Ends** with `None` when the instance is [closed](crate::Inotify::close), behind all that was already read, or after an
/// error of kind [`ReaderFailed`](ErrorKind::ReaderFailed). An error of kind [`Malformed`](ErrorKind::Malformed) does not
/// end it.
///
/// ```
/// use futures_util::StreamExt;
/// use ringwatch::{Inotify, Mask};
///
/// # futures_executor::block_on(async {
/// let inotify = Inotify::new()?;
/// let tmp = inotify.add_watch(std::env::temp_dir(), Mask::CREATE)?;
/// let mut batches = inotify.stream()?;
/// # let name = std::env::temp_dir().join(format!("ringwatch-stream-{}", std::process::id()));
/// # std::fs::write(&name, "")?;
/// # std::fs::remove_file(&name)?;
/// while let Some(batch) = batches.next().await {
///     for event in &batch? {
///         if event.mask().contains(Mask::CREATE) && event.watch() == Some(&tmp) {
///             println!("{:?} was made", event.path());
///             inotify.close();
///         }
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
#[must_use = "a stream that is dropped delivers nothing"]
pub struct EventStream {
    core: Arc<Core>,
    recent: Recent,
    ended: bool,
}

impl EventStream {
    pub(crate) fn new(core: Arc<Core>) -> Result<Self> {
        attach(&core)?;
        Ok(Self {
            core,
            recent: Recent::default(),
            ended: false,
        })
    }

    /// The next batch, waiting for it on this thread. None once the stream has ended.
    pub fn wait(&mut self) -> Option<Result<EventBatch>> {
        if self.ended {
            return None;
        }
        if let Err(forked) = self.check_home() {
            return Some(Err(forked));
        }
        let next = self.next_by(|core, recent| core.wait(recent, None));
        self.deliver(next).unwrap_or(None)
    }

    /// The next batch, waiting for it on this thread for at most `timeout`. `Ok(None)` if there is none by then.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) once the stream has ended, and as [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<EventBatch>> {
        if self.ended {
            return Err(self.core.ended(WAIT));
        }
        self.check_home()?;
        let deadline = Instant::now().checked_add(timeout);
        let next = self.next_by(|core, recent| core.wait(recent, deadline));
        match self.deliver(next) {
            Some(Some(batch)) => batch.map(Some),
            Some(None) => Err(self.core.ended(WAIT)),
            None => Ok(None),
        }
    }

    /// The batches as a blocking iterator, which ends with the stream.
    pub fn blocking(&mut self) -> impl Iterator<Item = Result<EventBatch>> {
        std::iter::from_fn(|| self.wait())
    }

    /// The events one by one, each with its own copy of its name: for those who do not want batches. Dropping it loses the
    /// rest of the batch it was in.
    pub fn events(self) -> Events {
        Events {
            stream: self,
            batch: Vec::new().into_iter(),
        }
    }

    /// What comes next, of a ring or of what goes on in its place.
    fn next_by(&mut self, take: impl Fn(&Core, &mut Recent) -> Next) -> Next {
        loop {
            match take(&self.core, &mut self.recent) {
                Next::Failed(failure) => {
                    let lossless = false;
                    if let Err(error) = go_on(&self.core, failure) {
                        return Next::Failed(Failure { error, lossless });
                    }
                }
                next => return next,
            }
        }
    }

    fn check_home(&mut self) -> Result<()> {
        let checked = self.core.check_home(WAIT);
        self.ended |= checked.is_err();
        checked
    }

    /// None if there is nothing yet; `Some(None)` at the end.
    fn deliver(&mut self, next: Next) -> Option<Option<Result<EventBatch>>> {
        Some(match next {
            Next::Batch(batch) => Some(Ok(batch)),
            Next::Interposed(error) => Some(Err(error)),
            Next::Failed(failure) => {
                self.ended = true;
                Some(Err(failure.error))
            }
            Next::Closed => {
                self.ended = true;
                None
            }
            Next::Empty => return None,
        })
    }
}

/// Has a thread of ours read the instance from now on, as its one reading half, until that leaves the queue.
pub(crate) fn attach(core: &Core) -> Result<()> {
    const OPERATION: &str = "open stream";
    let source = core.source(OPERATION)?;
    let window = core.window;
    core.with_backend(OPERATION, |uring| {
        loop {
            let (driver, joined) = Driver::join(Wanted { uring, window })?;
            let half = Half::Stream(driver.clone());
            let attached = core.feed.enter(OPERATION, half, || driver.attach(source.clone()));
            let attached = attached.inspect_err(|_| driver.give_up()).map_err(Unmade::Other)?;
            // It panics on the way, or there is no such thread in this process.
            let unattached = match attached.recv().unwrap_or(Err(Unattached::Ended(None))) {
                Ok(()) => return Ok(()),
                Err(unattached) => unattached,
            };
            core.leave();
            return Err(match unattached {
                Unattached::Ended(_) if core.feed.queue.is_closed() => Unmade::Other(Error::closed(OPERATION)),
                // It was about to fail when we came: that is no answer to us. One of our own that fails is.
                Unattached::Ended(_) if joined == Joined::Another => continue,
                Unattached::Ended(Some(code)) => Unmade::Backend(io::Error::from_raw_os_error(code)),
                Unattached::Ended(None) => {
                    let cause = "the reader thread has failed";
                    Unmade::Other(Error::text(ErrorKind::ReaderFailed, OPERATION, cause))
                }
                Unattached::Refused(cause) => Unmade::Backend(cause),
            });
        }
    })
}

/// Reading has failed. If it can go on with epoll, it does; else this is why not.
pub(crate) fn go_on(core: &Core, failure: Failure) -> Result<()> {
    if let Some(error) = core.outlives(failure) {
        return Err(error);
    }
    core.leave();
    match attach(core) {
        // That is found behind what was read.
        Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
        attached => attached,
    }
}

impl Stream for EventStream {
    type Item = Result<EventBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Err(forked) = self.check_home() {
            return Poll::Ready(Some(Err(forked)));
        }
        let next = self.next_by(|core, recent| core.take(recent, Some(cx.waker())));
        self.deliver(next).map_or(Poll::Pending, Poll::Ready)
    }
}

impl FusedStream for EventStream {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.core.leave();
    }
}

/// The events of an [`EventStream`], one by one. Made by [`EventStream::events`].
///
/// Cancel safe as the stream is; but dropping it loses the rest of the batch it was in.
#[derive(Debug)]
#[must_use = "a stream that is dropped delivers nothing"]
pub struct Events {
    stream: EventStream,
    batch: std::vec::IntoIter<OwnedEvent>,
}

impl Stream for Events {
    type Item = Result<OwnedEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.batch.next() {
                // In a child of `fork` it is the parent's, as is the rest.
                if let Err(forked) = self.stream.check_home() {
                    self.batch = Vec::new().into_iter();
                    return Poll::Ready(Some(Err(forked)));
                }
                return Poll::Ready(Some(Ok(event)));
            }
            match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
                Some(Ok(batch)) => {
                    let events: Vec<_> = batch.iter().map(|event| event.to_owned()).collect();
                    self.batch = events.into_iter();
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}
