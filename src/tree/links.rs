//! Links that are followed, and directories that are reached in several ways.
//!
//! A directory is covered under the path it was found at first. Another entry that leads there is an alias: it is uncovered, and
//! known by the watch of the directory, so that it is looked at again when that watch goes. Where a link leads may change with
//! its own place and with that of its target; then it is checked, or looked at again.

use super::found::{Found, Outcome};
use super::nodes::{Id, LINK, State};
use super::tracker::{Out, Tracker};
use crate::mask::Mask;

impl Tracker {
    pub(super) fn is_link(&self, id: Id) -> bool {
        self.nodes.get(id).flags & LINK != 0
    }

    /// A link was followed, and what is in it was reported.
    pub(super) fn is_followed(&self, id: Id) -> bool {
        self.is_link(id) && self.nodes.get(id).state == State::Watched
    }

    /// Whether this watch is that of another directory of the tree.
    pub(super) fn is_watched_elsewhere(&self, id: Id, wd: i32) -> bool {
        self.nodes.by_wd(wd).is_some_and(|other| other != id)
    }

    /// Watches were let go: what led to the directories of these may be where they are covered now.
    pub(super) fn try_aliases(&mut self) {
        if std::mem::take(&mut self.nodes.let_go) && !self.aliases.is_empty() {
            self.try_aliases_if(|tracker, wd| tracker.nodes.by_wd(wd).is_none());
        }
    }

    /// A directory has another path now: what led to it may not any more.
    pub(super) fn try_aliases_of(&mut self, moved: i32) {
        if !self.aliases.is_empty() {
            self.try_aliases_if(|_, wd| wd == moved);
        }
    }

    fn try_aliases_if(&mut self, is_due: impl Fn(&Self, i32) -> bool) {
        let mut aliases = std::mem::take(&mut self.aliases);
        aliases.retain(|&id, &mut wd| {
            self.nodes.get(id).state == State::Uncovered && {
                let due = is_due(self, wd);
                if due {
                    // Barriers wait for that.
                    self.stirred = true;
                    self.look_again(id);
                }
                !due
            }
        });
        self.aliases = aliases;
    }

    /// What a link led to is somewhere else, or gone.
    pub(super) fn leads_elsewhere(&mut self, link: Id, out: &mut Out<'_>) {
        self.changed = true;
        self.stirred |= self.is_fresh(link);
        self.unsettle(link, out);
    }

    /// A directory, or a link, is in another place now: links there that say where they lead from their own place lead
    /// elsewhere.
    pub(super) fn check_links(&mut self, top: Id) {
        if self.links.is_empty() {
            return;
        }
        let mut links = std::mem::take(&mut self.links);
        links.retain(|&id| self.nodes.get(id).state != State::Vacant && self.is_link(id));
        for &id in &links {
            match self.nodes.get(id).state {
                _ if !self.is_below(id, top) => {}
                State::Watched => self.checks.push(id),
                State::Uncovered => self.look_again(id),
                State::Pending | State::Filtered | State::Vacant => {}
            }
        }
        self.links = links;
    }

    /// Links that are to be checked.
    pub(super) fn due_checks(&mut self) -> Vec<Id> {
        let mut checks = std::mem::take(&mut self.checks);
        checks.retain(|&id| self.is_followed(id));
        checks.sort_unstable();
        checks.dedup();
        checks
    }

    /// Where a link leads that was checked. Nothing is to be done if it is where it led before.
    pub(super) fn checked(&mut self, link: Id, outcome: Outcome) {
        if outcome.wd() != Some(self.nodes.get(link).wd) {
            self.releasing.extend(outcome.wd());
            self.strayed.push(link);
        }
    }

    /// Behind the rest of what was found, as this makes numbers of directories free.
    pub(super) fn drop_strayed(&mut self, out: &mut Out<'_>) {
        for link in std::mem::take(&mut self.strayed) {
            match self.nodes.get(link).state {
                State::Watched => {
                    self.leads_elsewhere(link, out);
                    self.stirred = true;
                }
                // If it is another by now, an event says so.
                State::Pending => self.drop_subtree(link),
                State::Uncovered | State::Filtered | State::Vacant => {}
            }
        }
    }

    /// Whether this is what became of a check.
    pub(super) fn is_check(&self, found: &Found, id: Id) -> bool {
        found.node == id && self.is_followed(id)
    }

    /// What a link leads to is reported as gone, the link being there still.
    pub(super) fn report_link(&mut self, parent: Id, name: &[u8], out: &mut Out<'_>) {
        self.report(parent, name, Mask::DELETE, out);
        self.report(parent, name, Mask::CREATE, out);
    }
}
