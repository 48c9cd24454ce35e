//! A batch of changes: the bytes the kernel wrote, and for each run of events of one directory its path, written once.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::change::Change;
use super::nodes::{Id, Nodes};
use super::read::Read;
use crate::barrier::Barrier;
use crate::decode::{Record, Records};
use crate::error::Error;
use crate::mask::Mask;
use crate::sys::fork::Home;

/// Changes that are delivered together, in order.
///
/// It holds the buffer that the events were read into, as [`EventBatch`](crate::EventBatch) does, and dropping it gives that
/// back: copy what is to be kept with [`Change::to_owned`].
pub struct TreeBatch {
    buffer: Option<Arc<Read>>,
    draft: Draft,
    shelf: Arc<Shelf>,
    instance: u64,
}

/// A piece of text in a draft.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Text {
    start: u32,
    end: u32,
}

/// A path, as it was when it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct DirText {
    path: Text,
    /// Bytes of it that are the root's.
    root: u32,
}

const NOTHING: u32 = u32::MAX;

/// Consecutive records of one directory; or one event that is more than its record, or has none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Where in the buffer the records begin.
    at: u32,
    /// How many they are; 0 if all is in `extra`.
    records: u32,
    dir: u32,
    extra: u32,
}

/// What a record does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extra {
    pub(super) mask: u32,
    pub(super) cookie: u32,
    pub(super) name: Text,
    /// The path it was renamed from.
    pub(super) from: Option<Text>,
    pub(super) moved_out: bool,
    pub(super) scan: bool,
    pub(super) error: Option<u32>,
    pub(super) barrier: Option<u64>,
    pub(super) overtaken: bool,
}

/// Where a directory's path is in a draft, as long as no path has changed.
#[derive(Clone, Copy, Debug, Default)]
struct Remembered {
    id: Id,
    epoch: u64,
    draft: u64,
    dir: u32,
}

/// A batch that is being written. Everything is used again for a later one.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pieces: Vec<Piece>,
    dirs: Vec<DirText>,
    extras: Vec<Extra>,
    errors: Vec<Error>,
    /// Bytes of the paths that these have.
    errors_len: usize,
    text: Vec<u8>,
    len: usize,
    overflows: usize,
}

/// The paths that were written lately, so that events of some directories in turn do not write each again and again.
#[derive(Debug)]
pub(super) struct Memory {
    remembered: Box<[Remembered; Self::SIZE]>,
    draft: u64,
}

impl Memory {
    const SIZE: usize = 256;

    pub(super) fn new() -> Self {
        Self {
            remembered: Box::new([Remembered::default(); Self::SIZE]),
            draft: 0,
        }
    }

    /// A new draft is begun.
    pub(super) fn forget(&mut self) {
        self.draft += 1;
    }
}

impl Draft {
    pub(super) fn text_len(&self) -> usize {
        self.text.len() + self.errors_len + self.extras.len() * size_of::<Extra>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn put(&mut self, text: &[u8]) -> Text {
        let start = self.text.len() as u32;
        self.text.extend(text);
        let end = self.text.len() as u32;
        Text { start, end }
    }

    /// The path of a directory, as it is now.
    pub(super) fn dir(&mut self, nodes: &mut Nodes, memory: &mut Memory, id: Id) -> u32 {
        let slot = &mut memory.remembered[id as usize % Memory::SIZE];
        if slot.id == id && slot.epoch == nodes.epoch && slot.draft == memory.draft {
            return slot.dir;
        }
        let start = self.text.len() as u32;
        let root = nodes.write_path(id, &mut self.text) as u32;
        let end = self.text.len() as u32;
        self.dirs.push(DirText {
            path: Text { start, end },
            root,
        });
        let dir = self.dirs.len() as u32 - 1;
        *slot = Remembered {
            id,
            epoch: nodes.epoch,
            draft: memory.draft,
            dir,
        };
        dir
    }

    /// A path that is no directory's: that of a directory with a name behind it.
    pub(super) fn path(&mut self, dir: u32, name: &[u8]) -> Text {
        let DirText { path, .. } = self.dirs[dir as usize];
        let start = self.text.len() as u32;
        self.text.extend_from_within(path.start as usize..path.end as usize);
        if self.text.last() != Some(&b'/') {
            self.text.push(b'/');
        }
        self.text.extend(name);
        let end = self.text.len() as u32;
        Text { start, end }
    }

    /// The record at this place, of this directory.
    pub(super) fn record(&mut self, at: u32, dir: u32) {
        self.len += 1;
        self.pieces.push(Piece {
            at,
            records: 1,
            dir,
            extra: NOTHING,
        });
    }

    /// One more record, right behind those before.
    pub(super) fn extend_run(&mut self) {
        if let Some(piece) = self.pieces.last_mut() {
            piece.records += 1;
            self.len += 1;
        }
    }

    /// The record at this place, and more about it.
    pub(super) fn record_with(&mut self, at: u32, dir: u32, extra: Extra) {
        let extra = self.keep(extra);
        self.pieces.push(Piece {
            at,
            records: 1,
            dir,
            extra,
        });
    }

    /// An event without a record.
    pub(super) fn made_up(&mut self, dir: Option<u32>, name: &[u8], extra: Extra) {
        let name = self.put(name);
        let extra = self.keep(Extra { name, ..extra });
        self.pieces.push(Piece {
            at: 0,
            records: 0,
            dir: dir.unwrap_or(NOTHING),
            extra,
        });
    }

    fn keep(&mut self, extra: Extra) -> u32 {
        self.len += 1;
        self.extras.push(extra);
        self.extras.len() as u32 - 1
    }

    pub(super) fn overflow(&mut self) {
        self.overflows += 1;
        let mask = Mask::Q_OVERFLOW.bits();
        self.made_up(
            None,
            b"",
            Extra {
                mask,
                ..Extra::default()
            },
        );
    }

    pub(super) fn barrier(&mut self, number: u64, overtaken: bool) {
        let extra = Extra {
            mask: Mask::IGNORED.bits(),
            barrier: Some(number),
            overtaken,
            ..Extra::default()
        };
        self.made_up(None, b"", extra);
    }

    /// Something that can't be covered, said where it is known.
    pub(super) fn error(&mut self, dir: Option<u32>, name: &[u8], mask: Mask, error: Error) {
        self.errors_len += error.path().map_or(0, |path| path.as_os_str().len());
        self.errors.push(error);
        let error = Some(self.errors.len() as u32 - 1);
        let extra = Extra {
            mask: mask.bits(),
            scan: true,
            error,
            ..Extra::default()
        };
        self.made_up(dir, name, extra);
    }

    fn clear(&mut self) {
        self.pieces.clear();
        self.dirs.clear();
        self.extras.clear();
        self.errors.clear();
        self.text.clear();
        (self.len, self.overflows, self.errors_len) = (0, 0, 0);
    }

    fn bytes(&self, text: Text) -> &[u8] {
        &self.text[text.start as usize..text.end as usize]
    }
}

/// Drafts that can be used again.
#[derive(Debug)]
pub(super) struct Shelf {
    home: Home,
    drafts: Mutex<Vec<Draft>>,
}

impl Shelf {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            home: Home::new(),
            drafts: Mutex::default(),
        })
    }

    pub(super) fn take(&self) -> Draft {
        let mut drafts = self.drafts.lock().unwrap_or_else(PoisonError::into_inner);
        drafts.pop().unwrap_or_default()
    }
}

impl TreeBatch {
    pub(super) fn new(buffer: Option<Arc<Read>>, draft: Draft, shelf: &Arc<Shelf>, instance: u64) -> Self {
        Self {
            buffer,
            draft,
            shelf: Arc::clone(shelf),
            instance,
        }
    }

    /// How many changes it has.
    pub fn len(&self) -> usize {
        self.draft.len
    }

    /// Whether it has none. Batches that are delivered have at least one.
    pub fn is_empty(&self) -> bool {
        self.draft.len == 0
    }

    /// Whether the kernel's queue overflowed somewhere in it: see [`Recovery`](super::Recovery) for what follows.
    pub fn overflowed(&self) -> bool {
        self.draft.overflows > 0
    }

    /// Its changes, in order.
    pub fn iter(&self) -> Changes<'_> {
        Changes {
            batch: self,
            records: Records::new(&[]),
            piece: None,
            pieces: self.draft.pieces.iter(),
            left: self.draft.len,
        }
    }
}

impl Drop for TreeBatch {
    fn drop(&mut self) {
        // Not those of consumers that hold many batches at once, nor those of a large scan.
        const KEPT: usize = 8;
        const LARGE: usize = 1 << 20;
        if !self.shelf.home.is_here() {
            return;
        }
        let mut draft = std::mem::take(&mut self.draft);
        draft.clear();
        let mut drafts = self.shelf.drafts.lock().unwrap_or_else(PoisonError::into_inner);
        if drafts.len() < KEPT && draft.text.capacity() < LARGE {
            drafts.push(draft);
        }
    }
}

impl fmt::Debug for TreeBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<'a> IntoIterator for &'a TreeBatch {
    type Item = Change<'a>;
    type IntoIter = Changes<'a>;

    fn into_iter(self) -> Changes<'a> {
        self.iter()
    }
}

/// The changes of a batch, in order.
#[derive(Clone)]
pub struct Changes<'a> {
    batch: &'a TreeBatch,
    records: Records<'a>,
    /// The piece whose records are under way, and how many are left.
    piece: Option<(&'a Piece, u32)>,
    pieces: std::slice::Iter<'a, Piece>,
    left: usize,
}

impl<'a> Iterator for Changes<'a> {
    type Item = Change<'a>;

    #[inline]
    fn next(&mut self) -> Option<Change<'a>> {
        let draft = &self.batch.draft;
        let (piece, left) = match self.piece.take() {
            Some(under_way) => under_way,
            None => {
                let piece = self.pieces.next()?;
                if piece.records > 0 {
                    let bytes = self.batch.buffer.as_ref().map_or(&[][..], |buffer| buffer.filled());
                    self.records = Records::new(bytes.get(piece.at as usize..).unwrap_or_default());
                }
                (piece, piece.records)
            }
        };
        if left > 1 {
            self.piece = Some((piece, left - 1));
        }
        self.left -= 1;
        let extra = draft.extras.get(piece.extra as usize);
        let record = match extra {
            Some(extra) if piece.records == 0 => Record::made_up(
                Mask::from_bits_retain(extra.mask),
                extra.cookie,
                draft.bytes(extra.name),
            ),
            _ => self.records.next()?.ok()?,
        };
        let path = |text| OsStr::from_bytes(draft.bytes(text)).as_ref();
        let dir = draft.dirs.get(piece.dir as usize);
        let barrier = extra.and_then(|extra| extra.barrier);
        Some(Change {
            record,
            dir: dir.map(|dir| path(dir.path)),
            root: dir.map_or(0, |dir| dir.root as usize),
            from: extra.and_then(|extra| extra.from).map(path),
            moved_out: extra.is_some_and(|extra| extra.moved_out),
            scan: extra.is_some_and(|extra| extra.scan),
            error: extra.and_then(|extra| draft.errors.get(extra.error? as usize)),
            barrier: barrier.map(|number| Barrier {
                instance: self.batch.instance,
                number,
            }),
            overtaken: extra.is_some_and(|extra| extra.overtaken),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Changes<'_> {}
impl std::iter::FusedIterator for Changes<'_> {}

impl fmt::Debug for Changes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}
