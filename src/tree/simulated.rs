//! A disk that is not there, with a kernel that tells of it: the tracker is driven as the worker drives it, in an order that
//! some bytes decide, and must come to know what is on the disk.
//!
//! Operations happen before, between and behind looks and reads. When all is read and nothing is to be looked at, three
//! things must be alike: the disk, the tracker's directories by their links and watches, and what somebody knows who applied
//! every change that was reported.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use super::change::OwnedChange;
use super::crawl::Job;
use super::found::{Crawl, Found, Outcome, Part};
use super::harness::{DIR, Fed, ROOT, Raw};
use super::nodes::{NONE, State};
use super::tracker::Tracker;
use crate::fuzzing::Bytes;
use crate::mask::Mask;
use crate::sys::dir::{Identity, Kind};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// What the end of a session's overlap is marked by, and that of the events that an overflow makes unsure.
const SESSION: i32 = 1_000_000;
const LIGHT: i32 = 1_000_001;

/// Which directory or file it is.
type Ino = usize;

#[derive(Default)]
struct Inode {
    /// None for a file.
    entries: Option<BTreeMap<&'static str, Ino>>,
    /// What a directory is watched by; 0 if it is not.
    wd: i32,
}

struct Disk {
    inodes: Vec<Inode>,
    queue: VecDeque<Raw>,
    last_wd: i32,
    last_cookie: u32,
}

const TOP: Ino = 0;

impl Disk {
    fn new() -> Self {
        let top = Inode {
            entries: Some(BTreeMap::new()),
            wd: ROOT,
        };
        Self {
            inodes: vec![top],
            queue: VecDeque::new(),
            last_wd: ROOT,
            last_cookie: 0,
        }
    }

    fn is_dir(&self, ino: Ino) -> bool {
        self.inodes[ino].entries.is_some()
    }

    fn entry(&self, dir: Ino, name: &str) -> Option<Ino> {
        self.inodes[dir].entries.as_ref()?.get(name).copied()
    }

    fn entries(&mut self, dir: Ino) -> &mut BTreeMap<&'static str, Ino> {
        self.inodes[dir].entries.as_mut().expect("a directory")
    }

    /// Everything there is, parents first.
    fn list(&self) -> Vec<(PathBuf, Ino)> {
        let mut all = vec![(PathBuf::from("/r"), TOP)];
        let mut next = 0;
        while next < all.len() {
            let (path, ino) = all[next].clone();
            let entries = self.inodes[ino].entries.iter().flatten();
            all.extend(entries.map(|(name, &below)| (path.join(name), below)));
            next += 1;
        }
        all
    }

    fn find(&self, path: &[u8]) -> Option<Ino> {
        let text = std::str::from_utf8(path).ok()?;
        let below = Path::new(text).strip_prefix("/r").ok()?;
        below.iter().try_fold(TOP, |ino, name| self.entry(ino, name.to_str()?))
    }

    fn tell(&mut self, dir: Ino, mask: Mask, cookie: u32, name: &'static str) {
        let wd = self.inodes[dir].wd;
        if wd != 0 {
            self.queue.push_back((wd, mask, cookie, name));
        }
    }

    fn kind(&self, ino: Ino) -> Mask {
        if self.is_dir(ino) { DIR } else { Mask::empty() }
    }

    fn make(&mut self, dir: Ino, name: &'static str, is_dir: bool) {
        if self.entry(dir, name).is_some() {
            return;
        }
        self.inodes.push(Inode {
            entries: is_dir.then(BTreeMap::new),
            wd: 0,
        });
        let ino = self.inodes.len() - 1;
        self.entries(dir).insert(name, ino);
        self.tell(dir, Mask::CREATE | self.kind(ino), 0, name);
    }

    fn is_replaceable(&self, ino: Ino) -> bool {
        self.inodes[ino].entries.as_ref().is_none_or(BTreeMap::is_empty)
    }

    fn remove(&mut self, dir: Ino, name: &'static str) {
        let Some(ino) = self.entry(dir, name).filter(|&ino| self.is_replaceable(ino)) else {
            return;
        };
        self.entries(dir).remove(name);
        self.tell(dir, Mask::DELETE | self.kind(ino), 0, name);
        self.end(ino);
    }

    /// It has no name any more.
    fn end(&mut self, ino: Ino) {
        self.tell(ino, Mask::DELETE_SELF, 0, "");
        self.unwatch(ino);
    }

    fn unwatch(&mut self, ino: Ino) {
        self.tell(ino, Mask::IGNORED, 0, "");
        self.inodes[ino].wd = 0;
    }

    fn is_below(&self, ino: Ino, above: Ino) -> bool {
        let entries = self.inodes[above].entries.iter().flatten();
        ino == above || entries.into_iter().any(|(_, &next)| self.is_below(ino, next))
    }

    fn tell_move(&mut self, ino: Ino, from: (Ino, &'static str), to: (Ino, &'static str)) {
        self.last_cookie += 1;
        let (kind, cookie) = (self.kind(ino), self.last_cookie);
        self.tell(from.0, Mask::MOVED_FROM | kind, cookie, from.1);
        self.tell(to.0, Mask::MOVED_TO | kind, cookie, to.1);
    }

    fn rename(&mut self, from: (Ino, &'static str), to: (Ino, &'static str)) {
        let Some(ino) = self.entry(from.0, from.1) else { return };
        let victim = self.entry(to.0, to.1);
        let fits =
            |victim: &Ino| *victim != ino && self.is_dir(*victim) == self.is_dir(ino) && self.is_replaceable(*victim);
        if self.is_below(to.0, ino) || !victim.as_ref().is_none_or(fits) {
            return;
        }
        self.entries(from.0).remove(from.1);
        self.entries(to.0).insert(to.1, ino);
        self.tell_move(ino, from, to);
        self.tell(ino, Mask::MOVE_SELF, 0, "");
        if let Some(victim) = victim {
            self.end(victim);
        }
    }

    fn exchange(&mut self, one: (Ino, &'static str), other: (Ino, &'static str)) {
        let (Some(first), Some(second)) = (self.entry(one.0, one.1), self.entry(other.0, other.1)) else {
            return;
        };
        if first == second || self.is_below(other.0, first) || self.is_below(one.0, second) {
            return;
        }
        self.entries(one.0).insert(one.1, second);
        self.entries(other.0).insert(other.1, first);
        self.tell_move(first, one, other);
        self.tell_move(second, other, one);
        self.tell(first, Mask::MOVE_SELF, 0, "");
        self.tell(second, Mask::MOVE_SELF, 0, "");
    }

    fn watch(&mut self, ino: Ino) -> i32 {
        if self.inodes[ino].wd == 0 {
            self.last_wd += 1;
            self.inodes[ino].wd = self.last_wd;
        }
        self.inodes[ino].wd
    }

    /// As the crawl does it: watched, then listed, and on below, but what is `known` by its watch is not listed.
    fn crawl(&mut self, jobs: Vec<Job>, known: &dyn Fn(i32) -> bool) -> Crawl {
        let mut part = Part::default();
        let mut to_do = VecDeque::new();
        let mut next = 0;
        for job in jobs {
            let number = next;
            next += 1;
            let place = match &job.parent {
                None => Ok(self.find(&job.name)),
                Some(above) => match self.find(&above.path) {
                    Some(ino) if ino as u64 == above.identity.inode => {
                        Ok(self.entry(ino, std::str::from_utf8(&job.name).expect("a name")))
                    }
                    _ => Err(Outcome::Lost),
                },
            };
            match place {
                Err(outcome) => part.fail(number, &job, outcome),
                Ok(place) => to_do.push_back((number, NONE, job.node, job.name, place)),
            }
        }
        while let Some((number, parent, node, name, place)) = to_do.pop_front() {
            let name = part.put(&name);
            let mut found = Found {
                number,
                parent,
                node,
                name,
                files: (name.1, name.1),
                outcome: Outcome::Vanished,
                listed: false,
                link: false,
            };
            if let Some(ino) = place.filter(|&ino| self.is_dir(ino)) {
                let wd = self.watch(ino);
                found.outcome = Outcome::Watched {
                    wd,
                    identity: identity(ino),
                };
                if !known(wd) {
                    found.listed = true;
                    for (name, below) in self.entries(ino).clone() {
                        if self.is_dir(below) {
                            to_do.push_back((next, number, NONE, name.into(), Some(below)));
                            next += 1;
                        } else {
                            part.put_file(name.as_bytes(), 1);
                        }
                    }
                }
                found.files.1 = part.text.len();
            }
            part.found.push(found);
        }
        Crawl::new(vec![part], next as usize)
    }
}

fn identity(ino: Ino) -> Identity {
    Identity {
        device: 1,
        inode: ino as u64,
    }
}

struct World {
    disk: Disk,
    fed: Fed,
    keeps_files: bool,
    verbose: bool,
    /// Events were lost, and what they did is not reported.
    left_to_the_user: bool,
    /// What is known by the changes that were reported: whether each is a directory.
    told: BTreeMap<PathBuf, bool>,
    /// What was moved away, and is to arrive, by its cookie.
    on_the_way: BTreeMap<u32, BTreeMap<PathBuf, bool>>,
}

impl World {
    fn new(keeps_files: bool) -> Self {
        let mut fed = Fed::new(keeps_files, false);
        fed.tracker.nodes.set_identity(fed.root, 1, TOP as u64);
        Self {
            disk: Disk::new(),
            fed,
            keeps_files,
            verbose: std::env::var_os("RINGWATCH_VERBOSE").is_some(),
            left_to_the_user: false,
            told: BTreeMap::new(),
            on_the_way: BTreeMap::new(),
        }
    }

    /// Reads so many events, each in a read of its own or all in one; a rename is not torn.
    fn read(&mut self, most: usize, together: bool) {
        let mut count = most.min(self.disk.queue.len());
        while count > 0 && count < self.disk.queue.len() && self.disk.queue[count - 1].1.contains(Mask::MOVED_FROM) {
            count += 1;
        }
        let records: Vec<_> = self.disk.queue.drain(..count).collect();
        let reads: Vec<_> = records.chunks(if together { count.max(1) } else { 1 }).collect();
        let (disk, keeps_files) = (&mut self.disk, self.keeps_files);
        let changes = self.fed.feed_but(&reads, |tracker, record, out| {
            if record.mask.contains(Mask::Q_OVERFLOW) {
                let jobs = tracker.begin_recovery();
                disk.queue.push_back((LIGHT, Mask::IGNORED, 0, ""));
                let found = disk.crawl(jobs, &|_| false);
                tracker.blind = !keeps_files;
                tracker.recover(&found, out);
                tracker.blind = false;
                disk.queue.push_back((SESSION, Mask::IGNORED, 0, ""));
            } else if record.wd == LIGHT {
                tracker.shadow = false;
            } else if record.wd == SESSION && tracker.session != 0 {
                tracker.end_session(out);
            } else {
                return record.wd == SESSION;
            }
            true
        });
        self.learn(&changes);
    }

    /// Looks at what is to be looked at, if anything is.
    fn look(&mut self) -> bool {
        if self.fed.tracker.session != 0 || !self.fed.tracker.has_work() {
            return false;
        }
        let disk = &mut self.disk;
        let changes = self.fed.report(|tracker: &mut Tracker, out| {
            tracker.begin_session(true);
            let jobs = tracker.jobs();
            let probes = tracker.probes();
            let nodes = &tracker.nodes;
            let found = disk.crawl(jobs, &|wd| nodes.by_wd(wd).is_some());
            for probe in probes {
                match disk.find(&probe.path).filter(|&ino| identity(ino) == probe.identity) {
                    Some(dir) => {
                        let name = std::str::from_utf8(&probe.name).expect("a name");
                        let kind = disk.entry(dir, name);
                        let kind = kind.map(|ino| if disk.is_dir(ino) { Kind::Dir } else { Kind::Other });
                        tracker.probed(&probe, kind, out);
                    }
                    None => tracker.probe_lost(&probe),
                }
            }
            tracker.take_in(&found, out);
        });
        self.disk.queue.push_back((SESSION, Mask::IGNORED, 0, ""));
        self.learn(&changes);
        true
    }

    /// Removes the watches that nobody needs.
    fn release(&mut self) {
        for wd in std::mem::take(&mut self.fed.tracker.releasing) {
            if self.fed.tracker.nodes.by_wd(wd).is_none()
                && let Some(ino) = self.disk.inodes.iter().position(|inode| inode.wd == wd)
            {
                self.disk.unwatch(ino);
            }
        }
    }

    /// Events are lost, from some place in the queue on.
    fn overflow(&mut self, kept: usize) {
        // The kernel says it once, as long as that was not read.
        if !self.disk.queue.iter().any(|raw| raw.1.contains(Mask::Q_OVERFLOW)) {
            self.disk.queue.truncate(kept);
            self.disk.queue.push_back((-1, Mask::Q_OVERFLOW, 0, ""));
            self.left_to_the_user |= !self.keeps_files;
        }
    }

    /// `RINGWATCH_VERBOSE=1`: what happens, in order.
    fn say(&self, what: &dyn std::fmt::Debug) {
        if self.verbose {
            eprintln!("{what:?}; queued {:?}", self.disk.queue);
        }
    }

    fn learn(&mut self, changes: &[OwnedChange]) {
        if self.left_to_the_user {
            return;
        }
        for change in changes {
            self.say(change);
            let (Some(path), mask) = (change.path(), change.mask()) else {
                continue;
            };
            if change.name().is_none() {
                continue;
            }
            if mask.intersects(Mask::DELETE | Mask::MOVED_FROM) || mask.contains(Mask::MOVED_TO) {
                let gone = take_below(&mut self.told, &path);
                if mask.contains(Mask::MOVED_FROM) && !change.is_moved_out() {
                    self.on_the_way.insert(change.cookie().expect("a cookie"), gone);
                }
            }
            if mask.contains(Mask::CREATE) {
                let before = self.told.insert(path, change.is_dir());
                assert_eq!(before, None, "it was there already: {change:?}");
            } else if mask.contains(Mask::MOVED_TO) {
                let moved = change.renamed_from().map(|_| change.cookie().expect("a cookie"));
                let moved = moved.and_then(|cookie| self.on_the_way.remove(&cookie));
                assert_eq!(moved.is_some(), change.renamed_from().is_some(), "{change:?}");
                let moved = moved.unwrap_or_else(|| BTreeMap::from([(PathBuf::new(), change.is_dir())]));
                self.told
                    .extend(moved.into_iter().map(|(below, is_dir)| (join(&path, &below), is_dir)));
            }
        }
    }

    /// Reads and looks until nothing is left to do, and compares.
    fn settle(&mut self) {
        // Nothing else happens, so each look leaves less to look at.
        const ENOUGH: usize = 200;
        for round in 0.. {
            assert!(round < ENOUGH, "it does not come to rest");
            self.read(usize::MAX, true);
            if !self.look() && self.disk.queue.is_empty() {
                self.release();
                if self.disk.queue.is_empty() {
                    break;
                }
            }
        }
        let mut there = self.disk.list();
        let (dirs, files): (Vec<_>, Vec<_>) = there.drain(..).partition(|&(_, ino)| self.disk.is_dir(ino));
        let mut expected: Vec<_> = dirs
            .iter()
            .map(|(path, ino)| (path.clone(), self.disk.inodes[*ino].wd))
            .collect();
        let tracker = &mut self.fed.tracker;
        let all: Vec<_> = tracker.nodes.all().collect();
        let mut known = Vec::new();
        for id in all {
            let path = String::from_utf8(tracker.nodes.path(id)).expect("a path");
            assert_eq!(tracker.nodes.get(id).state, State::Watched, "{path}");
            known.push((PathBuf::from(path), tracker.nodes.get(id).wd));
        }
        expected.sort();
        known.sort();
        assert_eq!(known, expected, "directories and their watches");
        if !self.left_to_the_user {
            let below = |(path, _): (PathBuf, Ino), is_dir| (path, is_dir);
            let dirs = dirs.into_iter().skip(1).map(|dir| below(dir, true));
            let expected: BTreeMap<_, _> = dirs.chain(files.into_iter().map(|file| below(file, false))).collect();
            assert_eq!(self.told, expected, "what was reported, and what is there");
        }
    }
}

fn join(path: &Path, below: &Path) -> PathBuf {
    match below.as_os_str().is_empty() {
        true => path.to_owned(),
        false => path.join(below),
    }
}

/// Takes a path and all below it, named by what follows the path.
fn take_below(told: &mut BTreeMap<PathBuf, bool>, path: &Path) -> BTreeMap<PathBuf, bool> {
    let below: Vec<_> = told.keys().filter(|known| known.starts_with(path)).cloned().collect();
    let taken = below.into_iter().map(|known| {
        let is_dir = told.remove(&known).expect("it was just found");
        (known.strip_prefix(path).expect("it is below").to_owned(), is_dir)
    });
    taken.collect()
}

/// Does what these bytes say, and fails if the tracker does not follow.
pub(crate) fn follow(bytes: &mut Bytes<'_>) {
    let manner = bytes.next().unwrap_or(0);
    let (keeps_files, loses) = (manner & 1 != 0, manner & 2 != 0);
    let mut world = World::new(keeps_files);
    // More is slow, and finds no more.
    for _ in 0..200 {
        let Some(what) = bytes.next() else { break };
        world.say(&what);
        let list = world.disk.list();
        let dirs: Vec<_> = list
            .into_iter()
            .map(|(_, ino)| ino)
            .filter(|&ino| world.disk.is_dir(ino))
            .collect();
        let mut place = || {
            let byte = usize::from(bytes.next().unwrap_or(0));
            (dirs[byte / NAMES.len() % dirs.len()], NAMES[byte % NAMES.len()])
        };
        match what % 16 {
            0..=3 => {
                let (dir, name) = place();
                world.disk.make(dir, name, what % 16 < 3);
            }
            4 | 5 => {
                let (dir, name) = place();
                world.disk.remove(dir, name);
            }
            6..=8 => world.disk.rename(place(), place()),
            9 => world.disk.exchange(place(), place()),
            10..=12 => world.read(usize::from(bytes.next().unwrap_or(0) % 8), what % 16 == 12),
            13 => drop(world.look()),
            14 if loses => world.overflow(usize::from(bytes.next().unwrap_or(0) % 8)),
            14 => world.release(),
            _ => world.settle(),
        }
        world.fed.assert_sound();
    }
    world.settle();
    world.fed.assert_sound();
}
