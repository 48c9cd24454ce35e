//! One change, borrowed from its batch or owned.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::barrier::Barrier;
use crate::decode::Record;
use crate::error::Error;
use crate::mask::Mask;
use crate::shown::Shown;

/// How a change came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Origin {
    /// The kernel reported it.
    Kernel,
    /// It was found by looking, and has no event of its own: what is in a directory that is new to the tree, or what an
    /// overflow has swallowed.
    Scan,
}

/// One change, borrowed from its [batch](super::TreeBatch).
///
/// It is `Copy`, and nothing in it was copied or looked up for it: directory and name are slices.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    pub(super) record: Record<'a>,
    pub(super) dir: Option<&'a Path>,
    pub(super) root: usize,
    pub(super) from: Option<&'a Path>,
    pub(super) moved_out: bool,
    pub(super) scan: bool,
    pub(super) error: Option<&'a Error>,
    pub(super) barrier: Option<Barrier>,
    pub(super) overtaken: bool,
}

impl<'a> Change<'a> {
    /// What happened: the bits of inotify. Found by a scan, it is [`CREATE`](Mask::CREATE), [`DELETE`](Mask::DELETE) or
    /// [`MODIFY`](Mask::MODIFY).
    pub fn mask(&self) -> Mask {
        self.record.mask
    }

    /// What pairs the two halves of a rename. None for other changes.
    pub fn cookie(&self) -> Option<u32> {
        Some(self.record.cookie).filter(|&cookie| cookie != 0)
    }

    /// The directory the entry is in, under the path it had at this place in the stream. None for an overflow and a barrier.
    pub fn dir(&self) -> Option<&'a Path> {
        self.dir
    }

    /// The entry of [`dir`](Self::dir) that it is about; none if it is about that directory itself, which is a root then.
    pub fn name(&self) -> Option<&'a OsStr> {
        self.record.name()
    }

    /// The path: [`dir`](Self::dir) joined with [`name`](Self::name). Allocates; [`write_path`](Self::write_path) does not.
    pub fn path(&self) -> Option<PathBuf> {
        let mut path = PathBuf::new();
        self.write_path(&mut path).then_some(path)
    }

    /// Writes the [`path`](Self::path) over what `path` holds, without allocating if it has the room. Answers whether
    /// there is one; if not, `path` is left alone.
    pub fn write_path(&self, path: &mut PathBuf) -> bool {
        self.dir.is_some_and(|dir| {
            path.clear();
            path.push(dir);
            path.extend(self.name());
            true
        })
    }

    /// The root it is below.
    pub fn root(&self) -> Option<&'a Path> {
        let path = self.dir?.as_os_str().as_bytes();
        Some(OsStr::from_bytes(path.get(..self.root)?).as_ref())
    }

    /// [`dir`](Self::dir) relative to its [`root`](Self::root); empty for the root itself.
    pub fn relative_dir(&self) -> Option<&'a Path> {
        let path = self.dir?.as_os_str().as_bytes().get(self.root..)?;
        let path = path.strip_prefix(b"/").unwrap_or(path);
        Some(OsStr::from_bytes(path).as_ref())
    }

    /// Of a [`MOVED_TO`](Mask::MOVED_TO): the path it had, if that was in the tree. Then all that was below is below its new
    /// path now. Otherwise it has come from outside, and a directory's contents follow as [`Origin::Scan`].
    ///
    /// The [`MOVED_FROM`](Mask::MOVED_FROM) of such a pair comes right before, or with an exchange of two, not far before.
    pub fn renamed_from(&self) -> Option<&'a Path> {
        self.from
    }

    /// Whether this is a [`MOVED_FROM`](Mask::MOVED_FROM) that stands for itself: it has left the tree, with all below it.
    ///
    /// A directory that is renamed while the tree looks at it for the first time is told of so too, and then as one that has
    /// come from outside, with its contents.
    pub fn is_moved_out(&self) -> bool {
        self.moved_out
    }

    /// How it came to be known.
    pub fn origin(&self) -> Origin {
        if self.scan { Origin::Scan } else { Origin::Kernel }
    }

    /// Whether it is about a directory.
    pub fn is_dir(&self) -> bool {
        self.record.mask.is_dir()
    }

    /// Why the directory at [`path`](Self::path) can't be covered, or the root that is a file there, if this is what the change
    /// says. Its mask is empty but for [`ISDIR`](Mask::ISDIR), which a file has not. Nothing is known of what is in it: if that
    /// was covered before, it is reported as gone and made first, but for a root, which is in nothing. If it is covered again,
    /// what is in it then is found, and reported.
    ///
    /// Only if the [operation](Error::operation) that failed is `look into directory`, it is covered as it was, and what was
    /// reported of it stands: it may not be searched, so that nobody can tell of some of its entries whether they are there.
    pub fn uncovered(&self) -> Option<&'a Error> {
        self.error
    }

    /// The barrier that is reached here, if this is one. See [`Tree::barrier`](super::Tree::barrier).
    pub fn barrier(&self) -> Option<Barrier> {
        self.barrier
    }

    /// Whether this is a [`barrier`](Self::barrier) that an overflow dropped.
    pub fn is_overtaken(&self) -> bool {
        self.overtaken
    }

    /// Whether events were lost here.
    pub fn is_overflow(&self) -> bool {
        self.record.mask.contains(Mask::Q_OVERFLOW)
    }

    /// A copy that outlives the batch.
    pub fn to_owned(&self) -> OwnedChange {
        OwnedChange {
            mask: self.mask(),
            cookie: self.cookie(),
            dir: self.dir.map(Path::to_owned),
            name: self.name().map(OsStr::to_owned),
            root: self.root,
            from: self.from.map(Path::to_owned),
            moved_out: self.moved_out,
            origin: self.origin(),
            error: self.error.cloned(),
            barrier: self.barrier,
            overtaken: self.overtaken,
        }
    }
}

impl fmt::Debug for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut change = f.debug_struct("Change");
        if let Some(path) = self.path() {
            change.field("path", &Shown(path));
        }
        change.field("mask", &self.mask());
        if let Some(cookie) = self.cookie() {
            change.field("cookie", &cookie);
        }
        if let Some(from) = self.from {
            change.field("renamed_from", &Shown(from));
        }
        if self.moved_out {
            change.field("moved_out", &true);
        }
        if self.scan {
            change.field("origin", &self.origin());
        }
        if let Some(error) = self.error {
            change.field("uncovered", error);
        }
        if let Some(barrier) = self.barrier {
            change.field("barrier", &barrier);
        }
        change.finish()
    }
}

/// A change that owns what it holds.
#[derive(Clone)]
pub struct OwnedChange {
    mask: Mask,
    cookie: Option<u32>,
    dir: Option<PathBuf>,
    name: Option<OsString>,
    root: usize,
    from: Option<PathBuf>,
    moved_out: bool,
    origin: Origin,
    error: Option<Error>,
    barrier: Option<Barrier>,
    overtaken: bool,
}

impl OwnedChange {
    /// As [`Change::mask`].
    pub fn mask(&self) -> Mask {
        self.mask
    }

    /// As [`Change::cookie`].
    pub fn cookie(&self) -> Option<u32> {
        self.cookie
    }

    /// As [`Change::dir`].
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// As [`Change::name`].
    pub fn name(&self) -> Option<&OsStr> {
        self.name.as_deref()
    }

    /// As [`Change::path`].
    pub fn path(&self) -> Option<PathBuf> {
        let mut path = self.dir.clone()?;
        path.extend(self.name());
        Some(path)
    }

    /// As [`Change::root`].
    pub fn root(&self) -> Option<&Path> {
        let path = self.dir.as_deref()?.as_os_str().as_bytes();
        Some(OsStr::from_bytes(path.get(..self.root)?).as_ref())
    }

    /// As [`Change::renamed_from`].
    pub fn renamed_from(&self) -> Option<&Path> {
        self.from.as_deref()
    }

    /// As [`Change::is_moved_out`].
    pub fn is_moved_out(&self) -> bool {
        self.moved_out
    }

    /// As [`Change::origin`].
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// As [`Change::is_dir`].
    pub fn is_dir(&self) -> bool {
        self.mask.is_dir()
    }

    /// As [`Change::uncovered`].
    pub fn uncovered(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// As [`Change::barrier`].
    pub fn barrier(&self) -> Option<Barrier> {
        self.barrier
    }

    /// As [`Change::is_overtaken`].
    pub fn is_overtaken(&self) -> bool {
        self.overtaken
    }

    /// As [`Change::is_overflow`].
    pub fn is_overflow(&self) -> bool {
        self.mask.contains(Mask::Q_OVERFLOW)
    }
}

/// As that of [`Change`].
impl fmt::Debug for OwnedChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let change = Change {
            record: Record::made_up(
                self.mask,
                self.cookie.unwrap_or(0),
                self.name.as_ref().map_or(b"", |name| name.as_bytes()),
            ),
            dir: self.dir.as_deref(),
            root: self.root,
            from: self.from.as_deref(),
            moved_out: self.moved_out,
            scan: self.origin == Origin::Scan,
            error: self.error.as_ref(),
            barrier: self.barrier,
            overtaken: self.overtaken,
        };
        change.fmt(f)
    }
}
