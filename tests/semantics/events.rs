//! Every kind of event.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use ringwatch::{Mask, OwnedEvent};

use crate::support::child::{in_namespaces, mount_memory, unmount};
use crate::support::{file, on_every_backend, seen, skip};

/// Whether a directory's own end or rename is marked with `ISDIR` is not the same on all kernels.
const ITSELF: Mask = Mask::DELETE_SELF.union(Mask::MOVE_SELF).union(Mask::UNMOUNT);

fn without_isdir_on_itself(events: &[OwnedEvent]) -> Vec<(Mask, &str)> {
    let pairs = seen(events).into_iter();
    pairs
        .map(|(mask, name)| match mask.intersects(ITSELF) {
            true => (mask - Mask::ISDIR, name),
            false => (mask, name),
        })
        .collect()
}

#[test]
fn a_file_that_is_read_is_opened_accessed_and_closed() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "text").unwrap();
        let mut recorder = setup.recorder();
        let watch = recorder.watch(dir.path(), Mask::ALL);
        let mut file = File::open(dir.path().join("f")).unwrap();
        file.read_exact(&mut [0]).unwrap();
        drop(file);
        let events = recorder.events();
        assert_eq!(
            seen(&events),
            [(Mask::OPEN, "f"), (Mask::ACCESS, "f"), (Mask::CLOSE_NOWRITE, "f")]
        );
        for event in &events {
            assert_eq!(event.watch(), Some(&watch));
            assert_eq!(event.path(), Some(dir.path().join("f")));
            assert_eq!(event.cookie(), None);
        }
    });
}

#[test]
fn a_file_that_is_written_is_opened_modified_and_closed() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "text").unwrap();
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::ALL);
        let mut file = OpenOptions::new().append(true).open(dir.path().join("f")).unwrap();
        file.write_all(b"more").unwrap();
        drop(file);
        let events = recorder.events();
        assert_eq!(
            seen(&events),
            [(Mask::OPEN, "f"), (Mask::MODIFY, "f"), (Mask::CLOSE_WRITE, "f")]
        );
    });
}

#[test]
fn a_file_that_is_truncated_is_modified() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "text").unwrap();
        let file = OpenOptions::new().write(true).open(dir.path().join("f")).unwrap();
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::ALL);
        file.set_len(1).unwrap();
        assert_eq!(seen(&recorder.events()), [(Mask::MODIFY, "f")]);
    });
}

#[test]
fn changed_permissions_are_attrib_and_say_whether_it_is_a_directory() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "").unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::ALL);
        for path in [&dir.path().join("f"), &dir.path().join("d"), dir.path()] {
            fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
        }
        let events = recorder.events();
        let is_dir = Mask::ATTRIB | Mask::ISDIR;
        assert_eq!(seen(&events), [(Mask::ATTRIB, "f"), (is_dir, "d"), (is_dir, "")]);
        assert_eq!(events[2].path().as_deref(), Some(dir.path()));
        let is_dir: Vec<_> = events.iter().map(|event| event.mask().is_dir()).collect();
        assert_eq!(is_dir, [false, true, true]);
    });
}

#[test]
fn a_link_that_is_made_or_lost_is_attrib_of_the_file() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("f"), dir.path().join("link"));
        fs::write(&path, "").unwrap();
        let mut recorder = setup.recorder();
        recorder.watch(&path, Mask::ALL);
        fs::hard_link(&path, &link).unwrap();
        assert_eq!(seen(&recorder.events()), [(Mask::ATTRIB, "")]);
        fs::remove_file(&link).unwrap();
        assert_eq!(seen(&recorder.events()), [(Mask::ATTRIB, "")]);
    });
}

#[test]
fn entries_of_every_type_that_are_made_and_removed_are_created_and_deleted() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::CREATE | Mask::DELETE);
        file(path("file"));
        fs::create_dir(path("directory")).unwrap();
        symlink("nowhere", path("symlink")).unwrap();
        fs::hard_link(path("file"), path("link")).unwrap();
        UnixListener::bind(path("socket")).unwrap();
        for name in ["file", "symlink", "link", "socket"] {
            fs::remove_file(path(name)).unwrap();
        }
        fs::remove_dir(path("directory")).unwrap();
        assert_eq!(
            seen(&recorder.events()),
            [
                (Mask::CREATE, "file"),
                (Mask::CREATE | Mask::ISDIR, "directory"),
                (Mask::CREATE, "symlink"),
                (Mask::CREATE, "link"),
                (Mask::CREATE, "socket"),
                (Mask::DELETE, "file"),
                (Mask::DELETE, "symlink"),
                (Mask::DELETE, "link"),
                (Mask::DELETE, "socket"),
                (Mask::DELETE | Mask::ISDIR, "directory"),
            ]
        );
    });
}

#[test]
fn the_two_halves_of_a_rename_share_a_cookie_that_no_other_event_has() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        fs::create_dir(path("d")).unwrap();
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::CREATE | Mask::MOVE);
        file(path("f"));
        fs::rename(path("f"), path("g")).unwrap();
        fs::rename(path("d"), path("e")).unwrap();
        let events = recorder.events();
        assert_eq!(
            seen(&events),
            [
                (Mask::CREATE, "f"),
                (Mask::MOVED_FROM, "f"),
                (Mask::MOVED_TO, "g"),
                (Mask::MOVED_FROM | Mask::ISDIR, "d"),
                (Mask::MOVED_TO | Mask::ISDIR, "e"),
            ]
        );
        let cookies: Vec<_> = events.iter().map(OwnedEvent::cookie).collect();
        assert_eq!(cookies[0], None);
        assert!(cookies[1].is_some() && cookies[3].is_some(), "{cookies:?}");
        assert_eq!((cookies[1], cookies[3]), (cookies[2], cookies[4]));
        assert_ne!(cookies[1], cookies[3]);
    });
}

#[test]
fn a_rename_between_directories_tells_each_watch_its_half() {
    on_every_backend(|setup| {
        let [from, to, unwatched] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        file(from.path().join("f"));
        let mut recorder = setup.recorder();
        let from_watch = recorder.watch(from.path(), Mask::MOVE);
        let to_watch = recorder.watch(to.path(), Mask::MOVE);
        fs::rename(from.path().join("f"), to.path().join("g")).unwrap();
        fs::rename(to.path().join("g"), unwatched.path().join("h")).unwrap();
        fs::rename(unwatched.path().join("h"), from.path().join("i")).unwrap();
        let events = recorder.events();
        assert_eq!(
            seen(&events),
            [
                (Mask::MOVED_FROM, "f"),
                (Mask::MOVED_TO, "g"),
                (Mask::MOVED_FROM, "g"),
                (Mask::MOVED_TO, "i"),
            ]
        );
        let watches: Vec<_> = events.iter().map(|event| event.watch().unwrap()).collect();
        assert_eq!(watches, [&from_watch, &to_watch, &to_watch, &from_watch]);
        let cookies: Vec<_> = events.iter().map(|event| event.cookie().unwrap()).collect();
        assert_eq!(cookies[0], cookies[1]);
        assert!(cookies[1] != cookies[2] && cookies[2] != cookies[3], "{cookies:?}");
    });
}

#[test]
fn a_deleted_file_is_delete_self_and_ends_its_watch() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "").unwrap();
        let mut recorder = setup.recorder();
        let watch = recorder.watch(&path, Mask::ALL);
        fs::remove_file(&path).unwrap();
        assert!(!watch.is_ended(), "its end was not delivered");
        let events = recorder.events();
        assert_eq!(
            seen(&events),
            [(Mask::ATTRIB, ""), (Mask::DELETE_SELF, ""), (Mask::IGNORED, "")]
        );
        for event in &events {
            assert_eq!(event.watch(), Some(&watch));
            assert_eq!(event.path().as_ref(), Some(&path));
        }
        assert!(watch.is_ended());
        assert!(recorder.inotify.watches().is_empty());
    });
}

#[test]
fn a_deleted_file_that_is_still_open_ends_its_watch_when_it_is_closed() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let open = file(&path);
        let mut recorder = setup.recorder();
        let watch = recorder.watch(&path, Mask::CHANGES);
        fs::remove_file(&path).unwrap();
        assert_eq!(seen(&recorder.events()), [(Mask::ATTRIB, "")]);
        assert!(!watch.is_ended());
        drop(open);
        assert_eq!(
            seen(&recorder.events()),
            [(Mask::CLOSE_WRITE, ""), (Mask::DELETE_SELF, ""), (Mask::IGNORED, "")]
        );
        assert!(watch.is_ended());
    });
}

#[test]
fn a_deleted_directory_is_delete_self_and_ends_its_watch() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        fs::create_dir(&path).unwrap();
        let mut recorder = setup.recorder();
        let watch = recorder.watch(&path, Mask::ALL);
        fs::remove_dir(&path).unwrap();
        let events = recorder.events();
        let expected = [(Mask::DELETE_SELF, ""), (Mask::IGNORED, "")];
        assert_eq!(without_isdir_on_itself(&events), expected);
        assert!(events.iter().all(|event| event.watch() == Some(&watch)));
        assert!(watch.is_ended());
    });
}

#[test]
fn a_renamed_object_is_move_self_and_its_watch_goes_with_it() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::create_dir(&old).unwrap();
        let mut recorder = setup.recorder();
        let watch = recorder.watch(&old, Mask::MOVE_SELF | Mask::CREATE);
        fs::rename(&old, &new).unwrap();
        file(new.join("f"));
        let events = recorder.events();
        let expected = [(Mask::MOVE_SELF, ""), (Mask::CREATE, "f")];
        assert_eq!(without_isdir_on_itself(&events), expected);
        // Nobody said where it went.
        assert_eq!(events[1].path(), Some(old.join("f")));
        assert_eq!(events[1].watch(), Some(&watch));
        assert!(!watch.is_ended());
    });
}

#[test]
fn waiting_ends_with_the_events_and_at_the_end_with_none() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::CREATE);
        file(dir.path().join("f"));
        let batch = recorder.wait().unwrap();
        assert_eq!(batch.len(), 1);
        let event = batch.iter().next().unwrap();
        assert_eq!(event.path(), Some(dir.path().join("f")));
        recorder.inotify.close();
        assert!(recorder.wait().is_none());
        assert!(recorder.wait().is_none());
    });
}

/// Causes every kind of event in `dir`, and no two in a row that are equal; in the end, `dir` is gone.
fn cause_every_kind(dir: &Path) {
    let path = |name: &str| dir.join(name);
    let mut read = File::open(path("read")).unwrap();
    read.read_exact(&mut [0]).unwrap();
    drop(read);
    let mut write = OpenOptions::new().append(true).open(path("write")).unwrap();
    write.write_all(b"more").unwrap();
    drop(write);
    fs::set_permissions(path("mode"), Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(path("made")).unwrap();
    fs::rename(path("from"), path("to")).unwrap();
    for name in ["read", "write", "mode", "to"] {
        fs::remove_file(path(name)).unwrap();
    }
    fs::remove_dir(path("made")).unwrap();
    let gone = dir.with_extension("gone");
    fs::rename(dir, &gone).unwrap();
    fs::remove_dir(&gone).unwrap();
}

#[test]
fn a_watch_sees_the_kinds_it_asks_for_and_no_other() {
    on_every_backend(|setup| {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("dir");
        let observe = |mask| {
            fs::create_dir(&dir).unwrap();
            for name in ["read", "write", "mode", "from"] {
                fs::write(dir.join(name), "text").unwrap();
            }
            let mut recorder = setup.recorder();
            recorder.watch(&dir, mask);
            cause_every_kind(&dir);
            recorder.events()
        };
        let all = observe(Mask::ALL);
        let kinds = all.iter().fold(Mask::empty(), |kinds, event| kinds | event.mask());
        assert_eq!(kinds & Mask::ALL, Mask::ALL, "all kinds were caused");
        for kind in Mask::ALL.iter() {
            let expected: Vec<_> = all
                .iter()
                .filter(|event| event.mask().intersects(kind | Mask::IGNORED))
                .cloned()
                .collect();
            assert_eq!(seen(&observe(kind)), seen(&expected), "of {kind:?}");
        }
    });
}

#[test]
fn an_unmounted_file_system_is_unmount_and_ends_its_watches() {
    in_namespaces(
        "events::an_unmounted_file_system_is_unmount_and_ends_its_watches",
        || {
            on_every_backend(|setup| {
                let dir = tempfile::tempdir().unwrap();
                if let Err(refused) = mount_memory(dir.path()) {
                    return skip("a mount", "RINGWATCH_REQUIRE_NAMESPACES", &refused);
                }
                let path = dir.path().join("f");
                file(&path);
                let mut recorder = setup.recorder();
                // Neither asks for it.
                let watches = [
                    recorder.watch(dir.path(), Mask::CREATE),
                    recorder.watch(&path, Mask::MODIFY),
                ];
                unmount(dir.path()).unwrap();
                let events = recorder.events();
                assert_eq!(events.len(), 4, "{events:?}");
                for watch in watches {
                    let own: Vec<_> = events
                        .iter()
                        .filter(|event| event.watch() == Some(&watch))
                        .cloned()
                        .collect();
                    let expected = [(Mask::UNMOUNT, ""), (Mask::IGNORED, "")];
                    assert_eq!(without_isdir_on_itself(&own), expected);
                    assert!(watch.is_ended());
                }
            });
        },
    );
}
