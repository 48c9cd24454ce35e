//! What a session is to look at.

use std::sync::Arc;

use super::above::Parent;
use super::crawl::Job;
use super::nodes::{Id, LINK, LISTED, NONE, SINGLES, State};
use super::tracker::Tracker;
use crate::sys::dir::Identity;

/// Where a probe is to look: the directory's path and what it is, and the name.
pub(super) struct Probe {
    pub(super) dir: Id,
    pub(super) path: Arc<[u8]>,
    pub(super) identity: Identity,
    pub(super) name: Box<[u8]>,
}

/// Bytes of paths that one session looks at, and of names in doubt.
const MOST_PATHS: usize = if cfg!(test) { 1 << 20 } else { 16 << 20 };

impl Tracker {
    /// What is to be looked at; the rest stays pending if it is so much that paths take more memory than is reasonable.
    pub(super) fn jobs(&mut self) -> Vec<Job> {
        let mut jobs = Vec::new();
        let mut parent: Option<(Id, Arc<Parent>)> = None;
        let mut room = MOST_PATHS;
        let mut pending = std::mem::take(&mut self.pending);
        let mut taken = 0;
        for &id in &pending {
            if room == 0 {
                break;
            }
            taken += 1;
            let node = *self.nodes.get(id);
            if node.flags & LISTED == 0 {
                continue;
            }
            self.nodes.get_mut(id).flags &= !LISTED;
            if node.state != State::Pending {
                continue;
            }
            if node.parent != NONE && parent.as_ref().is_none_or(|(known, _)| *known != node.parent) {
                let found = self.parent(node.parent);
                room = room.saturating_sub(found.path.len());
                parent = Some((node.parent, Arc::new(found)));
            }
            let known = parent.as_ref().filter(|(known, _)| *known == node.parent);
            jobs.push(self.job(id, known.map(|(_, parent)| Arc::clone(parent))));
        }
        pending.drain(..taken);
        for id in self.due_checks() {
            let parent = self.parent(self.nodes.get(id).parent);
            let job = self.job(id, Some(Arc::new(parent)));
            jobs.push(Job { probe: true, ..job });
        }
        // What is left is looked at before a barrier passes.
        self.stirred |= !pending.is_empty();
        self.pending = pending;
        jobs
    }

    fn parent(&mut self, id: Id) -> Parent {
        let mut path = Vec::new();
        let root = self.nodes.write_path(id, &mut path);
        let identity = self.identity(id);
        Parent { path, root, identity }
    }

    pub(super) fn job(&self, id: Id, parent: Option<Arc<Parent>>) -> Job {
        let node = self.nodes.get(id);
        Job {
            singles: (node.flags & SINGLES != 0).then(|| self.singles(id)),
            node: id,
            parent,
            name: self.nodes.name(id).to_vec(),
            probe: node.parent == NONE && self.only_probes(id),
            link: node.flags & LINK != 0,
        }
    }

    pub(super) fn identity(&self, id: Id) -> Identity {
        let (device, inode) = self.nodes.identity(id);
        Identity { device, inode }
    }

    /// What is in doubt, those of one directory behind each other; the rest stays so if it is much.
    pub(super) fn probes(&mut self) -> Vec<Probe> {
        let mut probes: Vec<Probe> = Vec::new();
        let mut room = MOST_PATHS;
        for (dir, name) in self.doubts.open() {
            if room == 0 {
                // It is looked at before a barrier passes.
                self.stirred = true;
                break;
            }
            let path = match probes.last() {
                Some(last) if last.dir == dir => Arc::clone(&last.path),
                _ => {
                    let path = self.nodes.path(dir);
                    room = room.saturating_sub(path.len());
                    path.into()
                }
            };
            room = room.saturating_sub(size_of::<Probe>() + name.len());
            probes.push(Probe {
                dir,
                path,
                identity: self.identity(dir),
                name: name.into(),
            });
        }
        probes
    }
}
