//! What `add_watch` answers and every event holds.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::mask::Mask;
use crate::shown::Shown;
use crate::sys::fork::Home;

/// A watched file or directory.
///
/// Cheap to clone; clones are the same watch. Equal and hashed by identity: the instance it belongs to and the watch
/// descriptor, neither of which comes back while the process runs. Dropping it does not end the watch:
/// [`Inotify::rm_watch`](crate::Inotify::rm_watch) does.
///
/// ```
/// use ringwatch::{Inotify, Mask};
///
/// let inotify = Inotify::new()?;
/// let watch = inotify.add_watch("/tmp", Mask::CREATE)?;
/// // The same inode again: the same watch, with the mask of the newest call.
/// let again = inotify.add_watch("/tmp/.", Mask::DELETE)?;
/// assert_eq!(watch, again);
/// assert_eq!(watch.mask(), Mask::DELETE);
/// # Ok::<(), ringwatch::Error>(())
/// ```
#[derive(Clone)]
pub struct Watch(Arc<Inner>);

struct Inner {
    instance: u64,
    wd: i32,
    home: Home,
    ended: AtomicBool,
    /// The path it was made with, which most watches keep: while it holds, events need no lock for their paths.
    first_path: Arc<Path>,
    path_changed: AtomicBool,
    told: Mutex<Told>,
}

/// What the newest `add_watch` said.
struct Told {
    path: Arc<Path>,
    mask: Mask,
}

impl Watch {
    pub(crate) fn new(instance: u64, wd: i32, path: &Path, mask: Mask) -> Self {
        let path: Arc<Path> = path.into();
        Self(Arc::new(Inner {
            instance,
            wd,
            home: Home::new(),
            ended: AtomicBool::new(false),
            first_path: Arc::clone(&path),
            path_changed: AtomicBool::new(false),
            told: Mutex::new(Told {
                path,
                mask: mask.difference(Mask::WATCH_FLAGS),
            }),
        }))
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None in a child of `fork` whose parent held the lock at that moment: there it is never let go.
    fn told_if_free(&self) -> Option<MutexGuard<'_, Told>> {
        match self.0.home.is_here() {
            true => Some(self.told()),
            false => self.0.told.try_lock().ok(),
        }
    }

    /// The path it was added under by the newest call, or given by [`set_path`](Self::set_path).
    ///
    /// A watch follows its inode, not its name: after a rename of the object, or of a directory above it, this is the old
    /// path until somebody sets it.
    pub fn path(&self) -> Arc<Path> {
        let told = self.told_if_free();
        Arc::clone(told.as_ref().map_or(&self.0.first_path, |told| &told.path))
    }

    /// Tells the watch where its object is now. Events look their path up when asked, so it holds for those already read.
    pub fn set_path(&self, path: impl AsRef<Path>) {
        if let Some(mut told) = self.told_if_free() {
            self.set_told_path(&mut told, path.as_ref());
        }
    }

    fn set_told_path(&self, told: &mut Told, path: &Path) {
        told.path = path.into();
        self.0.path_changed.store(true, Ordering::Release);
    }

    /// What it asks for: the mask of the newest call, or with [`MASK_ADD`](Mask::MASK_ADD) of all calls together,
    /// without the bits that only say how to watch.
    pub fn mask(&self) -> Mask {
        self.told_if_free().map_or(Mask::empty(), |told| told.mask)
    }

    /// Whether it has ended: its [`IGNORED`](Mask::IGNORED) has been delivered.
    pub fn is_ended(&self) -> bool {
        self.0.ended.load(Ordering::Acquire)
    }

    pub(crate) fn end(&self) {
        self.0.ended.store(true, Ordering::Release);
    }

    pub(crate) fn instance(&self) -> u64 {
        self.0.instance
    }

    pub(crate) fn wd(&self) -> i32 {
        self.0.wd
    }

    /// The newest call was this one.
    pub(crate) fn update(&self, path: &Path, mask: Mask) {
        let mut told = self.told();
        let kept = if mask.contains(Mask::MASK_ADD) {
            told.mask
        } else {
            Mask::empty()
        };
        told.mask = kept | mask.difference(Mask::WATCH_FLAGS);
        // Paths that lead to the same place are equal, and their bytes need not be.
        if told.path.as_os_str() != path.as_os_str() {
            self.set_told_path(&mut told, path);
        }
    }

    /// A call has asked for this too, and is not the newest.
    pub(crate) fn ask_also(&self, mask: Mask) {
        self.told().mask |= mask.difference(Mask::WATCH_FLAGS);
    }

    /// Writes the path of the entry `name` in it, or its own.
    pub(crate) fn write_path(&self, name: Option<&OsStr>, path: &mut PathBuf) {
        // As bytes, and back: neither copies, and pushing to a path would look at each piece twice.
        let mut bytes = std::mem::take(path).into_os_string().into_vec();
        bytes.clear();
        let name = name.map_or(&[][..], OsStr::as_bytes);
        let mut begin = |own: &Path| {
            let own = own.as_os_str().as_bytes();
            bytes.reserve(own.len() + 1 + name.len());
            bytes.extend_from_slice(own);
        };
        match self.0.path_changed.load(Ordering::Acquire) {
            false => begin(&self.0.first_path),
            true => begin(&self.path()),
        }
        if !name.is_empty() {
            if !matches!(bytes.last(), None | Some(b'/')) {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(name);
        }
        *path = OsString::from_vec(bytes).into();
    }
}

impl PartialEq for Watch {
    fn eq(&self, other: &Self) -> bool {
        (self.0.instance, self.0.wd) == (other.0.instance, other.0.wd)
    }
}

impl Eq for Watch {}

impl Hash for Watch {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0.instance, self.0.wd).hash(state);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("path", &Shown(self.path()))
            .field("mask", &self.mask())
            .field("ended", &self.is_ended())
            .finish_non_exhaustive()
    }
}
