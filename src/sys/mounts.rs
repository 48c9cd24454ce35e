//! The kernel's table of mounts, as a descriptor that tells when it has changed.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};

use super::checked;
use super::notifier::Notifier;

/// What is mounted where, as this thread sees it (proc(5), `mountinfo`).
///
/// Each of them tells once of what has changed since it was opened or last asked (since Linux 2.6.15: `POLLERR | POLLPRI`).
#[derive(Debug)]
pub(crate) struct MountTable {
    file: File,
    /// What stands for the lines that were read last.
    read: Option<u64>,
}

impl MountTable {
    pub(crate) fn open() -> io::Result<Self> {
        let file = File::open("/proc/thread-self/mountinfo")?;
        Ok(Self { file, read: None })
    }

    /// Whether something was mounted or unmounted since this was last asked. If that may not be asked, whether the lines are
    /// others than were read last.
    pub(crate) fn has_changed(&mut self) -> bool {
        let mut polled = [awaited(&self.file, libc::POLLPRI)];
        match poll(&mut polled, 0) {
            Ok(()) => polled[0].revents & (libc::POLLPRI | libc::POLLERR) != 0,
            Err(_) => {
                let before = self.read;
                self.read().is_err() || self.read != before
            }
        }
    }

    /// Waits until something is mounted or unmounted. False if it is `stop` that ends it. An error if that may not be waited
    /// for: two descriptors are more than `RLIMIT_NOFILE` by now, or a seccomp profile denies it.
    pub(crate) fn wait(&self, stop: &Notifier) -> io::Result<bool> {
        let mut polled = [awaited(&self.file, libc::POLLPRI), awaited(stop, libc::POLLIN)];
        poll(&mut polled, -1)?;
        Ok(polled[1].revents == 0)
    }

    /// All its lines.
    pub(crate) fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut lines = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut lines)?;
        let mut hasher = DefaultHasher::new();
        lines.hash(&mut hasher);
        self.read = Some(hasher.finish());
        Ok(lines)
    }
}

fn awaited(fd: &impl AsFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd {
        fd: fd.as_fd().as_raw_fd(),
        events,
        revents: 0,
    }
}

/// Waits until one of them is ready, or for so long. What a signal interrupts is begun again.
fn poll(polled: &mut [libc::pollfd], milliseconds: libc::c_int) -> io::Result<()> {
    let count = polled.len() as libc::nfds_t;
    loop {
        // SAFETY: the pointer and the count are those of a live slice, whose descriptors are open.
        match checked(unsafe { libc::poll(polled.as_mut_ptr(), count, milliseconds) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome.map(drop),
        }
    }
}
