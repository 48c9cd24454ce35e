//! The consumer's side of the table: what each event is about, in the order of the stream.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use super::{State, Table};
use crate::barrier::Arrival;
use crate::mask::Mask;
use crate::watch::Watch;

/// What an event is about.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    Watch(Watch),
    /// An overflow; or a descriptor that nobody knows.
    Nothing,
    Barrier {
        number: u64,
        overtaken: bool,
    },
    /// A marker that means nothing any more. Not shown.
    Stale,
}

/// Events at which the table changes, or which are not what their descriptor says.
pub(crate) const TURNING_POINTS: Mask = Mask::IGNORED.union(Mask::Q_OVERFLOW);

/// The watch that the consumer's last event was about: the next is often about the same, and needs no look at the table.
/// It can't be out of date: a descriptor does not come to mean another watch.
#[derive(Debug, Default)]
pub(crate) struct Recent(Option<Watch>);

/// Resolves the events of one batch, in order.
pub(crate) struct Resolver<'a> {
    table: &'a Table,
    recent: &'a mut Recent,
    /// Locked from the first event on that needs it.
    state: Option<MutexGuard<'a, State>>,
}

impl Table {
    /// The table, for the consumer to resolve a batch of events against, of so many bytes.
    pub(crate) fn resolve<'a>(&'a self, recent: &'a mut Recent, bytes: usize) -> Resolver<'a> {
        let taken = self.taken.load(Ordering::Relaxed) + bytes as u64;
        self.taken.store(taken, Ordering::Relaxed);
        Resolver {
            table: self,
            recent,
            state: None,
        }
    }
}

impl<'a> Resolver<'a> {
    /// Bytes that the consumer has taken, those of this batch included.
    fn taken(&self) -> u64 {
        self.table.taken.load(Ordering::Relaxed)
    }

    fn take_state(&mut self) -> MutexGuard<'a, State> {
        self.state.take().unwrap_or_else(|| {
            let mut state = self.table.lock();
            state.retry_marks();
            state
        })
    }

    /// If this event is a marker: a barrier that was set before that marker's and has not arrived, so that the overflow
    /// has dropped it. Such come first, as they were set first. If it is an overflow: a barrier whose markers were dropped in
    /// others, and before which nothing more can come.
    pub(crate) fn overtaken_by(&mut self, wd: i32, mask: Mask) -> Option<Subject> {
        if !mask.intersects(TURNING_POINTS) {
            return None;
        }
        let taken = self.taken();
        let state = self.take_state();
        let state = self.state.insert(state);
        let number = match mask.contains(Mask::Q_OVERFLOW) {
            true => state.barriers.overdue(taken)?,
            false => state.barriers.overtaken_by(wd)?,
        };
        let overtaken = true;
        Some(state.marker_arrived(Arrival::Barrier { number, overtaken }))
    }

    /// The subject of an event. The table is then as it is behind it.
    #[inline]
    pub(crate) fn resolve(&mut self, wd: i32, mask: Mask) -> Subject {
        if let Some(watch) = &self.recent.0
            && watch.wd() == wd
            && !mask.intersects(TURNING_POINTS)
        {
            return Subject::Watch(watch.clone());
        }
        let mut state = self.take_state();
        if mask.contains(Mask::Q_OVERFLOW) {
            state.overflowed(self.taken(), self.table.buffered);
            self.recent.0 = None;
            self.state = Some(state);
            return Subject::Nothing;
        }
        let ended = mask.contains(Mask::IGNORED);
        if ended && let Some(arrival) = state.barriers.arrived(wd) {
            let subject = state.marker_arrived(arrival);
            self.state = Some(state);
            return subject;
        }
        // The kernel may know a new watch before the call that makes it has put it in here. It is about to.
        while !state.watches.contains_key(&wd) && state.adding > 0 {
            let waited = self.table.added.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let watch = state.watches.get(&wd).map(|entry| entry.watch.clone());
        if ended {
            state.end(wd);
            if let Some(fd) = &state.fd {
                fd.watches.store(state.live(), Ordering::Relaxed);
            }
        }
        // While barriers are to be marked again, every batch is to come by here.
        self.recent.0 = watch.clone().filter(|_| !ended && !state.barriers.are_unmarked());
        self.state = Some(state);
        watch.map_or(Subject::Nothing, Subject::Watch)
    }
}
