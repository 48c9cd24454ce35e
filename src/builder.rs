//! How an instance is made.

use std::time::Duration;

use crate::backend::{Backend, BackendReport};
use crate::causes::instance_error;
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::inotify::Inotify;
use crate::sys::inotify::{InotifyFd, LARGEST_RECORD};
use crate::sys::late;
use crate::sys::pool::Pool;
use crate::sys::probe;

/// Makes an [`Inotify`] that is not as [`Inotify::new`] makes it.
///
/// ```
/// use std::time::Duration;
/// use ringwatch::{Backend, Inotify};
///
/// let inotify = Inotify::builder()
///     .backend(Backend::Epoll)
///     .buffers(32)
///     .buffer_size(16 * 1024)
///     .batch_window(Duration::ZERO)
///     .build()?;
/// assert_eq!(inotify.stats().budget, 32 * 16 * 1024);
/// # Ok::<(), ringwatch::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder {
    backend: Backend,
    buffers: usize,
    buffer_size: usize,
    window: Duration,
    #[cfg(test)]
    faults: Vec<crate::sys::faults::Fault>,
}

const OPERATION: &str = "make inotify instance";

/// The longest batch window: what ends a stream or frees a buffer may be noticed that much later.
const LONGEST_WINDOW: Duration = Duration::from_secs(1);

impl Default for Builder {
    fn default() -> Self {
        Self {
            backend: Backend::Auto,
            buffers: 512,
            buffer_size: 16 * 1024,
            window: Duration::from_millis(4),
            #[cfg(test)]
            faults: Vec::new(),
        }
    }
}

impl Builder {
    /// Which backend to use. [`Backend::Auto`] by default.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// How many buffers there are, at least 2. 512 by default.
    ///
    /// `buffers` × [`buffer_size`](Self::buffer_size) is all the memory that events may take, those read and not consumed
    /// and those in batches that the consumer holds. The default, 8 MiB, takes what 300,000 events with 24-byte names a
    /// second leave behind in half a second. Memory is taken from the system only as it is first used.
    ///
    /// When it is full, reading stops until a batch is dropped; then the kernel's queue fills, and overflows.
    pub fn buffers(mut self, buffers: usize) -> Self {
        self.buffers = buffers;
        self
    }

    /// How large a buffer is, in bytes: at least 272, the largest event where names have at most 255 bytes. 16,384 by
    /// default: what a core's nearest cache holds twice. With larger ones a full queue costs more an event, not less.
    ///
    /// Some file systems have longer names: vfat, exFAT, NTFS and SMB up to 765 bytes, FUSE more. A buffer that is too small for
    /// the next event ends the reading with an error; one of 4,112 bytes never is.
    pub fn buffer_size(mut self, bytes: usize) -> Self {
        self.buffer_size = bytes;
        self
    }

    /// The least time between two wake-ups of a busy watcher, at most a second, in whole microseconds. 4 ms by default.
    ///
    /// A watcher that has been idle for longer wakes at once, so the window costs latency only under load, where it saves
    /// most of the CPU: an event that comes sooner after the last wake-up is delivered when the window ends. Zero wakes for
    /// every read. Streams of one process with the same backend and window share a reader thread, and are idle only when
    /// all of them are. What ends a busy stream may be noticed a window later, and so may that
    /// the next one can begin.
    ///
    /// Between two wake-ups the events wait in the kernel's queue: the window times the events a second must stay below
    /// [`max_queued_events`](crate::Limits::max_queued_events), or it overflows however fast the consumer is. At 300,000
    /// events a second and the usual 16,384 that is 54 ms.
    pub fn batch_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Makes the instance.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for an option out of range, [`ErrorKind::InstanceLimit`] and
    /// [`ErrorKind::DescriptorLimit`] if there can be no more of them, [`ErrorKind::OutOfMemory`], and
    /// [`ErrorKind::BackendUnavailable`] for [`Backend::Uring`] where it can't be had.
    pub fn build(self) -> Result<Inotify> {
        self.core().map(Inotify::from_core)
    }

    pub(crate) fn core(self) -> Result<Core> {
        self.check(OPERATION)?;
        let report = match self.backend {
            Backend::Epoll => BackendReport::epoll(None),
            Backend::Uring => BackendReport::uring(probe::uring_features().map_err(by_no_limit)?),
            Backend::Auto => match probe::uring_features() {
                Ok(features) => BackendReport::uring(features),
                Err(refusal) => BackendReport::epoll(Some(refusal)),
            },
        };
        #[cfg(feature = "tracing")]
        tracing::debug!(backend = %report, "inotify instance");
        let pool = Pool::new(self.buffers, self.buffer_size).map_err(|cause| {
            Error::os(ErrorKind::OutOfMemory, OPERATION, &cause).mended_by("ask for fewer or smaller buffers")
        })?;
        let fd = late::patiently(libc::EMFILE, InotifyFd::new).map_err(|cause| instance_error(OPERATION, &cause))?;
        let core = Core::new(fd, pool, self.backend, report, self.window);
        #[cfg(test)]
        core.feed.faults.plan(&self.faults);
        Ok(core)
    }

    /// What is to become of its first requests.
    #[cfg(test)]
    pub(crate) fn faults(mut self, faults: &[crate::sys::faults::Fault]) -> Self {
        self.faults = faults.to_vec();
        self
    }

    fn check(&self, operation: &'static str) -> Result<()> {
        let fault = if self.buffers < 2 {
            format!(
                "{} buffers are too few; one is read into while another is consumed",
                self.buffers
            )
        } else if self.buffer_size < LARGEST_RECORD {
            format!("a buffer of {} bytes can't hold the largest event", self.buffer_size)
        } else if self.buffer_size > 1 << 30 || self.buffers > 1 << 24 {
            "more than 1 GiB a buffer or 16,777,216 buffers".to_owned()
        } else if self.window > LONGEST_WINDOW {
            format!("a batch window of {:?} is too long", self.window)
        } else {
            return Ok(());
        };
        let remedy = format!(
            "take at least 2 buffers of at least {LARGEST_RECORD} bytes, and a window of at most {LONGEST_WINDOW:?}"
        );
        Err(Error::text(ErrorKind::InvalidInput, operation, fault).mended_by(remedy))
    }
}

/// The test of io_uring needs an instance too. If there can be none, that is the error.
fn by_no_limit(refusal: Error) -> Error {
    if refusal.raw_os_error() == Some(libc::EMFILE)
        && let Err(cause) = late::patiently(libc::EMFILE, InotifyFd::new)
    {
        return instance_error(OPERATION, &cause);
    }
    refusal
}
