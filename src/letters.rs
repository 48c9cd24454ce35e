//! Which letters of a name may be shown. The examples have it from here too.

/// Whether a letter only stands there, to be seen. The others are controls, or reorder what stands around them, or hide.
///
/// `escape_debug` knows of these, but for letters that are neither controls nor marks and yet can't be seen. First those that
/// Unicode says to ignore (`Default_Ignorable_Code_Point` in `DerivedCoreProperties.txt`): the fillers of Hangul. Then those
/// that are drawn as nothing, though they are no spaces: the braille pattern without dots, the null notehead, and the blanks of
/// hieroglyphs.
pub(crate) fn is_harmless(letter: char) -> bool {
    match letter {
        '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' => false,
        '\u{2800}' | '\u{1d159}' | '\u{13441}' | '\u{13442}' => false,
        '\'' | '"' | '\\' => true,
        _ => letter.escape_debug().len() == 1,
    }
}

/// A text in which all is to be seen, and nothing is obeyed by a terminal, whatever somebody else has chosen to be in it.
pub(crate) fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        match is_harmless(letter) {
            true => line.push(letter),
            false => line.extend(letter.escape_default()),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use super::is_harmless;

    /// `Default_Ignorable_Code_Point` of Unicode 17.0.
    const IGNORED: [RangeInclusive<char>; 17] = [
        '\u{ad}'..='\u{ad}',
        '\u{34f}'..='\u{34f}',
        '\u{61c}'..='\u{61c}',
        '\u{115f}'..='\u{1160}',
        '\u{17b4}'..='\u{17b5}',
        '\u{180b}'..='\u{180f}',
        '\u{200b}'..='\u{200f}',
        '\u{202a}'..='\u{202e}',
        '\u{2060}'..='\u{206f}',
        '\u{3164}'..='\u{3164}',
        '\u{fe00}'..='\u{fe0f}',
        '\u{feff}'..='\u{feff}',
        '\u{ffa0}'..='\u{ffa0}',
        '\u{fff0}'..='\u{fff8}',
        '\u{1bca0}'..='\u{1bca3}',
        '\u{1d173}'..='\u{1d17a}',
        '\u{e0000}'..='\u{e0fff}',
    ];

    #[test]
    fn no_letter_that_unicode_ignores_is_harmless() {
        for letter in IGNORED.into_iter().flatten() {
            assert!(!is_harmless(letter), "{letter:?}");
        }
    }

    #[test]
    fn no_control_and_no_blank_but_the_space_is_harmless() {
        let blanks = "\u{2800}\u{1d159}\u{13441}\u{13442}";
        for letter in
            ('\0'..=char::MAX).filter(|&letter| letter.is_control() || letter.is_whitespace() && letter != ' ')
        {
            assert!(!is_harmless(letter), "{letter:?}");
        }
        assert!(!blanks.contains(is_harmless));
    }

    #[test]
    fn letters_that_can_be_seen_are_harmless() {
        assert!(('!'..='~').all(is_harmless) && "é Ж漢ñﷺ🦀⠁한ᄀ".chars().all(is_harmless));
    }
}
