//! The lines of all connections on one stream: `7+` opens connection 7, `7-` closes it,
//! `7 TEXT` is a line of it.

use std::io::{self, BufRead, Read};

use super::protocol::LONGEST_LINE;

/// A line of the stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Packed {
    /// The connection.
    pub client: u64,
    /// Its message.
    pub message: Message,
}

/// What a connection does.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// It begins.
    Opened,
    /// It ends.
    Closed,
    /// It sends a line, or is sent one.
    Text(String),
}

impl Packed {
    /// A line of text, as bytes.
    pub fn line(client: u64, text: &str) -> Vec<u8> {
        format!("{client} {text}\n").into_bytes()
    }

    /// The begin or the end of a connection, as bytes.
    pub fn change(client: u64, opened: bool) -> Vec<u8> {
        format!("{client}{}\n", if opened { '+' } else { '-' }).into_bytes()
    }

    fn parse(line: &str) -> Option<Self> {
        let digits = line.find(|next: char| !next.is_ascii_digit())?;
        let (client, rest) = line.split_at(digits);
        let message = match rest.split_at_checked(1)? {
            ("+", "") => Message::Opened,
            ("-", "") => Message::Closed,
            (" ", text) => Message::Text(text.to_owned()),
            _ => return None,
        };
        Some(Self { client: client.parse().ok()?, message })
    }
}

/// The next line; `None` at the end.
///
/// # Errors
/// If the other end sends what this one does not.
pub fn read(lines: &mut impl BufRead) -> io::Result<Option<Packed>> {
    /// The connection's number comes before its line.
    const LONGEST: u64 = LONGEST_LINE as u64 + 32;
    let mut line = Vec::new();
    lines.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    let text = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok());
    let packed = text.and_then(Packed::parse);
    packed.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a line of no known kind"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_written_and_others_are_errors() {
        let text =
            [Packed::change(7, true), Packed::line(7, "a b"), Packed::line(8, ""), Packed::change(7, false)];
        let mut lines = &text.concat()[..];
        let mut next = || read(&mut lines).unwrap();
        let of = |client, message| Some(Packed { client, message });
        assert_eq!(next(), of(7, Message::Opened));
        assert_eq!(next(), of(7, Message::Text("a b".into())));
        assert_eq!(next(), of(8, Message::Text(String::new())));
        assert_eq!(next(), of(7, Message::Closed));
        assert_eq!(next(), None);
        for wrong in
            [&b"+\n"[..], b"7\n", b"7+ \n", b"x a\n", b"\n", b"7 a", b"7 \xFF\n", b"99999999999999999999 a\n"]
        {
            assert!(read(&mut &*wrong).is_err(), "{wrong:?}");
        }
        let long = vec![b'1'; 2 * LONGEST_LINE];
        assert!(read(&mut &long[..]).is_err());
    }
}
