//! What follows from what: changes settle, the command is run, ended, run again.

use std::collections::BTreeSet;
use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use ringwatch::Barrier;
use ringwatch::tree::Tree;

use crate::burst::{Burst, Effect, Effects, Step};
use crate::command::{self, Outcome, Run};
use crate::git::{self, Git};
use crate::guard::Guard;
use crate::news::{Asked, News};
use crate::options::{OnBusy, Options};
use crate::report::Report;
use crate::rounds::{Rounds, Verdict};
use crate::scope::Scope;

/// A burst that does not end is cut off, so long after the first moment at which it could have settled.
const LONGEST_BURST: Duration = Duration::from_secs(10);

/// So long before the end of a burst we ask whether all was told, for the answer takes a moment.
const LEAD: Duration = Duration::from_millis(2);

pub(crate) struct Watcher<'a> {
    options: &'a Options,
    scope: &'a Scope,
    report: &'a Report,
    tree: &'a Tree,
    git: Git,
    guard: Guard,
    news: Receiver<News>,
    /// For those who will have news.
    tell: SyncSender<News>,
    asked: Arc<Asked>,
    burst: Burst,
    settling: Option<Settling>,
    run: Option<Run>,
    /// Behind all that happened while the last run was under way.
    end_of_run: Option<Barrier>,
    runs: u64,
    /// Why and what for there is to be another run, when this one has ended.
    queued: Option<(&'static str, Effects)>,
    rounds: Rounds,
    /// With `--once`, the command's exit code: what we are here for is done.
    code: Option<u8>,
}

/// Something has changed, and nothing more may.
struct Settling {
    since: Instant,
    until: Instant,
    told: Told,
}

/// Whether all that happened has been told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    NotAsked,
    /// When this comes, it has been.
    Asked(Barrier),
    All,
}

/// Why the watcher ends.
pub(crate) type Ended = Result<ExitCode, Box<dyn Error>>;

impl<'a> Watcher<'a> {
    pub(crate) fn new(
        options: &'a Options,
        scope: &'a Scope,
        report: &'a Report,
        tree: &'a Tree,
        (tell, news): (SyncSender<News>, Receiver<News>),
        asked: Arc<Asked>,
    ) -> std::io::Result<Self> {
        command::adopt();
        Ok(Self {
            git: Git::around(scope.roots()),
            guard: Guard::new(options.grace)?,
            burst: Burst::default(),
            settling: None,
            run: None,
            end_of_run: None,
            runs: 0,
            queued: None,
            rounds: Rounds::default(),
            code: None,
            options,
            scope,
            report,
            tree,
            news,
            tell,
            asked,
        })
    }

    /// Watches until it is asked to end.
    pub(crate) fn watch(&mut self) -> Ended {
        if !self.options.postpone {
            self.start("start", &Effects::new());
        }
        let ended = loop {
            if let Some(signal) = self.asked.by() {
                break Ok(128 + signal as u8);
            }
            if let Some(code) = self.code {
                break Ok(code);
            }
            if let Err(error) = self.next() {
                break Err(error);
            }
        };
        self.end_run();
        ended.map(ExitCode::from)
    }

    fn next(&mut self) -> Result<(), Box<dyn Error>> {
        let timeout = self.settling.as_ref().and_then(|settling| {
            let left = settling.until.saturating_duration_since(Instant::now());
            match settling.told {
                Told::NotAsked => Some(left.saturating_sub(LEAD)),
                Told::Asked(_) => None,
                Told::All => Some(left),
            }
        });
        let news = match timeout {
            Some(timeout) => self.news.recv_timeout(timeout),
            None => self.news.recv().map_err(RecvTimeoutError::from),
        };
        match news {
            Ok(News::Steps(read, steps)) => self.stir(read, steps),
            Ok(News::Overflow) => {
                self.report.overflowed();
                self.burst.overflowed = true;
                self.stir(Instant::now(), Vec::new());
            }
            Ok(News::Barrier(barrier)) => self.passed(barrier),
            Ok(News::Uncovered(error)) => self.report.uncovered(&error),
            Ok(News::Finished(number, outcome)) => self.finished(number, outcome)?,
            Ok(News::Stopped(number, signal)) => self.report.stopped(number, signal),
            Ok(News::Signal) => {}
            Ok(News::Failed(error)) => return Err(error.into()),
            Err(_) => self.quiet()?,
        }
        Ok(())
    }

    fn stir(&mut self, since: Instant, steps: Vec<Step>) {
        self.burst
            .touch(self.run.is_some() && (self.is_busy() || self.end_of_run.is_some()));
        for step in steps {
            self.burst.add(step);
        }
        let pause = match self.burst.during_run {
            true => self.rounds.pause(),
            false => Duration::ZERO,
        };
        let settle = self.options.settle + pause;
        let most = self.burst.first.unwrap_or(since) + settle + LONGEST_BURST;
        let is_at_its_end = self
            .settling
            .as_ref()
            .is_some_and(|settling| settling.told != Told::NotAsked);
        if since >= most && is_at_its_end {
            return;
        }
        let until = since + settle;
        let until = if self.git.is_at_work() { until } else { until.min(most) };
        let told = Told::NotAsked;
        self.settling = Some(Settling { since, until, told });
    }

    /// It was quiet for long enough, or nearly so.
    fn quiet(&mut self) -> ringwatch::Result<()> {
        let Some(settling) = &mut self.settling else {
            return Ok(());
        };
        if settling.told == Told::All {
            self.settling = None;
            self.settled();
        } else if settling.since.elapsed() < git::PATIENCE && self.git.is_at_work() {
            settling.until = Instant::now() + self.options.settle.max(Duration::from_millis(10));
        } else {
            settling.told = Told::Asked(self.tree.barrier()?);
        }
        Ok(())
    }

    fn passed(&mut self, barrier: Barrier) {
        if self.end_of_run == Some(barrier) {
            self.end_of_run = None;
        } else if let Some(settling) = &mut self.settling
            && settling.told == Told::Asked(barrier)
        {
            settling.told = Told::All;
        }
    }

    fn settled(&mut self) {
        let burst = std::mem::take(&mut self.burst);
        let effects = burst.effects();
        let is_over = self.options.once && self.runs > 0;
        if is_over || effects.is_empty() && !burst.overflowed {
            return;
        }
        self.report.settled(&effects);
        if burst.during_run && self.options.on_busy == OnBusy::Ignore {
            return self.report.ignored(self.runs, "as the command was running");
        }
        if !self.may_run(&burst, &effects) {
            return;
        }
        let reason = if burst.overflowed { "overflow" } else { "change" };
        if self.is_busy() && self.options.on_busy == OnBusy::Queue {
            let queued = self.queued.get_or_insert((reason, Effects::new()));
            if burst.overflowed {
                queued.0 = reason;
            }
            queued.1.extend(effects);
            return self.report.queued(self.runs);
        }
        self.start(reason, &effects);
    }

    /// Whether another run would not be for what the command itself has done, again.
    fn may_run(&mut self, burst: &Burst, effects: &Effects) -> bool {
        let (Some(run), true, Some(first)) = (&self.run, burst.during_run, burst.first) else {
            self.rounds.changed_from_outside();
            return true;
        };
        let paths: Vec<_> = effects.keys().cloned().collect();
        let verdict = self
            .rounds
            .changed_by_run(paths.clone(), first.saturating_duration_since(run.started));
        if matches!(verdict, Verdict::Warn | Verdict::Stop) {
            self.report.loops(&paths, verdict == Verdict::Stop);
        } else if verdict == Verdict::Stay {
            self.report.ignored(self.runs, "as the command does that itself");
        }
        matches!(verdict, Verdict::Run | Verdict::Warn)
    }

    fn is_busy(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.outcome.is_none())
    }

    fn finished(&mut self, number: u64, outcome: Outcome) -> ringwatch::Result<()> {
        // It may be of a run that was ended since.
        let Some(run) = self.run.as_mut().filter(|run| run.number == number) else {
            return Ok(());
        };
        run.outcome = Some(outcome);
        // First of all, for what is done by those who read the report is not done by the run.
        self.end_of_run = Some(self.tree.barrier()?);
        self.report.finished(number, outcome, run.started.elapsed(), false);
        if self.options.once {
            self.code = Some(outcome.code());
        } else if let Some((reason, effects)) = self.queued.take() {
            self.start(reason, &effects);
        }
        Ok(())
    }

    fn start(&mut self, reason: &str, effects: &Effects) {
        if self.is_busy() {
            self.report.ending(self.runs);
        }
        self.end_run();
        if self.asked.by().is_some() {
            return;
        }
        self.runs += 1;
        self.report.starting(self.runs, effects);
        let variables = variables(self.runs, reason, effects);
        let (words, own_output) = (&self.options.command, !self.options.json);
        match Run::start(
            self.runs,
            &self.scope.base,
            words,
            variables,
            own_output,
            &mut self.guard,
            self.tell.clone(),
        ) {
            Ok(run) => {
                self.report.started(self.runs, run.id());
                self.run = Some(run);
            }
            Err(cause) => {
                let (message, code) = crate::why_not_started(&self.scope.base, words, &cause);
                self.report.not_started(self.runs, &message);
                self.code = self.options.once.then_some(code);
            }
        }
    }

    fn end_run(&mut self) {
        self.end_of_run = None;
        let Some(mut run) = self.run.take() else { return };
        let was_busy = run.outcome.is_none();
        if !run.end(self.options.grace, &self.asked, &mut self.guard) {
            self.report.left(run.number);
        }
        if let Some(outcome) = run.outcome.filter(|_| was_busy) {
            self.report.finished(run.number, outcome, run.started.elapsed(), true);
        }
    }
}

/// What the command is told. The kernel takes no variable over 128 KiB; paths beyond half of that are only counted, and so
/// are those with a line break in them, which would pass for two.
fn variables(run: u64, reason: &str, effects: &Effects) -> Vec<(&'static str, OsString)> {
    const MOST: usize = 64 * 1024;
    // Of a rename, what was there before has changed too.
    let changed = effects.iter().flat_map(|(path, effect)| match effect {
        Effect::RenamedFrom(from) => vec![from, path],
        _ => vec![path],
    });
    let changed: BTreeSet<_> = changed.collect();
    let mut paths = OsString::new();
    for path in &changed {
        if path.as_os_str().as_encoded_bytes().contains(&b'\n') {
            continue;
        }
        if paths.len() + path.as_os_str().len() >= MOST {
            break;
        }
        if !paths.is_empty() {
            paths.push("\n");
        }
        paths.push(path);
    }
    vec![
        ("BUILD_WATCHER_RUN", run.to_string().into()),
        ("BUILD_WATCHER_REASON", reason.into()),
        ("BUILD_WATCHER_COUNT", changed.len().to_string().into()),
        ("BUILD_WATCHER_PATHS", paths),
    ]
}
