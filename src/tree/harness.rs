//! A tracker that is fed by hand, for tests and for fuzzing: with records as the kernel would write them, without a disk or a
//! kernel.

use std::collections::HashSet;
#[cfg(test)]
use std::path::PathBuf;
use std::sync::Arc;

use super::ahead::{Ahead, Partner};
use super::batch::{Memory, Shelf, TreeBatch};
use super::change::OwnedChange;
use super::crawl::Manner;
use super::files::UNKNOWN;
use super::found::Outcome;
use super::nodes::{Id, NONE, State};
use super::roots::Root;
use super::tracker::{Out, Seen, Tracker};
use crate::decode::{Record, Records};
use crate::mask::Mask;
use crate::sys::pool::{Buffer, Pool};

pub(super) const DIR: Mask = Mask::ISDIR;

/// Watch, kind, cookie, name.
pub(super) type Raw = (i32, Mask, u32, &'static str);

/// The root's watch, and that of the marker which ends the search for the other half of a rename.
pub(super) const ROOT: i32 = 1;
pub(super) const MARKER: i32 = 99;

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

pub(super) fn read(records: &[Raw]) -> Buffer {
    let bytes: Vec<_> = records.iter().flat_map(bytes).collect();
    let pool = Pool::new(1, bytes.len().max(512)).expect("memory");
    let mut buffer = pool.take().expect("a buffer");
    assert!(buffer.append(&bytes));
    buffer
}

/// The one change of this kind: its path, and where that was before.
#[cfg(test)]
pub(super) fn one(changes: &[OwnedChange], mask: Mask) -> (Option<PathBuf>, Option<PathBuf>) {
    let mut found = changes.iter().filter(|change| change.mask().contains(mask));
    let change = found.next().expect("such a change");
    assert!(found.next().is_none(), "{changes:?}");
    (change.path(), change.renamed_from().map(Into::into))
}

#[cfg(test)]
pub(super) fn path(text: &str) -> Option<PathBuf> {
    Some(text.into())
}
/// A tracker, and what the worker keeps beside it.
pub(super) struct Fed {
    pub(super) tracker: Tracker,
    pub(super) memory: Memory,
    shelf: Arc<Shelf>,
    ahead: Ahead,
    pub(super) root: Id,
}

impl Fed {
    /// Knows the root `/r` and nothing below.
    pub(super) fn new(keeps_files: bool, follow_links: bool) -> Self {
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
            left: None,
        });
        Self {
            tracker,
            memory: Memory::new(),
            shelf: Shelf::new(),
            ahead: Ahead::default(),
            root,
        }
    }

    #[cfg(test)]
    pub(super) fn dir(&mut self, parent: Id, name: &str, wd: i32) -> Id {
        let id = self.tracker.nodes.add(parent, name.as_bytes()).expect("room");
        self.tracker.nodes.watch(id, wd);
        id
    }

    /// Takes these reads, each a buffer. Answers what is reported.
    pub(super) fn feed(&mut self, reads: &[&[Raw]]) -> Vec<OwnedChange> {
        self.feed_but(reads, |_, _, _| false)
    }

    /// The same, but for records that `special` says it has dealt with.
    pub(super) fn feed_but(
        &mut self,
        reads: &[&[Raw]],
        mut special: impl FnMut(&mut Tracker, &Record<'_>, &mut Out<'_>) -> bool,
    ) -> Vec<OwnedChange> {
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
                        spill: None,
                    };
                    if special(&mut self.tracker, &record, out) {
                        continue;
                    }
                    let seen = Seen { record, at: Some(at) };
                    take(&mut self.tracker, &mut self.ahead, seen, behind, out);
                }
            }
            let batch = TreeBatch::new(Some(buffer), draft, &self.shelf, 0);
            changes.extend(batch.iter().map(|change| change.to_owned()));
            self.ahead.pop();
        }
        changes
    }

    /// Has the tracker do something of which it may report. Answers what it does report.
    pub(super) fn report(&mut self, what: impl FnOnce(&mut Tracker, &mut Out<'_>)) -> Vec<OwnedChange> {
        self.memory.forget();
        let mut draft = self.shelf.take();
        let out = &mut Out {
            draft: &mut draft,
            memory: &mut self.memory,
            spill: None,
        };
        what(&mut self.tracker, out);
        let batch = TreeBatch::new(None, draft, &self.shelf, 0);
        batch.iter().map(|change| change.to_owned()).collect()
    }

    /// As if a session had found all that is pending: each with a watch and an entry, or gone.
    pub(super) fn settle(&mut self, first: i32, gone: bool) {
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

    pub(super) fn end_session(&mut self) {
        self.report(|tracker, out| tracker.end_session(out));
    }

    /// Every directory is below a root, and watched as the table of watches says.
    pub(super) fn assert_sound(&self) {
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
    let Partner::At(number, at) = ahead.partner(&seen.record, (ahead.first(), behind), |wd| wd == MARKER) else {
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

/// Feeds it with records that no kernel would write in this order, and with findings that fit nothing: it must keep its own
/// order, whatever that is.
pub(crate) fn confuse(bytes: &mut crate::fuzzing::Bytes<'_>) {
    const KINDS: [Mask; 9] = [
        Mask::CREATE,
        Mask::DELETE,
        Mask::MOVED_FROM,
        Mask::MOVED_TO,
        Mask::ATTRIB,
        Mask::MODIFY,
        Mask::OPEN,
        Mask::CLOSE_WRITE,
        Mask::ACCESS,
    ];
    const ITSELF: [Mask; 5] = [
        Mask::IGNORED,
        Mask::DELETE_SELF,
        Mask::MOVE_SELF,
        Mask::UNMOUNT,
        Mask::ATTRIB,
    ];
    let manner = bytes.next().unwrap_or(0);
    let mut fed = Fed::new(manner & 1 != 0, manner & 2 != 0);
    let mut read = Vec::new();
    while let Some(what) = bytes.next() {
        let byte = bytes.next().unwrap_or(0);
        let wd = i32::from(byte % 12) + 1;
        match what % 16 {
            0..=9 => {
                let mask = KINDS[usize::from(what % 16) % KINDS.len()];
                let name = ["a", "b", "c"][usize::from(what / 16 % 3)];
                let dir = if what < 200 { DIR } else { Mask::empty() };
                let cookie = if mask.intersects(Mask::MOVE) {
                    u32::from(byte / 64) + 1
                } else {
                    0
                };
                read.push((wd, mask | dir, cookie, name));
            }
            10 => read.push((wd, ITSELF[usize::from(what / 16) % ITSELF.len()], 0, "")),
            11 | 12 => drop(fed.feed(&[&std::mem::take(&mut read)])),
            13 if fed.tracker.session == 0 => fed.settle(wd, byte >= 224),
            14 if fed.tracker.session != 0 => fed.end_session(),
            15 if byte > 200 => drop(fed.tracker.begin_recovery()),
            _ => fed.tracker.shadow = false,
        }
        fed.tracker.has_work();
        fed.assert_sound();
    }
}
