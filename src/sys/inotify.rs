//! The inotify descriptor: made, watched with, read from, closed. It knows nothing of buffers, rings or tables.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::fork::Home;
use super::{checked, checked_size, late};
use crate::mask::Mask;

/// The least room to offer a read: below a header and the longest name it fails with `EINVAL` (inotify(7)).
pub(crate) const LARGEST_RECORD: usize = 16 + 255 + 1;

/// An inotify instance. Non-blocking, because io_uring waits by polling only then.
#[derive(Debug)]
pub(crate) struct InotifyFd {
    fd: Option<OwnedFd>,
    home: Home,
    /// How many watches there are; kept by the watch table, used when closing.
    pub(crate) watches: AtomicUsize,
    /// There is one more, for markers.
    has_marker: AtomicBool,
}

impl InotifyFd {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = checked(unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) })?;
        // SAFETY: the call above made this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            fd: Some(fd),
            home: Home::new(),
            watches: AtomicUsize::new(0),
            has_marker: AtomicBool::new(false),
        })
    }

    pub(crate) fn add_watch(&self, path: &CStr, mask: Mask) -> io::Result<i32> {
        let fd = self.as_fd().as_raw_fd();
        // SAFETY: `path` is NUL-terminated and lives through the call; the kernel only reads it.
        checked(unsafe { libc::inotify_add_watch(fd, path.as_ptr(), mask.bits()) })
    }

    pub(crate) fn rm_watch(&self, wd: i32) -> io::Result<()> {
        let fd = self.as_fd().as_raw_fd();
        // SAFETY: no pointers are passed.
        checked(unsafe { libc::inotify_rm_watch(fd, wd) }).map(drop)
    }

    /// Bytes of events that wait in the kernel's queue.
    pub(crate) fn queued_bytes(&self) -> io::Result<usize> {
        let mut bytes: libc::c_int = 0;
        let fd = self.as_fd().as_raw_fd();
        // SAFETY: FIONREAD writes one int to the address given, which is a local int.
        checked(unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut bytes) })?;
        Ok(usize::try_from(bytes).unwrap_or(0))
    }

    /// Reads whole records into `room`. `Ok(None)` if nothing waits.
    pub(crate) fn read(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            let fd = self.as_fd().as_raw_fd();
            // SAFETY: `room` is writable for its length, and exclusively ours through the call.
            let read = unsafe { libc::read(fd, room.as_mut_ptr().cast(), room.len()) };
            match checked_size(read) {
                Ok(length) => return Ok(Some(length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for InotifyFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("the descriptor is taken only by drop").as_fd()
    }
}

impl Drop for InotifyFd {
    fn drop(&mut self) {
        // Closing waits for a grace period of the kernel, milliseconds, and tears down every watch at about a microsecond
        // each: too long for an executor's thread, or for the one that reads for other streams.
        // A child of `fork` only closes its own.
        let has_watches = *self.watches.get_mut() > 0 || *self.has_marker.get_mut();
        if has_watches && self.home.is_here() {
            late::drop_elsewhere(self.fd.take());
        }
    }
}

/// An inode with no name and no events of its own: watching it and ending that watch queues one `IN_IGNORED`, a marker.
#[derive(Debug)]
pub(crate) struct MarkerInode {
    path: CString,
    _memory: OwnedFd,
}

impl MarkerInode {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the name is a NUL-terminated literal.
        let fd = checked(unsafe { libc::memfd_create(c"ringwatch".as_ptr(), libc::MFD_CLOEXEC) })?;
        // SAFETY: the call above made this descriptor, and nobody else has it.
        let memory = unsafe { OwnedFd::from_raw_fd(fd) };
        let path = format!("/proc/self/fd/{fd}");
        Ok(Self {
            path: CString::new(path).expect("a number has no NUL"),
            _memory: memory,
        })
    }

    /// Starts a watch that will see nothing; its end is the marker.
    pub(crate) fn watch(&self, inotify: &InotifyFd) -> io::Result<i32> {
        inotify.add_watch(&self.path, Mask::MOVE_SELF)
    }
}

/// What queues markers, with a watch in store: so one can also be queued when there is no room for another watch. Unless it is
/// made by [`new`](Self::new), it has nothing until it is used.
#[derive(Debug, Default)]
pub(crate) struct Marker {
    inode: Option<MarkerInode>,
    stored: Option<i32>,
    /// How many are refused, and why.
    #[cfg(test)]
    refused: (usize, i32),
}

impl Marker {
    /// With its watch in store.
    pub(crate) fn new(inotify: &InotifyFd) -> io::Result<Self> {
        let mut marker = Self::default();
        marker.stored = Some(marker.watch(inotify)?);
        Ok(marker)
    }

    fn watch(&mut self, inotify: &InotifyFd) -> io::Result<i32> {
        let inode = match &mut self.inode {
            Some(inode) => inode,
            none => none.insert(MarkerInode::new()?),
        };
        let wd = inode.watch(inotify)?;
        inotify.has_marker.store(true, Ordering::Relaxed);
        Ok(wd)
    }

    /// Queues one, and answers what it will be known by. That is noted before the kernel can queue it. Whoever notes it holds a
    /// lock meanwhile, for the inode has one watch at a time.
    pub(crate) fn queue(&mut self, inotify: &InotifyFd, note: impl FnOnce(i32)) -> io::Result<i32> {
        #[cfg(test)]
        if self.refused.0 > 0 {
            self.refused.0 -= 1;
            return Err(io::Error::from_raw_os_error(self.refused.1));
        }
        let wd = match self.stored.take() {
            Some(wd) => wd,
            None => self.watch(inotify)?,
        };
        note(wd);
        let queued = inotify.rm_watch(wd);
        self.stored = self.watch(inotify).ok();
        queued.map(|()| wd)
    }

    /// Has so many be refused, with this errno. Answers how many still were to be.
    #[cfg(test)]
    pub(crate) fn refuse(&mut self, times: usize, code: i32) -> usize {
        std::mem::replace(&mut self.refused, (times, code)).0
    }
}

/// Whether one more descriptor can be had: tells the two meanings of `EMFILE` apart.
pub(crate) fn descriptor_available() -> bool {
    super::notifier::Notifier::new().is_ok()
}
