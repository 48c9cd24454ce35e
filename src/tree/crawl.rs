//! Looks at directories: watches each before it lists it, and goes on below, on as many threads as there are cores.
//!
//! It knows the disk and not the tree: what it found is for the tree to make sense of. A directory is opened by its name
//! in the open directory above it (see `above`), and watched and listed by what was opened, so a rename can't come in
//! between.

use std::collections::HashSet;
use std::ffi::CStr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Scope};

use super::above::{Above, OpenDirs, Parent};
use super::found::{Crawl, Outcome, Part};
use super::look::Looker;
use super::nodes::{Id, NONE};
use crate::mask::Mask;
use crate::sys::dir::Dir;
use crate::sys::inotify::InotifyFd;

pub(super) type Filter = Arc<dyn Fn(&Path) -> bool + Send + Sync>;

/// What a crawl is to do, for all directories.
#[derive(Clone)]
pub(super) struct Manner {
    pub(super) mask: Mask,
    pub(super) filter: Option<Filter>,
    pub(super) follow_links: bool,
    pub(super) cross_mounts: bool,
    /// Files are to be told from their later selves.
    pub(super) fingerprints: bool,
    /// Names of files are wanted.
    pub(super) names: bool,
}

/// A directory to begin at.
#[derive(Debug)]
pub(super) struct Job {
    /// Which of the tree's it is.
    pub(super) node: Id,
    /// The directory it is in, the same for all that are in it; a root has none.
    pub(super) parent: Option<Arc<Parent>>,
    /// Its name; of a root, the whole path.
    pub(super) name: Vec<u8>,
    /// A link that is to be followed.
    pub(super) link: bool,
    /// It is to be watched for these entries only.
    pub(super) singles: Option<Vec<Vec<u8>>>,
    /// It is only to be found out what is there: it is watched and not listed.
    pub(super) probe: bool,
}

/// How far a crawl is.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) directories: AtomicUsize,
    pub(super) watches: AtomicUsize,
    pub(super) errors: AtomicUsize,
    pub(super) cancelled: Arc<AtomicBool>,
}

/// A directory that is to be looked at.
pub(super) struct Work {
    pub(super) number: u32,
    pub(super) above: Arc<Above>,
    pub(super) parent: u32,
    pub(super) node: Id,
    /// Where its name is in `above`, with its NUL.
    pub(super) name: (usize, usize),
    pub(super) link: bool,
    /// By the filter.
    pub(super) wanted: bool,
    pub(super) singles: Option<Vec<Vec<u8>>>,
    pub(super) probe: bool,
    pub(super) device: Option<u64>,
}

impl Work {
    pub(super) fn name(&self) -> &CStr {
        self.above.name(self.name)
    }
}

/// What the threads of a crawl share.
pub(super) struct Shared<'a> {
    pub(super) manner: &'a Manner,
    pub(super) inotify: &'a InotifyFd,
    pub(super) counts: &'a Counts,
    cancelled: Option<&'a AtomicBool>,
    /// Whether what is watched by this descriptor has its place in the tree.
    pub(super) known: &'a (dyn Fn(i32) -> bool + Sync),
    /// Where relative paths begin.
    home: OnceLock<Option<Dir>>,
    pub(super) open: OpenDirs,
    met: Mutex<HashSet<i32>>,
    pub(super) next: AtomicU32,
    heap: Mutex<Heap>,
    changed: Condvar,
    /// A thread has nothing to do.
    hungry: AtomicBool,
    threads: AtomicUsize,
    most_threads: usize,
    parts: Mutex<Vec<Part>>,
}

/// What no thread has taken yet.
#[derive(Default)]
struct Heap {
    work: Vec<Work>,
    /// Threads that are at work, and may bring more.
    busy: usize,
}

impl Shared<'_> {
    /// Whether this crawl meets a directory for the first time. Only links can lead to one twice, and around for ever.
    pub(super) fn is_first(&self, wd: i32) -> bool {
        let met = || self.met.lock().unwrap_or_else(PoisonError::into_inner);
        !self.manner.follow_links || met().insert(wd)
    }

    /// Where helpers are to come back to, once there are any.
    pub(super) fn home(&self) -> Option<&Dir> {
        self.home.get()?.as_ref()
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled
            .is_some_and(|cancelled| cancelled.load(Ordering::Relaxed))
    }

    fn heap(&self) -> MutexGuard<'_, Heap> {
        self.heap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some work, waiting for it. None if all is done.
    fn take(&self) -> Option<Vec<Work>> {
        let mut heap = self.heap();
        while heap.work.is_empty() {
            if heap.busy == 0 {
                return None;
            }
            self.hungry.store(true, Ordering::Relaxed);
            heap = self.changed.wait(heap).unwrap_or_else(PoisonError::into_inner);
        }
        heap.busy += 1;
        // Others are to find something too.
        let left = heap.work.len() - heap.work.len().div_ceil(2 * self.most_threads);
        Some(heap.work.split_off(left))
    }

    /// Puts back what others may take.
    fn give(&self, work: impl Iterator<Item = Work>) {
        let mut heap = self.heap();
        heap.work.extend(work);
        self.hungry.store(false, Ordering::Relaxed);
        drop(heap);
        self.changed.notify_all();
    }
}

/// A thread that has taken something and is not done, also if it panics: a filter may.
struct Busy<'a>(&'a Shared<'a>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut heap = self.0.heap();
        if thread::panicking() {
            heap.work.clear();
        }
        heap.busy -= 1;
        if heap.busy == 0 {
            self.0.changed.notify_all();
        }
    }
}

/// Looks at the directories of these jobs and at all below them.
///
/// A directory that is `known` by its watch is not listed. Once it is `cancelled`, nothing has been found.
pub(super) fn crawl(
    jobs: &[Job],
    manner: &Manner,
    inotify: &InotifyFd,
    counts: &Counts,
    cancelled: Option<&AtomicBool>,
    known: &(dyn Fn(i32) -> bool + Sync),
) -> Crawl {
    let mut first = Part::default();
    let next = AtomicU32::new(0);
    let mut work = Vec::new();
    for siblings in jobs.chunk_by(are_siblings) {
        begin(siblings, &next, &mut work, &mut first);
    }
    // The last is taken first.
    work.reverse();
    let shared = Shared {
        manner,
        inotify,
        counts,
        cancelled,
        known,
        home: OnceLock::new(),
        open: OpenDirs::default(),
        met: Mutex::default(),
        next,
        heap: Mutex::new(Heap { work, busy: 0 }),
        changed: Condvar::new(),
        hungry: AtomicBool::new(false),
        threads: AtomicUsize::new(0),
        most_threads: thread::available_parallelism().map_or(1, |cores| cores.get().min(16)),
        parts: Mutex::new(Vec::new()),
    };
    thread::scope(|scope| labour(scope, &shared, first, Role::First));
    let is_cancelled = shared.is_cancelled();
    let parts = shared.parts.into_inner().unwrap_or_else(PoisonError::into_inner);
    if is_cancelled {
        // Without the rest of it, what was found makes no sense.
        return Crawl::default();
    }
    Crawl::new(parts, shared.next.into_inner() as usize)
}

/// Whether two jobs are in one directory.
fn are_siblings(one: &Job, other: &Job) -> bool {
    match (&one.parent, &other.parent) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

/// Makes work of jobs in one directory.
fn begin(jobs: &[Job], next: &AtomicU32, work: &mut Vec<Work>, part: &mut Part) {
    let first = next.fetch_add(jobs.len() as u32, Ordering::Relaxed);
    let mut names = Vec::new();
    let mut places = Vec::new();
    for (number, job) in (first..).zip(jobs) {
        if job.name.contains(&0) {
            part.fail(number, job, Outcome::Failed(libc::EINVAL));
            continue;
        }
        let start = names.len();
        names.extend(&job.name);
        names.push(0);
        places.push((number, (start, names.len()), job));
    }
    let Some(job) = jobs.first() else { return };
    let above = Arc::new(match &job.parent {
        Some(parent) => Above::of_parent(Arc::clone(parent), names.into()),
        None => Above::of_root(&job.name),
    });
    let device = job.parent.as_ref().map(|parent| parent.identity.device);
    work.extend(places.into_iter().map(|(number, name, job)| Work {
        number,
        name,
        above: Arc::clone(&above),
        parent: NONE,
        node: job.node,
        link: job.link,
        wanted: true,
        singles: job.singles.clone(),
        probe: job.probe,
        device,
    }));
}

/// Which thread of a crawl it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The worker's own.
    First,
    Helper,
    /// One that a roaming helper began. It has the working directory of that until it has its own.
    HelperOfRoamer,
}

/// Works until there is no more to do; or, if it is the first, until there are helpers: those have working directories of
/// their own, and are faster.
///
/// A thread goes down first, and alone: two in one directory hinder each other in the kernel. Who has nothing to do is given
/// what the other came by first, the largest part.
fn labour<'scope, 'env: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    shared: &'env Shared<'env>,
    part: Part,
    role: Role,
) {
    // Another thread pays off if there is much to do.
    const MUCH: usize = 16;
    let mut looker = Looker::new(shared, part, role != Role::First);
    if role == Role::HelperOfRoamer && !looker.roams() {
        return;
    }
    let mut replaced = false;
    while !replaced && let Some(work) = shared.take() {
        let _busy = Busy(shared);
        looker.stack = work;
        while let Some(work) = looker.stack.pop() {
            if !shared.is_cancelled() {
                looker.look(&work);
            }
            let waiting = looker.stack.len();
            if waiting > MUCH && shared.threads.load(Ordering::Relaxed) < shared.most_threads {
                let role_of_next = if looker.roams() {
                    Role::HelperOfRoamer
                } else {
                    Role::Helper
                };
                let begun = hire(scope, shared, role_of_next);
                replaced = begun && role == Role::First;
            }
            if replaced {
                shared.give(looker.stack.drain(..));
            } else if waiting > 1 && shared.hungry.load(Ordering::Relaxed) {
                shared.give(looker.stack.drain(..waiting / 2));
            }
        }
    }
    shared
        .parts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(looker.part);
}

/// Begins one more thread. Answers whether that worked.
fn hire<'scope, 'env: 'scope>(scope: &'scope Scope<'scope, 'env>, shared: &'env Shared<'env>, role: Role) -> bool {
    if shared.threads.fetch_add(1, Ordering::Relaxed) >= shared.most_threads {
        shared.threads.fetch_sub(1, Ordering::Relaxed);
        return false;
    }
    if role == Role::Helper {
        // This thread is there itself.
        shared.home.get_or_init(|| Dir::find(b".").ok());
    }
    let helper = thread::Builder::new().name("ringwatch-crawl".into());
    let begun = helper.spawn_scoped(scope, move || labour(scope, shared, Part::default(), role));
    if begun.is_err() {
        shared.threads.fetch_sub(1, Ordering::Relaxed);
    }
    begun.is_ok()
}
