//! A name that is made to do harm, and what of it may be shown.

/// An escape that retitles a terminal, a line break, a letter that turns the reading order, and a byte that is no text.
pub(crate) const NAME: &[u8] = b"a\x1b]0;owned\x07\nmain.rs\xe2\x80\xae\xc2\x9b31m\xff";

/// Text without any letter that may not reach a terminal as it is.
pub(crate) fn assert_harmless(shown: &[u8]) {
    let text = str::from_utf8(shown).expect("text");
    let bad = text
        .chars()
        .find(|&letter| letter != '\n' && (letter.is_control() || letter == '\u{202e}'));
    assert_eq!(bad, None, "{text:?}");
}
