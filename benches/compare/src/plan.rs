//! Which runs there are.

use clap::Args;

use crate::calls::Counter;
use crate::consumers::{BARE, CONSUMERS};
use crate::instances;
use crate::producer::Kind;

/// What the command line says about every plan.
#[derive(Clone, Debug, Args)]
pub struct Choice {
    /// Rounds; each figure is the median over them.
    #[arg(long, global = true, default_value_t = 3)]
    pub rounds: usize,
    /// Seconds a run lasts.
    #[arg(long, global = true, default_value_t = 2.0)]
    pub seconds: f64,
    /// Only consumers whose name contains one of these.
    #[arg(long, global = true, value_delimiter = ',')]
    pub only: Vec<String>,
    /// More consumers, such as stream-uring-w4000-b24: ringwatch with a window of so many microseconds and a budget of
    /// so many MiB.
    #[arg(long, global = true, value_delimiter = ',')]
    pub also: Vec<String>,
    /// Events a second, instead of those of the command; 0 is as fast as it goes.
    #[arg(long, global = true, value_delimiter = ',')]
    pub rates: Vec<u64>,
    /// What causes the events, instead of that of the command.
    #[arg(long, global = true, value_delimiter = ',')]
    pub kind: Vec<Kind>,
    /// How many directories are watched, instead of that of the command.
    #[arg(long, global = true, value_delimiter = ',')]
    pub dirs: Vec<usize>,
    /// What counts system calls, in runs of their own in which allocations are counted too: by itself, the best there is.
    #[arg(long, global = true)]
    pub counter: Option<Counter>,
}

/// One table: every consumer at every rate.
#[derive(Clone, Debug)]
pub struct Plan {
    pub title: String,
    pub kind: Kind,
    pub dirs: usize,
    /// An instance for each directory.
    pub instances: bool,
    /// Events a second, of all directories together; 0 is as fast as it goes.
    pub rates: Vec<u64>,
    /// Milliseconds of stall.
    pub stall: u64,
    pub consumers: Vec<String>,
    pub rounds: usize,
    pub seconds: f64,
    /// How many more rounds there are in which system calls and allocations are counted.
    pub counted: usize,
    core: bool,
}

/// Those at which an event loop lives, and as fast as it goes.
const RATES: [u64; 5] = [1_000, 10_000, 100_000, 300_000, 0];

impl Plan {
    pub fn new(title: &str, kind: Kind, rates: &[u64]) -> Self {
        let consumers = CONSUMERS.iter().map(|(name, _)| (*name).to_owned()).collect();
        Self {
            title: title.to_owned(),
            kind,
            dirs: 1,
            instances: false,
            rates: rates.to_vec(),
            stall: 0,
            consumers,
            rounds: 1,
            seconds: 1.0,
            counted: 1,
            core: false,
        }
    }

    pub fn cpu() -> Self {
        Self::new("CPU per event", Kind::Modify, &RATES)
    }

    pub fn latency() -> Self {
        Self::new("From the call to the consumer", Kind::Create, &RATES[..3])
    }

    pub fn stalls() -> [Self; 2] {
        let plan = |title: &str, stall: u64, budgets: &[&str]| {
            let mut plan = Self::new(title, Kind::Modify, &[300_000]);
            plan.stall = stall;
            plan.counted = 0;
            plan.consumers.extend(budgets.iter().map(|&name| name.to_owned()));
            plan
        };
        // An event with a name of 24 bytes takes 48, so 300,000 take 13.7 MiB.
        [
            plan("One stall of 300 ms", 300, &[]),
            plan("One stall of 1 s", 1_000, &["stream-uring-b24", "stream-epoll-b24"]),
        ]
    }

    /// Every kind, in one directory and in many.
    pub fn matrix() -> Vec<Self> {
        let mut plans = Vec::new();
        for kind in [Kind::Modify, Kind::Create, Kind::Rename] {
            for dirs in [1, 1_000] {
                let mut plan = Self::new("Events", kind, &RATES);
                plan.dirs = dirs;
                plans.push(plan);
            }
        }
        plans
    }

    pub fn instances() -> [Self; 2] {
        let plan = |title: &str, rates: &[u64], stall: u64| {
            let mut plan = Self::new(title, Kind::Create, rates);
            plan.dirs = 100;
            plan.instances = true;
            plan.stall = stall;
            plan.counted = usize::from(stall == 0);
            plan.consumers = instances::CONSUMERS.iter().map(|&name| name.to_owned()).collect();
            plan
        };
        [
            plan("100 instances in one process", &[1_000, 100_000], 0),
            plan("100 instances, of which one stalls for 300 ms", &[100_000], 300),
        ]
    }

    /// Only what says how ringwatch's own core does, at rates that can be kept.
    pub fn core() -> Vec<Self> {
        let [short, _] = Self::stalls();
        let mut plans = vec![Self::cpu(), Self::latency(), short];
        plans[1].rates.truncate(1);
        for plan in &mut plans {
            plan.core = true;
            plan.rates.retain(|&rate| rate > 0);
        }
        plans
    }

    pub fn of(mut self, consumers: &[&str]) -> Self {
        self.consumers = consumers.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// As the command line wants it, once for each kind and number of directories asked for.
    pub fn chosen(self, choice: &Choice) -> Vec<Self> {
        let or = |asked: &[usize], own: usize| if asked.is_empty() { vec![own] } else { asked.to_vec() };
        let kinds = if choice.kind.is_empty() {
            vec![self.kind]
        } else {
            choice.kind.clone()
        };
        let mut plans = Vec::new();
        for kind in kinds {
            for dirs in or(&choice.dirs, self.dirs) {
                let mut plan = self.clone();
                (plan.kind, plan.dirs) = (kind, dirs);
                plans.push(plan.with(choice));
            }
        }
        plans
    }

    fn with(mut self, choice: &Choice) -> Self {
        self.rounds = choice.rounds;
        // A stall is over well before the last event, or there would be nothing to catch up with.
        self.seconds = choice.seconds.max(self.stall as f64 / 1_000.0 * 1.5);
        if choice.counter == Some(Counter::None) {
            self.counted = 0;
        }
        if !choice.rates.is_empty() {
            self.rates.clone_from(&choice.rates);
        }
        let wanted = |name: &str| choice.only.is_empty() || choice.only.iter().any(|part| name.contains(part.as_str()));
        let core = |name: &str| !self.core || CONSUMERS.iter().all(|&(other, core)| core || other != name);
        self.consumers.retain(|name| core(name) && wanted(name) || name == BARE);
        self.consumers.extend(choice.also.iter().cloned());
        self
    }

    /// Who is to do nothing.
    pub fn idlers(choice: &Choice) -> Vec<String> {
        Self::cpu().with(choice).consumers
    }

    pub fn describe(&self) -> String {
        let kind = match self.kind {
            Kind::Modify => "files modified in turn",
            Kind::Create => "files created",
            Kind::Rename => "files renamed",
        };
        let dirs = if self.dirs == 1 { "directory" } else { "directories" };
        let rounds = if self.rounds == 1 { "round" } else { "rounds" };
        format!(
            "{}: {kind}, {} {dirs}, {} {rounds} of {:.1} s",
            self.title, self.dirs, self.rounds, self.seconds
        )
    }
}
