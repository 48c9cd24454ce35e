//! Markers in the event stream.

use std::collections::VecDeque;
use std::io;

use crate::sys::inotify::{InotifyFd, Marker};

/// A mark set in the event stream by [`Inotify::barrier`](crate::Inotify::barrier).
///
/// It arrives as an event whose [`barrier`](crate::Event::barrier) equals it, behind everything that was queued before the
/// call, and ahead of everything queued after it. If the kernel's queue overflows and drops it, it arrives all the same,
/// behind the overflow, and the event [says so](crate::Event::is_overtaken); also while more is caused than is taken, so that the
/// queue is full each time.
///
/// ```
/// use ringwatch::{Inotify, Mask};
///
/// let dir = std::env::temp_dir();
/// let inotify = Inotify::new()?;
/// inotify.add_watch(&dir, Mask::CREATE)?;
/// let mut reader = inotify.reader()?;
/// let barrier = inotify.barrier()?;
/// 'all: while let Some(batch) = reader.wait() {
///     for event in &batch? {
///         if event.barrier() == Some(barrier) {
///             break 'all; // all that happened in `dir` before the call has been delivered
///         }
///     }
/// }
/// # Ok::<(), ringwatch::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Barrier {
    pub(crate) instance: u64,
    pub(crate) number: u64,
}

/// The barriers of an instance that were set and have not arrived.
///
/// Each is carried by a marker: the end of a watch, whose `IN_IGNORED` the kernel queues in order. A full queue drops it;
/// then, once the overflow is read, the last barrier is given another marker, which is one for those before it too. If the
/// queue is full each time an overflow is read, they arrive with the first overflow behind as much as the queue and the buffers
/// had when the first was read: what was queued before they were set is among that.
#[derive(Debug, Default)]
pub(crate) struct Barriers {
    last: u64,
    outstanding: VecDeque<u64>,
    /// In the order the kernel queued them.
    markers: VecDeque<Mark>,
    /// They are to be marked again and could not be.
    unmarked: bool,
    due: Option<Due>,
}

/// When barriers arrive though no marker of theirs does.
#[derive(Debug)]
struct Due {
    /// The last of them.
    number: u64,
    /// The last marker that was queued for them, if any is known.
    marker: Option<i32>,
    /// Bytes of the stream that were taken by then.
    taken: u64,
}

#[derive(Debug)]
struct Mark {
    wd: i32,
    number: u64,
    overtaken: bool,
}

/// What a marker that arrived means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Its barrier is here.
    Barrier { number: u64, overtaken: bool },
    /// Its barrier has arrived with another marker.
    Stale,
}

impl Barriers {
    pub(crate) fn open(&mut self) -> u64 {
        self.last += 1;
        self.outstanding.push_back(self.last);
        self.last
    }

    /// The barrier could not be set.
    pub(crate) fn withdraw(&mut self, number: u64) {
        self.outstanding.retain(|&other| other != number);
        // Another may have the same watch.
        self.markers.retain(|marker| marker.number != number);
    }

    /// As if the kernel had dropped all that was queued.
    #[cfg(test)]
    pub(crate) fn lose_markers(&mut self) {
        self.markers.clear();
    }

    pub(crate) fn mark(&mut self, number: u64, wd: i32, overtaken: bool) {
        self.markers.push_back(Mark { wd, number, overtaken });
    }

    /// Sets one, and queues its marker.
    pub(crate) fn set(&mut self, marker: &mut Marker, inotify: &InotifyFd) -> io::Result<u64> {
        let number = self.open();
        let queued = marker.queue(inotify, |wd| self.mark(number, wd, false));
        if queued.is_err() {
            self.withdraw(number);
        }
        queued.map(|_| number)
    }

    /// Whether there are such that must be marked again.
    pub(crate) fn are_unmarked(&self) -> bool {
        self.unmarked
    }

    /// Queues again what was lost: a marker of the one that was set last, which is one for those before it too. There may be no
    /// room for a watch; then it is to be tried again. Answers whether something was lost.
    pub(crate) fn mark_again(&mut self, marker: &mut Marker, inotify: &InotifyFd) -> io::Result<bool> {
        if !self.unmarked {
            return Ok(false);
        }
        if let Some(&last) = self.outstanding.back() {
            let before = self.markers.len();
            let queued = marker.queue(inotify, |wd| self.mark(last, wd, true));
            if queued.is_err() {
                self.markers.truncate(before);
            }
            queued?;
        }
        self.unmarked = false;
        Ok(true)
    }

    /// An overflow was read behind so many bytes of the stream, and markers may have been dropped. `queued` says how many more
    /// may have been queued, if that can be told; it is asked only if it matters.
    pub(crate) fn overflowed(&mut self, taken: u64, queued: impl FnOnce() -> Option<u64>) {
        self.unmarked = true;
        let Some(&number) = self.outstanding.back().filter(|_| self.due.is_none()) else {
            return;
        };
        self.due = queued().map(|queued| Due {
            number,
            marker: self.markers.back().map(|marker| marker.wd),
            taken: taken.saturating_add(queued),
        });
    }

    /// Another overflow is read, behind so many bytes of the stream: a barrier for which all has been taken by now that was queued
    /// before it, while its markers were lost.
    pub(crate) fn overdue(&mut self, taken: u64) -> Option<u64> {
        let due = self.due.as_ref()?;
        let waits = self.outstanding.front().is_some_and(|&first| first <= due.number);
        let is_due = taken >= due.taken;
        if waits {
            return if is_due { self.outstanding.pop_front() } else { None };
        }
        // Those that were queued for them do not come any more.
        let lost = |marker: &Mark| Some(marker.wd) == due.marker;
        if is_due && let Some(last) = self.markers.iter().position(lost) {
            self.markers.drain(..=last);
        }
        self.due = None;
        None
    }

    /// A barrier that was set before that of the marker `wd` and has not arrived; its own marker was dropped.
    pub(crate) fn overtaken_by(&mut self, wd: i32) -> Option<u64> {
        let marker = self.markers.iter().find(|marker| marker.wd == wd)?;
        let first = *self.outstanding.front()?;
        (first < marker.number).then(|| self.outstanding.pop_front())?
    }

    /// Whether `wd` is a marker's, and what that means now. Markers queued before it were dropped by the kernel.
    pub(crate) fn arrived(&mut self, wd: i32) -> Option<Arrival> {
        let position = self.markers.iter().position(|marker| marker.wd == wd)?;
        let marker = self.markers.drain(..=position).next_back()?;
        let waiting = self.outstanding.iter().position(|&number| number == marker.number);
        Some(match waiting.and_then(|place| self.outstanding.remove(place)) {
            Some(number) => Arrival::Barrier {
                number,
                overtaken: marker.overtaken,
            },
            None => Arrival::Stale,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_that_survived_makes_its_second_stale() {
        let mut barriers = Barriers::default();
        let number = barriers.open();
        barriers.mark(number, 7, false);
        barriers.mark(number, 8, true);
        let overtaken = false;
        assert_eq!(barriers.arrived(7), Some(Arrival::Barrier { number, overtaken }));
        assert_eq!(barriers.arrived(8), Some(Arrival::Stale));
        assert_eq!(barriers.arrived(8), None);
    }

    #[test]
    fn barriers_that_lost_their_markers_come_before_a_later_one() {
        let mut barriers = Barriers::default();
        let numbers = [barriers.open(), barriers.open(), barriers.open()];
        for (number, wd) in numbers.into_iter().zip(7..) {
            barriers.mark(number, wd, false);
        }
        // The first two were dropped.
        assert_eq!(barriers.overtaken_by(9), Some(numbers[0]));
        assert_eq!(barriers.overtaken_by(9), Some(numbers[1]));
        assert_eq!(barriers.overtaken_by(9), None);
        let (number, overtaken) = (numbers[2], false);
        assert_eq!(barriers.arrived(9), Some(Arrival::Barrier { number, overtaken }));
    }

    #[test]
    fn barriers_whose_markers_are_lost_again_and_again_arrive_when_all_before_them_was_taken() {
        let mut barriers = Barriers::default();
        let numbers = [barriers.open(), barriers.open()];
        barriers.mark(numbers[0], 7, false);
        barriers.mark(numbers[1], 8, false);
        assert_eq!(barriers.overdue(100), None);
        barriers.overflowed(100, || Some(50));
        barriers.mark(numbers[1], 9, true);
        let late = barriers.open();
        barriers.mark(late, 10, false);
        // What was queued later does not put them off.
        assert_eq!(barriers.overdue(149), None);
        barriers.overflowed(149, || Some(50));
        barriers.mark(late, 11, true);
        let due = [(); 3].map(|()| barriers.overdue(150));
        assert_eq!(due, [Some(numbers[0]), Some(numbers[1]), None]);
        // Nor is anything kept of their markers, but those that may still come.
        assert_eq!(barriers.markers.len(), 3);
        barriers.overflowed(150, || Some(50));
        let due = [199, 200, 200].map(|taken| barriers.overdue(taken));
        assert_eq!(due, [None, Some(late), None]);
        assert!(barriers.markers.is_empty() && barriers.outstanding.is_empty() && barriers.due.is_none());
    }

    #[test]
    fn a_later_marker_ends_the_wait_for_earlier_ones() {
        let mut barriers = Barriers::default();
        let number = barriers.open();
        barriers.mark(number, 7, false);
        barriers.mark(number, 8, true);
        let overtaken = true;
        assert_eq!(barriers.arrived(8), Some(Arrival::Barrier { number, overtaken }));
        assert_eq!(barriers.arrived(7), None);
        assert!(barriers.markers.is_empty() && barriers.outstanding.is_empty());
    }
}
