//! A batch: one buffer the kernel filled, its records found and resolved.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::decode::{Malformed, Record, Records};
use crate::event::Event;
use crate::mask::Mask;
use crate::sys::fork::Home;
use crate::sys::pool::Buffer;
use crate::table::{Resolver, Subject, TURNING_POINTS};

/// Events that were read together, in the order they happened.
///
/// It owns the buffer they were read into, and dropping it gives the buffer back. Buffers are all the memory events may
/// take ([`Builder::buffers`](crate::Builder::buffers)), so whoever keeps batches keeps events from being read; copy
/// what is to be kept with [`Event::to_owned`].
pub struct EventBatch {
    buffer: Buffer,
    instance: u64,
    /// Bytes of the buffer that are well-formed records; like all that counts in a buffer, below 2^32.
    end: u32,
    len: u32,
    overflows: u32,
    first: Run,
    /// The runs behind the first. Most batches have none.
    more: Option<Runs>,
}

/// Consecutive records with one subject.
#[derive(Debug)]
struct Run {
    subject: Subject,
    /// 0 for an event that shares the record of the one behind it.
    records: u32,
}

/// A list of runs. It goes back to its shelf with its batch, so the next one allocates nothing.
struct Runs {
    list: Vec<Run>,
    shelf: Arc<Shelf>,
}

/// Empty lists of runs, ready for use.
#[derive(Debug)]
pub(crate) struct Shelf {
    home: Home,
    lists: Mutex<Vec<Vec<Run>>>,
}

impl Shelf {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            home: Home::new(),
            lists: Mutex::default(),
        })
    }

    fn take(self: &Arc<Self>) -> Runs {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        Runs {
            list: lists.pop().unwrap_or_default(),
            shelf: Arc::clone(self),
        }
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        // Lists of consumers that hold many batches at once are not all kept.
        const KEPT: usize = 8;
        if !self.shelf.home.is_here() {
            return;
        }
        self.list.clear();
        let list = std::mem::take(&mut self.list);
        let mut lists = self.shelf.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if lists.len() < KEPT {
            lists.push(list);
        }
    }
}

impl EventBatch {
    /// Finds and resolves the records of a filled buffer. If one is malformed, the batch ends before it.
    pub(crate) fn resolve(
        buffer: Buffer,
        mut resolver: Resolver<'_>,
        shelf: &Arc<Shelf>,
        instance: u64,
    ) -> (Self, Option<Malformed>) {
        let mut records = Records::new(buffer.filled());
        let mut first = Run {
            subject: Subject::Stale,
            records: 0,
        };
        let mut more: Option<Runs> = None;
        let (mut len, mut overflows) = (0, 0);
        let mut run_wd = None;
        let (end, malformed) = loop {
            let start = records.offset();
            let record = match records.next() {
                None => break (start, None),
                Some(Err(malformed)) => break (start, Some(malformed)),
                Some(Ok(record)) => record,
            };
            len += 1;
            if Some(record.wd) == run_wd && !record.mask.intersects(TURNING_POINTS) {
                let last = more.as_mut().and_then(|more| more.list.last_mut());
                last.unwrap_or(&mut first).records += 1;
                continue;
            }
            let mut is_first = start == 0;
            let mut push = |run| more.get_or_insert_with(|| shelf.take()).list.push(run);
            while let Some(subject) = resolver.overtaken_by(record.wd, record.mask) {
                len += u32::from(!matches!(subject, Subject::Stale));
                push(Run { subject, records: 0 });
                is_first = false;
            }
            let subject = resolver.resolve(record.wd, record.mask);
            overflows += u32::from(record.mask.contains(Mask::Q_OVERFLOW));
            len -= u32::from(matches!(subject, Subject::Stale));
            run_wd = matches!(subject, Subject::Watch(_)).then_some(record.wd);
            let run = Run { subject, records: 1 };
            match is_first {
                true => first = run,
                false => push(run),
            }
        };
        drop(resolver);
        let batch = Self {
            buffer,
            instance,
            end: end as u32,
            len,
            overflows,
            first,
            more,
        };
        (batch, malformed)
    }

    /// How many events it has.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it has none. Batches that are delivered have at least one.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the kernel's queue overflowed somewhere in it: events were lost where the event with
    /// [`Q_OVERFLOW`](Mask::Q_OVERFLOW) stands.
    pub fn overflowed(&self) -> bool {
        self.overflows > 0
    }

    pub(crate) fn overflows(&self) -> u32 {
        self.overflows
    }

    /// Its events, in order.
    #[inline]
    pub fn iter(&self) -> Iter<'_> {
        let more = self.more.as_ref().map_or(&[][..], |more| &more.list);
        Iter {
            records: Records::new(&self.buffer.filled()[..self.end as usize]),
            subject: &self.first.subject,
            in_run: self.first.records,
            runs: more.iter(),
            left: self.len,
            instance: self.instance,
        }
    }
}

impl fmt::Debug for EventBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<'a> IntoIterator for &'a EventBatch {
    type Item = Event<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// The events of a batch, in order.
#[derive(Clone)]
pub struct Iter<'a> {
    records: Records<'a>,
    subject: &'a Subject,
    /// Records that are left of the current run.
    in_run: u32,
    runs: std::slice::Iter<'a, Run>,
    left: u32,
    instance: u64,
}

impl<'a> Iter<'a> {
    /// The next record, and its subject in `self.subject`.
    #[inline]
    fn next_record(&mut self) -> Option<Record<'a>> {
        if self.in_run == 0 {
            let run = self.runs.next()?;
            self.subject = &run.subject;
            if run.records == 0 {
                // It is as if its own marker had come.
                let mut record = self.records.clone().next()?.ok()?;
                record.mask = Mask::IGNORED;
                return Some(record);
            }
            self.in_run = run.records;
        }
        self.in_run -= 1;
        self.records.next()?.ok()
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = Event<'a>;

    #[inline]
    fn next(&mut self) -> Option<Event<'a>> {
        loop {
            let record = self.next_record()?;
            if matches!(self.subject, Subject::Stale) {
                continue;
            }
            self.left -= 1;
            return Some(Event {
                record,
                subject: self.subject,
                instance: self.instance,
            });
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Iter<'_> {}
impl std::iter::FusedIterator for Iter<'_> {}

impl fmt::Debug for Iter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}
