//! Looking ahead in what was read, for the other half of a rename.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use super::read::Read;
use crate::decode::{Record, Records};
use crate::mask::Mask;
use crate::sys::pool::Buffer;

/// What was read and is not done with, buffer by buffer: the first is being worked on.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    reads: VecDeque<Arc<Read>>,
    /// How many of them are in the pool's buffers.
    pooled: usize,
    /// Bytes of copies, also of those in batches.
    copied: Arc<AtomicUsize>,
    /// The number of the first.
    first: u64,
    /// Records that were taken before their turn.
    taken: HashSet<(u64, u32)>,
    /// Buffers that were worked on, and were in a batch when they were last looked at.
    given: Vec<Weak<Read>>,
}

/// Where the other half is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Partner {
    /// In the buffer of this number, at this place.
    At(u64, u32),
    /// It does not come.
    Nowhere,
    /// It was not read yet.
    Unread,
}

const ENTRIES: Mask = Mask::CREATE.union(Mask::DELETE).union(Mask::MOVE);

impl Ahead {
    pub(super) fn push(&mut self, buffer: Buffer) {
        self.reads.push_back(Arc::new(Read::Pooled(buffer)));
        self.pooled += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.reads.len()
    }

    /// How many of the pool's buffers it has.
    pub(super) fn pooled(&self) -> usize {
        self.pooled
    }

    /// Gives the last buffer behind the first back to the pool, and keeps a copy, as long as all copies together have fewer
    /// than `most` bytes. Answers whether it did.
    pub(super) fn spare_one(&mut self, most: usize) -> bool {
        let last = self.reads.iter().rposition(|read| read.is_pooled());
        let Some(place) = last.filter(|&place| place > 0) else {
            return false;
        };
        if self.copied.load(Ordering::Relaxed) >= most {
            return false;
        }
        self.reads[place] = Arc::new(self.reads[place].copy(&self.copied));
        self.pooled -= 1;
        true
    }

    /// Where what is not read yet will be.
    pub(super) fn end(&self) -> (u64, usize) {
        (self.first + self.reads.len() as u64, 0)
    }

    /// The number of the first.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn bytes(&self) -> usize {
        self.reads.iter().map(|read| read.filled().len()).sum()
    }

    pub(super) fn front(&self) -> Option<Arc<Read>> {
        self.reads.front().cloned()
    }

    pub(super) fn pop(&mut self) {
        /// More are looked through, so that there are few that have gone.
        const MANY: usize = 64;
        let done = self.reads.pop_front();
        self.first += 1;
        let Some(done) = done.filter(|done| done.is_pooled()) else {
            return;
        };
        self.pooled -= 1;
        if Arc::strong_count(&done) > 1 {
            if self.given.len() == self.given.capacity() && self.given.len() >= MANY {
                self.given.retain(|given| given.strong_count() > 0);
            }
            self.given.push(Arc::downgrade(&done));
        }
    }

    /// Buffers that are in batches which were not dropped yet.
    pub(super) fn given(&mut self) -> usize {
        self.given.retain(|given| given.strong_count() > 0);
        self.given.len()
    }

    /// Whether the record at this place of the first buffer was taken before its turn.
    pub(super) fn was_taken(&mut self, at: u32) -> bool {
        !self.taken.is_empty() && self.taken.remove(&(self.first, at))
    }

    /// Takes a record before its turn.
    pub(super) fn take(&mut self, number: u64, at: u32) -> Option<(Arc<Read>, u32)> {
        self.taken.insert((number, at));
        let place = usize::try_from(number - self.first).ok()?;
        Some((Arc::clone(self.reads.get(place)?), at))
    }

    /// The directories of renames of which one half was read so far, from this place of the first buffer on: their watches.
    pub(super) fn halves(&self, at: usize) -> HashSet<i32> {
        let mut halves = HashMap::new();
        for (number, read) in (self.first..).zip(&self.reads) {
            let start = if number == self.first { at } else { 0 };
            for record in Records::new(read.filled().get(start..).unwrap_or_default()).flatten() {
                if record.mask.contains(Mask::MOVED_FROM) {
                    halves.insert(record.cookie, record.wd);
                } else if record.mask.contains(Mask::MOVED_TO) {
                    halves.remove(&record.cookie);
                }
            }
        }
        halves.into_values().collect()
    }

    /// Looks for the other half of this `MOVED_FROM`, from this place of the buffer of this number on. `marker` is where the
    /// search ends.
    ///
    /// The kernel queues both halves while it holds the locks of both directories, and every other event about their
    /// entries is queued under the same locks. So such an event ends the search too.
    pub(super) fn partner(&self, from: &Record<'_>, (here, at): (u64, usize), marker: impl Fn(i32) -> bool) -> Partner {
        let done = usize::try_from(here - self.first).unwrap_or(usize::MAX);
        for (number, read) in (here..).zip(self.reads.iter().skip(done)) {
            let start = if number == here { at } else { 0 };
            let bytes = read.filled().get(start..).unwrap_or_default();
            let mut records = Records::new(bytes);
            loop {
                let place = start + records.offset();
                let Some(Ok(record)) = records.next() else { break };
                if record.mask.contains(Mask::MOVED_TO) && record.cookie == from.cookie {
                    return Partner::At(number, place as u32);
                }
                let ends = record.mask.contains(Mask::Q_OVERFLOW)
                    || record.wd == from.wd && record.mask.intersects(ENTRIES)
                    || record.mask.contains(Mask::IGNORED) && marker(record.wd);
                if ends && !self.taken.contains(&(number, place as u32)) {
                    return Partner::Nowhere;
                }
            }
        }
        Partner::Unread
    }
}
