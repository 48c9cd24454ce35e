//! What the tree is, by what was read up to here: the state machine, fed with records in the order of the stream.
//!
//! It makes no system call. Directories that are to be looked at gather in `pending`; a session looks at them, and its
//! findings come back through `session`. While the markers of a session have not passed, an event may be older or newer
//! than what the session saw. Then these hold:
//!
//! - The last event about a name decides whether it is there, for each event is a fact at its place in the stream.
//! - A directory that the session attached under a name stands for that name only as long as no event is about the name;
//!   but for its creation, since before that there was none, so what was found came later. Any other event detaches it,
//!   and if the name is still taken, the next session attaches what is there.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::batch::{Draft, Extra, Memory};
use super::crawl::Manner;
use super::files::{Files, UNKNOWN};
use super::nodes::{ALIAS, CONFIRMED, ENDED, Id, LINK, LISTED, NONE, Nodes, SINGLES, State};
use super::roots::Root;
use super::swaps::{Spot, Swaps};
use crate::decode::Record;
use crate::error::{Error, ErrorKind};
use crate::mask::Mask;

/// One record, and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) record: Record<'a>,
    /// Its place in the buffer of the batch; none if it is in another.
    pub(super) at: Option<u32>,
}

impl<'a> Seen<'a> {
    fn name(&self) -> &'a [u8] {
        self.record.name().map_or(b"", OsStr::as_bytes)
    }

    fn is_dir(&self) -> bool {
        self.record.mask.is_dir()
    }
}

/// What is written to: the batch, and which paths it has.
#[derive(Debug)]
pub(super) struct Out<'a> {
    pub(super) draft: &'a mut Draft,
    pub(super) memory: &'a mut Memory,
}

/// A name that is reported as not being there, and may be all the same.
#[derive(Clone, Debug)]
pub(super) struct Doubt {
    pub(super) dir: Id,
    pub(super) name: Box<[u8]>,
    pub(super) answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nobody has looked.
    Open,
    /// Its directory was not where it was.
    Lost,
    /// This session has found nothing.
    Absent,
    /// This session has found it, and it was reported.
    Present,
}

pub(super) struct Tracker {
    pub(super) nodes: Nodes,
    pub(super) files: Files,
    pub(super) roots: Vec<Root>,
    /// There are directories that are watched for some of their entries only.
    pub(super) has_singles: bool,
    /// Missing roots are waited for.
    pub(super) awaits: bool,
    pub(super) manner: Manner,
    /// What the user wants to hear of.
    pub(super) wanted: Mask,
    /// Files are known at all times.
    pub(super) keeps_files: bool,
    /// The session whose findings and events overlap; 0 if there is none.
    pub(super) session: u16,
    pub(super) last_session: u16,
    /// What is in directories that this session has listed is known by name.
    pub(super) names_known: bool,
    /// Events were lost, and those that are read now are older than the look that finds what they did.
    pub(super) shadow: bool,
    /// Nothing is reported.
    pub(super) silent: bool,
    /// What is found by looking is not reported.
    pub(super) blind: bool,
    /// An event has changed the tree since this session began.
    pub(super) changed: bool,
    /// The session's findings have been found void in part.
    pub(super) stirred: bool,
    pub(super) pending: Vec<Id>,
    pub(super) doubts: Vec<Doubt>,
    /// Pending directories that the session did not find, or not where they were.
    pub(super) left_over: Vec<(Id, super::crawl::Outcome)>,
    pub(super) swaps: Swaps,
    /// Watches that are to be removed, unless they are found on a directory of the tree before.
    pub(super) releasing: VecDeque<i32>,
    pub(super) uncovered: HashMap<Id, Error>,
    /// Watches that have ended since directories were last tried again for which there was no room.
    pub(super) freed: usize,
}

/// Events that say which entries there are.
const ENTRIES: Mask = Mask::CREATE.union(Mask::DELETE).union(Mask::MOVE);

/// What may be caused by listing a directory.
const LOOKS: Mask = Mask::OPEN.union(Mask::ACCESS).union(Mask::CLOSE_NOWRITE);

impl Tracker {
    pub(super) fn new(manner: Manner, wanted: Mask, keeps_files: bool) -> Self {
        Self {
            nodes: Nodes::new(),
            files: Files::default(),
            roots: Vec::new(),
            has_singles: false,
            awaits: false,
            manner,
            wanted,
            keeps_files,
            session: 0,
            last_session: 0,
            names_known: false,
            shadow: false,
            silent: false,
            blind: false,
            changed: false,
            stirred: false,
            pending: Vec::new(),
            doubts: Vec::new(),
            left_over: Vec::new(),
            swaps: Swaps::default(),
            releasing: VecDeque::new(),
            uncovered: HashMap::new(),
            freed: 0,
        }
    }

    /// Whether this record is neither reported in another way than its neighbours nor changes anything, so that it can be
    /// added to a run of its directory.
    pub(super) fn is_plain(&self, mask: Mask) -> bool {
        let follows = self.manner.follow_links && mask.intersects(ENTRIES);
        let special = match self.keeps_files || self.session != 0 || follows || !self.doubts.is_empty() {
            true => ENTRIES,
            false => Mask::MOVE,
        };
        let special = special | Mask::IGNORED | Mask::Q_OVERFLOW | Mask::UNMOUNT | Mask::DELETE_SELF | Mask::MOVE_SELF;
        !self.has_singles && !mask.is_dir() && !mask.intersects(special) && mask.intersects(self.wanted) && !self.silent
    }

    pub(super) fn is_fresh(&self, id: Id) -> bool {
        self.session != 0 && self.nodes.get(id).session == self.session
    }

    /// Whether a file that is not known to be in it is not in it.
    fn knows_names(&self, dir: Id) -> bool {
        self.keeps_files || self.names_known && self.is_fresh(dir)
    }

    fn wants(&self, mask: Mask) -> bool {
        !self.silent && mask.intersects(self.wanted)
    }

    /// A record that is no half of a rename.
    pub(super) fn single(&mut self, seen: Seen<'_>, out: &mut Out<'_>) {
        let Some(dir) = self.nodes.by_wd(seen.record.wd) else {
            return;
        };
        let (mask, name) = (seen.record.mask, seen.name());
        if name.is_empty() {
            return self.about_itself(seen, dir, out);
        }
        if self.nodes.get(dir).flags & SINGLES != 0 {
            return self.about_single(seen, dir, out);
        }
        if mask.intersects(ENTRIES) {
            if self.shadow {
                return;
            }
            self.changed = true;
            return match mask.intersects(Mask::CREATE) {
                true => self.created(seen, dir, out),
                false => self.removed(seen, dir, out),
            };
        }
        if mask.is_dir() && mask.intersects(LOOKS) {
            // The tree's own looks can't be told from those of others.
            return;
        }
        self.emit(seen, dir, Extra::default(), out);
        if mask.contains(Mask::ATTRIB | Mask::ISDIR)
            && let Some(child) = self.nodes.child(dir, name)
        {
            self.try_forbidden(child);
        }
    }

    /// The permissions of a directory are others now: perhaps it can be covered, or what is below it.
    fn try_forbidden(&mut self, top: Id) {
        let forbidden = |(&id, error): (&Id, &Error)| (error.kind() == ErrorKind::PermissionDenied).then_some(id);
        let all: Vec<_> = self.uncovered.iter().filter_map(forbidden).collect();
        let below = all.into_iter().filter(|&id| self.is_below(id, top));
        below.collect::<Vec<_>>().into_iter().for_each(|id| self.look_again(id));
    }

    /// Watches have ended: as many directories are tried again for which there was no room.
    pub(super) fn use_what_was_freed(&mut self) {
        let freed = std::mem::take(&mut self.freed);
        if freed == 0 || self.uncovered.is_empty() {
            return;
        }
        let refused = |(&id, error): (&Id, &Error)| (error.kind() == ErrorKind::WatchLimit).then_some(id);
        let mut refused: Vec<_> = self.uncovered.iter().filter_map(refused).collect();
        // The oldest first, which are often those with most below.
        refused.sort_unstable();
        refused.into_iter().take(freed).for_each(|id| self.look_again(id));
    }

    /// An entry of a directory that is watched for some only.
    fn about_single(&mut self, seen: Seen<'_>, dir: Id, out: &mut Out<'_>) {
        if self.is_single(dir, seen.name()) {
            let moved_out = seen.record.mask.contains(Mask::MOVED_FROM);
            self.emit(
                seen,
                dir,
                Extra {
                    moved_out,
                    ..Extra::default()
                },
                out,
            );
        }
    }

    /// A `MOVED_FROM` whose other half is not in the tree.
    pub(super) fn moved_out(&mut self, seen: Seen<'_>, out: &mut Out<'_>) {
        if let Some(dir) = self.nodes.by_wd(seen.record.wd)
            && !self.shadow
        {
            if self.nodes.get(dir).flags & SINGLES != 0 {
                return self.about_single(seen, dir, out);
            }
            self.changed = true;
            let swap = self.swaps.came_to(Spot::new(dir, seen.name()), seen.record.cookie);
            self.removed(seen, dir, out);
            if swap.is_some() || self.is_fresh(dir) {
                // In and out again, or exchanged with something outside; in a directory that was not watched before, the
                // first half of that was not seen.
                self.open_doubt(dir, seen.name());
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
            let target = Spot::new(dir, seen.name());
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
            && self.nodes.child(old, from.name()).is_none()
            && !self.files.contains(old, from.name())
        {
            self.open_doubt(old, from.name());
        }
    }

    fn both_moved(&mut self, from: Seen<'_>, to: Seen<'_>, out: &mut Out<'_>) {
        let dirs = (self.nodes.by_wd(from.record.wd), self.nodes.by_wd(to.record.wd));
        let whole = |dir: &Id| self.nodes.get(*dir).flags & SINGLES == 0;
        let (Some(old), Some(new)) = (dirs.0.filter(whole), dirs.1.filter(whole)) else {
            self.moved_out(from, out);
            return self.moved_in(to, out);
        };
        if self.shadow {
            return;
        }
        self.changed = true;
        let is_dir = to.is_dir();
        let (source, target) = (Spot::new(old, from.name()), Spot::new(new, to.name()));
        let unsure = self.is_fresh(old) || self.is_fresh(new);
        let victim = unsure || self.nodes.child(new, to.name()).is_some() || self.doubt(new, to.name()).is_some();
        let cookie = to.record.cookie;
        let back = self.swaps.came_to(source, cookie);
        // What came from a third place has nothing to do with this.
        let back = back.filter(|first| first.source.is_none_or(|place| place == target));
        self.swaps.note(Some(source), target, cookie, is_dir, victim);
        let node = self.nodes.child(old, from.name());
        match back {
            Some(first) if unsure || first.source.is_none() || is_dir && first.is_dir && first.victim => {
                // Perhaps two directories were exchanged, or the first was put over an empty one and came back.
                self.torn(from, to, out);
                if let Some(old) = self.nodes.by_wd(from.record.wd) {
                    self.open_doubt(old, from.name());
                }
                return;
            }
            Some(first) if first.is_dir != is_dir && node.is_some() != is_dir => {
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
                    self.open_doubt(old, from.name());
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
        let link = self.nodes.get(node).flags & LINK != 0;
        !self.is_fresh(node) && is_dir != link
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
            let extra = Extra {
                moved_out: true,
                ..Extra::default()
            };
            return self.emit(from, old, extra, out);
        }
        if let Some(victim) = self.nodes.child(new, to.name()) {
            self.drop_subtree(victim);
        }
        if self.knows_names(new) {
            self.files
                .put(&mut self.nodes, new, to.name(), known.unwrap_or(UNKNOWN));
        }
        self.emit_pair((from, old), (to, new), out);
        if self.manner.follow_links {
            self.add(new, to.name(), true);
        }
    }

    fn relink(&mut self, node: Id, (from, old): (Seen<'_>, Id), (to, new): (Seen<'_>, Id), out: &mut Out<'_>) {
        if self.nodes.root(node) == node || self.is_below(new, node) {
            // No rename does that: the tree is not what it seemed.
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
        self.settle_doubt(new, to.name());
        self.files.remove(&mut self.nodes, new, to.name());
        if let Some(known) = self.files.remove(&mut self.nodes, old, from.name()) {
            self.files.put(&mut self.nodes, new, to.name(), known);
        }
        self.emit_pair_around((from, old), (to, new), out, |tracker| {
            tracker.nodes.relink(node, new, to.name());
        });
        if self.manner.filter.is_some() {
            self.refilter(node, out);
        }
    }

    pub(super) fn is_below(&self, mut id: Id, above: Id) -> bool {
        while id != NONE {
            if id == above {
                return true;
            }
            id = self.nodes.get(id).parent;
        }
        false
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

    fn created(&mut self, seen: Seen<'_>, dir: Id, out: &mut Out<'_>) {
        let known = self.nodes.child(dir, seen.name());
        if let Some(child) = known
            && self.is_fresh(child)
            && self.nodes.get(child).flags & CONFIRMED == 0
            && self.nodes.get(child).flags & LINK == 0
            && seen.is_dir()
        {
            self.nodes.get_mut(child).flags |= CONFIRMED;
            return;
        }
        self.appeared(seen, dir, out);
    }

    /// An entry is there now that was not, or was another.
    fn appeared(&mut self, seen: Seen<'_>, dir: Id, out: &mut Out<'_>) {
        let name = seen.name();
        let answer = self.settle_doubt(dir, name);
        let known = self.nodes.child(dir, name);
        if !seen.is_dir() && known.is_none_or(|child| self.nodes.get(child).flags & LINK != 0) {
            let found = answer == Some(Answer::Present) && known.is_none();
            let reported = found || self.is_fresh(dir) && self.files.contains(dir, name);
            if self.knows_names(dir) {
                self.files.put(&mut self.nodes, dir, name, UNKNOWN);
            }
            if !reported {
                self.emit(seen, dir, Extra::default(), out);
            }
            if self.manner.follow_links {
                if let Some(child) = known {
                    self.drop_subtree(child);
                }
                self.add(dir, name, true);
            }
            return;
        }
        let file = self.files.remove(&mut self.nodes, dir, name).is_some() || answer == Some(Answer::Present);
        let kind = if known.is_some_and(|child| self.nodes.get(child).flags & LINK == 0) {
            Mask::ISDIR
        } else {
            Mask::empty()
        };
        if seen.record.mask.contains(Mask::CREATE) && (known.is_some() || file) {
            // What the session has found under this name came later, or went before.
            self.report(dir, name, Mask::DELETE | kind, out);
        }
        if let Some(child) = known {
            self.stirred |= self.is_fresh(child);
            self.drop_subtree(child);
        }
        self.emit(seen, dir, Extra::default(), out);
        if seen.is_dir() {
            self.add(dir, name, false);
        } else if self.knows_names(dir) {
            self.files.put(&mut self.nodes, dir, name, UNKNOWN);
        }
    }

    /// An entry is not there any more.
    fn removed(&mut self, seen: Seen<'_>, dir: Id, out: &mut Out<'_>) {
        let name = seen.name();
        let absent = self
            .settle_doubt(dir, name)
            .is_some_and(|answer| answer != Answer::Present);
        let child = self.nodes.child(dir, name);
        if let Some(child) = child {
            self.stirred |= self.is_fresh(child) && seen.record.mask.contains(Mask::MOVED_FROM);
            self.drop_subtree(child);
        }
        let file = self.files.remove(&mut self.nodes, dir, name);
        if child.is_none() && file.is_none() && (absent || self.knows_names(dir)) {
            // Gone before it was seen.
            return;
        }
        let moved_out = seen.record.mask.contains(Mask::MOVED_FROM);
        self.emit(
            seen,
            dir,
            Extra {
                moved_out,
                ..Extra::default()
            },
            out,
        );
    }

    /// Without a name: about a watched directory.
    fn about_itself(&mut self, seen: Seen<'_>, dir: Id, out: &mut Out<'_>) {
        let mask = seen.record.mask;
        let is_root = self.nodes.get(dir).parent == NONE;
        if mask.contains(Mask::IGNORED) {
            self.nodes.unwatch(dir);
            self.freed += 1;
            if is_root {
                return self.root_gone(dir, "it was deleted or unmounted", out);
            }
            // Its deletion is usually reported next. If not, a session finds what is there.
            self.drop_below(dir);
            self.nodes.get_mut(dir).session = 0;
            self.look_again(dir);
            self.nodes.get_mut(dir).flags |= ENDED;
            return;
        }
        // Of other directories, the entry in the one above tells the same.
        if is_root && !mask.intersects(LOOKS) || mask.contains(Mask::UNMOUNT) {
            self.emit(seen, dir, Extra::default(), out);
        }
        if is_root && mask.contains(Mask::MOVE_SELF) && !self.shadow {
            self.root_gone(dir, "it was renamed, and its path is not known any more", out);
        }
    }

    /// A root is not where it was.
    pub(super) fn root_gone(&mut self, root: Id, why: &'static str, out: &mut Out<'_>) {
        self.changed = true;
        let wd = self.nodes.unwatch(root);
        if wd != 0 {
            self.releasing.push_back(wd);
        }
        self.drop_below(root);
        let path = self.nodes.path(root);
        let error = Error::text(ErrorKind::NotFound, "watch root", why)
            .at(Path::new(OsStr::from_bytes(&path)))
            .mended_by("add it again, or let missing roots be awaited");
        self.nodes.get_mut(root).state = State::Uncovered;
        self.say_uncovered(root, error, out);
        let awaits = self.awaits;
        for known in self.roots.iter_mut().filter(|known| known.node == root) {
            known.awaited = awaits;
        }
    }

    /// A directory lost its watch and nobody said why: it is taken for another.
    pub(super) fn unsettle(&mut self, dir: Id, out: &mut Out<'_>) {
        let wd = self.nodes.unwatch(dir);
        if wd != 0 {
            self.releasing.push_back(wd);
        }
        self.drop_below(dir);
        let (parent, name) = (self.nodes.get(dir).parent, self.nodes.name(dir).to_vec());
        self.report(parent, &name, Mask::DELETE | Mask::ISDIR, out);
        self.report(parent, &name, Mask::CREATE | Mask::ISDIR, out);
        self.nodes.get_mut(dir).session = 0;
        self.look_again(dir);
    }

    /// Reports a record, if it is wanted.
    pub(super) fn emit(&mut self, seen: Seen<'_>, dir: Id, extra: Extra, out: &mut Out<'_>) {
        let Record { mask, cookie, .. } = seen.record;
        let unmounted = mask.contains(Mask::UNMOUNT) && !self.silent;
        if !self.wants(mask) && !unmounted {
            return;
        }
        let dir = out.draft.dir(&mut self.nodes, out.memory, dir);
        let plain = extra.from.is_none() && !extra.moved_out;
        match seen.at {
            Some(at) if plain => out.draft.record(at, dir),
            Some(at) => out.draft.record_with(at, dir, extra),
            None => {
                let mask = mask.bits();
                out.draft
                    .made_up(Some(dir), seen.name(), Extra { mask, cookie, ..extra });
            }
        }
    }

    /// Reports what was found by looking, if it is wanted.
    pub(super) fn report(&mut self, dir: Id, name: &[u8], mask: Mask, out: &mut Out<'_>) {
        if self.wants(mask) && !self.blind {
            let dir = out.draft.dir(&mut self.nodes, out.memory, dir);
            let extra = Extra {
                mask: mask.bits(),
                scan: true,
                ..Extra::default()
            };
            out.draft.made_up(Some(dir), name, extra);
        }
    }

    pub(super) fn say_uncovered(&mut self, id: Id, error: Error, out: &mut Out<'_>) {
        let before = self.uncovered.insert(id, error.clone());
        let is_new = before.is_none_or(|before| before.kind() != error.kind());
        if !self.silent && is_new {
            let parent = self.nodes.get(id).parent;
            let name = self.nodes.name(id).to_vec();
            let (dir, name) = if parent == NONE {
                (id, Vec::new())
            } else {
                (parent, name)
            };
            let dir = out.draft.dir(&mut self.nodes, out.memory, dir);
            out.draft.error(Some(dir), &name, Mask::ISDIR, error);
        }
    }

    /// A directory is known from now on, and to be looked at if it is wanted.
    fn add(&mut self, dir: Id, name: &[u8], link: bool) {
        let wanted = self.is_wanted(dir, name);
        let Some(id) = self.nodes.add(dir, name) else { return };
        if link {
            self.nodes.get_mut(id).flags |= LINK;
        }
        match wanted {
            true => self.look_again(id),
            false => self.nodes.get_mut(id).state = State::Filtered,
        }
    }

    /// What was said of it stands until this was done.
    pub(super) fn look_again(&mut self, id: Id) {
        let wd = self.nodes.unwatch(id);
        if wd != 0 {
            // It could not be listed, and what is watched is not listed again.
            self.releasing.push_back(wd);
        }
        let node = self.nodes.get_mut(id);
        node.state = State::Pending;
        if node.flags & LISTED == 0 {
            node.flags = (node.flags | LISTED) & !ALIAS;
            self.pending.push(id);
        }
    }

    pub(super) fn doubt(&self, dir: Id, name: &[u8]) -> Option<usize> {
        self.doubts
            .iter()
            .position(|doubt| doubt.dir == dir && *doubt.name == *name)
    }

    /// Whether a name is taken is to be looked at.
    fn open_doubt(&mut self, dir: Id, name: &[u8]) {
        self.settle_doubt(dir, name);
        let (name, answer) = (name.into(), Answer::Open);
        self.doubts.push(Doubt { dir, name, answer });
    }

    /// An event says how it is. Answers what was known before, if it was in doubt.
    fn settle_doubt(&mut self, dir: Id, name: &[u8]) -> Option<Answer> {
        if self.doubts.is_empty() {
            return None;
        }
        let place = self.doubt(dir, name)?;
        Some(self.doubts.swap_remove(place).answer)
    }

    /// The path of an entry below its root.
    pub(super) fn relative(&mut self, dir: Id, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::new();
        let root = self.nodes.write_path(dir, &mut path);
        if !name.is_empty() {
            path.push(b'/');
            path.extend(name);
        }
        let below = &path[root.min(path.len())..];
        let slashes = below.iter().take_while(|&&byte| byte == b'/').count();
        below[slashes..].to_vec()
    }

    pub(super) fn is_wanted(&mut self, dir: Id, name: &[u8]) -> bool {
        let Some(filter) = self.manner.filter.clone() else {
            return true;
        };
        let relative = self.relative(dir, name);
        filter(Path::new(OsStr::from_bytes(&relative)))
    }

    /// Asks the filter again for all below a directory, whose paths are others now.
    pub(super) fn refilter(&mut self, top: Id, out: &mut Out<'_>) {
        let mut stack = vec![top];
        while let Some(id) = stack.pop() {
            let parent = self.nodes.get(id).parent;
            if parent != NONE {
                let name = self.nodes.name(id).to_vec();
                let wanted = self.is_wanted(parent, &name);
                let was_wanted = self.nodes.get(id).state != State::Filtered;
                if wanted && !was_wanted {
                    self.look_again(id);
                } else if !wanted && was_wanted {
                    self.unsettle(id, out);
                    self.nodes.get_mut(id).state = State::Filtered;
                    self.uncovered.remove(&id);
                    continue;
                }
            }
            stack.extend(self.nodes.children(id));
        }
    }

    /// Forgets a directory and all below, and lets their watches go.
    pub(super) fn drop_subtree(&mut self, top: Id) {
        self.drop_below(top);
        self.forget(top);
    }

    pub(super) fn drop_below(&mut self, top: Id) {
        let mut at = top;
        loop {
            let child = self.nodes.get(at).first_child;
            if child != NONE {
                at = child;
                continue;
            }
            self.files.remove_all(&mut self.nodes, at);
            if at == top {
                return;
            }
            let parent = self.nodes.get(at).parent;
            self.forget(at);
            at = parent;
        }
    }

    fn forget(&mut self, id: Id) {
        self.doubts.retain(|doubt| doubt.dir != id);
        self.uncover_within(id);
        self.uncovered.remove(&id);
        let wd = self.nodes.remove(id);
        if wd != 0 {
            self.releasing.push_back(wd);
        }
    }
}
