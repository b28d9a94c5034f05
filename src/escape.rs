//! Text that files, servers and other processes chose, for terminals and logs.
//!
//! A name may hold escape sequences that a terminal obeys, a newline that makes one line of a log two, or
//! characters that turn the order of what is read around. Such characters are shown as escapes
//! (`\n`, `\u{1b}`); all others, those of other scripts included, are shown as they are.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};

/// Whether a character is not shown as itself: control characters (C0, DEL, C1), line and paragraph separators, and those that have no
/// width or change the direction of text.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Shows a value with escapes.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<T>(pub T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escape(f), "{}", self.0)
    }
}

/// Writes with escapes.
pub(crate) struct Escape<'a, W: ?Sized>(pub(crate) &'a mut W);

impl<W: Write + ?Sized> Write for Escape<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_hidden(*c)) {
            let (before, after) = rest.split_at(at);
            write!(self.0, "{before}{}", c.escape_default())?;
            rest = after.get(c.len_utf8()..).unwrap_or_default();
        }
        self.0.write_str(rest)
    }
}

/// Text of several lines with escapes but for its newlines and tabs, which are the program's own: names in it were escaped before.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    let kept = |c: char| matches!(c, '\n' | '\t');
    if !text.contains(|c| is_hidden(c) && !kept(c)) {
        return Cow::Borrowed(text);
    }
    let pieces = text.split_inclusive(kept).map(|piece| {
        let (line, end) = piece.split_at(piece.trim_end_matches(kept).len());
        format!("{}{end}", Escaped(line))
    });
    Cow::Owned(pieces.collect())
}

/// JSON that means the same and holds no hidden character.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    let kept = |c: char| c.is_ascii() && c != '\u{7f}';
    if !text.contains(|c| is_hidden(c) && !kept(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) && !kept(c) {
            // Only strings hold such characters.
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_are_shown_and_others_stay() {
        let of = |text: &str| Escaped(text).to_string();
        assert_eq!(of("a\u{1b}[2Jb\nc\r\t\u{9b}\u{7f}"), r"a\u{1b}[2Jb\nc\r\t\u{9b}\u{7f}");
        assert_eq!(
            of("x\u{202e}y\u{2066}\u{200b}\u{feff}\u{2028}\u{e0041}"),
            r"x\u{202e}y\u{2066}\u{200b}\u{feff}\u{2028}\u{e0041}"
        );
        for plain in ["", "modèle/重み.safetensors", "Привет 'x' \"y\" \\n", "e\u{301}"] {
            assert_eq!(of(plain), plain);
        }
        assert_eq!(of(&of("\u{1b}")), of("\u{1b}"), "once is enough");
    }

    #[test]
    fn lines_stay_lines_and_json_means_the_same() {
        assert_eq!(lines("a\n\tb\u{1b}\n\n"), "a\n\tb\\u{1b}\n\n");
        assert!(matches!(lines("a\nb"), Cow::Borrowed(_)));
        let value = serde_json::json!({ "n\u{9b}": "\u{202e}\u{1b}\u{7f}\u{e0041}ü" });
        let text = serde_json::to_string_pretty(&value).unwrap();
        let safe = json(&text);
        assert!(!safe.contains(|c| is_hidden(c) && c != '\n') && safe.contains('ü'), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }
}
