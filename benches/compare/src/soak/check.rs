//! Holds what arrives against what must.

use std::sync::atomic::{AtomicU64, Ordering};

use ringwatch::Barrier;
use serde::{Deserialize, Serialize};

use super::plan::{Fault, Kind};

/// What a lane saw in a phase.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub seen: u64,
    pub overflows: u64,
    /// Watches that came and went on its instance, and the events of these.
    pub churned: u64,
    pub churned_events: u64,
    /// The first thing that was not as it must be.
    pub fault: Option<String>,
}

/// Follows the events of a lane: each must be the one after the one before, unless a loss was said.
#[derive(Debug)]
pub struct Check {
    kind: Kind,
    /// None if that is not known, behind a loss.
    next: Option<u32>,
    /// The barrier behind which nothing may be missing again.
    excused_until: Option<Barrier>,
    pub outcome: Outcome,
    broken: Option<Fault>,
}

/// Events of all lanes, to break one in a million.
static EVENTS: AtomicU64 = AtomicU64::new(0);

impl Check {
    pub fn new(kind: Kind, broken: Option<Fault>) -> Self {
        Self {
            kind,
            next: Some(0),
            excused_until: None,
            outcome: Outcome::default(),
            broken,
        }
    }

    pub fn fail(&mut self, fault: impl FnOnce() -> String) {
        self.outcome.fault.get_or_insert_with(fault);
    }

    /// One event. False if it is none of the producer's.
    #[inline]
    pub fn see(&mut self, mask: u32, name: &[u8]) -> bool {
        let Some(place) = self.kind.place(mask, name) else {
            return false;
        };
        match self.broken {
            Some(Fault::Forget) if one_in_a_million() => return true,
            Some(Fault::Repeat) if one_in_a_million() => self.outcome.seen += 1,
            _ => {}
        }
        if let Some(next) = self.next.filter(|&next| next != place && self.excused_until.is_none()) {
            let (kind, seen) = (self.kind, self.outcome.seen);
            self.fail(|| format!("event {seen} is {place} of the cycle of {kind:?}, and {next} was to come, unsaid"));
        }
        self.next = Some((place + 1) % self.kind.cycle());
        self.outcome.seen += 1;
        true
    }

    /// A loss is said here. Behind it there may be others, up to a barrier that is set now.
    pub fn lose(&mut self, until: Option<Barrier>) {
        self.outcome.overflows += 1;
        self.excused_until = until;
    }

    /// The first event behind it is taken as it comes.
    pub fn reach(&mut self, barrier: Barrier) {
        if self.excused_until == Some(barrier) {
            (self.excused_until, self.next) = (None, None);
        }
    }
}

fn one_in_a_million() -> bool {
    EVENTS.fetch_add(1, Ordering::Relaxed) % 1_000_000 == 999_999
}
