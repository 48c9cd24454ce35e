//! A small process that ends the command when the watcher is gone and could not do so itself, as after `SIGKILL`.
//!
//! It holds the reading end of a pipe. What comes through it is the number of the process group to look after, written
//! by each command itself before it becomes the command, so there is no moment without care; and 0 when it is over. The
//! end of the pipe is the end of the watcher.
//!
//! Not in its care is what leaves its group, as daemons do (`setsid`); and if somebody kills the guard and the watcher
//! at once, nobody is left to do anything.

use std::env;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process_group, test_kill_process_group};

/// The first argument of the guard. It is the same program.
const ROLE: &str = "--guard";

pub(crate) struct Guard {
    grace: Duration,
    child: Child,
    pipe: ChildStdin,
}

impl Guard {
    pub(crate) fn new(grace: Duration) -> io::Result<Self> {
        // Also if the file was replaced by a newer build, this is what runs here.
        let mut child = Command::new("/proc/self/exe")
            .arg0("build_watcher")
            .args([ROLE, &grace.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C is for the watcher.
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { grace, child, pipe })
    }

    /// Has the command put itself under guard when it starts.
    #[allow(unsafe_code, reason = "what a process does between fork and exec is unsafe to say")]
    pub(crate) fn protect(&mut self, command: &mut Command) -> io::Result<()> {
        // Or it has been waited for, as one of many.
        if !matches!(self.child.try_wait(), Ok(None)) {
            *self = Self::new(self.grace)?;
        }
        let pipe = rustix::io::fcntl_dupfd_cloexec(&self.pipe, 0)?;
        let register = move || {
            let group = getpid().as_raw_nonzero().get();
            rustix::io::write(&pipe, &group.to_ne_bytes())?;
            Ok(())
        };
        // SAFETY: what runs between fork and exec are two system calls, which are async-signal-safe, on a descriptor that
        // the closure owns; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(register) };
        Ok(())
    }

    /// There is nothing to look after.
    pub(crate) fn release(&mut self) {
        // A guard that is gone is replaced at the next start.
        let _ = self.pipe.write_all(&0_i32.to_ne_bytes());
    }
}

/// What the guard itself does, if this process is to be it.
pub(crate) fn serve() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    if arguments.next()? != ROLE {
        return None;
    }
    let grace = Duration::from_millis(arguments.next()?.to_str()?.parse().ok()?);
    let mut group = 0;
    let mut message = [0; 4];
    while io::stdin().read_exact(&mut message).is_ok() {
        group = i32::from_ne_bytes(message);
    }
    if let Some(group) = Pid::from_raw(group) {
        end(group, grace);
    }
    Some(ExitCode::SUCCESS)
}

fn end(group: Pid, grace: Duration) {
    let begun = Instant::now();
    let _ = kill_process_group(group, Signal::TERM);
    let _ = kill_process_group(group, Signal::CONT);
    while test_kill_process_group(group).is_ok() {
        if begun.elapsed() >= grace {
            let _ = kill_process_group(group, Signal::KILL);
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
