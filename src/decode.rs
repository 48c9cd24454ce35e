//! Finds the edges of the records in what the kernel wrote.
//!
//! Pure: bytes in, borrowed records out; no allocation, no `unsafe`, and it knows nothing of watches, paths or buffers.
//! The format is `struct inotify_event` of inotify(7): four 4-byte fields (wd, mask, cookie, len) in the machine's byte
//! order, then `len` bytes of name, NUL-terminated and padded with NULs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::mask::Mask;

/// Bytes of a record before its name.
pub(crate) const HEADER: usize = 16;

/// One record, borrowed from the buffer the kernel filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) wd: i32,
    pub(crate) mask: Mask,
    pub(crate) cookie: u32,
    /// The name with its padding.
    padded_name: &'a [u8],
}

impl<'a> Record<'a> {
    /// A record that the kernel did not write. An empty name is none.
    pub(crate) fn made_up(mask: Mask, cookie: u32, name: &'a [u8]) -> Self {
        Self {
            wd: 0,
            mask,
            cookie,
            padded_name: name,
        }
    }

    /// The name up to its first NUL; none if the record is about the watched object itself.
    #[inline]
    pub(crate) fn name(&self) -> Option<&'a OsStr> {
        // The kernel terminates every name. A name that fills its field is taken whole rather than refused.
        let name = &self.padded_name[..up_to_nul(self.padded_name)];
        (!name.is_empty()).then(|| OsStr::from_bytes(name))
    }
}

/// A record that can't be one: where it starts, and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// Offset of the record from the start of the read, in bytes.
    pub(crate) offset: usize,
    /// Bytes the record claims to have, at least.
    pub(crate) claimed: usize,
    /// Bytes that are left.
    pub(crate) left: usize,
}

/// The records of one or more reads, in order. After an error it ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Records<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Records<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// Offset of the next record, in bytes.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    #[cold]
    fn malformed(&mut self, claimed: usize) -> Malformed {
        let left = self.bytes.len();
        self.bytes = &[];
        Malformed {
            offset: self.offset,
            claimed,
            left,
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let Some((header, rest)) = self.bytes.split_first_chunk::<HEADER>() else {
            return Some(Err(self.malformed(HEADER)));
        };
        let [wd, mask, cookie, len] = fields(header);
        let Some((padded_name, rest)) = rest.split_at_checked(len as usize) else {
            return Some(Err(self.malformed(HEADER.saturating_add(len as usize))));
        };
        self.bytes = rest;
        self.offset += HEADER + padded_name.len();
        Some(Ok(Record {
            wd: wd.cast_signed(),
            mask: Mask::from_bits_retain(mask),
            cookie,
            padded_name,
        }))
    }
}

/// Where the first NUL is; the length if there is none. Eight bytes at a time: names are padded to multiples of 16.
#[inline]
fn up_to_nul(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    for (place, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The lowest bit set marks the first byte that is 0; what is above it may be wrong (Mycroft's test).
        let nul = word.wrapping_sub(ONES) & !word & TOPS;
        if nul != 0 {
            return 8 * place + nul.trailing_zeros() as usize / 8;
        }
    }
    let nul = rest.iter().position(|&byte| byte == 0);
    bytes.len() - rest.len() + nul.unwrap_or(rest.len())
}

#[inline]
fn fields(header: &[u8; HEADER]) -> [u32; 4] {
    let (chunks, _) = header.as_chunks::<4>();
    std::array::from_fn(|i| u32::from_ne_bytes(chunks[i]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::{decoded as fast, plainly as oracle};
    use proptest::prelude::*;

    fn record(wd: i32, mask: u32, cookie: u32, name: &[u8], padding: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(wd.to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend(cookie.to_ne_bytes());
        bytes.extend(((name.len() + padding) as u32).to_ne_bytes());
        bytes.extend(name);
        bytes.resize(bytes.len() + padding, 0);
        bytes
    }

    prop_compose! {
        fn any_record()(
            wd in any::<i32>(), mask in any::<u32>(), cookie in any::<u32>(),
            name in prop::collection::vec(any::<u8>(), 0..256), padding in 0usize..32,
        ) -> Vec<u8> {
            record(wd, mask, cookie, &name, padding)
        }
    }

    proptest! {
        #[test]
        fn well_formed_records_decode_as_the_oracle_says(
            records in prop::collection::vec(any_record(), 0..40)
        ) {
            let bytes = records.concat();
            let (events, whole) = fast(&bytes);
            prop_assert!(whole);
            prop_assert_eq!(events.len(), records.len());
            prop_assert_eq!((events, whole), oracle(&bytes));
        }

        #[test]
        fn cut_short_records_end_in_an_error_where_the_oracle_ends(
            records in prop::collection::vec(any_record(), 1..8), cut in any::<prop::sample::Index>(),
        ) {
            let bytes = records.concat();
            let bytes = &bytes[..cut.index(bytes.len())];
            prop_assert_eq!(fast(bytes), oracle(bytes));
        }

        #[test]
        fn any_bytes_decode_as_the_oracle_says(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(fast(&bytes), oracle(&bytes));
        }

        #[test]
        fn lying_lengths_decode_as_the_oracle_says(
            records in prop::collection::vec(any_record(), 1..8),
            victim in any::<prop::sample::Index>(), lie in any::<u32>(), small in 0u32..64,
        ) {
            for len in [lie, small, u32::MAX] {
                let mut records = records.clone();
                let victim = victim.index(records.len());
                records[victim][12..16].copy_from_slice(&len.to_ne_bytes());
                let bytes = records.concat();
                prop_assert_eq!(fast(&bytes), oracle(&bytes));
            }
        }
    }

    #[test]
    fn a_malformed_record_says_where_and_ends_the_iteration() {
        let mut bytes = record(1, 2, 0, b"a", 15);
        bytes.extend(record(1, 2, 0, b"b", 15));
        bytes.truncate(40);
        let mut records = Records::new(&bytes);
        assert!(records.next().unwrap().is_ok());
        assert_eq!(
            records.next(),
            Some(Err(Malformed {
                offset: 32,
                claimed: 16,
                left: 8
            }))
        );
        assert_eq!(records.next(), None);
    }
}
