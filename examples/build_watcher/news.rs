//! All that can happen, in one queue: what the tree reports, what asks us to end, the end of the command.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Instant;

use ringwatch::tree::{Cancel, Change, Tree, TreeBatch};
use ringwatch::{Barrier, Error, Mask};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::burst::{Kind, Step};
use crate::command::Outcome;
use crate::scope::Scope;

pub(crate) enum News {
    /// And when they were read.
    Steps(Instant, Vec<Step>),
    Overflow,
    Uncovered(Error),
    Barrier(Barrier),
    /// The tree can't be read any more.
    Failed(Error),
    /// The run of this number has ended.
    Finished(u64, Outcome),
    /// It was stopped, by this signal.
    Stopped(u64, i32),
    /// [`Asked`] says what for.
    Signal,
}

/// Whether we were asked to end. Beside the queue, which may be long, and waits while a command takes its time to end.
#[derive(Default)]
pub(crate) struct Asked {
    signal: AtomicI32,
    again: AtomicBool,
}

impl Asked {
    /// By which signal.
    pub(crate) fn by(&self) -> Option<i32> {
        Some(self.signal.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
    }

    /// More than once: somebody is impatient.
    pub(crate) fn again(&self) -> bool {
        self.again.load(Ordering::Relaxed)
    }
}

/// What is to be heard of; the tree itself asks for more where it needs it.
pub(crate) fn mask(metadata: bool) -> Mask {
    let contents = Mask::CREATE | Mask::DELETE | Mask::MOVE | Mask::MODIFY | Mask::CLOSE_WRITE;
    if metadata { contents | Mask::ATTRIB } else { contents }
}

/// Reads the tree on a thread of its own.
pub(crate) fn read(tree: &Tree, scope: Arc<Scope>, news: SyncSender<News>) -> ringwatch::Result<()> {
    let mut stream = tree.stream()?;
    let tree = tree.clone();
    thread::spawn(move || {
        let mut reader = Reader { tree, scope, news };
        while let Some(batch) = stream.wait() {
            let told = match batch {
                Ok(batch) => reader.take(&batch),
                Err(error) => reader.tell(News::Failed(error)),
            };
            if !told {
                return;
            }
        }
    });
    Ok(())
}

/// Hears of signals on a thread of its own.
pub(crate) fn hear(news: SyncSender<News>, asked: Arc<Asked>, opening: Cancel) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT])?;
    thread::spawn(move || {
        for signal in signals.forever() {
            opening.cancel();
            if asked.signal.swap(signal, Ordering::Relaxed) != 0 {
                asked.again.store(true, Ordering::Relaxed);
            }
            // Where there is no room, somebody is about to take what is there, and will see.
            let _ = news.try_send(News::Signal);
        }
    });
    Ok(())
}

struct Reader {
    tree: Tree,
    scope: Arc<Scope>,
    news: SyncSender<News>,
}

impl Reader {
    fn tell(&self, news: News) -> bool {
        self.news.send(news).is_ok()
    }

    /// Passes on what counts. Answers whether anybody still wants to know.
    fn take(&mut self, batch: &TreeBatch) -> bool {
        if let Err(error) = self.renew_rules(batch) {
            return self.tell(News::Failed(error));
        }
        let (read, mut steps) = (Instant::now(), Vec::new());
        for change in batch {
            let other = if let Some(barrier) = change.barrier() {
                News::Barrier(barrier)
            } else if change.is_overflow() {
                News::Overflow
            } else if let Some(error) = change.uncovered().filter(|error| !self.scope.lacks_only_rules(error)) {
                News::Uncovered(error.clone())
            } else {
                steps.extend(self.step(&change));
                continue;
            };
            // In their order, for a barrier divides what came before it from the rest.
            if !(self.tell_steps(read, &mut steps) && self.tell(other)) {
                return false;
            }
        }
        self.tell_steps(read, &mut steps)
    }

    /// What ignore files say now is what holds. If one has changed, or may have where events were lost, the watches follow.
    fn renew_rules(&self, batch: &TreeBatch) -> ringwatch::Result<()> {
        let rules = &self.scope.rules;
        rules.forget();
        let is_lost = batch.iter().any(|change| change.is_overflow());
        match is_lost
            || batch
                .iter()
                .filter_map(|change| change.path())
                .any(|path| rules.are_in(&path))
        {
            true => self.tree.refilter(),
            false => Ok(()),
        }
    }

    fn tell_steps(&self, read: Instant, steps: &mut Vec<Step>) -> bool {
        steps.is_empty() || self.tell(News::Steps(read, std::mem::take(steps)))
    }

    fn step(&self, change: &Change<'_>) -> Option<Step> {
        let path = change.path()?;
        let (mask, is_dir) = (change.mask(), change.is_dir());
        // What is told of a root itself is told of its entries too, but for its metadata.
        if change.name().is_none() && !mask.contains(Mask::ATTRIB) {
            return None;
        }
        let kind = if mask.contains(Mask::MOVED_TO) {
            match change.renamed_from() {
                Some(from) => Kind::Arrived(from.to_owned()),
                // A file was asked for by its name because it was there.
                None if self.scope.is_file(&path) => Kind::Written,
                None => Kind::Created,
            }
        } else if mask.contains(Mask::CREATE) {
            Kind::Created
        } else if mask.intersects(Mask::DELETE | Mask::MOVED_FROM) {
            Kind::Removed
        } else {
            Kind::Written
        };
        // With --only, a directory as such does not count; but with a rename, all that is in it comes or goes.
        let counts = !(is_dir && self.scope.rules.choose()) || mask.intersects(Mask::MOVE);
        (counts && self.scope.has(&path, is_dir)).then_some(Step { path, is_dir, kind })
    }
}
