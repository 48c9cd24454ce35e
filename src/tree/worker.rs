//! The thread that owns a tree: takes what was read, applies it in order, looks where there is something to look at, and
//! hands on what is to be reported.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::ahead::Ahead;
use super::batch::{Draft, Memory, Shelf, TreeBatch};
use super::crawl::{Counts, Manner};
use super::figures::Figures;
use super::halves::SearchEnd;
use super::marks::{Mark, Marks, Meaning};
use super::mounts::Mounts;
use super::outlet::Outlet;
use super::read::Read;
use super::settled::HeldBarrier;
use super::survey::AGAIN;
use super::tracker::{Seen, Tracker};
use crate::causes::malformed_error;
use crate::core::Core;
use crate::decode::{Record, Records};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Limits;
use crate::mask::Mask;
use crate::queue::{Taken, add};
use crate::stream::go_on;
use crate::sys::inotify::InotifyFd;

/// Something for the worker to do between two batches.
pub(super) type Command = Box<dyn FnOnce(&mut Worker) + Send>;

/// What a tree's handles, its stream and its worker share.
pub(super) struct Shared {
    pub(super) core: Arc<Core>,
    pub(super) outlet: Outlet,
    pub(super) marks: Marks,
    pub(super) commands: Mutex<Commands>,
    pub(super) counts: Counts,
    pub(super) figures: Figures,
}

/// What the worker was asked to do and has not begun.
#[derive(Default)]
pub(super) struct Commands {
    waiting: VecDeque<Command>,
    /// The worker has ended, and why. Nobody would carry anything out any more.
    ended: Option<String>,
}

impl Shared {
    fn commands(&self) -> MutexGuard<'_, Commands> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the worker is asked for something.
    pub(super) fn is_asked(&self) -> bool {
        !self.commands().waiting.is_empty()
    }

    /// An error once the tree has ended, or is about to.
    pub(super) fn check_open(&self, operation: &'static str) -> Result<()> {
        self.open_commands(operation).map(drop)
    }

    pub(super) fn command(&self, operation: &'static str, command: Command) -> Result<()> {
        self.open_commands(operation)?.waiting.push_back(command);
        Ok(())
    }

    fn open_commands(&self, operation: &'static str) -> Result<MutexGuard<'_, Commands>> {
        if self.core.feed.queue.is_closed() {
            return Err(Error::closed(operation));
        }
        let commands = self.commands();
        match &commands.ended {
            None => Ok(commands),
            Some(cause) => Err(Error::text(ErrorKind::Closed, operation, cause.clone()).mended_by("open another")),
        }
    }

    /// The worker carries out nothing more: whoever waits for an answer has none, and nobody waits from now on.
    pub(super) fn end(&self, failure: Option<&Error>) {
        let mut commands = self.commands();
        commands.ended.get_or_insert_with(|| match failure {
            Some(error) => format!("this tree has ended: {error}"),
            None => "this tree has ended".to_owned(),
        });
        commands.waiting.clear();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) inotify: Arc<InotifyFd>,
    pub(super) tracker: Tracker,
    pub(super) manner: Manner,
    /// After a loss, what it did is to be found and reported.
    pub(super) compares: bool,
    pub(super) ahead: Ahead,
    pub(super) shelf: Arc<Shelf>,
    pub(super) memory: Memory,
    pub(super) waker: Waker,
    pub(super) barriers: Vec<HeldBarrier>,
    /// Bytes of the stream that were worked on, those of the buffer at hand included.
    pub(super) taken: u64,
    /// Buffers that were worked on since there was something to look at.
    pub(super) delayed: usize,
    /// Buffers that were worked on since what waits for a pause had its turn, and when that was.
    pub(super) busy: usize,
    pub(super) caught_up: Instant,
    pub(super) mounts: Mounts,
    /// Watches of directories in which missing roots may appear, or that tell of the permissions of some.
    pub(super) awaiting: Vec<i32>,
    /// Where the search for the other half of a rename ends.
    pub(super) search_ends: Vec<SearchEnd>,
    /// Events that the kernel can have queued.
    pub(super) most_queued: usize,
    /// Markers that could not be set.
    pub(super) unmarked: Vec<Mark>,
    /// There was no room for the watch that those need.
    pub(super) crowded: bool,
    /// Something is to be tried again after this, if nothing happens before.
    pub(super) pause: Option<Duration>,
    /// Markers in a row that were refused, and not for lack of room.
    pub(super) refused: u32,
    /// Why it ended.
    pub(super) failure: Option<Error>,
    pub(super) opened: bool,
    pub(super) ended: bool,
}

/// Bytes of paths that a batch of events has at most, and one path more: in a deep tree they take much more than the events.
const MOST_TEXT: usize = 256 * 1024;

/// Buffers that are worked on before a session, if there is no pause.
const MOST_DELAYED: usize = 4;

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, inotify: Arc<InotifyFd>, tracker: Tracker, compares: bool) -> Self {
        Self {
            manner: tracker.manner.clone(),
            tracker,
            shared,
            inotify,
            compares,
            ahead: Ahead::default(),
            shelf: Shelf::new(),
            memory: Memory::new(),
            waker: Waker::from(Arc::new(Unpark(thread::current()))),
            barriers: Vec::new(),
            taken: 0,
            delayed: 0,
            busy: 0,
            caught_up: Instant::now(),
            mounts: Mounts::new(),
            awaiting: Vec::new(),
            search_ends: Vec::new(),
            most_queued: most_queued(),
            unmarked: Vec::new(),
            crowded: false,
            pause: None,
            refused: 0,
            failure: None,
            opened: false,
            ended: false,
        }
    }

    /// Works until the tree is closed, or can't be read any more; with `until_opened`, until it is open.
    pub(super) fn run(&mut self, until_opened: bool) {
        while self.goes_on() && (!until_opened || !self.opened) {
            self.obey();
            if self.mounts.is_called() {
                let mut draft = self.begin();
                self.look_at_mounts(false, &mut draft);
                self.hand_on(None, draft);
            }
            if !self.barriers.is_empty() && self.tracker.is_calm() {
                // What they waited for is gone, and nothing is to be looked at.
                let mut draft = self.begin();
                self.let_pass(self.barriers.len(), &mut draft);
                self.hand_on(None, draft);
            }
            let has_room = self.may_read();
            if has_room && self.ahead.len() == 0 && !self.fetch() && self.ahead.given() < self.most_read() {
                self.tracker.swaps.rest();
            }
            if has_room && self.ahead.len() > 0 {
                self.work();
                self.catch_up_at_times();
                self.publish();
                continue;
            }
            if !self.ended && !self.look_around() {
                // What could not be done for lack of room is tried again.
                match self.pause {
                    None if self.unmarked.is_empty() => thread::park(),
                    pause => thread::park_timeout(pause.unwrap_or(AGAIN)),
                }
            }
            self.publish();
        }
    }

    /// Buffers that can be read into at most.
    pub(super) fn most_read(&self) -> usize {
        self.shared.core.feed.pool.buffers()
    }

    /// What was read before it was closed is still reported.
    fn goes_on(&self) -> bool {
        !self.ended || self.ahead.len() > 0 && self.failure.is_none()
    }

    fn may_read(&self) -> bool {
        !self.opened || self.shared.outlet.has_room(&self.waker) || self.shared.core.feed.queue.is_closed()
    }

    pub(super) fn obey(&mut self) {
        loop {
            let command = self.shared.commands().waiting.pop_front();
            let Some(command) = command else { return };
            command(self);
        }
    }

    /// Takes what was read, if anything was. Answers whether there was something.
    pub(super) fn fetch(&mut self) -> bool {
        match self.shared.core.feed.queue.take(Some(&self.waker)) {
            Taken::Buffer(buffer) => {
                self.ahead.push(buffer);
                return true;
            }
            Taken::Interposed(error) => self.shared.outlet.push(Err(error)),
            Taken::Failed(failure) => match go_on(&self.shared.core, failure) {
                // There may be something behind it.
                Ok(()) => self.waker.wake_by_ref(),
                Err(error) => self.fail(error),
            },
            Taken::Closed => self.ended = true,
            Taken::Empty => {}
        }
        false
    }

    /// Works on the first buffer.
    fn work(&mut self) {
        let Some(buffer) = self.ahead.front() else { return };
        let mut draft = self.begin();
        self.taken += buffer.filled().len() as u64;
        self.apply(&buffer, &mut draft);
        self.hand_on(Some(&buffer), draft);
        self.ahead.pop();
        if self.tracker.has_work() {
            self.delayed += 1;
            if self.delayed >= MOST_DELAYED && self.tracker.session == 0 {
                self.session();
            }
        }
    }

    pub(super) fn begin(&mut self) -> Draft {
        self.memory.forget();
        self.shelf.take()
    }

    pub(super) fn hand_on(&mut self, buffer: Option<&Arc<Read>>, draft: Draft) {
        // Whoever takes the batch finds figures that are not older.
        self.publish();
        let core = &self.shared.core;
        let batch = TreeBatch::new(buffer.cloned(), draft, &self.shelf, core.instance);
        if batch.is_empty() {
            return;
        }
        let counters = &core.feed.counters;
        add(&counters.batches, 1);
        add(&counters.events, batch.len() as u64);
        self.shared.outlet.push(Ok(batch));
    }

    pub(super) fn apply(&mut self, buffer: &Arc<Read>, draft: &mut Draft) {
        let mut records = Records::new(buffer.filled());
        let mut run = None;
        loop {
            let at = records.offset();
            let record = match records.next() {
                None => return,
                Some(Ok(record)) => record,
                Some(Err(malformed)) => {
                    self.divide(buffer, draft);
                    self.shared.outlet.push(Err(malformed_error(malformed)));
                    // What is behind it is lost.
                    return self.overflowed(buffer, draft);
                }
            };
            if self.ahead.was_taken(at as u32) {
                run = None;
                continue;
            }
            if self.tracker.is_plain(record.mask) {
                if run == Some(record.wd) {
                    draft.extend_run();
                } else if let Some(dir) = self.tracker.nodes.by_wd(record.wd) {
                    if draft.text_len() > MOST_TEXT {
                        self.divide(buffer, draft);
                    }
                    let dir = draft.dir(&mut self.tracker.nodes, &mut self.memory, dir);
                    draft.record(at as u32, dir);
                    run = Some(record.wd);
                } else {
                    run = None;
                }
                continue;
            }
            run = None;
            if draft.text_len() > MOST_TEXT {
                self.divide(buffer, draft);
            }
            self.turn(buffer, at, record, records.offset(), draft);
        }
    }

    /// Hands on what there is of a buffer, and goes on with another batch.
    pub(super) fn divide(&mut self, buffer: &Arc<Read>, draft: &mut Draft) {
        let so_far = std::mem::replace(draft, self.shelf.take());
        self.memory.forget();
        self.hand_on(Some(buffer), so_far);
    }

    /// A record that may change the tree.
    fn turn(&mut self, buffer: &Arc<Read>, at: usize, record: Record<'_>, behind: usize, draft: &mut Draft) {
        let seen = Seen {
            record,
            at: Some(at as u32),
        };
        if record.mask.contains(Mask::Q_OVERFLOW) {
            return self.overflowed(buffer, draft);
        }
        if record.mask.contains(Mask::IGNORED) && self.tracker.nodes.by_wd(record.wd).is_none() {
            return self.marker(record.wd, buffer, draft);
        }
        if record.mask.contains(Mask::MOVED_FROM) {
            return self.rename(seen, behind, buffer, draft);
        }
        let (tracker, mut out) = self.reporting(draft, Some(buffer));
        match record.mask.contains(Mask::MOVED_TO) {
            true => tracker.moved_in(seen, &mut out),
            false => tracker.single(seen, &mut out),
        }
    }

    /// The end of a watch that is no directory's.
    fn marker(&mut self, wd: i32, buffer: &Arc<Read>, draft: &mut Draft) {
        while let Some(number) = self.shared.marks.overtaken_by(wd) {
            self.barrier(number, true, draft);
        }
        match self.shared.marks.arrived(wd) {
            Meaning::Barrier { number, overtaken } => self.barrier(number, overtaken, draft),
            Meaning::Mark(Mark::Light) => self.tracker.shadow = false,
            Meaning::Mark(Mark::Session) => self.end_session(buffer, draft),
            Meaning::Mark(Mark::Mounts) => self.look_at_mounts(true, draft),
            Meaning::Mark(Mark::Partner) => self.search_ends.retain(|end| end.marker != wd),
            Meaning::Nothing => {}
        }
    }

    /// The thread ends: whoever waits is told.
    pub(super) fn finish(&mut self, error: Option<Error>) {
        self.shared.end(error.as_ref().or(self.failure.as_ref()));
        if let Some(error) = error {
            self.shared.outlet.push(Err(error));
        }
        let feed = &self.shared.core.feed;
        feed.queue.leave(feed);
        self.shared.outlet.end();
    }
}

/// Events that the kernel can have queued.
fn most_queued() -> usize {
    // What it is by default.
    const EVENTS: u64 = 16_384;
    let events = Limits::read().map_or(EVENTS, |limits| limits.max_queued_events);
    usize::try_from(events).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::tree::Tree;

    /// How long to wait for an answer. It is there to end a test that would hang.
    const PATIENCE: Duration = Duration::from_secs(120);

    #[test]
    fn a_tree_that_could_not_be_read_any_more_answers_whatever_is_asked_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path()).unwrap();
        let mut stream = tree.stream().unwrap();
        let lost = Error::text(ErrorKind::ReaderFailed, "read events", "events are lost");
        let lossless = false;
        tree.feed().queue.fail(lost, lossless);
        let told = stream.wait_timeout(PATIENCE).unwrap_err();
        assert_eq!(told.kind(), ErrorKind::ReaderFailed, "{told}");
        let error = tree.barrier().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        assert!(error.to_string().contains("events are lost"), "{error}");
        let (tell, told) = sync_channel(2);
        let root = dir.path().to_owned();
        thread::spawn(move || {
            let _ = tell.send(tree.add_root(root).unwrap_err().kind());
            assert!(tree.roots().is_empty());
            let _ = tell.send(tree.refilter().unwrap_err().kind());
        });
        for _ in 0..2 {
            assert_eq!(told.recv_timeout(PATIENCE), Ok(ErrorKind::Closed));
        }
    }
}
