//! A batch: one buffer the kernel filled, its records found and resolved.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::decode::{Malformed, Record, Records};
use crate::event::Event;
use crate::mask::Mask;
use crate::sys::pool::Buffer;
use crate::table::{Subject, Table};

/// Events that were read together, in the order they happened.
///
/// It owns the buffer they were read into, and dropping it gives the buffer back. Buffers are all the memory events may
/// take ([`Builder::buffers`](crate::Builder::buffers)), so whoever keeps batches keeps events from being read; copy
/// what is to be kept with [`Event::to_owned`].
pub struct EventBatch {
    buffer: Buffer,
    /// Bytes of the buffer that are well-formed records.
    end: usize,
    runs: Runs,
    len: usize,
    overflows: usize,
    instance: u64,
}

/// Consecutive records with one subject.
#[derive(Debug)]
struct Run {
    /// None for an event that shares the record of the one behind it.
    records: usize,
    subject: Subject,
}

/// The runs of one batch. The list goes back to its shelf with the batch, so a new one allocates nothing.
struct Runs {
    list: Vec<Run>,
    shelf: Arc<Shelf>,
}

/// Empty lists of runs, ready for use.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<Vec<Vec<Run>>>);

impl Shelf {
    fn take(self: &Arc<Self>) -> Runs {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.list.clear();
        let list = std::mem::take(&mut self.list);
        let mut lists = self.shelf.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lists.len() < KEPT {
            lists.push(list);
        }
    }
}

impl EventBatch {
    /// Finds and resolves the records of a filled buffer. If one is malformed, the batch ends before it.
    pub(crate) fn resolve(
        buffer: Buffer,
        table: &Table,
        shelf: &Arc<Shelf>,
        instance: u64,
    ) -> (Self, Option<Malformed>) {
        let mut batch = Self {
            end: buffer.filled().len(),
            buffer,
            runs: shelf.take(),
            len: 0,
            overflows: 0,
            instance,
        };
        let mut records = Records::new(batch.buffer.filled());
        let mut resolver = table.resolve();
        let runs = &mut batch.runs.list;
        let mut run_wd = None;
        loop {
            let start = records.offset();
            let record = match records.next() {
                None => return (batch, None),
                Some(Err(malformed)) => {
                    batch.end = start;
                    return (batch, Some(malformed));
                }
                Some(Ok(record)) => record,
            };
            batch.len += 1;
            if Some(record.wd) == run_wd
                && !record.mask.intersects(TURNING_POINTS)
                && let Some(run) = runs.last_mut()
            {
                run.records += 1;
                continue;
            }
            while let Some(subject) = resolver.overtaken_by(record.wd, record.mask) {
                batch.len += usize::from(!matches!(subject, Subject::Stale));
                runs.push(Run { records: 0, subject });
            }
            let (subject, table) = resolver.resolve(record.wd, record.mask);
            resolver = table;
            batch.overflows += usize::from(record.mask.contains(Mask::Q_OVERFLOW));
            batch.len -= usize::from(matches!(subject, Subject::Stale));
            run_wd = matches!(subject, Subject::Watch(_)).then_some(record.wd);
            runs.push(Run { records: 1, subject });
        }
    }

    /// How many events it has.
    pub fn len(&self) -> usize {
        self.len
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

    pub(crate) fn overflows(&self) -> usize {
        self.overflows
    }

    /// Its events, in order.
    pub fn iter(&self) -> Iter<'_> {
        Iter {
            records: Records::new(&self.buffer.filled()[..self.end]),
            subject: &Subject::Stale,
            in_run: 0,
            runs: self.runs.list.iter(),
            left: self.len,
            instance: self.instance,
        }
    }
}

/// Events at which the table changes, or which are not what their descriptor says.
const TURNING_POINTS: Mask = Mask::IGNORED.union(Mask::Q_OVERFLOW);

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
    in_run: usize,
    runs: std::slice::Iter<'a, Run>,
    left: usize,
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
                return self.records.clone().next()?.ok();
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
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Iter<'_> {}
impl std::iter::FusedIterator for Iter<'_> {}

impl fmt::Debug for Iter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}
