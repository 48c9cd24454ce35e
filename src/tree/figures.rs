//! How a tree stands, in figures.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::worker::Worker;
use crate::error::Error;
use crate::shown::Shown;
use crate::stats::Stats;

/// How far [`TreeBuilder::open`](super::TreeBuilder::open) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Directories that were looked at.
    pub directories: usize,
    /// Watches that were made.
    pub watches: usize,
    /// Directories that could not be watched or listed.
    pub errors: usize,
    /// Time since it began.
    pub elapsed: Duration,
}

/// A directory that is not covered, or a root that is a file, and why.
#[derive(Clone)]
#[non_exhaustive]
pub struct Uncovered {
    /// Its path.
    pub path: PathBuf,
    /// What is in the way, and what mends it.
    pub error: Error,
}

impl fmt::Debug for Uncovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uncovered")
            .field("path", &Shown(&self.path))
            .field("error", &self.error)
            .finish()
    }
}

/// Figures of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeStats {
    /// Those of its instance. `events` and `batches` are what was handed on; `watches` are those of directories.
    pub instance: Stats,
    /// Directories that are watched.
    pub directories: usize,
    /// Files that are known by name: with [`Recovery::Diff`](super::Recovery::Diff), all.
    pub files: usize,
    /// Directories that are not covered.
    pub uncovered: usize,
    /// Watches of directories that have left, which are removed some at a time.
    pub releasing: usize,
    /// Times that the tree looked at directories.
    pub sessions: usize,
    /// Bytes that directories and files take, without their names.
    pub memory: usize,
    /// Bytes that their names take.
    pub name_memory: usize,
}

/// How a tree stands, for whoever asks.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) directories: AtomicUsize,
    pub(super) files: AtomicUsize,
    pub(super) uncovered: AtomicUsize,
    pub(super) releasing: AtomicUsize,
    pub(super) sessions: AtomicUsize,
    pub(super) memory: AtomicUsize,
    pub(super) name_memory: AtomicUsize,
}

pub(super) fn add_one(figure: &AtomicUsize) {
    figure.fetch_add(1, Ordering::Relaxed);
}

impl Worker {
    /// Says how things stand, for whoever asks.
    pub(super) fn publish(&mut self) {
        let figures = &self.shared.figures;
        let watched = self.tracker.nodes.watched();
        // Those by which roots were waited for that are there now go in the next pause.
        let idle = if self.awaits_any() { 0 } else { self.awaiting.len() };
        let releasing = self.tracker.releasing.len() + idle;
        self.inotify.watches.store(watched + releasing, Ordering::Relaxed);
        figures.directories.store(watched, Ordering::Relaxed);
        figures.files.store(
            if self.compares { self.tracker.files.len() } else { 0 },
            Ordering::Relaxed,
        );
        figures.uncovered.store(self.tracker.uncovered.len(), Ordering::Relaxed);
        figures.releasing.store(releasing, Ordering::Relaxed);
        let (nodes, files) = (self.tracker.nodes.memory(), self.tracker.files.memory());
        let names = nodes.1 + files.1;
        // Each by itself: whoever reads both may see one of an earlier moment.
        figures.memory.store(nodes.0 + files.0 - names, Ordering::Relaxed);
        figures.name_memory.store(names, Ordering::Relaxed);
    }
}
