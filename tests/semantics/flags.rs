//! Every flag of `add_watch`.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};

use ringwatch::{ErrorKind, Mask};

use crate::support::{file, kernel, on_every_backend, seen};

#[test]
fn onlydir_takes_a_directory_and_refuses_a_file() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        file(&path);
        let mut recorder = setup.recorder();
        let error = recorder
            .inotify
            .add_watch(&path, Mask::ALL | Mask::ONLYDIR)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotADirectory);
        let watch = recorder.watch(dir.path(), Mask::CREATE | Mask::ONLYDIR);
        assert_eq!(watch.mask(), Mask::CREATE, "how to watch is not what to watch for");
        file(dir.path().join("g"));
        assert_eq!(seen(&recorder.events()), [(Mask::CREATE, "g")]);
        assert_eq!(recorder.inotify.watches(), [watch]);
    });
}

#[test]
fn dont_follow_watches_the_link_and_not_what_it_points_to() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        let written = file(&target);
        symlink(&target, &link).unwrap();
        let mut recorder = setup.recorder();
        let mask = Mask::MODIFY | Mask::MOVE_SELF;
        let link_watch = recorder.watch(&link, mask | Mask::DONT_FOLLOW);
        assert_eq!(link_watch.mask(), mask);
        written.write_at(b"x", 0).unwrap();
        assert_eq!(seen(&recorder.events()), [], "of the target");

        let target_watch = recorder.watch(&link, mask);
        assert_ne!(target_watch, link_watch);
        written.write_at(b"x", 0).unwrap();
        fs::rename(&link, dir.path().join("renamed")).unwrap();
        let events = recorder.events();
        assert_eq!(seen(&events), [(Mask::MODIFY, ""), (Mask::MOVE_SELF, "")]);
        let watches: Vec<_> = events.iter().map(|event| event.watch().unwrap()).collect();
        assert_eq!(watches, [&target_watch, &link_watch]);
    });
}

#[test]
fn excl_unlink_leaves_out_what_is_done_to_unlinked_files() {
    on_every_backend(|setup| {
        for (flag, expected) in [
            (Mask::empty(), vec![(Mask::MODIFY, "f"), (Mask::CLOSE_WRITE, "f")]),
            (Mask::EXCL_UNLINK, vec![]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("f");
            let unlinked = file(&path);
            let mut recorder = setup.recorder();
            recorder.watch(dir.path(), Mask::MODIFY | Mask::CLOSE | flag);
            fs::remove_file(&path).unwrap();
            unlinked.write_at(b"x", 0).unwrap();
            drop(unlinked);
            assert_eq!(seen(&recorder.events()), expected, "with {flag:?}");
            // A file that is linked is seen with and without.
            drop(file(dir.path().join("g")));
            assert_eq!(seen(&recorder.events()), [(Mask::CLOSE_WRITE, "g")], "with {flag:?}");
        }
    });
}

#[test]
fn the_newest_mask_replaces_the_one_before() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        let watch = recorder.watch(dir.path(), Mask::CREATE);
        let again = recorder.watch(dir.path(), Mask::DELETE);
        assert_eq!(watch, again);
        assert_eq!((watch.mask(), again.mask()), (Mask::DELETE, Mask::DELETE));
        assert_eq!(kernel::mask_of(dir.path()), Some(Mask::DELETE));
        drop(file(dir.path().join("f")));
        fs::remove_file(dir.path().join("f")).unwrap();
        assert_eq!(seen(&recorder.events()), [(Mask::DELETE, "f")]);
    });
}

#[test]
fn mask_add_extends_the_mask() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        // What is not watched yet is watched.
        let watch = recorder.watch(dir.path(), Mask::CREATE | Mask::MASK_ADD);
        assert_eq!(watch.mask(), Mask::CREATE);
        let again = recorder.watch(dir.path(), Mask::DELETE | Mask::MASK_ADD);
        assert_eq!(watch, again);
        let both = Mask::CREATE | Mask::DELETE;
        assert_eq!((watch.mask(), again.mask()), (both, both));
        assert_eq!(kernel::mask_of(dir.path()), Some(both));
        drop(file(dir.path().join("f")));
        fs::remove_file(dir.path().join("f")).unwrap();
        assert_eq!(seen(&recorder.events()), [(Mask::CREATE, "f"), (Mask::DELETE, "f")]);
    });
}

#[test]
fn mask_add_starts_anew_when_the_watch_before_has_ended() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let recorder = setup.recorder();
        let before = recorder.watch(dir.path(), Mask::CREATE);
        recorder.inotify.rm_watch(&before).unwrap();
        let after = recorder.watch(dir.path(), Mask::DELETE | Mask::MASK_ADD);
        assert_eq!((before.mask(), after.mask()), (Mask::CREATE, Mask::DELETE));
        assert_eq!(kernel::mask_of(dir.path()), Some(Mask::DELETE));
    });
}

#[test]
fn mask_create_refuses_an_inode_that_is_watched_and_changes_nothing() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        let watch = recorder.watch(dir.path(), Mask::CREATE | Mask::MASK_CREATE);
        assert_eq!(watch.mask(), Mask::CREATE);
        let same = dir.path().join(".");
        let error = recorder
            .inotify
            .add_watch(&same, Mask::DELETE | Mask::MASK_CREATE)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.remedy().unwrap().contains("MASK_CREATE"), "{error}");
        assert_eq!((&*watch.path(), watch.mask()), (dir.path(), Mask::CREATE));
        assert_eq!(kernel::mask_of(dir.path()), Some(Mask::CREATE));
        file(dir.path().join("f"));
        let events = recorder.events();
        assert_eq!(seen(&events), [(Mask::CREATE, "f")]);
        assert_eq!(events[0].path(), Some(dir.path().join("f")));
    });
}

#[test]
fn mask_add_and_mask_create_exclude_each_other() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let inotify = setup.inotify();
        let mask = Mask::CREATE | Mask::MASK_ADD | Mask::MASK_CREATE;
        let error = inotify.add_watch(dir.path(), mask).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.remedy().unwrap().contains("exclude each other"), "{error}");
        assert!(inotify.watches().is_empty());
    });
}

#[test]
fn oneshot_delivers_one_event_and_ends_the_watch() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        let watch = recorder.watch(dir.path(), Mask::CREATE | Mask::ONESHOT);
        let other = tempfile::tempdir().unwrap();
        let stays = recorder.watch(other.path(), Mask::CREATE);
        for name in ["f", "g", "h"] {
            file(dir.path().join(name));
        }
        let events = recorder.events();
        assert_eq!(seen(&events), [(Mask::CREATE, "f"), (Mask::IGNORED, "")]);
        assert!(events.iter().all(|event| event.watch() == Some(&watch)));
        assert!(watch.is_ended() && !stays.is_ended());
        assert_eq!(recorder.inotify.watches(), [stays]);
        let error = recorder.inotify.rm_watch(&watch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WatchEnded);
    });
}

#[test]
fn a_mask_without_an_event_is_refused() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let inotify = setup.inotify();
        for mask in [Mask::empty(), Mask::ONLYDIR, Mask::ISDIR, Mask::ONESHOT] {
            let error = inotify.add_watch(dir.path(), mask).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "of {mask:?}");
            assert!(error.to_string().contains(&format!("{mask:?}")), "{error}");
        }
        assert!(inotify.watches().is_empty());
    });
}
