//! What renames make of the tree: both halves, or one of them, or two of them that are an exchange.

use super::batch::Extra;
use super::doubts::Answer;
use super::files::UNKNOWN;
use super::nodes::{Id, SINGLES, State};
use super::swaps::{First, Spot};
use super::tracker::{Out, Seen, Tracker};
use crate::mask::Mask;

impl Tracker {
    /// A `MOVED_FROM` whose other half is not in the tree.
    pub(super) fn moved_out(&mut self, seen: Seen<'_>, out: &mut Out<'_>) {
        if let Some(dir) = self.nodes.by_wd(seen.record.wd)
            && !self.shadow
        {
            if self.nodes.get(dir).flags & SINGLES != 0 {
                return self.about_single(seen, dir, out);
            }
            self.changed = true;
            self.told_of(seen, dir);
            self.unseat(Mask::MOVED_FROM, dir, seen.name(), out);
            let swap = self
                .swaps
                .came_to(Spot::new(seen.record.wd, seen.name()), seen.record.cookie);
            self.removed(seen, dir, out);
            if swap.is_some() || self.is_fresh(dir) {
                // In and out again, or exchanged with something outside; in a directory that was not watched before, the
                // first half of that was not seen.
                self.doubts.put(dir, seen.name());
            }
        }
    }

    /// A `MOVED_TO` whose other half is not in the tree.
    pub(super) fn moved_in(&mut self, seen: Seen<'_>, out: &mut Out<'_>) {
        if let Some(dir) = self.nodes.by_wd(seen.record.wd)
            && !self.shadow
        {
            if self.nodes.get(dir).flags & SINGLES != 0 {
                return self.about_single(seen, dir, out);
            }
            self.changed = true;
            self.told_of(seen, dir);
            self.unseat(Mask::MOVED_TO, dir, seen.name(), out);
            let target = Spot::new(seen.record.wd, seen.name());
            self.swaps.note(None, target, seen.record.cookie, seen.is_dir(), true);
            self.appeared(seen, dir, out);
        }
    }

    /// Both halves of a rename.
    pub(super) fn renamed(&mut self, from: Seen<'_>, to: Seen<'_>, out: &mut Out<'_>) {
        let fresh = self.nodes.by_wd(from.record.wd).is_some_and(|old| self.is_fresh(old));
        self.both_moved(from, to, out);
        // If the watch was made just between the halves of an exchange, this is the second, and the first was not seen.
        if fresh
            && !self.shadow
            && let Some(old) = self.nodes.by_wd(from.record.wd)
            && self.nodes.get(old).flags & SINGLES == 0
            && self.nodes.child(old, from.name()).is_none()
            && !self.files.contains(old, from.name())
        {
            self.doubts.put(old, from.name());
        }
    }

    fn both_moved(&mut self, from: Seen<'_>, to: Seen<'_>, out: &mut Out<'_>) {
        let whole = |tracker: &Self, seen: Seen<'_>| {
            let dir = tracker.nodes.by_wd(seen.record.wd);
            dir.filter(|&dir| tracker.nodes.get(dir).flags & SINGLES == 0)
        };
        if !self.shadow {
            for (mask, seen) in [(Mask::MOVED_FROM, from), (Mask::MOVED_TO, to)] {
                if let Some(dir) = whole(self, seen) {
                    self.unseat(mask, dir, seen.name(), out);
                }
            }
        }
        let (Some(old), Some(new)) = (whole(self, from), whole(self, to)) else {
            self.moved_out(from, out);
            return self.moved_in(to, out);
        };
        if self.shadow {
            return;
        }
        self.changed = true;
        self.told_of(from, old);
        self.told_of(to, new);
        let is_dir = to.is_dir();
        let (source, target) = (
            Spot::new(from.record.wd, from.name()),
            Spot::new(to.record.wd, to.name()),
        );
        let unsure = self.is_fresh(old) || self.is_fresh(new);
        let victim = unsure || self.nodes.child(new, to.name()).is_some() || self.doubts.get(new, to.name()).is_some();
        let cookie = to.record.cookie;
        let back = self.swaps.came_to(source, cookie);
        // What came from a third place has nothing to do with this.
        let back = back.filter(|first| first.source.is_none_or(|place| place == target));
        self.swaps.note(Some(source), target, cookie, is_dir, victim);
        let node = self.nodes.child(old, from.name());
        let has_dir = node.is_some_and(|node| !self.is_link(node));
        // Perhaps two directories were exchanged, or the first was put over an empty one and came back.
        let dirs = |first: &First| is_dir && first.is_dir && first.victim;
        // Or two of which one may be a link that is followed.
        let links = |first: &First| !is_dir && !first.is_dir && node.is_some();
        match back {
            Some(first) if unsure || first.source.is_none() || dirs(&first) || links(&first) => {
                self.torn(from, to, out);
                if let Some(old) = self.nodes.by_wd(from.record.wd) {
                    self.doubts.put(old, from.name());
                }
                return;
            }
            Some(first) if first.is_dir != is_dir && has_dir != is_dir => {
                // A file and a directory were exchanged: the first, of the other kind, has stayed where it went. If it is
                // not known to be there, it is nothing.
                self.settle_doubt(old, from.name());
                return self.appeared(to, new, out);
            }
            _ => {}
        }
        match node {
            _ if self.replaces_above(old, new, to.name()) => self.torn(from, to, out),
            Some(node) if self.moves(node, is_dir) => self.relink(node, (from, old), (to, new), out),
            None if !is_dir => {
                self.file_renamed((from, old), (to, new), out);
                if back.is_some() {
                    // Two files exchanged, or one back and forth.
                    self.doubts.put(old, from.name());
                }
            }
            _ => self.torn(from, to, out),
        }
    }

    /// Takes the halves of a rename each for itself. What goes may hold, as far as is known, the place where it comes to;
    /// then what is known is late, and the rest is told by what follows.
    fn torn(&mut self, from: Seen<'_>, to: Seen<'_>, out: &mut Out<'_>) {
        self.stirred = true;
        if let Some(old) = self.nodes.by_wd(from.record.wd) {
            self.removed(from, old, out);
        }
        if let Some(new) = self.nodes.by_wd(to.record.wd) {
            self.appeared(to, new, out);
        }
    }

    /// Whether an entry that is replaced holds, as far as is known, the directory that the other comes from.
    fn replaces_above(&self, old: Id, new: Id, name: &[u8]) -> bool {
        self.nodes
            .child(new, name)
            .is_some_and(|victim| self.is_below(old, victim))
    }

    /// Whether this node is what an event says has moved.
    fn moves(&self, node: Id, is_dir: bool) -> bool {
        !self.is_fresh(node) && is_dir != self.is_link(node)
    }

    fn file_renamed(&mut self, (from, old): (Seen<'_>, Id), (to, new): (Seen<'_>, Id), out: &mut Out<'_>) {
        let known = self.files.remove(&mut self.nodes, old, from.name());
        let absent = self
            .settle_doubt(old, from.name())
            .is_some_and(|answer| answer != Answer::Present);
        if absent || known.is_none() && self.knows_names(old) {
            return self.appeared(to, new, out);
        }
        let answer = self.settle_doubt(new, to.name());
        let reported = answer == Some(Answer::Present) || self.is_fresh(new) && self.files.contains(new, to.name());
        if reported && self.nodes.child(new, to.name()).is_none() {
            // The session has seen and reported it here.
            self.emit_alone(from, old, out);
            return self.add_link(new, to.name(), out);
        }
        if let Some(victim) = self.nodes.child(new, to.name()) {
            self.drop_subtree(victim);
        }
        if self.knows_names(new) {
            self.files
                .put(&mut self.nodes, new, to.name(), known.unwrap_or(UNKNOWN));
        }
        self.emit_pair((from, old), (to, new), out);
        self.add_link(new, to.name(), out);
    }

    fn relink(&mut self, node: Id, (from, old): (Seen<'_>, Id), (to, new): (Seen<'_>, Id), out: &mut Out<'_>) {
        if self.nodes.root(node) == node || self.is_below(new, node) || !self.nodes.has_room() {
            // No rename does that: the tree is not what it seemed. Or what is new has no room.
            return self.torn(from, to, out);
        }
        let was_wanted = self.nodes.get(node).state != State::Filtered;
        if was_wanted && !self.is_wanted(new, to.name()) {
            return self.torn(from, to, out);
        }
        if let Some(victim) = self.nodes.child(new, to.name())
            && victim != node
        {
            self.drop_subtree(victim);
        }
        // What was looked at there was before this, or is behind it.
        self.settle_doubt(old, from.name());
        self.settle_doubt(new, to.name());
        self.files.remove(&mut self.nodes, new, to.name());
        let known = self.files.remove(&mut self.nodes, old, from.name());
        // What may be a link is a file too.
        if known.is_some() || self.is_link(node) && self.knows_names(new) {
            let known = known.unwrap_or(UNKNOWN);
            self.files.put(&mut self.nodes, new, to.name(), known);
        }
        self.try_roots_behind(node);
        self.emit_pair_around((from, old), (to, new), out, |tracker| {
            tracker.nodes.relink(node, new, to.name());
        });
        self.orphan_within(node);
        self.note_turned(new, to.name());
        if old != new || !self.is_link(node) {
            self.check_links(node);
        }
        // Where it is now it may be reached.
        self.try_forbidden(node);
        if self.manner.filter.is_some() {
            self.refilter(node, out);
        }
    }

    fn emit_pair(&mut self, from: (Seen<'_>, Id), to: (Seen<'_>, Id), out: &mut Out<'_>) {
        self.emit_pair_around(from, to, out, |_| {});
    }

    /// Reports both halves of a rename, each with the paths of its side of it.
    fn emit_pair_around(
        &mut self,
        (from, old): (Seen<'_>, Id),
        (to, new): (Seen<'_>, Id),
        out: &mut Out<'_>,
        rename: impl FnOnce(&mut Self),
    ) {
        let reported = self.wants(Mask::MOVED_TO);
        self.emit(from, old, Extra::default(), out);
        let before = reported.then(|| {
            let dir = out.draft.dir(&mut self.nodes, out.memory, old);
            out.draft.path(dir, from.name())
        });
        rename(self);
        let extra = Extra {
            from: before,
            ..Extra::default()
        };
        self.emit(to, new, extra, out);
    }
}
