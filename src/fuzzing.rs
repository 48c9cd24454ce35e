//! What the fuzzer calls (`fuzz/`): bytes in, and a panic if something is not as it must be.
//!
//! Only under `--cfg fuzzing`, which `cargo fuzz` sets, and for tests. It is not part of the library, and may change at any time.
#![allow(missing_docs, reason = "it is not part of the library")]
#![allow(clippy::missing_panics_doc, reason = "to panic is what it is for")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::batch::{EventBatch, Shelf};
use crate::decode::Records;
use crate::queue::{Feed, Taken};
use crate::sys::inotify::{InotifyFd, LARGEST_RECORD};
use crate::sys::pool::Pool;
use crate::table::{Recent, Table};
use crate::tree::{confuse, simulated};

/// Bytes that decide something, one after the other.
#[derive(Debug)]
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

impl Iterator for Bytes<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }
}

/// An event: the number of its watch, its mask, cookie and name.
pub(crate) type Plain = (i32, u32, u32, Vec<u8>);

/// The slow, obvious decoder: one byte at a time, copies everything. Answers also whether all was well-formed.
pub(crate) fn plainly(bytes: &[u8]) -> (Vec<Plain>, bool) {
    let mut events = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes.len() - at < 16 {
            return (events, false);
        }
        let word = |k: usize| {
            let mut w = [0; 4];
            for (i, byte) in w.iter_mut().enumerate() {
                *byte = bytes[at + 4 * k + i];
            }
            u32::from_ne_bytes(w)
        };
        let len = word(3) as usize;
        if len > bytes.len() - at - 16 {
            return (events, false);
        }
        let mut name = Vec::new();
        for &byte in &bytes[at + 16..at + 16 + len] {
            if byte == 0 {
                break;
            }
            name.push(byte);
        }
        events.push((word(0).cast_signed(), word(1), word(2), name));
        at += 16 + len;
    }
    (events, true)
}

pub(crate) fn decoded(bytes: &[u8]) -> (Vec<Plain>, bool) {
    let mut events = Vec::new();
    for record in Records::new(bytes) {
        let Ok(record) = record else { return (events, false) };
        let name = record.name().unwrap_or_default().as_bytes().to_vec();
        events.push((record.wd, record.mask.bits(), record.cookie, name));
    }
    (events, true)
}

/// Any bytes decode as the slow decoder says; and the same events come out however records are cut into reads, put
/// together in the queue, and held in batches.
pub fn decode(bytes: &[u8]) {
    assert_eq!(decoded(bytes), plainly(bytes));
    let mut bytes = Bytes(bytes);
    let buffers = 1 + usize::from(bytes.next().unwrap_or(0) % 4);
    let size = LARGEST_RECORD + usize::from(bytes.next().unwrap_or(0));
    let mut travel = Travel::new(buffers, size);
    while let Some(what) = bytes.next() {
        match what % 8 {
            0 => travel.take(usize::from(what / 8 % 4)),
            1 => travel.end_read(),
            _ => travel.record(what, &mut bytes),
        }
    }
    travel.end();
}

/// Watches that are known: those of these numbers.
const KNOWN: std::ops::Range<i32> = 1..6;

/// Records on their way from the reads to the batches.
struct Travel {
    feed: Arc<Feed>,
    table: Table,
    recent: Recent,
    shelf: Arc<Shelf>,
    size: usize,
    read: Vec<u8>,
    /// All that was read, for the slow decoder.
    all: Vec<u8>,
    seen: Vec<Plain>,
    /// Batches that are not dropped yet, each with what was in it.
    held: Vec<(EventBatch, Vec<Plain>)>,
}

impl Travel {
    fn new(buffers: usize, size: usize) -> Self {
        let table = Table::new(1, InotifyFd::new().expect("an instance"), 0);
        KNOWN.for_each(|wd| table.pretend(wd, &PathBuf::from(format!("/{wd}"))));
        // No events are real, and nothing is to be asked of the kernel.
        table.close();
        Self {
            feed: Feed::new(Pool::new(buffers, size).expect("memory")),
            table,
            recent: Recent::default(),
            shelf: Shelf::new(),
            size,
            read: Vec::new(),
            all: Vec::new(),
            seen: Vec::new(),
            held: Vec::new(),
        }
    }

    /// A well-formed record.
    fn record(&mut self, what: u8, bytes: &mut Bytes<'_>) {
        let byte = |bytes: &mut Bytes<'_>| u32::from(bytes.next().unwrap_or(0));
        let wd = i32::from(what / 8 % 8) - 1;
        let mask = 1_u32.rotate_left(byte(bytes)) | byte(bytes) << 8;
        let cookie = byte(bytes) % 4;
        let length = byte(bytes) as usize;
        let name = bytes.take(length);
        let padding = byte(bytes) as usize % 32;
        let padding = padding.min(LARGEST_RECORD.saturating_sub(16 + name.len()));
        let mut record = Vec::new();
        for field in [wd.cast_unsigned(), mask, cookie, (name.len() + padding) as u32] {
            record.extend(field.to_ne_bytes());
        }
        record.extend(name);
        record.resize(record.len() + padding, 0);
        if self.read.len() + record.len() > self.size {
            self.end_read();
        }
        self.read.extend(record);
    }

    /// What was gathered comes in a buffer, once there is one.
    fn end_read(&mut self) {
        if self.read.is_empty() {
            return;
        }
        let mut buffer = loop {
            match self.feed.pool.take() {
                Some(buffer) => break buffer,
                None => self.take(0),
            }
        };
        assert!(buffer.append(&self.read));
        drop(self.feed.push(buffer));
        self.all.append(&mut self.read);
    }

    /// Takes a batch, and drops all but so many of the latest.
    fn take(&mut self, keep: usize) {
        if let Taken::Buffer(buffer) = self.feed.queue.take(None) {
            let resolver = self.table.resolve(&mut self.recent, buffer.filled().len());
            let (batch, malformed) = EventBatch::resolve(buffer, resolver, &self.shelf, 1);
            assert_eq!(malformed, None);
            let events = plain(&batch);
            assert_eq!(events.len(), batch.len());
            self.seen.extend(events.iter().cloned());
            self.held.push((batch, events));
        }
        let drop_to = self.held.len().saturating_sub(keep);
        for (batch, events) in self.held.drain(..drop_to) {
            assert_eq!(plain(&batch), events, "a batch that is held has changed");
        }
    }

    fn end(mut self) {
        self.end_read();
        while self.feed.queue.has_news() {
            self.take(0);
        }
        // Also what is held still, if nothing was to be taken.
        self.take(0);
        let (expected, whole) = plainly(&self.all);
        assert!(whole);
        let shown = expected.into_iter().map(|(wd, mask, cookie, name)| {
            let known = KNOWN.contains(&wd) && mask & libc::IN_Q_OVERFLOW == 0;
            (if known { wd } else { 0 }, mask, cookie, name)
        });
        assert_eq!(self.seen, shown.collect::<Vec<_>>());
        assert_eq!(self.feed.pool.used_bytes(), 0);
    }
}

fn plain(batch: &EventBatch) -> Vec<Plain> {
    let one = |event: crate::Event<'_>| {
        let name = event.name().map_or(&b""[..], OsStr::as_bytes).to_vec();
        let wd = event.watch().map_or(0, |watch| {
            let path = watch.path();
            path.to_str()
                .and_then(|path| path[1..].parse().ok())
                .expect("its number")
        });
        (wd, event.mask().bits(), event.cookie().unwrap_or(0), name)
    };
    batch.iter().map(one).collect()
}

/// The tree's state machine: fed with what happens on a disk that is made up, it knows that disk; fed with anything, it keeps
/// its own order.
pub fn tracker(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    match bytes.next() {
        Some(0..128) => simulated::follow(&mut bytes),
        _ => confuse(&mut bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the fuzzer has kept, and what it has found.
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        // A published crate comes without it.
        let files = std::fs::read_dir(dir).into_iter().flatten();
        files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

    #[test]
    fn what_the_fuzzer_kept_decodes_well() {
        corpus("decode").iter().for_each(|bytes| decode(bytes));
    }

    #[test]
    fn what_the_fuzzer_kept_does_not_confuse_the_tracker() {
        corpus("tracker").iter().for_each(|bytes| tracker(bytes));
    }

    /// One input, from a file: `RINGWATCH_INPUT=file RINGWATCH_VERBOSE=1 cargo test --lib one_input -- --ignored --nocapture`.
    #[test]
    #[ignore = "it needs RINGWATCH_INPUT"]
    fn one_input_of_the_tracker() {
        let file = std::env::var_os("RINGWATCH_INPUT").expect("a file");
        tracker(&std::fs::read(file).expect("the input"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_decode_well(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            decode(&bytes);
        }

        #[test]
        fn the_tracker_knows_what_is_on_a_disk(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            simulated::follow(&mut Bytes(&bytes));
        }
    }
}
