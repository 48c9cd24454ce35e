//! A hand-written epoll loop with a watcher in it, beside another descriptor.
//!
//! ```sh
//! cargo run --example epoll_loop            # writes some files itself, and ends
//! cargo run --example epoll_loop -- DIR     # watches DIR, until Enter or Ctrl-D
//! ```
//!
//! It shows that a `Reader` is one descriptor to wait on: once that is readable, take with `try_next` until there is
//! nothing, then wait again. And how to stop without losing anything: a barrier arrives behind all that happened before
//! it was set.

use std::error::Error;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::{env, fs, io, thread};

use ringwatch::{Inotify, Mask};

const WATCHER: u64 = 0;
const STOP: u64 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let inotify = Inotify::new()?;
    if let Some(dir) = env::args_os().nth(1) {
        inotify.add_watch(&dir, Mask::CHANGES)?;
        println!("watching until Enter");
        return run(&inotify, io::stdin().as_fd());
    }
    let dir = tempfile::tempdir()?;
    inotify.add_watch(dir.path(), Mask::CHANGES)?;
    let (stop, done) = io::pipe()?;
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            // The pipe becomes readable when its other end is closed, also if the writing fails.
            let _done = done;
            write_files(dir.path())
        });
        run(&inotify, stop.as_fd())?;
        Ok(writer.join().expect("writing files does not panic")?)
    })
}

fn write_files(dir: &Path) -> io::Result<()> {
    for name in ["one", "two", "three"] {
        fs::write(dir.join(name), name)?;
    }
    fs::rename(dir.join("one"), dir.join("four"))?;
    fs::remove_file(dir.join("two"))
}

/// Prints events until `stop` is readable.
fn run(inotify: &Inotify, stop: BorrowedFd<'_>) -> Result<(), Box<dyn Error>> {
    let mut reader = inotify.reader()?;
    let epoll = Epoll::new()?;
    epoll.add(reader.as_fd(), libc::EPOLLIN, WATCHER)?;
    epoll
        .add(stop, libc::EPOLLIN | libc::EPOLLONESHOT, STOP)
        .map_err(|cause| format!("wait for what ends it: {cause}; a terminal or a pipe will do"))?;
    loop {
        match epoll.wait()? {
            WATCHER => {
                while let Some(batch) = reader.try_next()? {
                    for event in &batch {
                        if event.barrier().is_some() {
                            println!("that was all");
                            return Ok(());
                        }
                        println!("{event:?}");
                    }
                }
            }
            // To return here would lose what happened and was not read yet.
            STOP => drop(inotify.barrier()?),
            token => unreachable!("nothing was added as {token}"),
        }
    }
}

struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call above made this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    fn add(&self, fd: BorrowedFd<'_>, interest: i32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest.cast_unsigned(),
            u64: token,
        };
        let (epoll, fd) = (self.fd.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: both descriptors are open, and `event` lives through the call, which copies it.
        checked(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
        Ok(())
    }

    /// Waits until a descriptor is ready, and answers its token.
    fn wait(&self) -> io::Result<u64> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        loop {
            // SAFETY: there is room for the one event that is asked for, and it lives through the call.
            let ready = checked(unsafe { libc::epoll_wait(self.fd.as_raw_fd(), &raw mut event, 1, -1) });
            match ready {
                Ok(_) => return Ok(event.u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
