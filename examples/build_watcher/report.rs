//! What is said to people, on stderr: a verb and what it is about, as cargo does. Tools get JSON.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use ringwatch::tree::{Tree, TreeStats, Uncovered};
use ringwatch::{Error, Limits};
use serde_json::json;
use signal_hook::consts::{SIGTTIN, SIGTTOU};

use crate::burst::{Effect, Effects};
use crate::command::Outcome;
use crate::json::{Json, text};
use crate::letters::printable;
use crate::options::Options;
use crate::scope::Scope;

/// Paths that are named one by one.
const NAMED: usize = 4;

const GOOD: AnsiColor = AnsiColor::Green;
const NEWS: AnsiColor = AnsiColor::Cyan;
const CARE: AnsiColor = AnsiColor::Yellow;
const BAD: AnsiColor = AnsiColor::Red;

pub(crate) struct Report {
    quiet: bool,
    clear: bool,
    json: Option<Json>,
    command: String,
    base: PathBuf,
}

impl Report {
    pub(crate) fn new(options: &Options, scope: &Scope) -> Self {
        Self {
            quiet: options.quiet || options.json,
            clear: options.clear && !options.json && io::stdout().is_terminal(),
            json: options.json.then_some(Json),
            command: options
                .command
                .iter()
                .map(|word| quoted(&word.to_string_lossy()))
                .collect::<Vec<_>>()
                .join(" "),
            base: scope.base.clone(),
        }
    }

    pub(crate) fn ready(&self, tree: &Tree, scope: &Scope, uncovered: &[Uncovered], took: Duration) {
        self.clear();
        let stats = tree.stats();
        let names: Vec<_> = scope.roots().map(|root| self.shown(root)).collect();
        let (names, directories, backend) = (names.join(", "), count(stats.directories, "directory"), tree.backend());
        let how = format!("{directories} in {}, {}", duration(took), backend.kind());
        self.say(GOOD, "Watching", format_args!("{names} ({how})"));
        self.event(|| {
            let roots: Vec<_> = scope.roots().map(|root| text(root.as_os_str())).collect();
            let (directories, ms, backend) = (stats.directories, took.as_millis() as u64, backend.kind().to_string());
            json!({"event": "ready", "roots": roots, "directories": directories, "ms": ms, "backend": backend})
        });
        for (number, one) in uncovered.iter().enumerate() {
            if number < NAMED || self.json.is_some() {
                self.uncovered(&one.error);
            }
        }
        if uncovered.len() > NAMED {
            let more = uncovered.len() - NAMED;
            self.warn("Not covered", format_args!("{} more", count(more, "directory")));
        }
    }

    pub(crate) fn uncovered(&self, error: &Error) {
        self.warn("Not covered", error);
        self.event(|| {
            let path = error.path().map(|path| text(path.as_os_str()));
            json!({"event": "uncovered", "path": path, "error": error.to_string()})
        });
    }

    pub(crate) fn overflowed(&self) {
        let remedy = match Limits::read() {
            Ok(limits) => format!("fs.inotify.max_queued_events is {}; raise it", limits.max_queued_events),
            Err(_) => "raise fs.inotify.max_queued_events".to_owned(),
        };
        self.warn(
            "Overflow",
            format_args!("too much changed at once, and events were lost; all is looked at again; {remedy}"),
        );
        self.event(|| json!({"event": "overflow"}));
    }

    /// Changes have settled.
    pub(crate) fn settled(&self, effects: &Effects) {
        self.changed(effects);
        self.event(|| {
            let changes: Vec<_> = effects
                .iter()
                .map(|(path, effect)| crate::json::change(path, effect))
                .collect();
            json!({"event": "settled", "count": effects.len(), "changes": changes})
        });
    }

    fn changed(&self, effects: &Effects) {
        for (path, effect) in effects.iter().take(NAMED) {
            let shown = self.shown(path);
            match effect {
                Effect::Created => self.say(NEWS, "Created", shown),
                Effect::Changed => self.say(NEWS, "Changed", shown),
                Effect::Removed => self.say(NEWS, "Removed", shown),
                Effect::RenamedFrom(from) => self.say(NEWS, "Renamed", format_args!("{} to {shown}", self.shown(from))),
            }
        }
        if effects.len() > NAMED {
            self.say(NEWS, "", format_args!("and {} more", effects.len() - NAMED));
        }
    }

    /// The screen and what was scrolled off it, as clear(1) does.
    fn clear(&self) {
        if self.clear {
            let mut stdout = io::stdout().lock();
            let _ = stdout.write_all(b"\x1b[H\x1b[2J\x1b[3J").and_then(|()| stdout.flush());
        }
    }

    pub(crate) fn ending(&self, run: u64) {
        self.say(CARE, "Ending", format_args!("{}, for it is to run again", self.command));
        self.event(|| json!({"event": "restart", "run": run}));
    }

    pub(crate) fn left(&self, run: u64) {
        self.warn(
            "Left",
            "processes of the command that can't be ended; are they another user's?",
        );
        self.event(|| json!({"event": "left", "run": run}));
    }

    /// On a clear screen, what it is for is to be seen again.
    pub(crate) fn starting(&self, run: u64, effects: &Effects) {
        if self.clear && run > 1 {
            self.clear();
            self.changed(effects);
        }
        self.say(GOOD, "Running", &self.command);
    }

    pub(crate) fn started(&self, run: u64, id: u32) {
        self.event(|| json!({"event": "started", "run": run, "pid": id}));
    }

    pub(crate) fn not_started(&self, run: u64, cause: &str) {
        self.warn("Failed", cause);
        self.event(|| json!({"event": "failed", "run": run, "error": cause}));
    }

    pub(crate) fn stopped(&self, run: u64, signal: i32) {
        let why = match signal {
            SIGTTIN | SIGTTOU => "it wants the terminal, which it can't have here",
            _ => "somebody has stopped it; it goes on with SIGCONT",
        };
        self.warn("Stopped", format_args!("{}: {why}", self.command));
        self.event(|| json!({"event": "stopped", "run": run, "signal": signal}));
    }

    /// By itself, or because we have asked it to end: then it has not gone wrong.
    pub(crate) fn finished(&self, run: u64, outcome: Outcome, took: Duration, was_asked: bool) {
        let (command, after) = (&self.command, duration(took));
        let tell = |verb: &str, how: &dyn Display| match was_asked {
            true => self.say(CARE, verb, how),
            false => self.warn(verb, how),
        };
        match outcome {
            Outcome::Exited(0) => self.say(GOOD, "Finished", format_args!("{command} in {after}")),
            Outcome::Exited(code) => {
                tell("Failed", &format_args!("{command} with exit code {code} after {after}"));
            }
            Outcome::Killed(number) => {
                let name = signal_hook::low_level::signal_name(number).unwrap_or("a signal");
                tell("Killed", &format_args!("{command} by {name} ({number}) after {after}"));
            }
        }
        self.event(|| {
            let (code, signal) = match outcome {
                Outcome::Exited(code) => (Some(code), None),
                Outcome::Killed(signal) => (None, Some(signal)),
            };
            json!({"event": "finished", "run": run, "code": code, "signal": signal, "ms": took.as_millis() as u64})
        });
    }

    pub(crate) fn queued(&self, run: u64) {
        self.say(CARE, "Queued", "another run, when this one has finished");
        self.event(|| json!({"event": "queued", "run": run}));
    }

    pub(crate) fn ignored(&self, run: u64, why: &str) {
        self.say(CARE, "Ignored", why);
        self.event(|| json!({"event": "ignored", "run": run}));
    }

    pub(crate) fn loops(&self, paths: &[PathBuf], stopped: bool) {
        let what = match paths {
            [] => "more than could be followed".to_owned(),
            [only] => self.shown(only),
            [first, more @ ..] => format!("{} and {} more", self.shown(first), more.len()),
        };
        let remedy = "leave it out with --exclude or .gitignore";
        if stopped {
            self.warn(
                "Loop",
                format_args!("{what} changes whenever the command runs; not run again for that; {remedy}"),
            );
        } else {
            self.warn(
                "Loop?",
                format_args!("{what} changed during the last runs too; if the command does it, {remedy}"),
            );
        }
        self.event(|| json!({"event": "loop", "stopped": stopped}));
    }

    /// Figures of the library, whatever else is to be said.
    pub(crate) fn stats(&self, tree: &Tree, scope: &Scope) {
        let TreeStats {
            instance,
            directories,
            sessions,
            memory,
            name_memory,
            ..
        } = tree.stats();
        let figures = [
            ("directories", directories as u64),
            ("not covered", scope.uncovered(tree).len() as u64),
            ("changes", instance.events),
            ("batches", instance.batches),
            ("reads", instance.reads),
            ("wake-ups", instance.wakeups),
            ("overflows", instance.overflows),
            ("looks at the disk", sessions as u64),
            ("bytes kept", (memory + name_memory) as u64),
        ];
        for (name, figure) in figures {
            print(NEWS, "Stats", format_args!("{name:<18}{figure:>10}"));
        }
        print(NEWS, "Stats", format_args!("backend           {}", tree.backend()));
    }

    fn say(&self, colour: AnsiColor, verb: &str, what: impl Display) {
        if !self.quiet {
            print(colour, verb, what);
        }
    }

    /// Also said to those who want it quiet.
    fn warn(&self, verb: &str, what: impl Display) {
        if self.json.is_none() {
            print(BAD, verb, what);
        }
    }

    fn event(&self, event: impl FnOnce() -> serde_json::Value) {
        if let Some(json) = &self.json {
            json.tell(event());
        }
    }

    /// Relative, if that is shorter.
    fn shown(&self, path: &Path) -> String {
        let short = path.strip_prefix(&self.base).unwrap_or(path);
        let short = if short.as_os_str().is_empty() {
            Path::new(".")
        } else {
            short
        };
        short.to_string_lossy().into_owned()
    }
}

/// Plain where it is not a terminal, or where `NO_COLOR` is set. Not `eprintln`, which panics if nobody reads.
fn print(colour: AnsiColor, verb: &str, what: impl Display) {
    let style: Style = colour.on_default().bold();
    // At once, for what the command says goes to the same place.
    let line = format!("{style}{verb:>12}{style:#} {}\n", printable(&what.to_string()));
    let _ = anstream::stderr().lock().write_all(line.as_bytes());
}

pub(crate) fn fail(message: impl Display) {
    let style = BAD.on_default().bold();
    let message = printable(&message.to_string());
    let _ = writeln!(anstream::stderr().lock(), "{style}error{style:#}: {message}");
}

pub(crate) fn count(number: usize, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {noun}s"),
    }
}

fn duration(time: Duration) -> String {
    match time.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{:.1} s", time.as_secs_f64()),
        _ => format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60),
    }
}

/// As it could be typed into a shell.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "_-./=:,+@%".contains(letter);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
