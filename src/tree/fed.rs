//! Tests of the state machine: fed with records as the kernel would write them, without a disk or a kernel.

use std::path::PathBuf;

use proptest::prelude::*;

use super::ahead::{Ahead, Partner};
use super::change::OwnedChange;
use super::doubts::Answer;
use super::files::UNKNOWN;
use super::found::{Crawl, Found, Outcome, Part};
use super::harness::{DIR, Fed, MARKER, ROOT, Raw, read};
use super::nodes::{Id, NONE, State};
use super::swaps::{Spot, Swaps};
use crate::decode::Records;
use crate::mask::Mask;
use crate::sys::dir::Identity;

/// The one change of this kind: its path, and where that was before.
fn one(changes: &[OwnedChange], mask: Mask) -> (Option<PathBuf>, Option<PathBuf>) {
    let mut found = changes.iter().filter(|change| change.mask().contains(mask));
    let change = found.next().expect("such a change");
    assert!(found.next().is_none(), "{changes:?}");
    (change.path(), change.renamed_from().map(Into::into))
}

fn path(text: &str) -> Option<PathBuf> {
    Some(text.into())
}

/// The same records in one read, and each in a read of its own.
fn in_one_read_and_in_many(records: &[Raw], body: impl Fn(&[&[Raw]])) {
    body(&[records]);
    let each: Vec<_> = records.chunks(1).collect();
    body(&each);
}

#[test]
fn a_rename_is_one_wherever_a_read_ends() {
    let records = [
        (ROOT, Mask::MOVED_FROM | DIR, 7, "a"),
        (2, Mask::MODIFY, 0, "noise"),
        (ROOT, Mask::MOVED_TO | DIR, 7, "b"),
        (3, Mask::CREATE, 0, "file"),
    ];
    in_one_read_and_in_many(&records, |reads| {
        let mut fed = Fed::new(false, false);
        let a = fed.dir(fed.root, "a", 2);
        fed.dir(a, "sub", 3);
        let changes = fed.feed(reads);
        assert_eq!(one(&changes, Mask::MOVED_TO), (path("/r/b"), path("/r/a")));
        assert_eq!(one(&changes, Mask::CREATE), (path("/r/b/sub/file"), None));
        assert!(!changes.iter().any(OwnedChange::is_moved_out));
        assert!(fed.tracker.is_calm());
        fed.assert_sound();
    });
}

#[test]
fn pairs_of_renames_may_interleave() {
    let records = [
        (2, Mask::MOVED_FROM | DIR, 7, "x"),
        (3, Mask::MOVED_FROM | DIR, 8, "y"),
        (5, Mask::MOVED_TO | DIR, 8, "y"),
        (4, Mask::MOVED_TO | DIR, 7, "x"),
        (12, Mask::CREATE, 0, "in-x"),
        (13, Mask::CREATE, 0, "in-y"),
    ];
    in_one_read_and_in_many(&records, |reads| {
        let mut fed = Fed::new(false, false);
        let dirs = ["p", "q", "s", "t"].into_iter().zip(2..);
        let dirs: Vec<_> = dirs.map(|(name, wd)| fed.dir(fed.root, name, wd)).collect();
        fed.dir(dirs[0], "x", 12);
        fed.dir(dirs[1], "y", 13);
        let changes = fed.feed(reads);
        let paths: Vec<_> = changes.iter().filter_map(OwnedChange::path).collect();
        let expected = ["p/x", "s/x", "q/y", "t/y", "s/x/in-x", "t/y/in-y"];
        assert_eq!(paths, expected.map(|path| PathBuf::from("/r").join(path)));
        assert!(!changes.iter().any(OwnedChange::is_moved_out));
        fed.assert_sound();
    });
}

#[test]
fn the_search_for_the_other_half_ends_where_it_can_not_come_any_more() {
    for end in [(ROOT, Mask::CREATE, 0, "a"), (MARKER, Mask::IGNORED, 0, "")] {
        let records = [
            (ROOT, Mask::MOVED_FROM | DIR, 7, "a"),
            end,
            (ROOT, Mask::MOVED_TO | DIR, 7, "b"),
        ];
        in_one_read_and_in_many(&records, |reads| {
            let mut fed = Fed::new(false, false);
            fed.dir(fed.root, "a", 2);
            let changes = fed.feed(reads);
            assert!(changes[0].is_moved_out());
            assert_eq!(one(&changes, Mask::MOVED_TO), (path("/r/b"), None));
            assert_eq!(fed.tracker.releasing, [2]);
            assert!(fed.tracker.has_work());
        });
    }
}

#[test]
fn the_other_half_that_was_not_read_yet_is_waited_for() {
    let mut ahead = Ahead::default();
    ahead.push(read(&[(ROOT, Mask::MOVED_FROM, 7, "a")]));
    let buffer = ahead.front().unwrap();
    let from = Records::new(buffer.filled()).next().unwrap().unwrap();
    let behind = buffer.filled().len();
    assert_eq!(ahead.partner(&from, (0, behind), |_| false), Partner::Unread);
    ahead.push(read(&[(2, Mask::MODIFY, 0, "x"), (ROOT, Mask::MOVED_TO, 7, "b")]));
    assert_eq!(ahead.partner(&from, (0, behind), |_| false), Partner::At(1, 32));
    assert_eq!(ahead.partner(&from, (1, 0), |_| false), Partner::At(1, 32));
    ahead.take(1, 32).unwrap();
    ahead.pop();
    assert!(!ahead.was_taken(0) && ahead.was_taken(32) && !ahead.was_taken(32));
}

#[test]
fn directories_that_may_have_been_exchanged_are_looked_at_again() {
    let records = [
        (ROOT, Mask::MOVED_FROM | DIR, 7, "a"),
        (ROOT, Mask::MOVED_TO | DIR, 7, "b"),
        (ROOT, Mask::MOVED_FROM | DIR, 8, "b"),
        (ROOT, Mask::MOVED_TO | DIR, 8, "a"),
    ];
    in_one_read_and_in_many(&records, |reads| {
        let mut fed = Fed::new(false, false);
        fed.dir(fed.root, "a", 2);
        fed.dir(fed.root, "b", 3);
        fed.feed(reads);
        // Neither stands for what was under its name before.
        assert_eq!((fed.tracker.nodes.by_wd(2), fed.tracker.nodes.by_wd(3)), (None, None));
        let a = fed.tracker.nodes.child(fed.root, b"a").expect("it has come");
        assert_eq!(fed.tracker.nodes.get(a).state, State::Pending);
        assert_eq!(fed.tracker.doubts.get(fed.root, b"b"), Some(Answer::Open));
        fed.assert_sound();
    });
}

/// What seed 21487 found: the directory was watched between the halves, so that of an exchange only the second is seen. It
/// says that the name has left, and there is another under it.
#[test]
fn what_leaves_a_directory_whose_watch_is_new_may_have_been_exchanged() {
    for is_dir in [Mask::empty(), DIR] {
        let mut fed = Fed::new(true, false);
        let old = fed.dir(fed.root, "old", 2);
        fed.tracker.begin_session(true);
        let new = fed.dir(fed.root, "new", 3);
        fed.tracker.nodes.get_mut(new).session = fed.tracker.session;
        if is_dir.is_empty() {
            let tracker = &mut fed.tracker;
            tracker.files.put(&mut tracker.nodes, new, b"x", UNKNOWN);
        } else {
            let x = fed.dir(new, "x", 4);
            fed.tracker.nodes.get_mut(x).session = fed.tracker.session;
        }
        fed.feed(&[&[
            (3, Mask::MOVED_FROM | is_dir, 8, "x"),
            (2, Mask::MOVED_TO | is_dir, 8, "y"),
        ]]);
        assert_eq!(fed.tracker.doubts.get(new, b"x"), Some(Answer::Open));
        assert!(fed.tracker.doubts.get(old, b"y").is_none());
        fed.assert_sound();
    }
}

/// Renamed while all was new, as behind a loss, a directory may have been exchanged with another. Once a session has had the
/// lock that an exchange holds through, it has not, and what is renamed back is what was renamed.
#[test]
fn what_is_renamed_back_behind_a_session_was_not_exchanged() {
    for rested in [true, false] {
        let mut fed = Fed::new(true, false);
        let p = fed.dir(fed.root, "p", 2);
        let q = fed.dir(fed.root, "q", 3);
        let there = fed.dir(p, "d", 4);
        fed.tracker.begin_recovery();
        fed.tracker.shadow = false;
        for id in [p, q, there] {
            fed.tracker.nodes.get_mut(id).session = fed.tracker.session;
        }
        let rename = |from, to, cookie| {
            let halves = [(from, Mask::MOVED_FROM), (to, Mask::MOVED_TO)];
            halves.map(|(wd, half)| (wd, half | DIR, cookie, "d"))
        };
        fed.feed(&[&rename(2, 3, 7)]);
        fed.end_session();
        fed.settle(4, false);
        assert_eq!(fed.tracker.swaps.suspects(), [q]);
        if rested {
            fed.tracker.swaps.rested(q);
        }
        fed.end_session();
        let changes = fed.feed(&[&rename(3, 2, 8), &[(4, Mask::MODIFY, 0, "b")]]);
        let (_, from) = one(&changes, Mask::MOVED_TO);
        if rested {
            assert_eq!(from, path("/r/q/d"));
            assert_eq!(one(&changes, Mask::MODIFY).0, path("/r/p/d/b"));
            assert!(fed.tracker.is_calm());
        } else {
            assert_eq!(from, None);
            assert!(fed.tracker.has_work());
        }
        fed.assert_sound();
    }
}

#[test]
fn what_may_be_half_of_an_exchange_is_forgotten_in_the_order_it_came() {
    let spot = |dir: u32| Spot::new(dir, b"x");
    for notes in [3, 255, 256, 257, 300, 600] {
        let mut swaps = Swaps::default();
        for number in 0..notes {
            swaps.note(None, spot(number % 2), number, true, true);
        }
        assert_eq!(swaps.suspects(), [0, 1]);
        swaps.rested(0);
        swaps.note(None, spot(0), notes, true, true);
        swaps.end_session();
        // What came behind the session's look stays, and the newest of each place is found.
        assert_eq!(swaps.came_to(spot(0), notes).map(|first| first.cookie), Some(notes));
        let last = notes / 2 * 2 - 1;
        assert_eq!(swaps.came_to(spot(1), notes).map(|first| first.cookie), Some(last));
        for number in notes + 1..notes + 500 {
            swaps.note(None, spot(2), number, true, true);
            assert_eq!(swaps.came_to(spot(2), number).map(|first| first.cookie), Some(number));
        }
    }
}

/// What round 502 with few watches found: a directory had to give up its watch for a marker, was covered again, and what is in
/// it was found and reported a second time.
#[test]
fn a_directory_that_is_given_up_has_nothing_in_it() {
    for keeps_files in [false, true] {
        let mut fed = Fed::new(keeps_files, false);
        let a = fed.dir(fed.root, "a", 2);
        fed.tracker.begin_session(true);
        fed.tracker.nodes.get_mut(a).session = fed.tracker.session;
        fed.tracker.files.put(&mut fed.tracker.nodes, a, b"x", UNKNOWN);
        let changes = fed.report(|tracker, out| tracker.give_up_one(out));
        let said: Vec<_> = changes.iter().map(|change| (change.path(), change.mask())).collect();
        let told = [Mask::DELETE | DIR, Mask::CREATE | DIR, DIR].map(|mask| (path("/r/a"), mask));
        assert_eq!(said, told);
        assert!(changes[2].uncovered().is_some());
        assert_eq!(fed.tracker.releasing, [2]);
        assert!(!fed.tracker.files.contains(a, b"x"));
        // What the kernel still had to tell of it is void.
        assert!(fed.feed(&[&[(2, Mask::CREATE, 0, "y")]]).is_empty());
        fed.assert_sound();
    }
}

/// Where only what has no others in it was given up, a marker waited for ever for a watch.
#[test]
fn a_directory_is_given_up_that_has_only_such_in_it_as_are_not_watched() {
    for below in [State::Filtered, State::Uncovered, State::Pending] {
        let mut fed = Fed::new(false, false);
        let a = fed.dir(fed.root, "a", 2);
        let b = fed.tracker.nodes.add(a, b"b").expect("room");
        fed.tracker.nodes.get_mut(b).state = below;
        let changes = fed.report(|tracker, out| tracker.give_up_one(out));
        let is_given_up = below != State::Pending;
        assert_eq!(fed.tracker.nodes.by_wd(2).is_none(), is_given_up, "{below:?}");
        assert_eq!(changes.iter().any(|change| change.uncovered().is_some()), is_given_up);
        if is_given_up {
            assert_eq!(fed.tracker.nodes.get(a).state, State::Uncovered);
            assert_eq!(fed.tracker.nodes.child(a, b"b"), None);
        }
        fed.assert_sound();
    }
}

/// What round 485 with mounts found: the doubt about a name stayed, and when the directory had been listed again, what has
/// that name was found and reported a second time.
#[test]
fn a_directory_that_is_to_be_listed_has_no_name_in_doubt() {
    type Again = fn(&mut Fed, Id);
    let again: [Again; 3] = [
        |fed, a| drop(fed.report(|tracker, out| tracker.unsettle(a, out))),
        |fed, _| drop(fed.feed(&[&[(2, Mask::IGNORED, 0, "")]])),
        |fed, a| fed.tracker.look_again(a),
    ];
    for again in again {
        let mut fed = Fed::new(false, false);
        let a = fed.dir(fed.root, "a", 2);
        fed.tracker.doubts.put(fed.root, b"other");
        fed.tracker.doubts.put(a, b"x");
        again(&mut fed, a);
        assert_eq!(fed.tracker.nodes.get(a).state, State::Pending);
        assert!(fed.tracker.doubts.get(a, b"x").is_none());
        assert!(fed.tracker.doubts.get(fed.root, b"other").is_some());
    }
}

#[test]
fn what_was_looked_at_long_ago_is_not_new_when_numbers_begin_again() {
    let mut fed = Fed::new(true, false);
    fed.tracker.begin_session(true);
    let a = fed.dir(fed.root, "a", 2);
    fed.tracker.nodes.get_mut(a).session = fed.tracker.session;
    fed.end_session();
    for _ in 0..u16::MAX {
        fed.tracker.begin_session(true);
        assert!(!fed.tracker.is_fresh(a), "{}", fed.tracker.session);
        fed.tracker.session = 0;
    }
}

/// What a look at a root has found there: this watch, and a file if it was `listed`.
fn found(root: Id, wd: i32, listed: bool) -> Crawl {
    let mut part = Part::default();
    let start = part.put(&[0; 8]).0;
    part.put(b"\x04file");
    let identity = Identity { device: 1, inode: 1 };
    part.found.push(Found {
        number: 0,
        parent: NONE,
        node: root,
        name: (start, start),
        files: (start, part.text.len()),
        outcome: Outcome::Watched { wd, identity },
        listed,
        link: false,
    });
    Crawl::new(vec![part], 1)
}

/// What was made in a root that is made just now was told before the root was, by the other root that it is in.
#[test]
fn a_root_in_another_is_covered_behind_what_tells_of_it() {
    for told in [true, false] {
        let mut fed = Fed::new(true, false);
        fed.tracker.add_root(b"/r/a".to_vec()).expect("a root");
        let inner = fed.tracker.roots[1].node;
        let look = |fed: &mut Fed, wd| {
            let changes = fed.report(|tracker, out| {
                tracker.begin_session(true);
                let listed = !tracker.only_probes(inner);
                tracker.jobs();
                tracker.take_in(&found(inner, wd, listed), out, |_| {});
            });
            fed.assert_sound();
            changes
        };
        assert!(look(&mut fed, 8).is_empty());
        fed.end_session();
        // Another is there now, perhaps with the same inode.
        assert!(look(&mut fed, 9).is_empty());
        assert!(!fed.tracker.only_probes(inner));
        // What has come and gone above may be this.
        fed.feed(&[&[(ROOT, Mask::CREATE | DIR, 0, "b")]]);
        assert!(fed.tracker.only_probes(inner));
        fed.feed(&[&[(ROOT, Mask::DELETE | DIR, 0, "b")]]);
        assert_eq!(fed.tracker.releasing, [8]);
        if told {
            let changes = fed.feed(&[&[(ROOT, Mask::CREATE | DIR, 0, "a")]]);
            assert_eq!(one(&changes, Mask::CREATE), (path("/r/a"), None));
            fed.end_session();
            assert!(look(&mut fed, 9).is_empty());
            let a = fed.tracker.nodes.child(fed.root, b"a").expect("it was told of");
            fed.tracker.nodes.watch(a, 9);
            fed.end_session();
            assert!(look(&mut fed, 9).is_empty());
            assert_eq!(fed.tracker.roots[1].within, Some(a));
        } else {
            fed.end_session();
            assert!(look(&mut fed, 9).is_empty());
            fed.end_session();
            assert!(!fed.tracker.only_probes(inner));
            let changes = look(&mut fed, 9);
            assert_eq!(one(&changes, Mask::CREATE), (path("/r/a/file"), None));
            assert_eq!(fed.tracker.nodes.by_wd(9), Some(inner));
        }
        assert!(fed.tracker.roots[1].left.is_none());
        assert_eq!(fed.tracker.releasing.len(), 1);
    }
}

/// What the replay with few watches found: it was forgotten with all that was reported of it, and found and reported again.
#[test]
fn a_missing_root_that_was_covered_since_is_not_looked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut fed = Fed::new(false, false);
    let path = dir.path().as_os_str().as_encoded_bytes();
    fed.tracker.add_root(path.to_vec()).expect("a root");
    let root = fed.tracker.roots[1].node;
    fed.report(|tracker, out| tracker.root_gone(root, "it was renamed", out));
    fed.tracker.roots[1].awaited = true;
    // On request.
    fed.tracker.look_again(root);
    fed.report(|tracker, out| {
        tracker.begin_session(false);
        tracker.jobs();
        tracker.take_in(&found(root, 8, true), out, |_| {});
    });
    fed.end_session();
    assert!(!fed.tracker.look_for_missing());
    assert_eq!(fed.tracker.nodes.by_wd(8), Some(root));
    assert!(!fed.tracker.has_work());
}

/// What the replay found: it was said to be forbidden for ever.
#[test]
fn a_root_that_was_refused_is_looked_at_when_what_is_on_the_way_to_it_goes() {
    for code in [libc::EACCES, libc::ENOSPC] {
        for (gone, looks) in [("a", true), ("b", true), ("c", false)] {
            let mut fed = Fed::new(false, false);
            let a = fed.dir(fed.root, "a", 2);
            fed.tracker.nodes.add(a, b"inner").expect("room");
            fed.dir(fed.root, "c", 3);
            fed.tracker.add_root(b"/r/a/inner".to_vec()).expect("a root");
            fed.tracker.pending.clear();
            let inner = fed.tracker.roots[1].node;
            fed.tracker.nodes.get_mut(inner).state = State::Uncovered;
            fed.tracker.nodes.get_mut(inner).flags = 0;
            fed.report(|tracker, out| tracker.refused(inner, "watch directory", code, out));
            match gone {
                // What replaces it is a file.
                "b" => fed.feed(&[&[
                    (ROOT, Mask::CREATE, 0, "b"),
                    (ROOT, Mask::MOVED_FROM, 1, "b"),
                    (ROOT, Mask::MOVED_TO, 1, "a"),
                ]]),
                gone => fed.feed(&[&[(ROOT, Mask::DELETE | DIR, 0, gone)]]),
            };
            let expected = if looks { State::Pending } else { State::Uncovered };
            assert_eq!(fed.tracker.nodes.get(inner).state, expected, "{code} {gone}");
            assert_eq!(fed.tracker.stirred, looks);
            fed.assert_sound();
        }
    }
}

/// Where watches are few: what the root had reported was found and reported again when the other could cover it.
#[test]
fn what_a_root_alone_covered_is_void_when_it_goes() {
    for state in [State::Uncovered, State::Pending, State::Filtered] {
        let mut fed = Fed::new(false, false);
        let a = fed.tracker.nodes.add(fed.root, b"a").expect("room");
        fed.tracker.nodes.get_mut(a).state = state;
        fed.tracker.add_root(b"/r/a".to_vec()).expect("a root");
        let inner = fed.tracker.roots[1].node;
        fed.tracker.nodes.watch(inner, 8);
        let changes = fed.report(|tracker, out| assert!(tracker.remove_root(b"/r/a", out)));
        let said: Vec<_> = changes.iter().map(|change| (change.path(), change.mask())).collect();
        match state {
            State::Filtered => assert!(said.is_empty()),
            _ => assert_eq!(
                said,
                [Mask::DELETE, Mask::CREATE].map(|mask| (path("/r/a"), mask | DIR))
            ),
        }
        assert_eq!(fed.tracker.releasing, [8]);
        fed.assert_sound();
    }
}

/// Where directories elsewhere never cease to be made, nothing is waited for but what may tell of it.
#[test]
fn a_root_in_another_waits_for_what_is_told_on_the_way_to_it() {
    let mut fed = Fed::new(true, false);
    fed.tracker.add_root(b"/r/p/a".to_vec()).expect("a root");
    let inner = fed.tracker.roots[1].node;
    fed.dir(fed.root, "elsewhere", 2);
    fed.dir(fed.root, "p", 3);
    let look = |fed: &mut Fed| {
        let changes = fed.report(|tracker, out| {
            tracker.begin_session(true);
            tracker.jobs();
            tracker.take_in(&found(inner, 8, false), out, |_| {});
        });
        assert!(changes.is_empty());
        fed.end_session();
    };
    look(&mut fed);
    fed.feed(&[&[
        (2, Mask::CREATE | DIR, 0, "a"),
        (2, Mask::DELETE | DIR, 0, "a"),
        (2, Mask::CREATE | DIR, 0, "b"),
        (2, Mask::MOVED_FROM | DIR, 1, "b"),
        (2, Mask::MOVED_TO | DIR, 1, "c"),
        (3, Mask::CREATE, 0, "file"),
    ]]);
    assert!(!fed.tracker.only_probes(inner));
    let on_the_way: [&[Raw]; 5] = [
        &[(3, Mask::CREATE | DIR, 0, "b"), (3, Mask::DELETE | DIR, 0, "b")],
        &[(2, Mask::MOVED_FROM | DIR, 2, "c"), (3, Mask::MOVED_TO | DIR, 2, "c")],
        &[(3, Mask::MOVED_FROM | DIR, 3, "c")],
        &[(ROOT, Mask::CREATE | DIR, 0, "other")],
        &[
            (ROOT, Mask::MOVED_FROM | DIR, 4, "p"),
            (ROOT, Mask::MOVED_TO | DIR, 4, "q"),
        ],
    ];
    for told in on_the_way {
        fed.feed(&[told]);
        assert!(fed.tracker.only_probes(inner), "{told:?}");
        look(&mut fed);
        assert!(!fed.tracker.only_probes(inner));
    }
    fed.tracker.doubt_left(inner);
    assert!(fed.tracker.only_probes(inner), "nobody could tell");
    look(&mut fed);
    // It is not the way any more.
    fed.feed(&[&[(3, Mask::CREATE | DIR, 0, "b")]]);
    assert!(!fed.tracker.only_probes(inner));
    fed.assert_sound();
}

/// A directory that a look has found.
#[derive(Clone, Copy)]
struct Look {
    parent: u32,
    node: Id,
    name: &'static str,
    /// None if none was found.
    wd: Option<i32>,
    listed: bool,
    /// Its listing broke off with this errno.
    broken: Option<i32>,
    link: bool,
}

const JOB: Look = Look {
    parent: NONE,
    node: NONE,
    name: "",
    wd: None,
    listed: true,
    broken: None,
    link: false,
};

fn crawl(looks: &[Look]) -> Crawl {
    let mut part = Part::default();
    for (number, look) in (0..).zip(looks) {
        let name = part.put(look.name.as_bytes());
        let identity = Identity { device: 1, inode: 1 };
        part.found.push(Found {
            number,
            parent: look.parent,
            node: look.node,
            name,
            files: (name.1, name.1),
            outcome: match (look.wd, look.broken) {
                (None, _) => Outcome::Vanished,
                (Some(wd), None) => Outcome::Watched { wd, identity },
                (Some(wd), Some(code)) => Outcome::Unlisted { wd, identity, code },
            },
            listed: look.listed,
            link: look.link,
        });
    }
    Crawl::new(vec![part], looks.len())
}

/// Links to a directory that is covered elsewhere, once that was found. Answers the covered one's and the other.
fn alias(fed: &mut Fed) -> (Id, Id) {
    fed.feed(&[&[(ROOT, Mask::CREATE, 0, "l"), (ROOT, Mask::CREATE, 0, "m")]]);
    let [l, m] = [b"l", b"m"].map(|name| fed.tracker.nodes.child(fed.root, name).expect("it may be a link"));
    fed.report(|tracker, out| {
        tracker.begin_session(true);
        tracker.jobs();
        let look = |node, listed| Look {
            node,
            wd: Some(5),
            listed,
            link: true,
            ..JOB
        };
        tracker.take_in(&crawl(&[look(l, true), look(m, false)]), out, |_| {});
    });
    fed.end_session();
    assert!(fed.tracker.is_calm());
    assert_eq!(fed.tracker.nodes.get(m).state, State::Uncovered);
    (l, m)
}

#[test]
fn an_alias_is_looked_at_when_what_covers_it_goes_and_barriers_wait_for_that() {
    let ways: [&[Raw]; 4] = [
        &[(ROOT, Mask::DELETE, 0, "l")],
        &[(ROOT, Mask::MOVED_FROM, 7, "l"), (MARKER, Mask::IGNORED, 0, "")],
        &[(5, Mask::MOVE_SELF, 0, "")],
        &[(5, Mask::DELETE_SELF, 0, ""), (5, Mask::IGNORED, 0, "")],
    ];
    for way in ways {
        let mut fed = Fed::new(false, true);
        let (_, m) = alias(&mut fed);
        fed.feed(&[&[
            (ROOT, Mask::CREATE | DIR, 0, "other"),
            (ROOT, Mask::DELETE | DIR, 0, "other"),
        ]]);
        assert!(fed.tracker.is_calm());
        fed.feed(&[way]);
        assert!(fed.tracker.has_work());
        assert_eq!(fed.tracker.nodes.get(m).state, State::Pending);
        fed.assert_sound();
    }
}

/// A link whose target is renamed or gone has nothing below it any more, and may lead elsewhere.
#[test]
fn a_link_whose_target_moves_is_told_as_another() {
    let mut fed = Fed::new(true, true);
    let (l, _) = alias(&mut fed);
    let changes = fed.feed(&[&[(5, Mask::MOVE_SELF, 0, ""), (5, Mask::CREATE, 0, "unheard")]]);
    let said: Vec<_> = changes.iter().map(|change| (change.path(), change.mask())).collect();
    assert_eq!(said, [Mask::DELETE, Mask::CREATE].map(|mask| (path("/r/l"), mask)));
    assert_eq!(fed.tracker.nodes.get(l).state, State::Pending);
    assert_eq!(fed.tracker.releasing, [5]);
}

/// Of each pair one stays where it went, whatever it is.
#[test]
fn what_is_exchanged_with_what_may_be_a_link_is_not_lost() {
    for (a, b) in [
        (DIR, Mask::empty()),
        (Mask::empty(), DIR),
        (Mask::empty(), Mask::empty()),
    ] {
        let mut fed = Fed::new(true, true);
        fed.feed(&[&[(ROOT, Mask::CREATE | a, 0, "a"), (ROOT, Mask::CREATE | b, 0, "b")]]);
        fed.settle(5, false);
        fed.end_session();
        fed.feed(&[&[
            (ROOT, Mask::MOVED_FROM | a, 7, "a"),
            (ROOT, Mask::MOVED_TO | a, 7, "b"),
            (ROOT, Mask::MOVED_FROM | b, 8, "b"),
            (ROOT, Mask::MOVED_TO | b, 8, "a"),
        ]]);
        let tracker = &fed.tracker;
        assert!(tracker.nodes.child(fed.root, b"a").is_some());
        let there = tracker.nodes.child(fed.root, b"b").is_some();
        assert!(there || tracker.doubts.get(fed.root, b"b").is_some(), "{a:?} and {b:?}");
        fed.assert_sound();
    }
}

/// What was not listed to its end was taken for empty.
#[test]
fn a_listing_that_breaks_off_behind_a_loss_is_said_and_what_was_known_is_void() {
    let mut fed = Fed::new(true, false);
    let a = fed.dir(fed.root, "a", 2);
    fed.dir(a, "inner", 3);
    let root = Look {
        node: fed.root,
        name: "/r",
        wd: Some(ROOT),
        ..JOB
    };
    let broken = Look {
        parent: 0,
        name: "a",
        wd: Some(2),
        broken: Some(libc::EIO),
        ..JOB
    };
    let recover = |fed: &mut Fed, looks: &[Look]| {
        let changes = fed.report(|tracker, out| {
            tracker.begin_recovery();
            tracker.recover(&crawl(looks), out, |_| {});
        });
        fed.end_session();
        fed.assert_sound();
        changes
    };
    let of = |changes: &[OwnedChange]| {
        let of = |change: &OwnedChange| (change.path(), change.mask(), change.uncovered().is_some());
        changes.iter().map(of).collect::<Vec<_>>()
    };
    let whole = |path: Option<PathBuf>, mask| (path, mask | DIR, false);
    let changes = recover(&mut fed, &[root, broken]);
    let said = (path("/r/a"), DIR, true);
    let void = [Mask::DELETE, Mask::CREATE].map(|mask| whole(path("/r/a"), mask));
    assert_eq!(of(&changes), [void[0].clone(), void[1].clone(), said]);
    assert_eq!(fed.tracker.uncovered.len(), 1);
    // It can be read again.
    let healed = Look { broken: None, ..broken };
    let inner = Look {
        parent: 1,
        name: "inner",
        wd: Some(3),
        ..JOB
    };
    let changes = recover(&mut fed, &[root, healed, inner]);
    assert_eq!(of(&changes), [whole(path("/r/a/inner"), Mask::CREATE)]);
    assert!(fed.tracker.uncovered.is_empty());
    // Of a root nothing can be said to be gone.
    let root = Look {
        broken: Some(libc::EIO),
        ..root
    };
    let changes = recover(&mut fed, &[root]);
    assert_eq!(
        of(&changes),
        [whole(path("/r/a"), Mask::DELETE), (path("/r"), DIR, true)]
    );
}

/// What the replay with links found: the root was emptied, as if it lay in the directory that had been there.
#[test]
fn a_loss_behind_which_a_directory_is_a_link_to_the_root_leaves_the_root_as_it_is() {
    let mut fed = Fed::new(true, true);
    let kept = fed.dir(fed.root, "kept", 2);
    fed.dir(fed.root, "b", 3);
    let looks = [
        Look {
            node: fed.root,
            name: "/r",
            wd: Some(ROOT),
            ..JOB
        },
        Look {
            parent: 0,
            name: "b",
            wd: Some(ROOT),
            listed: false,
            link: true,
            ..JOB
        },
        Look {
            parent: 0,
            name: "kept",
            wd: Some(2),
            ..JOB
        },
    ];
    let changes = fed.report(|tracker, out| {
        tracker.begin_recovery();
        tracker.recover(&crawl(&looks), out, |_| {});
    });
    assert_eq!(one(&changes, Mask::DELETE).0, path("/r/b"));
    assert_eq!(fed.tracker.nodes.by_wd(2), Some(kept));
    fed.end_session();
    assert_eq!(fed.tracker.nodes.get(fed.root).state, State::Watched);
    assert_eq!(fed.tracker.uncovered.len(), 1);
    fed.assert_sound();
}

/// What the replay with links found: a link led elsewhere, what was below it went, and what was found next had the number of one
/// of those, which was to be looked at too.
#[test]
fn numbers_that_are_free_while_findings_are_taken_in_are_not_used_for_these() {
    let mut fed = Fed::new(true, true);
    let dir = fed.dir(fed.root, "dir", 2);
    let (l, _) = alias(&mut fed);
    fed.feed(&[&[(5, Mask::CREATE | DIR, 0, "x"), (ROOT, Mask::CREATE | DIR, 0, "y")]]);
    let [x, y] =
        [(l, b"x"), (fed.root, b"y")].map(|(dir, name)| fed.tracker.nodes.child(dir, name).expect("it is new"));
    fed.feed(&[&[(ROOT, Mask::MOVED_FROM, 7, "l"), (2, Mask::MOVED_TO, 7, "l")]]);
    assert_eq!(fed.tracker.nodes.child(dir, b"l"), Some(l));
    let look = |node, wd| Look {
        node,
        wd: Some(wd),
        ..JOB
    };
    let below = |parent, name, wd| Look {
        parent,
        name,
        wd: Some(wd),
        ..JOB
    };
    let looks = [
        Look {
            listed: false,
            link: true,
            ..look(l, 9)
        },
        look(x, 10),
        look(y, 11),
        below(2, "deep", 12),
        below(1, "lost", 13),
    ];
    fed.report(|tracker, out| {
        tracker.begin_session(true);
        assert_eq!(tracker.jobs().len(), 3);
        tracker.take_in(&crawl(&looks), out, |_| {});
    });
    let nodes = &fed.tracker.nodes;
    assert_eq!(nodes.get(l).state, State::Pending);
    assert_eq!(nodes.get(l).first_child, NONE);
    assert_eq!(nodes.by_wd(11), Some(y));
    assert_eq!(nodes.by_wd(12), nodes.child(y, b"deep"));
    assert!(nodes.by_wd(10).is_none() && nodes.by_wd(13).is_none());
    fed.assert_sound();
}

/// The look that found a link saw it as it is, and what is in it is not told again for the event that tells of the link.
#[test]
fn what_is_below_a_link_is_told_once() {
    let mut fed = Fed::new(true, true);
    fed.feed(&[&[(ROOT, Mask::CREATE | DIR, 0, "d")]]);
    let d = fed.tracker.nodes.child(fed.root, b"d").expect("it is new");
    fed.report(|tracker, out| {
        tracker.begin_session(true);
        tracker.jobs();
        let dir = Look {
            node: d,
            wd: Some(2),
            ..JOB
        };
        let link = Look {
            parent: 0,
            name: "l",
            wd: Some(3),
            link: true,
            ..JOB
        };
        tracker.take_in(&crawl(&[dir, link]), out, |_| {});
        tracker.files.put(&mut tracker.nodes, d, b"l", UNKNOWN);
    });
    assert!(fed.feed(&[&[(2, Mask::CREATE, 0, "l")]]).is_empty());
    let l = fed.tracker.nodes.child(d, b"l").expect("it stays");
    assert_eq!(fed.tracker.nodes.by_wd(3), Some(l));
    // Replaced, it is told with nothing below.
    let changes = fed.feed(&[&[(2, Mask::MOVED_TO, 7, "l")]]);
    assert_eq!(one(&changes, Mask::MOVED_TO).0, path("/r/d/l"));
    assert!(fed.tracker.nodes.by_wd(3).is_none());
}

/// What round 3355 with links found: a new file was renamed into a directory that was just listed, was found to be no link, and its
/// deletion was taken for that of what nobody had seen.
#[test]
fn what_is_renamed_and_may_be_a_link_is_known_by_name_where_it_went() {
    let mut fed = Fed::new(false, true);
    let old = fed.dir(fed.root, "old", 2);
    let new = fed.dir(fed.root, "new", 3);
    fed.feed(&[&[(2, Mask::CREATE, 0, "x")]]);
    fed.tracker.begin_session(true);
    fed.tracker.nodes.get_mut(new).session = fed.tracker.session;
    fed.feed(&[&[(2, Mask::MOVED_FROM, 7, "x"), (3, Mask::MOVED_TO, 7, "x")]]);
    let x = fed.tracker.nodes.child(new, b"x").expect("it may be a link");
    fed.tracker.drop_subtree(x);
    let changes = fed.feed(&[&[(3, Mask::DELETE, 0, "x")]]);
    assert_eq!(one(&changes, Mask::DELETE).0, path("/r/new/x"));
    assert!(fed.tracker.nodes.child(old, b"x").is_none());
}

/// Something that happens to a tracker.
#[derive(Clone, Debug)]
enum Step {
    Read(Vec<Raw>),
    Settle { first: i32, gone: bool },
    EndSession,
    Recover,
}

fn raw() -> impl Strategy<Value = Raw> {
    let masks = prop::sample::select(vec![
        Mask::CREATE,
        Mask::DELETE,
        Mask::MOVED_FROM,
        Mask::MOVED_FROM,
        Mask::MOVED_TO,
        Mask::MOVED_TO,
        Mask::ATTRIB,
        Mask::MODIFY,
        Mask::OPEN,
    ]);
    let itself = prop::sample::select(vec![
        Mask::IGNORED,
        Mask::DELETE_SELF,
        Mask::MOVE_SELF,
        Mask::UNMOUNT,
        Mask::ATTRIB,
    ]);
    let names = prop::sample::select(vec!["a", "b", "c"]);
    let dir = prop::bool::weighted(0.7).prop_map(|is| if is { DIR } else { Mask::empty() });
    let entry = (1..12, masks, 1..4_u32, names, dir).prop_map(|(wd, mask, cookie, name, dir)| {
        let cookie = if mask.intersects(Mask::MOVE) { cookie } else { 0 };
        (wd, mask | dir, cookie, name)
    });
    let about = (1..12, itself).prop_map(|(wd, mask)| (wd, mask, 0, ""));
    prop_oneof![12 => entry, 1 => about]
}

/// Both halves of a rename of a directory.
fn rename() -> impl Strategy<Value = Vec<Raw>> {
    let names = || prop::sample::select(vec!["a", "b", "c"]);
    (1..7, names(), 1..7, names(), 1..4_u32).prop_map(|(from, old, to, new, cookie)| {
        let halves = [(from, Mask::MOVED_FROM, old), (to, Mask::MOVED_TO, new)];
        halves.map(|(wd, half, name)| (wd, half | DIR, cookie, name)).to_vec()
    })
}

fn step() -> impl Strategy<Value = Step> {
    let records = prop_oneof![raw().prop_map(|raw| vec![raw]), rename()];
    prop_oneof![
        6 => prop::collection::vec(records, 1..8).prop_map(|records| Step::Read(records.concat())),
        3 => (2..8, prop::bool::weighted(0.2)).prop_map(|(first, gone)| Step::Settle { first, gone }),
        3 => Just(Step::EndSession),
        1 => Just(Step::Recover),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Also records that no kernel would write in this order.
    #[test]
    fn no_well_formed_records_confuse_the_tracker(
        steps in prop::collection::vec(step(), 1..30),
        keeps_files: bool,
        follow_links: bool,
    ) {
        let mut fed = Fed::new(keeps_files, follow_links);
        for step in steps {
            match step {
                Step::Read(records) => drop(fed.feed(&[&records])),
                Step::Settle { first, gone } if fed.tracker.session == 0 => fed.settle(first, gone),
                Step::Settle { .. } => {}
                Step::EndSession if fed.tracker.session != 0 => fed.end_session(),
                Step::EndSession => fed.tracker.shadow = false,
                Step::Recover => drop(fed.tracker.begin_recovery()),
            }
            fed.tracker.has_work();
            fed.assert_sound();
        }
    }
}
