//! Tests of the state machine: what looks have found, by links and behind a loss.

use std::path::PathBuf;

use super::change::OwnedChange;
use super::doubts::Answer;
use super::files::UNKNOWN;
use super::found::{Crawl, Found, Outcome, Part};
use super::harness::{DIR, Fed, MARKER, ROOT, Raw, one, path};
use super::nodes::{Id, NONE, State};
use crate::mask::Mask;
use crate::sys::dir::Identity;

/// A directory that a look has found.
#[derive(Clone, Copy)]
struct Look {
    parent: u32,
    node: Id,
    name: &'static str,
    /// None if none was found.
    wd: Option<i32>,
    listed: bool,
    /// If it was found otherwise.
    otherwise: Option<Outcome>,
    link: bool,
}

const JOB: Look = Look {
    parent: NONE,
    node: NONE,
    name: "",
    wd: None,
    listed: true,
    otherwise: None,
    link: false,
};

const SOME: Identity = Identity { device: 1, inode: 1 };

/// It was watched, and its listing broke off.
const fn broken(wd: i32) -> Option<Outcome> {
    Some(Outcome::Unlisted {
        wd,
        identity: SOME,
        code: libc::EIO,
    })
}

fn crawl(looks: &[Look]) -> Crawl {
    let mut part = Part::default();
    for (number, look) in (0..).zip(looks) {
        let name = part.put(look.name.as_bytes());
        let watched = |wd| Outcome::Watched { wd, identity: SOME };
        part.found.push(Found {
            number,
            parent: look.parent,
            node: look.node,
            name,
            files: (name.1, name.1),
            outcome: look.otherwise.or(look.wd.map(watched)).unwrap_or(Outcome::Vanished),
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
        tracker.take_in(&crawl(&[look(l, true), look(m, false)]), out);
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
    let broken_off = Look {
        parent: 0,
        name: "a",
        wd: Some(2),
        otherwise: broken(2),
        ..JOB
    };
    let recover = |fed: &mut Fed, looks: &[Look]| {
        let changes = fed.report(|tracker, out| {
            tracker.begin_recovery();
            tracker.recover(&crawl(looks), out);
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
    let changes = recover(&mut fed, &[root, broken_off]);
    let said = (path("/r/a"), DIR, true);
    let void = [Mask::DELETE, Mask::CREATE].map(|mask| whole(path("/r/a"), mask));
    assert_eq!(of(&changes), [void[0].clone(), void[1].clone(), said]);
    assert_eq!(fed.tracker.uncovered.len(), 1);
    // It can be read again.
    let healed = Look {
        otherwise: None,
        ..broken_off
    };
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
        otherwise: broken(ROOT),
        ..root
    };
    let changes = recover(&mut fed, &[root]);
    assert_eq!(
        of(&changes),
        [whole(path("/r/a"), Mask::DELETE), (path("/r"), DIR, true)]
    );
}

/// It was listed again with what was known of it, and all that was there twice.
#[test]
fn what_is_in_a_directory_whose_listing_broke_off_is_told_once_when_it_can_be_listed() {
    for again in [false, true] {
        let mut fed = Fed::new(false, false);
        fed.feed(&[&[(ROOT, Mask::CREATE | DIR, 0, "a")]]);
        let a = fed.tracker.nodes.child(fed.root, b"a").expect("it is new");
        let look = |fed: &mut Fed, otherwise| {
            let looks = [
                Look {
                    node: a,
                    wd: Some(2),
                    otherwise,
                    ..JOB
                },
                Look {
                    parent: 0,
                    name: "below",
                    wd: Some(3),
                    ..JOB
                },
            ];
            let changes = fed.report(|tracker, out| {
                tracker.begin_session(true);
                tracker.jobs();
                tracker.take_in(&crawl(&looks), out);
            });
            fed.end_session();
            fed.assert_sound();
            changes
        };
        let tries = if again { 2 } else { 1 };
        for number in 0..tries {
            let changes = look(&mut fed, broken(2));
            // It is said once.
            assert_eq!(changes.len(), usize::from(number == 0), "{changes:?}");
            assert_eq!(fed.tracker.nodes.by_wd(3), None);
            fed.tracker.try_again(a);
        }
        let changes = look(&mut fed, None);
        assert_eq!(one(&changes, Mask::CREATE | DIR).0, path("/r/a/below"));
        assert!(fed.tracker.uncovered.is_empty());
        assert!(fed.tracker.is_calm());
        assert_eq!(fed.tracker.nodes.children(a).count(), 1);
    }
}

#[test]
fn a_root_where_another_file_system_is_mounted_is_looked_at_for_itself() {
    let mut fed = Fed::new(false, false);
    let m = fed.dir(fed.root, "m", 2);
    fed.tracker.add_root(b"/r/m".to_vec()).expect("a root");
    let inner = fed.tracker.roots[1].node;
    fed.tracker.covered_within(inner, m);
    fed.tracker.look_again(m);
    let foreign = Look {
        node: m,
        otherwise: Some(Outcome::Foreign),
        ..JOB
    };
    fed.report(|tracker, out| {
        tracker.begin_session(true);
        tracker.jobs();
        tracker.take_in(&crawl(&[foreign]), out);
    });
    assert_eq!(fed.tracker.nodes.get(inner).state, State::Pending);
    // And barriers wait for that.
    assert!(fed.tracker.stirred && fed.tracker.has_work());
}

/// Below the root that takes it, a directory has another path, for which the filter was not asked.
#[test]
fn a_root_that_another_takes_is_filtered_by_its_new_paths() {
    let mut fed = Fed::new(false, false);
    fed.feed(&[&[(ROOT, Mask::CREATE | DIR, 0, "m")]]);
    fed.tracker.add_root(b"/r/m".to_vec()).expect("a root");
    let inner = fed.tracker.roots[1].node;
    fed.tracker.nodes.watch(inner, 2);
    fed.tracker.pending.clear();
    let [x, y] = [b"x", b"y"].map(|name| fed.tracker.nodes.add(inner, name).expect("room"));
    fed.tracker.nodes.get_mut(x).state = State::Filtered;
    fed.tracker.nodes.watch(y, 3);
    // As it was: all but `x`, of which `y` is no part.
    let filter = |path: &std::path::Path| !["x", "m/y"].map(std::path::Path::new).contains(&path);
    fed.tracker.manner.filter = Some(std::sync::Arc::new(filter));
    let m = fed.tracker.nodes.child(fed.root, b"m").expect("it is new");
    let look = Look {
        node: m,
        wd: Some(2),
        listed: false,
        ..JOB
    };
    fed.report(|tracker, out| {
        tracker.begin_session(true);
        tracker.jobs();
        tracker.take_in(&crawl(&[look]), out);
    });
    assert_eq!(fed.tracker.nodes.child(fed.root, b"m"), Some(inner));
    let states = [x, y].map(|id| fed.tracker.nodes.get(id).state);
    assert_eq!(states, [State::Pending, State::Filtered]);
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
        tracker.recover(&crawl(&looks), out);
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
        tracker.take_in(&crawl(&looks), out);
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
        tracker.take_in(&crawl(&[dir, link]), out);
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

/// What a session has found under a name is void once a directory that was there is renamed away.
#[test]
fn a_file_that_is_made_where_a_directory_was_renamed_from_is_told() {
    let mut fed = Fed::new(true, false);
    fed.dir(fed.root, "a", 2);
    fed.tracker.doubts.put(fed.root, b"a");
    fed.tracker.begin_session(true);
    fed.tracker.doubts.answer(fed.root, b"a", Answer::Present);
    fed.feed(&[&[
        (ROOT, Mask::MOVED_FROM | DIR, 7, "a"),
        (ROOT, Mask::MOVED_TO | DIR, 7, "c"),
    ]]);
    let changes = fed.feed(&[&[(ROOT, Mask::CREATE, 0, "a")]]);
    assert_eq!(one(&changes, Mask::CREATE), (path("/r/a"), None));
}

/// Its number may be another's by then, which would have been watched by what was found of this one.
#[test]
fn what_is_void_by_what_was_taken_in_before_it_is_not_watched() {
    let mut fed = Fed::new(true, false);
    let place = fed.dir(fed.root, "p", 2);
    let below = fed.tracker.nodes.add(place, b"b").expect("room");
    fed.tracker.look_again(below);
    fed.tracker.add_root(b"/r/p".to_vec()).expect("a root");
    let inner = fed.tracker.roots[1].node;
    // So that it is not left to the one above it, which is not on the disk.
    fed.tracker.silent = true;
    let looks = [
        Look {
            node: inner,
            name: "/r/p",
            wd: Some(9),
            listed: true,
            ..JOB
        },
        Look {
            parent: 0,
            name: "new",
            wd: Some(10),
            listed: true,
            ..JOB
        },
        Look {
            node: below,
            name: "b",
            wd: Some(11),
            listed: true,
            ..JOB
        },
    ];
    fed.report(|tracker, out| {
        tracker.begin_session(true);
        tracker.jobs();
        tracker.take_in(&crawl(&looks), out);
    });
    let new = fed.tracker.nodes.child(inner, b"new");
    assert_eq!(fed.tracker.nodes.by_wd(10), new);
    assert!(new.is_some() && fed.tracker.nodes.by_wd(11).is_none());
    assert!(fed.tracker.releasing.contains(&11));
    fed.assert_sound();
}
