//! How events and changes are written: a line each, as text or as JSON.

use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anstyle::{AnsiColor, Style};
use ringwatch::tree::{Change, Origin};
use ringwatch::{Event, EventBatch, Mask};

use crate::letters::is_harmless;

/// What a line shows.
pub(crate) struct Line<'a> {
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

    pub(crate) fn of_change(change: Change<'a>) -> Self {
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
pub(crate) struct Printer {
    json: bool,
    colours: bool,
    /// Kept from batch to batch, as `path` is from event to event.
    pub(crate) lines: Vec<u8>,
    path: PathBuf,
}

impl Printer {
    pub(crate) fn new(json: bool) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            json,
            colours: !json && !no_color && io::stdout().is_terminal(),
            lines: Vec::new(),
            path: PathBuf::new(),
        }
    }

    pub(crate) fn print(&mut self, batch: EventBatch) -> io::Result<()> {
        self.lines.clear();
        batch.iter().map(Line::of_event).try_for_each(|line| self.add(&line))?;
        // The write may block for long; meanwhile the reading side can use the buffer.
        drop(batch);
        self.write()
    }

    pub(crate) fn add(&mut self, line: &Line<'_>) -> io::Result<()> {
        match self.json {
            true => self.add_json(line),
            false => self.add_text(line),
        }
    }

    pub(crate) fn write(&self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(&self.lines)?;
        stdout.flush()
    }

    /// The path comes last, so that a name can't pass for anything else.
    fn add_text(&mut self, line: &Line<'_>) -> io::Result<()> {
        const WIDTH: usize = 26;
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
        let has_path = line.write_path(&mut self.path);
        add_json_path(out, has_path.then_some(&self.path))?;
        out.extend(br#","mask":["#);
        add_kinds(out, line.mask, "\"", ",")?;
        out.extend(br#"],"cookie":"#);
        match line.cookie {
            Some(cookie) => write!(out, "{cookie}")?,
            None => out.extend(b"null"),
        }
        if let Source::Change(change) = &line.source {
            out.extend(br#","renamed_from":"#);
            add_json_path(out, change.renamed_from())?;
            write!(out, r#","found":{}"#, line.scan)?;
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
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'\\';
    let bytes = path.as_os_str().as_bytes();
    if bytes.iter().all(is_plain) {
        // Most paths; and several times as fast.
        out.extend(bytes);
        return Ok(());
    }
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                _ if letter != '\\' && is_harmless(letter) => out.extend(letter.encode_utf8(&mut [0; 4]).as_bytes()),
                _ if letter.is_ascii() => write!(out, "{}", (letter as u8).escape_ascii())?,
                _ => write!(out, "{}", letter.escape_unicode())?,
            }
        }
        write!(out, "{}", chunk.invalid().escape_ascii())?;
    }
    Ok(())
}

/// As text; as numbers if it is none.
fn add_json_path(out: &mut Vec<u8>, path: Option<impl AsRef<Path>>) -> io::Result<()> {
    let path = path.as_ref().map(AsRef::as_ref);
    match path.map(|path| (path.to_str(), path.as_os_str().as_bytes())) {
        Some((Some(text), _)) => add_json_string(out, text),
        Some((None, bytes)) => write!(out, "{bytes:?}"),
        None => out.write_all(b"null"),
    }
}

/// JSON asks to escape the first 32 controls only; a terminal obeys others too, and letters that reorder or can't be seen
/// deceive who reads it there.
fn add_json_string(out: &mut Vec<u8>, text: &str) -> io::Result<()> {
    out.push(b'"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend([b'\\', letter as u8]),
            _ if is_harmless(letter) => {
                out.extend(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
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
