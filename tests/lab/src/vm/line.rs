//! The lines that a guest writes to its serial port.
//!
//! `HUSHPORT KIND TEXT CRC`, such as `HUSHPORT boot Windows 10.0.26100 0c6f0b7a`. CRC is
//! the CRC-32 of `KIND TEXT` (ISO-HDLC, as in zip files), as 8 digits in lower case. A
//! firmware, a boot loader and a kernel debugger write to the port, too. What is no such
//! line is counted and otherwise ignored.

use std::fmt;

/// The first word of each line.
pub const MARK: &str = "HUSHPORT";

/// The most bytes of a line. Longer ones are garbage.
const LONGEST: usize = 2048;

/// What a guest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A pass of Windows Setup has begun: `windowsPE`, `specialize` or `first-logon`.
    Setup(String),
    /// The guest's script has begun after a start of the machine; the text names the
    /// system.
    Boot(String),
    /// A step of the plan has begun.
    Step(String),
    /// A line of the guest's log.
    Log(String),
    /// The guest restarts the machine now.
    Restart,
    /// The guest has found a crash dump with this name.
    Dump(String),
    /// A file could not be written to the disk for results, and why.
    Lost(String),
    /// The closing line: `N passed, M failed`.
    Verdict(Counts),
    /// All results are written; the guest turns the machine off.
    End,
}

/// The numbers of a closing line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Checks that passed.
    pub passed: usize,
    /// Checks that failed.
    pub failed: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

impl Counts {
    /// Parses a closing line.
    pub fn parse(text: &str) -> Option<Self> {
        let (passed, failed) = text.trim().strip_suffix(" failed")?.split_once(" passed, ")?;
        Some(Self { passed: passed.parse().ok()?, failed: failed.parse().ok()? })
    }
}

impl Line {
    /// The line's words after the mark, without the CRC.
    fn body(&self) -> String {
        match self {
            Self::Setup(text) => format!("setup {text}"),
            Self::Boot(text) => format!("boot {text}"),
            Self::Step(text) => format!("step {text}"),
            Self::Log(text) => format!("log {text}"),
            Self::Restart => "restart now".to_owned(),
            Self::Dump(text) => format!("dump {text}"),
            Self::Lost(text) => format!("lost {text}"),
            Self::Verdict(counts) => format!("verdict {counts}"),
            Self::End => "end now".to_owned(),
        }
    }

    /// Parses a line; `None` for garbage. The line may begin with garbage, because a
    /// firmware does not end its last line.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(&bytes[start(bytes)?..]).ok()?.trim_end();
        let (body, crc) = text.strip_prefix(MARK)?.strip_prefix(' ')?.rsplit_once(' ')?;
        if crc.len() != 8 || u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(body.as_bytes()) {
            return None;
        }
        let (kind, text) = body.split_once(' ')?;
        let owned = text.to_owned();
        Some(match kind {
            "setup" => Self::Setup(owned),
            "boot" => Self::Boot(owned),
            "step" => Self::Step(owned),
            "log" => Self::Log(owned),
            "restart" => Self::Restart,
            "dump" => Self::Dump(owned),
            "lost" => Self::Lost(owned),
            "verdict" => Self::Verdict(Counts::parse(text)?),
            "end" => Self::End,
            _ => return None,
        })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body();
        write!(f, "{MARK} {body} {:08x}", crc32fast::hash(body.as_bytes()))
    }
}

/// Where the last mark in a line begins.
fn start(bytes: &[u8]) -> Option<usize> {
    bytes.windows(MARK.len()).rposition(|window| window == MARK.as_bytes())
}

/// Splits bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Vec<u8>,
    /// Bytes of a line that is too long are dropped until its end.
    too_long: bool,
    /// The number of lines that were garbage.
    pub garbage: usize,
}

impl Lines {
    /// Takes bytes and returns the guest's lines that they complete.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                if self.pending.len() < LONGEST {
                    self.pending.push(*byte);
                } else {
                    self.too_long = true;
                }
                continue;
            }
            let line = if self.too_long { None } else { Line::parse(&self.pending) };
            let blank = !self.too_long && self.pending.iter().all(u8::is_ascii_whitespace);
            self.garbage += usize::from(line.is_none() && !blank);
            lines.extend(line);
            self.pending.clear();
            self.too_long = false;
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Line> {
        vec![
            Line::Setup("windowsPE".into()),
            Line::Boot("Windows 10.0.26100".into()),
            Line::Step("Start-standard".into()),
            Line::Log("ok Start: it starts".into()),
            Line::Restart,
            Line::Dump("MEMORY.DMP".into()),
            Line::Lost("MEMORY.DMP: the disk is full".into()),
            Line::Verdict(Counts { passed: 12, failed: 3 }),
            Line::End,
        ]
    }

    #[test]
    fn the_check_value_is_the_catalogued_one() {
        // CRC-32/ISO-HDLC of "123456789".
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
        assert_eq!(Line::Boot("x".into()).to_string(), "HUSHPORT boot x 147b151b");
    }

    #[test]
    fn every_line_is_read_as_it_was_written() {
        for line in all() {
            let text = line.to_string();
            assert_eq!(Line::parse(text.as_bytes()), Some(line.clone()), "{text}");
            assert_eq!(Line::parse(format!("BdsDxe: \u{1b}[2J{text} \r").as_bytes()), Some(line), "{text}");
        }
    }

    #[test]
    fn a_damaged_line_is_garbage() {
        for line in all() {
            let text = line.to_string();
            for at in 0..text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1;
                assert_eq!(Line::parse(&bytes), None, "{}", String::from_utf8_lossy(&bytes));
                bytes.truncate(at);
                assert_eq!(Line::parse(&bytes), None, "{at} bytes of {text}");
            }
        }
        let forged = |body: &str| format!("{MARK} {body} {:08x}", crc32fast::hash(body.as_bytes()));
        for body in ["verdict all passed", "verdict -1 passed, 0 failed", "dance now", "boot"] {
            assert_eq!(Line::parse(forged(body).as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn lines_are_found_between_garbage() {
        let mut bytes = vec![0xff, 0, b'\n', b'\r', b'\n'];
        bytes.extend(vec![b'x'; 3 * LONGEST]);
        bytes.extend(format!("{}\n", Line::Restart).into_bytes());
        bytes.extend([0xfe, 0x80, 7]);
        bytes.extend(format!("{}\r\n{}\n", Line::End, Line::Boot("x".into())).into_bytes());
        bytes.extend(b"HUSHPORT end now");
        for size in [1, 7, bytes.len()] {
            let mut lines = Lines::default();
            let found: Vec<Line> = bytes.chunks(size).flat_map(|part| lines.take(part)).collect();
            assert_eq!(found, [Line::End, Line::Boot("x".into())], "{size}");
            assert_eq!(lines.garbage, 2, "{size}");
        }
    }
}
