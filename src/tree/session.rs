//! What a session makes of the tree by what was found.

use std::collections::BTreeSet;
use std::io;

use super::displaced::DISPLACED;
use super::doubts::Answer;
use super::files::{DIRECTORY, UNKNOWN};
use super::found::{Crawl, Found, Outcome};
use super::jobs::Probe;
use super::nodes::{CONFIRMED, ENDED, Id, LINK, LISTED, NONE, SINGLES, State, UNLISTED};
use super::tracker::{Out, Tracker};
use crate::causes::add_error;
use crate::error::{Error, ErrorKind};
use crate::mask::Mask;
use crate::sys::dir::Kind;

const MADE: Mask = Mask::CREATE.union(Mask::ISDIR);
/// Names in one directory that may be in doubt until that may be searched: whoever renames in it could make more and more.
pub(super) const MOST_FORBIDDEN: usize = 1_024;

pub(super) const GONE: Mask = Mask::DELETE.union(Mask::ISDIR);

impl Tracker {
    /// Whether there is something to look at.
    pub(super) fn has_work(&mut self) -> bool {
        self.try_aliases();
        self.turn_roots();
        let Self { nodes, pending, .. } = self;
        pending.retain(|&id| {
            let node = nodes.get_mut(id);
            let due = node.state == State::Pending && node.flags & LISTED != 0;
            if !due {
                node.flags &= !LISTED;
            }
            due
        });
        !self.pending.is_empty() || !self.checks.is_empty() || self.doubts.has_open()
    }

    /// Whether all that is known has been looked at, and nothing overlaps.
    pub(super) fn is_calm(&mut self) -> bool {
        self.session == 0 && !self.has_work()
    }

    pub(super) fn begin_session(&mut self, names_known: bool) {
        // 0 says that there is none.
        self.last_session = self.last_session.checked_add(1).unwrap_or_else(|| {
            // Nothing that was looked at long ago is to be taken for new.
            self.nodes.forget_sessions();
            1
        });
        self.session = self.last_session;
        self.names_known = names_known;
        (self.changed, self.stirred, self.remounted) = (false, false, false);
        if names_known && !self.keeps_files {
            self.files.clear(&mut self.nodes);
        }
    }

    /// The directory was not where it was; the events that say so are still to come.
    pub(super) fn probe_lost(&mut self, probe: &Probe) {
        self.doubts.answer(probe.dir, &probe.name, Answer::Lost);
    }

    /// Nobody can tell until its directory may be searched, or whatever else is in the way has gone.
    pub(super) fn probe_refused(&mut self, probe: &Probe, code: i32, out: &mut Out<'_>) {
        self.doubts.answer(probe.dir, &probe.name, Answer::Forbidden);
        self.refused(probe.dir, "look into directory", code, out);
        if self.doubts.forbidden(probe.dir) == MOST_FORBIDDEN {
            self.overfull.push(probe.dir);
        }
    }

    /// What a probe has found: the kind of the entry if there is one.
    pub(super) fn probed(&mut self, probe: &Probe, kind: Option<Kind>, out: &mut Out<'_>) {
        let (dir, name) = (probe.dir, &*probe.name);
        let single = self.nodes.get(dir).flags & SINGLES != 0;
        let turned = single && kind == Some(Kind::Dir);
        let answer = if kind.is_some() && !turned {
            Answer::Present
        } else {
            Answer::Absent
        };
        self.doubts.answer(dir, name, answer);
        if turned {
            self.has_turned(dir, name);
        }
        let Some(kind) = kind.filter(|_| !turned) else { return };
        if self.nodes.child(dir, name).is_some() {
            return;
        }
        if kind == Kind::Dir {
            self.report(dir, name, MADE, out);
            self.find(dir, name, false);
        } else {
            if self.keeps_files {
                self.files.put(&mut self.nodes, dir, name, UNKNOWN);
            }
            self.unseat(Mask::CREATE, dir, name, out);
            self.report(dir, name, Mask::CREATE, out);
            if kind == Kind::Link && self.manner.follow_links && !single {
                self.find(dir, name, true);
            }
        }
    }

    /// A directory that this session has found and not looked at.
    fn find(&mut self, dir: Id, name: &[u8], link: bool) -> Option<Id> {
        let wanted = self.is_wanted(dir, name);
        let Some(id) = self.nodes.add(dir, name) else {
            self.overfull.push(dir);
            return None;
        };
        self.note_turned(dir, name);
        let node = self.nodes.get_mut(id);
        node.session = self.session;
        node.flags = if link { LINK } else { 0 };
        match wanted {
            true => {
                self.stirred = true;
                self.look_again(id);
            }
            false => node.state = State::Filtered,
        }
        Some(id)
    }

    /// Takes in what was found, and reports it: parents before children.
    pub(super) fn take_in(&mut self, crawl: &Crawl, out: &mut Out<'_>) {
        let mut ids = vec![NONE; crawl.len()];
        if self.nodes.watched() == 0 {
            self.nodes.reserve(crawl.len());
        }
        // What is taken in may void what else was to be looked at.
        self.nodes.hold();
        for number in 0..crawl.len() {
            self.take_one(crawl, number, &mut ids, out);
            out.spare();
        }
        self.nodes.end_hold();
        self.drop_strayed(out);
        self.lay_down_overfull(out);
    }

    pub(super) fn take_one(&mut self, crawl: &Crawl, number: usize, ids: &mut [Id], out: &mut Out<'_>) {
        let found = *crawl.found(number);
        if found.node != NONE && self.nodes.get(found.node).state == State::Vacant {
            return self.release(found.outcome);
        }
        if found.node != NONE {
            ids[number] = found.node;
            return self.settle(crawl, number, found.node, &found, ids, out);
        }
        let parent = ids.get(found.parent as usize).copied().unwrap_or(NONE);
        let watched = matches!(found.outcome, Outcome::Watched { .. } | Outcome::Unlisted { .. });
        if parent == NONE || self.nodes.get(parent).state != State::Watched || found.outcome == Outcome::Vanished {
            if watched {
                self.release(found.outcome);
            }
            return;
        }
        let name = crawl.name(number);
        if !found.link {
            self.report(parent, name, MADE, out);
        }
        let Some(id) = self.nodes.add(parent, name) else {
            self.overfull.push(parent);
            if watched {
                self.release(found.outcome);
            }
            return;
        };
        if found.link {
            self.nodes.get_mut(id).flags |= LINK;
        }
        self.note_turned(parent, name);
        ids[number] = id;
        self.settle(crawl, number, id, &found, ids, out);
    }

    /// What was watched and has no place in the tree, unless it is another's.
    pub(super) fn release(&mut self, outcome: Outcome) {
        self.releasing.extend(outcome.wd());
    }

    /// A directory as it was found.
    pub(super) fn settle(
        &mut self,
        crawl: &Crawl,
        number: usize,
        id: Id,
        found: &Found,
        ids: &mut [Id],
        out: &mut Out<'_>,
    ) {
        if self.is_check(found, id) {
            ids[number] = NONE;
            return self.checked(id, found.outcome);
        }
        let session = self.session;
        let node = self.nodes.get_mut(id);
        node.session = session;
        node.flags &= !(CONFIRMED | UNLISTED);
        let is_link = self.is_link(id);
        if is_link {
            self.links.insert(id);
        }
        let again = if found.node == id {
            self.was_left(id, found.outcome)
        } else {
            None
        };
        match found.outcome {
            Outcome::Watched { wd, identity } => {
                match self.nodes.by_wd(wd) {
                    Some(other) if other != id && self.nodes.get(other).flags & SINGLES != 0 => {
                        if self.nodes.get(id).flags & SINGLES != 0 {
                            ids[number] = NONE;
                            return self.share_singles(id, other);
                        }
                        match is_link || self.is_named_alike(other, id) {
                            true => {
                                self.say_yielded(other, out);
                                self.yield_root(other, id);
                            }
                            false => self.take_over(other, id, out),
                        }
                        self.left_over.push((id, found.outcome));
                        self.changed = true;
                        ids[number] = NONE;
                        return;
                    }
                    Some(other) if other != id && found.node == id && self.nodes.get(id).parent == NONE => {
                        ids[number] = NONE;
                        return self.covered_within(id, other);
                    }
                    Some(other)
                        if other != id
                            && !is_link
                            && self.nodes.get(other).parent == NONE
                            && self.is_named_alike(other, id)
                            && self.adopt(other, id) =>
                    {
                        ids[number] = NONE;
                        // Below this root its paths are others, for which that was not asked.
                        if self.manner.filter.is_some() {
                            self.refilter(other, out);
                        }
                        return;
                    }
                    Some(other) if other != id => {
                        self.left_over.push((id, found.outcome));
                        ids[number] = NONE;
                        return;
                    }
                    None if found.node == id && self.leave(id, wd, again, found.listed) => {
                        ids[number] = NONE;
                        return self.look_later(id);
                    }
                    None if !found.listed => {
                        self.release(found.outcome);
                        ids[number] = NONE;
                        return self.look_later(id);
                    }
                    _ => {
                        if found.node == id && self.nodes.get(id).parent == NONE && !self.void_places(id, out) {
                            self.release(found.outcome);
                            ids[number] = NONE;
                            return self.look_later(id);
                        }
                        let displaced = self.displaced_by(id);
                        displaced.iter().for_each(|&root| self.root_gone(root, DISPLACED, out));
                        self.nodes.watch(id, wd);
                        displaced.into_iter().for_each(|root| self.covered_within(root, id));
                    }
                }
                if self.nodes.get(id).parent == NONE {
                    self.forget_covering(id);
                }
                self.nodes.set_identity(id, identity.device, identity.inode);
                if self.is_crossing(id) {
                    self.crossings.insert(id);
                }
                self.renew(id, out);
                self.uncovered.remove(&id);
                self.try_refused_roots(id);
                self.try_refused_twins(id);
                self.take_files(crawl, number, id, out);
            }
            Outcome::Filtered => {
                self.nodes.get_mut(id).state = State::Filtered;
                self.uncovered.remove(&id);
            }
            Outcome::Foreign => {
                // A root that is there is looked at for itself.
                self.stirred |= self.uncover_within(id);
                self.nodes.get_mut(id).state = State::Uncovered;
                let cause = "another file system is mounted here";
                let error = Error::text(ErrorKind::Other, "watch directory", cause);
                let error = error.mended_by("let mounts be crossed, or add it as a root");
                self.say_uncovered(id, error, out);
            }
            // What was listed of it is no more to be relied on than the rest.
            Outcome::Failed(code) | Outcome::Unlisted { code, .. } => {
                ids[number] = NONE;
                self.release(found.outcome);
                if self.nodes.get(id).parent == NONE
                    && let Some(&place) = self.covered_places(id).first()
                {
                    // Another root covers what may not be looked at any more.
                    return self.covered_within(id, place);
                }
                self.renew(id, out);
                self.uncover_others_within(id);
                self.nodes.get_mut(id).state = State::Uncovered;
                let watched = found.outcome.wd().is_some();
                let operation = if watched { "list directory" } else { "watch directory" };
                self.refused(id, operation, code, out);
            }
            // It leads to no directory.
            Outcome::Vanished if is_link => {
                ids[number] = NONE;
                self.strayed.push(id);
            }
            Outcome::Vanished | Outcome::Lost => self.left_over.push((id, found.outcome)),
        }
    }

    /// What was found does not say what is in it. Barriers wait.
    pub(super) fn look_later(&mut self, id: Id) {
        self.look_again(id);
        self.stirred = true;
    }

    /// What was watched here before is not what is here now, and that was not reported.
    fn renew(&mut self, id: Id, out: &mut Out<'_>) {
        if self.nodes.get(id).flags & ENDED != 0 {
            self.nodes.get_mut(id).flags &= !ENDED;
            self.report_another(id, out);
        }
    }

    /// Reports a directory as gone and made, so that what was in it is void.
    pub(super) fn report_another(&mut self, id: Id, out: &mut Out<'_>) {
        let (parent, name) = (self.nodes.get(id).parent, self.nodes.name(id).to_vec());
        if self.is_link(id) {
            return self.report_link(parent, &name, out);
        }
        self.report(parent, &name, GONE, out);
        self.report(parent, &name, MADE, out);
        if self.is_nested {
            let path = self.nodes.path(id);
            self.tell_again_in(&path, id);
        }
    }

    pub(super) fn take_files(&mut self, crawl: &Crawl, number: usize, id: Id, out: &mut Out<'_>) {
        let seats = self.seats_in(id);
        for (name, fingerprint) in crawl.files(number) {
            if seats.contains(name) {
                self.unseat(Mask::CREATE, id, name, out);
            }
            if fingerprint == DIRECTORY {
                // A root that is a directory is told of by what is in it.
                self.has_turned(id, name);
                if self.files.remove(&mut self.nodes, id, name).is_some() {
                    self.report(id, name, Mask::DELETE, out);
                }
                continue;
            }
            let known = match self.keeps_files || self.names_known {
                true => self.files.put(&mut self.nodes, id, name, fingerprint),
                false => None,
            };
            match known {
                None => self.report(id, name, Mask::CREATE, out),
                Some(known) if known == UNKNOWN || known != fingerprint => self.report(id, name, Mask::MODIFY, out),
                Some(_) => {}
            }
            out.spare();
        }
    }

    pub(super) fn refused(&mut self, id: Id, operation: &'static str, code: i32, out: &mut Out<'_>) {
        let cause = io::Error::from_raw_os_error(code);
        let mut error = add_error(operation, None, Mask::empty(), &cause);
        if code == libc::ENAMETOOLONG {
            error =
                error.mended_by("add it, or a directory above it, as a root: below a root, paths have 64 KiB at most");
        }
        self.say_uncovered(id, error, out);
    }

    /// Gives up a directory, since its watch is needed more for a marker. Any will do that has none in it which
    /// is watched or is to be, but no root. Answers whether there was one.
    pub(super) fn give_up_one(&mut self, out: &mut Out<'_>) -> bool {
        let is_leaf = |&id: &Id| {
            let node = self.nodes.get(id);
            let holds = |child| matches!(self.nodes.get(child).state, State::Watched | State::Pending);
            node.state == State::Watched && node.parent != NONE && !self.nodes.children(id).any(holds)
        };
        let Some(id) = self.nodes.all().filter(is_leaf).last() else {
            return false;
        };
        self.lay_down(id, out);
        self.refused(id, "watch directory", libc::ENOSPC, out);
        true
    }

    /// The session's markers have passed: from here on, its findings are as good as any.
    pub(super) fn end_session(&mut self, out: &mut Out<'_>) {
        let left_over = std::mem::take(&mut self.left_over);
        if self.remounted {
            self.refuse_again();
        }
        for (id, outcome) in left_over {
            let node = *self.nodes.get(id);
            // It may be gone, and its number another's.
            if node.state != State::Pending || node.session != self.session {
                continue;
            }
            self.claim(id, outcome, out);
            let is_void = |wd| !self.is_watched_elsewhere(id, wd);
            if self.changed || outcome.wd().is_some_and(is_void) {
                self.look_later(id);
            } else {
                self.give_up(id, outcome, out);
            }
            out.spare();
        }
        let lost = if self.changed { Vec::new() } else { self.doubts.lost() };
        for root in lost
            .into_iter()
            .map(|dir| self.nodes.root(dir))
            .collect::<BTreeSet<_>>()
        {
            // A directory above it was renamed, of which nobody tells.
            self.say_if_displaced(root, out);
        }
        let changed = self.changed;
        self.doubts.end_session(changed);
        self.swaps.end_session();
        self.session = 0;
        if !self.keeps_files {
            self.files.clear(&mut self.nodes);
        }
    }

    /// No event explains why it was not found.
    fn give_up(&mut self, id: Id, outcome: Outcome, out: &mut Out<'_>) {
        let parent = self.nodes.get(id).parent;
        if parent == NONE {
            return self.root_gone(id, "nothing is there", out);
        }
        if outcome == Outcome::Vanished {
            let name = self.nodes.name(id).to_vec();
            self.drop_subtree(id);
            return self.report(parent, &name, GONE, out);
        }
        self.nodes.get_mut(id).state = State::Uncovered;
        self.aliases.extend(outcome.wd().map(|wd| (id, wd)));
        if outcome != Outcome::Lost {
            return self.say_aliased(id, out);
        }
        let error = Error::text(ErrorKind::Other, "watch directory", "its path leads elsewhere");
        let remedy = "add its root again under its present path";
        let error = error.mended_by(remedy);
        self.say_uncovered(id, error, out);
    }

    pub(super) fn say_aliased(&mut self, id: Id, out: &mut Out<'_>) {
        let error = Error::text(ErrorKind::Other, "watch directory", "it is watched under another path");
        let error = error.mended_by("its events are reported there");
        self.say_uncovered(id, error, out);
    }
}
