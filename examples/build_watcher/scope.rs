//! What is watched: directories with all below them, and single files.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::options::Options;
use crate::rules::Rules;

pub(crate) struct Scope {
    /// Where the tree begins: the directories, and those that single files are in.
    pub(crate) roots: Vec<PathBuf>,
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
                // An editor may put another file in its place, so it is watched by its name.
                false => files.push(found),
            }
        }
        let mut roots = dirs.clone();
        for parent in files.iter().filter_map(|file| file.parent()) {
            if !roots.iter().any(|root| parent.starts_with(root)) {
                roots.push(parent.to_owned());
            }
        }
        roots.sort();
        roots.dedup();
        let rules = Rules::new(options, &dirs, &base)?;
        Ok(Self {
            roots,
            dirs,
            files,
            rules,
        })
    }

    /// Whether to spend a watch on a directory.
    pub(crate) fn has_dir(&self, relative: &Path) -> bool {
        // The filter is not told which root it is asked for; to watch too much is better than too little.
        self.roots.iter().any(|root| self.has(&root.join(relative), true))
    }

    /// Whether a change of this entry counts.
    pub(crate) fn has(&self, path: &Path, is_dir: bool) -> bool {
        let is_inside = || self.dirs.iter().any(|dir| path.starts_with(dir));
        self.files.iter().any(|file| file == path) || is_inside() && !self.rules.leave_out(path, is_dir)
    }
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
