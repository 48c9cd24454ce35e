//! Directories by descriptor: opened, identified, watched and listed without going through a path twice.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::inotify::InotifyFd;
use super::{checked, checked_size};
use crate::mask::Mask;

/// What a path may have at most in one call, with room for the terminating NUL (limits.h: 4096).
const PATH_MAX: usize = 4_000;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Dir(OwnedFd);

/// What tells an inode from all others that exist at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// What `fstatat` says of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) identity: Identity,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    /// Seconds and nanoseconds.
    pub(crate) modified: (i64, i64),
}

/// What an entry is, as far as a tree cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    Link,
    Other,
    /// The file system does not say in a listing.
    Unknown,
}

impl Dir {
    /// Finds a directory by its path, of any length. It can be looked through and watched, not listed.
    pub(crate) fn find(path: &[u8]) -> io::Result<Self> {
        at_last_step(path, |at, step| open(at, step, libc::O_PATH | libc::O_DIRECTORY))
    }

    /// Opens an entry to list it, if it is a directory, or with `follow` a link to one.
    pub(crate) fn open(&self, name: &CStr, follow: bool) -> io::Result<Self> {
        let follow = if follow { 0 } else { libc::O_NOFOLLOW };
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NONBLOCK | follow;
        open(self.0.as_raw_fd(), name, flags)
    }

    pub(crate) fn identity(&self) -> io::Result<Identity> {
        let status = status(self.0.as_raw_fd(), c"", libc::AT_EMPTY_PATH)?;
        Ok(status.identity)
    }

    /// What the entry is now. A link is not followed.
    pub(crate) fn status(&self, name: &CStr) -> io::Result<Status> {
        status(self.0.as_raw_fd(), name, libc::AT_SYMLINK_NOFOLLOW)
    }

    /// As [`status`](Self::status), by a name that is not terminated.
    pub(crate) fn status_of(&self, name: &[u8]) -> io::Result<Status> {
        self.status(&CString::new(name)?)
    }

    /// Watches what this is, wherever it is by now.
    pub(crate) fn watch(&self, inotify: &InotifyFd, mask: Mask) -> io::Result<i32> {
        // "/proc/self/fd/" and a number of at most ten digits.
        let mut path = [0; 32];
        let cursor = &mut &mut path[..];
        io::Write::write_fmt(cursor, format_args!("/proc/self/fd/{}\0", self.0.as_raw_fd()))?;
        let path = CStr::from_bytes_until_nul(&path).map_err(io::Error::other)?;
        inotify.add_watch(path, mask)
    }

    /// Makes it the working directory of this thread, and of all that share that.
    fn enter(&self) -> io::Result<()> {
        // SAFETY: no pointers are passed.
        checked(unsafe { libc::fchdir(self.0.as_raw_fd()) }).map(drop)
    }

    /// Waits for whoever is changing the entries right now. The kernel queues the last of what it tells of such a change while
    /// that holds the lock of the directory (`do_rmdir` in fs/namei.c), which a listing takes too (`iterate_dir` in
    /// fs/readdir.c). But the entry is gone before, and what it tells of the entry itself is queued before. Answers whether it
    /// had that lock: the directory may be neither listed nor searched, or not be there.
    pub(crate) fn wait_for_change(&self) -> bool {
        let listed = self.open(c".", true).and_then(|dir| dir.read(&mut [0; 512]));
        listed.is_ok() || self.misses_a_name()
    }

    /// Looks for a name that nobody has or had, of which the kernel therefore knows nothing: it asks the file system under that
    /// lock (`lookup_slow` in fs/namei.c). For where the directory may be searched and not listed.
    fn misses_a_name(&self) -> bool {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!(".ringwatch-{}-{number}-is-not-here", std::process::id());
        let found = self.status_of(name.as_bytes());
        found.is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT))
    }

    /// Reads some of the entries into `room`; 0 at the end.
    pub(crate) fn read(&self, room: &mut [u8]) -> io::Result<usize> {
        let (address, size) = (room.as_mut_ptr(), room.len());
        // SAFETY: the kernel writes at most `size` bytes to `room`, which is ours alone through the call.
        let read = unsafe { libc::syscall(libc::SYS_getdents64, self.0.as_raw_fd(), address, size) };
        checked_size(read as libc::ssize_t)
    }
}

/// A thread that goes into the directories which it watches. Relative paths are looked up from its home, and what a user has it
/// do runs there: before either it comes back.
#[derive(Debug)]
pub(crate) struct Roamer<'a> {
    home: &'a Dir,
    is_away: bool,
}

impl<'a> Roamer<'a> {
    /// Makes one of this thread, which may have begun in a directory that another roams through. None if that can't be: a
    /// sandbox may deny it.
    pub(crate) fn new(home: &'a Dir) -> Option<Self> {
        let can_return = own_working_directory() && home.enter().is_ok();
        can_return.then_some(Self { home, is_away: false })
    }

    /// As [`Dir::watch`], by going there: faster, as it takes no way through `/proc`. It needs the right to search the
    /// directory.
    pub(crate) fn watch(&mut self, dir: &Dir, inotify: &InotifyFd, mask: Mask) -> io::Result<i32> {
        dir.enter()?;
        self.is_away = true;
        inotify.add_watch(c".", mask)
    }

    /// Fails if the way back is closed.
    pub(crate) fn come_home(&mut self) -> io::Result<()> {
        if self.is_away {
            self.home.enter()?;
            self.is_away = false;
        }
        Ok(())
    }
}

/// Gives this thread a working directory that it shares with no other: the one it has. Answers whether that worked.
pub(crate) fn own_working_directory() -> bool {
    // SAFETY: no pointers are passed. It changes this thread alone.
    checked(unsafe { libc::unshare(libc::CLONE_FS) }).is_ok()
}

/// Whether an error says that nothing is there, or no way to it.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(errno(error), libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
}

/// Which error of a system call it is.
pub(crate) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// What is at a path, of any length. With `follow` a link is not what is there, but where it leads.
pub(crate) fn status_at(path: &[u8], follow: bool) -> io::Result<Status> {
    let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    at_last_step(path, |at, step| status(at, step, flags))
}

/// Has a call made for a path, of any length: with the directory that is to be gone to first, and what is left to go.
fn at_last_step<T>(path: &[u8], call: impl FnOnce(i32, &CStr) -> io::Result<T>) -> io::Result<T> {
    let mut dir: Option<Dir> = None;
    let mut rest = path;
    loop {
        let (step, behind) = first_step(rest);
        let step = CString::new(step)?;
        let at = dir.as_ref().map_or(libc::AT_FDCWD, |dir| dir.0.as_raw_fd());
        match behind {
            None => return call(at, &step),
            Some(behind) => {
                dir = Some(open(at, &step, libc::O_PATH | libc::O_DIRECTORY)?);
                rest = behind;
            }
        }
    }
}

/// The part of a path that one call can take, and what is behind it.
fn first_step(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    if path.len() <= PATH_MAX {
        return (path, None);
    }
    match path[..PATH_MAX].iter().rposition(|&byte| byte == b'/') {
        Some(cut) if cut > 0 => {
            let behind = &path[cut..];
            let slashes = behind.iter().take_while(|&&byte| byte == b'/').count();
            (&path[..cut], Some(&behind[slashes..]))
        }
        // One name longer than a path may be: the kernel says so.
        _ => (path, None),
    }
}

fn open(at: i32, path: &CStr, flags: libc::c_int) -> io::Result<Dir> {
    loop {
        // SAFETY: `path` is NUL-terminated and lives through the call; the kernel only reads it.
        let fd = unsafe { libc::openat(at, path.as_ptr(), flags | libc::O_CLOEXEC) };
        match checked(fd) {
            // SAFETY: the call above made this descriptor, and nobody else has it.
            Ok(fd) => return Ok(Dir(unsafe { OwnedFd::from_raw_fd(fd) })),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn status(at: i32, name: &CStr, flags: libc::c_int) -> io::Result<Status> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `name` is NUL-terminated and lives through the call; `status` has room for what the kernel writes.
    checked(unsafe { libc::fstatat(at, name.as_ptr(), status.as_mut_ptr(), flags) })?;
    // SAFETY: the call succeeded, so it has written the whole struct.
    let status = unsafe { status.assume_init() };
    Ok(Status {
        identity: Identity {
            device: status.st_dev,
            inode: status.st_ino,
        },
        kind: match status.st_mode & libc::S_IFMT {
            libc::S_IFDIR => Kind::Dir,
            libc::S_IFLNK => Kind::Link,
            _ => Kind::Other,
        },
        size: status.st_size.cast_unsigned(),
        modified: (status.st_mtime, status.st_mtime_nsec),
    })
}

/// One entry of a listing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) kind: Kind,
    pub(crate) name: &'a CStr,
}

/// The entries in what [`Dir::read`] brought, without `.` and `..`.
///
/// The format is `struct linux_dirent64` of getdents64(2): inode and offset of 8 bytes each, the length of the record in 2,
/// the type in 1, and the name.
pub(crate) fn entries(mut bytes: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    const NAME: usize = 19;
    std::iter::from_fn(move || {
        loop {
            let length = usize::from(u16::from_ne_bytes(*bytes.get(16..)?.first_chunk()?));
            let kind = match *bytes.get(18)? {
                libc::DT_DIR => Kind::Dir,
                libc::DT_LNK => Kind::Link,
                libc::DT_UNKNOWN => Kind::Unknown,
                _ => Kind::Other,
            };
            let name = CStr::from_bytes_until_nul(bytes.get(NAME..length)?).ok()?;
            bytes = bytes.get(length..)?;
            if !matches!(name.to_bytes(), b"." | b"..") {
                return Some(Entry { kind, name });
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    use super::*;

    /// What the replay found: without that, what was removed where a tree may not list was reported twice.
    #[test]
    fn who_may_search_a_directory_and_not_list_it_can_wait_for_its_lock() {
        let dir = tempfile::tempdir().expect("a directory");
        let mode = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).expect("permissions");
        let waits = || {
            // On a thread that may not pass over permissions.
            let mut sets = capabilities(None).expect("capabilities");
            sets.effective
                .remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
            set_capabilities(None, sets).expect("fewer capabilities");
            let found = Dir::find(dir.path().as_os_str().as_encoded_bytes()).expect("it is there");
            found.wait_for_change()
        };
        for (permissions, expected) in [(0o700, true), (0o300, true), (0o400, false), (0o200, false)] {
            mode(permissions);
            let waited = std::thread::scope(|scope| scope.spawn(waits).join().expect("no panic"));
            assert_eq!(waited, expected, "{permissions:o}");
        }
        mode(0o700);
        assert_eq!(fs::read_dir(dir.path()).expect("a listing").count(), 0);
    }

    #[test]
    fn long_paths_are_cut_between_names() {
        let path = [b"/".as_slice(), &[b'a'; 200]].concat().repeat(30);
        let mut rest = path.as_slice();
        let mut joined = Vec::new();
        loop {
            let (step, behind) = first_step(rest);
            assert!(step.len() <= PATH_MAX);
            joined.extend(step);
            let Some(behind) = behind else { break };
            joined.push(b'/');
            rest = behind;
        }
        assert_eq!(joined, path);
    }
}
