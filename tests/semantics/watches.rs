//! What a watch is, and when it ends.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::slice;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ringwatch::{ErrorKind, Mask, OwnedEvent, Watch};

use crate::support::{Stopping, file, kernel, often, on_every_backend, queue_limit, seen};

#[test]
fn events_queued_before_rm_watch_arrive_with_their_watch_and_then_its_end() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        let watch = recorder.watch(dir.path(), Mask::CREATE);
        file(dir.path().join("f"));
        file(dir.path().join("g"));
        recorder.inotify.rm_watch(&watch).unwrap();
        file(dir.path().join("h"));
        assert!(!watch.is_ended(), "its end was not delivered");
        assert_eq!(recorder.inotify.watches(), slice::from_ref(&watch));
        let events = recorder.events();
        assert_eq!(
            seen(&events),
            [(Mask::CREATE, "f"), (Mask::CREATE, "g"), (Mask::IGNORED, "")]
        );
        for event in &events {
            assert_eq!(event.watch(), Some(&watch));
        }
        assert_eq!(events[1].path(), Some(dir.path().join("g")));
        assert_eq!(events[2].path().as_deref(), Some(dir.path()));
        assert!(watch.is_ended());
        assert!(recorder.inotify.watches().is_empty());
        assert_eq!(recorder.inotify.stats().watches, 0);
    });
}

#[test]
fn a_watch_ends_once() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        let watch = recorder.watch(dir.path(), Mask::CREATE);
        recorder.inotify.rm_watch(&watch).unwrap();
        for delivered in [false, true] {
            assert_eq!(watch.is_ended(), delivered);
            let error = recorder.inotify.rm_watch(&watch).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WatchEnded);
            assert_eq!(error.path(), Some(dir.path()));
            recorder.events();
        }
    });
}

#[test]
fn a_watch_whose_object_is_gone_can_not_be_removed() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        drop(file(&path));
        let mut recorder = setup.recorder();
        let watch = recorder.watch(&path, Mask::MODIFY);
        fs::remove_file(&path).unwrap();
        recorder.events();
        let error = recorder.inotify.rm_watch(&watch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WatchEnded);
    });
}

#[test]
fn a_watch_of_another_instance_is_refused_and_nothing_is_removed() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (setup.inotify(), setup.inotify());
        // The kernel numbers the watches of each instance from one: these two have the same number.
        let our_watch = ours.add_watch(dir.path(), Mask::CREATE).unwrap();
        let their_watch = theirs.add_watch(dir.path(), Mask::CREATE).unwrap();
        let error = ours.rm_watch(&their_watch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let mut recorder = setup.read(ours);
        file(dir.path().join("f"));
        let events = recorder.events();
        assert_eq!(seen(&events), [(Mask::CREATE, "f")]);
        assert_eq!(events[0].watch(), Some(&our_watch));
    });
}

#[test]
fn watches_are_equal_and_hashed_by_identity() {
    on_every_backend(|setup| {
        let [a, b] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let (inotify, other) = (setup.inotify(), setup.inotify());
        let watch = inotify.add_watch(a.path(), Mask::CREATE).unwrap();
        // The same number and path, and another instance.
        let foreign = other.add_watch(a.path(), Mask::CREATE).unwrap();
        let second = inotify.add_watch(b.path(), Mask::CREATE).unwrap();
        assert_ne!(watch, foreign);
        assert_ne!(watch, second);
        let all: HashSet<_> = [&watch, &foreign, &second].into_iter().collect();
        assert_eq!(all.len(), 3);
        let mut names = HashMap::from([(watch.clone(), "watch")]);
        // Neither its path nor its mask is part of what it is.
        watch.set_path("/elsewhere");
        assert_eq!(names.insert(watch.clone(), "moved"), Some("watch"));
        let again = inotify.add_watch(a.path().join("."), Mask::DELETE).unwrap();
        assert_eq!(again, watch);
        assert_eq!(names.insert(again, "again"), Some("moved"));
    });
}

#[test]
fn a_path_that_is_watched_again_after_the_end_has_another_watch() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        let before = recorder.watch(dir.path(), Mask::CREATE);
        file(dir.path().join("f"));
        recorder.inotify.rm_watch(&before).unwrap();
        let after = recorder.watch(dir.path(), Mask::CREATE);
        file(dir.path().join("g"));
        assert_ne!(before, after);
        let events = recorder.events();
        assert_eq!(
            seen(&events),
            [(Mask::CREATE, "f"), (Mask::IGNORED, ""), (Mask::CREATE, "g")]
        );
        let watches: Vec<_> = events.iter().map(|event| event.watch().unwrap()).collect();
        assert_eq!(watches, [&before, &before, &after]);
        assert!(before.is_ended() && !after.is_ended());
        assert_eq!(recorder.inotify.watches(), [after]);
    });
}

#[test]
fn another_path_of_a_watched_inode_updates_its_watch() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        let written = file(&first);
        fs::hard_link(&first, &second).unwrap();
        let mut recorder = setup.recorder();
        fs::create_dir(dir.path().join("d")).unwrap();
        symlink(dir.path(), dir.path().join("d/up")).unwrap();
        let up = dir.path().join("d/up");
        for (path, other) in [(first.as_path(), second.as_path()), (dir.path(), &up)] {
            let watch = recorder.watch(path, Mask::MODIFY);
            let same = recorder.watch(other, Mask::MODIFY | Mask::CREATE);
            assert_eq!(watch, same);
            assert_eq!((&*watch.path(), watch.mask()), (other, Mask::MODIFY | Mask::CREATE));
            let watches = recorder.inotify.watches();
            assert_eq!(watches.iter().filter(|listed| **listed == watch).count(), 1);
        }
        assert_eq!(recorder.inotify.watches().len(), 2);
        assert_eq!(recorder.inotify.stats().watches, 2);
        // Whatever name it is done by.
        written.write_at(b"x", 0).unwrap();
        file(dir.path().join("f"));
        let paths: Vec<_> = recorder.events().iter().map(|event| event.path().unwrap()).collect();
        assert_eq!(paths, [up.join("first"), second, up.join("f")]);
    });
}

#[test]
fn the_path_is_that_of_the_newest_call_to_the_byte() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        let watch = recorder.watch(dir.path(), Mask::CREATE);
        for (number, end) in ["/.", "/", "", "/./"].into_iter().enumerate() {
            let mut given = dir.path().as_os_str().to_owned();
            given.push(end);
            recorder.watch(&given, Mask::CREATE);
            // Paths that lead to the same place are equal; their bytes are not.
            assert_eq!(watch.path().as_os_str(), given);
            file(dir.path().join(number.to_string()));
            let path = recorder.events()[0].path().unwrap();
            let slash = if end.ends_with('/') { "" } else { "/" };
            given.push(format!("{slash}{number}"));
            assert_eq!(path.as_os_str(), given);
        }
    });
}

#[test]
fn set_path_holds_for_events_that_were_read_already_and_for_those_to_come() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        let watch = recorder.watch(dir.path(), Mask::CREATE);
        file(dir.path().join("f"));
        let batch = recorder.batch();
        let event = batch.iter().next().unwrap();
        let owned = event.to_owned();
        assert_eq!(event.path(), Some(dir.path().join("f")));
        watch.set_path("/moved");
        assert_eq!(&*watch.path(), "/moved");
        assert_eq!(event.path().unwrap().to_str(), Some("/moved/f"));
        assert_eq!(owned.path().unwrap().to_str(), Some("/moved/f"));
        drop(batch);
        file(dir.path().join("g"));
        let events = recorder.events();
        assert_eq!(events[0].path().unwrap().to_str(), Some("/moved/g"));
        // The newest call says where it is.
        recorder.watch(dir.path(), Mask::CREATE);
        assert_eq!(&*watch.path(), dir.path());
    });
}

/// The kernel empties a mask before it replaces it. What happens then is lost: of 10,000 events some five were, on two cores.
#[test]
fn watching_again_loses_nothing() {
    let rounds = often(5_000);
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        let mask = Mask::CREATE | Mask::DELETE;
        let watch = recorder.watch(dir.path(), mask);
        let stop = AtomicBool::new(false);
        let mut seen = 0;
        thread::scope(|scope| {
            let inotify = recorder.inotify.clone();
            let (stop, watch, path) = (&stop, &watch, dir.path());
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(inotify.add_watch(path, mask).unwrap(), *watch);
                }
            });
            let _stopping = Stopping(stop);
            let made = dir.path().join("made");
            for _ in 0..rounds / 1_000 {
                for _ in 0..1_000 {
                    fs::create_dir(&made).unwrap();
                    fs::remove_dir(&made).unwrap();
                }
                seen += recorder.events().len();
            }
        });
        assert_eq!(seen, rounds / 1_000 * 2_000);
    });
}

#[test]
fn watches_are_those_of_the_kernel() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        let beacon = recorder.watch(dir.path(), Mask::CREATE);
        let mut added: Vec<Watch> = Vec::new();
        for number in 0..100 {
            let path = dir.path().join(number.to_string());
            fs::create_dir(&path).unwrap();
            added.push(recorder.watch(&path, Mask::CREATE));
        }
        for watch in added.drain(..30) {
            recorder.inotify.rm_watch(&watch).unwrap();
        }
        for watch in added.drain(..30) {
            fs::remove_dir(watch.path()).unwrap();
        }
        added.push(beacon);
        recorder.events();
        let watches = recorder.inotify.watches();
        assert_eq!(watches.len(), added.len());
        assert_eq!(
            watches.iter().collect::<HashSet<_>>(),
            added.iter().collect::<HashSet<_>>()
        );
        assert_eq!(recorder.inotify.stats().watches, added.len());
        let ours = watches.iter().map(|watch| kernel::inode(&watch.path()));
        let mut ours: Vec<_> = ours.collect();
        ours.sort_unstable();
        assert_eq!(ours, kernel::inodes_watched_with(dir.path()));
    });
}

#[test]
fn events_hold_their_watch_while_watches_come_and_go() {
    const ROUNDS: usize = 500;
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        let names = [["a", "b"], ["c", "d"]].map(|pair| pair.map(|name| dir.path().join(name)));
        for path in names.as_flattened() {
            drop(file(path));
            // These stay.
            recorder.watch(path, Mask::MODIFY);
        }
        // So few that the kernel's queue can't overflow, however late they are read.
        let most = (queue_limit() - 2 * ROUNDS) / 4;
        let (inotify, path, done) = (recorder.inotify.clone(), dir.path(), AtomicBool::new(false));
        thread::scope(|scope| {
            let done = &done;
            for names in &names {
                let files = names.each_ref().map(file);
                scope.spawn(move || {
                    for turn in 0..most {
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                        files[turn % 2].write_at(b"x", 0).unwrap();
                    }
                });
            }
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    let watch = inotify.add_watch(path, Mask::MODIFY).unwrap();
                    inotify.rm_watch(&watch).unwrap();
                }
                done.store(true, Ordering::Relaxed);
                inotify.barrier().unwrap();
            });
            // Read while all that goes on.
            let mut events: Vec<OwnedEvent> = Vec::new();
            while events.iter().all(|event| event.barrier().is_none()) {
                events.extend(recorder.batch().iter().map(|event| event.to_owned()));
            }
            events.retain(|event| event.barrier().is_none());
            for event in &events {
                assert!(event.watch().is_some(), "{event:?}");
            }
            let ended: HashSet<_> = events
                .iter()
                .filter(|event| event.mask().contains(Mask::IGNORED))
                .map(|event| event.watch().unwrap())
                .collect();
            assert_eq!(ended.len(), ROUNDS);
        });
        assert_eq!(recorder.inotify.watches().len(), names.as_flattened().len());
    });
}

#[test]
fn calls_that_race_on_one_inode_leave_the_mask_and_path_the_kernel_has() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
        file(&first);
        fs::hard_link(&first, &second).unwrap();
        let (inotify, start) = (setup.inotify(), Barrier::new(2));
        let watch = inotify.add_watch(&first, Mask::ALL).unwrap();
        for _ in 0..100 {
            thread::scope(|scope| {
                for (path, mask) in [(&first, Mask::OPEN), (&second, Mask::CLOSE)] {
                    let (inotify, start) = (&inotify, &start);
                    scope.spawn(move || {
                        start.wait();
                        inotify.add_watch(path, mask).unwrap();
                    });
                }
            });
            let kernels = kernel::mask_of(&first);
            let newest = if kernels == Some(Mask::OPEN) { &first } else { &second };
            assert_eq!((Some(watch.mask()), &*watch.path()), (kernels, newest.as_path()));
        }
        assert_eq!(inotify.watches().len(), 1);
    });
}
