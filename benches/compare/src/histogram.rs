//! Latencies in fixed memory: whoever measures must not be seen in the memory or the allocations of what is measured.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Each power of two in 256 parts: a value is right to 0.4 %.
const PARTS_LOG2: u32 = 8;
const PARTS: usize = 1 << PARTS_LOG2;
/// Above 2^40 ns, 18 minutes, all is the same.
const LARGEST_LOG2: u32 = 40;

/// Counts of values, which many threads may add to.
#[derive(Debug)]
pub struct Histogram {
    counts: Vec<AtomicU32>,
    largest: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        let slots = PARTS * (LARGEST_LOG2 - PARTS_LOG2 + 1) as usize;
        Self {
            counts: (0..slots).map(|_| AtomicU32::new(0)).collect(),
            largest: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    #[inline]
    pub fn record(&self, value: u64) {
        self.counts[slot(value)].fetch_add(1, Ordering::Relaxed);
        if value > self.largest.load(Ordering::Relaxed) {
            self.largest.fetch_max(value, Ordering::Relaxed);
        }
    }

    /// p50, p99, p99.9 and maximum; none without values.
    pub fn percentiles(&self) -> Option<[u64; 4]> {
        let counts: Vec<u64> = self.counts.iter().map(|c| c.load(Ordering::Relaxed).into()).collect();
        let all: u64 = counts.iter().sum();
        let largest = self.largest.load(Ordering::Relaxed);
        let at = |part: f64| {
            let rank = ((all - 1) as f64 * part) as u64;
            let mut below = 0;
            let found = counts.iter().position(|count| {
                below += count;
                below > rank
            });
            found.map_or(largest, middle).min(largest)
        };
        (all > 0).then(|| [at(0.5), at(0.99), at(0.999), largest])
    }
}

fn slot(value: u64) -> usize {
    if value < PARTS as u64 {
        return value as usize;
    }
    let value = value.min((1 << LARGEST_LOG2) - 1);
    let octave = value.ilog2() - PARTS_LOG2;
    PARTS * (octave as usize + 1) + ((value >> octave) as usize - PARTS)
}

/// The middle of what a slot counts.
fn middle(slot: usize) -> u64 {
    if slot < PARTS {
        return slot as u64;
    }
    let octave = slot / PARTS - 1;
    let width = 1 << octave;
    ((PARTS + slot % PARTS) as u64) * width + width / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_a_sorted_list() {
        let histogram = Histogram::default();
        let mut values: Vec<u64> = (1..50_000_u64).map(|i| i * i % 7_000_003).collect();
        values.iter().for_each(|&value| histogram.record(value));
        values.sort_unstable();
        let found = histogram.percentiles().unwrap();
        for (part, found) in [0.5, 0.99, 0.999, 1.0].into_iter().zip(found) {
            let exact = values[((values.len() - 1) as f64 * part) as usize];
            assert!(found.abs_diff(exact) <= exact / 250, "{part}: {found} for {exact}");
        }
    }

    #[test]
    fn every_value_has_a_slot() {
        let histogram = Histogram::default();
        for value in [0, 255, 256, (1 << 40) - 1, 1 << 40, u64::MAX] {
            histogram.record(value);
        }
        assert_eq!(histogram.percentiles().unwrap()[3], u64::MAX);
    }
}
