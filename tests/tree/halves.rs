//! Renames whose halves lie apart in the stream, with more between them than there is memory.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ringwatch::tree::Tree;
use ringwatch::{Backend, Inotify, Mask};
use tempfile::{TempDir, tempdir};

use crate::limits::limit;
use crate::model::Watched;
use crate::support::child::in_namespaces;
use crate::support::{backends, kernel, often};

/// The kernel tells each of the first half before it tells anyone of the second: the more there are, the more can come between
/// the two that the tree is told of. So many leave room for what other tests need.
const OTHERS: usize = 32;

/// Directories that are renamed back and forth between two, while files are written in a third.
struct Apart {
    _dir: TempDir,
    places: [PathBuf; 2],
    written: [File; 2],
    watched: Watched,
    _others: Vec<Inotify>,
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

impl Apart {
    /// With the least memory there can be, in which each event about a file fills a buffer.
    fn new(backend: Backend) -> Self {
        let dir = tempdir().unwrap();
        let places = ["p", "q"].map(|place| dir.path().join(place));
        for name in NAMES {
            fs::create_dir_all(places[0].join(name)).unwrap();
        }
        fs::create_dir(&places[1]).unwrap();
        let third = dir.path().join("third");
        fs::create_dir(&third).unwrap();
        let written = ["x", "y"].map(|name| File::create(third.join(name.repeat(255))).unwrap());
        // Another test may have made queues small for a moment.
        let _alone = kernel::alone_with_queues();
        let tree = Tree::builder(dir.path()).mask(Mask::MOVE | Mask::MODIFY);
        let tree = tree.backend(backend).batch_window(Duration::ZERO);
        let tree = tree.buffers(2).buffer_size(272).open().unwrap();
        let others = (0..OTHERS).map(|_| {
            let other = Inotify::builder().buffers(2).build().unwrap();
            for place in &places {
                other.add_watch(place, Mask::MOVE).unwrap();
            }
            other
        });
        Self {
            _others: others.collect(),
            watched: Watched::new(tree),
            places,
            written,
            _dir: dir,
        }
    }

    fn rename(&mut self) {
        const MOST_WRITTEN: usize = 5_000;
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let writing = scope.spawn(|| {
                for number in 0..MOST_WRITTEN {
                    self.written[number % 2].write_at(b"x", 0).unwrap();
                    if ended.load(Ordering::Acquire) {
                        break;
                    }
                }
            });
            for name in NAMES {
                let [from, to] = self.places.each_ref().map(|place| place.join(name));
                fs::rename(from, to).unwrap();
            }
            ended.store(true, Ordering::Release);
            writing.join().expect("no panic");
        });
    }

    /// Each was taken for one rename, by a consumer that is slow.
    fn assert_each_is_one(&mut self) {
        let barrier = self.watched.tree.barrier().expect("a barrier");
        let mut moved = Vec::new();
        'all: loop {
            let batch = self.watched.stream.wait().expect("it goes on").expect("a batch");
            for change in &batch {
                if change.barrier() == Some(barrier) {
                    break 'all;
                }
                assert!(!change.is_overflow(), "{change:?}");
                if change.mask().intersects(Mask::MOVE) {
                    moved.push(change.to_owned());
                }
            }
            thread::sleep(Duration::from_micros(100));
        }
        let expected = NAMES.iter().flat_map(|name| {
            let [from, to] = self.places.each_ref().map(|place| place.join(name));
            [(from.clone(), None), (to, Some(from))]
        });
        let moved = moved.iter().map(|change| {
            assert!(!change.is_moved_out(), "{change:?}");
            (change.path().expect("a path"), change.renamed_from().map(Into::into))
        });
        assert_eq!(moved.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        self.places.reverse();
    }
}

#[test]
fn a_rename_is_one_however_much_happens_between_its_halves() {
    for &backend in backends() {
        let mut apart = Apart::new(backend);
        for _ in 0..often(50) {
            apart.rename();
            apart.assert_each_is_one();
        }
    }
}

/// There is no watch to be had for the marker at which the search for the other half ends, for a moment.
#[test]
fn a_rename_is_one_also_if_there_is_no_room_for_a_marker_for_a_moment() {
    in_namespaces(
        "halves::a_rename_is_one_also_if_there_is_no_room_for_a_marker_for_a_moment",
        || {
            for &backend in backends() {
                let mut apart = Apart::new(backend);
                for _ in 0..often(30) {
                    if !limit(2) {
                        return;
                    }
                    // The watch that a marker gives up is not to be had again.
                    apart.watched.changes();
                    apart.rename();
                    thread::sleep(Duration::from_millis(20));
                    limit(10_000);
                    apart.assert_each_is_one();
                }
            }
        },
    );
}
