//! Changes that belong together, and what remains of them in the end.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What happened to one entry.
pub(crate) struct Step {
    pub(crate) path: PathBuf,
    pub(crate) is_dir: bool,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Created,
    Written,
    Removed,
    /// A rename to this path, from one that is watched too.
    Arrived(PathBuf),
}

/// What a burst has done to one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Created,
    Changed,
    Removed,
    RenamedFrom(PathBuf),
}

/// What remains of a burst, by path.
pub(crate) type Effects = BTreeMap<PathBuf, Effect>;

/// Steps since the command was last run. A file that was made and is gone again has left nothing to run for.
#[derive(Default)]
pub(crate) struct Burst {
    entries: BTreeMap<PathBuf, Entry>,
    pub(crate) overflowed: bool,
    pub(crate) first: Option<Instant>,
    /// Whether all of it happened while the command ran.
    pub(crate) during_run: bool,
}

struct Entry {
    /// Whether it was there before. Not known of what a rename may have replaced.
    before: Option<bool>,
    now: bool,
    is_dir: bool,
    /// Of a directory: its metadata was. Else it was put back.
    is_written: bool,
    from: Option<PathBuf>,
}

impl Burst {
    /// Something happened, while the command ran or not.
    pub(crate) fn touch(&mut self, during_run: bool) {
        self.during_run = during_run && (self.first.is_none() || self.during_run);
        self.first.get_or_insert_with(Instant::now);
    }

    pub(crate) fn add(&mut self, step: Step) {
        let Step { path, is_dir, kind } = step;
        if is_dir && matches!(kind, Kind::Removed) {
            // By a rename perhaps, with all that is in it: cargo makes its `target` under another name.
            let below = self.entries.range_mut(path.clone()..);
            let below = below.take_while(|(below, _)| below.starts_with(&path));
            below.for_each(|(_, entry)| entry.now = false);
        }
        // A file that was made a moment ago and is put in another's place: the other has changed.
        let from = match &kind {
            Kind::Arrived(from) if !self.is_new(from) => Some(from.clone()),
            _ => None,
        };
        let before = match &kind {
            Kind::Created => Some(false),
            Kind::Written | Kind::Removed => Some(true),
            Kind::Arrived(_) => None,
        };
        let entry = self.entries.entry(path).or_insert(Entry {
            before,
            now: false,
            is_dir,
            is_written: false,
            from: None,
        });
        entry.is_dir = is_dir;
        entry.is_written |= matches!(kind, Kind::Written);
        entry.now = !matches!(kind, Kind::Removed);
        entry.from = match kind {
            Kind::Written | Kind::Removed => entry.from.take(),
            _ => from,
        };
    }

    fn is_new(&self, path: &Path) -> bool {
        self.entries.get(path).is_none_or(|entry| entry.before == Some(false))
    }

    pub(crate) fn effects(&self) -> Effects {
        let effects = self
            .entries
            .iter()
            .filter_map(|(path, entry)| Some((path.clone(), self.effect(entry)?)));
        let mut effects: Effects = effects.collect();
        let renamed = effects.values().filter_map(|effect| match effect {
            Effect::RenamedFrom(from) => Some(from.clone()),
            _ => None,
        });
        let renamed: HashSet<_> = renamed.collect();
        // Of a rename, the other half says it better.
        effects.retain(|path, effect| *effect != Effect::Removed || !renamed.contains(path));
        effects
    }

    fn effect(&self, entry: &Entry) -> Option<Effect> {
        match (entry.before, entry.now) {
            (Some(false), false) => None,
            (Some(true), true) if entry.is_dir && !entry.is_written => None,
            (_, true) if entry.from.as_ref().is_some_and(|from| !self.is_there(from)) => {
                entry.from.clone().map(Effect::RenamedFrom)
            }
            (Some(false), true) => Some(Effect::Created),
            (_, true) => Some(Effect::Changed),
            // A backup that an editor renamed the file to, and has removed.
            (None, false) if entry.from.as_ref().is_some_and(|from| self.is_there(from)) => None,
            (_, false) => Some(Effect::Removed),
        }
    }

    fn is_there(&self, path: &Path) -> bool {
        self.entries.get(path).is_some_and(|entry| entry.now)
    }
}
