//! Consumers of instances: each on a thread of its own, which lives through all phases.

use std::error::Error;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use ringwatch::tree::Tree;
use ringwatch::{
    Backend, Barrier, ErrorKind, Event, EventBatch, EventStream, Inotify, Mask, Reader, ReaderStream, Watch,
};
use tokio::runtime::Runtime;

use super::check::{Check, Outcome};
use super::plan::{Half, LANES, Lane, LanePlan, Phase, Setup};

pub type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// What can be given a barrier while another thread reads it.
#[derive(Clone)]
pub enum Handle {
    Inotify(Inotify),
    Tree(Tree),
}

/// The end of a phase, as the reading thread knows it.
#[derive(Clone, Debug, Default)]
pub struct End(Arc<Mutex<Option<Barrier>>>);

impl End {
    /// The lock is held through it: the barrier can arrive before the call that sets it returns.
    pub fn set(&self, handle: &Handle) -> ringwatch::Result<()> {
        let mut end = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *end = Some(match handle {
            Handle::Inotify(inotify) => inotify.barrier()?,
            Handle::Tree(tree) => tree.barrier()?,
        });
        Ok(())
    }

    pub fn is(&self, barrier: Barrier) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) == Some(barrier)
    }
}

/// Said by a lane: it reads, or it has read all of a phase.
pub enum Answer {
    Reading(Handle, End),
    Done(Outcome),
}

/// Stalls as planned, with the same time between them.
pub struct Stalls {
    each: Duration,
    gap: Duration,
    left: u64,
    last: Instant,
}

impl Stalls {
    pub fn new(plan: &LanePlan, phase: &Phase) -> Self {
        Self {
            each: Duration::from_millis(plan.stall),
            gap: Duration::from_millis(phase.milliseconds / (plan.stalls + 2)),
            left: if plan.stall > 0 { plan.stalls } else { 0 },
            last: Instant::now(),
        }
    }

    pub fn none() -> Self {
        Self {
            each: Duration::ZERO,
            gap: Duration::ZERO,
            left: 0,
            last: Instant::now(),
        }
    }

    /// Between two batches.
    pub fn rest(&mut self) {
        if self.left > 0 && self.last.elapsed() >= self.gap {
            thread::sleep(self.each);
            self.left -= 1;
            self.last = Instant::now();
        }
    }
}

enum Reading {
    Stream(EventStream),
    Async(Runtime, EventStream),
    Reader(Reader),
    InPlace(Runtime, ReaderStream),
}

impl Reading {
    fn next(&mut self) -> Result<EventBatch> {
        let next = match self {
            Self::Stream(stream) => stream.wait(),
            Self::Async(runtime, stream) => runtime.block_on(stream.next()),
            Self::Reader(reader) => reader.wait(),
            Self::InPlace(runtime, stream) => runtime.block_on(stream.next()),
        };
        Ok(next.ok_or("it ended")??)
    }
}

struct Live {
    inotify: Inotify,
    reading: Reading,
    watch: Watch,
}

pub fn backend(setup: &Setup, uring: bool) -> Result<Backend> {
    let own = if uring { "uring" } else { "epoll" };
    Ok(setup.backend.as_deref().unwrap_or(own).parse()?)
}

/// Others of this user may have all instances for a moment, and what was dropped is given back a moment later.
pub fn patiently<T>(make: impl Fn() -> ringwatch::Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match make() {
            Err(error) if error.kind() == ErrorKind::InstanceLimit && begun.elapsed() < Duration::from_secs(60) => {
                thread::sleep(Duration::from_millis(20));
            }
            made => return Ok(made?),
        }
    }
}

/// What the events of all lanes are.
const MASK: Mask = Mask::MODIFY.union(Mask::MOVE).union(Mask::CREATE).union(Mask::DELETE);

impl Live {
    fn open(setup: &Setup, number: usize, lane: &Lane) -> Result<Self> {
        let mut builder = Inotify::builder()
            .backend(backend(setup, lane.uring)?)
            .batch_window(Duration::from_micros(lane.window));
        if lane.small {
            builder = builder.buffers(2).buffer_size(4096);
        }
        let inotify = patiently(|| builder.clone().build())?;
        let watch = inotify.add_watch(setup.lane(number), MASK)?;
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_io().build();
        let reading = match lane.half {
            Half::Stream => Reading::Stream(inotify.stream()?),
            Half::Async => Reading::Async(runtime()?, inotify.stream()?),
            Half::Reader => Reading::Reader(inotify.reader()?),
            Half::InPlace => {
                let (runtime, reader) = (runtime()?, inotify.reader()?);
                let stream = runtime.block_on(async { reader.into_stream() })?;
                Reading::InPlace(runtime, stream)
            }
        };
        Ok(Self {
            inotify,
            reading,
            watch,
        })
    }

    /// Leaves out what happened between phases.
    fn skip_to_now(&mut self) -> Result<()> {
        let barrier = self.inotify.barrier()?;
        while !self
            .reading
            .next()?
            .iter()
            .any(|event| event.barrier() == Some(barrier))
        {}
        Ok(())
    }

    fn follow(&mut self, check: &mut Check, stalls: &mut Stalls, end: &End) -> Result<()> {
        let mut churned = Vec::new();
        loop {
            let batch = self.reading.next()?;
            for event in &batch {
                match (event.watch(), event.barrier()) {
                    (Some(watch), _) if *watch == self.watch => {
                        let name = event.name().map_or(&[][..], OsStrExt::as_bytes);
                        if !check.see(event.mask().bits(), name) {
                            check.fail(|| format!("{event:?} was not caused"));
                        }
                    }
                    (Some(watch), _) => see_churned(watch, &event, &mut churned, check),
                    (None, Some(barrier)) if end.is(barrier) => {
                        if check.outcome.overflows == 0 && !churned.is_empty() {
                            check.fail(|| format!("watches that were removed have not ended: {churned:?}"));
                        }
                        return Ok(());
                    }
                    (None, Some(barrier)) => check.reach(barrier),
                    (None, None) => check.lose(Some(self.inotify.barrier()?)),
                }
            }
            drop(batch);
            stalls.rest();
        }
    }
}

/// The directory tells how many events its watch must see before it ends.
fn see_churned(watch: &Watch, event: &Event<'_>, seen: &mut Vec<(Watch, u64)>, check: &mut Check) {
    // Few have not ended, and the latest is the last.
    let place = seen.iter().rposition(|(of, _)| of == watch).unwrap_or_else(|| {
        seen.push((watch.clone(), 0));
        seen.len() - 1
    });
    if !event.mask().contains(Mask::IGNORED) {
        seen[place].1 += 1;
        check.outcome.churned_events += 1;
        return;
    }
    let (_, count) = seen.swap_remove(place);
    check.outcome.churned += 1;
    let path = watch.path();
    let caused = path.file_name().and_then(|name| name.to_str()?.parse().ok());
    if caused != Some(count) && check.outcome.overflows == 0 {
        check.fail(|| format!("{watch:?} saw {count} events before it ended"));
    }
}

/// The body of a lane's thread. It ends when nobody has phases for it any more.
pub fn run(setup: &Setup, number: usize, phases: &Receiver<Phase>, answers: &Sender<Result<Answer>>) -> Result<()> {
    let lane = &LANES[number];
    let mut live = None;
    for phase in phases {
        let plan = &phase.lanes[number];
        if plan.fresh {
            live = None;
        }
        let at = match &mut live {
            Some(live) => live,
            none => none.insert(Live::open(setup, number, lane)?),
        };
        at.skip_to_now()?;
        let end = End::default();
        answers.send(Ok(Answer::Reading(Handle::Inotify(at.inotify.clone()), end.clone())))?;
        let mut check = Check::new(plan.kind, setup.fault);
        at.follow(&mut check, &mut Stalls::new(plan, &phase), &end)?;
        answers.send(Ok(Answer::Done(check.outcome)))?;
    }
    Ok(())
}
