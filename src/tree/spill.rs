//! Where many changes come together, they are handed on in batches of a reasonable size.

use std::sync::Arc;
use std::task::Waker;
use std::thread;

use super::batch::{Draft, Shelf, TreeBatch};
use super::read::Read;
use super::tracker::{Out, Tracker};
use super::worker::{Shared, Worker};
use crate::queue::add;

/// Bytes of a batch that is handed on in between.
const FULL: usize = 64 * 1024;

/// Takes batches that are full to the consumer.
pub(super) struct Spill<'a> {
    shared: &'a Shared,
    shelf: &'a Arc<Shelf>,
    /// By whom to be woken when there is room; None if it does not wait for that.
    pub(super) waker: Option<&'a Waker>,
    /// That in which the records of these changes are.
    buffer: Option<&'a Arc<Read>>,
}

impl Spill<'_> {
    /// Takes what there is, if it is enough. Answers whether it was.
    pub(super) fn take(&self, draft: &mut Draft) -> bool {
        if draft.text_len() <= FULL || draft.is_empty() {
            return false;
        }
        if let Some(waker) = self.waker {
            self.wait_for_room(waker);
        }
        let full = std::mem::replace(draft, self.shelf.take());
        let core = &self.shared.core;
        let batch = TreeBatch::new(self.buffer.cloned(), full, self.shelf, core.instance);
        add(&core.feed.counters.batches, 1);
        add(&core.feed.counters.events, batch.len() as u64);
        self.shared.outlet.push(Ok(batch));
        true
    }

    fn wait_for_room(&self, waker: &Waker) {
        let shared = self.shared;
        let is_closed = || shared.core.feed.queue.is_closed();
        while !shared.outlet.has_room_for_findings(waker) && !shared.is_asked() && !is_closed() {
            thread::park();
        }
    }
}

impl Worker {
    /// The tracker, and where it reports to: this draft, and the consumer when that is full. Its records are in `buffer`.
    pub(super) fn reporting<'a>(
        &'a mut self,
        draft: &'a mut Draft,
        buffer: Option<&'a Arc<Read>>,
    ) -> (&'a mut Tracker, Out<'a>) {
        let spill = Spill {
            shared: &self.shared,
            shelf: &self.shelf,
            waker: self.opened.then_some(&self.waker),
            buffer,
        };
        let out = Out {
            draft,
            memory: &mut self.memory,
            spill: Some(spill),
        };
        (&mut self.tracker, out)
    }
}
