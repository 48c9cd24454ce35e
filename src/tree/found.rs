//! What a crawl has found: directories, each behind the one above it, and the files in them.

use super::crawl::Job;
use super::files::Fingerprint;
use super::nodes::{Id, NONE};
use crate::sys::dir::Identity;

/// How a directory was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Watched {
        wd: i32,
        identity: Identity,
    },
    /// The filter does not want it.
    Filtered,
    /// No directory is there now.
    Vanished,
    /// The directory it is to be in is not where it was.
    Lost,
    /// It is on another file system.
    Foreign,
    /// It can't be watched or listed; the errno.
    Failed(i32),
    /// It is watched, but its listing broke off; the errno.
    Unlisted {
        wd: i32,
        identity: Identity,
        code: i32,
    },
}

impl Outcome {
    pub(super) fn wd(self) -> Option<i32> {
        match self {
            Self::Watched { wd, .. } | Self::Unlisted { wd, .. } => Some(wd),
            _ => None,
        }
    }
}

/// One directory that was looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Its place in [`Crawl::order`].
    pub(super) number: u32,
    /// The place of the one above it; NONE for what a job began with.
    pub(super) parent: u32,
    /// The node of the job; NONE below that.
    pub(super) node: Id,
    pub(super) name: (usize, usize),
    pub(super) files: (usize, usize),
    pub(super) outcome: Outcome,
    /// Its listing was read: not if it is known, is listed elsewhere in this crawl, or was only to be found.
    pub(super) listed: bool,
    pub(super) link: bool,
}

/// What was found. Parents come before their children.
#[derive(Debug, Default)]
pub(super) struct Crawl {
    parts: Vec<Part>,
    order: Vec<(u32, u32)>,
}

/// What one thread has found.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) found: Vec<Found>,
    pub(super) text: Vec<u8>,
}

impl Part {
    pub(super) fn put(&mut self, text: &[u8]) -> (usize, usize) {
        let start = self.text.len();
        self.text.extend(text);
        (start, self.text.len())
    }

    /// An entry that is no directory. Some file systems have longer names than 255 bytes.
    pub(super) fn put_file(&mut self, name: &[u8], fingerprint: Fingerprint) {
        // A longer one could be in no path, but what is behind it is not to be taken for more names.
        let length = name.len().min(usize::from(u16::MAX)) as u16;
        self.text.extend(fingerprint.to_ne_bytes());
        self.text.extend(length.to_ne_bytes());
        self.text.extend(&name[..usize::from(length)]);
    }

    /// A job that could not begin.
    pub(super) fn fail(&mut self, number: u32, job: &Job, outcome: Outcome) {
        let name = self.put(&job.name);
        self.found.push(Found {
            number,
            parent: NONE,
            node: job.node,
            name,
            files: (name.1, name.1),
            outcome,
            listed: false,
            link: job.link,
        });
    }
}

impl Crawl {
    /// Puts together what the threads have found: so many directories.
    pub(super) fn new(parts: Vec<Part>, directories: usize) -> Self {
        let mut order = vec![(0, 0); directories];
        for (number, part) in parts.iter().enumerate() {
            for (place, found) in part.found.iter().enumerate() {
                order[found.number as usize] = (number as u32, place as u32);
            }
        }
        Self { parts, order }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn found(&self, number: usize) -> &Found {
        let (part, place) = self.order[number];
        &self.parts[part as usize].found[place as usize]
    }

    fn text(&self, number: usize, range: (usize, usize)) -> &[u8] {
        let (part, _) = self.order[number];
        &self.parts[part as usize].text[range.0..range.1]
    }

    pub(super) fn name(&self, number: usize) -> &[u8] {
        self.text(number, self.found(number).name)
    }

    /// The names of what is in it and no directory, each with its fingerprint.
    pub(super) fn files(&self, number: usize) -> impl Iterator<Item = (&[u8], Fingerprint)> {
        let mut text = self.text(number, self.found(number).files);
        std::iter::from_fn(move || {
            let (fingerprint, rest) = text.split_first_chunk::<8>()?;
            let (length, rest) = rest.split_first_chunk::<2>()?;
            let (name, rest) = rest.split_at_checked(usize::from(u16::from_ne_bytes(*length)))?;
            text = rest;
            Some((name, u64::from_ne_bytes(*fingerprint)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On vfat, exfat, NTFS and CIFS a name has up to 255 characters of UTF-16, and so up to 765 bytes; on FUSE more.
    #[test]
    fn names_longer_than_255_bytes_hide_none_behind_them() {
        let mut part = Part::default();
        let names = [vec![b'a'; 765], b"b".to_vec(), vec![b'c'; 70_000], b"d".to_vec()];
        (1..)
            .zip(&names)
            .for_each(|(fingerprint, name)| part.put_file(name, fingerprint));
        let job = Job {
            node: NONE,
            parent: None,
            name: Vec::new(),
            link: false,
            singles: None,
            probe: false,
        };
        let end = part.text.len();
        part.fail(0, &job, Outcome::Vanished);
        part.found[0].files = (0, end);
        let crawl = Crawl::new(vec![part], 1);
        let lengths: Vec<_> = crawl
            .files(0)
            .map(|(name, fingerprint)| (name.len(), fingerprint))
            .collect();
        assert_eq!(lengths, [(765, 1), (1, 2), (65_535, 3), (1, 4)]);
    }
}
