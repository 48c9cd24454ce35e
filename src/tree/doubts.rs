//! Names that are reported as not being there, and may be all the same: each is looked at once.
//!
//! By directory, so that what is about one costs nothing for the others; and in an order, so that what was done once is done again.

use std::collections::BTreeMap;

use super::nodes::Id;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nobody has looked.
    Open,
    /// Its directory was not where it was.
    Lost,
    /// Its directory may not be searched.
    Forbidden,
    /// This session has found nothing.
    Absent,
    /// This session has found it, and it was reported.
    Present,
}

#[derive(Debug, Default)]
pub(super) struct Doubts {
    by_dir: BTreeMap<Id, Names>,
    /// How many names are still to be looked at.
    open: usize,
}

/// The names of one directory.
#[derive(Debug, Default)]
struct Names {
    answers: BTreeMap<Box<[u8]>, Answer>,
    open: usize,
    forbidden: usize,
}

impl Names {
    fn count(&mut self, answer: Answer) -> Option<&mut usize> {
        match answer {
            Answer::Open => Some(&mut self.open),
            Answer::Forbidden => Some(&mut self.forbidden),
            _ => None,
        }
    }

    fn put(&mut self, name: &[u8], answer: Answer) {
        self.remove(name);
        self.answers.insert(name.into(), answer);
        self.count(answer).into_iter().for_each(|count| *count += 1);
    }

    fn remove(&mut self, name: &[u8]) -> Option<Answer> {
        let answer = self.answers.remove(name)?;
        self.count(answer).into_iter().for_each(|count| *count -= 1);
        Some(answer)
    }

    /// Gives answers another, or none.
    fn alter(&mut self, mut to: impl FnMut(Answer) -> Option<Answer>) {
        let (mut open, mut forbidden) = (0, 0);
        self.answers.retain(|_, answer| {
            let Some(new) = to(*answer) else { return false };
            *answer = new;
            open += usize::from(new == Answer::Open);
            forbidden += usize::from(new == Answer::Forbidden);
            true
        });
        (self.open, self.forbidden) = (open, forbidden);
    }
}

impl Doubts {
    pub(super) fn is_empty(&self) -> bool {
        self.by_dir.is_empty()
    }

    /// Whether there are names to be looked at.
    pub(super) fn has_open(&self) -> bool {
        self.open > 0
    }

    pub(super) fn get(&self, dir: Id, name: &[u8]) -> Option<Answer> {
        self.by_dir.get(&dir)?.answers.get(name).copied()
    }

    /// How many names of a directory nobody can tell about, since it may not be searched.
    pub(super) fn forbidden(&self, dir: Id) -> usize {
        self.by_dir.get(&dir).map_or(0, |names| names.forbidden)
    }

    /// The names that are to be looked at, each with its directory.
    pub(super) fn open(&self) -> impl Iterator<Item = (Id, &[u8])> {
        let dirs = self.by_dir.iter().filter(|(_, names)| names.open > 0);
        dirs.flat_map(|(&dir, names)| {
            let open = names.answers.iter().filter(|(_, answer)| **answer == Answer::Open);
            open.map(move |(name, _)| (dir, &**name))
        })
    }

    /// Does something with the names of a directory, and keeps count.
    fn within<T>(&mut self, dir: Id, what: impl FnOnce(&mut Names) -> T) -> Option<T> {
        let names = self.by_dir.get_mut(&dir)?;
        let before = names.open;
        let done = what(names);
        self.open = self.open - before + names.open;
        if names.answers.is_empty() {
            self.by_dir.remove(&dir);
        }
        Some(done)
    }

    /// Whether a name is taken is to be looked at.
    pub(super) fn put(&mut self, dir: Id, name: &[u8]) {
        self.by_dir.entry(dir).or_default();
        self.within(dir, |names| names.put(name, Answer::Open));
    }

    /// What a look has found, if the name is still in doubt.
    pub(super) fn answer(&mut self, dir: Id, name: &[u8], answer: Answer) {
        self.within(dir, |names| {
            if names.answers.contains_key(name) {
                names.put(name, answer);
            }
        });
    }

    /// A name is in doubt no longer. Answers what was known.
    pub(super) fn remove(&mut self, dir: Id, name: &[u8]) -> Option<Answer> {
        self.within(dir, |names| names.remove(name)).flatten()
    }

    /// No name of a directory is in doubt.
    pub(super) fn remove_all(&mut self, dir: Id) {
        self.within(dir, |names| names.alter(|_| None));
    }

    /// A directory may be searched: what was forbidden is to be looked at.
    pub(super) fn open_forbidden(&mut self, dir: Id) {
        self.within(dir, |names| {
            names.alter(|answer| match answer {
                Answer::Forbidden => Some(Answer::Open),
                answer => Some(answer),
            });
        });
    }

    /// Directories that were not where they were when one of their names was to be looked at.
    pub(super) fn lost(&self) -> Vec<Id> {
        let is_lost = |names: &Names| names.answers.values().any(|&answer| answer == Answer::Lost);
        self.by_dir
            .iter()
            .filter(|(_, names)| is_lost(names))
            .map(|(&dir, _)| dir)
            .collect()
    }

    /// What was found is old now. What was not to be found is looked for again if the tree has `changed`.
    pub(super) fn end_session(&mut self, changed: bool) {
        let mut open = 0;
        self.by_dir.retain(|_, names| {
            names.alter(|answer| match answer {
                Answer::Lost if changed => Some(Answer::Open),
                Answer::Open | Answer::Forbidden => Some(answer),
                _ => None,
            });
            open += names.open;
            !names.answers.is_empty()
        });
        self.open = open;
    }
}
