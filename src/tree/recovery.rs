//! What becomes of the tree when events were lost: all of it is looked at, and compared with what was known.

use std::collections::HashSet;

use super::crawl::Job;
use super::found::{Crawl, Found, Outcome};
use super::nodes::{CONFIRMED, Id, LISTED, NONE, State, UNLISTED};
use super::session::GONE;
use super::tracker::{Out, Tracker};
use crate::mask::Mask;

/// What is done when the kernel's queue overflows and events are lost.
///
/// Either way the loss is reported in its place, all directories are looked at again, and the watches are made right. When
/// the loss is reported the watches are in place, so whoever looks then misses nothing. That takes about as long as opening
/// did; `cargo bench --bench tree` measures it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// Nothing more: what has changed is for the user to find. Costs no memory for files.
    #[default]
    Mark,
    /// What has changed is found and reported as [`Origin::Scan`](super::Origin::Scan): what appeared, disappeared, and files of another size,
    /// time of modification or inode. Costs 48 bytes a file beside its name, and the time to ask for each file's
    /// status when it is first seen.
    ///
    /// A file that was written since it was last looked at is reported as modified, also if its events were not lost.
    Diff,
}

impl Tracker {
    /// Events were lost: everything that was under way is void, and all is to be looked at.
    pub(super) fn begin_recovery(&mut self) -> Vec<Job> {
        self.begin_session(false);
        for id in std::mem::take(&mut self.pending) {
            self.nodes.get_mut(id).flags &= !LISTED;
        }
        self.doubts = Default::default();
        self.checks.clear();
        self.left_over.clear();
        self.swaps = Default::default();
        self.shadow = true;
        // Who was to tell of them may have been told by what was lost.
        let left = self.roots.iter_mut().filter_map(|root| root.left.take());
        self.releasing.extend(left.map(|left| left.wd));
        // Files of one directory need not be behind each other.
        let mut roots: Vec<_> = self.roots.iter().map(|root| root.node).collect();
        let mut met = HashSet::new();
        roots.retain(|&root| met.insert(root));
        roots.into_iter().map(|root| self.job(root, None)).collect()
    }

    /// Takes in what was found after a loss: what is where it was stays, what is not goes, what is new comes.
    pub(super) fn recover(&mut self, crawl: &Crawl, out: &mut Out<'_>) {
        let mut ids = vec![NONE; crawl.len()];
        for (number, id) in (0..).zip(ids.clone().iter_mut()) {
            let found = *crawl.found(number);
            *id = self.recognise(crawl, number, &found, &ids);
            ids[number] = *id;
        }
        for (number, &id) in ids.iter().enumerate() {
            let found = crawl.found(number);
            if id != NONE && found.node != NONE {
                self.say_exchanged_root(id, found, out);
            }
        }
        self.forget_vacant(&mut ids);
        self.sweep(crawl, &ids, out);
        self.forget_vacant(&mut ids);
        self.nodes.hold();
        for number in 0..crawl.len() {
            let found = *crawl.found(number);
            match ids[number] {
                NONE => self.take_one(crawl, number, &mut ids, out),
                id if self.nodes.get(id).state == State::Vacant => {
                    ids[number] = NONE;
                    self.release(found.outcome);
                }
                id => {
                    let state = self.nodes.get(id).state;
                    self.nodes.get_mut(id).flags &= !(CONFIRMED | UNLISTED);
                    match (found.outcome, state) {
                        (Outcome::Watched { .. }, State::Watched) if !found.listed => {
                            ids[number] = NONE;
                            self.look_later(id);
                        }
                        (Outcome::Watched { .. }, State::Watched) => {
                            self.uncovered.remove(&id);
                            self.take_files(crawl, number, id, out);
                        }
                        (Outcome::Filtered, State::Filtered) => {}
                        _ => self.settle(crawl, number, id, &found, &mut ids, out),
                    }
                }
            }
            out.spare();
        }
        self.nodes.end_hold();
        self.lay_down_overfull(out);
    }

    /// What has gone meanwhile is found anew.
    fn forget_vacant(&self, ids: &mut [Id]) {
        for id in ids.iter_mut().filter(|id| **id != NONE) {
            if self.nodes.get(*id).state == State::Vacant {
                *id = NONE;
            }
        }
    }

    /// The directory that was known before where this one was found, if it is the same.
    fn recognise(&mut self, crawl: &Crawl, number: usize, found: &Found, ids: &[Id]) -> Id {
        let known = match found.node {
            NONE => {
                let parent = ids.get(found.parent as usize).copied().unwrap_or(NONE);
                match parent {
                    NONE => return NONE,
                    parent => self.nodes.child(parent, crawl.name(number)),
                }
            }
            root => Some(root),
        };
        let Some(known) = known else { return NONE };
        let is_root = found.node != NONE;
        let node = *self.nodes.get(known);
        let same = match found.outcome {
            Outcome::Watched { wd, .. } => {
                // A link that leads to a root has nothing of it.
                let inner = self
                    .nodes
                    .by_wd(wd)
                    .filter(|&id| self.nodes.get(id).parent == NONE && !found.link);
                if node.wd != 0
                    && node.wd != wd
                    && !is_root
                    && let Some(inner) = inner
                    && self.is_named_alike(inner, known)
                {
                    // What is in it was told as if it were in what is gone now.
                    self.drop_below(inner);
                    self.look_again(inner);
                }
                let alias = self.aliases.get(&known) == Some(&wd);
                node.wd == wd || node.wd == 0 && (alias || is_root || inner.is_some() || self.nodes.by_wd(wd).is_none())
            }
            Outcome::Vanished => false,
            // What is in one that is watched and can't be looked at is not known.
            _ => node.wd == 0,
        };
        if !is_root && (!same || found.link != self.is_link(known)) {
            return NONE;
        }
        if !same {
            // A root stays a root, whatever is there now.
            let wd = self.nodes.unwatch(known);
            if wd != 0 {
                self.releasing.push_back(wd);
            }
        }
        self.nodes.get_mut(known).session = self.session;
        known
    }

    /// What was not found again goes: directories, then files.
    fn sweep(&mut self, crawl: &Crawl, ids: &[Id], out: &mut Out<'_>) {
        let stays = |tracker: &Self, id: Id| tracker.nodes.get(id).session == tracker.session;
        let gone: Vec<_> = self
            .nodes
            .all()
            .filter(|&id| {
                let parent = self.nodes.get(id).parent;
                !stays(self, id) && (parent == NONE || stays(self, parent))
            })
            .collect();
        for id in gone {
            let parent = self.nodes.get(id).parent;
            if parent == NONE {
                continue;
            }
            let name = self.nodes.name(id).to_vec();
            let (link, followed) = (self.is_link(id), self.is_followed(id));
            self.drop_subtree(id);
            if !link {
                self.report(parent, &name, GONE, out);
            } else if followed {
                // With what was in it. If it is there, it is found.
                self.files.remove(&mut self.nodes, parent, &name);
                self.report(parent, &name, Mask::DELETE, out);
            }
            out.spare();
        }
        if !self.keeps_files {
            return;
        }
        for (number, &id) in ids.iter().enumerate().filter(|&(_, &id)| id != NONE) {
            let listed: HashSet<&[u8]> = crawl.files(number).map(|(name, _)| name).collect();
            let known = self.files.of(&self.nodes, id);
            let gone: Vec<Box<[u8]>> = known.filter(|name| !listed.contains(name)).map(Into::into).collect();
            for name in gone {
                self.files.remove(&mut self.nodes, id, &name);
                self.report(id, &name, Mask::DELETE, out);
                out.spare();
            }
        }
    }
}
