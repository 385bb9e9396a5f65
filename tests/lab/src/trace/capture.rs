//! Reads pcap and pcapng files frame by frame, whatever they contain.
//!
//! The file is untrusted. One frame is in memory at a time, no length is trusted,
//! and an error names the position of the damage, so that everything before it
//! still counts. Formats: draft-ietf-opsawg "PCAP Capture File Format" and "PCAP
//! Next Generation (pcapng)".
//!
//! The crate `pcap-parser` 0.17 was tried and is not used, for these reasons:
//! - It reports a packet block with a wrong length as the end of the file, so the
//!   kind and the position of the damage are lost.
//! - Its buffer must hold the largest block of any kind, so the file determines how
//!   much memory is used.
//! - It reads `if_tsoffset` of a big-endian section as little-endian, and no
//!   `if_tsresol` that is a power of 2.
//! - It supports neither the old packet block nor the modified format in
//!   big-endian.
//! - Clocks, options, interfaces and errors would still need code here.

use std::fmt;
use std::io::Read;

use machine::wire::Way;

use super::link;
use super::pcapng::Section;
use super::source::Source;

/// The maximum size of a frame in bytes: libpcap's MAXIMUM_SNAPLEN.
pub(super) const LARGEST_FRAME: u32 = 262_144;
/// The maximum size for link types without network packets, such as USB; those
/// frames are only counted. The limit is libwiretap's.
const LARGEST_OF_ANY: u32 = 128 << 20;

/// One captured frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Nanoseconds since 1970; `None` if the file holds no time for it.
    pub at: Option<u64>,
    /// `LINKTYPE_*`.
    pub link: u32,
    /// The captured bytes.
    pub bytes: &'a [u8],
    /// The length on the wire, in bytes.
    pub original: u32,
    /// The direction, if the file holds it.
    pub way: Option<Way>,
}

/// Where a file is damaged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Damage {
    /// The position in the capture, in bytes.
    pub at: u64,
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.at, self.what)
    }
}

impl std::error::Error for Damage {}

/// The byte order of a file or section.
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

/// The header of a pcap file.
struct Pcap {
    order: Order,
    /// Nanoseconds per unit of the fraction.
    unit: u64,
    /// Kuznetzov's patch adds 8 bytes to each record's header.
    modified: bool,
    lengths: Lengths,
    link: u32,
}

/// The order of the two lengths in a record (libpcap, `sf-pcap.c`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lengths {
    CapturedFirst,
    OriginalFirst,
    /// Version 2.3 was written with either order; the smaller length is the
    /// captured one.
    SmallerIsCaptured,
}

/// The format of the file.
enum Format {
    Pcap(Pcap),
    Pcapng(Section),
}

/// Reads the frames of a file in order.
pub struct Reader<R> {
    source: Source<R>,
    format: Format,
    buffer: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads the file's header.
    ///
    /// # Errors
    /// If the file is no capture.
    pub fn new(input: R) -> Result<Self, Damage> {
        let mut source = Source::new(input)?;
        let Some(first) = source.array_or_end::<1>()? else {
            return Err(source.damage("the file is empty; expected the header of a capture"));
        };
        let rest = source.array::<3>()?;
        let magic = [first[0], rest[0], rest[1], rest[2]];
        let format = match magic {
            super::pcapng::SECTION_HEADER => Format::Pcapng(Section::begin(&mut source)?),
            _ => Format::Pcap(Pcap::begin(&mut source, magic)?),
        };
        Ok(Self { source, format, buffer: Vec::new() })
    }

    /// The number of bytes of the file that have been read, as stored.
    pub fn position(&self) -> u64 {
        self.source.of_file()
    }

    /// The number of bytes of the capture that have been read, decompressed.
    pub fn bytes(&self) -> u64 {
        self.source.at
    }

    /// `pcap` or `pcapng`, and whether it is compressed.
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

    /// The program that wrote the file, and the interfaces. The text is untrusted;
    /// it is escaped.
    pub fn descriptions(&self) -> &[String] {
        match &self.format {
            Format::Pcap(_) => &[],
            Format::Pcapng(section) => section.descriptions(),
        }
    }

    /// The options that could not be used, by name.
    pub fn warnings(&self) -> &[String] {
        match &self.format {
            Format::Pcap(_) => &[],
            Format::Pcapng(section) => section.warnings(),
        }
    }

    /// The next frame; `None` at the end of the file.
    ///
    /// # Errors
    /// If the file is damaged. No more frames can be read after that.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Damage> {
        let Self { source, format, buffer } = self;
        match format {
            Format::Pcapng(section) => section.next_frame(source, buffer),
            Format::Pcap(pcap) => pcap.next_frame(source, buffer),
        }
    }
}

impl Pcap {
    /// Reads the header after the magic number.
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
        // Version, two reserved words, snapshot length; then the link type, whose
        // upper half holds flags.
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
            let what = format!("a frame of {captured} bytes; the maximum is {largest}");
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

/// Names the format of another kind of file, if its first bytes show it, and says
/// what to do.
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
        _ => format!("no capture file: it begins with {magic:02x?}; expected pcap, pcapng or gzip"),
    }
}
