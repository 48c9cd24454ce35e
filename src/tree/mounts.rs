//! Noticing that file systems are mounted and unmounted, which inotify does not tell of.
//!
//! The kernel's table of mounts says where something has changed; the disk says what is there now, and a directory that is
//! another than before is looked at again. One thread waits for such changes on behalf of all trees and wakes their
//! workers. A worker also asks before it delivers a barrier, so a barrier has all that was mounted before it behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use super::batch::{Draft, Extra};
use super::marks::Mark;
use super::nodes::{Id, LINK, NONE, State};
use super::tracker::{Out, Tracker};
use super::worker::Worker;
use crate::mask::Mask;
use crate::sys::dir::{Dir, Identity};
use crate::sys::mounts::MountTable;
use crate::sys::notifier::Notifier;
use crate::sys::thread::spawn_without_signals;

/// Where something is mounted, and the lines that say what: the last of them lies over the others.
type Points = BTreeMap<Vec<u8>, Vec<Vec<u8>>>;

/// A place where something was mounted or unmounted.
#[derive(Clone, Copy, Default)]
struct Point {
    /// Something was unmounted, which was not said.
    ended: bool,
    tries: u8,
}

/// The table as a tree last saw it. Where there is no `/proc`, none.
pub(super) struct Mounts {
    table: Option<MountTable>,
    points: Points,
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
    pub(super) fn lost_marker(&mut self) {
        let marked = std::mem::take(&mut self.marked);
        self.noted.extend(marked);
    }

    /// The places where something was mounted or unmounted, those above before those below.
    fn changed(&mut self) -> BTreeMap<Vec<u8>, Point> {
        let due = !self.noted.is_empty() || !self.marked.is_empty();
        // What is asked is not told again.
        let table = self.table.as_mut().filter(|table| table.has_changed() || due);
        let Some(Ok(lines)) = table.map(MountTable::read) else {
            return BTreeMap::new();
        };
        let before = std::mem::replace(&mut self.points, points(&lines));
        let after = &self.points;
        let all: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let changed = all.into_iter().filter(|&point| before.get(point) != after.get(point));
        let point = |place: &Vec<u8>| {
            let now = after.get(place).map_or(&[][..], Vec::as_slice);
            let lines = before.get(place);
            let ended = lines.is_some_and(|lines| !lines.iter().all(|line| now.contains(line)));
            (place.clone(), Point { ended, tries: 0 })
        };
        changed.map(point).collect()
    }
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
        /// Places that are hidden by what is mounted above them are never found.
        const MOST_TRIES: u8 = 16;
        let changed = self.mounts.changed();
        let marked = if passed {
            std::mem::take(&mut self.mounts.marked)
        } else {
            BTreeMap::new()
        };
        if changed.is_empty() && marked.is_empty() {
            return;
        }
        let out = &mut Out {
            draft,
            memory: &mut self.memory,
        };
        let (tracker, noted) = (&mut self.tracker, &mut self.mounts.noted);
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
        for (place, point) in &marked {
            let found = tracker.look_at_point(place, point.ended, &tops, out);
            if !found && point.tries < MOST_TRIES {
                let tries = point.tries + 1;
                noted.insert(place.clone(), Point { tries, ..*point });
            }
        }
        for (place, mut point) in changed {
            point.ended &= !tracker.look_at_point(&place, point.ended, &tops, out);
            noted.insert(place, point);
        }
        if self.mounts.marked.is_empty() && !self.mounts.noted.is_empty() {
            self.mounts.marked = std::mem::take(&mut self.mounts.noted);
            self.mark(Mark::Mounts);
        }
    }
}

/// What is at a directory's path instead.
enum Instead {
    Nothing,
    Another,
    Unknown,
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
            false => {
                let roots: BTreeSet<_> = self.roots.iter().map(|root| root.node).collect();
                roots.into_iter().collect()
            }
        }
    }

    fn is_in_place(&mut self, id: Id) -> Result<(), Instead> {
        let path = self.nodes.path(id);
        let (device, inode) = self.nodes.identity(id);
        match Dir::find(&path).and_then(|dir| dir.identity()) {
            Ok(found) if found != Identity { device, inode } => Err(Instead::Another),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Instead::Nothing),
            // Behind what may not be searched. What becomes accessible again is looked at again.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Instead::Unknown),
            _ => Ok(()),
        }
    }

    fn displaced(&mut self, top: Id, gone: Instead, out: &mut Out<'_>) {
        match (self.nodes.get(top).parent, gone) {
            (_, Instead::Unknown) => {}
            (NONE, Instead::Nothing) => self.root_gone(top, "with what was mounted, its path leads nowhere", out),
            (NONE, Instead::Another) => self.root_gone(top, "what is mounted there now is another", out),
            (_, Instead::Another) => self.unsettle(top, out),
            // An event says so.
            (_, Instead::Nothing) => {}
        }
    }

    /// False if there is no directory at this place yet.
    fn look_at_point(&mut self, place: &[u8], ended: bool, tops: &[(Id, PathBuf)], out: &mut Out<'_>) -> bool {
        let mut found = true;
        for (top, path) in tops {
            let Ok(below) = Path::new(OsStr::from_bytes(place)).strip_prefix(path) else {
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
                false if id != *top => self.look_at_mount(id, ended, out),
                false => {}
            }
        }
        found
    }

    /// Something was mounted or unmounted at this directory, and what is there may be another.
    fn look_at_mount(&mut self, id: Id, ended: bool, out: &mut Out<'_>) {
        match self.nodes.get(id).state {
            State::Watched => {
                // If nothing is there, an event says so.
                let (Err(Instead::Another) | Err(Instead::Unknown)) = self.is_in_place(id) else {
                    return;
                };
                self.say_unmounted(id, ended, out);
                self.unsettle(id, out);
            }
            State::Uncovered => {
                self.say_unmounted(id, ended, out);
                self.look_again(id);
            }
            State::Pending => self.changed = true,
            State::Vacant | State::Filtered => {}
        }
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

/// Has this thread woken when something is mounted or unmounted.
struct Call(Arc<Called>);

struct Called {
    flag: AtomicBool,
    thread: Thread,
}

/// The thread that waits, and whom it wakes.
struct Herald {
    called: Vec<Arc<Called>>,
    stop: Arc<Notifier>,
    /// A fork leaves the thread behind.
    process: u32,
}

static HERALD: Mutex<Option<Herald>> = Mutex::new(None);

fn herald() -> MutexGuard<'static, Option<Herald>> {
    HERALD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Call {
    fn new() -> io::Result<Self> {
        let called = Arc::new(Called {
            flag: AtomicBool::new(false),
            thread: thread::current(),
        });
        let mut herald = herald();
        match herald.as_mut().filter(|herald| herald.process == std::process::id()) {
            Some(herald) => herald.called.push(Arc::clone(&called)),
            None => {
                let (stop, table) = (Arc::new(Notifier::new()?), MountTable::open()?);
                let until = Arc::clone(&stop);
                spawn_without_signals("ringwatch-mount", move || proclaim(&table, &until))?;
                *herald = Some(Herald {
                    called: vec![Arc::clone(&called)],
                    stop,
                    process: std::process::id(),
                });
            }
        }
        Ok(Self(called))
    }

    fn take(&self) -> bool {
        self.0.flag.load(Ordering::Relaxed) && self.0.flag.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut place = herald();
        let Some(herald) = place.as_mut() else { return };
        herald.called.retain(|called| !Arc::ptr_eq(called, &self.0));
        if herald.called.is_empty() {
            herald.stop.signal();
            *place = None;
        }
    }
}

/// The body of the thread.
fn proclaim(table: &MountTable, stop: &Arc<Notifier>) {
    /// Where one is mounted, others often follow: they are looked at together.
    const PAUSE: Duration = Duration::from_millis(10);
    while table.wait(stop) {
        if let Some(herald) = herald().as_ref().filter(|herald| Arc::ptr_eq(&herald.stop, stop)) {
            for called in &herald.called {
                called.flag.store(true, Ordering::Release);
                called.thread.unpark();
            }
        }
        if stop.sleep(PAUSE) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
