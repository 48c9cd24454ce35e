//! The one mask type: what a watch asks for, and what an event says.

use bitflags::bitflags;

bitflags! {
    /// What a watch asks for, and what an event says: the `IN_*` bits of inotify(7).
    ///
    /// One type serves both, as in the C interface. Bits this version does not know are kept, in events and in what is
    /// asked for ([`Mask::from_bits_retain`]).
    ///
    /// ```
    /// use ringwatch::Mask;
    ///
    /// let saved = Mask::CLOSE_WRITE | Mask::MOVED_TO;
    /// assert!(Mask::CHANGES.contains(saved));
    /// assert_eq!(format!("{saved:?}"), "Mask(CLOSE_WRITE | MOVED_TO)");
    /// assert_eq!(Mask::from_bits_retain(0x0040_0000).bits(), 0x0040_0000);
    /// ```
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
    pub struct Mask: u32 {
        /// A file was read, or a program was run from it.
        #[doc(alias = "IN_ACCESS")]
        const ACCESS = libc::IN_ACCESS;
        /// A file was written or truncated.
        #[doc(alias = "IN_MODIFY")]
        const MODIFY = libc::IN_MODIFY;
        /// Metadata changed: permissions, owner, times, extended attributes, link count.
        #[doc(alias = "IN_ATTRIB")]
        const ATTRIB = libc::IN_ATTRIB;
        /// A file that was open for writing was closed.
        #[doc(alias = "IN_CLOSE_WRITE")]
        const CLOSE_WRITE = libc::IN_CLOSE_WRITE;
        /// A file or directory that was not open for writing was closed.
        #[doc(alias = "IN_CLOSE_NOWRITE")]
        const CLOSE_NOWRITE = libc::IN_CLOSE_NOWRITE;
        /// A file or directory was opened.
        #[doc(alias = "IN_OPEN")]
        const OPEN = libc::IN_OPEN;
        /// An entry was renamed out of the watched directory. The [cookie](crate::Event::cookie) pairs it with its
        /// [`MOVED_TO`](Self::MOVED_TO).
        #[doc(alias = "IN_MOVED_FROM")]
        const MOVED_FROM = libc::IN_MOVED_FROM;
        /// An entry was renamed into the watched directory.
        #[doc(alias = "IN_MOVED_TO")]
        const MOVED_TO = libc::IN_MOVED_TO;
        /// An entry was made in the watched directory: file, directory, link, socket, device.
        #[doc(alias = "IN_CREATE")]
        const CREATE = libc::IN_CREATE;
        /// An entry was removed from the watched directory.
        #[doc(alias = "IN_DELETE")]
        const DELETE = libc::IN_DELETE;
        /// The watched file or directory itself was deleted.
        #[doc(alias = "IN_DELETE_SELF")]
        const DELETE_SELF = libc::IN_DELETE_SELF;
        /// The watched file or directory itself was renamed. The watch goes with it; its path is not updated.
        #[doc(alias = "IN_MOVE_SELF")]
        const MOVE_SELF = libc::IN_MOVE_SELF;

        /// Event only: the file system that holds the watched object was unmounted.
        #[doc(alias = "IN_UNMOUNT")]
        const UNMOUNT = libc::IN_UNMOUNT;
        /// Event only: the kernel's queue was full, and events were lost here. Such an event has no watch and no path.
        #[doc(alias = "IN_Q_OVERFLOW")]
        const Q_OVERFLOW = libc::IN_Q_OVERFLOW;
        /// Event only: the watch ended, by [`rm_watch`](crate::Inotify::rm_watch) or because its object is gone.
        #[doc(alias = "IN_IGNORED")]
        const IGNORED = libc::IN_IGNORED;
        /// Event only: the subject is a directory.
        #[doc(alias = "IN_ISDIR")]
        const ISDIR = libc::IN_ISDIR;

        /// Watch only: fail unless the path is a directory.
        #[doc(alias = "IN_ONLYDIR")]
        const ONLYDIR = libc::IN_ONLYDIR;
        /// Watch only: if the path is a symbolic link, watch the link itself.
        #[doc(alias = "IN_DONT_FOLLOW")]
        const DONT_FOLLOW = libc::IN_DONT_FOLLOW;
        /// Watch only: no events for entries that were unlinked from the directory and are still open.
        #[doc(alias = "IN_EXCL_UNLINK")]
        const EXCL_UNLINK = libc::IN_EXCL_UNLINK;
        /// Watch only: fail if the inode is watched already (Linux 4.18).
        #[doc(alias = "IN_MASK_CREATE")]
        const MASK_CREATE = libc::IN_MASK_CREATE;
        /// Watch only: if the inode is watched already, add these events to its mask instead of replacing it.
        #[doc(alias = "IN_MASK_ADD")]
        const MASK_ADD = libc::IN_MASK_ADD;
        /// Watch only: deliver one event, then end the watch.
        #[doc(alias = "IN_ONESHOT")]
        const ONESHOT = libc::IN_ONESHOT;

        // Bits of newer kernels are data, not errors.
        const _ = !0;
    }
}

impl Mask {
    /// Both closes.
    #[doc(alias = "IN_CLOSE")]
    pub const CLOSE: Self = Self::CLOSE_WRITE.union(Self::CLOSE_NOWRITE);

    /// Both halves of a rename.
    #[doc(alias = "IN_MOVE")]
    pub const MOVE: Self = Self::MOVED_FROM.union(Self::MOVED_TO);

    /// The twelve kinds of event.
    #[doc(alias = "IN_ALL_EVENTS")]
    pub const ALL: Self = Self::from_bits_retain(libc::IN_ALL_EVENTS);

    /// All kinds but [`ACCESS`](Self::ACCESS), [`OPEN`](Self::OPEN) and [`CLOSE_NOWRITE`](Self::CLOSE_NOWRITE): what
    /// changed, and not who looked.
    pub const CHANGES: Self =
        Self::from_bits_retain(libc::IN_ALL_EVENTS & !(libc::IN_ACCESS | libc::IN_OPEN | libc::IN_CLOSE_NOWRITE));

    /// The bits that say how to watch, and not for what.
    pub(crate) const WATCH_FLAGS: Self = Self::ONLYDIR
        .union(Self::DONT_FOLLOW)
        .union(Self::MASK_CREATE)
        .union(Self::MASK_ADD);

    /// Whether the subject of the event is a directory.
    pub const fn is_dir(self) -> bool {
        self.contains(Self::ISDIR)
    }
}

#[cfg(test)]
mod tests {
    use super::Mask;

    #[test]
    fn all_is_the_twelve_kinds_and_changes_leaves_out_three() {
        assert_eq!(Mask::ALL.bits().count_ones(), 12);
        assert_eq!(
            Mask::ALL,
            Mask::CHANGES | Mask::ACCESS | Mask::OPEN | Mask::CLOSE_NOWRITE
        );
        assert_eq!(Mask::CHANGES.bits().count_ones(), 9);
    }

    #[test]
    fn unknown_bits_are_kept_and_shown() {
        let mask = Mask::from_bits_retain(0x0080_0000) | Mask::CREATE;
        assert_eq!(mask.bits(), 0x0080_0100);
        assert_eq!(format!("{mask:?}"), "Mask(CREATE | 0x800000)");
    }
}
