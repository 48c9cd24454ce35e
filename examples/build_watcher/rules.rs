//! Which entries are left out: by options, by ignore files, by habit.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder, gitconfig_excludes_path};
use ignore::overrides::{Override, OverrideBuilder};

use crate::git;
use crate::options::Options;
use crate::text;

/// Never watched.
const VERSION_CONTROL: [&str; 5] = [".git", ".hg", ".jj", ".svn", ".bzr"];

/// Directories that are made from what lies beside them, also where no ignore file says so.
const BUILT: [(&str, &str); 2] = [("target", "Cargo.toml"), ("node_modules", "package.json")];

const IGNORE_FILES: [&str; 2] = [".ignore", ".gitignore"];

pub(crate) struct Rules {
    heed_files: bool,
    hidden: bool,
    chosen: Override,
    /// The user's own ignore file, for all repositories.
    global: Option<PathBuf>,
    /// What is watched, and the topmost directories whose ignore files hold there.
    roots: Vec<PathBuf>,
    tops: Vec<PathBuf>,
    /// Ignore files that hold there and lie elsewhere.
    pub(crate) outside: Vec<PathBuf>,
    levels: RwLock<HashMap<PathBuf, Arc<Level>>>,
}

/// What holds in one directory.
#[derive(Default)]
struct Level {
    left_out: bool,
    /// Its own ignore files; the first that says something decides.
    files: Vec<Gitignore>,
    /// The directory whose ignore files are asked next.
    above: Option<Arc<Level>>,
}

/// A chain of these may be longer than a stack is deep.
impl Drop for Level {
    fn drop(&mut self) {
        let mut above = self.above.take();
        while let Some(mut level) = above.and_then(Arc::into_inner) {
            above = level.above.take();
        }
    }
}

impl Rules {
    pub(crate) fn new(options: &Options, roots: &[PathBuf], base: &Path) -> Result<Self, String> {
        let mut chosen = OverrideBuilder::new(base);
        let excluded = options.exclude.iter().map(|glob| (glob, format!("!{glob}")));
        for (glob, line) in options.only.iter().map(|glob| (glob, glob.clone())).chain(excluded) {
            let added = chosen.add(&line).map(|_| ());
            added.map_err(|error| bad_glob(glob, &error))?;
        }
        let top = |root: &PathBuf| {
            root.ancestors()
                .find(|dir| is_repository(dir))
                .unwrap_or(root)
                .to_owned()
        };
        let heed_files = !options.no_ignore;
        let global = gitconfig_excludes_path().filter(|_| heed_files);
        let tops: Vec<_> = roots.iter().map(top).collect();
        let mut outside: Vec<_> = global.iter().cloned().collect();
        for (root, top) in roots.iter().zip(&tops).filter(|_| heed_files) {
            outside.extend(git::excludes(top));
            let above = root.ancestors().skip(1).take_while(|dir| dir.starts_with(top));
            outside.extend(above.flat_map(|dir| IGNORE_FILES.map(|name| dir.join(name))));
        }
        // Where one is a link, what it leads to is what will be written.
        outside.extend(outside.clone().iter().filter_map(|file| fs::canonicalize(file).ok()));
        outside.sort();
        outside.dedup();
        Ok(Self {
            heed_files,
            hidden: options.hidden,
            chosen: chosen.build().map_err(|error| format!("bad glob: {error}"))?,
            global,
            roots: roots.to_vec(),
            tops,
            outside,
            levels: RwLock::default(),
        })
    }

    /// Whether an entry below a root is left out, by itself or with a directory it is in.
    pub(crate) fn leave_out(&self, path: &Path, is_dir: bool) -> bool {
        let Some(dir) = path.parent() else { return false };
        let level = self.level(dir);
        !self.is_root(path) && (level.left_out || self.is_unwanted(&level, path, is_dir))
    }

    /// Whether only some names count.
    pub(crate) fn choose(&self) -> bool {
        self.chosen.num_whitelists() > 0
    }

    /// Whether a change of this file changes the rules.
    pub(crate) fn are_in(&self, path: &Path) -> bool {
        let is_named_so = || IGNORE_FILES.iter().any(|name| path.ends_with(name));
        self.heed_files && (is_named_so() || self.outside.iter().any(|file| file == path))
    }

    /// Has ignore files be read again.
    pub(crate) fn forget(&self) {
        self.levels.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn is_unwanted(&self, level: &Level, path: &Path, is_dir: bool) -> bool {
        let name = path.file_name().unwrap_or_default();
        if VERSION_CONTROL.iter().any(|&known| name == known) || self.chosen.matched(path, is_dir).is_ignore() {
            return true;
        }
        if self.heed_files {
            let levels = std::iter::successors(Some(level), |level| level.above.as_deref());
            let mut found = levels
                .flat_map(|level| &level.files)
                .map(|file| file.matched(path, is_dir));
            match found.find(|found| !found.is_none()) {
                Some(Match::Ignore(_)) => return true,
                Some(Match::Whitelist(_)) => return false,
                _ => {}
            }
            let is_built = |&(dir, beside): &(&str, &str)| name == dir && path.with_file_name(beside).exists();
            if is_dir && BUILT.iter().any(is_built) {
                return true;
            }
        }
        !self.hidden && name.as_encoded_bytes().starts_with(b".")
    }

    fn known(&self, dir: &Path) -> Option<Arc<Level>> {
        let levels = self.levels.read().unwrap_or_else(PoisonError::into_inner);
        levels.get(dir).cloned()
    }

    /// A root was asked for by name, also if it lies in another.
    fn is_root(&self, dir: &Path) -> bool {
        self.roots.iter().any(|root| root == dir)
    }

    fn is_top(&self, dir: &Path) -> bool {
        self.tops.iter().any(|top| top == dir)
    }

    /// From the topmost that is not known down, for a tree may be deeper than a stack.
    fn level(&self, dir: &Path) -> Arc<Level> {
        let mut unknown = Vec::new();
        let mut level = None;
        for at in dir.ancestors() {
            level = self.known(at);
            if level.is_some() {
                break;
            }
            unknown.push(at);
            if self.is_top(at) {
                break;
            }
        }
        for at in unknown.into_iter().rev() {
            let read = Arc::new(self.read_level(at, level));
            let mut levels = self.levels.write().unwrap_or_else(PoisonError::into_inner);
            levels.insert(at.to_owned(), Arc::clone(&read));
            level = Some(read);
        }
        level.unwrap_or_default()
    }

    fn read_level(&self, dir: &Path, above: Option<Arc<Level>>) -> Level {
        let is_top = self.is_top(dir);
        // What is above all roots is not our business.
        let is_inner = !self.is_root(dir) && self.roots.iter().any(|root| dir.starts_with(root));
        let is_unwanted = |above: &Arc<Level>| above.left_out || self.is_unwanted(above, dir, true);
        let left_out = is_inner && above.as_ref().is_some_and(is_unwanted);
        if left_out || !self.heed_files {
            let files = Vec::new();
            return Level { left_out, files, above };
        }
        let is_repository = is_repository(dir);
        let mut places = IGNORE_FILES.map(|name| dir.join(name)).to_vec();
        if is_repository {
            places.extend(git::excludes(dir));
        }
        if is_repository || is_top {
            places.extend(self.global.clone());
        }
        Level {
            left_out,
            files: places.iter().filter_map(|place| read(dir, place)).collect(),
            above: above.filter(|_| !is_repository),
        }
    }
}

fn is_repository(dir: &Path) -> bool {
    dir.join(".git").exists()
}

/// Lines that make no sense are skipped, as git does.
fn read(dir: &Path, file: &Path) -> Option<Gitignore> {
    let text = text::read(file)?;
    let mut builder = GitignoreBuilder::new(dir);
    for line in String::from_utf8_lossy(&text).lines() {
        let _ = builder.add_line(Some(file.to_owned()), line);
    }
    builder.build().ok().filter(|rules| !rules.is_empty())
}

fn bad_glob(glob: &str, error: &ignore::Error) -> String {
    let mut cause = error;
    while let ignore::Error::WithLineNumber { err, .. } | ignore::Error::WithPath { err, .. } = cause {
        cause = err;
    }
    let cause = match cause {
        ignore::Error::Glob { err, .. } => err.clone(),
        other => other.to_string(),
    };
    format!("bad glob {glob:?}: {cause}; write it as a line of .gitignore, as in '*.md' or 'docs/**'")
}
