//! Renames that may have been half of an exchange.
//!
//! `RENAME_EXCHANGE` of a and b comes as a to b, then b to a. So does a rename that replaces b, followed by one back; and for
//! files nothing tells the two apart. If a is not in the tree, it comes as something that arrives at b and leaves again.
//! Whoever meets the second half looks whether b is there.
//!
//! The kernel queues both halves while it holds the locks of both directories. So what a session has met that had one of these
//! for a moment is no first half for what comes behind its marker.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// A name in a directory, by its hash. The directory is known by its watch: where links are followed it may be under another
/// path between two halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// The newest that went to each place.
    newest: HashMap<Spot, First>,
    /// Where each went, and its cookie, in the order they came.
    order: VecDeque<(Spot, u32)>,
    /// The last so many may be older than they know.
    busy: usize,
}

/// Renames of the whole system between the halves of one exchange: cookies are counted up with each. The kernel queues both
/// one after the other, so only renames of other threads come between; as many as those do while the first is kept from running.
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
        let first = self.newest.get(&target).copied()?;
        (cookie.wrapping_sub(first.cookie) < FAR && first.is_recent()).then_some(first)
    }

    pub(super) fn note(&mut self, source: Option<Spot>, target: Spot, cookie: u32, is_dir: bool, victim: bool) {
        let first = First {
            source,
            cookie,
            at: None,
            is_dir,
            victim,
            ends: false,
        };
        self.newest.insert(target, first);
        self.order.push_back((target, cookie));
        self.busy += 1;
        if self.order.len() > FAR as usize {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((target, cookie)) = self.order.pop_front() else {
            return;
        };
        self.busy = self.busy.min(self.order.len());
        // Another may have gone there since.
        if self.newest.get(&target).is_some_and(|first| first.cookie == cookie) {
            self.newest.remove(&target);
        }
    }

    /// There is nothing to be read, and nothing keeps it from being read. However long what was read had to wait until then, the
    /// second half may have waited as long.
    pub(super) fn rest(&mut self) {
        let busy = std::mem::take(&mut self.busy);
        if busy == 0 {
            return;
        }
        let now = Instant::now();
        for (target, _) in self.order.iter().rev().take(busy) {
            if let Some(first) = self.newest.get_mut(target) {
                first.at.get_or_insert(now);
            }
        }
    }

    /// As if so much time had passed.
    #[cfg(test)]
    pub(super) fn age(&mut self, by: Duration) {
        for at in self.newest.values_mut().filter_map(|first| first.at.as_mut()) {
            *at = at.checked_sub(by).expect("the machine is not that young");
        }
    }

    /// The directories in which something arrived that may have been the first half of an exchange of directories, by their
    /// watches.
    pub(super) fn suspects(&self) -> Vec<i32> {
        let recent = self.newest.iter().filter(|(_, first)| first.is_recent());
        let suspects = recent.filter(|(_, first)| first.victim || first.source.is_none());
        let mut wds: Vec<_> = suspects.map(|(target, _)| target.wd).collect();
        wds.sort_unstable();
        wds.dedup();
        wds
    }

    /// Nobody was changing these directories, at a moment before the marker of a session was set.
    pub(super) fn rested(&mut self, wds: &HashSet<i32>) {
        let here = self.newest.iter_mut().filter(|(target, _)| wds.contains(&target.wd));
        here.for_each(|(_, first)| first.ends = true);
    }

    /// That marker has passed.
    pub(super) fn end_session(&mut self) {
        self.newest.retain(|_, first| !first.ends);
        while let Some((target, cookie)) = self.order.front()
            && self.newest.get(target).is_none_or(|first| first.cookie != *cookie)
        {
            self.forget_oldest();
        }
    }
}
