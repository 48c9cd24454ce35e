//! The kernel's limits on inotify, read where they stand.

use std::fs;
use std::io;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// The `fs.inotify.*` limits as they stand now, for each user.
///
/// ```
/// let limits = ringwatch::Limits::read()?;
/// assert!(limits.max_queued_events > 0);
/// # Ok::<(), ringwatch::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Limits {
    /// Events the kernel keeps for one instance before it drops them and queues
    /// [`Q_OVERFLOW`](crate::Mask::Q_OVERFLOW). An instance keeps the value it was made under.
    pub max_queued_events: u64,
    /// Instances one user may have.
    pub max_user_instances: u64,
    /// Watches one user may have, over all instances.
    pub max_user_watches: u64,
}

impl Limits {
    /// Reads the three limits from `/proc/sys/fs/inotify`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where `/proc` is not mounted.
    pub fn read() -> Result<Self> {
        Ok(Self {
            max_queued_events: limit("max_queued_events")?,
            max_user_instances: limit("max_user_instances")?,
            max_user_watches: limit("max_user_watches")?,
        })
    }
}

fn limit(name: &str) -> Result<u64> {
    let path = Path::new("/proc/sys/fs/inotify").join(name);
    let operation = "read limit";
    let text = fs::read_to_string(&path).map_err(|cause| {
        let kind = match cause.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Other,
        };
        Error::os(kind, operation, &cause).at(&path)
    })?;
    text.trim()
        .parse()
        .map_err(|_| Error::text(ErrorKind::Other, operation, "not a number").at(&path))
}

/// `fs.inotify.NAME is N; raise it with …`, or the part of it that can be known. In a user namespace with a lower limit of its
/// own, that is named.
pub(crate) fn remedy(name: &'static str) -> String {
    let value = limit(name).ok();
    let own_name = name.replace("max_user_", "max_inotify_");
    let own = number(&Path::new("/proc/sys/user").join(&own_name));
    match (value, own) {
        (value, Some(own)) if value.is_none_or(|value| own < value) => {
            format!("user.{own_name} of this user namespace is {own}; raise it with sysctl user.{own_name}=N")
        }
        (value, _) => raise(&format!("fs.inotify.{name}"), value),
    }
}

fn raise(name: &str, value: Option<u64>) -> String {
    match value {
        Some(value) => format!("{name} is {value}; raise it with sysctl {name}=N"),
        None => format!("raise it with sysctl {name}=N"),
    }
}

/// `fs.file-max is N; raise it with …`: the descriptors of the whole system.
pub(crate) fn descriptors() -> String {
    raise("fs.file-max", number(Path::new("/proc/sys/fs/file-max")))
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_is_in_the_way_is_named_with_its_value() {
        for name in ["max_user_instances", "max_user_watches"] {
            let value = limit(name).expect("a limit");
            let own_name = name.replace("max_user_", "max_inotify_");
            let own = number(&Path::new("/proc/sys/user").join(&own_name)).unwrap_or(value);
            let told = match own < value {
                true => {
                    format!("user.{own_name} of this user namespace is {own}; raise it with sysctl user.{own_name}=N")
                }
                false => format!("fs.inotify.{name} is {value}; raise it with sysctl fs.inotify.{name}=N"),
            };
            assert_eq!(remedy(name), told);
        }
        assert_eq!(
            remedy("max_user_nothing"),
            "raise it with sysctl fs.inotify.max_user_nothing=N"
        );
    }
}
