//! Noticing that file systems are mounted and unmounted, which inotify does not tell of.
//!
//! The kernel's table of mounts says where something has changed; the disk says what is there now, and a directory that is
//! another than before is looked at again. One thread waits for such changes on behalf of all trees and wakes their
//! workers. A worker also asks before it delivers a barrier, so a barrier has all that was mounted before it behind it.
//!
//! Between two looks at the table something may have been mounted and unmounted, and a session may have seen it: no table
//! has it. So a session asks when it ends, and makes nothing final of what it could not find meanwhile; and with every
//! change of the table all directories are looked at again that are on another file system than the one above them. The
//! numbers in the table are used again, so places whose lines are as before are looked at too.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::batch::{Draft, Extra};
use super::herald::Call;
use super::marks::Mark;
use super::nodes::{Id, LINK, NONE, State};
use super::tracker::{Out, Tracker};
use super::worker::Worker;
use crate::error::{Error, ErrorKind};
use crate::mask::Mask;
use crate::sys::dir::{Dir, Identity, errno, is_absent};
use crate::sys::mounts::MountTable;

/// Where something is mounted, and the lines that say what: the last of them lies over the others.
type Points = BTreeMap<Vec<u8>, Vec<Vec<u8>>>;

/// A place where something was mounted or unmounted, or may have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Point {
    /// The table says so.
    told: bool,
    /// Something was unmounted, which was not said.
    ended: bool,
    tries: u8,
}

/// Places that are hidden by what is mounted above them are never found.
const MOST_TRIES: u8 = 16;

/// Looked at twice and no more: nothing says that there is anything.
const UNTOLD: Point = Point {
    told: false,
    ended: false,
    tries: MOST_TRIES,
};

fn path_of(place: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(place))
}

/// The table as a tree last saw it. Where there is no `/proc`, none.
pub(super) struct Mounts {
    table: Option<MountTable>,
    points: Points,
    /// It has changed, and could not be read.
    unread: bool,
    call: Option<Call>,
    /// Places that are to be looked at again behind a marker: the table is ahead of the stream, in which renames that lead
    /// to these places, or away, may be still to come.
    noted: BTreeMap<Vec<u8>, Point>,
    /// The same, with the marker set.
    marked: BTreeMap<Vec<u8>, Point>,
}

impl Mounts {
    /// For the calling thread, which is woken by changes. To be made before anything is looked at.
    pub(super) fn new() -> Self {
        let mut table = MountTable::open().ok();
        let lines = table.as_mut().and_then(|table| table.read().ok());
        Self {
            points: points(&lines.unwrap_or_default()),
            unread: false,
            call: table.as_ref().and_then(|_| Call::new().ok()),
            table,
            noted: BTreeMap::new(),
            marked: BTreeMap::new(),
        }
    }

    /// Whether the thread was woken for this.
    pub(super) fn is_called(&self) -> bool {
        self.call.as_ref().is_some_and(Call::take)
    }

    /// An overflow has swallowed the marker, and everything is looked at again.
    pub(super) fn forget(&mut self) {
        self.noted.clear();
        self.marked.clear();
    }

    /// Whether the table has changed since this was last asked; and the places that are to be looked at, those above before
    /// those below.
    fn changed(&mut self) -> (bool, BTreeMap<Vec<u8>, Point>) {
        let due = self.unread || !self.noted.is_empty() || !self.marked.is_empty();
        let Some(table) = &mut self.table else {
            return (false, BTreeMap::new());
        };
        // What is asked is not told again.
        let changed = table.has_changed() || self.unread;
        if !changed && !due {
            return (false, BTreeMap::new());
        }
        let lines = table.read();
        self.unread = changed && lines.is_err();
        let Ok(lines) = lines else {
            return (changed, BTreeMap::new());
        };
        let before = std::mem::replace(&mut self.points, points(&lines));
        (changed, to_look_at(&before, &self.points, changed))
    }
}

/// Where the table says something else than before; with `all`, where it says anything.
fn to_look_at(before: &Points, after: &Points, all: bool) -> BTreeMap<Vec<u8>, Point> {
    let places: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let point = |place: &Vec<u8>| {
        let (lines, now) = (before.get(place), after.get(place));
        let kept = |line| now.is_some_and(|now| now.contains(line));
        let told = lines != now;
        let point = Point {
            told,
            ended: lines.is_some_and(|lines| !lines.iter().all(kept)),
            ..if told { Point::default() } else { UNTOLD }
        };
        (told || all).then(|| (place.clone(), point))
    };
    places.into_iter().filter_map(point).collect()
}

/// Of each line the fifth field is the place. What was mounted over something else there has a line of its own.
fn points(lines: &[u8]) -> Points {
    let mut points = Points::new();
    for line in lines.split(|&byte| byte == b'\n') {
        if let Some(point) = line.split(|&byte| byte == b' ').nth(4) {
            points.entry(unescaped(point)).or_default().push(line.to_vec());
        }
    }
    points
}

/// Blanks and backslashes are written as three octal digits.
fn unescaped(mut field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    while let Some((&byte, rest)) = field.split_first() {
        let escape = rest.first_chunk::<3>().filter(|_| byte == b'\\');
        let digits = escape.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                field = &rest[3..];
            }
            None => {
                plain.push(byte);
                field = rest;
            }
        }
    }
    plain
}

impl Worker {
    /// Looks where something was mounted or unmounted since it was last asked; with `passed`, also where that was said
    /// before the marker that was set then.
    pub(super) fn look_at_mounts(&mut self, passed: bool, draft: &mut Draft) {
        let (anew, mut changed) = self.mounts.changed();
        let mut marked = if passed {
            std::mem::take(&mut self.mounts.marked)
        } else {
            BTreeMap::new()
        };
        if !anew && changed.is_empty() && marked.is_empty() {
            return;
        }
        let out = &mut Out {
            draft,
            memory: &mut self.memory,
            spill: None,
        };
        let (tracker, noted) = (&mut self.tracker, &mut self.mounts.noted);
        tracker.remounted |= anew;
        tracker.changed |= anew;
        if anew {
            tracker.look_at_covered_roots();
        }
        // What is somewhere else by its path has no place in the table by which it could be found.
        let mut tops = Vec::new();
        for top in tracker.tops() {
            if tracker.nodes.get(top).state == State::Watched
                && let Err(gone) = tracker.is_in_place(top)
            {
                tracker.displaced(top, gone, out);
            }
            let path = PathBuf::from(OsString::from_vec(tracker.nodes.path(top)));
            tops.extend(fs::canonicalize(path).map(|path| (top, path)));
        }
        changed.retain(|place, _| tops.iter().any(|(_, top)| path_of(place).starts_with(top)));
        let places = if anew { &mut changed } else { &mut marked };
        for place in tracker.crossings(&tops) {
            places.entry(place).or_insert(UNTOLD);
        }
        for (place, point) in marked {
            let found = tracker.look_at_point(&place, point, &tops, out);
            if !found && point.tries < MOST_TRIES {
                let tries = point.tries + 1;
                noted.insert(place, Point { tries, ..point });
            }
        }
        for (place, mut point) in changed {
            point.ended &= !tracker.look_at_point(&place, point, &tops, out);
            noted.insert(place, point);
        }
        if self.mounts.marked.is_empty() && !self.mounts.noted.is_empty() {
            self.mounts.marked = std::mem::take(&mut self.mounts.noted);
            self.mark(Mark::Mounts);
        }
    }
}

/// What is at a directory's path instead.
pub(super) enum Instead {
    Nothing,
    Another,
    /// Why nobody can tell.
    Unknown(i32),
}

impl Tracker {
    /// Directories whose paths do not follow from that of the one above them: roots, and links that are followed.
    fn tops(&self) -> Vec<Id> {
        let is_top = |&id: &Id| {
            let node = self.nodes.get(id);
            node.parent == NONE || node.flags & LINK != 0
        };
        match self.manner.follow_links {
            true => self.nodes.all().filter(is_top).collect(),
            false => self.root_nodes().into_iter().collect(),
        }
    }

    pub(super) fn is_in_place(&mut self, id: Id) -> Result<(), Instead> {
        let path = self.nodes.path(id);
        let (device, inode) = self.nodes.identity(id);
        match Dir::find(&path).and_then(|dir| dir.identity()) {
            Ok(found) if found != Identity { device, inode } => Err(Instead::Another),
            Ok(_) => Ok(()),
            Err(error) if is_absent(&error) => Err(Instead::Nothing),
            // Behind what may not be searched: what becomes accessible again is looked at again. Or nobody can tell for now.
            Err(error) => Err(Instead::Unknown(errno(&error))),
        }
    }

    fn displaced(&mut self, top: Id, gone: Instead, out: &mut Out<'_>) {
        match (self.nodes.get(top).parent, gone) {
            (_, Instead::Unknown(_)) => {}
            (NONE, Instead::Nothing) => self.root_gone(top, "with what was mounted, its path leads nowhere", out),
            (NONE, Instead::Another) => self.root_gone(top, "what is mounted there now is another", out),
            (_, Instead::Another) => self.unsettle(top, out),
            // An event says so.
            (_, Instead::Nothing) => {}
        }
    }

    /// The places of directories that are on another file system than the one above them.
    fn crossings(&mut self, tops: &[(Id, PathBuf)]) -> Vec<Vec<u8>> {
        let mut crossings = std::mem::take(&mut self.crossings);
        crossings.retain(|&id| self.is_crossing(id));
        let places = crossings.iter().filter_map(|&id| self.place(id, tops)).collect();
        self.crossings = crossings;
        places
    }

    pub(super) fn is_crossing(&self, id: Id) -> bool {
        let node = self.nodes.get(id);
        let is_below = node.state == State::Watched && node.parent != NONE && node.flags & LINK == 0;
        is_below && self.nodes.identity(id).0 != self.nodes.identity(node.parent).0
    }

    /// What the table of mounts calls this directory.
    fn place(&self, id: Id, tops: &[(Id, PathBuf)]) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = id;
        while at != NONE {
            if let Some((_, path)) = tops.iter().find(|&&(top, _)| top == at) {
                let below = names.iter().rev().map(|&name| OsStr::from_bytes(name));
                let path: PathBuf = std::iter::once(path.as_os_str()).chain(below).collect();
                return Some(path.into_os_string().into_vec());
            }
            names.push(self.nodes.name(at));
            at = self.nodes.get(at).parent;
        }
        None
    }

    /// False if there is no directory at this place yet.
    fn look_at_point(&mut self, place: &[u8], point: Point, tops: &[(Id, PathBuf)], out: &mut Out<'_>) -> bool {
        let mut found = true;
        for (top, path) in tops {
            let Ok(below) = path_of(place).strip_prefix(path) else {
                continue;
            };
            let mut id = *top;
            let missing = below.iter().any(|name| match self.nodes.child(id, name.as_bytes()) {
                Some(child) => {
                    id = child;
                    false
                }
                None => true,
            });
            let is_open = matches!(self.nodes.get(id).state, State::Watched | State::Pending);
            match missing {
                true => found &= !is_open,
                false if id != *top => found &= self.look_at_mount(id, point, out),
                false => {}
            }
        }
        found
    }

    /// Something was mounted or unmounted at this directory, and what is there may be another. False if its path leads
    /// nowhere: events are to come that say where it is, and it may be in place there or not.
    fn look_at_mount(&mut self, id: Id, point: Point, out: &mut Out<'_>) -> bool {
        match self.nodes.get(id).state {
            State::Watched => match self.is_in_place(id) {
                Ok(()) => {}
                Err(Instead::Nothing) => return false,
                Err(Instead::Unknown(_)) if !point.told => {}
                Err(Instead::Another | Instead::Unknown(_)) => {
                    self.say_unmounted(id, point.ended, out);
                    self.unsettle(id, out);
                    // A session that is under way may have found it as it was: barriers wait for the next.
                    self.stirred = true;
                }
            },
            // Where mounts are not crossed, what is mounted there now is not either.
            State::Uncovered if point.told || self.manner.cross_mounts => {
                self.say_unmounted(id, point.ended, out);
                self.look_again(id);
                self.stirred = true;
            }
            State::Pending => self.changed = true,
            State::Uncovered | State::Vacant | State::Filtered => {}
        }
        true
    }

    /// A session ends while which the table of mounts has changed: what it was refused may be due to what was mounted, and
    /// is not there any more.
    pub(super) fn refuse_again(&mut self) {
        let kinds = [ErrorKind::PermissionDenied, ErrorKind::Other];
        let refused = |(&id, error): (&Id, &Error)| {
            let here = self.nodes.get(id).session == self.session || self.doubts.forbidden(id) > 0;
            (here && kinds.contains(&error.kind())).then_some(id)
        };
        let refused: Vec<_> = self.uncovered.iter().filter_map(refused).collect();
        self.stirred |= !refused.is_empty();
        refused.into_iter().for_each(|id| self.try_again(id));
    }

    /// As the kernel does for what was watched, if it says so first: of a file system that is in use elsewhere, it does not.
    fn say_unmounted(&mut self, id: Id, ended: bool, out: &mut Out<'_>) {
        if ended && !self.silent {
            let dir = out.draft.dir(&mut self.nodes, out.memory, id);
            let extra = Extra {
                mask: (Mask::UNMOUNT | Mask::ISDIR).bits(),
                scan: true,
                ..Extra::default()
            };
            out.draft.made_up(Some(dir), b"", extra);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{DIR, Fed, ROOT};
    use super::*;

    /// Numbers of mounts and of devices are given again as soon as they are free.
    #[test]
    fn what_has_the_line_of_another_that_was_there_is_looked_at_too() {
        let table = points(b"31 1 0:5 / /a rw - tmpfs t rw\n");
        assert!(to_look_at(&table, &table, false).is_empty());
        let places = to_look_at(&table, &table, true);
        assert_eq!(places[b"/a".as_slice()], UNTOLD);
        let (told, ended) = (true, true);
        let gone = Point { told, ended, tries: 0 };
        assert_eq!(to_look_at(&table, &Points::new(), true)[b"/a".as_slice()], gone);
    }

    /// A tree that knows `a` and in it `b`, which the disk has for another, and a directory that `b` may have.
    fn displaced() -> (tempfile::TempDir, Fed, Id) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let mut fed = Fed::new(true, false);
        fed.tracker
            .nodes
            .relink(fed.root, NONE, dir.path().as_os_str().as_bytes());
        let a = fed.dir(fed.root, "a", 2);
        let b = fed.dir(a, "b", 3);
        fed.dir(b, "below", 4);
        fed.tracker.nodes.set_identity(a, 1, 1);
        fed.tracker.nodes.set_identity(b, 2, 1);
        (dir, fed, b)
    }

    #[test]
    fn a_directory_whose_path_leads_nowhere_is_looked_at_again_once_events_say_where_it_is() {
        let (dir, mut fed, b) = displaced();
        fs::rename(dir.path().join("a"), dir.path().join("c")).unwrap();
        let tops = [(fed.root, dir.path().to_owned())];
        let look = |fed: &mut Fed, below: &str| {
            let place = dir.path().join(below).into_os_string().into_vec();
            let mut found = false;
            fed.report(|tracker, out| found = tracker.look_at_point(&place, Point::default(), &tops, out));
            found
        };
        assert!(!look(&mut fed, "a/b"));
        assert_eq!(fed.tracker.nodes.get(b).state, State::Watched);
        let renamed = [
            (ROOT, Mask::MOVED_FROM | DIR, 7, "a"),
            (ROOT, Mask::MOVED_TO | DIR, 7, "c"),
        ];
        fed.feed(&[&renamed]);
        assert!(look(&mut fed, "c/b"));
        assert_eq!(fed.tracker.nodes.get(b).state, State::Pending);
    }

    /// Of what was mounted and unmounted between two looks at the table, no table tells.
    #[test]
    fn directories_on_other_file_systems_are_found_by_their_places() {
        let (dir, mut fed, b) = displaced();
        let tops = [(fed.root, dir.path().to_owned())];
        fed.tracker.crossings.insert(b);
        let place = dir.path().join("a/b").into_os_string().into_vec();
        assert_eq!(fed.tracker.crossings(&tops), [place]);
        fed.report(|tracker, out| tracker.unsettle(b, out));
        assert!(fed.tracker.crossings(&tops).is_empty());
        assert!(fed.tracker.crossings.is_empty());
    }

    #[test]
    fn places_are_read_as_they_are_called() {
        let table = b"22 1 0:21 / /proc rw - proc proc rw\n31 1 0:5 / /a\\040b\\134040 rw - tmpfs t rw\n32 31 0:6 / /proc rw - x x rw\n";
        let points = points(table);
        let places: Vec<_> = points.keys().map(Vec::as_slice).collect();
        assert_eq!(places, [b"/a b\\040".as_slice(), b"/proc"]);
        assert_eq!(points[b"/proc".as_slice()].len(), 2);
        assert_eq!(unescaped(b"\\04"), b"\\04");
    }
}
