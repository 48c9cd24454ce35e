//! One event, borrowed from its batch or owned.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::barrier::Barrier;
use crate::decode::Record;
use crate::mask::Mask;
use crate::shown::Shown;
use crate::table::Subject;
use crate::watch::Watch;

/// One event, borrowed from its [batch](crate::EventBatch): a view of the bytes the kernel wrote.
#[derive(Clone, Copy)]
pub struct Event<'a> {
    pub(crate) record: Record<'a>,
    pub(crate) subject: &'a Subject,
    pub(crate) instance: u64,
}

impl<'a> Event<'a> {
    /// What happened. Never empty; bits this version does not know are kept.
    #[inline]
    pub fn mask(&self) -> Mask {
        self.record.mask
    }

    /// What pairs the two halves of a rename: equal and not 0 for its [`MOVED_FROM`](Mask::MOVED_FROM) and
    /// [`MOVED_TO`](Mask::MOVED_TO). None for other events.
    #[inline]
    pub fn cookie(&self) -> Option<u32> {
        Some(self.record.cookie).filter(|&cookie| cookie != 0)
    }

    /// The entry of the watched directory that it is about; none if it is about the watched object itself.
    /// Any bytes but NUL and `/`, 1 to 255 of them; they need not be UTF-8.
    #[inline]
    pub fn name(&self) -> Option<&'a OsStr> {
        self.record.name()
    }

    /// The watch it belongs to, also if that has ended since. None for [`Q_OVERFLOW`](Mask::Q_OVERFLOW) and barriers.
    #[inline]
    pub fn watch(&self) -> Option<&'a Watch> {
        match self.subject {
            Subject::Watch(watch) => Some(watch),
            _ => None,
        }
    }

    /// The path of the watch joined with the name; the path of the watch if there is no name; none without a watch.
    ///
    /// It is as good as the [path of the watch](Watch::path) is when asked. Allocates; [`write_path`](Self::write_path)
    /// does not.
    pub fn path(&self) -> Option<PathBuf> {
        let mut path = PathBuf::new();
        self.write_path(&mut path).then_some(path)
    }

    /// Writes the [`path`](Self::path) over what `path` holds, without allocating if it has the room. Answers whether
    /// there is one; if not, `path` is left alone.
    pub fn write_path(&self, path: &mut PathBuf) -> bool {
        match self.watch() {
            Some(watch) => {
                watch.write_path(self.name(), path);
                true
            }
            None => false,
        }
    }

    /// The barrier that is reached here, if this event is one.
    pub fn barrier(&self) -> Option<Barrier> {
        match *self.subject {
            Subject::Barrier { number, .. } => Some(Barrier {
                instance: self.instance,
                number,
            }),
            _ => None,
        }
    }

    /// Whether this is a [`barrier`](Self::barrier) that an overflow dropped, so that it comes behind events that were
    /// queued after it was set. The overflow itself was reported before.
    pub fn is_overtaken(&self) -> bool {
        matches!(self.subject, Subject::Barrier { overtaken: true, .. })
    }

    /// A copy that owns its name and outlives the batch.
    pub fn to_owned(&self) -> OwnedEvent {
        OwnedEvent {
            mask: self.mask(),
            cookie: self.cookie(),
            name: self.name().map(OsStr::to_owned),
            watch: self.watch().cloned(),
            barrier: self.barrier(),
            overtaken: self.is_overtaken(),
        }
    }
}

/// Shows what is there of: path, mask, cookie, barrier.
impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, self.path().as_deref(), self.mask(), self.cookie(), self.barrier())
    }
}

/// An event that owns what it holds.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct OwnedEvent {
    mask: Mask,
    cookie: Option<u32>,
    name: Option<OsString>,
    watch: Option<Watch>,
    barrier: Option<Barrier>,
    overtaken: bool,
}

impl OwnedEvent {
    /// As [`Event::mask`].
    pub fn mask(&self) -> Mask {
        self.mask
    }

    /// As [`Event::cookie`].
    pub fn cookie(&self) -> Option<u32> {
        self.cookie
    }

    /// As [`Event::name`].
    pub fn name(&self) -> Option<&OsStr> {
        self.name.as_deref()
    }

    /// As [`Event::watch`].
    pub fn watch(&self) -> Option<&Watch> {
        self.watch.as_ref()
    }

    /// As [`Event::path`].
    pub fn path(&self) -> Option<PathBuf> {
        let mut path = PathBuf::new();
        self.watch.as_ref()?.write_path(self.name(), &mut path);
        Some(path)
    }

    /// As [`Event::barrier`].
    pub fn barrier(&self) -> Option<Barrier> {
        self.barrier
    }

    /// As [`Event::is_overtaken`].
    pub fn is_overtaken(&self) -> bool {
        self.overtaken
    }
}

/// As that of [`Event`].
impl fmt::Debug for OwnedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, self.path().as_deref(), self.mask, self.cookie, self.barrier)
    }
}

fn debug(
    f: &mut fmt::Formatter<'_>,
    path: Option<&Path>,
    mask: Mask,
    cookie: Option<u32>,
    barrier: Option<Barrier>,
) -> fmt::Result {
    let mut event = f.debug_struct("Event");
    if let Some(path) = path {
        event.field("path", &Shown(path));
    }
    event.field("mask", &mask);
    if let Some(cookie) = cookie {
        event.field("cookie", &cookie);
    }
    if let Some(barrier) = barrier {
        event.field("barrier", &barrier);
    }
    event.finish()
}

/// As `path` (a string; an array of bytes if it is not UTF-8; null), `mask` and `cookie`.
#[cfg(feature = "serde")]
impl serde::Serialize for OwnedEvent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        use std::os::unix::ffi::OsStrExt;

        let path = self.path();
        let mut event = serializer.serialize_struct("Event", 3)?;
        match path.as_deref().map(|path| (path.to_str(), path.as_os_str().as_bytes())) {
            None => event.serialize_field("path", &None::<&str>)?,
            Some((Some(text), _)) => event.serialize_field("path", text)?,
            Some((None, bytes)) => event.serialize_field("path", bytes)?,
        }
        event.serialize_field("mask", &self.mask)?;
        event.serialize_field("cookie", &self.cookie)?;
        event.end()
    }
}
