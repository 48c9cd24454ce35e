//! While a tree is opened, it is told how far that is, and it can be ended.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use ringwatch::tree::{Cancel, Progress, Tree};
use ringwatch::{ErrorKind, Mask};
use tempfile::tempdir;

use crate::model::{Watched, opened};
use crate::scenarios::{assert_watched_exactly, paths};
use crate::support::child::{in_child, without_capabilities};
use crate::support::process::Has;
use crate::support::{PATIENCE, kernel, wait_until};

#[test]
fn opening_can_be_cancelled_and_tells_how_far_it_is() {
    let dir = tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    let cancel = Cancel::new();
    let seen = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&seen);
    let tree = Tree::builder(dir.path()).on_progress(move |progress| *tell.lock().unwrap() = Some(*progress));
    tree.open().unwrap();
    assert_eq!(seen.lock().unwrap().unwrap().watches, 3);
    let stopping = cancel.clone();
    let tree = Tree::builder(dir.path()).cancel(&cancel).filter(move |_| {
        stopping.cancel();
        true
    });
    assert_eq!(tree.open().unwrap_err().kind(), ErrorKind::Cancelled);
}

/// What was told, and on which threads.
#[derive(Default)]
struct Told {
    progress: Mutex<Vec<Progress>>,
    telling: Mutex<HashSet<ThreadId>>,
    asking: Mutex<HashSet<ThreadId>>,
}

impl Told {
    fn tell(&self, progress: &Progress) {
        self.progress.lock().unwrap().push(*progress);
        self.telling.lock().unwrap().insert(thread::current().id());
    }

    /// How many directories had been looked at when it was told last.
    fn directories(&self) -> Option<usize> {
        Some(self.progress.lock().unwrap().last()?.directories)
    }
}

#[test]
fn progress_is_told_while_directories_are_looked_at() {
    let dir = tempdir().unwrap();
    let locked = dir.path().join("locked");
    fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
    fs::create_dir(&locked).unwrap();
    let mode = |mode| fs::set_permissions(&locked, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o000);
    let told = Arc::new(Told::default());
    let (telling, asking) = (Arc::clone(&told), Arc::clone(&told));
    let early = Mutex::new(None);
    // It does not answer before it was told, and the next time not before more than that was told.
    let builder = Tree::builder(dir.path())
        .on_progress(move |progress| telling.tell(progress))
        .filter(move |dir| {
            asking.asking.lock().unwrap().insert(thread::current().id());
            if dir == Path::new("a/b") {
                wait_until(|| asking.directories().is_some());
                *early.lock().unwrap() = asking.directories();
            } else if dir == Path::new("a/b/c") {
                wait_until(|| asking.directories() > *early.lock().unwrap());
            }
            true
        });
    let (tree, opener) = without_capabilities(|| (opened(builder), thread::current().id()));
    assert_eq!(tree.uncovered().len(), 1);
    let progress = told.progress.lock().unwrap();
    let last = progress.last().unwrap();
    assert_eq!((last.directories, last.watches, last.errors), (5, 4, 1));
    assert_eq!(*told.telling.lock().unwrap(), HashSet::from([opener]));
    assert!(!told.asking.lock().unwrap().contains(&opener));
    let grows = |figure: fn(&Progress) -> usize| progress.is_sorted_by_key(figure);
    assert!(grows(|told| told.directories) && grows(|told| told.watches) && grows(|told| told.errors));
    assert!(progress.is_sorted_by_key(|told| told.elapsed) && progress[0].elapsed < last.elapsed);
    mode(0o755);
}

#[test]
fn opening_that_another_thread_cancels_ends_and_leaves_nothing() {
    const DEEP: usize = 300;
    const CANCELLED_AT: usize = 10;
    in_child(
        "opening::opening_that_another_thread_cancels_ends_and_leaves_nothing",
        |_| (),
        || {
            let dir = tempdir().unwrap();
            let deep = (0..DEEP).map(|_| "d").collect::<PathBuf>();
            fs::create_dir_all(dir.path().join(deep)).unwrap();
            let before = Has::now();
            let cancel = Cancel::new();
            // Directories that the filter was asked for, and whether it may go on.
            let asked = Arc::new((AtomicUsize::new(0), Mutex::new(false)));
            let asking = Arc::clone(&asked);
            let builder = Tree::builder(dir.path()).cancel(&cancel).filter(move |_| {
                if asking.0.fetch_add(1, Ordering::AcqRel) == CANCELLED_AT {
                    wait_until(|| *asking.1.lock().unwrap());
                }
                true
            });
            let outcome = thread::scope(|scope| {
                let opening = scope.spawn(|| builder.open());
                wait_until(|| asked.0.load(Ordering::Acquire) > CANCELLED_AT);
                let watched = kernel::all_watched_with(dir.path());
                assert!(watched.len() > CANCELLED_AT, "it is amid: {watched:?}");
                cancel.cancel();
                *asked.1.lock().unwrap() = true;
                opening.join().unwrap()
            });
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Cancelled);
            assert!(asked.0.load(Ordering::Acquire) < DEEP, "it went on to the end");
            before.wait_until_no_more("a tree that was not opened");
            assert!(kernel::all_watched_with(dir.path()).is_empty());
        },
    );
}

#[test]
fn a_tree_that_is_open_is_not_cancelled_any_more() {
    let dir = tempdir().unwrap();
    let cancel = Cancel::new();
    let mut watched = Watched::open(Tree::builder(dir.path()).cancel(&cancel));
    cancel.cancel();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/file"), "").unwrap();
    let made = ["a", "a/b", "a/b/file"].map(|path| dir.path().join(path));
    assert_eq!(paths(&watched.changes(), Mask::CREATE), made);
    assert_watched_exactly(dir.path());
}

/// Many directories, so that several threads look at them, and a filter that panics at one.
fn panicking(dir: &Path, when: impl Fn(&Path) -> bool + Send + Sync + 'static) -> Result<Tree, ringwatch::Error> {
    (0..200).for_each(|number| fs::create_dir_all(dir.join(format!("{number}/a"))).unwrap());
    let builder = Tree::builder(dir).filter(move |path| {
        assert!(!when(path), "the filter does not like it");
        true
    });
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || tell.send(builder.open()));
    told.recv_timeout(PATIENCE).expect("it returns")
}

#[test]
fn a_filter_that_panics_ends_the_tree_and_that_is_said() {
    let dir = tempdir().unwrap();
    let error = panicking(dir.path(), |path| path.ends_with("100/a")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReaderFailed);
    let tree = panicking(dir.path(), |path| path.ends_with("new/100")).unwrap();
    let mut stream = tree.stream().unwrap();
    (0..200).for_each(|number| fs::create_dir_all(dir.path().join(format!("new/{number}/a"))).unwrap());
    let error = loop {
        match stream.wait_timeout(PATIENCE) {
            Err(error) => break error,
            Ok(batch) => assert!(batch.is_some(), "nothing was said"),
        }
    };
    assert_eq!(error.kind(), ErrorKind::ReaderFailed);
}
