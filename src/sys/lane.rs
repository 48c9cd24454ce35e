//! One source in a ring: its provided buffers, and the read that fills them.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};

use super::buffer_ring::{BufferRing, LENT};
#[cfg(test)]
use super::faults::Fault;
use super::inotify::LARGEST_RECORD;
use super::notifier::Notifier;
use super::pool::Buffer;
use crate::engine::Source;
use crate::error::{Error, ErrorKind};
use crate::queue::add;

/// Ends of a read in a row that brought neither events nor a reason not to try again.
pub(super) const MOST_FRUITLESS: u32 = 64;

/// One source, its provided-buffer ring, and the buffers lent to the kernel through it.
pub(super) struct Lane {
    source: Source,
    entries: BufferRing,
    /// Whether a read is with the kernel.
    pub(super) armed: bool,
    /// Whether a cancellation is with the kernel.
    pub(super) cancelling: bool,
    /// Whether the lane is in `needy`.
    pub(super) needy: bool,
    /// Whether its feed takes no more.
    done: bool,
    /// Whether events were lost. What a multishot read brings behind them is too: nobody would know of the gap.
    lost: bool,
    /// Whether the kernel may have more than the buffers took that were lent to it.
    pub(super) behind: bool,
    fruitless: u32,
    last_turn: u64,
    /// What is to become of the read under way.
    #[cfg(test)]
    pretended: Option<Fault>,
    /// Whether it is to be cancelled for that.
    #[cfg(test)]
    pub(super) to_cut: bool,
}

impl Lane {
    pub(super) fn new(source: Source, entries: BufferRing) -> Self {
        Self {
            source,
            entries,
            armed: false,
            cancelling: false,
            needy: false,
            done: false,
            lost: false,
            behind: false,
            fruitless: 0,
            last_turn: 0,
            #[cfg(test)]
            pretended: None,
            #[cfg(test)]
            to_cut: false,
        }
    }

    /// Whether a read is to be submitted: there is none, and there are buffers for it.
    pub(super) fn wants_read(&self) -> bool {
        !self.armed && self.entries.lent() > 0 && !self.done
    }

    #[cfg(test)]
    pub(super) fn faults(&self) -> &super::faults::Faults {
        &self.source.feed.faults
    }

    /// From now on no read is submitted.
    pub(super) fn stop(&mut self) {
        self.done = true;
    }

    /// Says that what the read took may be lost.
    pub(super) fn lose(&self) {
        let cause = "the kernel did not say what the last read had taken: events may be lost";
        let error = Error::text(ErrorKind::ReaderFailed, "read events through io_uring", cause);
        self.source.feed.queue.fail(error, false);
    }

    /// Has a read that is left find no buffer.
    ///
    /// # Safety
    /// No call of the ring is under way, and all completions were taken.
    pub(super) unsafe fn withdraw(&mut self) {
        // SAFETY: the kernel looks at the ring in such a call only, and says what it took by a completion.
        unsafe { self.entries.withdraw() };
    }

    /// Lets go of the lane. Without this the buffers that are lent stay with the kernel for good.
    ///
    /// # Safety
    /// The kernel writes to none of them any more.
    pub(super) unsafe fn reclaim(self) {
        // SAFETY: the caller promises it.
        unsafe { self.entries.reclaim() };
    }

    /// Lends buffers until the kernel has its share or the pool is empty. Not before the half of them are used: so most
    /// reads cost no visit to the pool.
    pub(super) fn supply(&mut self, notifier: &Arc<Notifier>) {
        let lent = self.entries.lent();
        if self.done || lent > LENT / 2 {
            return;
        }
        let pool = Arc::clone(&self.source.feed.pool);
        let mut buffers = [const { None }; LENT as usize];
        pool.fill(&mut buffers[usize::from(lent)..]);
        for buffer in buffers.into_iter().flatten() {
            self.entries.lend(buffer);
        }
        if self.entries.lent() == 0
            && let Some(buffer) = pool.take_or_starve(notifier)
        {
            self.entries.lend(buffer);
        }
    }

    /// The request to read, from the buffer group `id`.
    pub(super) fn read(&mut self, id: u16, multishot: bool) -> squeue::Entry {
        let fd = Fd(self.source.fd.as_fd().as_raw_fd());
        #[cfg(test)]
        let (fd, multishot) = {
            self.pretended = self.source.feed.faults.of_read();
            match self.pretended {
                Some(Fault::End(_)) => return opcode::Nop::new().build(),
                Some(Fault::Nothing) => (Fd(super::faults::nothing()), false),
                Some(Fault::Short) => (fd, false),
                _ => (fd, multishot),
            }
        };
        // Offset -1: at the file's own position, as read(2). inotify has none.
        if multishot {
            opcode::ReadMulti::new(fd, 0, id).offset(u64::MAX).build()
        } else {
            let size = self.source.feed.pool.buffer_size() as u32;
            opcode::Read::new(fd, std::ptr::null_mut(), size)
                .offset(u64::MAX)
                .buf_group(id)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        }
    }

    /// The request to end the read that goes by this user data.
    pub(super) fn cancel(&self, read: u64) -> squeue::Entry {
        #[cfg(test)]
        if let Some(how) = self.source.feed.faults.of_cancel() {
            return how.request();
        }
        opcode::AsyncCancel::new(read).build()
    }

    /// Takes one completion of the read. Answers whether it brought events. They go to `passed` if there is room, else to
    /// the feed.
    ///
    /// # Safety
    /// The kernel has sent it for a read of this lane, and it was not given here before.
    pub(super) unsafe fn complete(
        &mut self,
        completion: cqueue::Entry,
        turn: u64,
        passed: Option<&mut Option<Buffer>>,
    ) -> bool {
        if !cqueue::more(completion.flags()) {
            self.armed = false;
        }
        let (result, id) = (completion.result(), cqueue::buffer_select(completion.flags()));
        #[cfg(test)]
        let (result, id) = self.pretend(result, id);
        // SAFETY: this completion names the buffer, and comes here once, as the caller promises.
        let filled = id.and_then(|id| unsafe { self.entries.take(id) });
        if self.lost {
            return false;
        }
        match (result, filled) {
            (length, Some(mut buffer)) if length > 0 => {
                if !buffer.advance(length as usize) {
                    self.fail(libc::EOVERFLOW, false);
                    return false;
                }
                self.fruitless = 0;
                // Without another completion to come, a full buffer says that there is more.
                self.behind |= !self.armed && buffer.spare().len() < LARGEST_RECORD;
                let counters = &self.source.feed.counters;
                if mem::replace(&mut self.last_turn, turn) != turn {
                    add(&counters.wakeups, 1);
                }
                match passed {
                    Some(place @ None) if self.source.feed.pass_by() => *place = Some(buffer),
                    _ => {
                        if let Some(buffer) = self.source.feed.push(buffer) {
                            self.entries.lend(buffer);
                        }
                    }
                }
                true
            }
            (length, None) if length > 0 => {
                // Some buffer was filled, and the kernel did not say which: these events can't be found.
                self.fail(libc::EBADMSG, false);
                false
            }
            (result, filled) => {
                if let Some(buffer) = filled {
                    // The kernel took the buffer and brought nothing.
                    self.entries.lend(buffer);
                }
                self.ended_without_events(result);
                false
            }
        }
    }

    /// What a completion is taken to say.
    #[cfg(test)]
    fn pretend(&mut self, result: i32, id: Option<u16>) -> (i32, Option<u16>) {
        match self.pretended.take() {
            Some(Fault::End(pretended)) => (pretended, id),
            Some(Fault::Long) => (i32::MAX, id),
            Some(Fault::Astray) => (result, Some(LENT)),
            Some(cut @ Fault::Cut(_)) if self.armed => {
                self.pretended = Some(cut);
                self.to_cut = result > 0;
                (result, id)
            }
            Some(Fault::Cut(pretended)) if result == -libc::ECANCELED => (pretended, id),
            Some(cut @ Fault::Cut(_)) => {
                self.source.feed.faults.put_back(cut);
                (result, id)
            }
            _ => (result, id),
        }
    }

    fn ended_without_events(&mut self, result: i32) {
        match -result {
            // No buffer was left, which loses nothing: the lane is supplied and armed again.
            libc::ENOBUFS if self.entries.lent() == 0 => self.behind = true,
            // Ended by the kernel, or never begun. Tried again, but not for ever.
            0 | libc::ENOBUFS | libc::ECANCELED | libc::EAGAIN | libc::EINTR => {
                self.behind = true;
                self.fruitless += 1;
                if self.fruitless > MOST_FRUITLESS {
                    let code = if result == 0 { libc::EIO } else { -result };
                    self.fail(code, true);
                }
            }
            code => self.fail(code, true),
        }
    }

    /// Ends the lane. Once it was stopped, only what is lost is worth an error.
    fn fail(&mut self, code: i32, lossless: bool) {
        self.lost |= !lossless;
        if !mem::replace(&mut self.done, true) || self.lost {
            let cause = io::Error::from_raw_os_error(code);
            let error = Error::os(ErrorKind::ReaderFailed, "read events through io_uring", &cause);
            self.source.feed.queue.fail(error, lossless);
        }
    }
}
