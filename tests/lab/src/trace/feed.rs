//! One pass over a capture: parses every IP packet, one at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufReader, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use machine::host::Fragments;
use machine::wire::{Parsed, Transport, Way, protocol};
use serde::Serialize;

use super::capture::{Damage, Frame, Reader};
use super::link::{self, Cast, Found, Skip, link_name};
use super::time::{CaptureClock, Moment};
use crate::printable::printable;
use crate::sandbox::inner;

/// An IP packet of the capture.
pub struct Item<'a> {
    /// The number of the frame in the file, counted from 0.
    pub index: u64,
    /// Nanoseconds since 1970. A packet without a time has that of the packet
    /// before; `None` before the first packet with a time.
    pub at: Option<u64>,
    /// When it was captured.
    pub moment: Moment,
    /// The direction, if the file holds it.
    pub way: Option<Way>,
    /// The addressee, according to the link layer.
    pub cast: Cast,
    /// The packet. A segment's checksum counts as valid if it cannot be known or is
    /// not to be checked.
    pub parsed: Parsed<'a>,
    /// Whether it was reassembled. The item before it is its last fragment.
    pub reassembled: bool,
}

/// The counts of a pass.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Tally {
    pub format: &'static str,
    /// The descriptions in the file; printable.
    pub descriptions: Vec<String>,
    /// Decompressed bytes of the capture.
    pub bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    pub frames: u64,
    /// Frames with a valid IP header.
    pub packets: u64,
    /// Frames without an IP packet, and what they hold instead.
    pub not_ip: u64,
    pub others: Counts,
    /// IP packets for other machines, seen by a card in promiscuous mode.
    pub elsewhere: u64,
    /// Frames with an invalid IP header.
    pub unreadable: u64,
    /// Packets that were captured only in part.
    pub cut: u64,
    /// Segments with a wrong checksum in the capture.
    pub checksums: u64,
    /// Fragments, and the datagrams that were reassembled.
    pub fragments: u64,
    pub reassembled: u64,
    /// Packets that carry other packets, by name. Only the outer packet is played.
    pub tunnels: Counts,
    /// Frames of unsupported link types.
    pub unread_links: Counts,
    /// Frames without a time in the file.
    pub untimed: u64,
    /// How often the clock of the capturing machine was set.
    pub clock_set: u64,
    /// Frames that are earlier than one before, without those at which the clock was
    /// set.
    pub disordered: u64,
    /// Nanoseconds since 1970.
    pub first: Option<u64>,
    pub last: u64,
    /// Nanoseconds from the first to the last frame, without what the clock was set by.
    pub nanoseconds: u64,
    /// Options of the file that could not be used.
    pub warnings: Vec<String>,
    /// Where the file is damaged, and how.
    pub damage: Option<String>,
}

impl Tally {
    /// The duration of the capture.
    pub fn length(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds)
    }

    /// Counts a frame that is skipped.
    fn skip(&mut self, why: &Skip) {
        match why {
            Skip::Other(name) => {
                self.not_ip += 1;
                self.others.add(name);
            }
            Skip::Link(link) => self.unread_links.add(&link_name(*link)),
        }
    }
}

/// Counts by name, with a bounded number of names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// The maximum number of different names.
    const NAMES: usize = 64;

    /// Adds one to the count of a name.
    pub fn add(&mut self, name: &str) {
        if let Some(count) = self.0.get_mut(name) {
            *count += 1;
        } else {
            let name = if self.0.len() < Self::NAMES { name } else { "others" };
            *self.0.entry(name.to_owned()).or_default() += 1;
        }
    }

    /// The count of a name.
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// The sum of all counts.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: Vec<_> = self.0.iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let counts: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
        f.write_str(&counts.join(", "))
    }
}

/// Processes the packets of a pass.
pub trait Visitor {
    /// Processes a packet; `false` ends the pass.
    fn packet(&mut self, item: &Item<'_>) -> Result<bool>;
    /// Is called from time to time with the number of bytes of the file that have
    /// been read.
    fn position(&mut self, _bytes: u64) {}
}

/// The number of frames between two reports of the position.
const STRIDE: u64 = 4096;

/// Reads a file. `checksums` tells whether checksums are checked.
///
/// # Errors
/// If the file cannot be opened, or the visitor returns an error. A damaged file is
/// no error; the tally says where it is damaged.
pub fn read(path: &Path, checksums: bool, visitor: &mut impl Visitor) -> Result<Tally> {
    let file = inner::open(path)
        .with_context(|| format!("cannot open {}", printable(&path.display().to_string())))?;
    feed(BufReader::with_capacity(1 << 18, file), checksums, visitor)
}

/// Reads a capture from any reader.
///
/// # Errors
/// See [`read`].
pub fn feed(input: impl Read, checksums: bool, visitor: &mut impl Visitor) -> Result<Tally> {
    let mut reader = match Reader::new(input) {
        Ok(reader) => reader,
        Err(damage) => return Ok(Tally { damage: Some(damage.to_string()), ..Tally::default() }),
    };
    let fragments = Fragments::default();
    let (tally, clock) = (Tally::default(), CaptureClock::default());
    let mut pass = Pass { checksums, visitor, tally, clock, fragments, cut_fragment: false };
    let end = pass.frames(&mut reader)?;
    let Pass { mut tally, clock, .. } = pass;
    (tally.clock_set, tally.disordered) = (clock.set, clock.disordered);
    tally.nanoseconds = u64::try_from(clock.now().at.as_nanos()).unwrap_or(u64::MAX);
    tally.format = reader.format();
    tally.descriptions = reader.descriptions().to_vec();
    tally.warnings = reader.warnings().to_vec();
    tally.bytes = reader.bytes();
    tally.file_bytes = reader.position();
    tally.damage = end.map(|damage| damage.to_string());
    Ok(tally)
}

/// A running pass.
struct Pass<'a, V> {
    checksums: bool,
    visitor: &'a mut V,
    tally: Tally,
    clock: CaptureClock,
    fragments: Fragments,
    /// A fragment was captured only in part, so a reassembled datagram may lack
    /// bytes.
    cut_fragment: bool,
}

impl<V: Visitor> Pass<'_, V> {
    fn frames<R: Read>(&mut self, reader: &mut Reader<R>) -> Result<Option<Damage>> {
        loop {
            if self.tally.frames.is_multiple_of(STRIDE) {
                self.visitor.position(reader.position());
            }
            match reader.next_frame() {
                Ok(None) => return Ok(None),
                Err(damage) => return Ok(Some(damage)),
                Ok(Some(frame)) => {
                    if !self.frame(&frame)? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn frame(&mut self, frame: &Frame<'_>) -> Result<bool> {
        let tally = &mut self.tally;
        let index = tally.frames;
        tally.frames += 1;
        match frame.at {
            None => tally.untimed += 1,
            Some(at) => {
                tally.first = Some(tally.first.unwrap_or(at).min(at));
                tally.last = tally.last.max(at);
            }
        }
        let moment = self.clock.next(frame.at);
        // A missing time is replaced by that of the frame before.
        let at = tally.first.map(|_| frame.at.unwrap_or(tally.last));
        let Found { packet, way, cast } = match link::ip(frame.link, frame.bytes) {
            Ok(found) => found,
            Err(why) => {
                tally.skip(&why);
                return Ok(true);
            }
        };
        let cut = (frame.bytes.len() as u64) < u64::from(frame.original);
        tally.cut += u64::from(cut);
        let packet = link::whole(packet, cut);
        let Some(parsed) = Parsed::new(&packet) else {
            tally.unreadable += 1;
            return Ok(true);
        };
        tally.packets += 1;
        if cast == Cast::Elsewhere {
            tally.elsewhere += 1;
            return Ok(true);
        }
        let item = Item { index, at, moment, way: frame.way.or(way), cast, parsed, reassembled: false };
        self.item(item, cut)
    }

    /// Processes a packet and, after its last fragment, the reassembled datagram.
    fn item(&mut self, mut item: Item<'_>, cut: bool) -> Result<bool> {
        let parsed = item.parsed;
        if let Some(name) = tunnel(&parsed) {
            self.tally.tunnels.add(name);
        }
        if let Transport::Tcp(tcp) = &mut item.parsed.transport
            && !tcp.checksum_valid
        {
            self.tally.checksums += u64::from(!cut);
            tcp.checksum_valid = !self.checksums || cut;
        }
        if !self.visitor.packet(&item)? {
            return Ok(false);
        }
        // A fragment within a reassembled datagram is dropped.
        if item.reassembled || !matches!(parsed.transport, Transport::Fragment) {
            return Ok(true);
        }
        self.tally.fragments += 1;
        self.cut_fragment |= cut;
        let Some(whole) = self.fragments.datagram(&parsed, item.moment.at) else {
            return Ok(true);
        };
        let Some(parsed) = Parsed::new(&whole) else {
            return Ok(true);
        };
        self.tally.reassembled += 1;
        self.item(Item { parsed, reassembled: true, ..item }, self.cut_fragment)
    }
}

/// The name of the tunnel, if the packet carries another one.
fn tunnel(parsed: &Parsed<'_>) -> Option<&'static str> {
    Some(match (parsed.protocol, parsed.transport) {
        (_, Transport::Fragment) => return None,
        (4, _) => "IPv4 in IP",
        (41, _) => "IPv6 in IP",
        // The protocol type in GRE (RFC 2784). ERSPAN's three versions use two
        // types.
        (47, _) => match parsed.payload().get(2..4) {
            Some([0x88, 0xbe] | [0x22, 0xeb]) => "ERSPAN",
            _ => "GRE",
        },
        (protocol::UDP, Transport::Udp) => match parsed.destination.port() {
            2152 => "GTP-U",
            4789 => "VXLAN",
            6081 => "Geneve",
            _ => return None,
        },
        _ => return None,
    })
}
