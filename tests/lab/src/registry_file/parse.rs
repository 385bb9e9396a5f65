//! The text of a .reg file.

use std::iter::Peekable;
use std::str::Chars;

use anyhow::{Context, Result, bail, ensure};
use machine::nt::registry::{REG_BINARY, REG_DWORD, RegistryValue};

use super::{Action, Entry};

/// The first lines of the two versions.
const VERSION_5: &str = "Windows Registry Editor Version 5.00";
const VERSION_4: &str = "REGEDIT4";

/// Types whose data are strings (`winnt.h`): REG_SZ, REG_EXPAND_SZ, REG_MULTI_SZ.
const STRINGS: [u32; 3] = [1, 2, 7];

/// The entries of a file, in order.
///
/// # Errors
/// The line that is wrong, and what is expected there.
pub fn parse(file: &[u8]) -> Result<Vec<Entry>> {
    let text = decode(file)?;
    let mut reader = Reader { chars: text.chars().peekable(), line: 1, is_version_4: false };
    reader.version()?;
    let (mut entries, mut key) = (Vec::new(), None::<String>);
    while reader.next_entry() {
        let line = reader.line;
        let entry = reader.entry(&mut key).with_context(|| format!("line {line}"))?;
        entries.push(Entry { line, ..entry });
    }
    Ok(entries)
}

/// The text, with `\n` as the only end of a line.
fn decode(file: &[u8]) -> Result<String> {
    let text = match file {
        [0xFF, 0xFE, rest @ ..] => {
            ensure!(rest.len().is_multiple_of(2), "UTF-16 has two bytes for each unit; the last one is half");
            let units = rest.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
            let text: Result<String, _> = char::decode_utf16(units).collect();
            text.context("a surrogate without its pair: expected UTF-16LE")?
        }
        [0xFE, 0xFF, ..] => bail!("big-endian UTF-16: expected UTF-16LE, as reg export writes it, or UTF-8"),
        _ => {
            let bytes = file.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(file);
            let is_wide = bytes.get(1) == Some(&0);
            ensure!(!is_wide, "UTF-16 without a byte order mark: expected the bytes FF FE first");
            let valid = std::str::from_utf8(bytes).map_err(|error| {
                let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
                anyhow::anyhow!("line {line}: not UTF-8: expected UTF-16LE with a byte order mark, or UTF-8")
            });
            valid?.to_owned()
        }
    };
    Ok(text.replace("\r\n", "\n"))
}

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    /// From 1.
    line: usize,
    is_version_4: bool,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.chars.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    /// The rest of the line, without its end.
    fn rest(&mut self) -> String {
        let mut rest = String::new();
        while let Some(next) = self.chars.next_if(|next| *next != '\n') {
            rest.push(next);
        }
        rest
    }

    fn skip_blanks(&mut self) {
        while self.chars.next_if(|next| [' ', '\t', '\r'].contains(next)).is_some() {}
    }

    fn version(&mut self) -> Result<()> {
        let first = self.rest();
        self.is_version_4 = first.trim() == VERSION_4;
        ensure!(
            self.is_version_4 || first.trim() == VERSION_5,
            "line 1: {:?}: expected {VERSION_5:?} or {VERSION_4:?}",
            first.trim()
        );
        Ok(())
    }

    /// Goes to the next line that is neither empty nor a comment. `false` at the end.
    fn next_entry(&mut self) -> bool {
        loop {
            self.skip_blanks();
            match self.chars.peek() {
                None => return false,
                Some('\n') => drop(self.next()),
                Some(';') => drop(self.rest()),
                Some(_) => return true,
            }
        }
    }

    fn entry(&mut self, key: &mut Option<String>) -> Result<Entry> {
        let (key, action) = match self.chars.peek() {
            Some('[') => {
                let (name, action) = self.key()?;
                // Values cannot follow a key that is deleted.
                *key = (action == Action::Create).then(|| name.clone());
                (name, action)
            }
            Some('"' | '@') => {
                let name = self.name()?;
                let Some(key) = key else { bail!("a value {name:?} before any key: expected [KEY]") };
                (key.clone(), self.value(name)?)
            }
            _ => bail!("{:?}: expected [KEY], \"NAME\"=VALUE, @=VALUE or a comment with ;", self.rest()),
        };
        Ok(Entry { line: 0, key, action })
    }

    /// `[KEY]` or `[-KEY]`.
    fn key(&mut self) -> Result<(String, Action)> {
        let text = self.rest();
        let inside = text.trim_end().strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let inside = inside.with_context(|| format!("{text:?}: expected ] at the end of the line"))?;
        let (name, action) = match inside.strip_prefix('-') {
            Some(name) => (name, Action::Delete),
            None => (inside, Action::Create),
        };
        ensure!(
            name.starts_with("HKEY_") || name.starts_with("HKLM\\"),
            "{name:?}: expected a key that begins with HKEY_LOCAL_MACHINE or another root"
        );
        Ok((name.trim_end_matches('\\').to_owned(), action))
    }

    /// The name of a value, and `=`.
    fn name(&mut self) -> Result<String> {
        let name = match self.chars.peek() {
            Some('@') => {
                self.next();
                String::new()
            }
            _ => self.string()?,
        };
        self.skip_blanks();
        match self.next() {
            Some('=') => Ok(name),
            found => bail!("after the name {name:?}: {found:?}, expected ="),
        }
    }

    /// A string in quotes. It may have several lines.
    fn string(&mut self) -> Result<String> {
        self.next();
        let mut string = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(string),
                Some('\\') => match self.next() {
                    Some(next @ ('\\' | '"')) => string.push(next),
                    found => bail!("\\ before {found:?} in a string: expected \\\\ or \\\""),
                },
                Some('\n') => string.push_str("\r\n"),
                Some(next) => string.push(next),
                None => bail!("a string without its end: expected \""),
            }
        }
    }

    fn value(&mut self, name: String) -> Result<Action> {
        self.skip_blanks();
        let action = match self.chars.peek() {
            Some('-') => {
                self.next();
                Action::Unset(name)
            }
            Some('"') => {
                let string = self.string()?;
                Action::Set(name, RegistryValue::sz(&string))
            }
            _ => {
                let value = self.typed().with_context(|| format!("the value {name:?}"))?;
                Action::Set(name, value)
            }
        };
        self.skip_blanks();
        match self.chars.peek() {
            None | Some('\n' | ';') => Ok(action),
            Some(_) => bail!("{:?} behind the value: expected the end of the line", self.rest()),
        }
    }

    /// `dword:…`, `hex:…` or `hex(TYPE):…`.
    fn typed(&mut self) -> Result<RegistryValue> {
        let mut kind = String::new();
        while let Some(next) = self.chars.next_if(|next| !['\n', ':', ';'].contains(next)) {
            kind.push(next);
        }
        ensure!(
            self.chars.next_if_eq(&':').is_some(),
            "{kind:?}: expected a string in quotes, dword:, hex:, hex(TYPE): or -"
        );
        match kind.trim().to_ascii_lowercase().as_str() {
            "dword" => self.dword(),
            "hex" => self.bytes(REG_BINARY),
            other => {
                let number = other.strip_prefix("hex(").and_then(|other| other.strip_suffix(')'));
                let number = number.and_then(|number| u32::from_str_radix(number, 16).ok());
                let known = number.with_context(|| {
                    format!(
                        "{kind:?}: expected dword, hex or hex(TYPE) with the type as a hexadecimal number"
                    )
                });
                self.bytes(known?)
            }
        }
    }

    fn dword(&mut self) -> Result<RegistryValue> {
        self.skip_blanks();
        let mut digits = String::new();
        while let Some(next) = self.chars.next_if(|next| next.is_ascii_alphanumeric()) {
            digits.push(next);
        }
        let number = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() <= 8);
        let number =
            number.with_context(|| format!("dword:{digits}: expected one to eight hexadecimal digits"));
        Ok(RegistryValue { kind: REG_DWORD, data: number?.to_le_bytes().to_vec() })
    }

    /// Bytes with commas between them. A `\` at the end of a line continues it.
    fn bytes(&mut self, kind: u32) -> Result<RegistryValue> {
        let mut data = Vec::new();
        loop {
            self.continued()?;
            let mut digits = String::new();
            while let Some(next) = self.chars.next_if(|next| next.is_ascii_alphanumeric()) {
                digits.push(next);
            }
            if digits.is_empty() && data.is_empty() {
                break;
            }
            let byte = u8::from_str_radix(&digits, 16).ok().filter(|_| digits.len() <= 2);
            let at = self.line;
            data.push(byte.with_context(|| {
                format!("byte {} in line {at}, {digits:?}: expected two hexadecimal digits", data.len() + 1)
            })?);
            self.continued()?;
            if self.chars.next_if_eq(&',').is_none() {
                break;
            }
        }
        if self.is_version_4 && STRINGS.contains(&kind) {
            data = data.into_iter().flat_map(|byte| [byte, 0]).collect();
        }
        Ok(RegistryValue { kind, data })
    }

    /// Skips blanks, and the ends of lines that are continued.
    fn continued(&mut self) -> Result<()> {
        self.skip_blanks();
        while self.chars.next_if_eq(&'\\').is_some() {
            self.skip_blanks();
            match self.next() {
                Some('\n') => self.skip_blanks(),
                found => bail!("\\ before {found:?}: expected the end of the line"),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = r"HKEY_LOCAL_MACHINE\SYSTEM\Test";

    fn wide(text: &str) -> Vec<u8> {
        let units = text.encode_utf16().flat_map(u16::to_le_bytes);
        [0xFF, 0xFE].into_iter().chain(units).collect()
    }

    fn values(lines: &str) -> Vec<Action> {
        let text = format!("{VERSION_5}\r\n\r\n[{KEY}]\r\n{lines}");
        let entries = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{lines}: {error:#}"));
        assert_eq!(parse(&wide(&text)).unwrap(), entries, "UTF-16");
        assert_eq!((&*entries[0].key, &entries[0].action), (KEY, &Action::Create));
        entries.into_iter().skip(1).map(|entry| entry.action).collect()
    }

    fn set(name: &str, kind: u32, data: &[u8]) -> Action {
        Action::Set(name.to_owned(), RegistryValue { kind, data: data.to_vec() })
    }

    #[test]
    fn each_form_of_a_value_is_read() {
        for (lines, expected) in [
            ("\"a\"=\"b\"", set("a", 1, b"b\0\0\0")),
            ("@=\"\"", set("", 1, b"\0\0")),
            (r#""q\"u\\o"="1=2;3""#, Action::Set(r#"q"u\o"#.into(), RegistryValue::sz("1=2;3"))),
            ("\"two\"=\"a\r\nb\"", Action::Set("two".into(), RegistryValue::sz("a\r\nb"))),
            ("\"Grüße\"=\"日本\"", Action::Set("Grüße".into(), RegistryValue::sz("日本"))),
            ("\"d\"=dword:0000001f", set("d", 4, &[0x1F, 0, 0, 0])),
            ("\"d\" = dword:ffffffff ; all", set("d", 4, &[0xFF; 4])),
            ("\"h\"=hex:01,ff,\\\r\n  0a", set("h", 3, &[1, 0xFF, 10])),
            ("\"h\"=hex:", set("h", 3, &[])),
            ("\"e\"=hex(2):25,00,41,00,25,00,00,00", set("e", 2, b"%\0A\0%\0\0\0")),
            ("\"m\"=hex(7):61,00,00,00,\\\r\n00,00", set("m", 7, &[0x61, 0, 0, 0, 0, 0])),
            ("\"q\"=hex(b):01,00,00,00,00,00,00,80", set("q", 11, &[1, 0, 0, 0, 0, 0, 0, 0x80])),
            ("\"gone\"=-", Action::Unset("gone".into())),
        ] {
            assert_eq!(values(lines), [expected], "{lines}");
        }
    }

    #[test]
    fn keys_lines_and_comments() {
        let text = format!("{VERSION_5}\n; a comment\n\n[-{KEY}]\n[{KEY}\\Below]\n  ; another\n\"a\"=-\n");
        let entries = parse(text.as_bytes()).unwrap();
        let below = format!("{KEY}\\Below");
        let expected =
            [(4, KEY, Action::Delete), (5, &*below, Action::Create), (7, &*below, Action::Unset("a".into()))];
        let found: Vec<_> =
            entries.iter().map(|entry| (entry.line, &*entry.key, entry.action.clone())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn strings_of_bytes_become_wide() {
        let text = format!("{VERSION_4}\n[{KEY}]\n\"m\"=hex(7):61,00,00\n\"b\"=hex:61\n");
        let entries = parse(text.as_bytes()).unwrap();
        assert_eq!(entries[1].action, set("m", 7, &[0x61, 0, 0, 0, 0, 0]));
        assert_eq!(entries[2].action, set("b", 3, &[0x61]));
    }

    #[test]
    fn an_error_names_the_line_and_what_is_expected() {
        let head = format!("{VERSION_5}\n[{KEY}]\n");
        for (bytes, expected) in [
            (b"".to_vec(), ["line 1", VERSION_5]),
            (b"Windows Registry Editor Version 6".to_vec(), ["line 1", VERSION_4]),
            (b"\xFE\xFF\0W".to_vec(), ["big-endian", "UTF-16LE"]),
            (b"W\0i\0".to_vec(), ["byte order mark", "FF FE"]),
            (b"\xFF\xFEW".to_vec(), ["half", "UTF-16"]),
            ([VERSION_5.as_bytes(), b"\n\n[\xE9]"].concat(), ["line 3", "UTF-8"]),
            (format!("{VERSION_5}\n\"a\"=\"b\"").into(), ["line 2", "[KEY]"]),
            (format!("{VERSION_5}\n[{KEY}\n").into(), ["line 2", "]"]),
            (format!("{VERSION_5}\n[SYSTEM\\Test]\n").into(), ["line 2", "HKEY_LOCAL_MACHINE"]),
            (format!("{head}a=\"b\"").into(), ["line 3", "\"NAME\"=VALUE"]),
            (format!("{head}\"a\"").into(), ["line 3", "expected ="]),
            (format!("{head}\"a\"=b").into(), ["line 3", "dword:"]),
            (format!("{head}\"a\"=dword:xyz").into(), ["line 3", "hexadecimal digits"]),
            (format!("{head}\"a\"=dword:123456789").into(), ["line 3", "eight"]),
            (format!("{head}\"a\"=qword:1").into(), ["line 3", "hex(TYPE)"]),
            (format!("{head}\"a\"=hex:1,2,\\\n300").into(), ["line 4", "byte 3"]),
            (format!("{head}\"a\"=hex:1,,2").into(), ["line 3", "byte 2"]),
            (format!("{head}\"a\"=hex:1,\\ 2").into(), ["line 3", "end of the line"]),
            (format!("{head}\"a\"=\"b").into(), ["line 3", "without its end"]),
            (format!("{head}\"a\"=\"b\\c\"").into(), ["line 3", "expected \\\\"]),
            (format!("{head}\"a\"=\"b\" c").into(), ["line 3", "end of the line"]),
            (format!("{head}[-{KEY}]\n\"a\"=-").into(), ["line 4", "before any key"]),
        ] {
            let error = format!("{:#}", parse(&bytes).unwrap_err());
            assert!(expected.iter().all(|part| error.contains(part)), "{expected:?}: {error}");
        }
    }
}
