//! Tests of the state machine: fed with records as the kernel would write them, without a disk or a kernel.

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::ahead::{Ahead, Partner};
use super::change::OwnedChange;
use super::doubts::Answer;
use super::files::UNKNOWN;
use super::harness::{DIR, Fed, MARKER, ROOT, Raw, one, path, read};
use super::nodes::{Id, LINK, State};
use super::swaps::{Spot, Swaps};
use crate::decode::Records;
use crate::mask::Mask;

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
        assert_eq!(fed.tracker.swaps.suspects(), [3]);
        if rested {
            fed.tracker.swaps.rested(&[3].into());
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

/// A consumer who is slow keeps the second half from being read, or what was read from being applied.
#[test]
fn the_second_half_of_an_exchange_may_be_read_however_late() {
    for all_was_read in [false, true] {
        let mut fed = Fed::new(false, false);
        fed.dir(fed.root, "a", 2);
        fed.dir(fed.root, "b", 3);
        let pair = |cookie, from, to| {
            [
                (ROOT, Mask::MOVED_FROM | DIR, cookie, from),
                (ROOT, Mask::MOVED_TO | DIR, cookie, to),
            ]
        };
        fed.feed(&[&pair(7, "a", "b")]);
        if all_was_read {
            fed.tracker.swaps.rest();
        }
        fed.tracker.swaps.age(Duration::from_secs(10));
        fed.feed(&[&pair(8, "b", "a")]);
        let doubt = fed.tracker.doubts.get(fed.root, b"b");
        assert_eq!(doubt.is_some(), !all_was_read);
        assert_eq!(fed.tracker.nodes.by_wd(2).is_some(), all_was_read);
    }
}

/// A directory is exchanged with one that a link in it leads to. With the first half that link goes, and what it led to is
/// covered by another when the second half is read.
#[test]
fn an_exchange_is_one_where_a_directory_is_covered_under_another_path_meanwhile() {
    let mut fed = Fed::new(false, true);
    let a = fed.dir(fed.root, "a", 2);
    let link = fed.dir(a, "link", 3);
    fed.tracker.nodes.get_mut(link).flags |= LINK;
    fed.dir(link, "b", 4);
    let pair = |cookie, from: (i32, &'static str), to: (i32, &'static str)| {
        [
            (from.0, Mask::MOVED_FROM | DIR, cookie, from.1),
            (to.0, Mask::MOVED_TO | DIR, cookie, to.1),
        ]
    };
    fed.feed(&[&pair(7, (3, "b"), (ROOT, "a"))]);
    assert!(fed.tracker.nodes.by_wd(3).is_none());
    fed.dir(fed.root, "more", 5);
    let other = fed.dir(fed.root, "other", 3);
    assert_ne!(other, link);
    fed.tracker.nodes.get_mut(other).flags |= LINK;
    fed.feed(&[&pair(8, (ROOT, "a"), (3, "b"))]);
    // It is there still: what came to it is.
    assert_eq!(fed.tracker.doubts.get(fed.root, b"a"), Some(Answer::Open));
    fed.assert_sound();
}

#[test]
fn what_may_be_half_of_an_exchange_is_forgotten_in_the_order_it_came() {
    let spot = |wd: u32| Spot::new(wd.cast_signed(), b"x");
    for notes in [3, 4_095, 4_096, 4_097, 5_000, 9_000] {
        let mut swaps = Swaps::default();
        for number in 0..notes {
            swaps.note(None, spot(number % 2), number, true, true);
        }
        assert_eq!(swaps.suspects(), [0, 1]);
        swaps.rested(&[0].into());
        swaps.note(None, spot(0), notes, true, true);
        swaps.end_session();
        // What came behind the session's look stays, and the newest of each place is found.
        assert_eq!(swaps.came_to(spot(0), notes).map(|first| first.cookie), Some(notes));
        let last = notes / 2 * 2 - 1;
        assert_eq!(swaps.came_to(spot(1), notes).map(|first| first.cookie), Some(last));
        for number in notes + 1..notes + 5_000 {
            swaps.note(None, spot(2), number, true, true);
            assert_eq!(swaps.came_to(spot(2), number).map(|first| first.cookie), Some(number));
            // However many come between the halves of one, as long as it is not too far.
            let is_near = number < notes + 4_096;
            assert_eq!(swaps.came_to(spot(0), number).is_some(), is_near);
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
        let changes = fed.report(|tracker, out| _ = tracker.give_up_one(out));
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
        let changes = fed.report(|tracker, out| _ = tracker.give_up_one(out));
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
