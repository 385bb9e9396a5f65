//! Reads pcapng: sections, interfaces and packet blocks.
//!
//! An option that cannot be used is named in a warning; the packets are still read.

use std::io::Read;

use machine::wire::Way;

use super::capture::{Damage, Frame, LARGEST_FRAME, Order};
use super::source::Source;
use crate::printable::printable;

/// The first bytes of a section, in either byte order.
pub(super) const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const INTERFACE: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// The options that are read.
const IF_TSRESOL: u16 = 9;
const IF_TSOFFSET: u16 = 14;
const EPB_FLAGS: u16 = 2;

/// The maximum size in bytes of a block whose content is read: a frame and options.
const LARGEST_BLOCK: u32 = LARGEST_FRAME + 65_536;
/// The maximum number of interfaces of a section.
const INTERFACES: usize = 65_536;
/// The maximum number of texts that are stored, and the maximum size of each.
const TEXTS: usize = 16;
const TEXT: usize = 200;

/// The link type and the clock of an interface.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u32,
    /// The maximum captured size of a frame; 0 means no limit.
    snapshot: u32,
    /// Ticks per second; `None` if the value is invalid.
    resolution: Option<u64>,
    /// Seconds to add to each time.
    offset: i64,
}

/// The current section.
pub(super) struct Section {
    order: Order,
    interfaces: Vec<Interface>,
    descriptions: Vec<String>,
    warnings: Vec<String>,
}

impl Section {
    /// Reads the rest of the file's first section header.
    pub(super) fn begin<R: Read>(source: &mut Source<R>) -> Result<Self, Damage> {
        let mut section = Self {
            order: Order::Little,
            interfaces: Vec::new(),
            descriptions: Vec::new(),
            warnings: Vec::new(),
        };
        section.header(source)?;
        Ok(section)
    }

    pub(super) fn descriptions(&self) -> &[String] {
        &self.descriptions
    }

    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Reads a section header after its type.
    fn header<R: Read>(&mut self, source: &mut Source<R>) -> Result<(), Damage> {
        let length = source.array::<4>()?;
        self.order = match source.array::<4>()? {
            [0x4d, 0x3c, 0x2b, 0x1a] => Order::Little,
            [0x1a, 0x2b, 0x3c, 0x4d] => Order::Big,
            other => return Err(source.damage(format!("a section with byte order {other:02x?}"))),
        };
        self.interfaces.clear();
        let length = self.order.u32(length);
        // Type, length, byte order, version, section length, length again.
        if !(28..=LARGEST_BLOCK).contains(&length) || !length.is_multiple_of(4) {
            return Err(source.damage(format!("a section header of {length} bytes")));
        }
        let mut body = Vec::new();
        source.fill(&mut body, length as usize - 16)?;
        let options = body.get(12..).unwrap_or_default();
        self.describe(options, &[(2, "hardware"), (3, "system"), (4, "written by")]);
        self.end(source, length)
    }

    /// Compares the length at a block's end with the one at its beginning.
    fn end<R: Read>(&self, source: &mut Source<R>, length: u32) -> Result<(), Damage> {
        let again = self.order.u32(source.array()?);
        if again == length {
            return Ok(());
        }
        Err(source.damage(format!("a block of {length} bytes whose trailing length is {again}")))
    }

    pub(super) fn next_frame<'a, R: Read>(
        &mut self,
        source: &mut Source<R>,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<Frame<'a>>, Damage> {
        let found = loop {
            let start = source.at;
            let Some(kind) = source.array_or_end::<4>()? else {
                return Ok(None);
            };
            if kind == SECTION_HEADER {
                self.header(source)?;
                continue;
            }
            let kind = self.order.u32(kind);
            let length = self.order.u32(source.array()?);
            if length < 12 || !length.is_multiple_of(4) {
                return Err(Damage { at: start, what: format!("a block of {length} bytes") });
            }
            let size = length - 12;
            if !matches!(kind, INTERFACE | PACKET | SIMPLE_PACKET | ENHANCED_PACKET) {
                source.skip(size.into())?;
                self.end(source, length)?;
                continue;
            }
            if length > LARGEST_BLOCK {
                return Err(Damage { at: start, what: format!("a block of {length} bytes") });
            }
            source.fill(buffer, size as usize)?;
            self.end(source, length)?;
            let found = match kind {
                INTERFACE => self.interface(buffer).map(|()| None),
                _ => self.frame(kind, buffer).map(Some),
            };
            match found {
                Ok(Some(found)) => break found,
                Ok(None) => {}
                Err(what) => return Err(Damage { at: start, what }),
            }
        };
        let Found { at, link, start, captured, original, way } = found;
        Ok(Some(Frame { at, link, bytes: &buffer[start..start + captured], original, way }))
    }

    fn interface(&mut self, body: &[u8]) -> Result<(), String> {
        let number = self.interfaces.len();
        let Some((head, options)) = body.split_first_chunk::<8>() else {
            return Err(format!(
                "the description of interface {number} has {} bytes; expected 8 or more",
                body.len()
            ));
        };
        let link = u32::from(self.order.u16([head[0], head[1]]));
        let snapshot = self.order.u32([head[4], head[5], head[6], head[7]]);
        let mut interface = Interface { link, snapshot, resolution: Some(1_000_000), offset: 0 };
        for (code, value) in self.options(options) {
            match code {
                IF_TSRESOL => {
                    interface.resolution =
                        value.first().filter(|_| value.len() == 1).and_then(|at| ticks(*at));
                    if interface.resolution.is_none() {
                        let packets = "its packets get the time of the packet before";
                        self.warn(format!(
                            "interface {number}: if_tsresol {value:?} is no valid resolution; {packets}"
                        ));
                    }
                }
                IF_TSOFFSET => match (value.try_into(), self.order) {
                    (Ok(value), Order::Little) => interface.offset = i64::from_le_bytes(value),
                    (Ok(value), Order::Big) => interface.offset = i64::from_be_bytes(value),
                    (Err(_), _) => {
                        let bytes = value.len();
                        self.warn(format!(
                            "interface {number}: if_tsoffset has {bytes} bytes, expected 8; ignored"
                        ));
                    }
                },
                _ => {}
            }
        }
        self.describe(options, &[(2, "interface"), (3, "interface")]);
        if self.interfaces.len() < INTERFACES {
            self.interfaces.push(interface);
        }
        Ok(())
    }

    fn frame(&mut self, kind: u32, body: &[u8]) -> Result<Found, String> {
        let short = || format!("a packet block of {} bytes, which is less than its header", body.len() + 12);
        let word = |at: usize| {
            let bytes = body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(|bytes| self.order.u32(bytes)).ok_or_else(short)
        };
        let (number, timed, start, captured, original): (_, _, usize, _, _) = match kind {
            SIMPLE_PACKET => (0, false, 4, word(0)?, word(0)?),
            // An older block type, with a 16-bit interface and a count of drops.
            PACKET => {
                let number = body.get(..2).and_then(|bytes| bytes.try_into().ok()).ok_or_else(short)?;
                (u32::from(self.order.u16(number)), true, 20, word(12)?, word(16)?)
            }
            _ => (word(0)?, true, 20, word(12)?, word(16)?),
        };
        let Some(interface) = self.interfaces.get(number as usize).copied() else {
            let count = self.interfaces.len();
            return Err(format!("a packet of interface {number}; the section describes {count} interfaces"));
        };
        let room = body.len().checked_sub(start).ok_or_else(short)?;
        let captured = match (kind, interface.snapshot) {
            // A simple packet block has no captured length: it is as long as fits.
            (SIMPLE_PACKET, 0) => room.min(captured as usize),
            (SIMPLE_PACKET, snapshot) => room.min(captured.min(snapshot) as usize),
            _ => captured as usize,
        };
        if captured > room || captured > LARGEST_FRAME as usize {
            return Err(format!("a packet block of {captured} captured bytes that has room for {room}"));
        }
        let at =
            if timed { interface.nanoseconds(u64::from(word(4)?) << 32 | u64::from(word(8)?)) } else { None };
        let options = body.get((start + captured).next_multiple_of(4)..).unwrap_or_default();
        let way = if timed { self.way(options) } else { None };
        Ok(Found { at, link: interface.link, start, captured, original, way })
    }

    /// `epb_flags`: 1 inbound, 2 outbound.
    fn way(&mut self, options: &[u8]) -> Option<Way> {
        let (_, flags) = self.options(options).find(|(code, _)| *code == EPB_FLAGS)?;
        let Ok(flags) = flags.try_into() else {
            self.warn(format!("a packet's epb_flags has {} bytes, expected 4; ignored", flags.len()));
            return None;
        };
        match self.order.u32(flags) & 3 {
            1 => Some(Way::ToHost),
            2 => Some(Way::FromHost),
            _ => None,
        }
    }

    fn warn(&mut self, text: String) {
        if self.warnings.len() < TEXTS && !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    /// The options of a block, up to the first invalid one.
    fn options<'a>(&self, mut rest: &'a [u8]) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let order = self.order;
        std::iter::from_fn(move || {
            let (head, behind) = rest.split_first_chunk::<4>()?;
            let (code, length) = (order.u16([head[0], head[1]]), order.u16([head[2], head[3]]));
            let length = usize::from(length);
            let value = behind.get(..length).filter(|_| code != 0)?;
            rest = behind.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((code, value))
        })
    }

    fn describe(&mut self, options: &[u8], wanted: &[(u16, &str)]) {
        let texts: Vec<_> = self
            .options(options)
            .filter_map(|(code, value)| {
                let (_, what) = wanted.iter().find(|(wanted, _)| *wanted == code)?;
                let text = String::from_utf8_lossy(&value[..value.len().min(TEXT)]);
                Some(format!("{what} {}", printable(&text)))
            })
            .collect();
        for text in texts {
            if self.descriptions.len() < TEXTS && !self.descriptions.contains(&text) {
                self.descriptions.push(text);
            }
        }
    }
}

/// A frame in a block's body.
struct Found {
    at: Option<u64>,
    link: u32,
    start: usize,
    captured: usize,
    original: u32,
    way: Option<Way>,
}

impl Interface {
    fn nanoseconds(&self, ticks: u64) -> Option<u64> {
        let nanoseconds = i128::from(ticks) * 1_000_000_000 / i128::from(self.resolution?);
        let nanoseconds = nanoseconds + i128::from(self.offset) * 1_000_000_000;
        Some(u64::try_from(nanoseconds.max(0)).unwrap_or(u64::MAX))
    }
}

/// `if_tsresol`: a negative power of 10, or of 2 if the upper bit is set. `None` if
/// 64 bits of it are less than a second, so that no time since 1970 fits.
fn ticks(power: u8) -> Option<u64> {
    match power & 0x80 {
        0 => 10_u64.checked_pow(power.into()),
        _ => 2_u64.checked_pow((power & 0x7f).into()),
    }
}
