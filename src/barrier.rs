//! Markers in the event stream.

use std::collections::VecDeque;

/// A mark set in the event stream by [`Inotify::barrier`](crate::Inotify::barrier).
///
/// It arrives as an event whose [`barrier`](crate::Event::barrier) equals it, behind everything that was queued before the
/// call, and ahead of everything queued after it. If the kernel's queue overflows and drops it, it arrives all the same,
/// behind the overflow, and the event [says so](crate::Event::is_overtaken).
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
/// Each is carried by a marker: a watch made and ended at once, whose `IN_IGNORED` the kernel queues in order. A full
/// queue drops it; then, once the overflow is read, the barrier is given another marker.
#[derive(Debug, Default)]
pub(crate) struct Barriers {
    last: u64,
    outstanding: VecDeque<u64>,
    /// In the order the kernel queued them.
    markers: VecDeque<Marker>,
}

#[derive(Debug)]
struct Marker {
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
    }

    pub(crate) fn mark(&mut self, number: u64, wd: i32, overtaken: bool) {
        self.markers.push_back(Marker { wd, number, overtaken });
    }

    pub(crate) fn outstanding(&self) -> impl Iterator<Item = u64> + '_ {
        self.outstanding.iter().copied()
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
