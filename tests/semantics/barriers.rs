//! Marks in the event stream.

use std::fs;
use std::path::Path;
use std::{slice, thread};

use ringwatch::{ErrorKind, Mask, OwnedEvent};

use crate::small;
use crate::support::child::in_child;
use crate::support::{FLOOD_EVENT, Flood, Recorder, Setup, file, on_every_backend, queue_limit, seen};

#[test]
fn a_barrier_is_behind_what_was_queued_before_it_and_ahead_of_what_came_after() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::CREATE);
        let mut barriers = Vec::new();
        for turn in 0..5 {
            file(dir.path().join(turn.to_string()));
            barriers.push(recorder.inotify.barrier().unwrap());
        }
        file(dir.path().join("last"));
        let end = recorder.inotify.barrier().unwrap();
        let events = recorder.until(end);
        assert_eq!(events.len(), 12);
        for (turn, pair) in events.chunks(2).enumerate().take(5) {
            assert_eq!(pair[0].name().unwrap().to_str(), Some(turn.to_string().as_str()));
            assert_eq!(pair[0].barrier(), None);
            assert_eq!(pair[1].barrier(), Some(barriers[turn]));
        }
        assert_eq!(events[10].name().unwrap(), "last");
        assert!(barriers.is_sorted() && barriers[4] < end);
    });
}

#[test]
fn a_barrier_has_no_watch_no_path_and_no_name_and_is_counted_as_an_event_only() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        let watch = recorder.watch(dir.path(), Mask::ALL);
        let barrier = recorder.inotify.barrier().unwrap();
        assert_eq!(recorder.inotify.watches(), slice::from_ref(&watch));
        assert_eq!(recorder.inotify.stats().watches, 1);
        let events = recorder.until(barrier);
        assert_eq!(events.len(), 1);
        let event = &events[0];
        assert_eq!((event.watch(), event.path(), event.name()), (None, None, None));
        assert_eq!((event.barrier(), event.is_overtaken()), (Some(barrier), false));
        assert_eq!(recorder.inotify.watches(), [watch]);
        assert_eq!(recorder.inotify.stats().events, 1);
    });
}

#[test]
fn a_barrier_needs_no_watch_and_comes_from_any_handle_and_thread() {
    on_every_backend(|setup| {
        let mut recorder = setup.recorder();
        let handle = recorder.inotify.clone();
        let first = recorder.inotify.barrier().unwrap();
        let second = thread::spawn(move || handle.barrier().unwrap()).join().unwrap();
        assert_ne!(first, second);
        let barriers: Vec<_> = recorder.until(second).iter().map(OwnedEvent::barrier).collect();
        assert_eq!(barriers, [Some(first), Some(second)]);
    });
}

#[test]
fn barriers_of_two_instances_are_not_equal() {
    on_every_backend(|setup| {
        let (one, other) = (setup.inotify(), setup.inotify());
        assert_ne!(one.barrier().unwrap(), other.barrier().unwrap());
    });
}

#[test]
fn a_closed_instance_takes_no_barrier() {
    on_every_backend(|setup| {
        let inotify = setup.inotify();
        inotify.close();
        assert_eq!(inotify.barrier().unwrap_err().kind(), ErrorKind::Closed);
    });
}

#[test]
fn a_barrier_that_an_overflow_dropped_arrives_behind_it_and_says_so() {
    on_every_backend(|setup| {
        for already_dropped in [0, 2] {
            drop_barriers(setup, already_dropped);
        }
    });
}

fn drop_barriers(setup: &Setup, already_dropped: usize) {
    let dir = tempfile::tempdir().unwrap();
    let inotify = setup.inotify();
    let mut flood = Flood::new(dir.path());
    inotify.add_watch(dir.path(), Mask::MODIFY).unwrap();
    let kept = inotify.barrier().unwrap();
    let held = queue_limit();
    // The queue is full. The next that is dropped is a barrier, or others were before.
    flood.cause(held - 1 + already_dropped);
    let dropped = [inotify.barrier().unwrap(), inotify.barrier().unwrap()];
    let mut recorder = setup.read(inotify);
    let mut events = recorder.until(dropped[1]);
    assert_eq!(events.len(), held + 3);
    let marks = events.split_off(held);
    assert_eq!((events[0].barrier(), events[0].is_overtaken()), (Some(kept), false));
    assert_eq!(seen(&marks[..1]), [(Mask::Q_OVERFLOW, "")]);
    let barriers: Vec<_> = marks.iter().map(OwnedEvent::barrier).collect();
    assert_eq!(barriers, [None, Some(dropped[0]), Some(dropped[1])]);
    assert!(marks[1].is_overtaken() && marks[2].is_overtaken());
    // Each of them once.
    assert_eq!(recorder.events(), []);
}

#[test]
fn every_barrier_arrives_once_however_often_the_queue_overflows_meanwhile() {
    on_every_backend(|setup| {
        let (inotify, mut flood, _dir) = small(setup, Mask::MODIFY);
        let mut recorder = setup.read(inotify);
        let (mut set, mut arrived) = (Vec::new(), Vec::new());
        // Twice as fast as it is read.
        for _ in 0..12 {
            flood.cause(queue_limit());
            set.push(recorder.inotify.barrier().unwrap());
            let mut read = 0;
            while read < queue_limit() / 2 {
                let batch = recorder.batch();
                read += batch.len();
                arrived.extend(batch.iter().filter_map(|event| event.barrier()));
            }
        }
        while arrived.len() < set.len() {
            arrived.extend(recorder.batch().iter().filter_map(|event| event.barrier()));
        }
        arrived.sort();
        assert_eq!(arrived, set);
        assert!(recorder.events().iter().all(|event| event.barrier().is_none()));
        assert!(recorder.inotify.stats().overflows > 1, "the flood was too small");
    });
}

#[test]
fn barriers_arrive_in_order_when_an_overflow_dropped_the_first_and_not_the_second() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        // The queue fills four buffers and the begin of a fifth.
        let buffer_size = queue_limit() / 4 * FLOOD_EVENT;
        let inotify = setup.builder().buffer_size(buffer_size).build().unwrap();
        let mut flood = Flood::new(dir.path());
        inotify.add_watch(dir.path(), Mask::MODIFY).unwrap();
        flood.overflow();
        let dropped = inotify.barrier().unwrap();
        let mut recorder = setup.read(inotify);
        // The first is delivered, and all of it read, so that the kernel has room again.
        let mut barriers = Vec::new();
        let mut take = |recorder: &mut Recorder| {
            let batch = recorder.batch();
            let marks = batch.iter().filter(|event| event.barrier().is_some());
            barriers.extend(marks.map(|event| event.to_owned()));
            (batch.overflowed(), barriers.len())
        };
        assert_eq!(take(&mut recorder), (false, 0));
        // Behind the overflow there is a marker in it that is not shown: statistics make sure which watches there are.
        while recorder.inotify.stats().kernel_queue > 0 && !take(&mut recorder).0 {}
        let kept = recorder.inotify.barrier().unwrap();
        while take(&mut recorder).1 < 2 {}
        assert_eq!(barriers[0].barrier(), Some(dropped));
        assert!(barriers[0].is_overtaken());
        assert_eq!(barriers[1].barrier(), Some(kept));
    });
}

#[test]
fn a_barrier_that_is_set_behind_an_overflow_is_not_overtaken() {
    on_every_backend(|setup| {
        // The overflow is in the queue still when that has room again.
        let (inotify, mut flood, dir) = small(setup, Mask::MODIFY | Mask::CREATE);
        flood.overflow();
        let mut recorder = setup.read(inotify);
        drop(recorder.batch());
        let barrier = recorder.inotify.barrier().unwrap();
        file(dir.path().join("after"));
        let events = recorder.until(barrier);
        let [.., overflow, mark] = events.as_slice() else {
            panic!("{events:?}");
        };
        assert_eq!(overflow.mask(), Mask::Q_OVERFLOW);
        assert!(!mark.is_overtaken());
        assert_eq!(seen(&recorder.events()), [(Mask::CREATE, "after")]);
    });
}

/// Alone in a process of its own, whose directories for temporary files and for everything else are watched.
#[test]
fn a_barrier_writes_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let alone = |command: &mut std::process::Command| {
        command.current_dir(dir.path()).env("TMPDIR", dir.path());
    };
    in_child("barriers::a_barrier_writes_no_file", alone, || {
        on_every_backend(|setup| {
            let mut recorder = setup.recorder();
            for dir in [Path::new("."), &std::env::temp_dir()] {
                recorder.watch(dir, Mask::ALL);
            }
            assert_eq!(recorder.inotify.watches().len(), 1);
            let first = recorder.inotify.barrier().unwrap();
            let second = recorder.inotify.barrier().unwrap();
            let barriers: Vec<_> = recorder.until(second).iter().map(OwnedEvent::barrier).collect();
            assert_eq!(barriers, [Some(first), Some(second)]);
            // It is being watched.
            fs::write("f", "").unwrap();
            assert!(!recorder.events().is_empty());
        });
    });
}
