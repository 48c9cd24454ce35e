//! The other half of a rename, and waiting for it.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::ahead::Partner;
use super::batch::Draft;
use super::marks::Mark;
use super::read::Read;
use super::survey::AGAIN;
use super::tracker::Seen;
use super::worker::Worker;
use crate::decode::Records;
use crate::sys::inotify::LARGEST_RECORD;

/// A marker at which searches end: what had been read when it was set, and was being renamed out of these directories, has
/// its other half before it.
#[derive(Debug)]
pub(super) struct SearchEnd {
    pub(super) marker: i32,
    /// The number of the last buffer that had been read.
    upto: u64,
    /// Watches of directories that nobody was changing any more.
    dirs: HashSet<i32>,
}

impl SearchEnd {
    /// Whether the search for the other half of what left this directory, and is in the buffer of this number, ends here.
    fn covers(&self, number: u64, dir: i32) -> bool {
        number <= self.upto && self.dirs.contains(&dir)
    }
}

/// How often a marker for a search may be refused, five milliseconds apart, until a directory gives up its watch for it. If
/// that is of no use either, the search ends after as many again.
const PATIENCE: u32 = 20;

impl Worker {
    /// Finds the other half of a rename, waiting for what was not read yet.
    pub(super) fn rename(&mut self, from: Seen<'_>, behind: usize, buffer: &Arc<Read>, draft: &mut Draft) {
        let (here, dir) = (self.ahead.first(), from.record.wd);
        let (mut marked, mut refused) = (None, 0);
        // However many buffers come meanwhile, what was refused has its time.
        let mut tried: Option<Instant> = None;
        // What was looked through is not looked through again.
        let mut unread = (here, behind);
        let partner = loop {
            let ends = |wd| self.search_ends.iter().find(|end| end.marker == wd);
            let is_end = |wd| marked == Some(wd) || ends(wd).is_some_and(|end| end.covers(here, dir));
            match self.ahead.partner(&from.record, unread, is_end) {
                Partner::At(number, at) => break self.ahead.take(number, at),
                Partner::Nowhere => break None,
                Partner::Unread => unread = self.ahead.end(),
            }
            if marked.is_none() && tried.is_none_or(|tried| tried.elapsed() >= AGAIN) {
                marked = self.end_searches(dir, behind);
                tried = Some(Instant::now());
                if marked.is_none() {
                    refused += 1;
                    self.make_room(refused == PATIENCE, draft);
                }
            }
            // Without a marker there is no end to wait for. Should the other half come, it is taken for a newcomer.
            if marked.is_none() && (self.ended || refused > 2 * PATIENCE) {
                break None;
            }
            if !self.fetch_more(marked.is_some(), buffer, draft) {
                break None;
            }
        };
        let Some((other, at)) = partner else {
            let (tracker, mut out) = self.reporting(draft, Some(buffer));
            return tracker.moved_out(from, &mut out);
        };
        let mut records = Records::new(other.filled().get(at as usize..).unwrap_or_default());
        let Some(Ok(record)) = records.next() else { return };
        let same = self.ahead.front().is_some_and(|front| Arc::ptr_eq(&front, &other));
        let to = Seen {
            record,
            at: same.then_some(at),
        };
        let (tracker, mut out) = self.reporting(draft, Some(buffer));
        tracker.renamed(from, to, &mut out);
    }

    /// Has the search for this rename end, and for all others that were read and have no other half so far. Answers the marker.
    fn end_searches(&mut self, dir: i32, behind: usize) -> Option<i32> {
        let mut dirs = self.ahead.halves(behind);
        dirs.insert(dir);
        // The kernel may be between the halves right now.
        dirs.retain(|&wd| {
            let dir = self.tracker.nodes.by_wd(wd);
            dir.is_some_and(|dir| self.wait_for_change(dir))
        });
        let upto = self.ahead.first() + self.ahead.len() as u64 - 1;
        let marker = self.set(Mark::Partner)?;
        self.search_ends.push(SearchEnd { marker, upto, dirs });
        Some(marker)
    }

    /// Waits for one more buffer; if there is no marker yet, only until it is time to try again to set one. False if none can
    /// come: the consumer keeps all but those that are being looked through here, or there is nothing more to read.
    ///
    /// A consumer that is at work on a batch, or has others to take, will drop them: a rename in the tree is not to be taken
    /// for one out of it, with all that happens in the directory until it is looked at again, because a consumer is slow. Nor
    /// because what lies between its halves does not fit the buffers: then there are copies, of as much as the kernel can have
    /// queued before the marker.
    fn fetch_more(&mut self, marked: bool, buffer: &Arc<Read>, draft: &mut Draft) -> bool {
        loop {
            let kept = if self.shared.outlet.is_starving() {
                self.ahead.given()
            } else {
                0
            };
            let none_left = self.ahead.pooled() + kept >= self.most_read();
            let most_copied = self.most_queued.saturating_mul(LARGEST_RECORD);
            let none_left = none_left && !self.ahead.spare_one(most_copied);
            if self.fetch() {
                return true;
            }
            if self.ended || none_left {
                return false;
            }
            if self.shared.is_asked() {
                // What was reported up to here comes before what that reports.
                self.divide(buffer, draft);
                self.obey();
                self.memory.forget();
            }
            thread::park_timeout(AGAIN);
            if !marked {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Mask;
    use crate::tree::ahead::Ahead;
    use crate::tree::harness::{DIR, MARKER, Raw, read};

    fn partner(ahead: &Ahead, at: usize, end: &SearchEnd) -> Partner {
        let buffer = ahead.front().expect("a buffer");
        let from = Records::new(&buffer.filled()[at..]).next();
        let from = from.expect("a record").expect("well-formed");
        let is_end = |wd| wd == end.marker && end.covers(ahead.first(), from.wd);
        ahead.partner(&from, (ahead.first(), at + 32), is_end)
    }

    #[test]
    fn what_is_read_ahead_is_copied_from_behind_as_long_as_it_may_be_and_is_found_all_the_same() {
        let mut ahead = Ahead::default();
        let none = HashSet::new();
        let end = SearchEnd {
            marker: MARKER,
            upto: 0,
            dirs: none,
        };
        ahead.push(read(&[(5, Mask::MOVED_FROM | DIR, 1, "x")]));
        assert!(!ahead.spare_one(1), "it is being worked on");
        ahead.push(read(&[(7, Mask::MODIFY, 0, "y")]));
        ahead.push(read(&[(7, Mask::MODIFY, 0, "z"), (6, Mask::MOVED_TO | DIR, 1, "x")]));
        assert!(!ahead.spare_one(0));
        assert_eq!(ahead.pooled(), 3);
        assert!(ahead.spare_one(1));
        assert!(!ahead.spare_one(1) && ahead.spare_one(1_000) && !ahead.spare_one(1_000));
        assert_eq!((ahead.pooled(), ahead.len()), (1, 3));
        assert_eq!(partner(&ahead, 0, &end), Partner::At(2, 32));
        let (taken, at) = ahead.take(2, 32).expect("it is there");
        let record = Records::new(&taken.filled()[at as usize..]).next();
        assert_eq!(record.expect("a record").expect("well-formed").cookie, 1);
        ahead.pop();
        ahead.pop();
        assert_eq!((ahead.pooled(), ahead.given()), (0, 0));
        // In a batch it still is a copy.
        ahead.pop();
        ahead.push(read(&[]));
        ahead.push(read(&[]));
        assert!(!ahead.spare_one(1));
        drop(taken);
        assert!(ahead.spare_one(1));
    }

    /// What the soak found: something had left the tree, and the marker that ends the search for its other half came between
    /// the halves of a rename that began later.
    #[test]
    fn a_marker_ends_the_search_for_what_was_under_way_when_it_was_set_and_for_nothing_else() {
        let half = |wd, mask, cookie| -> Raw { (wd, mask | DIR, cookie, "x") };
        let mut ahead = Ahead::default();
        ahead.push(read(&[
            half(5, Mask::MOVED_FROM, 1),
            half(6, Mask::MOVED_FROM, 2),
            half(7, Mask::MOVED_FROM, 3),
            half(5, Mask::MOVED_TO, 3),
        ]));
        // What has its other half is not searched for.
        assert_eq!(ahead.halves(0), HashSet::from([5, 6]));
        // It was not to be had that nobody changes the second.
        let (marker, upto, dirs) = (MARKER, ahead.first(), HashSet::from([5]));
        let end = SearchEnd { marker, upto, dirs };
        ahead.push(read(&[
            half(5, Mask::MOVED_FROM, 4),
            (MARKER, Mask::IGNORED, 0, ""),
            half(8, Mask::MOVED_TO, 4),
            half(8, Mask::MOVED_TO, 2),
        ]));
        assert_eq!(partner(&ahead, 0, &end), Partner::Nowhere);
        assert!(matches!(partner(&ahead, 32, &end), Partner::At(1, _)));
        ahead.pop();
        assert!(matches!(partner(&ahead, 0, &end), Partner::At(1, _)));
    }
}
