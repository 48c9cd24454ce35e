//! Markers in a tree's stream: the user's barriers and those of the tree itself.
//!
//! A marker is the end of a watch on an inode without a name: its `IGNORED` comes in order. Who sets one holds the lock
//! from the watch to its end, for the inode has one watch at a time.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::barrier::{Arrival, Barriers};
use crate::sys::inotify::{InotifyFd, MarkerInode};

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
    inode: MarkerInode,
    /// A watch in store, so that a marker can be set when the limit of watches is reached.
    stored: Option<i32>,
    barriers: Barriers,
    own: VecDeque<(i32, Mark)>,
    /// Barriers are to be marked again and could not be.
    unmarked: bool,
    /// How many are refused, and why.
    #[cfg(test)]
    refused: (usize, i32),
}

impl State {
    /// Queues a marker, and answers what it will be known by. It is noted before the kernel can queue it.
    fn mark(&mut self, inotify: &InotifyFd, note: impl FnOnce(&mut Self, i32)) -> io::Result<i32> {
        #[cfg(test)]
        if self.refused.0 > 0 {
            self.refused.0 -= 1;
            return Err(io::Error::from_raw_os_error(self.refused.1));
        }
        let wd = match self.stored.take() {
            Some(wd) => wd,
            None => self.inode.watch(inotify)?,
        };
        note(self, wd);
        let marked = inotify.rm_watch(wd);
        self.stored = self.inode.watch(inotify).ok();
        marked.map(|()| wd)
    }
}

impl Marks {
    pub(super) fn new(inotify: Arc<InotifyFd>) -> io::Result<Self> {
        let inode = MarkerInode::new()?;
        Ok(Self {
            state: Mutex::new(State {
                stored: Some(inode.watch(&inotify)?),
                inode,
                barriers: Barriers::default(),
                own: VecDeque::new(),
                unmarked: false,
                #[cfg(test)]
                refused: (0, 0),
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
        std::mem::replace(&mut self.lock().refused, (times, code)).0
    }

    pub(super) fn barrier(&self) -> io::Result<u64> {
        let state = &mut *self.lock();
        let number = state.barriers.open();
        let marked = state.mark(&self.inotify, |state, wd| state.barriers.mark(number, wd, false));
        if marked.is_err() {
            state.barriers.withdraw(number);
        }
        marked.map(|_| number)
    }

    pub(super) fn set(&self, mark: Mark) -> io::Result<i32> {
        let state = &mut *self.lock();
        state.mark(&self.inotify, |state, wd| state.own.push_back((wd, mark)))
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

    /// Events were lost, markers perhaps among them.
    pub(super) fn overflowed(&self) {
        let mut state = self.lock();
        state.own.clear();
        state.unmarked = true;
        drop(state);
        // If there is no room, it is tried again.
        let _ = self.mark_again();
    }

    /// Sets again what was lost. There may be no room for a watch; then it is to be tried again.
    pub(super) fn mark_again(&self) -> io::Result<()> {
        let state = &mut *self.lock();
        if !state.unmarked {
            return Ok(());
        }
        let numbers: Vec<_> = state.barriers.outstanding().collect();
        for number in numbers {
            state.mark(&self.inotify, |state, wd| state.barriers.mark(number, wd, true))?;
        }
        state.unmarked = false;
        Ok(())
    }
}
