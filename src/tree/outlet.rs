//! The queue of batches between a tree and its consumer.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::Thread;
use std::time::Instant;

use super::batch::TreeBatch;
use crate::error::Error;

/// What the consumer finds.
#[derive(Debug)]
pub(super) enum Next {
    Batch(TreeBatch),
    /// An error in its place; more may follow.
    Error(Error),
    /// There is no more to come.
    Ended,
    /// Nothing yet.
    Empty,
}

#[derive(Debug)]
pub(super) struct Outlet {
    state: Mutex<State>,
    changed: Condvar,
    /// With as many in it, nothing more is read. What a session finds is bounded by the tree, and may go beyond.
    bound: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Result<TreeBatch, Error>>,
    ended: bool,
    read: bool,
    waker: Option<Waker>,
    parked: usize,
    /// Who waits for room.
    worker: Option<Thread>,
}

impl Outlet {
    pub(super) fn new(bound: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            bound,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, item: Result<TreeBatch, Error>) {
        let mut state = self.lock();
        state.queue.push_back(item);
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
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

    /// Whether there is room for more. If not, `worker` is unparked when there is.
    pub(super) fn has_room(&self, worker: &Thread) -> bool {
        let mut state = self.lock();
        let room = state.queue.len() < self.bound;
        if !room {
            state.worker = Some(worker.clone());
        }
        room
    }

    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        self.wake(state);
    }

    /// Takes the place of the one reader. False if it is taken.
    pub(super) fn enter(&self) -> bool {
        !std::mem::replace(&mut self.lock().read, true)
    }

    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.read = false;
        state.waker = None;
    }

    fn next(&self, state: &mut State) -> Next {
        let Some(item) = state.queue.pop_front() else {
            return if state.ended { Next::Ended } else { Next::Empty };
        };
        if state.queue.len() < self.bound.div_ceil(2)
            && let Some(worker) = state.worker.take()
        {
            worker.unpark();
        }
        match item {
            Ok(batch) => Next::Batch(batch),
            Err(error) => Next::Error(error),
        }
    }

    /// What comes next. With `waker`, it is woken once that is more than nothing.
    pub(super) fn take(&self, waker: Option<&Waker>) -> Next {
        let mut state = self.lock();
        let next = self.next(&mut state);
        if let (Next::Empty, Some(waker)) = (&next, waker) {
            state.waker = Some(waker.clone());
        }
        next
    }

    /// What comes next, waiting for it until `deadline`, or for ever.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Next {
        let mut state = self.lock();
        loop {
            let next = self.next(&mut state);
            if !matches!(next, Next::Empty) {
                return next;
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Next::Empty;
            }
            state.parked += 1;
            state = match left {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    self.changed
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
            state.parked -= 1;
        }
    }
}
