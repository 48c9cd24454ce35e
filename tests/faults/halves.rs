//! The ways to read, and what was seen through them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use ringwatch::tree::{Recovery, Tree, TreeStream};
use ringwatch::{Backend, ErrorKind, EventBatch, EventStream, Inotify, Mask, Reader, ReaderStream, Result, Watch};
use tokio::runtime::Runtime;

use crate::support::exchange::exchange;

pub(crate) enum Half {
    Stream(Inotify, Watch, EventStream),
    Reader(Inotify, Watch, Reader),
    /// In an event loop of one's own.
    Shown(Inotify, Watch, Reader),
    Tokio(Inotify, Watch, Box<ReaderStream>, &'static Runtime),
    Tree(Tree, TreeStream, PathBuf),
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    names: Vec<String>,
    /// A loss was said, or a directory that is not covered.
    pub(crate) said: bool,
}

impl Seen {
    /// Whether all files were, in order, and each once; or else a loss was said.
    pub(crate) fn complete(&self, files: usize) -> std::result::Result<(), String> {
        let all = self
            .names
            .iter()
            .eq((0..files).map(|number| number.to_string()).collect::<Vec<_>>().iter());
        match all || self.said {
            true => Ok(()),
            false => Err(format!("{:?}", self.names)),
        }
    }
}

/// One that is never dropped: its own calls are not looked at.
pub(crate) fn runtime() -> &'static Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Box::leak(Box::new(runtime.expect("a runtime")))
}

impl Half {
    pub(crate) fn new(name: &str, backend: Backend, dir: &Path, runtime: &'static Runtime) -> Result<Self> {
        if name == "tree" {
            let builder = Tree::builder(dir).backend(backend).recovery(Recovery::Diff);
            let tree = builder.follow_symlinks(true).cross_mounts(true).open()?;
            let stream = tree.stream()?;
            return Ok(Self::Tree(tree, stream, dir.to_owned()));
        }
        let mut builder = Inotify::builder().backend(backend);
        if name == "tokio" && backend == Backend::Epoll {
            builder = builder.batch_window(Duration::ZERO);
        }
        let inotify = builder.build()?;
        let watch = inotify.add_watch(dir, Mask::CREATE)?;
        Ok(match name {
            "stream" => {
                let stream = inotify.stream()?;
                Self::Stream(inotify, watch, stream)
            }
            "reader" => {
                let reader = inotify.reader()?;
                Self::Reader(inotify, watch, reader)
            }
            "shown" => {
                let reader = inotify.reader()?;
                Self::Shown(inotify, watch, reader)
            }
            _ => {
                let _entered = runtime.enter();
                let stream = inotify.reader()?.into_stream()?;
                Self::Tokio(inotify, watch, Box::new(stream), runtime)
            }
        })
    }

    /// Reads until the last of so many files.
    pub(crate) fn read(&mut self, files: usize, progress: &AtomicUsize) -> Result<Seen> {
        let mut seen = Seen::default();
        if let Self::Tree(tree, stream, dir) = self {
            return read_tree(tree, stream, dir, files, progress);
        }
        let last = (files - 1).to_string();
        while seen.names.last() != Some(&last) {
            let batch = self.wait().expect("an end without a reason")?;
            seen.said |= batch.overflowed();
            let names = batch.iter().filter_map(|event| number(event.name()?));
            seen.names.extend(names);
            progress.store(seen.names.len(), Ordering::SeqCst);
        }
        let (inotify, watch) = match self {
            Self::Stream(inotify, watch, _)
            | Self::Reader(inotify, watch, _)
            | Self::Shown(inotify, watch, _)
            | Self::Tokio(inotify, watch, ..) => (inotify.clone(), watch.clone()),
            Self::Tree(..) => return Ok(seen),
        };
        // A mark, and the end of the watch, each of which must come.
        let barrier = inotify.barrier()?;
        inotify.rm_watch(&watch)?;
        inotify.stats();
        let (mut marked, mut ended) = (false, false);
        while !(marked && ended) {
            let batch = self.wait().expect("an end without a reason")?;
            marked |= batch.iter().any(|event| event.barrier() == Some(barrier));
            ended |= batch.iter().any(|event| event.mask().contains(Mask::IGNORED));
        }
        inotify.close();
        // What had failed before is told, and then it ends.
        self.wait().transpose()?;
        assert!(self.wait().is_none(), "it goes on behind the end");
        Ok(seen)
    }

    fn wait(&mut self) -> Option<Result<EventBatch>> {
        match self {
            Self::Stream(_, _, stream) => stream.wait(),
            Self::Reader(_, _, reader) => reader.wait(),
            Self::Shown(_, _, reader) => loop {
                match reader.try_next() {
                    Ok(Some(batch)) => return Some(Ok(batch)),
                    Ok(None) => until_readable(reader),
                    Err(error) if error.kind() == ErrorKind::Closed => return None,
                    Err(error) => return Some(Err(error)),
                }
            },
            Self::Tokio(_, _, stream, runtime) => runtime.block_on(stream.next()),
            Self::Tree(..) => None,
        }
    }
}

/// Made on the way, for a tree to look into: two directories and a file.
const BELOW: [&str; 3] = ["sub", "sub/deep", "sub/deep/file"];

pub(crate) fn make_below(dir: &Path) {
    fs::create_dir_all(dir.join(BELOW[1])).expect("directories");
    fs::write(dir.join(BELOW[2]), "").expect("a file");
}

/// Directories that are there before anything is watched: two that are exchanged, one that is renamed, to what comes last, and
/// one that leaves.
const THERE: [&str; 4] = ["one", "other", "old", "away"];
const NEW: &str = "new";

/// Made in those that are where they have not been before.
const LATE: [&str; 3] = ["one/late", "other/late", "new/late"];

pub(crate) fn prepare(dir: &Path) {
    for name in THERE {
        fs::create_dir_all(dir.join(name).join("below")).expect("a directory");
    }
}

pub(crate) fn move_about(dir: &Path) {
    let [one, other, old, away] = THERE.map(|name| dir.join(name));
    exchange(&one, &other).expect("an exchange");
    fs::rename(old, dir.join(NEW)).expect("a rename");
    let outside = dir.with_extension("outside");
    fs::rename(away, &outside).expect("a rename");
    fs::remove_dir_all(outside).expect("a directory less");
    LATE.iter()
        .for_each(|file| fs::write(dir.join(file), "").expect("a file"));
}

/// The name of one of the numbered files.
fn number(name: &OsStr) -> Option<String> {
    let name = name.to_str()?;
    name.parse::<usize>().is_ok().then(|| name.to_owned())
}

/// With a call that the library does not make, so that its faults are not ours.
fn until_readable(reader: &Reader) {
    let mut readable: libc::fd_set = {
        // SAFETY: an all-zero set is an empty one.
        unsafe { std::mem::zeroed() }
    };
    let fd = reader.as_raw_fd();
    // SAFETY: the descriptor is below the size of a set, and the set lives through the call.
    unsafe { libc::FD_SET(fd, &raw mut readable) };
    let none = std::ptr::null_mut();
    // SAFETY: the set lives through the call, and the other pointers may be null.
    unsafe { libc::select(fd + 1, &raw mut readable, none, none, none.cast()) };
}

fn read_tree(tree: &Tree, stream: &mut TreeStream, dir: &Path, files: usize, progress: &AtomicUsize) -> Result<Seen> {
    // What could not be covered when it was opened is listed.
    let said = !tree.uncovered().is_empty();
    let mut seen = Seen {
        said,
        ..Seen::default()
    };
    let last = dir.join((files - 1).to_string());
    let (mut through, mut below) = (false, 0);
    let mut late: BTreeSet<PathBuf> = LATE.iter().map(|file| dir.join(file)).collect();
    while !through {
        let batch = stream.wait().expect("an end without a reason")?;
        for change in &batch {
            seen.said |= change.is_overflow() || change.uncovered().is_some();
            let Some(path) = change.path() else { continue };
            if path == dir && change.uncovered().is_some() {
                // Of the root itself nothing is told any more, which is said with this.
                return Ok(seen);
            }
            through |= path == last;
            if change.mask().contains(Mask::CREATE) {
                late.remove(&path);
                seen.names.extend(path.file_name().and_then(number));
                below += usize::from(path.starts_with(dir.join(BELOW[0])));
            }
        }
        // Behind a loss some may not be told.
        let told = if seen.said { files } else { seen.names.len() };
        progress.store(told, Ordering::SeqCst);
    }
    let barrier = match tree.barrier() {
        // It has ended just now. What by, the stream says.
        Err(error) if error.kind() == ErrorKind::Closed => {
            let cause = stream
                .blocking()
                .find_map(Result::err)
                .expect("an end without a reason");
            assert!(
                error.to_string().contains(&cause.to_string()),
                "{error}, and not {cause}"
            );
            return Err(cause);
        }
        barrier => barrier?,
    };
    let mut marked = false;
    while !marked {
        for change in &stream.wait().expect("an end without a reason")? {
            marked |= change.barrier() == Some(barrier);
            seen.said |= change.is_overflow() || change.uncovered().is_some();
            let Some(path) = change.path().filter(|_| change.mask().contains(Mask::CREATE)) else {
                continue;
            };
            late.remove(&path);
            below += usize::from(path.starts_with(dir.join(BELOW[0])));
        }
    }
    assert!(
        seen.said || below == BELOW.len(),
        "{below} of what is in new directories"
    );
    assert!(seen.said || late.is_empty(), "not heard of: {late:?}");
    Ok(seen)
}
