//! Where many changes come together, they are handed on in batches of a reasonable size.

use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::thread;

use super::batch::{Draft, Shelf, TreeBatch};
use super::read::Read;
use super::worker::Shared;
use crate::queue::add;

/// Bytes of a batch that is handed on in between.
const FULL: usize = 64 * 1024;

/// Takes batches that are full to the consumer.
pub(super) struct Spill<'a> {
    pub(super) shared: &'a Shared,
    pub(super) shelf: &'a Arc<Shelf>,
    /// By whom to be woken when there is room; None if it does not wait for that.
    pub(super) waker: Option<&'a Waker>,
    /// That in which the records of these changes are.
    pub(super) buffer: Option<&'a Arc<Read>>,
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
        let is_asked = || {
            let commands = shared.commands.lock();
            !commands.unwrap_or_else(PoisonError::into_inner).is_empty()
        };
        while !shared.outlet.has_room_for_findings(waker) && !is_asked() && !shared.core.feed.queue.is_closed() {
            thread::park();
        }
    }
}
