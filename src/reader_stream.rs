//! The in-place reader as a stream on tokio's event loop.

use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::{FusedStream, Stream};
use tokio::task::coop;

use crate::batch::EventBatch;
use crate::error::{Error, ErrorKind, Result};
use crate::reader::{Descriptors, Reader};
use crate::sys::async_fd::Registered;
use crate::sys::epoll::EpollFd;
use crate::sys::inotify::InotifyFd;
use crate::sys::notifier::Notifier;

/// A [`Reader`] as a stream: the events are read by the thread that polls it, so a thread-per-core service pays for no
/// second wake-up. For current-thread tokio, a `LocalSet`, and tokio-uring; made by [`Reader::into_stream`].
///
/// Without a [batch window](crate::Builder::batch_window), [`Backend::Auto`](crate::Backend::Auto) reads without io_uring
/// here, and says so: tokio waits with epoll (tokio-uring too), and a second wait behind it costs more than the read it
/// saves.
///
/// It is not `Send`: it belongs to the thread of its runtime. Cancel safe, and it ends, as
/// [`EventStream`](crate::EventStream).
///
/// ```
/// use futures_util::StreamExt;
/// use ringwatch::{Inotify, Mask};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
/// # runtime.block_on(async {
/// let inotify = Inotify::new()?;
/// inotify.add_watch("/tmp", Mask::ALL)?;
/// let mut batches = inotify.reader()?.into_stream()?;
/// # std::fs::read_dir("/tmp")?;
/// while let Some(batch) = batches.next().await {
///     println!("{:?}", batch?);
///     inotify.close();
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a stream that is dropped delivers nothing"]
pub struct ReaderStream {
    heard: Heard,
    reader: Reader,
    /// Whether there is nothing before the loop tells of more.
    waiting: bool,
    ended: bool,
    /// A ring serves one thread.
    _here: PhantomData<*const ()>,
}

/// How the loop tells.
#[derive(Debug)]
enum Heard {
    /// Each descriptor is the loop's: no event costs more than one wake-up and one read.
    Own {
        events: Registered<InotifyFd>,
        signals: Registered<Notifier>,
    },
    /// The descriptor that keeps the window.
    Gate(Registered<EpollFd>),
}

impl ReaderStream {
    pub(crate) fn new(mut reader: Reader) -> Result<Self> {
        let heard = reader.enter_tokio().and_then(|descriptors| match descriptors {
            Descriptors::Own(events, signals) => Ok(Heard::Own {
                events: Registered::new(events)?,
                signals: Registered::new(signals)?,
            }),
            Descriptors::Gate(gate) => Registered::new(gate).map(Heard::Gate),
        });
        let heard = heard.map_err(|cause| Error::os(ErrorKind::ReaderFailed, "open stream", &cause))?;
        Ok(Self {
            heard,
            reader,
            waiting: false,
            ended: false,
            _here: PhantomData,
        })
    }

    /// The reader again.
    pub fn into_reader(mut self) -> Reader {
        self.reader.leave_tokio();
        self.reader
    }

    fn next(&mut self) -> Result<Option<EventBatch>> {
        let (batch, nothing_left) = match self.heard {
            Heard::Own { .. } => self.reader.next_heard_of()?,
            Heard::Gate(_) => {
                let batch = self.reader.try_next()?;
                let nothing_left = batch.is_none();
                (batch, nothing_left)
            }
        };
        self.waiting = nothing_left;
        Ok(batch)
    }
}

impl Heard {
    /// Ready once there is something to do. That is taken back before the look: what comes after makes it ready again.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // Each is asked: both must know whom to wake.
            Self::Own { events, signals } => match (events.poll(cx), signals.poll(cx)) {
                (Poll::Pending, Poll::Pending) => Poll::Pending,
                (Poll::Ready(Err(cause)), _) | (_, Poll::Ready(Err(cause))) => Poll::Ready(Err(cause)),
                _ => Poll::Ready(Ok(())),
            },
            Self::Gate(gate) => gate.poll(cx),
        }
    }
}

impl Stream for ReaderStream {
    type Item = Result<EventBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Err(forked) = self.reader.check_home() {
            self.ended = true;
            return Poll::Ready(Some(Err(forked)));
        }
        // Where events never cease, the other tasks of the thread have their turn all the same.
        let budget = ready!(coop::poll_proceed(cx));
        loop {
            if self.waiting {
                if let Err(cause) = ready!(self.heard.poll(cx)) {
                    self.ended = true;
                    let error = Error::os(ErrorKind::ReaderFailed, "wait for events", &cause);
                    return Poll::Ready(Some(Err(error)));
                }
                self.waiting = false;
            }
            let item = match self.next() {
                Ok(None) => continue,
                Ok(Some(batch)) => Some(Ok(batch)),
                Err(error) if error.kind() == ErrorKind::Closed => {
                    self.ended = true;
                    None
                }
                Err(error) => {
                    self.ended = self.reader.has_ended();
                    Some(Err(error))
                }
            };
            budget.made_progress();
            return Poll::Ready(item);
        }
    }
}

impl FusedStream for ReaderStream {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}
