//! What may be sent to a terminal, which obeys it. Both command lines, `watch` and `build_watcher`, have it from here.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::builder::{StyledStr, Styles};
use clap::error::{ContextValue, Error};

use crate::letters::printable;

/// As `Parser::parse`, but an argument that makes no sense is named as it may be: a shell makes arguments of the names of
/// files, as of `*`.
pub(crate) fn arguments<A: Parser>() -> Result<A, ExitCode> {
    // Without styles of its own, all that a terminal would obey is from an argument.
    let mut command = A::command().styles(Styles::plain());
    let matches = command.try_get_matches_from_mut(env::args_os());
    let parsed = matches.and_then(|mut matches| A::from_arg_matches_mut(&mut matches));
    parsed.map_err(|error| show(error.format(&mut command)))
}

/// Help is no error, and goes to stdout.
fn show(mut error: Error) -> ExitCode {
    // First each argument, lest a line break in one begins a line that seems to be ours.
    let context: Vec<_> = error
        .context()
        .map(|(kind, value)| (kind, without_breaks(value)))
        .collect();
    for (kind, value) in context {
        error.insert(kind, value);
    }
    let text = error.render().ansi().to_string();
    let lines = text.lines().map(|line| printable(line) + "\n");
    let text = lines.collect::<String>();
    // Whoever would read it may be gone.
    let _ = match error.use_stderr() {
        true => io::stderr().write_all(text.as_bytes()),
        false => io::stdout().write_all(text.as_bytes()),
    };
    ExitCode::from(error.exit_code() as u8)
}

fn without_breaks(value: &ContextValue) -> ContextValue {
    let styled = |text: &StyledStr| StyledStr::from(printable(&text.ansi().to_string()));
    match value {
        ContextValue::String(text) => ContextValue::String(printable(text)),
        ContextValue::Strings(texts) => ContextValue::Strings(texts.iter().map(|text| printable(text)).collect()),
        ContextValue::StyledStrs(texts) => ContextValue::StyledStrs(texts.iter().map(styled).collect()),
        // The usage, whose lines are ours, and what is no text.
        other => other.clone(),
    }
}
