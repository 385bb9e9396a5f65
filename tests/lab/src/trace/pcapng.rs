//! pcapng: sections, interfaces, packet blocks.

use std::io::Read;

use super::capture::{Damage, Frame, LARGEST_FRAME, Order, Source};
use crate::wire::Way;

/// The first bytes of a section, in either byte order.
pub(super) const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const INTERFACE: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// The most bytes of a block whose content is looked at: a frame and options.
const LARGEST_BLOCK: u32 = LARGEST_FRAME + 65_536;
/// The most interfaces of a section that frames can name.
const INTERFACES: usize = 4096;
/// The most texts kept, and the most bytes of one.
const TEXTS: usize = 16;
const TEXT: usize = 200;

/// An interface's link type and clock.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u32,
    /// Ticks a second.
    resolution: u64,
    /// Seconds to add.
    offset: i64,
}

/// The section being read.
pub(super) struct Section {
    order: Order,
    interfaces: Vec<Interface>,
    said: Vec<String>,
}

impl Section {
    /// Reads the rest of the file's first section header.
    pub(super) fn begin<R: Read>(source: &mut Source<R>) -> Result<Self, Damage> {
        let mut section = Self { order: Order::Little, interfaces: Vec::new(), said: Vec::new() };
        section.header(source)?;
        Ok(section)
    }

    pub(super) fn said(&self) -> &[String] {
        &self.said
    }

    /// A section header behind its type.
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
        self.hear(options, &[(2, "hardware"), (3, "system"), (4, "written by")]);
        self.end(source, length)
    }

    /// The length that a block repeats at its end.
    fn end<R: Read>(&self, source: &mut Source<R>, length: u32) -> Result<(), Damage> {
        let again = self.order.u32(source.array()?);
        if again == length {
            return Ok(());
        }
        Err(source.damage(format!("a block of {length} bytes that ends as one of {again}")))
    }

    pub(super) fn next_frame<'a, R: Read>(
        &mut self,
        source: &mut Source<R>,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<Frame<'a>>, Damage> {
        let found = loop {
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
                return Err(source.damage(format!("a block of {length} bytes")));
            }
            let size = length - 12;
            if !matches!(kind, INTERFACE | PACKET | SIMPLE_PACKET | ENHANCED_PACKET) {
                source.skip(size.into())?;
                self.end(source, length)?;
                continue;
            }
            if length > LARGEST_BLOCK {
                return Err(source.damage(format!("a block of {length} bytes")));
            }
            source.fill(buffer, size as usize)?;
            self.end(source, length)?;
            if kind == INTERFACE {
                self.interface(buffer).ok_or_else(|| source.damage("an interface that is none"))?;
                continue;
            }
            break self.frame(kind, buffer).ok_or_else(|| source.damage("a packet block that holds none"))?;
        };
        let Found { at, link, start, captured, original, way } = found;
        Ok(Some(Frame { at, link, bytes: &buffer[start..start + captured], original, way }))
    }

    fn interface(&mut self, body: &[u8]) -> Option<()> {
        let (head, options) = body.split_first_chunk::<8>()?;
        let link = u32::from(self.order.u16([head[0], head[1]]));
        let mut interface = Interface { link, resolution: 1_000_000, offset: 0 };
        for (code, value) in self.options(options) {
            match (code, value) {
                (9, [power]) => interface.resolution = ticks(*power)?,
                (14, value) => {
                    let value: [u8; 8] = value.try_into().ok()?;
                    interface.offset = match self.order {
                        Order::Little => i64::from_le_bytes(value),
                        Order::Big => i64::from_be_bytes(value),
                    };
                }
                _ => {}
            }
        }
        self.hear(options, &[(2, "interface"), (3, "interface")]);
        if self.interfaces.len() < INTERFACES {
            self.interfaces.push(interface);
        }
        Some(())
    }

    fn frame(&self, kind: u32, body: &[u8]) -> Option<Found> {
        let word = |at: usize| Some(self.order.u32(body.get(at..at + 4)?.try_into().ok()?));
        let (interface, ticks, start, captured, original): (_, _, usize, _, _) = match kind {
            SIMPLE_PACKET => {
                let original = word(0)?;
                // No captured length: what the block has room for, or less.
                (0, 0, 4, original.min(body.len() as u32 - 4), original)
            }
            // An older form, with a 16-bit interface and a count of drops.
            PACKET => {
                let interface = self.order.u16(body.get(..2)?.try_into().ok()?);
                let ticks = u64::from(word(4)?) << 32 | u64::from(word(8)?);
                (u32::from(interface), ticks, 20, word(12)?, word(16)?)
            }
            _ => {
                let ticks = u64::from(word(4)?) << 32 | u64::from(word(8)?);
                (word(0)?, ticks, 20, word(12)?, word(16)?)
            }
        };
        let captured = captured as usize;
        let end = start.checked_add(captured)?;
        if end > body.len() || captured > LARGEST_FRAME as usize {
            return None;
        }
        let interface = self.interfaces.get(interface as usize)?;
        let options = body.get(end.next_multiple_of(4)..).unwrap_or_default();
        let mut way = None;
        // epb_flags: 1 inbound, 2 outbound.
        if kind != SIMPLE_PACKET
            && let Some((_, flags)) = self.options(options).find(|(code, _)| *code == 2)
        {
            way = match self.order.u32(flags.try_into().ok()?) & 3 {
                1 => Some(Way::ToHost),
                2 => Some(Way::FromHost),
                _ => None,
            };
        }
        Some(Found { at: interface.nanoseconds(ticks), link: interface.link, start, captured, original, way })
    }

    /// The options of a block, as far as they hold together.
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

    fn hear(&mut self, options: &[u8], wanted: &[(u16, &str)]) {
        let texts: Vec<_> = self
            .options(options)
            .filter_map(|(code, value)| {
                let (_, what) = wanted.iter().find(|(wanted, _)| *wanted == code)?;
                let text = String::from_utf8_lossy(&value[..value.len().min(TEXT)]);
                Some(format!("{what} {text}"))
            })
            .collect();
        for text in texts {
            if self.said.len() < TEXTS && !self.said.contains(&text) {
                self.said.push(text);
            }
        }
    }
}

/// A frame within a block's body.
struct Found {
    at: u64,
    link: u32,
    start: usize,
    captured: usize,
    original: u32,
    way: Option<Way>,
}

impl Interface {
    fn nanoseconds(&self, ticks: u64) -> u64 {
        let nanoseconds = i128::from(ticks) * 1_000_000_000 / i128::from(self.resolution.max(1));
        let nanoseconds = nanoseconds + i128::from(self.offset) * 1_000_000_000;
        u64::try_from(nanoseconds.max(0)).unwrap_or(u64::MAX)
    }
}

/// `if_tsresol`: a negative power of 10, or of 2 with the upper bit.
fn ticks(power: u8) -> Option<u64> {
    match power & 0x80 {
        0 => 10_u64.checked_pow(power.into()),
        _ => 2_u64.checked_pow((power & 0x7f).into()),
    }
}
