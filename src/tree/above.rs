//! Directories that have others in them which are still to be looked at.
//!
//! However deep a tree is, few of them are open: those that were used last. Another is opened again when it is its turn, by
//! the names that led to it, and only if it is still what it was.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::found::Outcome;
use crate::sys::dir::{Dir, Identity, errno};

/// A directory of the tree, as the crawl needs it that is to look at what is in it.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) path: Vec<u8>,
    /// Bytes of that which are the root's.
    pub(super) root: usize,
    pub(super) identity: Identity,
}

impl Parent {
    /// Its path below its root.
    fn relative(&self) -> &[u8] {
        let below = self.path.get(self.root..).unwrap_or_default();
        let slashes = below.iter().take_while(|&&byte| byte == b'/').count();
        &below[slashes..]
    }
}

/// What directories that are to be looked at have in common.
pub(super) struct Above {
    way: Way,
    dir: Mutex<Option<Arc<Dir>>>,
    /// Their names, each with its NUL.
    names: Box<[u8]>,
    /// Bytes of its path below its root.
    length: usize,
}

/// How the directory is found.
enum Way {
    /// It need not be: a root is known by its whole path.
    Unneeded,
    Path(Arc<Parent>),
    Name {
        above: Arc<Above>,
        name: (usize, usize),
        link: bool,
        identity: Identity,
    },
}

impl Above {
    pub(super) fn of_root(path: &[u8]) -> Self {
        let names = [path, b"\0"].concat().into();
        Self::new(Way::Unneeded, names, 0)
    }

    pub(super) fn of_parent(parent: Arc<Parent>, names: Box<[u8]>) -> Self {
        let length = parent.relative().len();
        Self::new(Way::Path(parent), names, length)
    }

    /// One that was looked at itself: its name in the one above, and what it is.
    pub(super) fn below(
        above: &Arc<Self>,
        name: (usize, usize),
        link: bool,
        identity: Identity,
        names: Box<[u8]>,
    ) -> Self {
        let length = above.length_with(name);
        let above = Arc::clone(above);
        let way = Way::Name {
            above,
            name,
            link,
            identity,
        };
        Self::new(way, names, length)
    }

    fn new(way: Way, names: Box<[u8]>, length: usize) -> Self {
        let dir = Mutex::default();
        Self {
            way,
            dir,
            names,
            length,
        }
    }

    pub(super) fn name(&self, name: (usize, usize)) -> &CStr {
        CStr::from_bytes_with_nul(&self.names[name.0..name.1]).unwrap_or_default()
    }

    fn bytes(&self, name: (usize, usize)) -> &[u8] {
        &self.names[name.0..name.1 - 1]
    }

    /// Bytes that the path of what is in it has below the root.
    pub(super) fn length_with(&self, name: (usize, usize)) -> usize {
        match self.way {
            Way::Unneeded => 0,
            _ => self.length + name.1 - name.0,
        }
    }

    /// Whether those in it are roots.
    pub(super) fn is_unneeded(&self) -> bool {
        matches!(self.way, Way::Unneeded)
    }

    /// Writes the path that an entry has below the root.
    pub(super) fn write_relative(&self, name: (usize, usize), out: &mut Vec<u8>) {
        out.clear();
        let mut names = Vec::new();
        let (mut at, mut name) = (self, name);
        loop {
            match &at.way {
                Way::Unneeded => break,
                Way::Path(parent) => {
                    names.push(at.bytes(name));
                    names.push(parent.relative());
                    break;
                }
                Way::Name { above, name: own, .. } => {
                    names.push(at.bytes(name));
                    (at, name) = (above, *own);
                }
            }
        }
        for name in names.into_iter().rev() {
            join(out, name);
        }
    }

    fn open_dir(&self) -> Option<Arc<Dir>> {
        self.dir.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Goes on along a path.
pub(super) fn join(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend(name);
}

/// A chain of these may be longer than a stack is deep.
impl Drop for Above {
    fn drop(&mut self) {
        let mut way = std::mem::replace(&mut self.way, Way::Unneeded);
        while let Way::Name { above, .. } = way {
            match Arc::into_inner(above) {
                Some(mut above) => way = std::mem::replace(&mut above.way, Way::Unneeded),
                None => return,
            }
        }
    }
}

/// Which directories are open.
#[derive(Default)]
pub(super) struct OpenDirs(Mutex<VecDeque<Weak<Above>>>);

/// Of all threads of a crawl; each has one or two more that it is at work on.
const MOST_OPEN: usize = 128;

impl OpenDirs {
    /// Leaves it open, and has another closed for it if there are too many.
    pub(super) fn keep(&self, above: &Arc<Above>, dir: Arc<Dir>) {
        *above.dir.lock().unwrap_or_else(PoisonError::into_inner) = Some(dir);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.push_back(Arc::downgrade(above));
        let oldest = if open.len() > MOST_OPEN { open.pop_front() } else { None };
        drop(open);
        if let Some(oldest) = oldest.and_then(|oldest| oldest.upgrade()) {
            let closed = oldest.dir.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(closed);
        }
    }

    /// The directory, opened again if need be; by its path only once `come_home` has gone to where that may begin.
    pub(super) fn get(
        &self,
        above: &Arc<Above>,
        come_home: impl FnOnce() -> io::Result<()>,
    ) -> Result<Arc<Dir>, Outcome> {
        if let Some(dir) = above.open_dir() {
            return Ok(dir);
        }
        come_home().map_err(|error| Outcome::Failed(errno(&error)))?;
        // Up to one that is open or has a path, and down again.
        let mut closed: Vec<&Arc<Above>> = Vec::new();
        let mut at = above;
        let mut dir = loop {
            let found = match &at.way {
                Way::Name {
                    above, name, identity, ..
                } if above.is_unneeded() => same(Dir::find(above.name(*name).to_bytes()), *identity)?,
                Way::Path(parent) => same(Dir::find(&parent.path), parent.identity)?,
                Way::Name { above, .. } => {
                    closed.push(at);
                    match above.open_dir() {
                        Some(dir) => break dir,
                        None => at = above,
                    }
                    continue;
                }
                Way::Unneeded => return Err(Outcome::Lost),
            };
            let found = Arc::new(found);
            self.keep(at, Arc::clone(&found));
            break found;
        };
        for above in closed.into_iter().rev() {
            if let Way::Name {
                above: from,
                name,
                link,
                identity,
            } = &above.way
            {
                dir = Arc::new(same(dir.open(from.name(*name), *link), *identity)?);
                self.keep(above, Arc::clone(&dir));
            }
        }
        Ok(dir)
    }
}

/// What was opened, if it is what is expected there.
fn same(opened: io::Result<Dir>, expected: Identity) -> Result<Dir, Outcome> {
    match opened.and_then(|dir| Ok((dir.identity()?, dir))) {
        Ok((identity, dir)) if identity == expected => Ok(dir),
        // It may be there, behind what may not be searched; or there are not enough descriptors to look.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EMFILE | libc::ENFILE)) => {
            Err(Outcome::Failed(errno(&error)))
        }
        _ => Err(Outcome::Lost),
    }
}
