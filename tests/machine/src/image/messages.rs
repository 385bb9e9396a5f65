//! The message table of an image, from which Event Viewer takes the texts of a driver's
//! entries.
//!
//! Source: `MESSAGE_RESOURCE_DATA` (`winnt.h`); "FormatMessage function", Microsoft
//! Learn, for what a text inserts.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use object::read::pe::{PeFile64, ResourceDirectoryEntryData, ResourceNameOrId};
use object::{LittleEndian as LE, ReadRef};

/// `RT_MESSAGETABLE` (`winuser.h`).
const MESSAGE_TABLE: u16 = 11;
/// `MESSAGE_RESOURCE_UNICODE`.
const IS_UNICODE: u16 = 1;
/// The most identifiers of one block. A larger block is damaged.
const LARGEST_BLOCK: u32 = 1 << 16;

/// The texts of an image by their identifiers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Messages(BTreeMap<u32, String>);

impl Messages {
    /// Reads the message tables of a PE32+ file, in every language that it has. Without a
    /// table there are no texts.
    ///
    /// # Errors
    /// What is damaged.
    pub fn of_file(bytes: &[u8]) -> Result<Self, String> {
        let broken = |error: object::Error| error.to_string();
        let file = PeFile64::parse(bytes).map_err(broken)?;
        let sections = file.section_table();
        let resources = file.data_directories().resource_directory(bytes, &sections).map_err(broken)?;
        let Some(resources) = resources else { return Ok(Self::default()) };
        let mut texts = Self::default();
        for kind in resources.root().map_err(broken)?.entries {
            if !matches!(kind.name_or_id(), ResourceNameOrId::Id(MESSAGE_TABLE)) {
                continue;
            }
            let mut open = vec![kind.data(resources).map_err(broken)?];
            // A table by its name, and in it by its language. A directory that contains
            // itself would never end.
            let mut left = 1000;
            while let Some(entry) = open.pop() {
                left = u32::checked_sub(left, 1).ok_or("the resource directory is not a tree")?;
                match entry {
                    ResourceDirectoryEntryData::Table(table) => {
                        for entry in table.entries {
                            open.push(entry.data(resources).map_err(broken)?);
                        }
                    }
                    ResourceDirectoryEntryData::Data(data) => {
                        let at = data.offset_to_data.get(LE);
                        let size = data.size.get(LE) as usize;
                        let table = sections.pe_data_at(bytes, at).and_then(|table| table.get(..size));
                        texts.add(table.ok_or("a message table outside the file")?)?;
                    }
                }
            }
        }
        Ok(texts)
    }

    /// Adds the texts of a table.
    fn add(&mut self, table: &[u8]) -> Result<(), String> {
        let cut = || "a message table that is cut".to_owned();
        let word =
            |at: u64| table.read_at::<object::U32<LE>>(at).map(|word| word.get(LE)).map_err(|()| cut());
        let half =
            |at: u64| table.read_at::<object::U16<LE>>(at).map(|half| half.get(LE)).map_err(|()| cut());
        for block in 0..u64::from(word(0)?) {
            let block = 4 + 12 * block;
            let (first, last, mut at) = (word(block)?, word(block + 4)?, u64::from(word(block + 8)?));
            if last < first || last - first >= LARGEST_BLOCK {
                return Err(format!("a message table with a block from {first:#x} to {last:#x}"));
            }
            for identifier in first..=last {
                let (length, flags) = (half(at)?, half(at + 2)?);
                let text = table.get(at as usize + 4..at as usize + usize::from(length)).ok_or_else(cut)?;
                let text = match flags & IS_UNICODE {
                    0 => text.iter().map(|byte| char::from(*byte)).collect(),
                    _ => {
                        let units = text.as_chunks::<2>().0.iter().copied().map(u16::from_le_bytes);
                        char::decode_utf16(units).map(|unit| unit.unwrap_or('\u{fffd}')).collect::<String>()
                    }
                };
                let text = text.split('\0').next().unwrap_or_default();
                self.0.insert(identifier, text.trim_end_matches(['\r', '\n']).to_owned());
                at += u64::from(length);
            }
        }
        Ok(())
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text with this identifier, as the table has it.
    pub fn text(&self, identifier: u32) -> Option<&str> {
        self.0.get(&identifier).map(String::as_str)
    }

    /// Every identifier.
    pub fn identifiers(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }
}

impl FromIterator<(u32, String)> for Messages {
    fn from_iter<T: IntoIterator<Item = (u32, String)>>(texts: T) -> Self {
        Self(texts.into_iter().collect())
    }
}

/// A text with its strings inserted: `%1` is the first. `%n` begins a line and `%0` ends
/// the text. A number without a string stays as it is.
pub fn insert(text: &str, strings: &[&str]) -> String {
    let (mut inserted, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('%') {
        inserted += before;
        let digits = after.bytes().take(2).take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            let number: usize = after[..digits].parse().unwrap_or_default();
            rest = &after[digits..];
            if number == 0 {
                return inserted;
            }
            // A format, as `%2!s!`. Entries have only strings.
            if let Some((_, behind)) = rest.strip_prefix('!').and_then(|rest| rest.split_once('!')) {
                rest = behind;
            }
            match strings.get(number - 1) {
                Some(string) => inserted += string,
                None => inserted += &format!("%{number}"),
            }
            continue;
        }
        let mut letters = after.chars();
        match letters.next() {
            Some('n') => inserted.push('\n'),
            Some('t') => inserted.push('\t'),
            Some('r') => inserted.push('\r'),
            Some('b') => inserted.push(' '),
            Some(letter) => inserted.push(letter),
            None => {}
        }
        rest = letters.as_str();
    }
    inserted + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with one block of two texts, and one of one text in ANSI.
    fn table() -> Vec<u8> {
        let text = |text: &str| -> Vec<u8> {
            let mut units: Vec<u16> = text.encode_utf16().chain("\r\n\0".encode_utf16()).collect();
            units.resize(units.len().next_multiple_of(2), 0);
            let length = 4 + 2 * units.len() as u16;
            [length, 1].iter().chain(&units).flat_map(|unit| unit.to_le_bytes()).collect()
        };
        let entries = [text("one %1"), text("two"), vec![8, 0, 0, 0, b'a', 0xe9, 0, 0]];
        let second = 28 + entries[0].len() + entries[1].len();
        let head = [2, 0x6000_0001, 0x6000_0002, 28, 0xa000_0003, 0xa000_0003, second as u32];
        let head = head.iter().flat_map(|word| word.to_le_bytes());
        head.chain(entries.concat()).collect()
    }

    #[test]
    fn a_table_has_its_texts() {
        let mut texts = Messages::default();
        texts.add(&table()).unwrap();
        assert_eq!(texts.identifiers().collect::<Vec<_>>(), [0x6000_0001, 0x6000_0002, 0xa000_0003]);
        assert_eq!(texts.text(0x6000_0001), Some("one %1"));
        assert_eq!(texts.text(0x6000_0002), Some("two"));
        assert_eq!(texts.text(0xa000_0003), Some("aé"));
        assert_eq!(texts.text(1), None);
    }

    #[test]
    fn a_damaged_table_gives_an_error() {
        let whole = table();
        for length in 0..whole.len() - 4 {
            assert!(Messages::default().add(&whole[..length]).is_err(), "{length}");
        }
        for at in 0..whole.len() {
            for bits in [1, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= bits;
                let _read_or_refused = Messages::default().add(&damaged);
            }
        }
    }

    #[test]
    fn strings_are_inserted_as_documented() {
        for (text, expected) in [
            ("%2 of %3", "b of c"),
            ("%1%1 %%1 100%% %4", "aa %1 100% %4"),
            ("a%nb%tc%!d%b.", "a\nb\tc!d ."),
            ("%2!s!x%2!-10s!y", "bxby"),
            ("end%0 hidden", "end"),
            ("%12", "%12"),
            ("%", ""),
        ] {
            assert_eq!(insert(text, &["a", "b", "c"]), expected, "{text}");
        }
    }
}
