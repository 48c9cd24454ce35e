//! What is there of a queue that was too small.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;
use std::slice;

use ringwatch::{ErrorKind, Inotify, Mask, OwnedEvent, Watch};
use tempfile::TempDir;

use crate::small;
use crate::support::{FLOOD_EVENT, Flood, Recorder, Setup, file, kernel, on_every_backend, seen};

#[test]
fn an_overflow_stands_behind_all_that_the_queue_held_and_ahead_of_what_came_later() {
    on_every_backend(|setup| {
        // Most of the queue is not read yet when it has room again.
        let (inotify, mut flood, dir) = small(setup, Mask::MODIFY | Mask::CREATE);
        let held = flood.overflow();
        let mut recorder = setup.read(inotify);
        let mut events = Vec::new();
        let mut overflowed = 0;
        while events
            .last()
            .is_none_or(|event| seen(slice::from_ref(event)) != [(Mask::CREATE, "later")])
        {
            let batch = recorder.batch();
            if events.is_empty() {
                file(dir.path().join("later"));
            }
            let before = events.len();
            events.extend(batch.iter().map(|event| event.to_owned()));
            assert_eq!(events.len() - before, batch.len());
            let mut here = events[before..].iter();
            assert_eq!(batch.overflowed(), here.any(|event| event.mask() == Mask::Q_OVERFLOW));
            overflowed += usize::from(batch.overflowed());
        }
        let later = events.split_off(held);
        assert_eq!(events.len(), held);
        Flood::assert_caused(&events);
        assert_eq!(seen(&later), [(Mask::Q_OVERFLOW, ""), (Mask::CREATE, "later")]);
        assert_eq!(overflowed, 1);
        let stats = recorder.inotify.stats();
        assert_eq!((stats.overflows, stats.events as usize), (1, held + 2));
    });
}

/// An instance whose queue has overflowed, and which nobody has read from.
fn overflowed(setup: &Setup) -> (Recorder, TempDir, Watch, usize) {
    let dir = tempfile::tempdir().unwrap();
    let inotify = setup.inotify();
    let mut flood = Flood::new(dir.path());
    let watch = inotify.add_watch(dir.path(), Mask::MODIFY | Mask::CREATE).unwrap();
    let held = flood.overflow();
    (setup.read(inotify), dir, watch, held)
}

#[test]
fn a_reader_that_is_not_asked_leaves_the_queue_to_itself() {
    on_every_backend(|setup| {
        if !setup.reads_in_place() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut flood = Flood::new(dir.path());
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::MODIFY);
        // Its read is with the kernel from here on.
        assert_eq!(recorder.events(), []);
        let before = recorder.inotify.stats();
        let held = flood.overflow();
        let after = recorder.inotify.stats();
        assert_eq!((before.reads, before.events), (after.reads, after.events));
        assert_eq!(after.kernel_queue, held * FLOOD_EVENT + 16);
        let mut events = recorder.events();
        assert_eq!(
            events.split_off(held).first().map(OwnedEvent::mask),
            Some(Mask::Q_OVERFLOW)
        );
        assert_eq!(events.len(), held);
        Flood::assert_caused(&events);
    });
}

#[test]
fn an_overflow_has_no_watch_no_path_and_no_name() {
    on_every_backend(|setup| {
        let (mut recorder, _dir, _, held) = overflowed(setup);
        let events = recorder.events();
        assert_eq!(events.len(), held + 1);
        let overflow = &events[held];
        assert_eq!(overflow.mask(), Mask::Q_OVERFLOW);
        assert_eq!(overflow.watch(), None);
        assert_eq!(overflow.path(), None);
        assert_eq!(overflow.name(), None);
        assert_eq!(overflow.cookie(), None);
        assert_eq!(overflow.barrier(), None);
        assert!(!overflow.is_overtaken());
    });
}

#[test]
fn everything_works_after_an_overflow() {
    on_every_backend(|setup| {
        let (mut recorder, dir, watch, held) = overflowed(setup);
        assert_eq!(recorder.events().len(), held + 1);
        file(dir.path().join("f"));
        let sub = dir.path().join("sub");
        fs::create_dir(&sub).unwrap();
        let sub_watch = recorder.watch(&sub, Mask::CREATE);
        file(sub.join("g"));
        recorder.inotify.rm_watch(&watch).unwrap();
        let events = recorder.events();
        assert_eq!(
            seen(&events),
            [
                (Mask::CREATE, "f"),
                (Mask::CREATE | Mask::ISDIR, "sub"),
                (Mask::CREATE, "g"),
                (Mask::IGNORED, ""),
            ]
        );
        let watches: Vec<_> = events.iter().map(|event| event.watch().unwrap()).collect();
        assert_eq!(watches, [&watch, &watch, &sub_watch, &watch]);
        assert_eq!(events[2].path(), Some(sub.join("g")));
        assert!(watch.is_ended());
        assert_eq!(recorder.inotify.watches(), [sub_watch]);
    });
}

#[test]
fn each_overflow_is_reported_once_and_counted() {
    on_every_backend(|setup| {
        let (inotify, mut flood, _dir) = small(setup, Mask::MODIFY);
        let mut recorder = setup.read(inotify);
        for round in 1..=3 {
            // What the stream reads meanwhile is less than this is too much.
            flood.overflow();
            flood.cause(1_000);
            let events = recorder.events();
            let overflows = events.iter().filter(|event| event.mask().contains(Mask::Q_OVERFLOW));
            assert_eq!(overflows.count(), 1, "in round {round}");
            assert_eq!(recorder.inotify.stats().overflows, round);
        }
    });
}

/// An instance that watches `dir` and numbered files in it. The first were removed, and of the second the watches,
/// while its queue was full: the kernel said of none that it has ended.
struct Swallowed {
    recorder: Recorder,
    dir: TempDir,
    deleted: Vec<Watch>,
    removed: Vec<Watch>,
    alive: HashSet<Watch>,
}

impl Swallowed {
    const EACH: usize = 50;

    fn new(setup: &Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut flood = Flood::new(dir.path());
        let inotify = setup.inotify();
        let whole = inotify.add_watch(dir.path(), Mask::MODIFY).unwrap();
        let add = |number: usize| add_file(&inotify, dir.path(), number);
        let mut watches = (0..3 * Self::EACH).map(add);
        let deleted: Vec<_> = watches.by_ref().take(Self::EACH).collect();
        let removed: Vec<_> = watches.by_ref().take(Self::EACH).collect();
        let alive = watches.chain([whole]).collect();
        flood.overflow();
        for watch in &deleted {
            fs::remove_file(watch.path()).unwrap();
        }
        for watch in &removed {
            inotify.rm_watch(watch).unwrap();
        }
        Self {
            recorder: setup.read(inotify),
            dir,
            deleted,
            removed,
            alive,
        }
    }

    fn assert_watches_are_the_kernels(&self) {
        let watches = self.recorder.inotify.watches();
        assert_eq!(watches.len(), self.alive.len());
        assert_eq!(watches.iter().cloned().collect::<HashSet<_>>(), self.alive);
        let ours: BTreeSet<_> = watches.iter().map(|watch| kernel::inode(&watch.path())).collect();
        let kernels = kernel::inodes_watched_with(self.dir.path());
        assert_eq!(ours.into_iter().collect::<Vec<_>>(), kernels);
    }
}

fn add_file(inotify: &Inotify, dir: &Path, number: usize) -> Watch {
    let path = dir.join(number.to_string());
    drop(file(&path));
    inotify.add_watch(&path, Mask::MODIFY).unwrap()
}

#[test]
fn watches_whose_end_was_swallowed_are_not_listed() {
    on_every_backend(|setup| {
        let mut swallowed = Swallowed::new(setup);
        let events = swallowed.recorder.events();
        let ends = events.iter().filter(|event| event.mask().contains(Mask::IGNORED));
        assert_eq!(ends.count(), 0, "the queue was full");
        swallowed.assert_watches_are_the_kernels();
        for watch in swallowed.deleted.iter().chain(&swallowed.removed) {
            let error = swallowed.recorder.inotify.rm_watch(watch).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WatchEnded);
        }
    });
}

#[test]
fn stats_count_no_watch_whose_end_was_swallowed() {
    on_every_backend(|setup| {
        let mut swallowed = Swallowed::new(setup);
        swallowed.recorder.events();
        assert_eq!(swallowed.recorder.inotify.stats().watches, swallowed.alive.len());
    });
}

/// So many that the table makes sure what it may forget.
const MANY: usize = 1_024 + 6 * Swallowed::EACH;

#[test]
fn watches_whose_end_was_swallowed_are_forgotten_as_others_are_added() {
    on_every_backend(|setup| {
        let mut swallowed = Swallowed::new(setup);
        swallowed.recorder.events();
        for number in 0..MANY {
            let watch = add_file(&swallowed.recorder.inotify, swallowed.dir.path(), 1_000 + number);
            swallowed.alive.insert(watch);
        }
        // In the midst of it, too.
        swallowed.assert_watches_are_the_kernels();
        assert!(swallowed.recorder.events().is_empty(), "nothing is shown of that");
        swallowed.assert_watches_are_the_kernels();
        assert_eq!(swallowed.recorder.inotify.stats().watches, swallowed.alive.len());
        for watch in swallowed.deleted.iter().chain(&swallowed.removed) {
            assert!(watch.is_ended());
        }
        for watch in &swallowed.alive {
            assert!(!watch.is_ended());
        }
    });
}
