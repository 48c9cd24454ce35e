//! In a real terminal, which `script` makes.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::project::{Project, program, wait_until};
use crate::support::skip;

/// A terminal with the watcher in it.
struct Terminal {
    script: Child,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(project: &Project, command: &str) -> Option<Self> {
        let line = format!("exec {} --settle 400ms --grace 50ms {command}", program().display());
        let started = Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .current_dir(project.dir.path())
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut script = started
            .map_err(|cause| skip("a terminal", "RINGWATCH_REQUIRE_TERMINAL", &cause))
            .ok()?;
        let mut output = script.stdout.take().expect("its output");
        let screen = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&screen);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                shown.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Some(Self { script, screen })
    }

    fn shown(&self) -> String {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn await_text(&self, text: &str, times: usize) {
        wait_until(&format!("{times} times {text:?}"), || {
            self.shown().matches(text).count() == times
        });
    }
}

impl Drop for Terminal {
    /// Without its terminal the watcher ends too.
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[test]
fn a_terminal_gets_colours_and_ctrl_c_ends_it_all() {
    let project = Project::new();
    let command = project.counting("sleep 1000");
    let Some(mut terminal) = Terminal::open(&project, &format!("--clear -- sh -c '{}'", command[2])) else {
        return;
    };
    terminal.await_text("Running", 1);
    project.write("src/main.rs", "fn main() { }\n");
    terminal.await_text("Running", 2);
    wait_until("both runs", || project.lines().len() == 2);
    let shown = terminal.shown();
    let screens: Vec<_> = shown.split("\x1b[2J").collect();
    assert!(
        screens.len() == 3 && screens[1].contains("Watching"),
        "cleared before each run: {shown:?}"
    );
    assert!(
        screens[2].contains("Changed\x1b[0m src/main.rs"),
        "what changed is to be seen: {shown:?}"
    );
    let mut keyboard = terminal.script.stdin.take().expect("its input");
    keyboard.write_all(b"\x03").expect("typed");
    let status = terminal.script.wait().expect("its end");
    assert_eq!(status.code(), Some(130));
    assert_eq!(project.lines(), ["start", "change"]);
}

#[test]
fn a_command_that_wants_the_terminal_is_not_waited_for_without_a_word() {
    let project = Project::new();
    let command = project.counting("read line < /dev/tty; exit 3");
    let Some(terminal) = Terminal::open(&project, &format!("-- sh -c '{}'", command[2])) else {
        return;
    };
    terminal.await_text("it wants the terminal, which it can't have here", 1);
    // A change ends it as any other.
    project.write("src/main.rs", "fn main() { }\n");
    terminal.await_text("by SIGTERM", 1);
    terminal.await_text("it wants the terminal, which it can't have here", 2);
    assert_eq!(project.lines(), ["start", "change"]);
}
