//! How a round of the replay goes, by its seed.

use std::fs::OpenOptions;
use std::time::Duration;

use ringwatch::Backend;
use ringwatch::tree::Recovery;

use crate::acts::Random;
use crate::support::{backends, kernel};

/// How a round goes.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) seed: u64,
    pub(crate) threads: usize,
    pub(crate) acts: usize,
    pub(crate) backend: Backend,
    pub(crate) recovery: Recovery,
    /// Events that the kernel keeps; none for as many as usual.
    pub(crate) queue: Option<u64>,
    pub(crate) buffers: usize,
    pub(crate) buffer_size: usize,
    pub(crate) window: Duration,
    pub(crate) slow: bool,
    /// The operations begin before the tree is opened.
    pub(crate) early: bool,
    pub(crate) filter: bool,
    /// Half of it happens where paths are longer than one call takes.
    pub(crate) deep: bool,
    /// The tree may not pass over permissions.
    pub(crate) unprivileged: bool,
    /// A root that comes and goes.
    pub(crate) second: Option<Second>,
    /// File systems are mounted and unmounted.
    pub(crate) mounts: bool,
    /// Watches that there are.
    pub(crate) watches: Option<u64>,
    /// Links to directories are made, and followed.
    pub(crate) links: bool,
    /// Roots are given relative to the working directory.
    pub(crate) relative: bool,
    /// The operations are those of processes, not of threads.
    pub(crate) processes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Second {
    /// Beside the first.
    Beside,
    /// In the first, where it may be missing, or a file.
    Within,
    /// Beside the first, and renamed itself: into the first, out of it, and in exchange for what is there.
    Moving,
    /// Several that come and go, in one another and beside, directories and files: see `several`.
    Several,
}

impl Round {
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0xabcd_ef01);
        let overflows = may_shrink_queue() && random.one_in(3);
        let mut round = Self {
            seed,
            threads: 1 + random.below(4) as usize,
            acts: [20, 60, 200, 400][random.below(4) as usize],
            backend: backends()[random.below(backends().len() as u64) as usize],
            recovery: if overflows && !random.one_in(4) || random.one_in(3) {
                Recovery::Diff
            } else {
                Recovery::Mark
            },
            queue: overflows.then(|| [16, 32, 100, 300][random.below(4) as usize]),
            buffers: [2, 3, 16, 128][random.below(4) as usize],
            buffer_size: [272, 512, 4096, 65536][random.below(4) as usize],
            window: Duration::from_micros([0, 100, 1000][random.below(3) as usize]),
            slow: random.one_in(3),
            early: random.one_in(3),
            filter: random.one_in(6),
            deep: random.one_in(8),
            unprivileged: random.one_in(5) || !is_root(),
            second: None,
            mounts: false,
            watches: None,
            links: false,
            relative: false,
            processes: false,
        };
        round.second = match random.below(10) {
            0 | 1 if !round.deep => Some(Second::Beside),
            2 => Some(Second::Within),
            _ => None,
        };
        round
    }

    /// Whether roots that are missing are waited for.
    pub(crate) fn awaits(&self) -> bool {
        match self.second {
            Some(Second::Several) => self.early || !self.seed.is_multiple_of(4),
            second => second.is_some(),
        }
    }

    pub(crate) fn is_beside(&self) -> bool {
        matches!(self.second, Some(Second::Beside | Second::Moving | Second::Several))
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn may_shrink_queue() -> bool {
    OpenOptions::new().write(true).open(kernel::QUEUE).is_ok()
}
