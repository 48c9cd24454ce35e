//! The in-place reader as a stream on tokio's event loop.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::{FusedStream, Stream};
use tokio::io::unix::AsyncFd;

use crate::batch::EventBatch;
use crate::error::{Error, ErrorKind, Result};
use crate::reader::Reader;
use crate::sys::async_fd;

/// A [`Reader`] as a stream: the events are read by the thread that polls it, so a thread-per-core service pays for no
/// second wake-up. For current-thread tokio, a `LocalSet`, and tokio-uring; made by [`Reader::into_stream`].
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
    reader: AsyncFd<Reader>,
    /// Whether the reader said that there is nothing, so that the descriptor will tell.
    waiting: bool,
    ended: bool,
    /// A ring serves one thread.
    _here: PhantomData<*const ()>,
}

impl ReaderStream {
    pub(crate) fn new(reader: Reader) -> Result<Self> {
        let reader =
            async_fd::register(reader).map_err(|cause| Error::os(ErrorKind::ReaderFailed, "open stream", &cause))?;
        Ok(Self {
            reader,
            waiting: false,
            ended: false,
            _here: PhantomData,
        })
    }

    /// The reader again.
    pub fn into_reader(self) -> Reader {
        self.reader.into_inner()
    }
}

impl Stream for ReaderStream {
    type Item = Result<EventBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            if self.waiting {
                match ready!(self.reader.poll_read_ready(cx)) {
                    // Taken back before the look: what comes after the look makes it ready again.
                    Ok(mut readiness) => readiness.clear_ready(),
                    Err(cause) => {
                        self.ended = true;
                        let error = Error::os(ErrorKind::ReaderFailed, "wait for events", &cause);
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                self.waiting = false;
            }
            match self.reader.get_mut().try_next() {
                Ok(Some(batch)) => return Poll::Ready(Some(Ok(batch))),
                Ok(None) => self.waiting = true,
                Err(error) if error.kind() == ErrorKind::Closed => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

impl FusedStream for ReaderStream {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}
