//! A project to work on, and a watcher that watches it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::PATIENCE;

/// Longer than this machine may pause a test between two changes that belong together.
const SETTLE: &str = "400ms";

/// The example, which cargo builds beside the tests.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the test itself");
    let profile = test.ancestors().nth(2).expect("the directory of the profile");
    profile.join("examples/build_watcher")
}

/// A cargo project in a git checkout, and a place outside for what is counted.
pub(crate) struct Project {
    pub(crate) dir: TempDir,
    pub(crate) outside: TempDir,
}

impl Project {
    pub(crate) fn new() -> Self {
        let project = Self {
            dir: tempfile::tempdir().expect("a directory"),
            outside: tempfile::tempdir().expect("a directory"),
        };
        fs::create_dir(project.home()).expect("a home");
        project.write(
            "Cargo.toml",
            "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
        );
        project.write(
            "Cargo.lock",
            "version = 3\n\n[[package]]\nname = \"small\"\nversion = \"0.1.0\"\n",
        );
        project.write("src/main.rs", "mod part;\nfn main() {}\n");
        project.write("src/part/mod.rs", "// a part\n");
        project.write("src/part/more.rs", "// more of it\n");
        project.write(".gitignore", "/target\n*.log\n");
        project.git(&["init", "--quiet", "--initial-branch", "main"]);
        project.git(&["add", "."]);
        project.git(&["commit", "--quiet", "--message", "begin"]);
        project
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    pub(crate) fn write(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).expect("written");
    }

    pub(crate) fn write_home(&self, relative: &str, text: &str) {
        let path = self.home().join(relative);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).expect("written");
    }

    pub(crate) fn remove(&self, relative: &str) {
        fs::remove_file(self.path(relative)).expect("removed");
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).expect("renamed");
    }

    pub(crate) fn git(&self, arguments: &[&str]) {
        let mut git = Command::new("git");
        git.args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "-c",
            "commit.gpgsign=false",
        ]);
        git.args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"]);
        self.settle_in(&mut git);
        succeed(git.args(arguments).current_dir(self.dir.path()));
    }

    /// The example with these arguments, in the project. It finds no configuration of whoever runs the tests.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).current_dir(self.dir.path());
        self.settle_in(&mut command);
        command
    }

    /// Gives a home to a command; but cargo and rustup find theirs.
    fn settle_in(&self, command: &mut Command) {
        let home = std::env::home_dir().unwrap_or_default();
        for (name, place) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if std::env::var_os(name).is_none() {
                command.env(name, home.join(place));
            }
        }
        command.env("HOME", self.home()).env("GIT_CONFIG_SYSTEM", "/dev/null");
        command.env_remove("XDG_CONFIG_HOME").env_remove("GIT_CONFIG_GLOBAL");
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.outside.path().join("home")
    }

    /// The lines that commands have added so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.outside.path().join("runs")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// A command that counts itself.
    pub(crate) fn counting(&self, then: &str) -> Vec<String> {
        let runs = self.outside.path().join("runs");
        let script = format!("echo $BUILD_WATCHER_REASON >> {}; {then}", runs.display());
        ["sh", "-c", &script].map(str::to_owned).to_vec()
    }

    /// Watches with these options, and has waited for the first run to end.
    pub(crate) fn watch(&self, options: &[&str], then: &str) -> Watcher {
        let mut watcher = self.begin(options, &self.counting(then));
        watcher.await_event("finished");
        watcher
    }

    pub(crate) fn begin(&self, options: &[&str], command: &[String]) -> Watcher {
        let options: Vec<_> = ["--settle", SETTLE].iter().chain(options).copied().collect();
        self.begin_with(&options, command)
    }

    /// With the settling time that these options say, if any.
    pub(crate) fn begin_with(&self, options: &[&str], command: &[String]) -> Watcher {
        let words = ["--json"].iter().chain(options).chain(&["--"]);
        let words = words.copied().chain(command.iter().map(String::as_str));
        self.begin_as(self.command(words))
    }

    pub(crate) fn begin_as(&self, mut command: Command) -> Watcher {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the example; cargo test builds it");
        let stdout = child.stdout.take().expect("its stdout");
        let stderr = child.stderr.take().expect("its stderr");
        let (tell, events) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).expect("JSON");
                let _ = tell.send(event);
            }
        });
        let said = thread::spawn(move || {
            let mut said = String::new();
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("| {line}");
                said += &line;
                said += "\n";
            }
            said
        });
        Watcher {
            child,
            events,
            said: Some(said),
        }
    }
}

pub(crate) fn succeed(command: &mut Command) {
    let output = command.output().expect("it can be run");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
}

/// A running watcher, and what it tells.
pub(crate) struct Watcher {
    child: Child,
    events: Receiver<Value>,
    said: Option<JoinHandle<String>>,
}

impl Watcher {
    pub(crate) fn next(&mut self) -> Value {
        let event = self.events.recv_timeout(PATIENCE).expect("news from the watcher");
        eprintln!("{event}");
        event
    }

    /// Waits for an event of each of these kinds, in whatever order.
    pub(crate) fn await_all(&mut self, kinds: &[&str]) {
        let mut missing = kinds.to_vec();
        while !missing.is_empty() {
            let event = self.next();
            missing.retain(|kind| event["event"] != *kind);
        }
    }

    /// The next event of this kind.
    pub(crate) fn await_event(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next();
            if event["event"] == kind {
                return event;
            }
        }
    }

    /// These changes are one burst, and one run follows, before anything else.
    ///
    /// They are made while the watcher is stopped: if this machine were to pause the test between two of them, they would
    /// rightly be two.
    pub(crate) fn runs_once(&mut self, changes: &[&str], make: impl FnOnce()) {
        self.signal(libc::SIGSTOP);
        make();
        self.signal(libc::SIGCONT);
        self.expect_run(changes);
    }

    /// The next thing that happens is a burst of these changes, and one run for it.
    pub(crate) fn expect_run(&mut self, changes: &[&str]) {
        let settled = self.next();
        assert_eq!(settled["event"], "settled", "{settled}");
        assert_eq!(told(&settled), changes, "{settled}");
        let started = self.next();
        assert_eq!(started["event"], "started", "{started}");
        let finished = self.next();
        assert_eq!(finished["event"], "finished", "{finished}");
        assert_eq!(started["run"], finished["run"]);
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let signal = rustix::process::Signal::from_named_raw(signal).expect("a signal");
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Asks it to end, and says how it did.
    pub(crate) fn stop(mut self, signal: i32) -> ExitStatus {
        self.signal(signal);
        self.child.wait().expect("its end")
    }

    /// As `stop`, and answers what it and the command have said beside the events.
    pub(crate) fn end(mut self, signal: i32) -> String {
        self.signal(signal);
        self.child.wait().expect("its end");
        let said = self.said.take().expect("asked once");
        said.join().expect("all of it")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("its end")
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The changes of a burst: the effect and the last part of the path, or the last two.
fn told(settled: &Value) -> Vec<String> {
    let changes = settled["changes"].as_array().expect("changes");
    let name = |path: &Value| {
        let path = Path::new(path.as_str().expect("a path"));
        path.file_name().expect("a name").to_string_lossy().into_owned()
    };
    let change = |change: &Value| {
        let effect = change["effect"].as_str().expect("an effect");
        match change.get("from") {
            Some(from) => format!("{effect} {} {}", name(from), name(&change["path"])),
            None => format!("{effect} {}", name(&change["path"])),
        }
    };
    changes.iter().map(change).collect()
}

/// Waits for what another process does, which nobody reports.
pub(crate) fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(std::time::Duration::from_millis(5));
    }
}

pub(crate) fn was_killed_by(status: ExitStatus, signal: i32) -> bool {
    status.signal() == Some(signal)
}
