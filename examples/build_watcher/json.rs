//! What is said to tools, on stdout: one object a line.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::burst::Effect;
use crate::letters::is_harmless;

pub(crate) struct Json;

impl Json {
    pub(crate) fn tell(&self, event: Value) {
        let mut stdout = io::stdout().lock();
        // Whoever read it may have seen enough.
        let _ = writeln!(stdout, "{}", printable(&event.to_string())).and_then(|()| stdout.flush());
    }
}

/// The same JSON, without what a terminal obeys, or what deceives who reads it there. All of that is in strings.
fn printable(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        if is_harmless(letter) {
            text.push(letter);
        } else {
            let units = letter
                .encode_utf16(&mut [0; 2])
                .iter()
                .map(|unit| format!("\\u{unit:04x}"))
                .collect::<String>();
            text.push_str(&units);
        }
    }
    text
}

/// A string, or an array of bytes if it is not UTF-8.
pub(crate) fn text(text: &OsStr) -> Value {
    text.to_str().map_or_else(|| json!(text.as_bytes()), |text| json!(text))
}

pub(crate) fn change(path: &Path, effect: &Effect) -> Value {
    let path = text(path.as_os_str());
    match effect {
        Effect::Created => json!({"path": path, "effect": "created"}),
        Effect::Changed => json!({"path": path, "effect": "changed"}),
        Effect::Removed => json!({"path": path, "effect": "removed"}),
        Effect::RenamedFrom(from) => json!({"path": path, "effect": "renamed", "from": text(from.as_os_str())}),
    }
}
