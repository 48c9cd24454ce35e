//! Tests of the state machine: roots in one another.

use super::found::{Crawl, Found, Outcome, Part};
use super::harness::{DIR, Fed, ROOT, Raw, one, path};
use super::nodes::{Id, NONE, State};
use crate::mask::Mask;
use crate::sys::dir::Identity;

/// What a look at a root has found there: this watch, and a file if it was `listed`.
fn found(root: Id, wd: i32, listed: bool) -> Crawl {
    let mut part = Part::default();
    let start = part.text.len();
    part.put_file(b"file", 0);
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
                tracker.take_in(&found(inner, wd, listed), out);
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
        tracker.take_in(&found(root, 8, true), out);
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
        for (gone, looks) in [("a", true), ("moved", true), ("b", true), ("c", false)] {
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
                // With all that is in it.
                "moved" => fed.feed(&[&[
                    (ROOT, Mask::MOVED_FROM | DIR, 1, "a"),
                    (ROOT, Mask::MOVED_TO | DIR, 1, "d"),
                ]]),
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

/// Where watches are few, or a filter refuses it: what the root had reported was found and reported again when the other could
/// cover it.
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
        let expected = [Mask::DELETE, Mask::CREATE].map(|mask| (path("/r/a"), mask | DIR));
        assert_eq!(said, expected, "{state:?}");
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
            tracker.take_in(&found(inner, 8, false), out);
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

/// One watch was free for two, and what was refused it was never looked at again, though it is the same directory.
#[test]
fn of_a_root_and_the_same_directory_in_another_both_are_covered_with_one_watch() {
    for root_first in [true, false] {
        let mut fed = Fed::new(false, false);
        let m = fed.tracker.nodes.add(fed.root, b"m").expect("room");
        fed.tracker.add_root(b"/r/m".to_vec()).expect("a root");
        fed.tracker.pending.clear();
        let inner = fed.tracker.roots[1].node;
        for id in [m, inner] {
            fed.tracker.nodes.get_mut(id).flags = 0;
            fed.tracker.nodes.get_mut(id).state = State::Uncovered;
            fed.report(|tracker, out| tracker.refused(id, "watch directory", libc::ENOSPC, out));
        }
        let (first, other) = if root_first { (inner, m) } else { (m, inner) };
        fed.tracker.look_again(first);
        for _ in 0..3 {
            let pending = [first, other]
                .into_iter()
                .find(|&id| fed.tracker.nodes.get(id).state == State::Pending);
            let Some(id) = pending else { break };
            fed.report(|tracker, out| {
                tracker.begin_session(true);
                tracker.jobs();
                let is_known = tracker.nodes.by_wd(8).is_some();
                tracker.take_in(&found(id, 8, !is_known), out);
            });
            fed.end_session();
        }
        assert!(fed.tracker.uncovered.is_empty(), "{:?}", fed.tracker.uncovered);
        assert_eq!(
            fed.tracker.nodes.by_wd(8).map(|id| fed.tracker.nodes.get(id).parent),
            Some(fed.root)
        );
        fed.assert_sound();
    }
}

/// What the replay with a root that moves found: it was taken to be covered by what it was not any more, was looked at for ever to
/// find that out, and no barrier passed.
#[test]
fn a_root_that_was_covered_in_another_is_listed_when_it_may_have_left_that() {
    for told in [true, false] {
        let mut fed = Fed::new(true, false);
        let a = fed.dir(fed.root, "a", 8);
        fed.tracker.add_root(b"/elsewhere".to_vec()).expect("a root");
        let inner = fed.tracker.roots[1].node;
        let look = |fed: &mut Fed, wd| {
            fed.report(|tracker, out| {
                tracker.begin_session(true);
                let listed = !tracker.only_probes(inner);
                tracker.jobs();
                tracker.take_in(&found(inner, wd, listed), out);
            })
        };
        assert!(look(&mut fed, 8).is_empty());
        assert_eq!(fed.tracker.roots[1].within, Some(a));
        fed.end_session();
        if told {
            fed.feed(&[&[(8, Mask::MOVE_SELF, 0, "")]]);
        } else {
            // As behind a loss: it is only to be found out what is there, and that is another.
            assert!(look(&mut fed, 9).is_empty());
            fed.end_session();
        }
        assert!(fed.tracker.has_work());
        let changes = look(&mut fed, 9);
        assert_eq!(one(&changes, Mask::CREATE), (path("/elsewhere/file"), None));
        fed.end_session();
        assert!(fed.tracker.is_calm());
        assert_eq!(fed.tracker.nodes.by_wd(9), Some(inner));
        fed.assert_sound();
    }
}
