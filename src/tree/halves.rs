//! The other half of a rename, and waiting for it.

use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use super::ahead::Partner;
use super::batch::Draft;
use super::marks::Mark;
use super::tracker::{Out, Seen};
use super::worker::Worker;
use crate::decode::Records;
use crate::sys::pool::Buffer;

impl Worker {
    /// Finds the other half of a rename, waiting for what was not read yet.
    pub(super) fn rename(&mut self, from: Seen<'_>, behind: usize, buffer: &Arc<Buffer>, draft: &mut Draft) {
        let mut marked = false;
        let partner = loop {
            let marks = &self.shared.marks;
            match self.ahead.partner(&from.record, behind, |wd| marks.is_partner(wd)) {
                Partner::At(number, at) => break self.ahead.take(number, at),
                Partner::Nowhere => break None,
                Partner::Unread => {}
            }
            if !marked {
                // The kernel may be between the halves right now.
                if let Some(dir) = self.tracker.nodes.by_wd(from.record.wd) {
                    self.wait_for_change(dir);
                }
                if self.shared.marks.set(Mark::Partner).is_err() {
                    // Without it there is no end to wait for. Should the other half come, it is taken for a newcomer.
                    break None;
                }
            }
            marked = true;
            if !self.fetch_more(buffer, draft) {
                break None;
            }
        };
        let out = &mut Out {
            draft,
            memory: &mut self.memory,
        };
        let Some((buffer, at)) = partner else {
            return self.tracker.moved_out(from, out);
        };
        let mut records = Records::new(buffer.filled().get(at as usize..).unwrap_or_default());
        let Some(Ok(record)) = records.next() else { return };
        let same = self.ahead.front().is_some_and(|front| Arc::ptr_eq(&front, &buffer));
        let to = Seen {
            record,
            at: same.then_some(at),
        };
        self.tracker.renamed(from, to, out);
    }

    /// Waits for one more buffer. False if none can come: all are being looked through here, or the consumer keeps the others,
    /// or there is nothing more to read.
    ///
    /// A consumer that is at work on a batch, or has others to take, will drop them: a rename in the tree is not to be taken
    /// for one out of it, with all that happens in the directory until it is looked at again, because a consumer is slow.
    fn fetch_more(&mut self, buffer: &Arc<Buffer>, draft: &mut Draft) -> bool {
        loop {
            let kept = if self.shared.outlet.is_starving() {
                self.ahead.given()
            } else {
                0
            };
            let none_left = self.ahead.len() + kept >= self.shared.core.feed.pool.buffers();
            if self.fetch() {
                return true;
            }
            if self.ended || none_left {
                return false;
            }
            if self.is_asked() {
                // What was reported up to here comes before what that reports.
                self.divide(buffer, draft);
                self.obey();
                self.memory.forget();
            }
            thread::park_timeout(Duration::from_millis(10));
        }
    }

    fn is_asked(&self) -> bool {
        let commands = self.shared.commands.lock();
        !commands.unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}
