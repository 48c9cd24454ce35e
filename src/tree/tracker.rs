//! What the tree is, by what was read up to here: the state machine, fed with records in the order of the stream.
//!
//! It makes no system call but to find out where roots are (`roots`, `inner_roots`, `displaced`). Directories that are to be
//! looked at gather in `pending`; a session looks at them, and its findings come back through `session`. While the markers of a session have not passed, an event may be older or newer
//! than what the session saw. Then these hold:
//!
//! - The last event about a name decides whether it is there, for each event is a fact at its place in the stream.
//! - A directory that the session attached under a name stands for that name only as long as no event is about the name;
//!   but for its creation, since before that there was none, so what was found came later. Any other event detaches it,
//!   and if the name is still taken, the next session attaches what is there.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::batch::{Draft, Extra, Memory};
use super::crawl::Manner;
use super::doubts::{Answer, Doubts};
use super::files::{Files, UNKNOWN};
use super::nodes::{CONFIRMED, ENDED, Id, LINK, NONE, Nodes, SINGLES, State, UNLISTED};
use super::roots::Root;
use super::spill::Spill;
use super::swaps::Swaps;
use crate::decode::Record;
use crate::error::Error;
use crate::mask::Mask;

/// One record, and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) record: Record<'a>,
    /// Its place in the buffer of the batch; none if it is in another.
    pub(super) at: Option<u32>,
}

impl<'a> Seen<'a> {
    pub(super) fn name(&self) -> &'a [u8] {
        self.record.name().map_or(b"", OsStr::as_bytes)
    }

    pub(super) fn is_dir(&self) -> bool {
        self.record.mask.is_dir()
    }
}

/// What is written to: the batch, and which paths it has.
pub(super) struct Out<'a> {
    pub(super) draft: &'a mut Draft,
    pub(super) memory: &'a mut Memory,
    /// Takes a batch that is full. None where few changes come together.
    pub(super) spill: Option<Spill<'a>>,
}

impl Out<'_> {
    /// Hands on what is full, however much the consumer has not taken.
    pub(super) fn never_wait(&mut self) {
        if let Some(spill) = &mut self.spill {
            spill.waker = None;
        }
    }

    /// To be called between any two changes, where many come together: hands on what there is, if it is enough.
    pub(super) fn spare(&mut self) {
        if let Some(spill) = &mut self.spill
            && spill.take(self.draft)
        {
            self.memory.forget();
        }
    }
}

pub(super) struct Tracker {
    pub(super) nodes: Nodes,
    pub(super) files: Files,
    pub(super) roots: Vec<Root>,
    /// There are directories that are watched for some of their entries only.
    pub(super) has_singles: bool,
    /// Entries of directories that are watched for some only, which are directories now.
    pub(super) turned: BTreeSet<(Id, Box<[u8]>)>,
    /// There are roots in one another, or were.
    pub(super) is_nested: bool,
    /// There may be roots at which something was left.
    pub(super) has_left: bool,
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
    /// Something was mounted or unmounted since this session began, or shortly before.
    pub(super) remounted: bool,
    /// Directories on another file system than the one above them, and some that were.
    pub(super) crossings: HashSet<Id>,
    pub(super) pending: Vec<Id>,
    /// Links that were looked at, and some that are no more.
    pub(super) links: HashSet<Id>,
    /// Links that are followed, and may lead elsewhere since they were moved.
    pub(super) checks: Vec<Id>,
    /// Links that were found to lead elsewhere, or to no directory.
    pub(super) strayed: Vec<Id>,
    /// What is not covered since it is under another path, and the watch it has there.
    pub(super) aliases: HashMap<Id, i32>,
    pub(super) doubts: Doubts,
    /// Pending directories that the session did not find, or not where they were.
    pub(super) left_over: Vec<(Id, super::found::Outcome)>,
    pub(super) swaps: Swaps,
    /// Watches that are to be removed, unless they are found on a directory of the tree before.
    pub(super) releasing: VecDeque<i32>,
    pub(super) uncovered: HashMap<Id, Error>,
    /// Those of them for which permissions were wanting, and some that are covered since.
    pub(super) denied: BTreeSet<Id>,
    /// Directories of which more is to be remembered than there is room for.
    pub(super) overfull: Vec<Id>,
    /// Watches that have ended since directories were last tried again for which there was no room.
    pub(super) freed: usize,
}

/// Events that say which entries there are.
pub(super) const ENTRIES: Mask = Mask::CREATE.union(Mask::DELETE).union(Mask::MOVE);

/// What may be caused by listing a directory.
const LOOKS: Mask = Mask::OPEN.union(Mask::ACCESS).union(Mask::CLOSE_NOWRITE);

impl Tracker {
    pub(super) fn new(manner: Manner, wanted: Mask, keeps_files: bool) -> Self {
        Self {
            nodes: Nodes::new(),
            files: Files::default(),
            roots: Vec::new(),
            has_singles: false,
            turned: BTreeSet::new(),
            is_nested: false,
            has_left: false,
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
            remounted: false,
            crossings: HashSet::new(),
            pending: Vec::new(),
            links: HashSet::new(),
            checks: Vec::new(),
            strayed: Vec::new(),
            aliases: HashMap::new(),
            doubts: Doubts::default(),
            left_over: Vec::new(),
            swaps: Swaps::default(),
            releasing: VecDeque::new(),
            uncovered: HashMap::new(),
            denied: BTreeSet::new(),
            overfull: Vec::new(),
            freed: 0,
        }
    }

    /// Whether this record is neither reported in another way than its neighbours nor changes anything, so that it can be
    /// added to a run of its directory.
    pub(super) fn is_plain(&self, mask: Mask) -> bool {
        let follows = self.manner.follow_links && mask.intersects(ENTRIES);
        let special =
            match self.keeps_files || self.session != 0 || follows || self.is_nested || !self.doubts.is_empty() {
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
    pub(super) fn knows_names(&self, dir: Id) -> bool {
        let listed = || self.is_fresh(dir) && self.nodes.get(dir).flags & UNLISTED == 0;
        self.keeps_files || self.names_known && listed()
    }

    pub(super) fn wants(&self, mask: Mask) -> bool {
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
            self.told_of(seen, dir);
            self.unseat(mask, dir, name, out);
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

    pub(super) fn is_below(&self, mut id: Id, above: Id) -> bool {
        while id != NONE {
            if id == above {
                return true;
            }
            id = self.nodes.get(id).parent;
        }
        false
    }

    fn created(&mut self, seen: Seen<'_>, dir: Id, out: &mut Out<'_>) {
        let known = self.nodes.child(dir, seen.name());
        if let Some(child) = known
            && self.is_fresh(child)
            && self.nodes.get(child).flags & CONFIRMED == 0
            && self.is_link(child) != seen.is_dir()
        {
            self.nodes.get_mut(child).flags |= CONFIRMED;
            return;
        }
        self.appeared(seen, dir, out);
    }

    /// An entry is there now that was not, or was another.
    pub(super) fn appeared(&mut self, seen: Seen<'_>, dir: Id, out: &mut Out<'_>) {
        let name = seen.name();
        let answer = self.settle_doubt(dir, name);
        let known = self.nodes.child(dir, name);
        if !seen.is_dir() && known.is_none_or(|child| self.nodes.get(child).flags & LINK != 0) {
            let found = answer == Some(Answer::Present) && known.is_none();
            let reported = found || self.is_fresh(dir) && self.files.contains(dir, name);
            let followed = known.is_some_and(|child| self.is_followed(child));
            if self.knows_names(dir) {
                self.files.put(&mut self.nodes, dir, name, UNKNOWN);
            }
            if followed && seen.record.mask.contains(Mask::CREATE) {
                self.report(dir, name, Mask::DELETE, out);
            }
            if !reported || followed {
                self.emit(seen, dir, Extra::default(), out);
            }
            if let Some(child) = known {
                self.stirred |= self.is_fresh(child);
                self.drop_subtree(child);
            }
            self.add_link(dir, name, out);
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
            self.add(dir, name, false, out);
            return;
        }
        if self.knows_names(dir) {
            self.files.put(&mut self.nodes, dir, name, UNKNOWN);
        }
        self.add_link(dir, name, out);
    }

    /// Something is there now that is no directory, and may be a link to one.
    pub(super) fn add_link(&mut self, dir: Id, name: &[u8], out: &mut Out<'_>) {
        if self.manner.follow_links {
            self.add(dir, name, true, out);
        }
    }

    /// An entry is not there any more.
    pub(super) fn removed(&mut self, seen: Seen<'_>, dir: Id, out: &mut Out<'_>) {
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
        self.emit_alone(seen, dir, out);
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
            if self.is_link(dir) {
                return self.leads_elsewhere(dir, out);
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
        let is_link = self.is_link(dir);
        if (is_root || is_link) && mask.contains(Mask::ATTRIB) {
            self.try_forbidden(dir);
        }
        if mask.contains(Mask::MOVE_SELF) && !self.shadow {
            self.try_aliases_of(seen.record.wd);
            if is_root {
                self.root_gone(dir, "it was renamed, and its path is not known any more", out);
            } else if is_link {
                self.leads_elsewhere(dir, out);
            } else {
                // It has perhaps left where a root is that was found to be covered here.
                self.uncover_within(dir);
            }
        }
    }

    /// Reports a record that stands for itself: of a rename, what left the tree.
    pub(super) fn emit_alone(&mut self, seen: Seen<'_>, dir: Id, out: &mut Out<'_>) {
        let extra = Extra {
            moved_out: seen.record.mask.contains(Mask::MOVED_FROM),
            ..Extra::default()
        };
        self.emit(seen, dir, extra, out);
    }

    /// Reports a record, if it is wanted.
    pub(super) fn emit(&mut self, seen: Seen<'_>, dir: Id, extra: Extra, out: &mut Out<'_>) {
        let Record { mask, cookie, .. } = seen.record;
        let unmounted = mask.contains(Mask::UNMOUNT) && !self.silent;
        if !self.wants(mask) && !unmounted {
            return;
        }
        let dir = self.told_under(dir, seen.name());
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
            let dir = self.told_under(dir, name);
            let dir = out.draft.dir(&mut self.nodes, out.memory, dir);
            let extra = Extra {
                mask: mask.bits(),
                scan: true,
                ..Extra::default()
            };
            out.draft.made_up(Some(dir), name, extra);
        }
    }

    /// A directory is known from now on, and to be looked at if it is wanted.
    pub(super) fn add(&mut self, dir: Id, name: &[u8], link: bool, out: &mut Out<'_>) {
        let wanted = self.is_wanted(dir, name);
        let Some(id) = self.nodes.add(dir, name) else {
            self.overfull.push(dir);
            return self.lay_down_overfull(out);
        };
        self.note_turned(dir, name);
        if link {
            self.nodes.get_mut(id).flags |= LINK;
        }
        match wanted {
            true => self.look_again(id),
            false => self.nodes.get_mut(id).state = State::Filtered,
        }
    }

    /// An event says how it is. Answers what was known before, if it was in doubt.
    pub(super) fn settle_doubt(&mut self, dir: Id, name: &[u8]) -> Option<Answer> {
        let answer = self.doubts.remove(dir, name)?;
        if answer == Answer::Forbidden && self.doubts.forbidden(dir) == 0 && self.nodes.get(dir).state == State::Watched
        {
            self.uncovered.remove(&dir);
        }
        Some(answer)
    }

    /// Forgets a directory and all below, and lets their watches go.
    pub(super) fn drop_subtree(&mut self, top: Id) {
        self.try_roots_behind(top);
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
                // Whatever is in it then is found by listing it, and is not to be found once more.
                return self.doubts.remove_all(top);
            }
            let parent = self.nodes.get(at).parent;
            self.forget(at);
            at = parent;
        }
    }

    pub(super) fn forget(&mut self, id: Id) {
        self.doubts.remove_all(id);
        self.uncover_within(id);
        self.uncovered.remove(&id);
        self.aliases.remove(&id);
        let wd = self.nodes.remove(id);
        if wd != 0 {
            self.releasing.push_back(wd);
        }
    }
}
