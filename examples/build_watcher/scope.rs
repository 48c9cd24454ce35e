//! What is watched: directories with all below them, and single files.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ringwatch::tree::{Tree, Uncovered};
use ringwatch::{Error, ErrorKind};

use crate::options::Options;
use crate::rules::Rules;

pub(crate) struct Scope {
    /// Where we were started, and the command is run: by its path, for it may be removed and made again.
    pub(crate) base: PathBuf,
    dirs: Vec<PathBuf>,
    files: Vec<PathBuf>,
    pub(crate) rules: Rules,
}

impl Scope {
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let base = env::current_dir().map_err(|cause| format!("find the current directory: {cause}"))?;
        let (mut dirs, mut files) = (Vec::new(), Vec::new());
        for path in &options.paths {
            let found = fs::canonicalize(path).map_err(|cause| missing(path, &cause))?;
            match found.is_dir() {
                true => dirs.push(found),
                false => files.push(found),
            }
        }
        let rules = Rules::new(options, &dirs, &base)?;
        Ok(Self {
            base,
            dirs,
            files,
            rules,
        })
    }

    /// What was asked for.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &PathBuf> {
        self.dirs.iter().chain(&self.files)
    }

    /// What is not covered, and should be.
    pub(crate) fn uncovered(&self, tree: &Tree) -> Vec<Uncovered> {
        let mut uncovered = tree.uncovered();
        uncovered.retain(|one| !self.lacks_only_rules(&one.error));
        uncovered.sort_by(|one, other| one.path.cmp(&other.path));
        uncovered
    }

    /// Whether all that is not covered is an ignore file that there is not. It will be heard of when somebody writes one.
    pub(crate) fn lacks_only_rules(&self, error: &Error) -> bool {
        let is_above = |path: &Path| self.rules.outside.iter().any(|file| file.starts_with(path));
        let is_root = |path: &Path| self.roots().any(|root| root == path);
        let path = error.path().filter(|_| error.kind() == ErrorKind::NotFound);
        path.is_some_and(|path| is_above(path) && !is_root(path))
    }

    /// Whether to spend a watch on a directory.
    pub(crate) fn has_dir(&self, relative: &Path) -> bool {
        // The filter is not told which root it is asked for: it may be any that has such a directory.
        let is_there = |dir: &Path| self.dirs.len() == 1 || !is_missing(dir);
        let mut dirs = self.dirs.iter().map(|root| root.join(relative));
        dirs.any(|dir| self.has(&dir, true) && is_there(&dir))
    }

    /// Whether this is a file that was asked for.
    pub(crate) fn is_file(&self, path: &Path) -> bool {
        self.files.iter().any(|file| file == path)
    }

    /// Whether a change of this entry counts.
    pub(crate) fn has(&self, path: &Path, is_dir: bool) -> bool {
        let is_inside = || self.dirs.iter().any(|dir| path.starts_with(dir));
        self.is_file(path) || is_inside() && !self.rules.leave_out(path, is_dir)
    }
}

fn is_missing(path: &Path) -> bool {
    path.symlink_metadata()
        .is_err_and(|cause| cause.kind() == io::ErrorKind::NotFound)
}

fn missing(path: &Path, cause: &io::Error) -> String {
    let remedy = match cause.kind() {
        io::ErrorKind::NotFound => "is it spelt right? The command comes behind --",
        _ => "is it yours to read?",
    };
    let cause = cause.to_string();
    let cause = cause.split(" (os error").next().unwrap_or_default().to_lowercase();
    format!("can't watch {}: {cause}; {remedy}", path.display())
}
