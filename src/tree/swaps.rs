//! Renames that may have been half of an exchange.
//!
//! `RENAME_EXCHANGE` of a and b comes as a to b, then b to a. So does a rename that replaces b, followed by one back; and for
//! files nothing tells the two apart. Whoever meets the second half looks whether b is there.

use std::hash::{BuildHasher, RandomState};

use super::nodes::Id;

/// A name in a directory, by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    dir: Id,
    name: u64,
}

thread_local! {
    static HASHER: RandomState = RandomState::new();
}

impl Spot {
    pub(super) fn new(dir: Id, name: &[u8]) -> Self {
        // Two names with one hash are looked at in vain.
        let name = HASHER.with(|hasher| hasher.hash_one(name));
        Self { dir, name }
    }
}

/// The first half.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    spots: (Spot, Spot),
    pub(super) is_dir: bool,
    /// A directory was known, or may have been, where it went.
    pub(super) victim: bool,
}

/// The last renames.
#[derive(Debug, Default)]
pub(super) struct Swaps {
    recent: Vec<First>,
    next: usize,
}

/// The kernel queues both halves of an exchange at once, so only renames of other threads come between.
const KEPT: usize = 64;

impl Swaps {
    /// The rename that this one undoes, if it was one of the last.
    pub(super) fn reverses(&self, spots: &(Spot, Spot)) -> Option<First> {
        let back = (spots.1, spots.0);
        // The newest that fits.
        let (newer, older) = (&self.recent[..self.next], &self.recent[self.next..]);
        let mut newest_first = newer.iter().rev().chain(older.iter().rev());
        newest_first.find(|first| first.spots == back).copied()
    }

    pub(super) fn note(&mut self, spots: (Spot, Spot), is_dir: bool, victim: bool) {
        let first = First { spots, is_dir, victim };
        if self.recent.len() < KEPT {
            self.recent.push(first);
            self.next = self.recent.len() % KEPT;
        } else {
            self.recent[self.next] = first;
            self.next = (self.next + 1) % KEPT;
        }
    }
}
