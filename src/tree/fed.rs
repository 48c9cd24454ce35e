//! Tests of the state machine: fed with records as the kernel would write them, without a disk or a kernel.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;

use super::ahead::{Ahead, Partner};
use super::batch::{Memory, Shelf, TreeBatch};
use super::change::OwnedChange;
use super::crawl::Manner;
use super::files::UNKNOWN;
use super::found::Outcome;
use super::nodes::{Id, NONE, State};
use super::roots::Root;
use super::tracker::{Answer, Out, Seen, Tracker};
use crate::decode::Records;
use crate::mask::Mask;
use crate::sys::pool::{Buffer, Pool};

const DIR: Mask = Mask::ISDIR;

/// Watch, kind, cookie, name.
type Raw = (i32, Mask, u32, &'static str);

/// The root's watch, and that of the marker which ends the search for the other half of a rename.
const ROOT: i32 = 1;
const MARKER: i32 = 99;

fn bytes(&(wd, mask, cookie, name): &Raw) -> Vec<u8> {
    let mut padded = name.as_bytes().to_vec();
    if !name.is_empty() {
        padded.resize((name.len() / 16 + 1) * 16, 0);
    }
    let header = [wd.cast_unsigned(), mask.bits(), cookie, padded.len() as u32];
    let mut bytes: Vec<_> = header.into_iter().flat_map(u32::to_ne_bytes).collect();
    bytes.extend(padded);
    bytes
}

fn read(records: &[Raw]) -> Buffer {
    let bytes: Vec<_> = records.iter().flat_map(bytes).collect();
    let pool = Pool::new(1, bytes.len().max(512)).expect("memory");
    let mut buffer = pool.take().expect("a buffer");
    assert!(buffer.append(&bytes));
    buffer
}

/// A tracker, and what the worker keeps beside it.
struct Fed {
    tracker: Tracker,
    memory: Memory,
    shelf: Arc<Shelf>,
    ahead: Ahead,
    root: Id,
}

impl Fed {
    /// Knows the root `/r` and nothing below.
    fn new(keeps_files: bool, follow_links: bool) -> Self {
        let manner = Manner {
            mask: Mask::ALL,
            filter: None,
            follow_links,
            cross_mounts: false,
            fingerprints: false,
            names: true,
        };
        let mut tracker = Tracker::new(manner, Mask::ALL, keeps_files);
        let root = tracker.nodes.add(NONE, b"/r").expect("a root");
        tracker.nodes.watch(root, ROOT);
        tracker.roots.push(Root {
            path: b"/r".to_vec(),
            node: root,
            file: None,
            within: None,
            awaited: false,
        });
        Self {
            tracker,
            memory: Memory::new(),
            shelf: Shelf::new(),
            ahead: Ahead::default(),
            root,
        }
    }

    fn dir(&mut self, parent: Id, name: &str, wd: i32) -> Id {
        let id = self.tracker.nodes.add(parent, name.as_bytes()).expect("room");
        self.tracker.nodes.watch(id, wd);
        id
    }

    /// Takes these reads, each a buffer. Answers what is reported.
    fn feed(&mut self, reads: &[&[Raw]]) -> Vec<OwnedChange> {
        reads.iter().for_each(|records| self.ahead.push(read(records)));
        let mut changes = Vec::new();
        while let Some(buffer) = self.ahead.front() {
            self.memory.forget();
            let mut draft = self.shelf.take();
            let mut records = Records::new(buffer.filled());
            loop {
                let at = records.offset() as u32;
                let Some(record) = records.next() else { break };
                if !self.ahead.was_taken(at) {
                    let record = record.expect("well-formed");
                    let behind = records.offset();
                    let out = &mut Out {
                        draft: &mut draft,
                        memory: &mut self.memory,
                    };
                    take(
                        &mut self.tracker,
                        &mut self.ahead,
                        Seen { record, at: Some(at) },
                        behind,
                        out,
                    );
                }
            }
            let batch = TreeBatch::new(Some(buffer), draft, &self.shelf, 0);
            changes.extend(batch.iter().map(|change| change.to_owned()));
            self.ahead.pop();
        }
        changes
    }

    /// As if a session had found all that is pending: each with a watch and an entry, or gone.
    fn settle(&mut self, first: i32, gone: bool) {
        let tracker = &mut self.tracker;
        tracker.begin_session(true);
        let jobs: Vec<_> = tracker.jobs().into_iter().map(|job| job.node).collect();
        let free: Vec<_> = (first..first + 40)
            .filter(|&wd| tracker.nodes.by_wd(wd).is_none())
            .collect();
        for (id, wd) in jobs.into_iter().zip(free) {
            tracker.nodes.get_mut(id).session = tracker.session;
            if gone {
                tracker.left_over.push((id, Outcome::Vanished));
                continue;
            }
            tracker.nodes.watch(id, wd);
            tracker.files.put(&mut tracker.nodes, id, b"b", UNKNOWN);
        }
        tracker.releasing.clear();
    }

    fn end_session(&mut self) {
        let mut draft = self.shelf.take();
        self.tracker.end_session(&mut Out {
            draft: &mut draft,
            memory: &mut self.memory,
        });
    }

    /// Every directory is below a root, and watched as the table of watches says.
    fn assert_sound(&self) {
        let nodes = &self.tracker.nodes;
        let all: Vec<_> = nodes.all().collect();
        for &id in &all {
            let above = std::iter::successors(Some(id), |&id| Some(nodes.get(id).parent).filter(|&id| id != NONE));
            assert!(above.take(all.len() + 1).count() <= all.len(), "a loop");
            let wd = nodes.get(id).wd;
            assert!(wd == 0 || nodes.by_wd(wd) == Some(id));
            assert_eq!(nodes.get(id).state == State::Watched, wd != 0);
            for child in nodes.children(id) {
                assert_eq!(nodes.get(child).parent, id);
                assert_eq!(nodes.child(id, nodes.name(child)), Some(child));
            }
        }
        let watches: HashSet<_> = all.iter().map(|&id| nodes.get(id).wd).filter(|&wd| wd != 0).collect();
        assert_eq!(watches.len(), nodes.watched());
    }
}

/// As the worker does it, but that nothing more is read.
fn take(tracker: &mut Tracker, ahead: &mut Ahead, seen: Seen<'_>, behind: usize, out: &mut Out<'_>) {
    if seen.record.mask.contains(Mask::MOVED_TO) {
        return tracker.moved_in(seen, out);
    }
    if !seen.record.mask.contains(Mask::MOVED_FROM) {
        return tracker.single(seen, out);
    }
    let Partner::At(number, at) = ahead.partner(&seen.record, behind, |wd| wd == MARKER) else {
        return tracker.moved_out(seen, out);
    };
    let (buffer, at) = ahead.take(number, at).expect("it was just found");
    let here = ahead.front().is_some_and(|front| Arc::ptr_eq(&front, &buffer));
    let record = Records::new(&buffer.filled()[at as usize..]).next();
    let to = Seen {
        record: record.expect("a record").expect("well-formed"),
        at: here.then_some(at),
    };
    tracker.renamed(seen, to, out);
}

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
    assert_eq!(ahead.partner(&from, behind, |_| false), Partner::Unread);
    ahead.push(read(&[(2, Mask::MODIFY, 0, "x"), (ROOT, Mask::MOVED_TO, 7, "b")]));
    assert_eq!(ahead.partner(&from, behind, |_| false), Partner::At(1, 32));
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
        let doubt = fed.tracker.doubt(fed.root, b"b").expect("it may be there");
        assert_eq!(fed.tracker.doubts[doubt].answer, Answer::Open);
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
        let doubt = fed.tracker.doubt(new, b"x").expect("it may be there");
        assert_eq!(fed.tracker.doubts[doubt].answer, Answer::Open);
        assert!(fed.tracker.doubt(old, b"y").is_none());
        fed.assert_sound();
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
