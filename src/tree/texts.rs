//! Names, one behind the other in one piece of memory.

/// Many short byte strings. Each is known by its place, which a [`compact`](Self::compact) changes.
#[derive(Debug)]
pub(super) struct Texts {
    /// Each with its length before it, in two bytes.
    bytes: Vec<u8>,
    /// Bytes of those that were dropped.
    waste: usize,
    /// Where the last may begin.
    last: u32,
}

impl Default for Texts {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            waste: 0,
            last: u32::MAX,
        }
    }
}

const LENGTH: usize = 2;

/// Bytes that a text may have.
pub(super) const LONGEST: usize = u16::MAX as usize;

impl Texts {
    /// Whether one more can be kept.
    pub(super) fn has_room(&self) -> bool {
        self.bytes.len() <= self.last as usize
    }

    /// As if what there is were 4 GiB.
    #[cfg(test)]
    pub(super) fn fill(&mut self) {
        self.last = self.bytes.len() as u32 - 1;
    }

    /// Keeps a text of at most [`LONGEST`] bytes. None if there is no room for more: 4 GiB.
    pub(super) fn put(&mut self, text: &[u8]) -> Option<u32> {
        let place = u32::try_from(self.bytes.len()).ok().filter(|_| self.has_room())?;
        let length = u16::try_from(text.len()).ok()?;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(text);
        Some(place)
    }

    pub(super) fn get(&self, place: u32) -> &[u8] {
        let text = self.bytes.get(place as usize..).unwrap_or_default();
        let Some((length, text)) = text.split_first_chunk::<LENGTH>() else {
            return &[];
        };
        text.get(..usize::from(u16::from_ne_bytes(*length))).unwrap_or_default()
    }

    pub(super) fn drop(&mut self, place: u32) {
        self.waste += self.get(place).len() + LENGTH;
    }

    /// Whether more than half of it is waste.
    pub(super) fn is_sparse(&self) -> bool {
        const LITTLE: usize = 64 * 1024;
        self.waste > LITTLE && self.waste > self.bytes.len() / 2
    }

    /// Moves the texts at these places together and says where each is now. All others are gone.
    pub(super) fn compact<'a>(&mut self, places: impl Iterator<Item = &'a mut u32>) {
        let mut kept = Self {
            last: self.last,
            ..Self::default()
        };
        for place in places {
            *place = kept.put(self.get(*place)).unwrap_or(u32::MAX);
        }
        *self = kept;
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}
