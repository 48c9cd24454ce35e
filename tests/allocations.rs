//! In steady state, no allocation: not for an event, not for a batch, on no thread. A tree makes one for a batch, which is what
//! its buffer is shared by, and none for a change.
//!
//! One test, so that nothing else in the process allocates.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use ringwatch::tree::{Tree, TreeBatch};
use ringwatch::{EventBatch, Mask, Result};
use support::{Flood, backends, often};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// The first thread, if it is not the one that tests: after a minute it says that the test is slow, for which it allocates.
static NOT_COUNTED: AtomicI32 = AtomicI32::new(0);

fn this_thread() -> i32 {
    // SAFETY: no pointers are passed.
    unsafe { libc::gettid() }
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if this_thread() != NOT_COUNTED.load(Ordering::Relaxed) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Causes events and takes them, round after round. Answers how many allocations that took after the first rounds.
fn rounds(flood: &mut Flood, mut next: impl FnMut() -> Option<Result<EventBatch>>) -> usize {
    let mut path = PathBuf::with_capacity(4_096);
    let mut before = 0;
    let rounds = often(200);
    for round in 0..rounds {
        if round == rounds / 4 {
            before = ALLOCATIONS.load(Ordering::Relaxed);
        }
        for events in [1, 700] {
            flood.cause(events);
            let mut seen = 0;
            while seen < events {
                for event in &next().expect("it goes on").expect("a batch") {
                    assert!(event.mask() == Mask::MODIFY && event.name().is_some());
                    assert!(event.watch().is_some() && event.write_path(&mut path));
                    seen += 1;
                }
            }
            assert_eq!(seen, events);
        }
    }
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// The same for the changes of a tree. Answers how many allocations that took, and how many batches came.
fn tree_rounds(flood: &mut Flood, mut next: impl FnMut() -> Option<Result<TreeBatch>>) -> (usize, usize) {
    let mut path = PathBuf::with_capacity(4_096);
    let (mut before, mut batches) = (0, 0);
    let rounds = often(200);
    for round in 0..rounds {
        if round == rounds / 4 {
            (before, batches) = (ALLOCATIONS.load(Ordering::Relaxed), 0);
        }
        for events in [1, 700] {
            flood.cause(events);
            let mut seen = 0;
            while seen < events {
                for change in &next().expect("it goes on").expect("a batch") {
                    assert!(change.mask() == Mask::MODIFY && change.name().is_some());
                    assert!(change.write_path(&mut path) && path.starts_with(change.root().expect("a root")));
                    seen += 1;
                }
                batches += 1;
            }
            assert_eq!(seen, events);
        }
    }
    (ALLOCATIONS.load(Ordering::Relaxed) - before, batches)
}

#[test]
fn events_and_batches_allocate_nothing() {
    let first = std::process::id().cast_signed();
    if this_thread() != first {
        NOT_COUNTED.store(first, Ordering::Relaxed);
    }
    for &backend in backends() {
        // Several directories, so that a batch has many watches.
        let dirs = [tempfile::tempdir(), tempfile::tempdir()].map(|dir| dir.expect("a directory"));
        let inotify = ringwatch::Inotify::builder()
            .backend(backend)
            .build()
            .expect("an instance");
        for dir in &dirs {
            inotify.add_watch(dir.path(), Mask::MODIFY).expect("a watch");
        }
        let mut flood = Flood::across(dirs[0].path(), dirs[1].path());
        let mut reader = inotify.reader().expect("a reader");
        assert_eq!(rounds(&mut flood, || reader.wait()), 0, "reader on {backend:?}");
        drop(reader);
        let mut stream = inotify.stream().expect("a stream");
        assert_eq!(rounds(&mut flood, || stream.wait()), 0, "stream on {backend:?}");
        let root = tempfile::tempdir().expect("a directory");
        let dirs = ["one/deep", "other"].map(|dir| root.path().join(dir));
        dirs.iter()
            .for_each(|dir| std::fs::create_dir_all(dir).expect("a directory"));
        let tree = Tree::builder(root.path()).backend(backend).mask(Mask::MODIFY);
        let tree = tree.open().expect("a tree");
        let mut flood = Flood::across(&dirs[0], &dirs[1]);
        let mut stream = tree.stream().expect("a stream");
        let (allocations, batches) = tree_rounds(&mut flood, || stream.wait());
        // Some more when batches wait that never did before: each is written into memory that is used again.
        assert!(
            allocations <= 2 * batches + 100,
            "{allocations} for {batches} batches of a tree on {backend:?}"
        );
    }
}
