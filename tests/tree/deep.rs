//! Paths that are longer than one call takes: the way to them goes in steps.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A path that one call takes, as long as this lives.
pub(crate) struct Reached {
    path: PathBuf,
    _dir: Option<OwnedFd>,
}

impl AsRef<Path> for Reached {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// Finds the directory of an entry, if its path is too long. The entry need not be there.
pub(crate) fn reach(path: &Path) -> io::Result<Reached> {
    const LONG: usize = 4_000;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Reached {
            path: path.to_owned(),
            _dir: None,
        });
    };
    if path.as_os_str().len() < LONG {
        return Ok(Reached {
            path: path.to_owned(),
            _dir: None,
        });
    }
    let mut at = step(libc::AT_FDCWD, b"/")?;
    for name in parent.components().skip(1) {
        at = step(at.as_raw_fd(), name.as_os_str().as_bytes())?;
    }
    let path = Path::new("/proc/self/fd").join(at.as_raw_fd().to_string()).join(name);
    Ok(Reached { path, _dir: Some(at) })
}

pub(crate) fn step(at: i32, name: &[u8]) -> io::Result<OwnedFd> {
    let name = CString::new(name).expect("no NUL");
    // SAFETY: the name is NUL-terminated and lives through the call.
    let fd = unsafe { libc::openat(at, name.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a directory and those above it.
pub(crate) fn make_all(path: &Path) -> io::Result<()> {
    match reach(path).and_then(fs::create_dir_all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_all(path.parent().ok_or(error)?)?;
            fs::create_dir_all(reach(path)?)
        }
        made => made,
    }
}

/// A directory so deep below that its path takes several calls.
pub(crate) fn far_below(dir: &Path) -> PathBuf {
    let name = "L".repeat(250);
    dir.join(std::iter::repeat_n(name.as_str(), 20).collect::<PathBuf>())
}
