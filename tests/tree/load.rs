//! What is done while there never is a pause.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use ringwatch::tree::Tree;
use tempfile::tempdir;

use crate::model::{Watched, opened};
use crate::scenarios::assert_watched_exactly;
use crate::support::kernel::{inode, inodes_watched_with};
use crate::support::pause;

/// Directories that are made and go in turn, so that there always is one more to hear of: each is made while the tree is at
/// work on another, which asks for it, and is in its memory before that goes on.
struct Load {
    root: PathBuf,
    tree: OnceLock<Tree>,
    ended: AtomicBool,
    steps: AtomicUsize,
}

/// Directories that are there at a time.
const AT_ONCE: usize = 4;

impl Load {
    fn dir(&self, number: usize) -> PathBuf {
        self.root.join(format!("load-{number}"))
    }

    fn begin(&self) {
        (0..AT_ONCE).for_each(|number| fs::create_dir(self.dir(number)).expect("a directory"));
    }

    /// Whether the tree is to cover a directory.
    fn step(&self, dir: &Path) -> bool {
        let name = dir.to_str().expect("a name in UTF-8");
        let Some(number) = name.strip_prefix("load-") else {
            return true;
        };
        let number: usize = number.parse().expect("a number");
        let tree = self.tree.get().expect("it is open");
        let reads = tree.stats().instance.reads;
        fs::remove_dir(self.dir(number)).expect("it is there");
        if !self.ended.load(Ordering::Acquire) {
            fs::create_dir(self.dir(number + AT_ONCE)).expect("a directory");
            self.steps.fetch_add(1, Ordering::AcqRel);
            // Unless the memory is full.
            for _ in 0..50 {
                if tree.stats().instance.reads > reads {
                    break;
                }
                pause();
            }
        }
        false
    }

    /// Waits for something that is to happen while so much else does.
    fn wait_until(&self, what: &str, condition: impl Fn(&Tree) -> bool) {
        const MOST_STEPS: usize = 5_000;
        let begun = self.steps.load(Ordering::Acquire);
        loop {
            // Before it is asked, or it might be this thread that is late.
            let steps = self.steps.load(Ordering::Acquire) - begun;
            if condition(self.tree.get().expect("it is open")) {
                break;
            }
            assert!(steps < MOST_STEPS, "{what} does not happen");
            pause();
        }
        assert!(!self.ended.load(Ordering::Acquire));
    }
}

#[test]
fn under_load_what_has_left_is_let_go_and_what_is_new_is_covered() {
    let dir = tempdir().unwrap();
    let load = Arc::new(Load {
        root: dir.path().join("root"),
        tree: OnceLock::new(),
        ended: AtomicBool::new(false),
        steps: AtomicUsize::new(0),
    });
    let root = &load.root;
    fs::create_dir_all(root.join("leaves/deep")).unwrap();
    let asked = Arc::clone(&load);
    let builder = Tree::builder(root).filter(move |dir| asked.step(dir));
    let tree = opened(builder.batch_window(Duration::ZERO));
    let mut stream = tree.stream().unwrap();
    let tree = load.tree.get_or_init(|| tree);
    let inodes = ["leaves", "leaves/deep"].map(|path| inode(&root.join(path)));
    let is_watched = |inode: &u64| inodes_watched_with(root).contains(inode);
    assert!(inodes.iter().all(is_watched));
    load.begin();
    thread::scope(|scope| {
        let consumer = scope.spawn(|| {
            while let Some(batch) = stream.wait() {
                assert!(!batch.expect("it goes on").overflowed());
            }
        });
        let ended = End(&load);
        for round in 0..3 {
            fs::rename(root.join("leaves"), dir.path().join("gone")).unwrap();
            load.wait_until("it leaves", |_| !inodes.iter().any(is_watched));
            load.wait_until("nothing is to be let go", |tree| tree.stats().releasing == 0);
            let new = root.join(format!("new-{round}"));
            fs::create_dir(&new).unwrap();
            load.wait_until("it is covered", |_| is_watched(&inode(&new)));
            fs::rename(dir.path().join("gone"), root.join("leaves")).unwrap();
            load.wait_until("it comes back", |_| inodes.iter().all(is_watched));
        }
        drop(ended);
        tree.close();
        consumer.join().expect("no panic");
    });
}

/// However it goes, the load ends, and so does the tree.
struct End<'a>(&'a Load);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.tree.get().expect("it is open").close();
    }
}

/// What a session has found, and an event says is gone, is no reason to look once more before a barrier passes.
#[test]
fn barriers_pass_while_directories_come_and_go_everywhere() {
    const THREADS: usize = 4;
    let dir = tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let mut watched = Watched::new(Tree::new(&root).unwrap());
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (root, ended) = (&root, &ended);
            scope.spawn(move || {
                for number in 0.. {
                    let dir = root.join(format!("{thread}-{}", number % 5));
                    fs::create_dir_all(dir.join("below")).unwrap();
                    fs::write(dir.join("below/file"), "").unwrap();
                    fs::remove_dir_all(dir).unwrap();
                    if ended.load(Ordering::Acquire) {
                        break;
                    }
                }
            });
        }
        let passed = catch_unwind(AssertUnwindSafe(|| (0..20).for_each(|_| drop(watched.changes()))));
        ended.store(true, Ordering::Release);
        passed.unwrap_or_else(|panic| resume_unwind(panic));
    });
    watched.changes();
    watched.settle();
    assert_watched_exactly(&root);
}
