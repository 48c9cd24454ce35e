//! Prints what happens to files and directories, one event a line, until Ctrl-C.
//!
//! ```sh
//! cargo run --release --example watch -- /tmp /etc/hosts
//! cargo run --release --example watch -- --events create,move,close_write --json src | jq .path
//! cargo run --release --example watch -- --recursive --skip .git --skip target ~/src
//! ```
//!
//! It shows both reading halves, a stream and (`--reader`) a reader driven in place, how `close` ends either from another
//! thread, and what a program that must keep up does: it takes batches, gives each back before it writes, and reports
//! an overflow where nobody can miss it.
//!
//! Exit codes: 0 when it was stopped or (without `--recursive`) nothing is left to watch, 1 for a failure, 2 for a wrong argument.

#![forbid(unsafe_code)]

#[path = "../../src/letters.rs"]
mod letters;
mod lines;
mod terminal;

use std::error::Error;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use ringwatch::tree::{Recovery, Tree};
use ringwatch::{Backend, BackendReport, ErrorKind, EventBatch, Inotify, Limits, Mask, Stats};

use self::lines::{Line, Printer};

/// Prints what happens to files and directories, until Ctrl-C
#[derive(Parser)]
#[command(name = "watch")]
struct Args {
    /// Files and directories to watch. A directory is watched with its entries, and not what is below them
    #[arg(value_name = "PATH", default_value = ".")]
    paths: Vec<PathBuf>,
    /// Events to print, separated by commas: access, modify, attrib, close_write, close_nowrite, open, moved_from, moved_to,
    /// create, delete, delete_self, move_self; or close, move, changes (all but access, open, close_nowrite), all. If this is
    /// not given, all; with --recursive, changes
    #[arg(long, value_name = "LIST")]
    events: Option<String>,
    /// How to read them: auto, uring or epoll
    #[arg(long, value_name = "NAME", default_value = "auto")]
    backend: Backend,
    /// Read in place, on this thread, instead of through a stream
    #[arg(long)]
    reader: bool,
    /// Watch all directories below, too, and those that are made later
    #[arg(short, long, conflicts_with = "reader")]
    recursive: bool,
    /// With --recursive: directories of this name are not watched
    #[arg(long, value_name = "NAME", requires = "recursive")]
    skip: Vec<OsString>,
    /// With --recursive: after an overflow, find and report what has changed
    #[arg(long, requires = "recursive")]
    diff: bool,
    /// Print one JSON object a line: path (an array of bytes if it is not UTF-8), mask, cookie; with --recursive also
    /// renamed_from, as path, and found: whether a look at the disk told of it
    #[arg(long)]
    json: bool,
    /// At the end, print figures to stderr
    #[arg(long)]
    stats: bool,
    /// Do not say what is watched
    #[arg(long)]
    quiet: bool,
    /// Stop after so many seconds
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds)]
    time: Option<Duration>,
}

impl Args {
    fn events(&self) -> &str {
        let default = if self.recursive { "changes" } else { "all" };
        self.events.as_deref().unwrap_or(default)
    }

    /// `"one", "other" for changes`
    fn what(&self) -> String {
        let paths: Vec<_> = self.paths.iter().map(|path| format!("{path:?}")).collect();
        format!("{} for {}", paths.join(", "), self.events())
    }
}

fn seconds(text: &str) -> Result<Duration, Box<dyn Error + Send + Sync>> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}

fn main() -> ExitCode {
    let args = match terminal::arguments::<Args>() {
        Ok(args) => args,
        Err(code) => return code,
    };
    let mask = match events(args.events()) {
        Ok(mask) => mask,
        Err(fault) => {
            say(fault);
            return ExitCode::from(2);
        }
    };
    match watch(&args, mask) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(error);
            ExitCode::FAILURE
        }
    }
}

/// The names of single events are those of [`Mask`], in any case.
fn events(list: &str) -> Result<Mask, String> {
    let single = Mask::ALL.iter_names().map(|(name, mask)| (name.to_lowercase(), mask));
    let several = [
        ("close", Mask::CLOSE),
        ("move", Mask::MOVE),
        ("changes", Mask::CHANGES),
        ("all", Mask::ALL),
    ];
    let known: Vec<_> = single
        .chain(several.map(|(name, mask)| (name.to_owned(), mask)))
        .collect();
    let mut mask = Mask::empty();
    for asked in list.split(',') {
        match known.iter().find(|(name, _)| asked.trim().eq_ignore_ascii_case(name)) {
            Some((_, events)) => mask |= *events,
            None => {
                let names: Vec<_> = known.iter().map(|(name, _)| name.as_str()).collect();
                return Err(format!("no event is named {asked:?}; take of {}", names.join(", ")));
            }
        }
    }
    Ok(mask)
}

fn watch(args: &Args, mask: Mask) -> Result<(), Box<dyn Error>> {
    if args.recursive {
        return watch_tree(args, mask);
    }
    let inotify = Inotify::builder().backend(args.backend).build()?;
    for path in &args.paths {
        inotify.add_watch(path, mask)?;
    }
    let batches: Box<dyn Iterator<Item = ringwatch::Result<EventBatch>>> = if args.reader {
        Box::new(inotify.reader()?)
    } else {
        let mut stream = inotify.stream()?;
        Box::new(std::iter::from_fn(move || stream.wait()))
    };
    let closing = inotify.clone();
    when_asked(args.time, move || {
        let first = !closing.is_closed();
        closing.close();
        first
    })?;
    if !args.quiet {
        say(format_args!("{}, through {}", args.what(), inotify.backend()));
    }
    let outcome = print(&inotify, batches, Printer::new(args.json));
    if args.stats {
        print_stats(&inotify.stats(), &inotify.backend());
    }
    outcome
}

/// Calls `close` on Ctrl-C, or after some time. It answers whether it was the first.
fn when_asked(time: Option<Duration>, close: impl Fn() -> bool + Clone + Send + 'static) -> Result<(), ctrlc::Error> {
    let closing = close.clone();
    ctrlc::set_handler(move || {
        if !closing() {
            // Asked again: whoever should take our output does not, and we can't wait for that.
            process::exit(130);
        }
    })?;
    if let Some(time) = time {
        thread::spawn(move || {
            thread::sleep(time);
            close();
        });
    }
    Ok(())
}

fn watch_tree(args: &Args, mask: Mask) -> Result<(), Box<dyn Error>> {
    let skip = args.skip.clone();
    let (quiet, told) = (args.quiet, AtomicU64::new(0));
    let (first, others) = args.paths.split_first().ok_or("no path")?;
    let mut builder = Tree::builder(first)
        .mask(mask)
        .backend(args.backend)
        .recovery(if args.diff { Recovery::Diff } else { Recovery::Mark })
        .filter(move |dir| {
            dir.file_name()
                .is_none_or(|name| !skip.iter().any(|skipped| skipped == name))
        })
        .on_progress(move |progress| {
            // Once a second, from the first on.
            let second = progress.elapsed.as_secs();
            if !quiet && told.swap(second, Ordering::Relaxed) != second {
                say(format_args!("{} directories so far", progress.directories));
            }
        });
    for path in others {
        builder = builder.root(path);
    }
    let tree = builder.open()?;
    let mut stream = tree.stream()?;
    let closing = tree.clone();
    let closed = Arc::new(AtomicBool::new(false));
    when_asked(args.time, move || {
        closing.close();
        !closed.swap(true, Ordering::Relaxed)
    })?;
    if !args.quiet {
        for uncovered in tree.uncovered() {
            say(uncovered.error);
        }
        let (directories, backend) = (tree.stats().directories, tree.backend());
        say(format_args!(
            "{}: {directories} directories, through {backend}",
            args.what()
        ));
    }
    let mut printer = Printer::new(args.json);
    for batch in stream.blocking() {
        let batch = batch?;
        let overflowed = batch.overflowed();
        batch.iter().filter_map(|change| change.uncovered()).for_each(say);
        let lines = batch.iter().filter(|change| change.uncovered().is_none());
        printer.lines.clear();
        lines.map(Line::of_change).try_for_each(|line| printer.add(&line))?;
        drop(batch);
        match printer.write() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written.map_err(|cause| format!("write to stdout: {cause}"))?,
        }
        if overflowed {
            say_overflow();
        }
    }
    if args.stats {
        print_stats(&tree.stats().instance, &tree.backend());
    }
    Ok(())
}

fn print(
    inotify: &Inotify,
    batches: impl Iterator<Item = ringwatch::Result<EventBatch>>,
    mut printer: Printer,
) -> Result<(), Box<dyn Error>> {
    for batch in batches {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) if error.kind() == ErrorKind::Malformed => {
                say(error);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let overflowed = batch.overflowed();
        let ended = batch.iter().any(|event| event.mask().contains(Mask::IGNORED));
        match printer.print(batch) {
            // Whoever read our output has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(|cause| format!("write to stdout: {cause}"))?,
        }
        if overflowed {
            say_overflow();
        }
        if (ended || overflowed) && inotify.watches().is_empty() {
            say("nothing is left to watch");
            return Ok(());
        }
    }
    Ok(())
}

/// Not `eprintln!`, which panics if nobody reads stderr any more.
fn say(message: impl Display) {
    let line = format!("watch: {}\n", letters::printable(&message.to_string()));
    let _ = io::stderr().write_all(line.as_bytes());
}

fn say_overflow() {
    let limit = match Limits::read() {
        Ok(limits) => format!("fs.inotify.max_queued_events is {}; raise it", limits.max_queued_events),
        Err(_) => "raise fs.inotify.max_queued_events".to_owned(),
    };
    say(format_args!(
        "the kernel's queue overflowed and events were lost; {limit}, ask for fewer --events, or print less"
    ));
}

fn print_stats(stats: &Stats, backend: &BackendReport) {
    for (name, figure) in [
        ("events", stats.events),
        ("batches", stats.batches),
        ("reads", stats.reads),
        ("wake-ups", stats.wakeups),
        ("overflows", stats.overflows),
    ] {
        say(format_args!("{name:<10}{figure:>12}"));
    }
    say(format_args!("backend   {backend}"));
}
