//! Markers in a tree's stream: the user's barriers and those of the tree itself.
//!
//! A marker is the end of a watch on an inode without a name: its `IGNORED` comes in order.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::barrier::{Arrival, Barriers};
use crate::sys::inotify::{InotifyFd, Marker};

/// What a marker of the tree's own says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// What was being renamed when this was set has its other half before this, if it has one. Other renames may have one
    /// half before it and one behind.
    Partner,
    /// What comes from here on happened after the loss was noticed.
    Light,
    /// What comes from here on happened after the session.
    Session,
    /// What comes from here on happened after the table of mounts was read.
    Mounts,
}

/// What an `IGNORED` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Mark(Mark),
    Barrier { number: u64, overtaken: bool },
    Nothing,
}

#[derive(Debug)]
pub(super) struct Marks {
    inotify: Arc<InotifyFd>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    marker: Marker,
    barriers: Barriers,
    own: VecDeque<(i32, Mark)>,
}

impl Marks {
    pub(super) fn new(inotify: Arc<InotifyFd>) -> io::Result<Self> {
        Ok(Self {
            state: Mutex::new(State {
                marker: Marker::new(&inotify)?,
                barriers: Barriers::default(),
                own: VecDeque::new(),
            }),
            inotify,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has so many markers be refused, with this errno. Answers how many still were to be.
    #[cfg(test)]
    pub(super) fn refuse(&self, times: usize, code: i32) -> usize {
        self.lock().marker.refuse(times, code)
    }

    /// As if the kernel had dropped those of the barriers that are queued.
    #[cfg(test)]
    pub(super) fn lose_markers(&self) {
        self.lock().barriers.lose_markers();
    }

    pub(super) fn barrier(&self) -> io::Result<u64> {
        let State { marker, barriers, .. } = &mut *self.lock();
        barriers.set(marker, &self.inotify)
    }

    pub(super) fn set(&self, mark: Mark) -> io::Result<i32> {
        let State { marker, own, .. } = &mut *self.lock();
        let before = own.len();
        let queued = marker.queue(&self.inotify, |wd| own.push_back((wd, mark)));
        if queued.is_err() {
            // The next may have the same watch, and say something else.
            own.truncate(before);
        }
        queued
    }

    /// A barrier that this marker overtakes: its own was lost.
    pub(super) fn overtaken_by(&self, wd: i32) -> Option<u64> {
        self.lock().barriers.overtaken_by(wd)
    }

    pub(super) fn arrived(&self, wd: i32) -> Meaning {
        let state = &mut *self.lock();
        if let Some(place) = state.own.iter().position(|&(own, _)| own == wd) {
            return state
                .own
                .remove(place)
                .map_or(Meaning::Nothing, |(_, mark)| Meaning::Mark(mark));
        }
        match state.barriers.arrived(wd) {
            Some(Arrival::Barrier { number, overtaken }) => Meaning::Barrier { number, overtaken },
            _ => Meaning::Nothing,
        }
    }

    /// Events were lost, markers perhaps among them, behind so many bytes of the stream. At most `buffered` bytes are between the
    /// kernel's queue and what was taken.
    pub(super) fn overflowed(&self, taken: u64, buffered: usize) {
        let mut state = self.lock();
        state.own.clear();
        let queued = || Some((self.inotify.queued_bytes().ok()? + buffered) as u64);
        state.barriers.overflowed(taken, queued);
        drop(state);
        // If there is no room, it is tried again.
        let _ = self.mark_again();
    }

    /// A barrier whose markers were lost in one overflow and another. As [`Barriers::overdue`].
    pub(super) fn overdue(&self, taken: u64) -> Option<u64> {
        self.lock().barriers.overdue(taken)
    }

    /// Sets again what was lost. There may be no room for a watch; then it is to be tried again. Answers whether something was.
    pub(super) fn mark_again(&self) -> io::Result<bool> {
        let State { marker, barriers, .. } = &mut *self.lock();
        barriers.mark_again(marker, &self.inotify)
    }
}
