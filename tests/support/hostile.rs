//! A name that is made to do harm, and what of it may be shown.

/// An escape that retitles a terminal, a line break, a letter that turns the reading order, and a byte that is no text.
pub(crate) const NAME: &[u8] = b"a\x1b]0;owned\x07\nmain.rs\xe2\x80\xae\xc2\x9b31m\xff";

/// Letters that can't be seen, among some that can: ignored by whoever draws text, or blank.
pub(crate) const UNSEEN: &str =
    "owned\u{34f}a\u{fe0f}b\u{e0100}c\u{180b}d\u{3164}e\u{115f}f\u{1160}g\u{ffa0}h\u{2800}i\u{1d159}j";

/// Text without any letter that may not reach a terminal as it is.
#[track_caller]
pub(crate) fn assert_harmless(shown: &[u8]) {
    let text = str::from_utf8(shown).expect("text");
    let is_bad =
        |letter: char| letter.is_control() || letter == '\u{202e}' || !letter.is_ascii() && UNSEEN.contains(letter);
    let bad = text.chars().find(|&letter| letter != '\n' && is_bad(letter));
    assert_eq!(bad, None, "{text:?}");
}
