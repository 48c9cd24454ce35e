//! Looks at directories: watches each before it lists it, and goes on below, on as many threads as there are cores.
//!
//! It knows the disk and not the tree: what it found is for the tree to make sense of. A directory is opened by its name
//! in the open directory above it, and watched and listed by what was opened, so a rename can't come in between.

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, SystemTime};

use super::files::{Fingerprint, UNKNOWN};
use super::nodes::{Id, NONE};
use crate::mask::Mask;
use crate::sys::dir::{Dir, Identity, Kind, Status, entries, own_working_directory};
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
    /// The directory it is in, and what that is; a root has none.
    pub(super) parent: Option<(Vec<u8>, Identity)>,
    /// Its name; of a root, the whole path.
    pub(super) name: Vec<u8>,
    /// Its path below its root.
    pub(super) relative: Vec<u8>,
    /// A link that is to be followed.
    pub(super) link: bool,
    /// It is to be watched and not listed.
    pub(super) shallow: bool,
}

/// How far a crawl is.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) directories: AtomicUsize,
    pub(super) watches: AtomicUsize,
    pub(super) errors: AtomicUsize,
    pub(super) cancelled: Arc<AtomicBool>,
}

/// How a directory was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Watched {
        wd: i32,
        identity: Identity,
    },
    /// The filter does not want it.
    Filtered,
    /// No directory is there now.
    Vanished,
    /// The directory it is to be in is not where it was.
    Lost,
    /// It is on another file system.
    Foreign,
    /// It can't be watched or listed; the errno.
    Failed(i32),
    /// It is watched, but its listing broke off; the errno.
    Unlisted {
        wd: i32,
        identity: Identity,
        code: i32,
    },
}

/// One directory that was looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Its place in [`Crawl::order`].
    number: u32,
    /// The place of the one above it; NONE for what a job began with.
    pub(super) parent: u32,
    /// The node of the job; NONE below that.
    pub(super) node: Id,
    name: (usize, usize),
    files: (usize, usize),
    pub(super) outcome: Outcome,
    pub(super) link: bool,
}

/// What was found. Parents come before their children.
#[derive(Debug, Default)]
pub(super) struct Crawl {
    parts: Vec<Part>,
    order: Vec<(u32, u32)>,
}

/// What one thread has found.
#[derive(Debug, Default)]
struct Part {
    found: Vec<Found>,
    text: Vec<u8>,
}

impl Part {
    fn put(&mut self, text: &[u8]) -> (usize, usize) {
        let start = self.text.len();
        self.text.extend(text);
        (start, self.text.len())
    }

    /// A job that could not begin.
    fn fail(&mut self, number: u32, job: &Job, outcome: Outcome) {
        let name = self.put(&job.name);
        self.found.push(Found {
            number,
            parent: NONE,
            node: job.node,
            name,
            files: (name.1, name.1),
            outcome,
            link: job.link,
        });
    }
}

impl Crawl {
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn found(&self, number: usize) -> &Found {
        let (part, place) = self.order[number];
        &self.parts[part as usize].found[place as usize]
    }

    fn text(&self, number: usize, range: (usize, usize)) -> &[u8] {
        let (part, _) = self.order[number];
        &self.parts[part as usize].text[range.0..range.1]
    }

    pub(super) fn name(&self, number: usize) -> &[u8] {
        self.text(number, self.found(number).name)
    }

    /// The names of what is in it and no directory, each with its fingerprint.
    pub(super) fn files(&self, number: usize) -> impl Iterator<Item = (&[u8], Fingerprint)> {
        let mut text = self.text(number, self.found(number).files);
        std::iter::from_fn(move || {
            let (fingerprint, rest) = text.split_first_chunk::<8>()?;
            let (&length, rest) = rest.split_first()?;
            let (name, rest) = rest.split_at_checked(usize::from(length))?;
            text = rest;
            Some((name, u64::from_ne_bytes(*fingerprint)))
        })
    }
}

/// A directory that is to be looked at.
struct Work {
    number: u32,
    above: Option<Arc<Dir>>,
    parent: u32,
    node: Id,
    name: CString,
    /// Only with a filter.
    relative: Vec<u8>,
    link: bool,
    /// By the filter.
    wanted: bool,
    shallow: bool,
    device: Option<u64>,
}

struct Shared<'a> {
    manner: &'a Manner,
    inotify: &'a InotifyFd,
    counts: &'a Counts,
    /// Whether what is watched by this descriptor has its place in the tree.
    known: &'a (dyn Fn(i32) -> bool + Sync),
    met: Mutex<HashSet<i32>>,
    next: AtomicU32,
    heap: Mutex<Heap>,
    changed: Condvar,
    parts: Mutex<Vec<Part>>,
    most_threads: usize,
}

#[derive(Default)]
struct Heap {
    work: Vec<Work>,
    /// Threads that are at work, and may bring more.
    busy: usize,
    threads: usize,
    idle: usize,
}

impl Shared<'_> {
    /// Whether this crawl meets a directory for the first time. Only links can lead to one twice, and around for ever.
    fn is_first(&self, wd: i32) -> bool {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        !self.manner.follow_links || met.insert(wd)
    }

    fn heap(&self) -> MutexGuard<'_, Heap> {
        self.heap.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the directories of these jobs and at all below them.
///
/// A directory that is `known` by its watch is not listed.
pub(super) fn crawl(
    jobs: Vec<Job>,
    manner: &Manner,
    inotify: &InotifyFd,
    counts: &Counts,
    known: &(dyn Fn(i32) -> bool + Sync),
) -> Crawl {
    let mut first = Part::default();
    let next = AtomicU32::new(0);
    let mut work = Vec::new();
    for job in jobs {
        begin(job, &next, &mut work, &mut first);
    }
    // The last is taken first.
    work.reverse();
    let shared = Shared {
        manner,
        inotify,
        counts,
        known,
        met: Mutex::default(),
        next,
        heap: Mutex::new(Heap {
            work,
            ..Heap::default()
        }),
        changed: Condvar::new(),
        parts: Mutex::new(Vec::new()),
        most_threads: thread::available_parallelism().map_or(1, |cores| cores.get().min(16)),
    };
    thread::scope(|scope| labour(scope, &shared, first, false));
    let parts = shared.parts.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut order = vec![(0, 0); shared.next.into_inner() as usize];
    for (number, part) in parts.iter().enumerate() {
        for (place, found) in part.found.iter().enumerate() {
            order[found.number as usize] = (number as u32, place as u32);
        }
    }
    let cancelled = counts.cancelled.load(Ordering::Relaxed);
    Crawl {
        // Without the rest of it, what was found makes no sense.
        order: if cancelled { Vec::new() } else { order },
        parts,
    }
}

/// Finds where a job begins.
fn begin(job: Job, next: &AtomicU32, work: &mut Vec<Work>, part: &mut Part) {
    let number = next.fetch_add(1, Ordering::Relaxed);
    let mut above = None;
    if let Some((path, expected)) = &job.parent {
        let found = Dir::find(path).and_then(|dir| Ok((dir.identity()?, dir)));
        match found {
            Ok((identity, dir)) if identity == *expected => above = Some((dir, identity.device)),
            // It may be there, behind what may not be searched.
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                return part.fail(number, &job, Outcome::Failed(libc::EACCES));
            }
            _ => return part.fail(number, &job, Outcome::Lost),
        }
    }
    let Ok(name) = CString::new(job.name.clone()) else {
        return part.fail(number, &job, Outcome::Failed(libc::EINVAL));
    };
    let (above, device) = above.map_or((None, None), |(dir, device)| (Some(Arc::new(dir)), Some(device)));
    work.push(Work {
        number,
        above,
        parent: NONE,
        node: job.node,
        name,
        relative: job.relative,
        link: job.link,
        wanted: true,
        shallow: job.shallow,
        device,
    });
}

/// Works until there is no more to do; or, if this is not a `helper`, until there are helpers: those have working
/// directories of their own, and are faster.
fn labour<'scope, 'env: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    shared: &'env Shared<'env>,
    mut part: Part,
    helper: bool,
) {
    let roams = helper && own_working_directory();
    let mut room = vec![0; 32 * 1024];
    let mut heap = shared.heap();
    loop {
        if !helper && heap.threads > 0 {
            break;
        }
        let Some(work) = heap.work.pop() else {
            if heap.busy == 0 {
                break;
            }
            heap.idle += 1;
            heap = shared.changed.wait(heap).unwrap_or_else(PoisonError::into_inner);
            heap.idle -= 1;
            continue;
        };
        heap.busy += 1;
        drop(heap);
        let mut below = Vec::new();
        if !shared.counts.cancelled.load(Ordering::Relaxed) {
            look(work, shared, &mut part, (&mut room, roams), &mut below);
        }
        below.reverse();
        heap = shared.heap();
        heap.work.append(&mut below);
        heap.busy -= 1;
        if heap.idle > 0 && (heap.work.len() > 1 || heap.busy == 0) {
            shared.changed.notify_all();
        }
        // Another thread pays off if there is much to do.
        const MUCH: usize = 16;
        if heap.work.len() > MUCH && heap.threads < shared.most_threads {
            let helper = thread::Builder::new().name("ringwatch-crawl".into());
            let begun = helper.spawn_scoped(scope, move || labour(scope, shared, Part::default(), true));
            heap.threads += usize::from(begun.is_ok());
        }
    }
    shared.changed.notify_all();
    drop(heap);
    shared.parts.lock().unwrap_or_else(PoisonError::into_inner).push(part);
}

/// Watches one directory, then lists it.
fn look(work: Work, shared: &Shared<'_>, part: &mut Part, (room, roams): (&mut [u8], bool), below: &mut Vec<Work>) {
    let counts = shared.counts;
    counts.directories.fetch_add(1, Ordering::Relaxed);
    let manner = shared.manner;
    let name = part.put(work.name.to_bytes());
    let mut found = Found {
        number: work.number,
        parent: work.parent,
        node: work.node,
        name,
        files: (name.1, name.1),
        outcome: Outcome::Vanished,
        link: work.link,
    };
    match watch(&work, manner, shared.inotify, roams) {
        Ok((dir, identity, wd)) => {
            found.outcome = Outcome::Watched { wd, identity };
            if !work.shallow && !(shared.known)(wd) && shared.is_first(wd) {
                counts.watches.fetch_add(1, Ordering::Relaxed);
                let dir = Arc::new(dir);
                let mut listing = Listing {
                    work: &work,
                    dir: &dir,
                    identity,
                    shared,
                    below,
                };
                if let Err(error) = listing.read(part, room) {
                    let code = error.raw_os_error().unwrap_or(libc::EIO);
                    found.outcome = Outcome::Unlisted { wd, identity, code };
                }
                found.files.1 = part.text.len();
            }
        }
        Err(outcome) => found.outcome = outcome,
    }
    if matches!(found.outcome, Outcome::Failed(_) | Outcome::Unlisted { .. }) {
        counts.errors.fetch_add(1, Ordering::Relaxed);
    }
    part.found.push(found);
}

fn watch(work: &Work, manner: &Manner, inotify: &InotifyFd, roams: bool) -> Result<(Dir, Identity, i32), Outcome> {
    if !work.wanted {
        return Err(Outcome::Filtered);
    }
    let failed = |error: io::Error| match error.raw_os_error().unwrap_or(libc::EIO) {
        libc::ENOENT | libc::ENOTDIR | libc::ELOOP => Outcome::Vanished,
        code => Outcome::Failed(code),
    };
    let dir = match &work.above {
        Some(above) => above.open(&work.name, work.link),
        None => Dir::find(work.name.to_bytes()).and_then(|root| root.open(c".", true)),
    };
    let dir = dir.map_err(failed)?;
    let identity = dir.identity().map_err(failed)?;
    if !manner.cross_mounts && !work.link && work.device.is_some_and(|device| device != identity.device) {
        return Err(Outcome::Foreign);
    }
    let mask = manner.mask | Mask::ONLYDIR;
    let watched = match roams {
        true => dir
            .watch_from_within(inotify, mask)
            .or_else(|_| dir.watch(inotify, mask)),
        false => dir.watch(inotify, mask),
    };
    match watched {
        Ok(wd) => Ok((dir, identity, wd)),
        // It is open, so it is there: /proc is what is not.
        Err(error) => Err(Outcome::Failed(error.raw_os_error().unwrap_or(libc::EIO))),
    }
}

/// A directory that is being listed.
struct Listing<'a, 'b> {
    work: &'a Work,
    dir: &'a Arc<Dir>,
    identity: Identity,
    shared: &'a Shared<'b>,
    below: &'a mut Vec<Work>,
}

impl Listing<'_, '_> {
    fn read(&mut self, part: &mut Part, room: &mut [u8]) -> io::Result<()> {
        loop {
            let length = match self.dir.read(room) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                // Removed while it was open.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
                Err(error) => return Err(error),
            };
            let now = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            for entry in entries(&room[..length]) {
                self.take(entry.kind, entry.name, part, now);
            }
        }
    }

    fn take(&mut self, mut kind: Kind, name: &std::ffi::CStr, part: &mut Part, now: Duration) {
        let manner = self.shared.manner;
        let mut status = None;
        if kind == Kind::Unknown || manner.fingerprints && kind != Kind::Dir {
            match self.dir.status(name) {
                Ok(found) => {
                    kind = found.kind;
                    status = Some(found);
                }
                // Gone meanwhile, which an event says.
                Err(_) if kind == Kind::Unknown => return,
                Err(_) => {}
            }
        }
        let link = kind == Kind::Link && manner.follow_links;
        if kind != Kind::Dir && manner.names {
            let fingerprint = status.map_or(UNKNOWN, |status| fingerprint(&status, now));
            part.text.extend(fingerprint.to_ne_bytes());
            part.text.push(name.to_bytes().len() as u8);
            part.text.extend(name.to_bytes());
        }
        if kind == Kind::Dir || link {
            self.descend(name, link);
        }
    }

    fn descend(&mut self, name: &std::ffi::CStr, link: bool) {
        let mut relative = Vec::new();
        let mut wanted = true;
        if let Some(filter) = &self.shared.manner.filter {
            relative = join(&self.work.relative, name.to_bytes());
            wanted = filter(Path::new(OsStr::from_bytes(&relative)));
        }
        self.below.push(Work {
            number: self.shared.next.fetch_add(1, Ordering::Relaxed),
            wanted,
            above: Some(Arc::clone(self.dir)),
            parent: self.work.number,
            node: NONE,
            name: name.to_owned(),
            relative,
            link,
            shallow: false,
            device: Some(self.identity.device),
        });
    }
}

fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(above.len() + 1 + name.len());
    path.extend(above);
    if !above.is_empty() {
        path.push(b'/');
    }
    path.extend(name);
    path
}

/// What tells a file from its later self: inode, size and time of modification, in one number.
///
/// A file modified just now can be modified again without its time changing (the kernel's clock for files has ticks of up to
/// 10 ms), so nothing is known of it.
fn fingerprint(status: &Status, now: Duration) -> Fingerprint {
    const TICK: Duration = Duration::from_millis(20);
    let (seconds, nanoseconds) = status.modified;
    let modified = Duration::new(seconds.max(0).cast_unsigned(), nanoseconds.max(0) as u32);
    if modified + TICK > now {
        return UNKNOWN;
    }
    let parts = [
        status.identity.inode,
        status.size,
        seconds.cast_unsigned(),
        nanoseconds.cast_unsigned(),
    ];
    let mixed = parts.iter().fold(0_u64, |sum, part| {
        let mixed = (sum ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
    });
    mixed.max(UNKNOWN + 1)
}
