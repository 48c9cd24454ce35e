//! The queue of batches between a tree and its consumer.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

use super::batch::TreeBatch;
use crate::error::Error;
use crate::waiting::{Awaited, exchange_waker};

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
    state: Awaited<State>,
    /// With as many in it, nothing more is read. What a session finds may go beyond.
    bound: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Result<TreeBatch, Error>>,
    ended: bool,
    read: bool,
    /// The consumer came for more, and there was nothing.
    asked_in_vain: bool,
    /// Who waits for room.
    worker: Option<Waker>,
}

impl Outlet {
    pub(super) fn new(bound: usize) -> Self {
        Self {
            state: Awaited::new(State::default()),
            bound,
        }
    }

    pub(super) fn push(&self, item: Result<TreeBatch, Error>) {
        let mut state = self.state.lock();
        state.queue.push_back(item);
        self.state.wake(state);
    }

    /// Whether there is room for more. If not, `worker` is woken when there is.
    pub(super) fn has_room(&self, worker: &Waker) -> bool {
        self.has_room_below(self.bound, worker)
    }

    /// As [`has_room`](Self::has_room), for what a session finds.
    pub(super) fn has_room_for_findings(&self, worker: &Waker) -> bool {
        const FINDINGS: usize = 128;
        self.has_room_below(self.bound.max(FINDINGS), worker)
    }

    fn has_room_below(&self, bound: usize, worker: &Waker) -> bool {
        let mut state = self.state.lock();
        let room = state.queue.len() < bound;
        let before = match room {
            true => None,
            false => exchange_waker(&mut state.worker, worker),
        };
        drop(state);
        drop(before);
        room
    }

    /// Whether the consumer has taken all there is, and has come for more. What it has not dropped by then it keeps.
    pub(super) fn is_starving(&self) -> bool {
        let state = self.state.lock();
        state.queue.is_empty() && state.asked_in_vain
    }

    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        self.state.wake(state);
    }

    /// Takes the place of the one reader. False if it is taken.
    pub(super) fn enter(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().read, true)
    }

    pub(super) fn leave(&self) {
        let mut state = self.state.lock();
        state.read = false;
        let waker = state.forget_waker();
        drop(state);
        drop(waker);
    }

    /// `room` is who waits for it, if there is some now: to be woken once the lock is not held.
    fn next(&self, state: &mut State, room: &mut Option<Waker>) -> Option<Next> {
        let item = state.queue.pop_front();
        state.asked_in_vain = item.is_none();
        let Some(item) = item else {
            return state.ended.then_some(Next::Ended);
        };
        if state.queue.len() < self.bound.div_ceil(2) {
            *room = state.worker.take();
        }
        Some(match item {
            Ok(batch) => Next::Batch(batch),
            Err(error) => Next::Error(error),
        })
    }

    /// What comes next. With `waker`, it is woken once that is more than nothing.
    pub(super) fn take(&self, waker: Option<&Waker>) -> Next {
        let mut room = None;
        let next = self.state.take(waker, |state| self.next(state, &mut room));
        if let Some(worker) = room {
            worker.wake();
        }
        next.unwrap_or(Next::Empty)
    }

    /// What comes next, waiting for it until `deadline`, or for ever.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Next {
        let mut room = None;
        let next = self.state.wait(deadline, |state| self.next(state, &mut room));
        if let Some(worker) = room {
            worker.wake();
        }
        next.unwrap_or(Next::Empty)
    }
}

/// For loom: the worker hands on three things with room for two, and waits when there is none; the consumer is a task.
#[cfg(loom)]
pub(crate) fn a_tree_waits_for_room() {
    use crate::error::ErrorKind;
    use crate::models::Executor;
    use std::sync::Arc;

    let outlet = Arc::new(Outlet::new(2));
    let handing_on = Arc::clone(&outlet);
    let worker = loom::thread::spawn(move || {
        for _ in 0..3 {
            Executor::new().run(|waker| handing_on.has_room(waker).then_some(()));
            handing_on.push(Err(Error::text(ErrorKind::Other, "model", "something")));
        }
        handing_on.end();
    });
    let mut taken = 0;
    loop {
        let next = Executor::new().run(|waker| match outlet.take(Some(waker)) {
            Next::Empty => None,
            next => Some(next),
        });
        match next {
            Next::Ended => break,
            _ => taken += 1,
        }
    }
    assert_eq!(taken, 3, "everything is delivered before the end");
    worker.join().expect("the worker");
}
