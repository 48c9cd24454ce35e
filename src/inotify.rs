//! The control half: what is watched.

use std::path::Path;
use std::sync::Arc;

use crate::backend::BackendReport;
use crate::barrier::Barrier;
use crate::builder::Builder;
use crate::core::Core;
use crate::error::Result;
use crate::mask::Mask;
use crate::reader::Reader;
use crate::stats::Stats;
use crate::stream::EventStream;
use crate::watch::Watch;

/// An inotify instance: the handle that says what is watched.
///
/// Clones are the same instance. All calls are by `&self`, from any thread, and none waits for whoever reads the events;
/// those come from its one reading half, [`stream`](Self::stream) or [`reader`](Self::reader). The instance lives until
/// the last handle and the reading half are dropped, or until [`close`](Self::close).
///
/// ```
/// use ringwatch::{Inotify, Mask};
///
/// let dir = std::env::temp_dir().join(format!("ringwatch-doc-{}", std::process::id()));
/// std::fs::create_dir_all(&dir)?;
/// let inotify = Inotify::new()?;
/// inotify.add_watch(&dir, Mask::CREATE)?;
/// std::fs::write(dir.join("hello"), "")?;
///
/// let mut reader = inotify.reader()?;
/// let batch = reader.wait().expect("it is not closed")?;
/// let event = batch.iter().next().expect("a batch has an event");
/// assert_eq!(event.path(), Some(dir.join("hello")));
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[doc(alias = "inotify_init1")]
pub struct Inotify {
    core: Arc<Core>,
}

impl Inotify {
    /// An instance with the default settings: io_uring if the kernel lets us, else epoll.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new() -> Result<Self> {
        Builder::default().build()
    }

    /// Settings for an instance.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn from_core(core: impl Into<Arc<Core>>) -> Self {
        Self { core: core.into() }
    }

    #[cfg(test)]
    pub(crate) fn feed(&self) -> &crate::queue::Feed {
        &self.core.feed
    }

    /// Watches a file or directory.
    ///
    /// If its inode is watched already, by this path or another, that watch is updated and returned: its mask and path
    /// become those of this call. [`MASK_ADD`](Mask::MASK_ADD) extends the mask instead, and
    /// [`MASK_CREATE`](Mask::MASK_CREATE) refuses. Nothing is lost by it, but if the mask takes something away, or is
    /// [`ONESHOT`](Mask::ONESHOT): then the kernel tells of nothing for some nanoseconds (`inotify_update_existing_watch`). Both
    /// masks hold until then. A path that ends in a symbolic link is followed, unless
    /// [`DONT_FOLLOW`](Mask::DONT_FOLLOW) is asked for. A relative path is kept as it is given.
    ///
    /// Directories are not watched recursively. Events from before the call are not delivered.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), [`PermissionDenied`](crate::ErrorKind::PermissionDenied),
    /// [`NotADirectory`](crate::ErrorKind::NotADirectory) and [`AlreadyExists`](crate::ErrorKind::AlreadyExists) are about
    /// the path; [`WatchLimit`](crate::ErrorKind::WatchLimit) says that `fs.inotify.max_user_watches` is reached;
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) is a mask without an event, or a path with a NUL;
    /// [`Closed`](crate::ErrorKind::Closed).
    #[doc(alias = "inotify_add_watch")]
    pub fn add_watch(&self, path: impl AsRef<Path>, mask: Mask) -> Result<Watch> {
        self.core
            .check_home("add watch")
            .map_err(|error| error.at(path.as_ref()))?;
        self.core.table.add(path.as_ref(), mask)
    }

    /// Ends a watch. Events queued before are still delivered, then its [`IGNORED`](Mask::IGNORED); an event caused by
    /// another thread at this very moment can arrive behind that.
    ///
    /// # Errors
    /// [`WatchEnded`](crate::ErrorKind::WatchEnded) if it ended before: by this call, because its object is gone, or by
    /// [`ONESHOT`](Mask::ONESHOT). [`InvalidInput`](crate::ErrorKind::InvalidInput) if it is another instance's.
    /// [`Closed`](crate::ErrorKind::Closed).
    #[doc(alias = "inotify_rm_watch")]
    pub fn rm_watch(&self, watch: &Watch) -> Result<()> {
        self.core.check_home("remove watch")?;
        self.core.table.remove(watch)
    }

    /// The watches that have not ended, in no particular order.
    ///
    /// A watch that ends counts until its [`IGNORED`](Mask::IGNORED) is delivered. An overflow may have swallowed that, so
    /// after one the kernel's own list is read, once, at about a microsecond a watch.
    pub fn watches(&self) -> Vec<Watch> {
        match self.core.is_here() {
            true => self.core.table.watches(),
            false => Vec::new(),
        }
    }

    /// Sets a mark in the event stream: an event that arrives behind everything queued before this call, and ahead of
    /// everything queued after it. See [`Barrier`]. Barriers arrive in the order they were set.
    ///
    /// No file is written: the mark is the end of a watch on an inode without a name. Costs a few microseconds. From the first,
    /// or an overflow, on such a watch is kept, so that the others need no room for one.
    ///
    /// # Errors
    /// [`WatchLimit`](crate::ErrorKind::WatchLimit) if there is no room for one more watch and none is kept,
    /// [`NotFound`](crate::ErrorKind::NotFound) without `/proc`, [`Closed`](crate::ErrorKind::Closed).
    pub fn barrier(&self) -> Result<Barrier> {
        self.core.check_home("set barrier")?;
        let number = self.core.table.barrier()?;
        Ok(Barrier {
            instance: self.core.instance,
            number,
        })
    }

    /// How much has been read and delivered, and how full things are.
    pub fn stats(&self) -> Stats {
        if !self.core.is_here() {
            return Stats::default();
        }
        Stats {
            watches: self.core.table.count(),
            ..self.core.stats()
        }
    }

    /// Which backend reads the events, and why not the better one. What is true when the instance is made can change: if
    /// io_uring is denied when a reading half is made, [`Backend::Auto`](crate::Backend::Auto) falls back then, and while a
    /// reader moves too often between threads, or is a stream on tokio without a window, it does without.
    pub fn backend(&self) -> BackendReport {
        self.core.report()
    }

    /// The reading half as an async stream, driven by a thread of ours.
    ///
    /// Streams with the same backend and window share the thread; it starts with the first and ends with the last. Just
    /// after another stream of the instance was dropped, this waits until that has let go: up to a window.
    ///
    /// # Errors
    /// [`AlreadyReading`](crate::ErrorKind::AlreadyReading) while another stream or reader of this instance is alive,
    /// [`Closed`](crate::ErrorKind::Closed), [`BackendUnavailable`](crate::ErrorKind::BackendUnavailable) if io_uring was
    /// asked for by name and is denied now, and [`Other`](crate::ErrorKind::Other) if no thread can be had.
    pub fn stream(&self) -> Result<EventStream> {
        EventStream::new(Arc::clone(&self.core))
    }

    /// The reading half as a reader, driven in place by whoever asks it: no other thread, no second wake-up.
    ///
    /// # Errors
    /// [`AlreadyReading`](crate::ErrorKind::AlreadyReading) while another stream or reader of this instance is alive,
    /// [`Closed`](crate::ErrorKind::Closed), [`DescriptorLimit`](crate::ErrorKind::DescriptorLimit).
    pub fn reader(&self) -> Result<Reader> {
        Reader::new(Arc::clone(&self.core))
    }

    /// Ends the instance, for every handle: its watches end, and its stream or reader delivers what was already read and
    /// then nothing more, but for the error if reading had failed before. Closing a closed instance does nothing.
    ///
    /// What still waits in the kernel's queue is lost with it. To stop without losing that, set a
    /// [`barrier`](Self::barrier), and close when it arrives.
    pub fn close(&self) {
        self.core.close();
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.core.is_closed()
    }
}
