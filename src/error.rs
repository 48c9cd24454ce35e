//! What failed, on which path, why, and what mends it.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::shown::Shown;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An operation that failed: which one, on which path, why, and what mends it.
///
/// Its text is one line, in lower case: operation, path, cause; remedy.
///
/// ```
/// use ringwatch::{ErrorKind, Inotify, Mask};
///
/// let inotify = Inotify::new()?;
/// let error = inotify.add_watch("/no/such/file", Mask::ALL).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// assert_eq!(
///     error.to_string(),
///     r#"add watch "/no/such/file": no such file or directory (os error 2)"#
/// );
/// // It converts into `std::io::Error` and keeps its kind.
/// assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::NotFound);
/// # Ok::<(), ringwatch::Error>(())
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    path: Option<PathBuf>,
    cause: Cause,
    remedy: Option<Cow<'static, str>>,
}

#[derive(Clone)]
enum Cause {
    Os(i32),
    Text(Cow<'static, str>),
}

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument can't be used: an empty mask, a path with a NUL, a buffer too small, a watch of another instance.
    InvalidInput,
    /// The path does not exist.
    NotFound,
    /// Watching needs read permission on the object, and search permission on the directories above it.
    PermissionDenied,
    /// [`ONLYDIR`](crate::Mask::ONLYDIR) was asked for, or a component of the path is not a directory.
    NotADirectory,
    /// [`MASK_CREATE`](crate::Mask::MASK_CREATE) was asked for, and the inode is watched already.
    AlreadyExists,
    /// `fs.inotify.max_user_watches` is reached, or `user.max_inotify_watches` of the user namespace.
    WatchLimit,
    /// `fs.inotify.max_user_instances` is reached, or `user.max_inotify_instances` of the user namespace.
    InstanceLimit,
    /// The process, or the system, has no file descriptor left.
    DescriptorLimit,
    /// The kernel has no memory for this, or the process may not lock as much as it takes.
    OutOfMemory,
    /// The backend that was asked for by name can't be had.
    BackendUnavailable,
    /// Another stream or reader of this instance is alive.
    AlreadyReading,
    /// The instance was closed.
    Closed,
    /// It was [cancelled](crate::tree::Cancel::cancel).
    Cancelled,
    /// It was made by the process that this one was forked from, and is still that one's.
    Forked,
    /// The watch had ended already.
    WatchEnded,
    /// What was read is not a sequence of inotify records.
    Malformed,
    /// What reads the events failed; the error says how.
    ReaderFailed,
    /// Something else; the cause says what.
    Other,
}

impl Error {
    pub(crate) fn os(kind: ErrorKind, operation: &'static str, cause: &io::Error) -> Self {
        let cause = match cause.raw_os_error() {
            Some(code) => Cause::Os(code),
            None => Cause::Text(cause.to_string().into()),
        };
        Self::build(kind, operation, cause)
    }

    pub(crate) fn text(kind: ErrorKind, operation: &'static str, cause: impl Into<Cow<'static, str>>) -> Self {
        Self::build(kind, operation, Cause::Text(cause.into()))
    }

    fn build(kind: ErrorKind, operation: &'static str, cause: Cause) -> Self {
        Self(Box::new(Inner {
            kind,
            operation,
            path: None,
            cause,
            remedy: None,
        }))
    }

    pub(crate) fn at(mut self, path: &Path) -> Self {
        self.0.path = Some(path.to_owned());
        self
    }

    pub(crate) fn mended_by(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    pub(crate) fn of_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    pub(crate) fn closed(operation: &'static str) -> Self {
        Self::text(ErrorKind::Closed, operation, "this inotify instance was closed")
    }

    pub(crate) fn forked(operation: &'static str) -> Self {
        let cause = "it was made before fork, by the parent of this process, and is still the parent's";
        Self::text(ErrorKind::Forked, operation, cause).mended_by("make one in this process")
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What was being done, as in `"add watch"`.
    pub fn operation(&self) -> &str {
        self.0.operation
    }

    /// The path it was done to, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// What mends it, where that is known.
    pub fn remedy(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }

    /// The `errno` behind it, if a system call failed.
    #[doc(alias = "errno")]
    pub fn raw_os_error(&self) -> Option<i32> {
        match self.0.cause {
            Cause::Os(code) => Some(code),
            Cause::Text(_) => None,
        }
    }

    fn io_kind(&self) -> io::ErrorKind {
        match (self.0.kind, &self.0.cause) {
            (_, Cause::Os(code)) => io::Error::from_raw_os_error(*code).kind(),
            (ErrorKind::InvalidInput, _) => io::ErrorKind::InvalidInput,
            (ErrorKind::NotFound | ErrorKind::WatchEnded, _) => io::ErrorKind::NotFound,
            (ErrorKind::PermissionDenied, _) => io::ErrorKind::PermissionDenied,
            (ErrorKind::NotADirectory, _) => io::ErrorKind::NotADirectory,
            (ErrorKind::AlreadyExists, _) => io::ErrorKind::AlreadyExists,
            (ErrorKind::OutOfMemory, _) => io::ErrorKind::OutOfMemory,
            (ErrorKind::BackendUnavailable, _) => io::ErrorKind::Unsupported,
            (ErrorKind::AlreadyReading, _) => io::ErrorKind::ResourceBusy,
            (ErrorKind::Closed, _) => io::ErrorKind::BrokenPipe,
            (ErrorKind::Malformed, _) => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        f.write_str(inner.operation)?;
        if let Some(path) = &inner.path {
            write!(f, " {:?}", Shown(path))?;
        }
        match &inner.cause {
            Cause::Os(code) => write!(f, ": {}", os_text(*code))?,
            Cause::Text(text) => write!(f, ": {text}")?,
        }
        match &inner.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.0.kind)
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.io_kind(), error)
    }
}

/// The text of an `errno`, in lower case, with its number.
pub(crate) fn os_text(code: i32) -> String {
    let text = io::Error::from_raw_os_error(code).to_string();
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_operation_path_cause_and_remedy() {
        let error = Error::os(
            ErrorKind::WatchLimit,
            "add watch",
            &io::Error::from_raw_os_error(libc::ENOSPC),
        )
        .at(Path::new("/srv/a"))
        .mended_by("fs.inotify.max_user_watches is 8192; raise it with sysctl");
        assert_eq!(
            error.to_string(),
            "add watch \"/srv/a\": no space left on device (os error 28); \
             fs.inotify.max_user_watches is 8192; raise it with sysctl"
        );
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    }

    #[test]
    fn io_error_keeps_the_kind_and_the_whole_text() {
        let error = Error::os(
            ErrorKind::PermissionDenied,
            "add watch",
            &io::Error::from_raw_os_error(libc::EACCES),
        );
        let text = error.to_string();
        let io = io::Error::from(error);
        assert_eq!(io.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(io.to_string(), text);
        let inner = io.get_ref().and_then(|e| e.downcast_ref::<Error>());
        assert_eq!(inner.map(Error::kind), Some(ErrorKind::PermissionDenied));
    }
}
