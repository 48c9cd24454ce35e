//! The kernel's table of mounts, as a descriptor that tells when it has changed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use super::notifier::Notifier;

/// What is mounted where, as this thread sees it (proc(5), `mountinfo`).
///
/// Each of them tells once of what has changed since it was opened or last asked (since Linux 2.6.15: `POLLERR | POLLPRI`).
#[derive(Debug)]
pub(crate) struct MountTable {
    file: File,
}

const NOW_AND_THEN: Duration = Duration::from_secs(1);

impl MountTable {
    pub(crate) fn open() -> io::Result<Self> {
        let file = File::open("/proc/thread-self/mountinfo")?;
        Ok(Self { file })
    }

    /// Whether something was mounted or unmounted since this was last asked.
    pub(crate) fn has_changed(&self) -> bool {
        let mut polled = [awaited(&self.file, libc::POLLPRI)];
        poll(&mut polled, 0);
        polled[0].revents & (libc::POLLPRI | libc::POLLERR) != 0
    }

    /// Waits until something is mounted or unmounted. False if it is `stop` that ends it.
    pub(crate) fn wait(&self, stop: &Notifier) -> bool {
        let mut polled = [awaited(&self.file, libc::POLLPRI), awaited(stop, libc::POLLIN)];
        while poll(&mut polled, -1) < 0 {
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                // It is denied, or may not have so many descriptors any more. Then it is as if something were mounted now
                // and then.
                return !stop.sleep(NOW_AND_THEN);
            }
        }
        polled[1].revents == 0
    }

    /// All its lines.
    pub(crate) fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut lines = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut lines)?;
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

/// How many of them are ready; less than 0 if a signal came first, or it may not wait.
fn poll(polled: &mut [libc::pollfd], milliseconds: libc::c_int) -> libc::c_int {
    let count = polled.len() as libc::nfds_t;
    // SAFETY: the pointer and the count are those of a live slice, whose descriptors are open.
    unsafe { libc::poll(polled.as_mut_ptr(), count, milliseconds) }
}
