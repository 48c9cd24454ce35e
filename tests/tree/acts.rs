//! Hostile operations at random: on few names, so that they get in each other's way.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::deep::{make_all, reach};
use crate::support::child::{detach, mount_memory};
use crate::support::exchange::exchange;

/// A small generator of numbers (splitmix64), the same on every machine.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5151_5151)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// One hostile act. Most paths of it need not exist; then it fails, and nobody minds.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    MakeDirs(PathBuf, u64),
    Write(PathBuf),
    Remove(PathBuf),
    RemoveAll(PathBuf),
    Rename(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    BackAndForth(PathBuf, PathBuf),
    Replace(PathBuf),
    MoveOut(PathBuf, u64),
    MoveIn(u64, PathBuf),
    BringIn(PathBuf, u64),
    Link(PathBuf, PathBuf),
    Symlink(PathBuf, PathBuf),
    Forbid(PathBuf, u32),
    Flood(PathBuf),
    Pause(u64),
    Hold(PathBuf, u64),
    Mount(PathBuf),
    Unmount(PathBuf),
}

/// Where operations take place, and which.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) root: PathBuf,
    /// Another root, or a place deep below.
    pub(crate) other: Option<PathBuf>,
    /// Directories that themselves are moved.
    pub(crate) moving: Vec<PathBuf>,
    /// What is there is held open now and then.
    pub(crate) holds: bool,
    pub(crate) mounts: bool,
    /// Directories that stay where they are, to which links are made.
    pub(crate) targets: Vec<PathBuf>,
}

/// Few names, so that the threads get in each other's way.
fn name(random: &mut Random) -> OsString {
    match random.below(24) {
        0 => OsString::from("n".repeat(255)),
        1 => OsStr::from_bytes(b"\xff\xfe").to_owned(),
        2 => OsString::from(".skip"),
        n => OsString::from(["a", "b", "c"][n as usize % 3]),
    }
}

fn path(field: &Field, random: &mut Random) -> PathBuf {
    let other = field.other.as_ref().filter(|_| random.one_in(2));
    let mut path = other.unwrap_or(&field.root).clone();
    if !field.targets.is_empty() && random.one_in(3) {
        path = target(field, random);
    }
    for _ in 0..=random.below(4) {
        path.push(name(random));
    }
    path
}

fn target(field: &Field, random: &mut Random) -> PathBuf {
    field.targets[random.below(field.targets.len() as u64) as usize].clone()
}

pub(crate) fn act(field: &Field, random: &mut Random) -> Act {
    let one = path(field, random);
    let other = match random.one_in(2) {
        true => path(field, random),
        false => one.with_file_name(name(random)),
    };
    if field.mounts && random.one_in(8) {
        return match random.one_in(2) {
            true => Act::Mount(one),
            false => Act::Unmount(one),
        };
    }
    if !field.targets.is_empty() && random.one_in(6) {
        return Act::Symlink(target(field, random), one);
    }
    if field.holds && random.one_in(12) {
        return Act::Hold(one, random.below(3000));
    }
    if !field.moving.is_empty() && random.one_in(8) {
        let moving = match &*field.moving {
            [only] => only,
            several => &several[random.below(several.len() as u64) as usize],
        };
        // With a slash at the end, it stays a directory.
        let [one, moving] = [one, moving.clone()].map(|path| path.join(""));
        return match random.below(4) {
            0 => Act::Rename(moving, one),
            1 => Act::Rename(one, moving),
            2 => Act::Exchange(one, moving),
            _ => Act::MakeDirs(moving, random.below(4)),
        };
    }
    match random.below(40) {
        0..=7 => Act::MakeDirs(one, random.below(4)),
        8..=11 => Act::Write(one),
        12..=14 => Act::Remove(one),
        15..=16 => Act::RemoveAll(one),
        17..=22 => Act::Rename(one, other),
        23..=24 => Act::Exchange(one, other),
        25 => Act::BackAndForth(one, other),
        26..=27 => Act::Replace(one),
        28..=29 => Act::MoveOut(one, random.below(3)),
        30..=31 => Act::MoveIn(random.below(3), one),
        32..=33 => Act::BringIn(one, random.below(12)),
        34 => Act::Link(one, other),
        35 => Act::Symlink(one, other),
        36 => Act::Forbid(one, [0o000, 0o755, 0o500, 0o300, 0o600][random.below(5) as usize]),
        37 => Act::Flood(one),
        _ => Act::Pause(random.below(300)),
    }
}

/// Whether it is done does not matter.
pub(crate) fn do_act(act: &Act, outside: &Path) {
    let _ = try_act(act, outside);
}

fn try_act(act: &Act, outside: &Path) -> io::Result<()> {
    let kept = |number: &u64| outside.join(format!("kept-{number}"));
    match act {
        Act::MakeDirs(path, files) => {
            make_all(path)?;
            (0..*files).try_for_each(|number| fs::write(reach(&path.join(format!("f{number}")))?, "x"))
        }
        Act::Write(path) => fs::write(reach(path)?, "content"),
        Act::Remove(path) => {
            let path = reach(path)?;
            fs::remove_file(&path).or_else(|_| fs::remove_dir(&path))
        }
        Act::RemoveAll(path) => fs::remove_dir_all(reach(path)?),
        Act::Rename(from, to) => fs::rename(reach(from)?, reach(to)?),
        Act::Exchange(a, b) => exchange(reach(a)?.as_ref(), reach(b)?.as_ref()),
        Act::BackAndForth(a, b) => {
            let (a, b) = (reach(a)?, reach(b)?);
            fs::rename(&a, &b).and_then(|()| fs::rename(&b, &a))
        }
        Act::Replace(path) => {
            let file = reach(&path.join("a"));
            let path = reach(path)?;
            fs::remove_dir(&path).or_else(|_| fs::remove_file(&path))?;
            fs::create_dir(&path)?;
            fs::write(file?, "")
        }
        Act::MoveOut(path, number) => fs::rename(reach(path)?, kept(number)),
        Act::MoveIn(number, path) => fs::rename(kept(number), reach(path)?),
        Act::BringIn(path, size) => bring_in(reach(path)?.as_ref(), *size, outside),
        Act::Link(a, b) => fs::hard_link(reach(a)?, reach(b)?),
        // Its text is no way through a descriptor, which is another's tomorrow: who writes to it then writes there.
        Act::Symlink(a, b) => symlink(a, reach(b)?),
        Act::Forbid(path, mode) => fs::set_permissions(reach(path)?, fs::Permissions::from_mode(*mode)),
        Act::Flood(path) => (0..300).try_for_each(|number| {
            let file = path.with_file_name(format!("flood-{}", number % 2));
            let mut options = OpenOptions::new();
            options.append(true).create(true).open(reach(&file)?)?.write_all(b"x")
        }),
        Act::Hold(path, microseconds) => {
            let held = fs::File::open(reach(path)?)?;
            thread::sleep(Duration::from_micros(*microseconds));
            drop(held);
            Ok(())
        }
        Act::Pause(microseconds) => {
            thread::sleep(Duration::from_micros(*microseconds));
            Ok(())
        }
        Act::Mount(path) => mount_memory(path),
        Act::Unmount(path) => detach(path),
    }
}

/// Moves in a tree of some directories with files.
fn bring_in(path: &Path, size: u64, outside: &Path) -> io::Result<()> {
    let dir = tempfile::tempdir_in(outside)?;
    let mut at = dir.path().join("new");
    fs::create_dir(&at)?;
    let top = at.clone();
    for number in 0..size {
        at = if number % 3 == 2 { top.clone() } else { at };
        at.push(["a", "b", "c"][number as usize % 3]);
        fs::create_dir_all(&at)?;
        fs::write(at.join("inside"), "")?;
    }
    fs::rename(top, path)
}
