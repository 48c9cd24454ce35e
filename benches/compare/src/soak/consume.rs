//! The process that has all consumers, so that it can be seen what they keep.

use std::error::Error;
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use ringwatch::{Inotify, Mask};
use serde::{Deserialize, Serialize};

use super::check::Outcome;
use super::churn::{self, Churner};
use super::lane::{self, Answer, End, Handle, Result};
use super::plan::{Fault, LANES, Phase, Setup, TREES, Word};
use super::sample::Sample;
use super::tree;
use crate::job::say;

/// What became of a phase.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Those of the instances, then those of the trees.
    pub lanes: Vec<Outcome>,
    /// Watches that came and went, by the count of who had them do so.
    pub watches: Vec<u64>,
    pub instances: u64,
    pub trees: u64,
    pub fault: Option<String>,
}

/// A lane's thread.
struct Consumer {
    phases: Sender<Phase>,
    answers: Receiver<Result<Answer>>,
}

impl Consumer {
    fn new(setup: &Arc<Setup>, number: usize) -> Self {
        let (phases, phases_to_come) = channel();
        let (tell, answers) = channel();
        let setup = Arc::clone(setup);
        thread::spawn(move || {
            let run = match number.checked_sub(LANES.len()) {
                None => lane::run(&setup, number, &phases_to_come, &tell),
                Some(number) => tree::run(&setup, number, &phases_to_come, &tell),
            };
            if let Err(error) = run {
                let _ = tell.send(Err(format!("{}: {error}", name(number)).into()));
            }
        });
        Self { phases, answers }
    }
}

pub fn name(number: usize) -> &'static str {
    match number.checked_sub(LANES.len()) {
        None => LANES[number].name,
        Some(number) => TREES[number].name,
    }
}

/// What a lane that is slow may take to come to its end. Less than the judge waits, who is told what it waits for.
const PATIENCE: Duration = Duration::from_secs(150);

/// How those lanes stand that did not answer, and those that did.
fn standing(lanes: &[(Handle, End)], answered: usize) -> String {
    let mut text = String::new();
    for (number, (handle, end)) in lanes.iter().enumerate() {
        let is = if number < answered { "has answered" } else { "has not" };
        let stats = match handle {
            Handle::Inotify(inotify) => format!("{:?}", inotify.stats()),
            Handle::Tree(tree) => format!("{:?}", tree.stats()),
        };
        let _ = write!(text, "\n{} {is}: end at {end:?}; {stats}", name(number));
    }
    text
}

/// A phase that is under way.
struct Running {
    lanes: Vec<(Handle, End)>,
    churned: Vec<usize>,
    watches: Churner<Vec<u64>>,
    instances: Option<Churner<u64>>,
    trees: Option<Churner<u64>>,
}

pub fn consume(setup: Setup) -> Result<(), Box<dyn Error>> {
    let setup = Arc::new(setup);
    let lanes: Vec<_> = (0..LANES.len() + TREES.len())
        .map(|number| Consumer::new(&setup, number))
        .collect();
    say("ready");
    let mut running = None;
    let mut before = None;
    let mut left_behind = Vec::new();
    // What is left behind on purpose does not go, however long one waits.
    let patience = Duration::from_secs(if setup.fault.is_some() { 5 } else { 20 });
    for line in io::stdin().lines() {
        match serde_json::from_str(&line?)? {
            Word::Begin(phase) => {
                running = Some(begin(&setup, &lanes, &phase).map_err(|error| error.to_string())?);
                say("ready");
            }
            Word::End => {
                let running = running.take().ok_or("no phase has begun")?;
                let mut report = Report::default();
                if let Err(error) = end(running, &lanes, &mut report) {
                    report.fault = Some(error.to_string());
                }
                say(&serde_json::to_string(&report)?);
            }
            Word::Sample => {
                left_behind.extend(setup.fault.map(|fault| leave_behind(&setup, fault)));
                let sample = Sample::settled(before.as_ref(), patience);
                before = Some(sample);
                say(&serde_json::to_string(&sample)?);
            }
            other => return Err(format!("{other:?} is not for the consumer").into()),
        }
    }
    Ok(())
}

fn begin(setup: &Arc<Setup>, consumers: &[Consumer], phase: &Phase) -> Result<Running> {
    for consumer in consumers {
        consumer.phases.send(phase.clone())?;
    }
    let mut lanes = Vec::new();
    for consumer in consumers {
        match consumer.answers.recv()?? {
            Answer::Reading(handle, end) => lanes.push((handle, end)),
            Answer::Done(_) => return Err("a lane is done before it began".into()),
        }
    }
    let churned: Vec<_> = (0..LANES.len()).filter(|&number| phase.lanes[number].churn).collect();
    let inotifies = churned.iter().filter_map(|&number| match &lanes[number].0 {
        Handle::Inotify(inotify) => Some(inotify.clone()),
        Handle::Tree(_) => None,
    });
    let inotifies: Vec<_> = inotifies.collect();
    let seed = phase.seed;
    let with = || Arc::clone(setup);
    let (for_watches, for_instances, for_trees) = (with(), with(), with());
    Ok(Running {
        lanes,
        churned,
        watches: Churner::new(move |stop| churn::watches(&for_watches, &inotifies, stop)),
        instances: phase
            .churn_instances
            .then(|| Churner::new(move |stop| churn::instances(&for_instances, seed, stop))),
        trees: phase
            .churn_trees
            .then(|| Churner::new(move |stop| churn::trees(&for_trees, seed, stop))),
    })
}

fn end(running: Running, consumers: &[Consumer], report: &mut Report) -> Result<()> {
    let by = Instant::now() + PATIENCE;
    let late = |what: &str| format!("{what} did not end within {PATIENCE:?}{}", standing(&running.lanes, 0));
    let churned = running.watches.stop(by).ok_or_else(|| late("the churn of watches"))?;
    let instances = running
        .instances
        .map(|churner| churner.stop(by).ok_or_else(|| late("the churn of instances")));
    let instances = instances.transpose()?.transpose();
    let trees = running
        .trees
        .map(|churner| churner.stop(by).ok_or_else(|| late("the churn of trees")));
    let trees = trees.transpose()?.transpose();
    // Whatever failed, the lanes come to their end.
    for (handle, end) in &running.lanes {
        end.set(handle)?;
    }
    for consumer in consumers {
        let answer = match consumer
            .answers
            .recv_timeout(by.saturating_duration_since(Instant::now()))
        {
            Err(RecvTimeoutError::Timeout) => {
                let lane = name(report.lanes.len());
                let standing = standing(&running.lanes, report.lanes.len());
                return Err(format!("{lane} did not come to its end within {PATIENCE:?}{standing}").into());
            }
            answer => answer??,
        };
        match answer {
            Answer::Done(outcome) => report.lanes.push(outcome),
            Answer::Reading(..) => return Err("a lane reads what it was not told to".into()),
        }
    }
    report.watches = vec![0; consumers.len()];
    for (number, count) in running.churned.into_iter().zip(churned?) {
        report.watches[number] = count;
    }
    report.instances = instances?.unwrap_or(0);
    report.trees = trees?.unwrap_or(0);
    Ok(())
}

/// What a fault leaves behind in each phase.
#[expect(dead_code, reason = "it is only to be there")]
enum Left {
    Nothing,
    Descriptor(File),
    Watch(Inotify),
    Memory(Vec<u8>),
}

fn leave_behind(setup: &Setup, fault: Fault) -> Left {
    match fault {
        Fault::Descriptor => File::open("/dev/null").map_or(Left::Nothing, Left::Descriptor),
        Fault::Memory => Left::Memory(vec![1; 2 << 20]),
        Fault::Thread => {
            thread::spawn(|| thread::sleep(Duration::MAX));
            Left::Nothing
        }
        Fault::Watch => {
            let inotify = Inotify::new().and_then(|inotify| {
                inotify.add_watch(&setup.dir, Mask::CREATE)?;
                Ok(inotify)
            });
            inotify.map_or(Left::Nothing, Left::Watch)
        }
        Fault::Buffers => {
            const SIZE: usize = 8 << 20;
            let (protection, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            );
            // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
            unsafe { libc::mmap(std::ptr::null_mut(), SIZE, protection, flags, -1, 0) };
            Left::Nothing
        }
        Fault::Forget | Fault::Repeat | Fault::Overlook => Left::Nothing,
    }
}
