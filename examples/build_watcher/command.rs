//! One run of the command: a process group of its own, with all that it starts.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process_group, set_child_subreaper,
    test_kill_process_group, wait, waitid, waitpgid,
};

use crate::guard::Guard;
use crate::news::{Asked, News};

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Exited(i32),
    Killed(i32),
}

impl Outcome {
    fn new(code: Option<i32>, signal: Option<i32>) -> Self {
        code.map_or(Self::Killed(signal.unwrap_or_default()), Self::Exited)
    }

    /// As a shell reports it.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code as u8,
            Self::Killed(signal) => 128 + signal as u8,
        }
    }
}

pub(crate) struct Run {
    pub(crate) number: u64,
    pub(crate) started: Instant,
    pub(crate) outcome: Option<Outcome>,
    child: Child,
    group: Pid,
}

/// Tells of the end of a run, and once that it was stopped, as by the terminal, for it is not in its foreground.
fn hear(leader: Pid, number: u64, news: &SyncSender<News>) {
    // The process stays a zombie until the run is over, so its number is not given to another meanwhile.
    let mut events = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
    while let Ok(Some(status)) = waitid(WaitId::Pid(leader), events) {
        let stopped = status.stopping_signal();
        let news_of_it = match stopped {
            None => News::Finished(number, Outcome::new(status.exit_status(), status.terminating_signal())),
            Some(signal) => News::Stopped(number, signal),
        };
        // At the end of the program, nobody asks.
        if news.send(news_of_it).is_err() || stopped.is_none() {
            return;
        }
        events.remove(WaitIdOptions::STOPPED);
    }
}

/// Has processes that have lost their parent come to us: not every first process of a container looks after them. Where
/// that is refused, others will.
pub(crate) fn adopt() {
    let _ = set_child_subreaper(Some(getpid()));
}

impl Run {
    /// Starts the command. Its end is told as news.
    pub(crate) fn start(
        number: u64,
        base: &Path,
        words: &[OsString],
        variables: Vec<(&str, OsString)>,
        own_output: bool,
        guard: &mut Guard,
        news: SyncSender<News>,
    ) -> io::Result<Self> {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(variables).current_dir(base);
        // It is not the terminal's foreground group, and would be stopped when it read from there.
        command.stdin(Stdio::null()).process_group(0);
        if !own_output {
            command.stdout(io::stderr());
        }
        guard.protect(&mut command)?;
        let child = command.spawn()?;
        let group = Pid::from_child(&child);
        thread::spawn(move || hear(group, number, &news));
        Ok(Self {
            number,
            started: Instant::now(),
            outcome: None,
            child,
            group,
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends whatever is left of the group: asks it to, and after a time of grace kills it. False if that was in vain.
    pub(crate) fn end(&mut self, grace: Duration, asked: &Asked, guard: &mut Guard) -> bool {
        let _ = kill_process_group(self.group, Signal::TERM);
        // A stopped process would hear of it only when it goes on.
        let _ = kill_process_group(self.group, Signal::CONT);
        let mut ended = self.wait_until_gone(grace, || asked.again());
        if !ended {
            let _ = kill_process_group(self.group, Signal::KILL);
            ended = self.wait_until_gone(Duration::from_secs(2), || false);
        }
        guard.release();
        // What had left the group, and has ended since.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        ended
    }

    fn wait_until_gone(&mut self, most: Duration, hurried: impl Fn() -> bool) -> bool {
        let begun = Instant::now();
        let mut pause = Duration::from_micros(100);
        loop {
            // Zombies count as some of the group; the orphans among them come to us.
            let ended = self.child.try_wait();
            if let Ok(Some(status)) = &ended {
                self.outcome.get_or_insert(Outcome::new(status.code(), status.signal()));
            }
            if !matches!(ended, Ok(None)) {
                while let Ok(Some(_)) = waitpgid(self.group, WaitOptions::NOHANG) {}
                if test_kill_process_group(self.group) == Err(Errno::SRCH) {
                    return true;
                }
            }
            if begun.elapsed() >= most || hurried() {
                return false;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }
}
