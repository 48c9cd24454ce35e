//! How one directory is looked at: opened in the one above it, watched, then listed.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::above::{Above, join};
use super::crawl::{Shared, Work};
use super::files::{DIRECTORY, Fingerprint, UNKNOWN};
use super::found::{Found, Outcome, Part};
use super::nodes::NONE;
use crate::mask::Mask;
use crate::sys::dir::{Dir, Identity, Kind, Roamer, Status, entries, errno, is_absent};

/// One thread of a crawl: what it has found, and what is to be looked at next.
pub(super) struct Looker<'a> {
    shared: &'a Shared<'a>,
    pub(super) part: Part,
    /// The last is taken first.
    pub(super) stack: Vec<Work>,
    room: Vec<u8>,
    roamer: Option<Roamer<'a>>,
    /// What the directory that is being listed has below it.
    below: Vec<Below>,
    /// Their names, each with its NUL.
    names: Vec<u8>,
    /// With a filter: the path of that directory below its root, and as it was asked for last.
    relative: Vec<u8>,
}

/// Bytes that the path of a directory may have below its root. What is deeper is said to be not covered: else what is said
/// of many directories that lie deep would take as much memory as their number times their depth.
const LONGEST_PATH: usize = 64 * 1024;

/// A directory that was listed.
struct Below {
    name: (usize, usize),
    wanted: bool,
    link: bool,
}

impl<'a> Looker<'a> {
    pub(super) fn new(shared: &'a Shared<'a>, part: Part, may_roam: bool) -> Self {
        Self {
            shared,
            part,
            stack: Vec::new(),
            room: vec![0; 32 * 1024],
            roamer: shared.home().filter(|_| may_roam).and_then(Roamer::new),
            below: Vec::new(),
            names: Vec::new(),
            relative: Vec::new(),
        }
    }

    pub(super) fn roams(&self) -> bool {
        self.roamer.is_some()
    }

    /// Watches one directory, then lists it.
    pub(super) fn look(&mut self, work: &Work) {
        let shared = self.shared;
        let counts = shared.counts;
        counts.directories.fetch_add(1, Ordering::Relaxed);
        let name = self.part.put(work.name().to_bytes());
        let mut found = Found {
            number: work.number,
            parent: work.parent,
            node: work.node,
            name,
            files: (name.1, name.1),
            outcome: Outcome::Vanished,
            listed: false,
            link: work.link,
        };
        match self.watch(work) {
            Ok((dir, identity, wd)) => {
                found.outcome = Outcome::Watched { wd, identity };
                if let Some(singles) = &work.singles {
                    found.listed = true;
                    if let Err(error) = self.find_singles(&dir, singles) {
                        found.outcome = broken(wd, identity, &error);
                    }
                    found.files.1 = self.part.text.len();
                } else if !work.probe && !(shared.known)(wd) && shared.is_first(wd) {
                    found.listed = true;
                    counts.watches.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = self.list(&dir, work) {
                        found.outcome = broken(wd, identity, &error);
                    }
                    found.files.1 = self.part.text.len();
                    self.go_below(dir, identity, work);
                }
            }
            Err(outcome) => found.outcome = outcome,
        }
        if found.outcome == Outcome::Vanished
            && !work.link
            && !work.above.is_unneeded()
            && let Ok(above) = shared.open.get(&work.above, || come_home(&mut self.roamer))
        {
            // Its deletion is to be queued before the marker of this session, or it would be reported twice.
            above.wait_for_change();
        }
        if matches!(found.outcome, Outcome::Failed(_) | Outcome::Unlisted { .. }) {
            counts.errors.fetch_add(1, Ordering::Relaxed);
        }
        self.part.found.push(found);
    }

    fn find_singles(&mut self, dir: &Dir, names: &[Vec<u8>]) -> io::Result<()> {
        let manner = self.shared.manner;
        for name in names {
            match dir.status_of(name) {
                Ok(status) if status.kind == Kind::Dir => self.part.put_file(name, DIRECTORY),
                Ok(_) if !manner.names => {}
                Ok(status) => {
                    let known = manner.fingerprints.then(|| fingerprint(&status, now()));
                    self.part.put_file(name, known.unwrap_or(UNKNOWN));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn watch(&mut self, work: &Work) -> Result<(Dir, Identity, i32), Outcome> {
        let Shared {
            manner, inotify, open, ..
        } = self.shared;
        if !work.wanted {
            return Err(Outcome::Filtered);
        }
        if work.above.length_with(work.name) > LONGEST_PATH {
            return Err(Outcome::Failed(libc::ENAMETOOLONG));
        }
        let failed = |error: io::Error| match is_absent(&error) {
            // Of a root all links are followed: it leads to too many of them.
            true if work.above.is_unneeded() && errno(&error) == libc::ELOOP => Outcome::Failed(libc::ELOOP),
            true => Outcome::Vanished,
            false => Outcome::Failed(errno(&error)),
        };
        let dir = match work.above.is_unneeded() {
            false => open
                .get(&work.above, || come_home(&mut self.roamer))?
                .open(work.name(), work.link),
            true => come_home(&mut self.roamer)
                .and_then(|()| Dir::find(work.name().to_bytes()))
                .and_then(|root| root.open(c".", true)),
        };
        let dir = dir.map_err(failed)?;
        let identity = dir.identity().map_err(failed)?;
        if !manner.cross_mounts && !work.link && work.device.is_some_and(|device| device != identity.device) {
            return Err(Outcome::Foreign);
        }
        // What is watched already may be met again, and is to lose nothing by it: see `Table::add`.
        let mask = manner.mask | Mask::ONLYDIR | Mask::MASK_ADD;
        let watched = match &mut self.roamer {
            Some(roamer) => roamer.watch(&dir, inotify, mask).or_else(|_| dir.watch(inotify, mask)),
            None => dir.watch(inotify, mask),
        };
        match watched {
            Ok(wd) => Ok((dir, identity, wd)),
            // It is open, so it is there: /proc is what is not.
            Err(error) => Err(Outcome::Failed(errno(&error))),
        }
    }

    fn list(&mut self, dir: &Dir, work: &Work) -> io::Result<()> {
        if self.shared.manner.filter.is_some() {
            come_home(&mut self.roamer)?;
        }
        let mut room = std::mem::take(&mut self.room);
        let listed = self.list_into(&mut room, dir, work);
        self.room = room;
        listed
    }

    fn list_into(&mut self, room: &mut [u8], dir: &Dir, work: &Work) -> io::Result<()> {
        let mut relative = false;
        loop {
            let length = match dir.read(room) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                // Removed while it was open.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
                Err(error) => return Err(error),
            };
            let now = now();
            for entry in entries(&room[..length]) {
                if !relative && self.shared.manner.filter.is_some() && entry.kind != Kind::Other {
                    work.above.write_relative(work.name, &mut self.relative);
                    relative = true;
                }
                self.take(entry.kind, entry.name, dir, now)?;
            }
        }
    }

    /// An error if it can't be told what it is.
    fn take(&mut self, mut kind: Kind, name: &CStr, dir: &Dir, now: Duration) -> io::Result<()> {
        let manner = self.shared.manner;
        let mut status = None;
        if kind == Kind::Unknown || manner.fingerprints && kind != Kind::Dir {
            match dir.status(name) {
                Ok(found) => {
                    kind = found.kind;
                    status = Some(found);
                }
                // Gone meanwhile, which an event says.
                Err(error) if error.kind() == io::ErrorKind::NotFound && kind == Kind::Unknown => return Ok(()),
                Err(error) if kind == Kind::Unknown => return Err(error),
                Err(_) => {}
            }
        }
        let link = kind == Kind::Link && manner.follow_links;
        if kind != Kind::Dir && manner.names {
            let fingerprint = status.map_or(UNKNOWN, |status| fingerprint(&status, now));
            self.part.put_file(name.to_bytes(), fingerprint);
        }
        if kind == Kind::Dir || link {
            let mut wanted = true;
            if let Some(filter) = &manner.filter {
                let dir = self.relative.len();
                join(&mut self.relative, name.to_bytes());
                wanted = filter(Path::new(OsStr::from_bytes(&self.relative)));
                self.relative.truncate(dir);
            }
            let start = self.names.len();
            self.names.extend(name.to_bytes_with_nul());
            self.below.push(Below {
                name: (start, self.names.len()),
                wanted,
                link,
            });
        }
        Ok(())
    }

    /// What was listed is to be looked at next, in the order of the listing.
    fn go_below(&mut self, dir: Dir, identity: Identity, work: &Work) {
        if self.below.is_empty() {
            return;
        }
        let count = self.below.len() as u32;
        let first = self.shared.next.fetch_add(count, Ordering::Relaxed);
        let names = self.names.as_slice().into();
        let above = Arc::new(Above::below(&work.above, work.name, work.link, identity, names));
        self.shared.open.keep(&above, Arc::new(dir));
        let numbered = (first..).zip(self.below.drain(..));
        let place = self.stack.len();
        self.stack.extend(numbered.map(|(number, below)| Work {
            number,
            above: Arc::clone(&above),
            parent: work.number,
            node: NONE,
            name: below.name,
            link: below.link,
            wanted: below.wanted,
            singles: None,
            probe: false,
            device: Some(identity.device),
        }));
        self.stack[place..].reverse();
        self.names.clear();
    }
}

/// Where relative paths begin, and filters run.
fn come_home(roamer: &mut Option<Roamer<'_>>) -> io::Result<()> {
    roamer.as_mut().map_or(Ok(()), Roamer::come_home)
}

/// A listing that was not to be had whole.
fn broken(wd: i32, identity: Identity, error: &io::Error) -> Outcome {
    let code = errno(error);
    Outcome::Unlisted { wd, identity, code }
}

fn now() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default()
}

/// What tells a file from its later self: inode, size and time of modification, in one number.
///
/// A file modified just now can be modified again without its time changing (the kernel's clock for files has ticks of up to
/// 10 ms), so nothing is known of it.
fn fingerprint(status: &Status, now: Duration) -> Fingerprint {
    const TICK: Duration = Duration::from_millis(20);
    let (seconds, nanoseconds) = status.modified;
    let modified = Duration::new(seconds.max(0).cast_unsigned(), nanoseconds.max(0) as u32);
    if modified + TICK > now {
        return UNKNOWN;
    }
    let parts = [
        status.identity.inode,
        status.size,
        seconds.cast_unsigned(),
        nanoseconds.cast_unsigned(),
    ];
    let mixed = parts.iter().fold(0_u64, |sum, part| {
        let mixed = (sum ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
    });
    mixed.clamp(UNKNOWN + 1, DIRECTORY - 1)
}
