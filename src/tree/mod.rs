//! Recursive watching: a tree of directories as one stream of changes, each with the path it had when it happened.
//!
//! A layer on the same descriptor, buffers and reader thread as [`Inotify`](crate::Inotify), which knows nothing of it.
//!
//! `tracker` holds what the tree is and applies records to it; `jobs` says what a session looks at, `session` makes findings part
//! of it, `recovery` those after a loss; `links` knows what is reached in several ways; `nodes`, `files` and `texts` are its
//! memory; `roots` are where it begins, `inner_roots` those in another, `displaced` those that are not where they were; `swaps`
//! remembers renames that may be half of an exchange, `doubts` the names that are to be looked at for it. None of these makes a
//! system call, but `roots` and `displaced` to find out where a path leads. `crawl`, `look` and `above` look at the disk,
//! `worker` drives both, `ahead` and `halves` find the halves of renames in what was `read`, `marks` sets markers, `settled` says
//! when the tree is open and when a barrier passes, `awaited` hears of roots that are missing, `mounts` notices what is mounted,
//! of which `herald` tells it; `batch`, `change`, `outlet` and `stream` are the way to the consumer.

mod above;
mod ahead;
mod awaited;
mod batch;
#[cfg(test)]
mod bounds;
mod builder;
mod change;
mod coverage;
mod crawl;
mod displaced;
mod doubts;
#[cfg(test)]
mod fed;
#[cfg(test)]
mod fed_looks;
#[cfg(test)]
mod fed_roots;
mod figures;
mod files;
mod found;
mod halves;
#[cfg(any(test, fuzzing))]
mod harness;
mod herald;
mod inner_roots;
mod jobs;
mod links;
mod look;
mod marks;
mod mounts;
mod nodes;
mod outlet;
mod read;
mod recovery;
mod renames;
mod roots;
mod session;
mod settled;
#[cfg(any(test, fuzzing))]
pub(crate) mod simulated;
mod spill;
mod stream;
mod survey;
mod swaps;
mod texts;
mod tracker;
mod worker;

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

pub use self::batch::{Changes, TreeBatch};
pub use self::builder::{Cancel, TreeBuilder};
pub use self::change::{Change, Origin, OwnedChange};
pub use self::figures::{Progress, TreeStats, Uncovered};
pub use self::recovery::Recovery;
pub use self::stream::TreeStream;

use self::crawl::Counts;
#[cfg(any(test, fuzzing))]
pub(crate) use self::harness::confuse;
use self::marks::Marks;
use self::outlet::Outlet;
#[cfg(loom)]
pub(crate) use self::outlet::a_tree_waits_for_room;
use self::tracker::Tracker;
use self::worker::{Shared, Worker};
use crate::backend::BackendReport;
use crate::barrier::Barrier;
use crate::causes::marker_error;
use crate::error::{Error, ErrorKind, Result};
use crate::stats::Stats;
use crate::stream::attach;
use crate::sys::dir::own_working_directory;
use crate::sys::rlimit;
use crate::sys::thread::spawn_without_signals;

/// A directory with all below it, watched as one.
///
/// A relative path of a root, also of one that is [added](Self::add_root) later, begins in the directory in which the process
/// was when the tree was opened.
///
/// ```
/// use ringwatch::tree::Tree;
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path();
/// let tree = Tree::builder(path)
///     .filter(|dir| dir.file_name().is_none_or(|name| name != ".git"))
///     .open()?;
/// let mut changes = tree.stream()?;
/// std::fs::create_dir_all(path.join("a/b"))?;
/// std::fs::write(path.join("a/b/file"), "x")?;
/// let barrier = tree.barrier()?;
/// let mut seen = Vec::new();
/// 'all: for batch in changes.blocking() {
///     for change in &batch? {
///         if change.barrier() == Some(barrier) {
///             break 'all;
///         }
///         seen.extend(change.path());
///     }
/// }
/// assert!(seen.contains(&path.join("a/b/file")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # To know what is there
///
/// Take what is there when the tree is open, and then change by change. Where others change it meanwhile, let
/// [what exists be reported](TreeBuilder::report_existing) instead: else what was done just before `open` returned may be told
/// behind that too.
///
/// - `CREATE` and `MOVED_TO` put an entry in its place; with [`renamed_from`](Change::renamed_from), the one that was there, with all
///   below. `MOVED_TO` replaces what was in that place, with all below; what is below a `CREATE` was told of in a root that is there,
///   and stays. `DELETE` and `MOVED_FROM` take an entry away, with all below. What has no such bit changes no entry, and may be about
///   one that came and went before it was seen.
/// - Of a root that is [uncovered](Change::uncovered) nothing is known any more of what is below, also in roots that lie in it; nor,
///   if that is said without [`ISDIR`](crate::Mask::ISDIR), whether there is something itself. Anything else is reported as gone and
///   made first.
/// - Where a root ends, what is in no other that wants it is not told of any more.
///
/// With that, behind a [`barrier`](Self::barrier) that is set once nothing happens any more, all entries are those on the disk; behind
/// an overflow with [`Recovery::Diff`], or if everything is looked at again with [`Recovery::Mark`].
///
/// # What can't be covered
///
/// A directory that can't be watched or listed is said in the stream where that is found, [listed](Tree::uncovered) with what
/// mends it, and its siblings are covered. One that is watched is listed too if it has an entry in doubt and may not be
/// searched. It is tried again by itself when permissions change on the way to it (for a root, the next directory above it is
/// watched meanwhile; if that can't be, the root is tried five times a second), or it is renamed, and if it was
/// the limit of watches, when directories of this tree go; after anything else, such as a limit that was raised, on
/// [request](Tree::retry_uncovered).
///
/// # What the kernel does not tell
///
/// - That a directory *above* a root was renamed. Changes are reported under the old path as long as no directory is to be
///   looked at; one that is, is said to be uncovered, as its path leads elsewhere. Add the root again under its present path.
/// - That a root was deleted, as long as somebody holds it open, or something that was in it: it is told when that is let go. Until
///   then [`retry_uncovered`](Self::retry_uncovered) finds out, and what is under that path now.
///
/// # Mounts
///
/// inotify does not tell that a file system is mounted over a watched directory. The kernel's table of mounts does
/// (`/proc/thread-self/mountinfo`), and so the tree notices by itself, at the latest in front of a [`barrier`](Self::barrier)
/// that is set behind it. The directory is reported as gone and made again, and is covered as it is now if mounts are
/// [crossed](TreeBuilder::cross_mounts); else it is said to be uncovered. Of a root it is said that it is gone. What is
/// unmounted is reported as [`UNMOUNT`](crate::Mask::UNMOUNT), and what it hid is found. Where that table can't be read, an
/// unmount under mounts that are not crossed is seen on [request](Tree::retry_uncovered), and a mount when the directory is
/// looked at for another reason. What is mounted over a single file is not heard of,
/// and of a mounted directory that could not be covered not that its permissions have changed: that is on request.
///
/// # The end
///
/// It is closed when it and its stream are dropped, or by [`close`](Self::close). It ends too if it can't be read any more, or
/// its thread panics: the stream says why. Either way, what is asked of it from then on is answered with
/// [`Closed`](ErrorKind::Closed), and never waited for.
///
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tree {
    owner: Arc<Owner>,
}

/// Closes the tree when the last handle and the stream are gone.
pub(crate) struct Owner {
    shared: Arc<Shared>,
    worker: Thread,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Owner {
    fn close(&self) {
        // In a child of `fork` there is no such thread.
        if self.shared.core.is_here() {
            self.shared.core.close();
            self.worker.unpark();
        }
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree")
            .field("instance", &self.shared.core.instance)
            .finish_non_exhaustive()
    }
}

impl Tree {
    /// Settings for a tree below `path`.
    pub fn builder(path: impl AsRef<Path>) -> TreeBuilder {
        TreeBuilder::new(path.as_ref())
    }

    /// A tree with the default settings.
    ///
    /// # Errors
    /// As [`TreeBuilder::open`].
    pub fn new(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder(path).open()
    }

    fn open(builder: TreeBuilder) -> Result<Self> {
        const OPERATION: &str = "open tree";
        let core = Arc::new(builder.instance.clone().core()?);
        let inotify = core.table.fd(OPERATION)?;
        let marks = Marks::new(inotify).map_err(|cause| marker_error(&cause))?;
        attach(&core)?;
        let shared = Arc::new(Shared {
            outlet: Outlet::new(builder.buffers),
            marks,
            commands: Mutex::default(),
            counts: Counts {
                cancelled: Arc::clone(&builder.cancel.0),
                ..Counts::default()
            },
            figures: figures::Figures::default(),
            core,
        });
        let (ready, opened) = sync_channel(1);
        let progress = builder.progress.clone();
        let body = Arc::clone(&shared);
        let started = spawn_without_signals("ringwatch-tree", move || {
            // From where relative paths begin, also if the process goes elsewhere. Where that is denied, it should not.
            let _ = own_working_directory();
            work(&builder, body, &ready);
        });
        let started = started.map_err(|cause| {
            shared.core.close();
            Error::os(ErrorKind::Other, OPERATION, &cause).mended_by(rlimit::threads())
        })?;
        let worker = started.thread().clone();
        let tree = Self {
            owner: Arc::new(Owner { shared, worker }),
        };
        let failed = || Error::text(ErrorKind::ReaderFailed, OPERATION, "the tree's thread has failed");
        let begun = Instant::now();
        let outcome = loop {
            match opened.recv_timeout(Duration::from_millis(100)) {
                Ok(outcome) => break outcome,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break Err(failed()),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            }
            if let Some(tell) = &progress {
                tell(&builder::progress(&tree.owner.shared.counts, begun.elapsed()));
            }
        };
        if let Some(tell) = &progress {
            tell(&builder::progress(&tree.owner.shared.counts, begun.elapsed()));
        }
        outcome.map(|()| tree)
    }

    /// The changes, as a stream of batches.
    ///
    /// # Errors
    /// [`AlreadyReading`](ErrorKind::AlreadyReading) while another stream of this tree is alive.
    pub fn stream(&self) -> Result<TreeStream> {
        TreeStream::new(Arc::clone(&self.owner))
    }

    /// Sets a mark in the stream: a change whose [`barrier`](Change::barrier) equals it, behind everything that happened
    /// before the call, what is found by looking included. So what was made in a new directory comes before it. Changes
    /// from after the call may come before it too, while something is being looked at; it waits as long as that is renamed or
    /// replaced again and again. While the queue overflows again and again, it comes when everything was looked at four times.
    ///
    /// # Errors
    /// As [`Inotify::barrier`](crate::Inotify::barrier); [`Closed`](ErrorKind::Closed) also once the tree has ended by a failure.
    pub fn barrier(&self) -> Result<Barrier> {
        let shared = &self.owner.shared;
        shared.core.check_home("set barrier")?;
        shared.check_open("set barrier")?;
        let number = shared.marks.barrier().map_err(|cause| marker_error(&cause))?;
        Ok(Barrier {
            instance: shared.core.instance,
            number,
        })
    }

    /// Has the worker do something, and waits for what comes of it.
    fn ask<T: Send + 'static>(
        &self,
        operation: &'static str,
        question: impl FnOnce(&mut Worker) -> T + Send + 'static,
    ) -> Result<T> {
        let shared = &self.owner.shared;
        shared.core.check_home(operation)?;
        let (tell, told) = sync_channel(1);
        let command = Box::new(move |worker: &mut Worker| {
            // Whoever asked may have gone.
            let _ = tell.send(question(worker));
        });
        shared.command(operation, command)?;
        self.owner.worker.unpark();
        // It ended meanwhile, perhaps by this question.
        told.recv().map_err(|_| {
            let ended = shared.check_open(operation).err();
            ended.unwrap_or_else(|| Error::closed(operation))
        })
    }

    /// The roots, as they were given. Empty once the tree has ended.
    pub fn roots(&self) -> Vec<PathBuf> {
        let roots = self.ask("list roots", |worker| worker.tracker.roots.clone());
        let path = |root: roots::Root| PathBuf::from(OsString::from_vec(root.path));
        roots.unwrap_or_default().into_iter().map(path).collect()
    }

    /// One more root, while the tree is running. What is there is reported as [`Origin::Scan`], in front of a
    /// [`barrier`](Self::barrier) that is set behind this; and so is why it can't be covered, if it can't.
    ///
    /// A link to a file is that file, [as for the builder](TreeBuilder::root).
    ///
    /// A root that lies in another is covered there, and its changes are reported once, behind that of its own directory. If
    /// the other is added later, what is in the one that was there is not reported again, unless it has other paths there: then
    /// the one is said to be watched under another path, or to be gone if it is not where it was, and what is in it is reported in
    /// the other. A root that is a file is then said to be told of in the other, and reported there once more, since nobody hears
    /// what happens to it meanwhile. One that is there already is looked at again if it is not covered.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed); [`InvalidInput`](ErrorKind::InvalidInput) if the path is longer than 64 KiB,
    /// [`OutOfMemory`](ErrorKind::OutOfMemory) if the names of all directories take 4 GiB.
    pub fn add_root(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = builder::plain(path.as_ref());
        self.ask("add root", move |worker| worker.tracker.add_root(path))?
    }

    /// Ends a root, with all below. Changes that were read are still delivered; what lies in another root goes on. If it is not
    /// covered there, it is reported as gone and made again, since what was in it is not known any more, or, if the other has not told
    /// of it yet, said to be [uncovered](Change::uncovered) with [`Cancelled`](ErrorKind::Cancelled). So is a root in this one that
    /// does not go on as it is: what there is of it is then reported.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if it is none, [`Closed`](ErrorKind::Closed).
    pub fn remove_root(&self, path: impl AsRef<Path>) -> Result<()> {
        let plain = builder::plain(path.as_ref());
        match self.ask("remove root", move |worker| worker.remove_root(&plain))? {
            true => Ok(()),
            false => {
                let error = Error::text(ErrorKind::NotFound, "remove root", "it is no root of this tree");
                Err(error.at(path.as_ref()))
            }
        }
    }

    /// Asks the filter again for all directories, because it answers otherwise than before. What is not wanted any more is
    /// reported as gone but for the directory itself; what is wanted now is looked at and reported.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed).
    pub fn refilter(&self) -> Result<()> {
        self.ask("ask the filter again", Worker::refilter)
    }

    /// The directories that are not covered, and roots that are files and are not, and why. Empty once the tree has ended.
    pub fn uncovered(&self) -> Vec<Uncovered> {
        let uncovered = self.ask("list uncovered directories", |worker| worker.tracker.all_uncovered());
        uncovered.unwrap_or_default()
    }

    /// Tries again to cover what is not covered, roots included to whose directories their paths lead no more. What comes of it is
    /// told in the stream: what is there, or once more why not.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed).
    pub fn retry_uncovered(&self) -> Result<()> {
        self.ask("retry uncovered directories", Worker::retry_uncovered)
    }

    /// Which backend reads the events, and why not the better one.
    pub fn backend(&self) -> BackendReport {
        self.owner.shared.core.report()
    }

    /// How things stand.
    pub fn stats(&self) -> TreeStats {
        let shared = &self.owner.shared;
        if !shared.core.is_here() {
            return TreeStats::default();
        }
        let figures = &shared.figures;
        let read = |figure: &std::sync::atomic::AtomicUsize| figure.load(Ordering::Relaxed);
        let directories = read(&figures.directories);
        TreeStats {
            instance: Stats {
                watches: directories,
                ..shared.core.stats()
            },
            directories,
            files: read(&figures.files),
            uncovered: read(&figures.uncovered),
            releasing: read(&figures.releasing),
            sessions: read(&figures.sessions),
            memory: read(&figures.memory),
            name_memory: read(&figures.name_memory),
        }
    }

    #[cfg(test)]
    pub(crate) fn feed(&self) -> &crate::queue::Feed {
        &self.owner.shared.core.feed
    }

    /// Ends the tree, for every handle: its stream delivers what was already read and then nothing more.
    pub fn close(&self) {
        self.owner.close();
    }
}

/// However the worker ends, nobody waits for it.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end(None);
    }
}

/// The body of the worker's thread.
fn work(builder: &TreeBuilder, shared: Arc<Shared>, ready: &SyncSender<Result<()>>) {
    let compares = builder.recovery == Recovery::Diff;
    let _ended = Ended(Arc::clone(&shared));
    let begin = || -> Result<Worker> {
        let inotify = shared.core.table.fd("open tree")?;
        let mut tracker = Tracker::new(builder.manner(), builder.mask, compares);
        tracker.silent = !builder.list;
        tracker.awaits = builder.await_missing;
        for path in builder.root_paths() {
            tracker.add_root(path)?;
        }
        Ok(Worker::new(Arc::clone(&shared), inotify, tracker, compares))
    };
    let mut worker = match begin() {
        Ok(worker) => worker,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let told = OnceLock::new();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        worker.run(true);
        worker.publish();
        let opened = worker.opened_well(builder.await_missing);
        let well = opened.is_ok();
        let _ = (ready.send(opened), told.set(()));
        if well {
            worker.run(false);
        }
    }));
    let error = ended.err().map(|panic| {
        let message = panic.downcast_ref::<&str>().copied();
        let message = message.or(panic.downcast_ref::<String>().map(String::as_str));
        let cause = format!("the tree's thread panicked: {}", message.unwrap_or("?"));
        Error::text(ErrorKind::ReaderFailed, "watch tree", cause)
    });
    worker.finish(error);
}
