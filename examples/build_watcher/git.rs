//! Whether git is at work. It changes many files, with pauses, and what lies there in between is worth no build.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::text;

/// A lock that is kept longer without any change is taken for one that was left behind.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// The repositories that were asked for.
pub(crate) struct Git(Vec<PathBuf>);

impl Git {
    pub(crate) fn around<'a>(roots: impl Iterator<Item = &'a PathBuf>) -> Self {
        let find = |root: &PathBuf| {
            root.ancestors()
                .map(|dir| dir.join(".git"))
                .find_map(|place| directory(&place))
        };
        Self(roots.filter_map(find).collect())
    }

    /// Holds while git changes the index and with it the work tree, as a checkout does; and between the steps of a rebase
    /// or of `git am`, which keep what is to be done in a directory. Where that is not touched any more, they have stopped
    /// to ask, or a step takes long. Between the steps of other operations nothing tells, as in a stash; they are short.
    pub(crate) fn is_at_work(&self) -> bool {
        self.0.iter().any(|git| {
            let is_fresh = |name: &str| was_touched(&git.join(name)).is_some_and(|before| before < PATIENCE);
            let stopped = || git.join("rebase-merge/stopped-sha").exists();
            git.join("index.lock").exists() || is_fresh("rebase-apply") || is_fresh("rebase-merge") && !stopped()
        })
    }
}

/// How long ago something was made or removed in a directory.
fn was_touched(dir: &Path) -> Option<Duration> {
    dir.metadata().ok()?.modified().ok()?.elapsed().ok()
}

/// What a repository ignores beside what its work tree says. Work trees that were added share it.
pub(crate) fn excludes(top: &Path) -> Option<PathBuf> {
    let own = directory(&top.join(".git"))?;
    let shared = text::read(&own.join("commondir")).unwrap_or_default();
    let shared = fs::canonicalize(own.join(path(&shared))).ok()?;
    Some(shared.join("info/exclude"))
}

/// A work tree that was added has a file in the place of the directory, which says where that is.
fn directory(place: &Path) -> Option<PathBuf> {
    if place.is_dir() {
        return Some(place.to_owned());
    }
    let text = text::read(place)?;
    Some(place.parent()?.join(path(text.strip_prefix(b"gitdir: ")?)))
}

/// Of the line that git has written it on. It need not be UTF-8.
fn path(line: &[u8]) -> &Path {
    OsStr::from_bytes(line.trim_ascii_end()).as_ref()
}
