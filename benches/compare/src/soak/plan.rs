//! What happens in each phase, chosen by a seed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What producer and consumer are told at their start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    pub dir: PathBuf,
    /// Every lane is to read with this one.
    pub backend: Option<String>,
    pub fault: Option<Fault>,
}

impl Setup {
    pub fn lane(&self, number: usize) -> PathBuf {
        self.dir.join(format!("lane{number}"))
    }

    pub fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// Directories whose watches come and go. One is for each number of events that a watch sees in its time.
    pub fn churned(&self, number: usize) -> PathBuf {
        self.dir.join("churn").join(number.to_string())
    }
}

pub const CHURNED: usize = 8;

/// What is broken on purpose, to see it caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// One event in a million is forgotten.
    Forget,
    /// One event in a million is counted twice.
    Repeat,
    /// One change of the tree in ten thousand is forgotten.
    Overlook,
    /// Each phase leaves one behind.
    Descriptor,
    Thread,
    Watch,
    /// Each phase leaves 2 MiB behind.
    Memory,
    /// Each phase leaves the mapping of a pool of buffers behind.
    Buffers,
}

/// Told by the judge, a line each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Word {
    /// To the producer: files as the phase needs them.
    Prepare(Phase),
    /// To the consumer: read from now on.
    Begin(Phase),
    /// To the producer: cause events.
    Go,
    /// To the consumer: all has been caused.
    End,
    /// To the producer: all as it was before the first phase.
    Tidy,
    /// To the consumer: what do you have?
    Sample,
}

/// What a lane sees. All of it goes round in a cycle, so that each event tells which is to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A byte is written to each of 64 files in turn.
    Modify,
    /// A file is renamed through 64 names.
    Rename,
    /// 64 files in turn are made and removed.
    Make,
}

/// Files, and names.
pub const NAMES: u32 = 64;

impl Kind {
    pub fn letter(self) -> char {
        match self {
            Self::Modify => 'm',
            Self::Rename => 'r',
            Self::Make => 'c',
        }
    }

    pub fn name(self, number: u32) -> String {
        format!("{}{number:02}", self.letter())
    }

    pub fn events_a_call(self) -> u64 {
        if self == Self::Modify { 1 } else { 2 }
    }

    /// How many events a cycle has.
    pub fn cycle(self) -> u32 {
        NAMES * self.events_a_call() as u32
    }

    /// The place of an event in the cycle. None if it is none of these.
    pub fn place(self, mask: u32, name: &[u8]) -> Option<u32> {
        let (&letter, digits) = name.split_first()?;
        let number: u32 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        if u32::from(letter) != u32::from(self.letter()) || number >= NAMES {
            return None;
        }
        Some(match (self, mask & libc::IN_ALL_EVENTS) {
            (Self::Modify, libc::IN_MODIFY) => number,
            (Self::Rename, libc::IN_MOVED_FROM) | (Self::Make, libc::IN_CREATE) => 2 * number,
            (Self::Rename, libc::IN_MOVED_TO) => 2 * ((number + NAMES - 1) % NAMES) + 1,
            (Self::Make, libc::IN_DELETE) => 2 * number + 1,
            _ => return None,
        })
    }
}

/// What reads a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    Stream,
    /// The stream on a runtime of tokio.
    Async,
    Reader,
    /// The reader on a runtime of tokio.
    InPlace,
}

#[derive(Clone, Copy, Debug)]
pub struct Lane {
    pub name: &'static str,
    pub half: Half,
    pub uring: bool,
    /// Microseconds.
    pub window: u64,
    /// It has little memory, and is to overflow.
    pub small: bool,
}

/// Lanes are instances; behind them comes the tree, which several watch.
pub const LANES: [Lane; 8] = [
    lane("stream-uring", Half::Stream, true, 4_000, false),
    lane("stream-epoll", Half::Stream, false, 4_000, false),
    lane("async-uring", Half::Async, true, 1_000, false),
    lane("reader-uring", Half::Reader, true, 0, false),
    lane("reader-epoll", Half::Reader, false, 1_000, false),
    lane("tokio-uring", Half::InPlace, true, 4_000, false),
    lane("tokio-epoll", Half::InPlace, false, 0, false),
    lane("overflow", Half::Stream, true, 4_000, true),
];

/// Consumers of the tree.
#[derive(Clone, Copy, Debug)]
pub struct Canopy {
    pub name: &'static str,
    pub uring: bool,
    /// What a loss did is found, and so what the changes add up to must hold behind one.
    pub finds: bool,
    /// It has little memory, and is to overflow.
    pub small: bool,
}

pub const TREES: [Canopy; 3] = [
    canopy("tree-uring", true, true, false),
    canopy("tree-epoll", false, false, false),
    canopy("tree-overflow", true, true, true),
];

/// The producer's lane for all trees.
pub const TREE: usize = LANES.len();

const fn canopy(name: &'static str, uring: bool, finds: bool, small: bool) -> Canopy {
    Canopy {
        name,
        uring,
        finds,
        small,
    }
}

const fn lane(name: &'static str, half: Half, uring: bool, window: u64, small: bool) -> Lane {
    Lane {
        name,
        half,
        uring,
        window,
        small,
    }
}

/// How one lane goes through a phase.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LanePlan {
    pub kind: Kind,
    /// Its instance is dropped, and another is made.
    pub fresh: bool,
    /// Milliseconds: how long its consumer stalls each time, and how often it does.
    pub stall: u64,
    pub stalls: u64,
    /// Watches come and go on its instance.
    pub churn: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Phase {
    pub number: usize,
    pub seed: u64,
    /// Events a second, of all lanes together.
    pub rate: u64,
    pub milliseconds: u64,
    /// Those of the instances, then those of the trees.
    pub lanes: Vec<LanePlan>,
    pub churn_instances: bool,
    pub churn_trees: bool,
    /// Operations a second in the tree.
    pub operations: u64,
}

/// Phases in which everything happens at once, so that what is made once is made.
pub const WARM_UP: usize = 2;

impl Phase {
    pub fn of(seed: u64, number: usize, milliseconds: u64) -> Self {
        let mut random = Random::new(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        let warm = number < WARM_UP;
        let rate = if warm {
            200_000
        } else {
            100_000 + 50_000 * random.below(5)
        };
        let mut lanes: Vec<_> = LANES
            .iter()
            .map(|lane| LanePlan::of(*lane, warm, &mut random))
            .collect();
        let large = TREES.iter().filter(|tree| !tree.small);
        lanes.extend(large.map(|_| LanePlan {
            kind: Kind::Modify,
            fresh: random.one_in(3),
            stall: if warm {
                1_000
            } else {
                random.below(2) * (50 + random.below(950))
            },
            stalls: 1,
            churn: false,
        }));
        let longest = milliseconds / 3;
        lanes
            .iter_mut()
            .for_each(|lane| lane.stall = lane.stall.min(longest.max(50)));
        let mut phase = Self {
            number,
            seed: random.next(),
            rate,
            milliseconds,
            lanes,
            churn_instances: warm || random.one_in(2),
            churn_trees: warm || random.one_in(2),
            operations: [0, 200, 2_000][random.below(3) as usize].max(if warm { 2_000 } else { 0 }),
        };
        let small = TREES.iter().filter(|tree| tree.small);
        phase.lanes.extend(small.map(|_| LanePlan {
            kind: Kind::Modify,
            fresh: random.one_in(3),
            stall: (2_500 * u64::from(warm || random.one_in(2))).min(longest.max(50)),
            stalls: 1 + random.below(3),
            churn: false,
        }));
        phase
    }
}

impl LanePlan {
    fn of(lane: Lane, warm: bool, random: &mut Random) -> Self {
        let stall = match lane.half {
            _ if lane.small => 2_500 * u64::from(warm || random.one_in(2)),
            _ if !warm && random.one_in(2) => 0,
            // Nobody reads meanwhile, so the kernel's queue has to hold it all.
            Half::Reader | Half::InPlace => 50 + random.below(50),
            _ if warm => 2_000,
            _ => 50 + random.below(1_950),
        };
        Self {
            kind: [Kind::Modify, Kind::Rename, Kind::Make][random.below(3) as usize],
            fresh: !warm && random.one_in(3),
            stall,
            stalls: if lane.small { 1 } else { 1 + random.below(3) },
            churn: !lane.small && (warm || random.one_in(3)),
        }
    }
}

/// A small generator of numbers (splitmix64), the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5151_5151)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}
