//! Prints what happens to files and directories, one event a line, until Ctrl-C.
//!
//! ```sh
//! cargo run --release --example watch -- /tmp /etc/hosts
//! cargo run --release --example watch -- --events create,move,close_write --json src | jq .path
//! ```
//!
//! It shows both reading halves, a stream and (`--reader`) a reader driven in place, how `close` ends either from another
//! thread, and what a program that must keep up does: it takes batches, gives each back before it writes, and reports
//! an overflow where nobody can miss it.
//!
//! Exit codes: 0 when it was stopped or nothing is left to watch, 1 for a failure, 2 for a wrong argument.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::Parser;
use ringwatch::{Backend, ErrorKind, Event, EventBatch, Inotify, Limits, Mask};

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
    close_when_asked(&inotify, args.time)?;
    if !args.quiet {
        let paths: Vec<_> = args.paths.iter().map(|path| format!("{path:?}")).collect();
        let (paths, events, backend) = (paths.join(", "), &args.events, inotify.backend());
        say(format_args!("{paths} for {events}, through {backend}"));
    }
    let outcome = print(&inotify, batches, Printer::new(args.json));
    if args.stats {
        print_stats(&inotify);
    }
    outcome
}

/// Closing the instance ends its reading half, which first delivers what was already read.
fn close_when_asked(inotify: &Inotify, time: Option<Duration>) -> Result<(), ctrlc::Error> {
    let closing = inotify.clone();
    ctrlc::set_handler(move || {
        if closing.is_closed() {
            // Asked again: whoever should take our output does not, and we can't wait for that.
            process::exit(130);
        }
        closing.close();
    })?;
    if let Some(time) = time {
        let closing = inotify.clone();
        thread::spawn(move || {
            thread::sleep(time);
            closing.close();
        });
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
        for event in &batch {
            if self.json {
                self.add_json(&event)?;
            } else {
                self.add_text(&event)?;
            }
        }
        // The write may block for long; meanwhile the reading side can use the buffer.
        drop(batch);
        let mut stdout = io::stdout().lock();
        stdout.write_all(&self.lines)?;
        stdout.flush()
    }

    /// The path comes last, so that a name can't pass for anything else.
    fn add_text(&mut self, event: &Event<'_>) -> io::Result<()> {
        const WIDTH: usize = 22;
        let out = &mut self.lines;
        let mask = event.mask();
        let style = if self.colours { style(mask) } else { Style::new() };
        write!(out, "{style}")?;
        let start = out.len();
        add_kinds(out, mask, "", ",")?;
        if let Some(cookie) = event.cookie() {
            write!(out, " #{cookie}")?;
        }
        let gap = WIDTH.saturating_sub(out.len() - start);
        write!(out, "{style:#}{:gap$}  ", "")?;
        if event.write_path(&mut self.path) {
            add_escaped(out, &self.path)?;
        } else if mask.contains(Mask::Q_OVERFLOW) {
            out.extend(b"*** events were lost here ***");
        }
        out.push(b'\n');
        Ok(())
    }

    fn add_json(&mut self, event: &Event<'_>) -> io::Result<()> {
        let out = &mut self.lines;
        out.extend(br#"{"path":"#);
        if event.write_path(&mut self.path) {
            match self.path.to_str() {
                Some(text) => add_json_string(out, text)?,
                None => write!(out, "{:?}", self.path.as_os_str().as_bytes())?,
            }
        } else {
            out.extend(b"null");
        }
        out.extend(br#","mask":["#);
        add_kinds(out, event.mask(), "\"", ",")?;
        out.extend(br#"],"cookie":"#);
        match event.cookie() {
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

fn print_stats(inotify: &Inotify) {
    let stats = inotify.stats();
    for (name, figure) in [
        ("events", stats.events),
        ("batches", stats.batches),
        ("reads", stats.reads),
        ("wake-ups", stats.wakeups),
        ("overflows", stats.overflows),
    ] {
        say(format_args!("{name:<10}{figure:>12}"));
    }
    say(format_args!("backend   {}", inotify.backend()));
}
