//! The file's text: its encoding, repairs, and what of a damaged one is whole.

/// The text: UTF-8, or UTF-16 with a byte-order mark. If it breaks off, what came
/// before and why.
pub fn decode(bytes: &[u8]) -> Result<String, (String, &'static str)> {
    let units = |make: fn([u8; 2]) -> u16| {
        let units = bytes[2..].chunks_exact(2).map(|pair| make([pair[0], pair[1]]));
        let mut text = String::with_capacity(bytes.len() / 2);
        for character in char::decode_utf16(units) {
            match character {
                Ok(character) => text.push(character),
                Err(_) => return Err((text, "the text is not UTF-16 from here on")),
            }
        }
        Ok(text)
    };
    match bytes {
        [0xff, 0xfe, ..] => return units(u16::from_le_bytes),
        [0xfe, 0xff, ..] => return units(u16::from_be_bytes),
        _ => {}
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let valid = &bytes[..error.valid_up_to()];
            Err((String::from_utf8_lossy(valid).into_owned(), "the text is not UTF-8 from here on"))
        }
    }
}

/// Bare `&` and `<` escaped, and characters left out that no XML may have. Line
/// breaks stay, so that lines can be named.
pub fn repaired(text: &str) -> String {
    let mut xml = String::with_capacity(text.len() + text.len() / 64);
    for (at, character) in text.char_indices() {
        let rest = &text[at + character.len_utf8()..];
        match character {
            '&' if !is_reference(rest) => xml.push_str("&amp;"),
            '<' if !rest.starts_with(|next: char| next.is_ascii_alphabetic() || "/!?".contains(next)) => {
                xml.push_str("&lt;");
            }
            '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {}
            _ => xml.push(character),
        }
    }
    xml
}

/// Whether the text behind a `&` makes it a reference.
fn is_reference(rest: &str) -> bool {
    let name: String = rest.chars().take(12).take_while(|&character| character != ';').collect();
    let digits =
        |digits: &str, radix| !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    rest[name.len()..].starts_with(';')
        && match name.strip_prefix('#') {
            Some(number) => match number.strip_prefix('x') {
                Some(number) => digits(number, 16),
                None => digits(number, 10),
            },
            None => ["amp", "lt", "gt", "quot", "apos"].contains(&&*name),
        }
}

/// The line of an offset, from 1.
pub fn line_at(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count()
}

/// The offset of a position that the parser names: its line's beginning.
pub fn offset_of(xml: &str, position: roxmltree::TextPos) -> usize {
    let lines_before = (position.row as usize).saturating_sub(1);
    xml.split_inclusive('\n').take(lines_before).map(str::len).sum()
}

/// The text up to its last whole object, with what is open there closed.
pub fn whole_objects(xml: &str) -> String {
    const LISTS: [&str; 5] = ["layers", "callouts", "filters", "subLayers", "providers"];
    let mut open: Vec<&str> = Vec::new();
    let (mut end, mut open_at_end) = (0, Vec::new());
    let mut at = 0;
    while let Some(begin) = xml[at..].find('<').map(|begin| at + begin) {
        let Some(close) = xml[begin..].find('>').map(|close| begin + close) else { break };
        let tag = &xml[begin + 1..close];
        at = close + 1;
        if tag.starts_with(['!', '?']) || tag.ends_with('/') {
            continue;
        }
        match tag.strip_prefix('/') {
            None => open.push(tag.split_ascii_whitespace().next().unwrap_or_default()),
            Some(name) if open.last() == Some(&name.trim_end()) => drop(open.pop()),
            Some(_) => break,
        }
        let between_objects = match &open[..] {
            ["wfpstate"] | ["wfpstate", "layers", "item"] => true,
            ["wfpstate", .., list] => open.len() <= 4 && LISTS.contains(list),
            _ => false,
        };
        if between_objects {
            (end, open_at_end) = (at, open.clone());
        }
    }
    let mut whole = xml[..end].to_owned();
    open_at_end.iter().rev().for_each(|name| whole.push_str(&format!("</{name}>")));
    whole
}
