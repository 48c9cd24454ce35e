//! Paths that are longer than one call takes.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub(crate) fn step(at: i32, name: &[u8]) -> OwnedFd {
    let name = CString::new(name).expect("no NUL");
    // SAFETY: the name is NUL-terminated and lives through the call.
    let fd = unsafe { libc::openat(at, name.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    assert!(fd >= 0, "{name:?}: {}", std::io::Error::last_os_error());
    // SAFETY: the call above made this descriptor, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Makes a directory in one that is this deep.
pub(crate) fn make_dir(parent: &Path, name: &str) {
    let mut at = step(libc::AT_FDCWD, b"/");
    for name in parent.components().skip(1) {
        at = step(at.as_raw_fd(), name.as_os_str().as_bytes());
    }
    let name = CString::new(name).expect("no NUL");
    // SAFETY: the name is NUL-terminated and lives through the call.
    assert_eq!(unsafe { libc::mkdirat(at.as_raw_fd(), name.as_ptr(), 0o755) }, 0);
}

/// Removes what the standard library can't name.
pub(crate) fn remove(path: &Path) {
    fs::remove_dir_all(path).expect("removed");
}
