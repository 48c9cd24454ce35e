//! Whether the command changes its own sources: then each run would be the cause of the next.
//!
//! The kernel does not say who changed a file. What gives a command away is that the same thing happens again and again
//! at the same time after its start. Somebody who saves at regular intervals looks like that too, but goes by another
//! clock: if the next run is started later than usual, what the command does comes later as well, and what they do does
//! not. So where there is doubt, every other run is made to wait.

use std::path::PathBuf;
use std::time::Duration;

/// What speaks for a loop: each round at the time of the one before adds one, and one more if it has its paths. Two rounds
/// after there is doubt, it is known whether what changes waits for a run that is late.
const DOUBT: u32 = 4;
const WARN: u32 = 8;
const STOP: u32 = 12;

/// What a round at another time takes away.
const UNLIKE: u32 = 3;

/// Rounds in a row that are said to look like a loop, whatever changed in them, and when.
const MANY: u32 = 12;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Run,
    /// Run, and say that it looks like a loop.
    Warn,
    /// Say so, and do not run.
    Stop,
    /// As before: do not run.
    Stay,
}

#[derive(Default)]
pub(crate) struct Rounds {
    last: Round,
    signs: u32,
    /// Since something changed while nothing ran.
    rounds: u32,
    warned: bool,
    /// Whether the next run is to be late.
    late: bool,
    /// The last loop that was stopped: this is what the command does.
    known: Option<Round>,
}

/// What changed while the command ran, and how long after its start.
#[derive(Clone, Default)]
struct Round {
    paths: Vec<PathBuf>,
    after: Duration,
}

impl Round {
    fn is_at_time_of(&self, other: &Self) -> bool {
        self.after.abs_diff(other.after) < self.tolerance()
    }

    /// Narrow, for people are not that regular.
    fn tolerance(&self) -> Duration {
        (self.after / 10).clamp(Duration::from_millis(100), Duration::from_secs(2))
    }
}

impl Rounds {
    /// Something changed while nothing ran: the command was not it. What is known of it stays known.
    pub(crate) fn changed_from_outside(&mut self) {
        (self.signs, self.late) = (0, false);
        (self.rounds, self.warned) = (0, false);
    }

    /// These paths changed while the command ran, so long after its start.
    pub(crate) fn changed_by_run(&mut self, paths: Vec<PathBuf>, after: Duration) -> Verdict {
        let round = Round { paths, after };
        let is_known = |known: &Round| known.paths == round.paths && round.is_at_time_of(known);
        if self.known.as_ref().is_some_and(is_known) {
            return Verdict::Stay;
        }
        self.rounds += 1;
        self.signs = match round.is_at_time_of(&self.last) {
            true => self.signs + 1 + u32::from(round.paths == self.last.paths),
            // A loop may stumble, too.
            false => self.signs.saturating_sub(UNLIKE),
        };
        self.late = self.signs >= DOUBT && !self.late;
        self.last = round;
        match self.signs {
            STOP.. => {
                (self.signs, self.late) = (0, false);
                self.known = Some(self.last.clone());
                Verdict::Stop
            }
            signs if !self.warned && (signs >= WARN || self.rounds >= MANY) => {
                self.warned = true;
                Verdict::Warn
            }
            _ => Verdict::Run,
        }
    }

    /// How much later than usual the next run is to start.
    pub(crate) fn pause(&self) -> Duration {
        match self.late {
            true => 2 * self.last.tolerance(),
            false => Duration::ZERO,
        }
    }
}
