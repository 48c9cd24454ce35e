//! The reading half of a tree.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_core::{FusedStream, Stream};

use super::Owner;
use super::batch::TreeBatch;
use super::outlet::Next;
use crate::error::{Error, ErrorKind, Result};

/// The changes of a tree as an async stream of batches, for every executor; and for threads without one:
/// [`wait`](Self::wait), [`wait_timeout`](Self::wait_timeout), [`blocking`](Self::blocking).
///
/// Cancel safe as an [`EventStream`](crate::EventStream) is: a batch leaves the queue only when it is returned, and what
/// was not taken when the stream is dropped is the next one's. It ends when the tree is [closed](super::Tree::close), or behind
/// an error. One of kind [`Malformed`](ErrorKind::Malformed) does not end it: what was lost with it is looked for, as behind an
/// overflow.
#[derive(Debug)]
#[must_use = "a stream that is dropped delivers nothing"]
pub struct TreeStream {
    owner: Arc<Owner>,
    ended: bool,
}

impl TreeStream {
    pub(super) fn new(owner: Arc<Owner>) -> Result<Self> {
        owner.shared.core.check_home("open stream")?;
        if !owner.shared.outlet.enter() {
            let cause = "this tree is being read already";
            let error = Error::text(ErrorKind::AlreadyReading, "open stream", cause);
            return Err(error.mended_by("drop its stream first"));
        }
        Ok(Self { owner, ended: false })
    }

    /// The next batch, waiting for it on this thread. None once the stream has ended.
    pub fn wait(&mut self) -> Option<Result<TreeBatch>> {
        if self.ended {
            return None;
        }
        if let Err(forked) = self.check_home() {
            return Some(Err(forked));
        }
        let next = self.owner.shared.outlet.wait(None);
        self.deliver(next).unwrap_or(None)
    }

    /// The next batch, waiting for it on this thread for at most `timeout`. `Ok(None)` if there is none by then.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) once the stream has ended, and as [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<TreeBatch>> {
        let ended = || Error::text(ErrorKind::Closed, "wait for changes", "this tree was closed");
        self.check_home()?;
        if self.ended {
            return Err(ended());
        }
        let next = self.owner.shared.outlet.wait(Instant::now().checked_add(timeout));
        match self.deliver(next) {
            Some(Some(batch)) => batch.map(Some),
            Some(None) => Err(ended()),
            None => Ok(None),
        }
    }

    /// The batches as a blocking iterator, which ends with the stream.
    pub fn blocking(&mut self) -> impl Iterator<Item = Result<TreeBatch>> {
        std::iter::from_fn(|| self.wait())
    }

    fn check_home(&mut self) -> Result<()> {
        let checked = self.owner.shared.core.check_home("wait for changes");
        self.ended |= checked.is_err();
        checked
    }

    /// None if there is nothing yet; `Some(None)` at the end.
    fn deliver(&mut self, next: Next) -> Option<Option<Result<TreeBatch>>> {
        Some(match next {
            Next::Batch(batch) => Some(Ok(batch)),
            Next::Error(error) => Some(Err(error)),
            Next::Ended => {
                self.ended = true;
                None
            }
            Next::Empty => return None,
        })
    }
}

impl Stream for TreeStream {
    type Item = Result<TreeBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Err(forked) = self.check_home() {
            return Poll::Ready(Some(Err(forked)));
        }
        let next = self.owner.shared.outlet.take(Some(cx.waker()));
        self.deliver(next).map_or(Poll::Pending, Poll::Ready)
    }
}

impl FusedStream for TreeStream {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

impl Drop for TreeStream {
    fn drop(&mut self) {
        if self.owner.shared.core.is_here() {
            self.owner.shared.outlet.leave();
        }
    }
}
