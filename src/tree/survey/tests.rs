//! Tests of what is done when markers are refused, and events were lost.

use std::os::unix::ffi::OsStrExt;

use super::*;
use crate::mask::Mask;
use crate::tree::harness::read;
use crate::tree::{Recovery, Tree};

/// As if an overflow had been read.
fn lose(worker: &mut Worker) {
    let lost = Arc::new(Read::Pooled(read(&[(-1, Mask::Q_OVERFLOW, 0, "")])));
    let mut draft = worker.begin();
    worker.overflowed(&lost, &mut draft);
    worker.hand_on(None, draft);
}

/// What is behind a loss and in front of its marker may have gaps. Where the marker was refused, it was believed.
#[test]
fn nothing_is_believed_behind_a_loss_until_that_has_its_marker() {
    for code in [libc::ENOSPC, libc::ENOMEM] {
        let dir = tempfile::tempdir().expect("a directory");
        let leaf = dir.path().join("leaf");
        std::fs::create_dir(&leaf).expect("a directory");
        let tree = Tree::new(dir.path()).expect("a tree");
        let mut stream = tree.stream().expect("a stream");
        let marks = || &tree.owner.shared.marks;
        marks().refuse(3, code);
        let believed = tree.ask("lose events", |worker| {
            lose(worker);
            !worker.tracker.shadow
        });
        assert!(!believed.expect("an answer"));
        assert_eq!(marks().refuse(0, 0), 0);
        // And then all is as it should be.
        let file = leaf.join("file");
        std::fs::write(&file, "").expect("a file");
        let barrier = tree.barrier().expect("a barrier");
        let mut seen = Vec::new();
        while !seen
            .iter()
            .any(|change: &crate::tree::OwnedChange| change.barrier() == Some(barrier))
        {
            let batch = stream.wait().expect("it goes on").expect("a batch");
            seen.extend(batch.iter().map(|change| change.to_owned()));
        }
        let lost = seen.iter().position(|change| change.is_overflow()).expect("a loss");
        let made =
            |change: &crate::tree::OwnedChange| change.mask() == Mask::CREATE && change.path() == Some(file.clone());
        assert_eq!(seen[lost..].iter().filter(|change| made(change)).count(), 1, "{seen:?}");
        assert!(tree.uncovered().is_empty());
    }
}

/// What was behind it in its buffer is looked for, as behind any loss.
#[test]
fn what_makes_no_sense_is_said_and_what_was_lost_with_it_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let builder = Tree::builder(dir.path()).recovery(Recovery::Diff);
    let tree = builder.open().expect("a tree");
    let mut stream = tree.stream().expect("a stream");
    let new = dir.path().join("new");
    let made = new.clone();
    let asked = tree.ask("read what makes no sense", move |worker| {
        let mut buffer = read(&[(0, Mask::empty(), 0, "")]);
        buffer.clear();
        // It claims to have a name, and ends there.
        assert!(buffer.append(&[1; HEADER]));
        // Nobody watches here for a moment.
        let root = worker.tracker.roots[0].node;
        let wd = worker.tracker.nodes.get(root).wd;
        worker.inotify.rm_watch(wd).expect("its watch");
        std::fs::create_dir(made).expect("a directory");
        let buffer = Arc::new(Read::Pooled(buffer));
        let mut draft = worker.begin();
        worker.apply(&buffer, &mut draft);
        worker.hand_on(None, draft);
    });
    asked.expect("an answer");
    let error = stream.wait().expect("it goes on").expect_err("it makes no sense");
    assert_eq!(error.kind(), ErrorKind::Malformed);
    let mut said = false;
    'all: loop {
        for change in &stream.wait().expect("it goes on").expect("a batch") {
            said |= change.is_overflow();
            if change.path().as_ref() == Some(&new) {
                break 'all;
            }
        }
    }
    assert!(said, "a loss");
    assert_eq!(tree.stats().directories, 2);
}

/// Not at once: it may be for a moment only. If there is no room for a watch, what needs its own less gives it up first.
#[test]
fn a_tree_that_can_set_no_markers_says_so_and_ends() {
    for (code, remedy) in [(libc::ENOMEM, None), (libc::ENOSPC, Some("max_user_watches"))] {
        let dir = tempfile::tempdir().expect("a directory");
        let leaf = dir.path().join("leaf");
        std::fs::create_dir(&leaf).expect("a directory");
        let tree = Tree::new(dir.path()).expect("a tree");
        let mut stream = tree.stream().expect("a stream");
        tree.owner.shared.marks.refuse(usize::MAX, code);
        std::fs::create_dir(dir.path().join("new")).expect("a directory");
        let mut given_up = false;
        let failure = loop {
            match stream.wait().expect("a reason") {
                Ok(batch) => {
                    assert!(batch.iter().all(|change| !change.is_overflow()));
                    let is_leaf = |change: crate::tree::Change<'_>| change.path().as_ref() == Some(&leaf);
                    given_up |= batch
                        .iter()
                        .any(|change| change.uncovered().is_some() && is_leaf(change));
                }
                Err(error) => break error,
            }
        };
        assert_eq!(failure.kind(), ErrorKind::ReaderFailed);
        assert!(
            remedy.is_none_or(|remedy| failure.to_string().contains(remedy)),
            "{failure}"
        );
        assert_eq!(given_up, code == libc::ENOSPC);
        assert!(stream.wait().is_none());
    }
}

/// So it does for the marker of a barrier that a loss swallowed, though nothing else waits for one.
#[test]
fn what_needs_its_watch_less_gives_it_up_for_a_barrier_that_was_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let leaf = dir.path().join("leaf");
    std::fs::create_dir(&leaf).expect("a directory");
    let tree = Tree::new(dir.path()).expect("a tree");
    let mut stream = tree.stream().expect("a stream");
    let setting = tree.clone();
    let barrier = tree.ask("lose markers", move |worker| {
        let barrier = setting.barrier().expect("a barrier");
        setting.owner.shared.marks.lose_markers();
        setting.owner.shared.marks.refuse(30, libc::ENOSPC);
        worker.shared.marks.overflowed(worker.taken, 0);
        barrier
    });
    let barrier = barrier.expect("an answer");
    let mut given_up = false;
    'all: loop {
        for change in &stream.wait().expect("it goes on").expect("a batch") {
            given_up |= change.uncovered().is_some() && change.path().as_ref() == Some(&leaf);
            if change.barrier() == Some(barrier) {
                break 'all;
            }
        }
    }
    assert!(given_up);
}

#[test]
fn a_tree_ends_that_waits_for_the_marker_of_a_loss() {
    let dir = tempfile::tempdir().expect("a directory");
    let tree = Tree::new(dir.path()).expect("a tree");
    tree.owner.shared.marks.refuse(usize::MAX, libc::ENOSPC);
    let (begun, begins) = std::sync::mpsc::channel();
    let closing = tree.clone();
    let closer = thread::spawn(move || {
        begins.recv().expect("it begins");
        // Whoever asks is answered meanwhile.
        assert!(closing.uncovered().is_empty());
        closing.close();
    });
    let believed = tree.ask("lose events", move |worker| {
        begun.send(()).expect("it is waited for");
        lose(worker);
        !worker.tracker.shadow
    });
    assert!(!believed.expect("an answer"));
    closer.join().expect("it is closed");
}

/// While the worker is asked this, no marker arrives, as if each were lost.
#[test]
fn a_barrier_arrives_behind_losses_though_no_marker_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let tree = Tree::new(dir.path()).expect("a tree");
    let mut stream = tree.stream().expect("a stream");
    let setting = tree.clone();
    let barrier = tree.ask("lose events", move |worker| {
        let barrier = setting.barrier().expect("a barrier");
        for _ in 0..6 {
            lose(worker);
            // All that was queued before.
            worker.taken += 1 << 30;
        }
        barrier
    });
    let barrier = barrier.expect("an answer");
    let mut overflows = 0;
    let overtaken = 'all: loop {
        for change in &stream.wait().expect("it goes on").expect("a batch") {
            overflows += usize::from(change.is_overflow());
            if change.barrier() == Some(barrier) {
                break 'all change.is_overtaken();
            }
        }
    };
    // It is due with the second, and what was before it has been looked at four times then.
    assert_eq!((overflows, overtaken), (5, true));
}

/// What is met again is not watched anew: the kernel would tell of nothing for a moment.
#[test]
fn a_look_takes_nothing_from_a_watch() {
    let dir = tempfile::tempdir().expect("a directory");
    let tree = Tree::new(dir.path()).expect("a tree");
    let _stream = tree.stream().expect("a stream");
    let path = std::ffi::CString::new(dir.path().as_os_str().as_bytes()).expect("a path");
    let masks = tree.ask("lose events", move |worker| {
        let more = worker.inotify.add_watch(&path, Mask::MASK_ADD | Mask::ACCESS);
        lose(worker);
        let own = worker.tracker.nodes.by_wd(more.expect("its watch"));
        let number = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&*worker.inotify));
        (own, std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")))
    });
    let (own, info) = masks.expect("an answer");
    assert!(own.is_some());
    let masks = info.expect("a list").lines().filter_map(mask).collect::<Vec<_>>();
    let expected = Mask::CHANGES | Mask::ACCESS;
    assert!(masks.iter().any(|mask| mask.contains(expected)), "{masks:?}");
}

/// What a line of a list of watches says that one asks for (proc(5)).
fn mask(line: &str) -> Option<Mask> {
    let mask = line.split(' ').find_map(|field| field.strip_prefix("mask:"))?;
    Some(Mask::from_bits_retain(u32::from_str_radix(mask, 16).ok()?))
}
