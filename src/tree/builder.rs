//! How a tree is made.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::crawl::{Counts, Filter, Manner};
use super::{Progress, Recovery, Tree};
use crate::backend::Backend;
use crate::builder::Builder;
use crate::error::{Error, ErrorKind, Result};
use crate::mask::Mask;
use crate::shown::Shown;

type Tell = Arc<dyn Fn(&Progress) + Send + Sync>;

/// Makes a [`Tree`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `open`"]
pub struct TreeBuilder {
    pub(super) roots: Vec<PathBuf>,
    pub(super) mask: Mask,
    pub(super) recovery: Recovery,
    pub(super) list: bool,
    pub(super) await_missing: bool,
    pub(super) instance: Builder,
    pub(super) buffers: usize,
    pub(super) filter: Option<Filter>,
    pub(super) follow_links: bool,
    pub(super) cross_mounts: bool,
    pub(super) progress: Option<Tell>,
    pub(super) cancel: Cancel,
}

/// Ends an [`open`](TreeBuilder::open) that takes too long, from another thread.
#[derive(Clone, Debug, Default)]
pub struct Cancel(pub(super) Arc<AtomicBool>);

impl Cancel {
    /// One that was not used yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has the `open` that was given this end with an error of kind [`Cancelled`](ErrorKind::Cancelled). A tree that is open
    /// stays so.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Bits that the tree itself needs to hear of.
const NEEDED: Mask = Mask::CREATE
    .union(Mask::DELETE)
    .union(Mask::MOVE)
    .union(Mask::ATTRIB)
    .union(Mask::DELETE_SELF)
    .union(Mask::MOVE_SELF);

impl TreeBuilder {
    pub(super) fn new(path: &Path) -> Self {
        let instance = Builder::default();
        Self {
            roots: vec![path.to_owned()],
            mask: Mask::CHANGES,
            recovery: Recovery::Mark,
            list: false,
            await_missing: false,
            instance,
            buffers: 128,
            filter: None,
            follow_links: false,
            cross_mounts: false,
            progress: None,
            cancel: Cancel::default(),
        }
    }

    /// One more root. One that is a file is covered by watching its directory, for that name only, so it survives being
    /// replaced, as editors do it. If a directory takes its place, it is covered as that from then on, and told of by what is in it.
    /// A rename from one such root to another is told as a move away and a move there.
    ///
    /// One that is a symbolic link to a file is the file that it leads to when it is added, and is reported under the path of
    /// that. That the link leads elsewhere later is not heard of: where it does, add the directory that the link is in. Nor is
    /// it of a link to a directory, which goes on being reported under the path of the link;
    /// [`retry_uncovered`](Tree::retry_uncovered) finds out.
    pub fn root(mut self, path: impl AsRef<Path>) -> Self {
        self.roots.push(path.as_ref().to_owned());
        self
    }

    /// What to report. [`Mask::CHANGES`] by default.
    ///
    /// [`OPEN`](Mask::OPEN), [`ACCESS`](Mask::ACCESS) and [`CLOSE_NOWRITE`](Mask::CLOSE_NOWRITE) are reported of files and not
    /// of directories: the tree's own looks can't be told from those of others.
    pub fn mask(mut self, mask: Mask) -> Self {
        self.mask = mask;
        self
    }

    /// Asks before a watch is spent on a directory, with its path relative to its root; also of directories that appear
    /// later, and again of those that are renamed. A directory that is not wanted is reported as an entry of the one above
    /// it, and nothing below it.
    ///
    /// It is called from several threads, in the working directory that the process had when the tree was opened, and should be
    /// quick. If it panics, the tree ends with [`ReaderFailed`](ErrorKind::ReaderFailed).
    pub fn filter(mut self, wanted: impl Fn(&Path) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Arc::new(wanted));
        self
    }

    /// What is done when events were lost. [`Recovery::Mark`] by default.
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = recovery;
        self
    }

    /// Whether what is there already is reported first, as [`Origin::Scan`](super::Origin::Scan). Not by default.
    pub fn report_existing(mut self, report: bool) -> Self {
        self.list = report;
        self
    }

    /// Whether symbolic links to directories are followed. Not by default. Each new file is looked at, as it might be such a
    /// link.
    ///
    /// At rest, each directory that roots and links lead to is covered once, so there are no loops. What else leads to it is
    /// [uncovered](super::Tree::uncovered), and tried when the way by which it is covered goes. Of what is below a link
    /// the paths go through the link, which is itself reported as a file. A link is looked at when it appears, and when the
    /// directory it led to is renamed or removed: then it is reported as gone and made again, without what was below. If it
    /// is renamed, that stays below it, unless it leads elsewhere from its new place.
    ///
    /// Nobody tells that something appears where a link leads to nothing, or that a directory *above* one that a link leads to
    /// is renamed. That is noticed when the link is made again; or on [request](super::Tree::retry_uncovered), if it is
    /// uncovered.
    pub fn follow_symlinks(mut self, follow: bool) -> Self {
        self.follow_links = follow;
        self
    }

    /// Whether to go on into other file systems. Not by default; then a directory where one is mounted is reported as
    /// [uncovered](super::Change::uncovered). What is mounted and unmounted later is [noticed](super::Tree#mounts).
    pub fn cross_mounts(mut self, cross: bool) -> Self {
        self.cross_mounts = cross;
        self
    }

    /// Whether a root that is missing is waited for. Not by default. The next directory above it that is there is watched for
    /// that; if it can't be, the root is looked for five times a second.
    pub fn await_missing_roots(mut self, wait: bool) -> Self {
        self.await_missing = wait;
        self
    }

    /// As [`Builder::backend`].
    pub fn backend(mut self, backend: Backend) -> Self {
        self.instance = self.instance.backend(backend);
        self
    }

    /// As [`Builder::buffers`], but 128 by default; and as many batches may wait to be taken.
    ///
    /// While the other half of a rename is looked for and all buffers are full, what is in them is copied, as far as needed:
    /// at most what the kernel can have queued, [`max_queued_events`](crate::Limits::max_queued_events) × 272 bytes.
    pub fn buffers(mut self, buffers: usize) -> Self {
        self.buffers = buffers;
        self.instance = self.instance.buffers(buffers);
        self
    }

    /// As [`Builder::buffer_size`].
    pub fn buffer_size(mut self, bytes: usize) -> Self {
        self.instance = self.instance.buffer_size(bytes);
        self
    }

    /// As [`Builder::batch_window`].
    pub fn batch_window(mut self, window: Duration) -> Self {
        self.instance = self.instance.batch_window(window);
        self
    }

    #[cfg(test)]
    pub(crate) fn faults(mut self, faults: &[crate::sys::faults::Fault]) -> Self {
        self.instance = self.instance.faults(faults);
        self
    }

    /// Tells how far [`open`](Self::open) is, ten times a second and at its end, on the thread that waits in `open`; others
    /// look at the directories meanwhile.
    pub fn on_progress(mut self, tell: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(tell));
        self
    }

    /// Lets another thread end [`open`](Self::open).
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// Looks at all directories, on as many threads as there are cores, and watches them. When it returns, every change
    /// that happens from then on is reported.
    ///
    /// What has changed meanwhile is looked at before it returns, so that whoever then lists the tree knows what changes are
    /// about. If there is no end to that, it returns behind the sixteenth look, and the first changes may be older than that.
    ///
    /// A directory that can't be watched does not end it: see [`Tree::uncovered`]. Nor is one covered whose path below its
    /// root is longer than 64 KiB.
    ///
    /// # Errors
    /// As [`Builder::build`], and if a root can't be watched; [`Cancelled`](ErrorKind::Cancelled).
    pub fn open(self) -> Result<Tree> {
        if !self.mask.intersects(Mask::ALL) {
            let cause = format!("the mask {:?} names no event", self.mask);
            let error = Error::text(ErrorKind::InvalidInput, "open tree", cause);
            return Err(error.mended_by("ask for at least one kind, such as Mask::CHANGES"));
        }
        Tree::open(self)
    }

    pub(super) fn manner(&self) -> Manner {
        Manner {
            mask: self.mask & !Mask::MASK_ADD & !Mask::MASK_CREATE & !Mask::ONESHOT & !Mask::DONT_FOLLOW | NEEDED,
            filter: self.filter.clone(),
            follow_links: self.follow_links,
            cross_mounts: self.cross_mounts,
            fingerprints: false,
            names: false,
        }
    }

    /// Roots as they are reported: without slashes at the end.
    pub(super) fn root_paths(&self) -> Vec<Vec<u8>> {
        self.roots.iter().map(|root| plain(root)).collect()
    }
}

/// A path without what does not belong to it.
pub(super) fn plain(path: &Path) -> Vec<u8> {
    let path: PathBuf = path.components().collect();
    path.as_os_str().as_bytes().to_vec()
}

impl fmt::Debug for TreeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TreeBuilder")
            .field("roots", &self.roots.iter().map(Shown).collect::<Vec<_>>())
            .field("mask", &self.mask)
            .field("recovery", &self.recovery)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

/// How far a crawl is, read from its counts.
pub(super) fn progress(counts: &Counts, elapsed: Duration) -> Progress {
    Progress {
        directories: counts.directories.load(Ordering::Relaxed),
        watches: counts.watches.load(Ordering::Relaxed),
        errors: counts.errors.load(Ordering::Relaxed),
        elapsed,
    }
}
