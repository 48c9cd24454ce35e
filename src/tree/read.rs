//! What was read at once: in the buffer it was read into, or copied out of it.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sys::pool::Buffer;

/// Records, and how they are kept.
#[derive(Debug)]
pub(super) enum Read {
    /// Where they were read to.
    Pooled(Buffer),
    /// A copy, so that the buffer can be read into again.
    Copied(Copied),
}

/// A copy, which is part of a sum as long as it is there.
#[derive(Debug)]
pub(super) struct Copied {
    bytes: Box<[u8]>,
    sum: Arc<AtomicUsize>,
}

impl Read {
    /// A copy of what was read. `sum` is that of all copies, in bytes.
    pub(super) fn copy(&self, sum: &Arc<AtomicUsize>) -> Self {
        let copied = Copied {
            bytes: self.filled().into(),
            sum: Arc::clone(sum),
        };
        sum.fetch_add(copied.size(), Ordering::Relaxed);
        Self::Copied(copied)
    }

    pub(super) fn is_pooled(&self) -> bool {
        matches!(self, Self::Pooled(_))
    }

    /// The records.
    pub(super) fn filled(&self) -> &[u8] {
        match self {
            Self::Pooled(buffer) => buffer.filled(),
            Self::Copied(copied) => &copied.bytes,
        }
    }
}

impl Copied {
    fn size(&self) -> usize {
        mem::size_of::<Read>() + self.bytes.len()
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.size(), Ordering::Relaxed);
    }
}
