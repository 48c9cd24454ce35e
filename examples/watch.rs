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
//! Exit codes: 0 when it was stopped or nothing is left to watch, 1 for a failure, 2 for a wrong argument.

#![forbid(unsafe_code)]

use std::error::Error;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::Parser;
use ringwatch::tree::{Change, Origin, Recovery, Tree};
use ringwatch::{Backend, BackendReport, ErrorKind, Event, EventBatch, Inotify, Limits, Mask, Stats};

/// Prints what happens to files and directories, until Ctrl-C
#[derive(Parser)]
#[command(name = "watch")]
struct Args {
    /// Files and directories to watch. A directory is watched with its entries, and not what is below them
    #[arg(value_name = "PATH", default_value = ".")]
    paths: Vec<PathBuf>,
    /// Events to print, separated by commas: access, modify, attrib, close_write, close_nowrite, open, moved_from, moved_to,
    /// create, delete, delete_self, move_self; or close, move, changes (all but access, open, close_nowrite), all
    #[arg(long, value_name = "LIST", default_value = "all")]
    events: String,
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
    /// Print one JSON object a line: path (an array of bytes if it is not UTF-8), mask, cookie
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

fn seconds(text: &str) -> Result<Duration, Box<dyn Error + Send + Sync>> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mask = match events(&args.events) {
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
        let paths: Vec<_> = args.paths.iter().map(|path| format!("{path:?}")).collect();
        let (paths, events, backend) = (paths.join(", "), &args.events, inotify.backend());
        say(format_args!("{paths} for {events}, through {backend}"));
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
    let quiet = args.quiet;
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
            if !quiet && progress.elapsed > Duration::from_millis(500) {
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
        say(format_args!(
            "{} directories, through {}",
            tree.stats().directories,
            tree.backend()
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

/// What a line shows.
struct Line<'a> {
    mask: Mask,
    cookie: Option<u32>,
    /// Found by looking.
    scan: bool,
    source: Source<'a>,
}

enum Source<'a> {
    Event(Event<'a>),
    Change(Change<'a>),
}

impl<'a> Line<'a> {
    fn of_event(event: Event<'a>) -> Self {
        let (mask, cookie, scan) = (event.mask(), event.cookie(), false);
        Self {
            mask,
            cookie,
            scan,
            source: Source::Event(event),
        }
    }

    fn of_change(change: Change<'a>) -> Self {
        let (mask, cookie, scan) = (change.mask(), change.cookie(), change.origin() == Origin::Scan);
        Self {
            mask,
            cookie,
            scan,
            source: Source::Change(change),
        }
    }

    fn write_path(&self, path: &mut PathBuf) -> bool {
        match &self.source {
            Source::Event(event) => event.write_path(path),
            Source::Change(change) => change.write_path(path),
        }
    }
}

/// Writes batches to stdout, each with one write.
struct Printer {
    json: bool,
    colours: bool,
    /// Kept from batch to batch, as `path` is from event to event.
    lines: Vec<u8>,
    path: PathBuf,
}

impl Printer {
    fn new(json: bool) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            json,
            colours: !json && !no_color && io::stdout().is_terminal(),
            lines: Vec::new(),
            path: PathBuf::new(),
        }
    }

    fn print(&mut self, batch: EventBatch) -> io::Result<()> {
        self.lines.clear();
        batch.iter().map(Line::of_event).try_for_each(|line| self.add(&line))?;
        // The write may block for long; meanwhile the reading side can use the buffer.
        drop(batch);
        self.write()
    }

    fn add(&mut self, line: &Line<'_>) -> io::Result<()> {
        match self.json {
            true => self.add_json(line),
            false => self.add_text(line),
        }
    }

    fn write(&self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(&self.lines)?;
        stdout.flush()
    }

    /// The path comes last, so that a name can't pass for anything else.
    fn add_text(&mut self, line: &Line<'_>) -> io::Result<()> {
        const WIDTH: usize = 22;
        let out = &mut self.lines;
        let mask = line.mask;
        let style = if self.colours { style(mask) } else { Style::new() };
        write!(out, "{style}")?;
        let start = out.len();
        add_kinds(out, mask, "", ",")?;
        if let Some(cookie) = line.cookie {
            write!(out, " #{cookie}")?;
        }
        if line.scan {
            write!(out, " found")?;
        }
        let gap = WIDTH.saturating_sub(out.len() - start);
        write!(out, "{style:#}{:gap$}  ", "")?;
        if line.write_path(&mut self.path) {
            add_escaped(out, &self.path)?;
        } else if mask.contains(Mask::Q_OVERFLOW) {
            out.extend(b"*** events were lost here ***");
        }
        out.push(b'\n');
        Ok(())
    }

    fn add_json(&mut self, line: &Line<'_>) -> io::Result<()> {
        let out = &mut self.lines;
        out.extend(br#"{"path":"#);
        if line.write_path(&mut self.path) {
            match self.path.to_str() {
                Some(text) => add_json_string(out, text)?,
                None => write!(out, "{:?}", self.path.as_os_str().as_bytes())?,
            }
        } else {
            out.extend(b"null");
        }
        out.extend(br#","mask":["#);
        add_kinds(out, line.mask, "\"", ",")?;
        out.extend(br#"],"cookie":"#);
        match line.cookie {
            Some(cookie) => write!(out, "{cookie}")?,
            None => out.extend(b"null"),
        }
        out.extend(b"}\n");
        Ok(())
    }
}

/// The names of the bits; last, as a number, those that have none.
fn add_kinds(out: &mut Vec<u8>, mask: Mask, quote: &str, separator: &str) -> io::Result<()> {
    let mut between = "";
    let mut names = mask.iter_names();
    for (name, _) in names.by_ref() {
        for part in [between, quote, name, quote] {
            out.extend(part.as_bytes());
        }
        between = separator;
    }
    match names.remaining().bits() {
        0 => Ok(()),
        unknown => write!(out, "{between}{quote}{unknown:#x}{quote}"),
    }
}

/// A name is whatever someone else chose, and a terminal obeys what it is sent. So what is printable stays, and the rest
/// is escaped; the backslash too, or a name could pass for an escaped one.
fn add_escaped(out: &mut Vec<u8>, path: &Path) -> io::Result<()> {
    let special = |letter: char| letter.is_ascii_control() || matches!(letter, '\\' | '\'' | '"');
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for piece in chunk.valid().split_inclusive(special) {
            let plain = piece.trim_end_matches(special);
            if plain.is_ascii() {
                // Of most paths, all; and several times as fast.
                out.extend(plain.as_bytes());
            } else {
                // This escapes what is left that is not printable: other controls, invisible and reordering letters.
                write!(out, "{}", plain.escape_debug())?;
            }
            match &piece[plain.len()..] {
                quote @ ("'" | "\"") => out.extend(quote.as_bytes()),
                other => write!(out, "{}", other.as_bytes().escape_ascii())?,
            }
        }
        write!(out, "{}", chunk.invalid().escape_ascii())?;
    }
    Ok(())
}

/// JSON asks to escape the first 32 controls only; a terminal obeys others too.
fn add_json_string(out: &mut Vec<u8>, text: &str) -> io::Result<()> {
    out.push(b'"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend([b'\\', letter as u8]),
            _ if letter.is_control() => write!(out, "\\u{:04x}", u32::from(letter))?,
            _ => out.extend(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
    Ok(())
}

fn style(mask: Mask) -> Style {
    let colour = |colour: AnsiColor| colour.on_default();
    if mask.intersects(Mask::Q_OVERFLOW) {
        AnsiColor::BrightWhite.on(AnsiColor::Red).bold()
    } else if mask.intersects(Mask::CREATE) {
        colour(AnsiColor::Green)
    } else if mask.intersects(Mask::DELETE | Mask::DELETE_SELF | Mask::UNMOUNT | Mask::IGNORED) {
        colour(AnsiColor::Red)
    } else if mask.intersects(Mask::MOVE | Mask::MOVE_SELF) {
        colour(AnsiColor::Cyan)
    } else if mask.intersects(Mask::MODIFY | Mask::CLOSE_WRITE) {
        colour(AnsiColor::Yellow)
    } else if mask.intersects(Mask::ATTRIB) {
        colour(AnsiColor::Magenta)
    } else {
        Style::new().dimmed()
    }
}

/// Not `eprintln!`, which panics if nobody reads stderr any more.
fn say(message: impl Display) {
    let line = format!("watch: {message}\n");
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
