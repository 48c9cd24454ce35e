//! A state that somebody waits for: a task by its waker, or threads.
//!
//! It knows nothing of what the state is. Whoever changes it so that there is more to take says so by `wake`.

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug)]
pub(crate) struct Awaited<S> {
    state: Mutex<Waited<S>>,
    changed: Condvar,
}

/// The state, and who waits for it.
#[derive(Debug)]
pub(crate) struct Waited<S> {
    state: S,
    waker: Option<Waker>,
    /// Threads that wait on `changed`.
    parked: usize,
}

impl<S> Deref for Waited<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.state
    }
}

impl<S> DerefMut for Waited<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.state
    }
}

impl<S> Waited<S> {
    /// The task that waited is gone. What this answers is to be dropped once the lock is not held.
    #[must_use]
    pub(crate) fn forget_waker(&mut self) -> Option<Waker> {
        self.waker.take()
    }
}

/// Has this one be woken. Answers the one that was there, which is not to be dropped under a lock: it may be the last of a task,
/// and so drop that, and what a task does then is not ours. It may close the very instance.
#[must_use]
pub(crate) fn exchange_waker(place: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
    match place {
        Some(known) if known.will_wake(waker) => None,
        _ => place.replace(waker.clone()),
    }
}

impl<S> Awaited<S> {
    pub(crate) fn new(state: S) -> Self {
        let waited = Waited {
            state,
            waker: None,
            parked: 0,
        };
        Self {
            state: Mutex::new(waited),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Waited<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever waits, whichever way.
    pub(crate) fn wake(&self, mut state: MutexGuard<'_, Waited<S>>) {
        let waker = state.waker.take();
        let parked = state.parked > 0;
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        if parked {
            self.changed.notify_all();
        }
    }

    /// What `next` finds. If that is nothing, `waker` is woken once that may have changed.
    pub(crate) fn take<T>(&self, waker: Option<&Waker>, next: impl FnOnce(&mut S) -> Option<T>) -> Option<T> {
        let mut waited = self.lock();
        let taken = next(&mut waited.state);
        let before = match (&taken, waker) {
            (None, Some(waker)) => exchange_waker(&mut waited.waker, waker),
            _ => None,
        };
        drop(waited);
        drop(before);
        taken
    }

    /// What `next` finds, waiting for it until `deadline`, or for ever.
    pub(crate) fn wait<T>(&self, deadline: Option<Instant>, mut next: impl FnMut(&mut S) -> Option<T>) -> Option<T> {
        let mut waited = self.lock();
        loop {
            if let Some(taken) = next(&mut waited.state) {
                return Some(taken);
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            waited = self.park(waited, left);
        }
    }

    /// Waits on this thread until somebody wakes, or for `left`.
    pub(crate) fn park<'a>(
        &'a self,
        mut waited: MutexGuard<'a, Waited<S>>,
        left: Option<Duration>,
    ) -> MutexGuard<'a, Waited<S>> {
        waited.parked += 1;
        let mut waited = match left {
            None => self.changed.wait(waited).unwrap_or_else(PoisonError::into_inner),
            Some(left) => {
                let waited = self.changed.wait_timeout(waited, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        waited.parked -= 1;
        waited
    }
}
