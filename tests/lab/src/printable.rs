//! Escapes text from elsewhere, so that it is safe to print.

/// Escapes control characters, and format characters such as U+202E, which reverses
/// the text around it. The text of file names, interface names and comments is not
/// trusted.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            // `escape_debug` escapes these for string literals. They print.
            '\'' | '"' | '\\' => printable.push(character),
            _ => printable.extend(character.escape_debug()),
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_do_not_print_are_escaped() {
        let kept = r#"\Device\NPF_{4-2} "Ethernet 2" 'ß', 日本, العربية, 🦀"#;
        assert_eq!(printable(kept), kept);
        let hostile = [
            '\0',
            '\t',
            '\n',
            '\r',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{9b}',
            '\u{ad}',
            '\u{61c}',
            '\u{180e}',
            '\u{200b}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{206f}',
            '\u{feff}',
            '\u{fff9}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e000}',
        ];
        for character in hostile {
            let shown = printable(&format!("a{character}b"));
            assert!(!shown.contains(character) && shown.contains('\\'), "{character:?}: {shown}");
        }
        assert_eq!(printable("gpj.\u{202e}exe"), "gpj.\\u{202e}exe");
    }
}
