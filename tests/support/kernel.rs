//! What the kernel itself says that an instance watches (proc(5), `fdinfo`).

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ringwatch::Mask;

/// What the kernel watches, as it writes it.
struct Watched {
    inode: u64,
    device: u64,
    mask: u32,
}

/// How many watches another process has.
pub(crate) fn watches_of(process: u32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{process}/fdinfo")).expect("a list of descriptors");
    let infos = descriptors.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    infos.map(|info| info.lines().filter_map(parse).count()).sum()
}

/// The kinds of event the kernel watches `path` for, on behalf of the one instance that does.
pub(crate) fn mask_of(path: &Path) -> Option<Mask> {
    let inode = inode(path);
    let mask = |info: String| {
        let watched = info.lines().filter_map(parse).find(|watched| watched.inode == inode)?;
        Some(Mask::from_bits_retain(watched.mask) & Mask::ALL)
    };
    descriptors().find_map(mask)
}

pub(crate) fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("metadata").ino()
}

/// `inotify wd:1 ino:2a sdev:3 mask:fff …`, all in hexadecimal.
fn parse(line: &str) -> Option<Watched> {
    let fields = line.strip_prefix("inotify ")?;
    let field = |name: &str| {
        let mut fields = fields.split(' ');
        u64::from_str_radix(fields.find_map(|field| field.strip_prefix(name))?, 16).ok()
    };
    Some(Watched {
        inode: field("ino:")?,
        device: field("sdev:")?,
        mask: field("mask:")? as u32,
    })
}

/// The inodes that the instance which watches `beacon` watches, each as often as it does, but for markers.
pub(crate) fn inodes_watched_with(beacon: &Path) -> Vec<u64> {
    let device = place_of(beacon).1;
    let here = all_watched_with(beacon).into_iter().filter(|&(_, of)| of == device);
    here.map(|(inode, _)| inode).collect()
}

/// Inode and device, as the kernel writes it, of what the instance watches that watches `beacon`.
pub(crate) fn all_watched_with(beacon: &Path) -> Vec<(u64, u64)> {
    let beacon = place_of(beacon);
    let place = |watched: Watched| (watched.inode, watched.device);
    let watched = |info: String| info.lines().filter_map(parse).map(place).collect::<Vec<_>>();
    let mut lists = descriptors().map(watched);
    let mut list = lists.find(|list| list.contains(&beacon)).unwrap_or_default();
    list.sort_unstable();
    list
}

/// Inode and device, as the kernel writes it: 12 bits of major number, 20 of minor.
pub(crate) fn place_of(path: &Path) -> (u64, u64) {
    let metadata = fs::symlink_metadata(path).expect("metadata");
    let device = metadata.dev();
    (
        metadata.ino(),
        (libc::major(device) as u64) << 20 | libc::minor(device) as u64,
    )
}

/// What the kernel says of each descriptor of this process. Of this thread, that is: before Linux 5.14 one that may do less
/// than the first may not ask for the descriptors of that.
fn descriptors() -> impl Iterator<Item = String> {
    let list = || fs::read_dir("/proc/thread-self/fdinfo");
    // Another thread that just gives up its rights hides the process for a moment.
    super::wait_until(|| list().is_ok());
    let list = list().expect("a list of descriptors");
    list.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
}

pub(crate) const QUEUE: &str = "/proc/sys/fs/inotify/max_queued_events";

/// While it lives, instances are made with queues of another size: those of the whole machine, so it should live shortly.
/// However it ends, the limit is as it was.
pub(crate) struct QueueLimit {
    before: Vec<u8>,
    /// Other tests of this machine wait for it: what they would restore is not what was there before.
    _alone: File,
}

impl QueueLimit {
    pub(crate) fn new(events: u64) -> io::Result<Self> {
        let alone = alone_with_queues()?;
        let limit = Self {
            before: fs::read(QUEUE)?,
            _alone: alone,
        };
        fs::write(QUEUE, events.to_string())?;
        Ok(limit)
    }
}

/// While it is open, nobody else changes how large queues are.
pub(crate) fn alone_with_queues() -> io::Result<File> {
    let path = std::env::temp_dir().join("ringwatch-tests-max_queued_events");
    // It may be another user's, whose files a test in a namespace of its own may not write.
    let alone = File::open(&path).or_else(|_| File::create(&path))?;
    // SAFETY: no pointers are passed.
    match unsafe { libc::flock(alone.as_raw_fd(), libc::LOCK_EX) } {
        0 => Ok(alone),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Drop for QueueLimit {
    fn drop(&mut self) {
        if let Err(error) = fs::write(QUEUE, &self.before) {
            eprintln!("{QUEUE} could not be restored: {error}");
        }
    }
}
