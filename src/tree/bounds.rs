//! Tests of what a tree takes, counted and not timed: no name is kept that nothing has, and what happens to one directory costs
//! nothing for the others.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::change::OwnedChange;
use super::found::{Crawl, Found, Outcome, Part};
use super::harness::{DIR, Fed, ROOT, Raw};
use super::nodes::{Id, NONE, Nodes, State};
use crate::error::ErrorKind;
use crate::mask::Mask;
use crate::sys::dir::Identity;

/// Known for good, or it would count as a leak.
fn name(number: u32, length: usize) -> &'static str {
    static NAMES: Mutex<BTreeMap<(u32, usize), &'static str>> = Mutex::new(BTreeMap::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    names
        .entry((number, length))
        .or_insert_with(|| String::leak(format!("{number:0length$}")))
}

/// One of 200 bytes was renamed 50,000 times, and its names took 15 MB.
#[test]
fn names_that_directories_had_are_not_kept() {
    let mut nodes = Nodes::new();
    let root = nodes.add(NONE, b"/r").expect("room");
    let dirs: Vec<_> = (0..10)
        .map(|number| nodes.add(root, name(number, 200).as_bytes()).expect("room"))
        .collect();
    for round in 0..5_000 {
        for (number, &dir) in (0..).zip(&dirs) {
            nodes.relink(dir, root, name(number + round % 2 * 10, 200).as_bytes());
        }
    }
    for (number, &dir) in (10..).zip(&dirs) {
        assert_eq!(nodes.path(dir), format!("/r/{}", name(number, 200)).as_bytes());
        assert_eq!(nodes.child(root, name(number, 200).as_bytes()), Some(dir));
    }
    assert!(nodes.memory().1 < 512 * 1024, "{:?}", nodes.memory());
}

/// What is known of a directory can't be kept: it was left as it was, and nothing said.
#[test]
fn a_directory_is_laid_down_if_there_is_no_room_for_a_name_in_it() {
    type Act = fn(&mut Fed) -> Vec<OwnedChange>;
    let acts: [Act; 3] = [
        |fed| fed.feed(&[&[(2, Mask::CREATE | DIR, 0, "new")]]),
        |fed| {
            fed.feed(&[&[
                (ROOT, Mask::MOVED_FROM | DIR, 7, "b"),
                (2, Mask::MOVED_TO | DIR, 7, "new"),
            ]])
        },
        |fed| {
            let a = fed.tracker.nodes.by_wd(2).expect("it is watched");
            fed.report(|tracker, out| {
                tracker.begin_session(true);
                tracker.jobs();
                tracker.take_in(&found_below(a, 9), out);
            })
        },
    ];
    for (number, act) in acts.iter().enumerate() {
        let mut fed = Fed::new(true, false);
        let a = fed.dir(fed.root, "a", 2);
        fed.dir(a, "in-a", 4);
        let b = fed.dir(fed.root, "b", 3);
        fed.tracker.nodes.fill();
        let changes = act(&mut fed);
        let said = changes.iter().filter(|change| change.uncovered().is_some());
        let said: Vec<_> = said.filter_map(OwnedChange::path).collect();
        assert_eq!(said, [PathBuf::from("/r/a")], "{number}: {changes:?}");
        assert_eq!(fed.tracker.nodes.get(a).state, State::Uncovered);
        assert_eq!(fed.tracker.nodes.children(a).count(), 0);
        assert!(fed.tracker.releasing.contains(&2) && fed.tracker.releasing.contains(&4));
        assert_eq!(fed.tracker.nodes.by_wd(3), (number != 1).then_some(b));
        assert_eq!(fed.tracker.releasing.contains(&9), number == 2);
        fed.assert_sound();
        let refused = fed.tracker.add_root(b"/other".to_vec()).expect_err("no room");
        assert_eq!(refused.kind(), ErrorKind::OutOfMemory);
    }
    let long = vec![b'x'; 1 << 16];
    let refused = Fed::new(true, false).tracker.add_root(long).expect_err("too long");
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
}

/// What a look at a directory has found: it is watched by 2, and has one in it that is watched by this.
fn found_below(dir: Id, wd: i32) -> Crawl {
    let mut part = Part::default();
    let name = part.put(b"new");
    for (number, node, parent, wd) in [(0, dir, NONE, 2), (1, NONE, 0, wd)] {
        let identity = Identity { device: 1, inode: 1 };
        part.found.push(Found {
            number,
            parent,
            node,
            name,
            files: (name.1, name.1),
            outcome: Outcome::Watched { wd, identity },
            listed: true,
            link: false,
        });
    }
    Crawl::new(vec![part], 2)
}

/// Each may be there again, exchanged with what was there when the watch was made. Each was looked for among all others, and
/// one session looked at all.
#[test]
fn as_many_names_may_be_in_doubt_as_are_renamed() {
    const RENAMES: u32 = 40_000;
    let mut fed = Fed::new(false, false);
    let fresh = fed.dir(fed.root, "fresh", 2);
    fed.tracker.begin_session(true);
    fed.tracker.nodes.get_mut(fresh).session = fed.tracker.session;
    for first in (0..RENAMES).step_by(1_000) {
        let gone = |number| -> Raw { (2, Mask::MOVED_FROM, number + 1, name(number, 20)) };
        let gone: Vec<_> = (first..first + 1_000).map(gone).collect();
        fed.feed(&[&gone]);
    }
    fed.end_session();
    let (mut looked_at, mut sessions) = (0, 0);
    while fed.tracker.has_work() {
        fed.tracker.begin_session(true);
        let probes = fed.tracker.probes();
        looked_at += probes.len();
        sessions += 1;
        assert!(probes.iter().map(|probe| probe.name.len()).sum::<usize>() <= 1 << 20);
        // Barriers wait for the rest.
        assert_eq!(fed.tracker.stirred, looked_at < RENAMES as usize);
        fed.report(|tracker, out| probes.iter().for_each(|probe| tracker.probed(probe, None, out)));
        fed.end_session();
    }
    assert_eq!(looked_at, RENAMES as usize);
    assert!(sessions > 1);
}

/// Who may rename in a directory that the tree may not search could have it remember more and more.
#[test]
fn a_directory_with_many_names_in_doubt_that_nobody_can_tell_about_is_laid_down() {
    let mut fed = Fed::new(false, false);
    let a = fed.dir(fed.root, "a", 2);
    let mut said = Vec::new();
    for first in (0..2_000).step_by(100) {
        (first..first + 100).for_each(|number| fed.tracker.doubts.put(a, name(number, 1).as_bytes()));
        let changes = fed.report(|tracker, out| {
            tracker.begin_session(true);
            let probes = tracker.probes();
            probes
                .iter()
                .for_each(|probe| tracker.probe_refused(probe, libc::EACCES, out));
            tracker.take_in(&Crawl::default(), out);
        });
        fed.end_session();
        said.extend(changes.iter().map(OwnedChange::mask));
        if fed.tracker.nodes.get(a).state == State::Uncovered {
            break;
        }
        assert_eq!(fed.tracker.doubts.forbidden(a), first as usize + 100);
    }
    // That it is not covered in part, then that it is gone and made, and not covered.
    assert_eq!(said, [DIR, DIR | Mask::DELETE, DIR | Mask::CREATE, DIR]);
    assert_eq!(fed.tracker.nodes.get(a).state, State::Uncovered);
    assert!(fed.tracker.doubts.is_empty() && !fed.tracker.has_work());
    // It is covered as soon as it may be searched.
    fed.feed(&[&[(ROOT, Mask::ATTRIB | DIR, 0, "a")]]);
    assert_eq!(fed.tracker.nodes.get(a).state, State::Pending);
}

/// How often directories are looked up for a rename of one that has so many in it.
fn cost_of_a_rename(below: u32, filtered: bool) -> usize {
    let mut fed = Fed::new(true, false);
    let old = fed.dir(fed.root, "old", 2);
    for number in 0..below {
        fed.dir(old, name(number, 1), 100 + number.cast_signed());
    }
    if filtered {
        fed.tracker.manner.filter = Some(std::sync::Arc::new(|_| true));
    }
    let before = fed.tracker.nodes.lookups();
    let changes = fed.feed(&[&[
        (ROOT, Mask::MOVED_FROM | DIR, 7, "old"),
        (ROOT, Mask::MOVED_TO | DIR, 7, "new"),
    ]]);
    assert_eq!((changes.len(), fed.tracker.has_work()), (2, false));
    fed.tracker.nodes.lookups() - before
}

#[test]
fn a_rename_costs_as_much_whatever_is_below() {
    assert!(cost_of_a_rename(10_000, false) < 200);
    // But a filter is asked for each: this is counted.
    assert!(cost_of_a_rename(10_000, true) > 10_000);
}

/// The files of one had two jobs if a root of another came between them, and a loss was told of twice.
#[test]
fn each_directory_of_a_root_is_looked_at_once_after_a_loss() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut fed = Fed::new(true, false);
    for name in ["a/1", "b/1", "a/2", "b/2"] {
        let file = dir.path().join(name);
        fs::create_dir_all(file.parent().expect("its directory")).expect("a directory");
        fs::write(&file, "").expect("a file");
        fed.tracker
            .add_root(file.as_os_str().as_bytes().to_vec())
            .expect("a root");
    }
    let jobs: Vec<_> = fed.tracker.begin_recovery().iter().map(|job| job.node).collect();
    assert_eq!((jobs.len(), jobs.into_iter().collect::<HashSet<_>>().len()), (3, 3));
}
