//! Reads capture files as a stream: pcap and pcapng, whatever is in them.
//!
//! Written here because the file is foreign: one frame in memory at a time, no
//! length taken on trust, and an error that says where the file stops making
//! sense, so that what came before it still counts. Formats: draft-ietf-opsawg
//! "PCAP Capture File Format" and "PCAP Next Generation (pcapng)".

use std::fmt;
use std::io::{self, Read};

use super::pcapng::Section;
use crate::wire::Way;

/// The most bytes a frame can have: libpcap's MAXIMUM_SNAPLEN.
pub(super) const LARGEST_FRAME: u32 = 262_144;

/// One captured frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Nanoseconds since 1970.
    pub at: u64,
    /// `LINKTYPE_*`.
    pub link: u32,
    /// What was captured of it.
    pub bytes: &'a [u8],
    /// How long it was on the wire.
    pub original: u32,
    /// The way it went, where the file says so.
    pub way: Option<Way>,
}

/// Where a file stops making sense, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Damage {
    /// Bytes into the file.
    pub at: u64,
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.at, self.what)
    }
}

impl std::error::Error for Damage {}

/// Byte order of a file or section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

impl Order {
    pub(super) fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    pub(super) fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
}

/// A source that knows how far it has been read.
pub(super) struct Source<R> {
    input: R,
    pub(super) at: u64,
}

impl<R: Read> Source<R> {
    /// The next `N` bytes; `None` at the end of the file if nothing is left.
    pub(super) fn array_or_end<const N: usize>(&mut self) -> Result<Option<[u8; N]>, Damage> {
        let mut bytes = [0; N];
        Ok(self.read(&mut bytes, true)?.then_some(bytes))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let mut bytes = [0; N];
        self.read(&mut bytes, false)?;
        Ok(bytes)
    }

    /// Exactly `length` bytes into `buffer`, which the caller has bounded.
    pub(super) fn fill(&mut self, buffer: &mut Vec<u8>, length: usize) -> Result<(), Damage> {
        buffer.clear();
        buffer.resize(length, 0);
        self.read(buffer, false).map(|_| ())
    }

    pub(super) fn skip(&mut self, length: u64) -> Result<(), Damage> {
        let from = self.at;
        let skipped = io::copy(&mut (&mut self.input).take(length), &mut io::sink());
        let skipped = skipped.map_err(|error| Damage { at: from, what: error.to_string() })?;
        self.at += skipped;
        if skipped < length { Err(self.ends_within(from)) } else { Ok(()) }
    }

    pub(super) fn damage(&self, what: impl Into<String>) -> Damage {
        Damage { at: self.at, what: what.into() }
    }

    fn ends_within(&self, from: u64) -> Damage {
        Damage { at: from, what: format!("the file ends within a record, after {} bytes", self.at - from) }
    }

    fn read(&mut self, bytes: &mut [u8], may_end: bool) -> Result<bool, Damage> {
        let from = self.at;
        let mut filled = 0;
        while filled < bytes.len() {
            match self.input.read(&mut bytes[filled..]) {
                Ok(0) if filled == 0 && may_end => return Ok(false),
                Ok(0) => return Err(self.ends_within(from)),
                Ok(count) => {
                    filled += count;
                    self.at += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Damage { at: from, what: error.to_string() }),
            }
        }
        Ok(true)
    }
}

/// What kind of file it is.
enum Format {
    Pcap { order: Order, nanoseconds: bool, link: u32 },
    Pcapng(Section),
}

/// The frames of a file, in order.
pub struct Reader<R> {
    source: Source<R>,
    format: Format,
    buffer: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads the file's head.
    ///
    /// # Errors
    /// If it is no capture file.
    pub fn new(input: R) -> Result<Self, Damage> {
        let mut source = Source { input, at: 0 };
        let magic = source.array::<4>()?;
        let pcap = match magic {
            [0xd4, 0xc3, 0xb2, 0xa1] => Some((Order::Little, false)),
            [0xa1, 0xb2, 0xc3, 0xd4] => Some((Order::Big, false)),
            [0x4d, 0x3c, 0xb2, 0xa1] => Some((Order::Little, true)),
            [0xa1, 0xb2, 0x3c, 0x4d] => Some((Order::Big, true)),
            _ => None,
        };
        let format = match pcap {
            Some((order, nanoseconds)) => {
                // Version, two reserved words, snapshot length; then the link
                // type, whose upper half holds flags.
                let head = source.array::<20>()?;
                let [.., a, b, c, d] = head;
                Format::Pcap { order, nanoseconds, link: order.u32([a, b, c, d]) & 0xffff }
            }
            None if magic == super::pcapng::SECTION_HEADER => Format::Pcapng(Section::begin(&mut source)?),
            None => {
                return Err(Damage { at: 0, what: format!("no capture file: it begins with {magic:02x?}") });
            }
        };
        Ok(Self { source, format, buffer: Vec::new() })
    }

    /// How many bytes have been read.
    pub fn position(&self) -> u64 {
        self.source.at
    }

    /// `pcap` or `pcapng`.
    pub fn format(&self) -> &'static str {
        match self.format {
            Format::Pcap { .. } => "pcap",
            Format::Pcapng(_) => "pcapng",
        }
    }

    /// What wrote the file and on which interfaces, as the file has it: text
    /// that anybody can have put there.
    pub fn said(&self) -> &[String] {
        match &self.format {
            Format::Pcap { .. } => &[],
            Format::Pcapng(section) => section.said(),
        }
    }

    /// The next frame; `None` at the end of the file.
    ///
    /// # Errors
    /// Where the file stops making sense. There is nothing to read behind that.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Damage> {
        let Self { source, format, buffer } = self;
        match format {
            Format::Pcapng(section) => section.next_frame(source, buffer),
            Format::Pcap { order, nanoseconds, link } => {
                let Some(head) = source.array_or_end::<16>()? else {
                    return Ok(None);
                };
                let word = |at: usize| order.u32([head[at], head[at + 1], head[at + 2], head[at + 3]]);
                let (seconds, fraction, captured, original) = (word(0), word(4), word(8), word(12));
                if captured > LARGEST_FRAME {
                    return Err(source.damage(format!("a frame of {captured} bytes")));
                }
                source.fill(buffer, captured as usize)?;
                let scale = if *nanoseconds { 1 } else { 1000 };
                let at = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * scale;
                Ok(Some(Frame { at, link: *link, bytes: buffer, original, way: None }))
            }
        }
    }
}
