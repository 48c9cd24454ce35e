//! What is said of what was refused: which kind of error an errno is, for what was being done, and what mends it.

use std::io;
use std::path::Path;

use crate::decode::Malformed;
use crate::error::{Error, ErrorKind};
use crate::limits;
use crate::mask::Mask;
use crate::sys::inotify::descriptor_available;
use crate::sys::rlimit;

/// A watch could not be added, for what it was asked for. What may mend it goes by the errno.
pub(crate) fn add_error(operation: &'static str, path: Option<&Path>, mask: Mask, cause: &io::Error) -> Error {
    let (kind, remedy) = match cause.raw_os_error() {
        Some(libc::ENOENT) => (ErrorKind::NotFound, None),
        Some(libc::EACCES | libc::EPERM) => (
            ErrorKind::PermissionDenied,
            Some("watching needs read permission on it, and search permission above it".into()),
        ),
        Some(libc::ENOTDIR) => (ErrorKind::NotADirectory, None),
        Some(libc::EEXIST) => (
            ErrorKind::AlreadyExists,
            Some("its inode is watched already; leave MASK_CREATE out to update that watch".into()),
        ),
        Some(libc::ENOSPC) => (ErrorKind::WatchLimit, Some(limits::remedy("max_user_watches"))),
        Some(libc::EMFILE | libc::ENFILE) => (ErrorKind::DescriptorLimit, Some(more_descriptors(cause))),
        Some(libc::ENOMEM) => (ErrorKind::OutOfMemory, None),
        Some(libc::EINVAL) if mask.contains(Mask::MASK_ADD | Mask::MASK_CREATE) => (
            ErrorKind::InvalidInput,
            Some("MASK_ADD and MASK_CREATE exclude each other".into()),
        ),
        Some(libc::ENAMETOOLONG) => (
            ErrorKind::InvalidInput,
            Some("change into a directory above it, and name it from there".into()),
        ),
        Some(libc::ELOOP) => (
            ErrorKind::InvalidInput,
            Some("symbolic links on the way to it lead around; name it without them".into()),
        ),
        Some(libc::EINVAL) => (ErrorKind::InvalidInput, None),
        _ => (ErrorKind::Other, None),
    };
    let mut error = Error::os(kind, operation, cause);
    if let Some(path) = path {
        error = error.at(path);
    }
    match remedy {
        Some(remedy) => error.mended_by(remedy),
        None => error,
    }
}

/// No inotify instance could be made.
pub(crate) fn instance_error(operation: &'static str, cause: &io::Error) -> Error {
    match cause.raw_os_error() {
        // The same errno for two limits: if another descriptor can be had, it was the other.
        Some(libc::EMFILE) if descriptor_available() => {
            Error::os(ErrorKind::InstanceLimit, operation, cause).mended_by(limits::remedy("max_user_instances"))
        }
        _ => descriptor_error(operation, cause),
    }
}

pub(crate) fn is_out_of_descriptors(cause: &io::Error) -> bool {
    matches!(cause.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// How to have more of them: this process has a limit, and so has the system.
pub(crate) fn more_descriptors(cause: &io::Error) -> String {
    match cause.raw_os_error() {
        Some(libc::ENFILE) => limits::descriptors(),
        _ => rlimit::descriptors(),
    }
}

/// A descriptor of our own could not be made.
pub(crate) fn descriptor_error(operation: &'static str, cause: &io::Error) -> Error {
    if is_out_of_descriptors(cause) {
        return Error::os(ErrorKind::DescriptorLimit, operation, cause).mended_by(more_descriptors(cause));
    }
    let kind = match cause.raw_os_error() {
        Some(libc::ENOMEM) => ErrorKind::OutOfMemory,
        _ => ErrorKind::Other,
    };
    Error::os(kind, operation, cause)
}

/// What the kernel wrote makes no sense.
pub(crate) fn malformed_error(malformed: Malformed) -> Error {
    let Malformed { offset, claimed, left } = malformed;
    let cause = format!("the record at byte {offset} of a read claims {claimed} bytes, and {left} are left");
    Error::text(ErrorKind::Malformed, "decode events", cause)
        .mended_by("the events behind it in this buffer are lost; later ones are not affected")
}

/// No marker could be set.
pub(crate) fn marker_error(cause: &io::Error) -> Error {
    const OPERATION: &str = "set barrier";
    match cause.raw_os_error() {
        Some(libc::ENOENT) => Error::os(ErrorKind::NotFound, OPERATION, cause)
            .mended_by("mount /proc: the marker is reached through /proc/self/fd"),
        // It is our own, and nobody's permissions are in the way.
        Some(code @ (libc::EACCES | libc::EPERM | libc::ENOSYS)) => {
            let kind = match code {
                libc::ENOSYS => ErrorKind::Other,
                _ => ErrorKind::PermissionDenied,
            };
            Error::os(kind, OPERATION, cause)
                .mended_by("a seccomp profile may deny it; allow memfd_create and the inotify_* calls")
        }
        _ => add_error(OPERATION, None, Mask::empty(), cause),
    }
}
