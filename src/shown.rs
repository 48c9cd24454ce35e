//! How names are shown in errors, and by `Debug`.

use std::fmt::{self, Write};

use crate::letters::printable;

/// As `Debug` shows it, without what that lets through and yet can't be seen. On one line.
pub(crate) struct Shown<T>(pub(crate) T);

impl<T: fmt::Debug> fmt::Debug for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{:?}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&printable(text))
    }
}
