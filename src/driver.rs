//! The reader thread: drives one engine for all streams of the process that want the same of it.
//!
//! It starts with the first stream and ends with the last. Streams with another backend or another window have a thread of
//! their own, so nobody's window delays anybody else. It only moves filled buffers to queues: however slow a consumer is,
//! the others do not notice.

use std::collections::VecDeque;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{self, Arc, PoisonError};
use std::time::Duration;

use crate::backend::Features;
use crate::core::Unmade;
use crate::engine::{Engine, Source, SourceId, Wait};
use crate::error::{Error, ErrorKind};
use crate::queue::{Failure, Feed};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::fork::{Home, PerProcess};
use crate::sys::notifier::Notifier;
use crate::sys::rlimit;
use crate::sys::thread::spawn_without_signals;

/// The name the thread has in `ps -L` and in panics.
const NAME: &str = "ringwatch";

/// What a stream wants of its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// io_uring with these features, or epoll.
    pub(crate) uring: Option<Features>,
    pub(crate) window: Duration,
}

/// A handle on a reader thread.
#[derive(Clone, Debug)]
pub(crate) struct Driver(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    wanted: Wanted,
    /// A child of `fork` does not have the thread.
    home: Home,
    notifier: Arc<Notifier>,
    mailbox: Mutex<Mailbox>,
}

#[derive(Debug, Default)]
struct Mailbox {
    commands: VecDeque<Command>,
    /// What is read; kept here so that a panic of the thread finds it.
    attached: Vec<(SourceId, Arc<Feed>)>,
    /// The thread has ended, for this reason if it was an error of the system. Nothing is read any more, and commands are
    /// carried out by who gives them.
    ended: Option<Option<i32>>,
}

#[derive(Debug)]
enum Command {
    Attach(Source, SyncSender<Result<(), Unattached>>),
    Detach(Arc<Feed>),
    GiveUp,
    #[cfg(test)]
    Panic,
    /// Fails with this error once the sender is gone.
    #[cfg(test)]
    Fail(i32, Receiver<()>),
    /// Once the sender is gone, its ring is refused at the next call.
    #[cfg(test)]
    Deny(i32, Receiver<()>),
}

/// Why a source is not read.
#[derive(Debug)]
pub(crate) enum Unattached {
    /// The engine can't take it in.
    Refused(io::Error),
    /// The thread has ended before it came to that, for this reason if it was an error of the system. It says nothing of
    /// this source.
    Ended(Option<i32>),
}

/// How a driver was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// It was there. It may be failing, for reasons that are not this stream's.
    Another,
    /// It was made for this stream.
    Own,
}

/// The drivers of this process, each with the number of its streams.
static DRIVERS: PerProcess<sync::Mutex<Vec<(Driver, usize)>>> = PerProcess::new();

fn drivers() -> sync::MutexGuard<'static, Vec<(Driver, usize)>> {
    DRIVERS.get().lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) fn hold() -> impl Sized {
    drivers()
}

impl Driver {
    /// A driver for one more stream; each call is answered by one `detach`, or by `give_up`.
    pub(crate) fn join(wanted: Wanted) -> Result<(Self, Joined), Unmade> {
        let mut drivers = drivers();
        let fits = |driver: &Self| driver.0.wanted == wanted;
        if let Some((driver, streams)) = drivers.iter_mut().find(|(driver, _)| fits(driver)) {
            *streams += 1;
            return Ok((driver.clone(), Joined::Another));
        }
        let driver = Self(Arc::new(Shared {
            wanted,
            home: Home::new(),
            notifier: Arc::new(Notifier::new()?),
            mailbox: Mutex::new(Mailbox::default()),
        }));
        let (ready, started) = sync_channel(1);
        let body = driver.clone();
        let started_thread = spawn_without_signals(NAME, move || body.run(ready));
        started_thread.map_err(|cause| Unmade::Other(no_thread(&cause)))?;
        let panicked = |_| {
            let cause = "the reader thread panicked";
            Unmade::Other(Error::text(ErrorKind::ReaderFailed, "start reader thread", cause))
        };
        started.recv().map_err(panicked)??;
        drivers.push((driver.clone(), 1));
        Ok((driver, Joined::Own))
    }

    /// Has a source read from now on. The answer comes when that is so.
    pub(crate) fn attach(&self, source: Source) -> Receiver<Result<(), Unattached>> {
        let (done, attached) = sync_channel(1);
        self.tell(Command::Attach(source, done));
        attached
    }

    /// Has a feed's source no longer read, and the feed told when that is so. Does not wait for it.
    pub(crate) fn detach(&self, feed: Arc<Feed>) {
        self.tell(Command::Detach(feed));
    }

    /// The stream that joined was not made.
    pub(crate) fn give_up(&self) {
        self.tell(Command::GiveUp);
    }

    /// One whose thread is a model's: see [`Driver::obey`].
    #[cfg(loom)]
    pub(crate) fn modelled(notifier: Arc<Notifier>) -> Self {
        let wanted = Wanted {
            uring: None,
            window: Duration::ZERO,
        };
        let driver = Self(Arc::new(Shared {
            wanted,
            home: Home::new(),
            notifier,
            mailbox: Mutex::new(Mailbox::default()),
        }));
        drivers().push((driver.clone(), 1));
        driver
    }

    /// What the thread does, without an engine: obeys until its last stream is gone, then ends.
    #[cfg(loom)]
    pub(crate) fn obey(&self) {
        loop {
            let command = self.mailbox().commands.pop_front();
            match command {
                Some(Command::Detach(feed)) => {
                    feed.queue.left();
                    if self.one_less() {
                        return self.end(None, None);
                    }
                }
                Some(_) => unreachable!("models only detach"),
                None if self.0.notifier.clear() => {}
                None => drop(self.0.notifier.sleep(Duration::MAX)),
            }
        }
    }

    /// The thread ends by a failure.
    #[cfg(loom)]
    pub(crate) fn fail(&self) {
        self.unlist();
        let error = Error::text(ErrorKind::ReaderFailed, "model", "it fails");
        self.end(Some(&Failure { error, lossless: false }), None);
    }

    #[cfg(test)]
    fn panic(&self) {
        self.tell(Command::Panic);
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.0.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, command: Command) {
        if !self.0.home.is_here() {
            return;
        }
        let mut mailbox = self.mailbox();
        if let Some(code) = mailbox.ended {
            drop(mailbox);
            command.refuse(code);
            return;
        }
        mailbox.commands.push_back(command);
        drop(mailbox);
        self.0.notifier.signal();
    }

    /// One stream less. Answers whether it was the last; then the driver can't be joined any more.
    fn one_less(&self) -> bool {
        let mut drivers = drivers();
        let Some(place) = drivers.iter().position(|(driver, _)| Arc::ptr_eq(&driver.0, &self.0)) else {
            return true;
        };
        drivers[place].1 -= 1;
        let last = drivers[place].1 == 0;
        if last {
            drivers.swap_remove(place);
        }
        last
    }

    /// It can't be joined any more.
    fn unlist(&self) {
        drivers().retain(|(driver, _)| !Arc::ptr_eq(&driver.0, &self.0));
    }

    fn run(&self, ready: SyncSender<io::Result<()>>) {
        let drive = || {
            let notifier = Arc::clone(&self.0.notifier);
            let mut engine = match Engine::new(self.0.wanted.uring, 64, notifier) {
                Ok(engine) => engine,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return Ok(());
                }
            };
            let _ = ready.send(Ok(()));
            self.drive(&mut engine).map_err(|cause| {
                let lossless = engine.lost_nothing();
                let error = engine.failure(&cause);
                (Failure { error, lossless }, cause.raw_os_error())
            })
        };
        let ended = panic::catch_unwind(AssertUnwindSafe(drive));
        let (failure, code) = match ended {
            Ok(Ok(())) => return self.end(None, None),
            Ok(Err(failed)) => failed,
            Err(panic) => {
                let message = panic.downcast_ref::<&str>().copied();
                let message = message.or(panic.downcast_ref::<String>().map(String::as_str));
                let cause = format!("the reader thread panicked: {}", message.unwrap_or("?"));
                let error = Error::text(ErrorKind::ReaderFailed, "wait for events", cause);
                let lossless = false;
                (Failure { error, lossless }, None)
            }
        };
        self.end(Some(&failure), code);
    }

    /// Reads until the last stream is gone.
    fn drive(&self, engine: &mut Engine) -> io::Result<()> {
        // Before anything else is done about a failure, or a panic.
        let _unlisted = Unlisted(self);
        loop {
            // All of them before it waits again: what an engine does for a command can take a signal with it.
            let command = self.mailbox().commands.pop_front();
            let Some(command) = command else {
                let passed = engine.turn(Wait::forever(self.0.wanted.window))?;
                debug_assert!(passed.is_none(), "this engine is not in place");
                continue;
            };
            let last = match command {
                Command::Attach(source, done) => {
                    let feed = Arc::clone(&source.feed);
                    let attached = engine.attach(source);
                    let attached = attached.map(|id| self.mailbox().attached.push((id, feed)));
                    // Whoever asked may have gone.
                    let _ = done.send(attached.map_err(Unattached::Refused));
                    false
                }
                Command::Detach(feed) => {
                    self.let_go(engine, &feed);
                    self.one_less()
                }
                Command::GiveUp => self.one_less(),
                #[cfg(test)]
                Command::Panic => panic!("asked to"),
                #[cfg(test)]
                Command::Fail(code, when) => {
                    let _ = when.recv();
                    return Err(io::Error::from_raw_os_error(code));
                }
                #[cfg(test)]
                Command::Deny(code, when) => {
                    let _ = when.recv();
                    // Reads are under way, so that to detach takes a call.
                    engine.turn(Wait::NOT)?;
                    if let Engine::Uring(uring) = engine {
                        uring.deny(code);
                    }
                    false
                }
            };
            if last {
                return Ok(());
            }
            if let Some(cause) = engine.refused() {
                return Err(cause);
            }
        }
    }

    fn let_go(&self, engine: &mut Engine, feed: &Arc<Feed>) {
        let mut mailbox = self.mailbox();
        let place = mailbox.attached.iter().position(|(_, other)| Arc::ptr_eq(other, feed));
        let found = place.map(|place| mailbox.attached.swap_remove(place));
        drop(mailbox);
        // Also if the engine panics: whoever waits for the place would wait for ever.
        let _left = Left(feed);
        if let Some((id, _)) = found {
            engine.detach(id);
        }
    }

    /// The thread ends, and nobody can join it any more: who is refused here and joins again finds another. Tells every
    /// stream that is left why there will be no more.
    fn end(&self, failure: Option<&Failure>, code: Option<i32>) {
        let mut mailbox = self.mailbox();
        mailbox.ended = Some(code);
        let attached = std::mem::take(&mut mailbox.attached);
        let commands = std::mem::take(&mut mailbox.commands);
        drop(mailbox);
        if let Some(Failure { error, lossless }) = failure {
            let fail = |(_, feed): &(_, Arc<Feed>)| feed.queue.fail(error.clone(), *lossless);
            attached.iter().for_each(fail);
        }
        commands.into_iter().for_each(|command| command.refuse(code));
    }
}

/// Has a driver joined no more.
struct Unlisted<'a>(&'a Driver);

impl Drop for Unlisted<'_> {
    fn drop(&mut self) {
        self.0.unlist();
    }
}

/// Frees the place of a feed's reading half.
struct Left<'a>(&'a Feed);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.0.queue.left();
    }
}

fn no_thread(cause: &io::Error) -> Error {
    Error::os(ErrorKind::Other, "start reader thread", cause).mended_by(rlimit::threads())
}

impl Command {
    /// There is no thread to carry it out.
    fn refuse(self, code: Option<i32>) {
        match (self, code) {
            (Self::Detach(feed), _) => feed.queue.left(),
            (Self::Attach(_, done), code) => {
                // Whoever asked may have gone.
                let _ = done.send(Err(Unattached::Ended(code)));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
