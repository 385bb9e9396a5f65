//! Reads capture files as a stream: pcap and pcapng, whatever is in them.
//!
//! The file is foreign: one frame is in memory at a time, no length is trusted,
//! and an error says where the file stops making sense, so that what came before
//! it still counts. Formats: draft-ietf-opsawg "PCAP Capture File Format" and
//! "PCAP Next Generation (pcapng)".
//!
//! The crate `pcap-parser` 0.17 was tried for this and is not used. It reports
//! a packet block with a wrong length as the end of the file, so that what is
//! wrong and where is lost; its buffer must hold the largest block of any kind,
//! so that the file chooses how much memory is used; it reads `if_tsoffset` of a
//! big-endian section as little-endian, and no `if_tsresol` that is a power of
//! 2; it knows neither the old packet block nor the modified format in
//! big-endian. Clocks, options, interfaces and errors would stay ours.

use std::fmt;
use std::io::Read;

use machine::wire::Way;

use super::link;
use super::pcapng::Section;
use super::source::Source;

/// The most bytes a frame can have: libpcap's MAXIMUM_SNAPLEN.
pub(super) const LARGEST_FRAME: u32 = 262_144;
/// The most where the link type carries no network packets, such as USB; those
/// frames are counted and not looked at. libwiretap's limit.
const LARGEST_OF_ANY: u32 = 128 << 20;

/// One captured frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Nanoseconds since 1970; `None` where the file has no time for it.
    pub at: Option<u64>,
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
    /// Bytes into the capture.
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

/// What a pcap file's head says of all its records.
struct Pcap {
    order: Order,
    /// Nanoseconds in a unit of the fraction.
    unit: u64,
    /// Kuznetzov's patch puts 8 more bytes behind each record's head.
    modified: bool,
    lengths: Lengths,
    link: u32,
}

/// In which order a record has its lengths (libpcap, `sf-pcap.c`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lengths {
    CapturedFirst,
    OriginalFirst,
    /// Version 2.3 was written both ways; the smaller one is the captured one.
    SmallerIsCaptured,
}

/// What kind of file it is.
enum Format {
    Pcap(Pcap),
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
        let mut source = Source::new(input)?;
        let Some(first) = source.array_or_end::<1>()? else {
            return Err(source.damage("the file is empty: not even the head of a capture is there"));
        };
        let rest = source.array::<3>()?;
        let magic = [first[0], rest[0], rest[1], rest[2]];
        let format = match magic {
            super::pcapng::SECTION_HEADER => Format::Pcapng(Section::begin(&mut source)?),
            _ => Format::Pcap(Pcap::begin(&mut source, magic)?),
        };
        Ok(Self { source, format, buffer: Vec::new() })
    }

    /// How many bytes of the file have been read, compressed or not.
    pub fn position(&self) -> u64 {
        self.source.of_file()
    }

    /// How many bytes of the capture have been read, decompressed.
    pub fn bytes(&self) -> u64 {
        self.source.at
    }

    /// `pcap`, `pcapng`, and whether compressed.
    pub fn format(&self) -> &'static str {
        match (&self.format, self.source.is_gzip()) {
            (Format::Pcap(Pcap { modified: true, .. }), false) => "modified pcap",
            (Format::Pcap(Pcap { modified: true, .. }), true) => "modified pcap in gzip",
            (Format::Pcap(_), false) => "pcap",
            (Format::Pcap(_), true) => "pcap in gzip",
            (Format::Pcapng(_), false) => "pcapng",
            (Format::Pcapng(_), true) => "pcapng in gzip",
        }
    }

    /// What wrote the file and on which interfaces. Anybody can have put the
    /// text there; it is printable.
    pub fn said(&self) -> &[String] {
        match &self.format {
            Format::Pcap(_) => &[],
            Format::Pcapng(section) => section.said(),
        }
    }

    /// Options that could not be used, by name.
    pub fn warnings(&self) -> &[String] {
        match &self.format {
            Format::Pcap(_) => &[],
            Format::Pcapng(section) => section.warnings(),
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
            Format::Pcap(pcap) => pcap.next_frame(source, buffer),
        }
    }
}

impl Pcap {
    /// Reads the head behind the magic number.
    fn begin<R: Read>(source: &mut Source<R>, magic: [u8; 4]) -> Result<Self, Damage> {
        let order = match magic {
            [_, _, 0xb2, 0xa1] => Order::Little,
            _ => Order::Big,
        };
        let (unit, modified) = match order.u32(magic) {
            0xa1b2_c3d4 => (1000, false),
            0xa1b2_3c4d => (1, false),
            0xa1b2_cd34 => (1000, true),
            _ => return Err(Damage { at: 0, what: no_capture(magic) }),
        };
        // Version, two reserved words, snapshot length; then the link type,
        // whose upper half holds flags.
        let head = source.array::<20>()?;
        let version = [order.u16([head[0], head[1]]), order.u16([head[2], head[3]])];
        let lengths = match version {
            [2, 0..=2] | [543, 0] => Lengths::OriginalFirst,
            [2, 3] => Lengths::SmallerIsCaptured,
            _ => Lengths::CapturedFirst,
        };
        let [.., a, b, c, d] = head;
        Ok(Self { order, unit, modified, lengths, link: order.u32([a, b, c, d]) & 0xffff })
    }

    fn next_frame<'a, R: Read>(
        &self,
        source: &mut Source<R>,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<Frame<'a>>, Damage> {
        let start = source.at;
        let Some(head) = source.array_or_end::<16>()? else {
            return Ok(None);
        };
        let word = |at: usize| self.order.u32([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (seconds, fraction, one, other) = (word(0), word(4), word(8), word(12));
        let (captured, original) = match self.lengths {
            Lengths::CapturedFirst => (one, other),
            Lengths::OriginalFirst => (other, one),
            Lengths::SmallerIsCaptured => (one.min(other), one.max(other)),
        };
        if self.modified {
            // An interface's index, a protocol and a packet type.
            source.array::<8>()?;
        }
        let known = link::is_read(self.link);
        let largest = if known { LARGEST_FRAME } else { LARGEST_OF_ANY };
        if captured > largest {
            let what = format!("a frame of {captured} bytes, where {largest} is the most there can be");
            return Err(Damage { at: start, what });
        }
        if captured > LARGEST_FRAME {
            source.skip(captured.into())?;
            buffer.clear();
        } else {
            source.fill(buffer, captured as usize)?;
        }
        let at = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.unit;
        Ok(Some(Frame { at: Some(at), link: self.link, bytes: buffer, original, way: None }))
    }
}

/// Says what a file is instead, where its first bytes tell, and what to do.
fn no_capture(magic: [u8; 4]) -> String {
    const COMPRESSED: [(&[u8], &str); 5] = [
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (&[0xfd, b'7', b'z', b'X'], "xz"),
        (b"BZh", "bzip2"),
        (b"PK\x03\x04", "zip"),
        (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
    ];
    const CAPTURES: [(&[u8], &str); 4] = [
        (b"snoo", "snoop"),
        (b"GMBU", "Network Monitor"),
        (b"RTSS", "Network Monitor 1"),
        (b"XCP\0", "NetXRay"),
    ];
    let named = |list: &[(&[u8], &'static str)]| {
        list.iter().find(|(head, _)| magic.starts_with(head)).map(|(_, name)| *name)
    };
    match (named(&COMPRESSED), named(&CAPTURES)) {
        (Some(name), _) => format!("no capture file: it is compressed with {name}; decompress it first"),
        (_, Some(name)) => {
            format!("a capture in the format of {name}; convert it first: editcap -F pcapng FILE NEW")
        }
        _ => format!("no capture file: it begins with {magic:02x?}, where pcap, pcapng or gzip is expected"),
    }
}
