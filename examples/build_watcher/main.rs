//! Reruns a command when sources change.
//!
//! ```sh
//! cargo run --release --example build_watcher -- -- cargo test
//! cargo run --release --example build_watcher -- --clear src Cargo.toml -- cargo run
//! cargo run --release --example build_watcher -- --only '*.md' -- sh -c 'make doc | tail'
//! ```
//!
//! `scope` and `rules` say what is watched, before a watch is spent on it; `news` reads the tree; `burst` makes one thing
//! of many changes; `watcher` decides what follows; `command` and `guard` see to it that nothing is left behind; `git`
//! knows when to wait, and `rounds` when to stop; `text` reads what others may have written; `report` and `json` tell, and
//! `letters` and `terminal` escape.

#![deny(unsafe_code)]

mod burst;
mod command;
mod git;
mod guard;
mod json;
#[path = "../../src/letters.rs"]
mod letters;
mod news;
mod options;
mod report;
mod rounds;
mod rules;
mod scope;
#[path = "../watch/terminal.rs"]
mod terminal;
mod text;
mod watcher;

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use ringwatch::ErrorKind;
use ringwatch::tree::{Cancel, Progress, Tree, Uncovered};

use crate::news::Asked;
use crate::options::Options;
use crate::report::{Report, count, fail};
use crate::scope::Scope;
use crate::watcher::Watcher;

/// News that wait. When it is full, the kernel keeps them.
const QUEUE: usize = 64;

fn main() -> ExitCode {
    if let Some(code) = guard::serve() {
        return code;
    }
    let options = match terminal::arguments::<Options>() {
        Ok(options) => options,
        Err(code) => return code,
    };
    let scope = match Scope::new(&options) {
        Ok(scope) => Arc::new(scope),
        Err(fault) => {
            fail(fault);
            return ExitCode::from(2);
        }
    };
    if let Err(cause) = find(&scope.base, Path::new(&options.command[0])) {
        let (message, code) = why_not_started(&scope.base, &options.command, &cause);
        fail(message);
        return ExitCode::from(code);
    }
    watch(&options, &scope).unwrap_or_else(|error| {
        fail(error);
        ExitCode::FAILURE
    })
}

fn watch(options: &Options, scope: &Arc<Scope>) -> watcher::Ended {
    // Of a directory that somebody is in, the kernel does not say that it was removed.
    env::set_current_dir("/")?;
    let (tell, news) = sync_channel(QUEUE);
    let asked = Arc::new(Asked::default());
    let cancel = Cancel::new();
    news::hear(tell.clone(), Arc::clone(&asked), cancel.clone())?;
    let begun = Instant::now();
    let tree = match open(options, scope, &cancel) {
        Err(error) if error.kind() == ErrorKind::Cancelled => {
            return Ok(ExitCode::from(128 + asked.by().unwrap_or_default() as u8));
        }
        opened => opened?,
    };
    scope.rules.forget();
    news::read(&tree, Arc::clone(scope), tell.clone())?;
    let uncovered = scope.uncovered(&tree);
    check(&uncovered, scope)?;
    let report = Report::new(options, scope);
    report.ready(&tree, scope, &uncovered, begun.elapsed());
    let ended = Watcher::new(options, scope, &report, &tree, (tell, news), asked)?.watch();
    if options.stats {
        report.stats(&tree, scope);
    }
    ended
}

/// What others don't let us read is not ours to build; but a root is, and a limit may hide anything.
fn check(uncovered: &[Uncovered], scope: &Scope) -> Result<(), Box<dyn Error>> {
    // A file is covered with the directory it is in.
    let hides_root = |one: &&Uncovered| scope.roots().any(|root| root.starts_with(&one.path));
    if let Some(root) = uncovered.iter().find(hides_root) {
        return Err(root.error.clone().into());
    }
    let mut limited = uncovered.iter().filter(|one| one.error.kind() == ErrorKind::WatchLimit);
    let Some(first) = limited.next() else { return Ok(()) };
    let number = count(1 + limited.count(), "directory");
    let remedy = first.error.remedy().unwrap_or("raise fs.inotify.max_user_watches");
    Err(format!("no watch is left for {number}; {remedy}, or leave something out with --exclude").into())
}

/// Watches the tree, and shows how far that is if it takes long.
fn open(options: &Options, scope: &Arc<Scope>, cancel: &Cancel) -> ringwatch::Result<Tree> {
    let style =
        ProgressStyle::with_template("{spinner:.green} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let line = ProgressBar::new_spinner().with_style(style);
    if options.quiet || options.json {
        line.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    let wanted = Arc::clone(scope);
    let shown = line.clone();
    let mut roots = scope.roots().chain(&scope.rules.outside);
    let first = roots.next().map_or(Path::new("."), PathBuf::as_path);
    let tree = roots
        .fold(Tree::builder(first), |builder, root| builder.root(root))
        .mask(news::mask(options.metadata))
        .filter(move |dir| wanted.has_dir(dir))
        // What was asked for is there, but may be replaced; and an ignore file may be written first now.
        .await_missing_roots(true)
        .backend(options.backend)
        // A save is several events. The later ones are to come soon, for we count from the last.
        .batch_window(Duration::from_micros(200))
        .cancel(cancel)
        .on_progress(move |progress| show(&shown, progress))
        .open();
    line.finish_and_clear();
    tree
}

fn show(line: &ProgressBar, progress: &Progress) {
    if progress.elapsed < Duration::from_millis(50) {
        return;
    }
    let mut message = count(progress.directories, "directory");
    if progress.errors > 0 {
        message += &format!(", {} of them not covered", progress.errors);
    }
    line.set_message(message);
    line.tick();
}

/// Whether a command of this name can be run, as `execvp` looks for it.
fn find(base: &Path, name: &Path) -> io::Result<()> {
    let is_path = name.components().count() > 1 || name.is_absolute();
    let dirs = if is_path {
        OsString::new()
    } else {
        env::var_os("PATH").unwrap_or_default()
    };
    let mut fault = io::ErrorKind::NotFound;
    for dir in env::split_paths(&dirs).chain(is_path.then(PathBuf::new)) {
        match base.join(dir).join(name).metadata() {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => return Ok(()),
            Ok(_) => fault = io::ErrorKind::PermissionDenied,
            Err(_) => {}
        }
    }
    Err(fault.into())
}

/// A line that names the remedy, and the exit code that shells use.
fn why_not_started(base: &Path, command: &[OsString], cause: &io::Error) -> (String, u8) {
    let name = command[0].to_string_lossy();
    match cause.kind() {
        io::ErrorKind::NotFound if !base.is_dir() => (
            format!(
                "{name:?} can't be run in {}, which is gone; it will be when that is put back",
                base.display()
            ),
            126,
        ),
        io::ErrorKind::NotFound if find(base, Path::new(&command[0])).is_ok() => (
            format!("{name:?} can't be run, though it is there; is the interpreter there that its first line names?"),
            126,
        ),
        io::ErrorKind::NotFound if name.contains(char::is_whitespace) => (
            format!("no command is named {name:?}; to have a shell run it: -- sh -c {name:?}"),
            127,
        ),
        io::ErrorKind::NotFound => (
            format!("no command is named {name:?}; is it installed, and in PATH?"),
            127,
        ),
        io::ErrorKind::PermissionDenied => (format!("{name:?} can't be run; make it a program with chmod +x"), 126),
        _ => (format!("{name:?} can't be run: {cause}"), 126),
    }
}
