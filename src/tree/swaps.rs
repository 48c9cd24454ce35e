//! Renames that may have been half of an exchange.
//!
//! `RENAME_EXCHANGE` of a and b comes as a to b, then b to a. So does a rename that replaces b, followed by one back; and for
//! files nothing tells the two apart. If a is not in the tree, it comes as something that arrives at b and leaves again.
//! Whoever meets the second half looks whether b is there.
//!
//! The kernel queues both halves while it holds the locks of both directories. So what a session has met that had one of these
//! for a moment is no first half for what comes behind its marker.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// A name in a directory, by its hash. The directory is known by its watch: where links are followed it may be under another
/// path between two halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    wd: i32,
    name: u64,
}

thread_local! {
    static HASHER: RandomState = RandomState::new();
}

impl Spot {
    pub(super) fn new(wd: i32, name: &[u8]) -> Self {
        // Two names with one hash are looked at in vain.
        let name = HASHER.with(|hasher| hasher.hash_one(name));
        Self { wd, name }
    }
}

/// What may be the first half.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    /// Where it came from, if that was in the tree.
    pub(super) source: Option<Spot>,
    target: Spot,
    pub(super) cookie: u32,
    /// When all that was queued by then had been read and applied; none if that was not yet.
    at: Option<Instant>,
    pub(super) is_dir: bool,
    /// A directory was known, or may have been, where it went.
    pub(super) victim: bool,
    /// Its second half, if it has one, comes before the marker of the session that is under way.
    ends: bool,
}

/// The last renames.
#[derive(Debug, Default)]
pub(super) struct Swaps {
    recent: Vec<First>,
    next: usize,
    /// Some may be older than they know.
    busy: bool,
}

/// The kernel queues both halves of an exchange one after the other, so only renames of other threads come between.
const KEPT: usize = 256;

/// Renames of the whole system between the halves of one: cookies are counted up with each.
const FAR: u32 = 4_096;

impl First {
    fn is_recent(&self) -> bool {
        self.at.is_none_or(|at| at.elapsed() < LONG)
    }
}

/// A thread may be kept from running between the two, and what was read may be kept for a while until it is told.
const LONG: Duration = Duration::from_secs(2);

impl Swaps {
    /// What was renamed to this place just before a rename with this cookie took something from there.
    pub(super) fn came_to(&self, target: Spot, cookie: u32) -> Option<First> {
        let (newer, older) = (&self.recent[..self.next], &self.recent[self.next..]);
        let mut newest_first = newer.iter().rev().chain(older.iter().rev());
        let first = newest_first.find(|first| first.target == target).copied()?;
        (cookie.wrapping_sub(first.cookie) < FAR && first.is_recent()).then_some(first)
    }

    pub(super) fn note(&mut self, source: Option<Spot>, target: Spot, cookie: u32, is_dir: bool, victim: bool) {
        self.busy = true;
        let first = First {
            source,
            target,
            cookie,
            at: None,
            is_dir,
            victim,
            ends: false,
        };
        if self.recent.len() < KEPT {
            self.recent.push(first);
            self.next = self.recent.len() % KEPT;
        } else {
            self.recent[self.next] = first;
            self.next = (self.next + 1) % KEPT;
        }
    }

    /// There is nothing to be read, and nothing keeps it from being read. However long what was read had to wait until then, the
    /// second half may have waited as long.
    pub(super) fn rest(&mut self) {
        if std::mem::take(&mut self.busy) {
            let now = Instant::now();
            for first in self.recent.iter_mut().filter(|first| first.at.is_none()) {
                first.at = Some(now);
            }
        }
    }

    /// As if so much time had passed.
    #[cfg(test)]
    pub(super) fn age(&mut self, by: Duration) {
        for at in self.recent.iter_mut().filter_map(|first| first.at.as_mut()) {
            *at = at.checked_sub(by).expect("the machine is not that young");
        }
    }

    /// The directories in which something arrived that may have been the first half of an exchange of directories, by their
    /// watches.
    pub(super) fn suspects(&self) -> Vec<i32> {
        let recent = self.recent.iter().filter(|first| first.is_recent());
        let suspects = recent.filter(|first| first.victim || first.source.is_none());
        let mut wds: Vec<_> = suspects.map(|first| first.target.wd).collect();
        wds.sort_unstable();
        wds.dedup();
        wds
    }

    /// Nobody was changing this directory, at a moment before the marker of a session was set.
    pub(super) fn rested(&mut self, wd: i32) {
        let here = self.recent.iter_mut().filter(|first| first.target.wd == wd);
        here.for_each(|first| first.ends = true);
    }

    /// That marker has passed.
    pub(super) fn end_session(&mut self) {
        if self.recent.iter().any(|first| first.ends) {
            let oldest = self.next % self.recent.len();
            self.recent.rotate_left(oldest);
            self.recent.retain(|first| !first.ends);
            self.next = self.recent.len();
        }
    }
}
