//! Consumers that call the kernel and nothing else.

use std::error::Error;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::job::Job;

/// As much as the default of a pipe, and as ringwatch reads at a time.
pub const BUFFER: usize = 64 * 1024;

/// An instance that watches directories.
pub fn instance(flags: libc::c_int, dirs: &[PathBuf], mask: u32) -> Result<OwnedFd, Box<dyn Error>> {
    // SAFETY: no pointers.
    let made = checked(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | flags) });
    let made = made.map_err(|error| format!("make inotify instance: {error}; see fs.inotify.max_user_instances"))?;
    // SAFETY: the descriptor is new, and ours.
    let fd = unsafe { OwnedFd::from_raw_fd(made) };
    for dir in dirs {
        let path = CString::new(dir.as_os_str().as_bytes())?;
        // SAFETY: `path` is NUL-terminated and lives through the call.
        checked(unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), mask) })?;
    }
    Ok(fd)
}

/// Waits for many descriptors.
pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new<'a>(descriptors: impl IntoIterator<Item = &'a OwnedFd>) -> io::Result<Self> {
        // SAFETY: no pointers.
        let made = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor is new, and ours.
        let epoll = unsafe { OwnedFd::from_raw_fd(made) };
        for (i, fd) in descriptors.into_iter().enumerate() {
            let mut event = libc::epoll_event {
                events: libc::EPOLLIN as u32,
                u64: i as u64,
            };
            let (epoll, fd) = (epoll.as_raw_fd(), fd.as_raw_fd());
            // SAFETY: `event` lives through the call.
            checked(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
        }
        Ok(Self(epoll))
    }

    /// Which of them, by their number, are readable.
    pub fn wait<'a>(&self, room: &'a mut [libc::epoll_event]) -> io::Result<impl Iterator<Item = usize> + 'a> {
        let (start, length) = (room.as_mut_ptr(), room.len() as i32);
        // SAFETY: the kernel writes at most `length` events, for which there is room.
        let ready = checked(unsafe { libc::epoll_wait(self.0.as_raw_fd(), start, length, -1) })?;
        Ok(room[..ready as usize].iter().map(|event| event.u64 as usize))
    }
}

/// Room for so many answers of [`Epoll::wait`].
pub fn room(count: usize) -> Vec<libc::epoll_event> {
    vec![libc::epoll_event { events: 0, u64: 0 }; count]
}

/// The records that a read brings; none if there is nothing now.
pub fn records(fd: RawFd, buffer: &mut [u64]) -> Option<&[u8]> {
    // SAFETY: the buffer is writable for its length.
    let read = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), size_of_val(buffer)) };
    let length = usize::try_from(read).ok()?;
    // SAFETY: the kernel wrote `length` bytes, and bytes need no alignment.
    Some(unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) })
}

/// Finds the records, and hands over watch descriptor, mask and name of each.
#[inline]
pub fn decode(mut bytes: &[u8], mut see: impl FnMut(u32, u32, &[u8])) {
    while let Some((header, rest)) = bytes.split_first_chunk::<16>() {
        let field = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (name, rest) = rest.split_at(field(12) as usize);
        let name = CStr::from_bytes_until_nul(name).map_or(name, CStr::to_bytes);
        see(field(0), field(4), name);
        bytes = rest;
    }
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// `epoll_wait`, then 64 KiB reads until `EAGAIN`.
pub fn epoll(job: &mut Job) -> Result<(), Box<dyn Error>> {
    let fd = instance(libc::IN_NONBLOCK, &job.dirs, job.mask)?;
    let epoll = Epoll::new([&fd])?;
    let mut room = room(1);
    let mut buffer = vec![0; BUFFER / 8];
    job.ready();
    loop {
        // There is but one.
        let _ = epoll.wait(&mut room)?;
        while let Some(bytes) = records(fd.as_raw_fd(), &mut buffer) {
            decode(bytes, |_, mask, name| job.see(mask, name));
            if job.rest() {
                return Ok(());
            }
        }
    }
}

/// 64 KiB reads that wait.
pub fn read(job: &mut Job) -> Result<(), Box<dyn Error>> {
    let fd = instance(0, &job.dirs, job.mask)?;
    let mut buffer = vec![0; BUFFER / 8];
    job.ready();
    while let Some(bytes) = records(fd.as_raw_fd(), &mut buffer) {
        decode(bytes, |_, mask, name| job.see(mask, name));
        if job.rest() {
            return Ok(());
        }
    }
    Err(io::Error::last_os_error().into())
}
