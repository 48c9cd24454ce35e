//! Whether the command changes its own sources: then each run would be the cause of the next.
//!
//! The kernel does not say who changed a file. What gives a command away is that the same thing happens again and again
//! while it runs, at the same time after its start.

use std::path::PathBuf;
use std::time::Duration;

/// What speaks for a loop; each round that is like the one before adds one for its paths and one for its time.
const WARN: u32 = 4;
const STOP: u32 = 10;

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
    paths: Vec<PathBuf>,
    after: Duration,
    signs: u32,
}

impl Rounds {
    /// Something changed while nothing ran: the command was not it. What is known of it stays known.
    pub(crate) fn changed_from_outside(&mut self) {
        if self.signs < STOP {
            self.signs = 0;
        }
    }

    /// These paths changed while the command ran, so long after its start.
    pub(crate) fn changed_by_run(&mut self, paths: Vec<PathBuf>, after: Duration) -> Verdict {
        let tolerance = Duration::from_millis(500).max(after / 4);
        let same_paths = paths == self.paths;
        let alike = u32::from(same_paths) + u32::from(self.after.abs_diff(after) < tolerance);
        let was = self.signs;
        (self.paths, self.after) = (paths, after);
        if was >= STOP && same_paths {
            return Verdict::Stay;
        }
        self.signs = if alike == 0 || was >= STOP { 0 } else { was + alike };
        match self.signs {
            STOP.. => Verdict::Stop,
            WARN.. if was < WARN => Verdict::Warn,
            _ => Verdict::Run,
        }
    }
}
