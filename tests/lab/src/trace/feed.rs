//! One pass over a capture: every IP packet in it, parsed, one at a time.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::capture::{Damage, Reader};
use super::link::{self, Skip};
use crate::wire::{Parsed, Transport, Way};

/// An IP packet of the capture.
pub struct Item<'a> {
    /// Which of the file's frames, counted from 0.
    pub index: u64,
    /// Nanoseconds since 1970.
    pub at: u64,
    /// The way it went, where the file says so.
    pub way: Option<Way>,
    /// The packet. A segment's checksum counts as valid where it cannot be
    /// known, or is not to be looked at.
    pub parsed: Parsed<'a>,
}

/// What a pass met.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Tally {
    pub format: &'static str,
    /// What the file says of itself.
    pub said: Vec<String>,
    pub bytes: u64,
    pub frames: u64,
    pub packets: u64,
    /// ARP and the like.
    pub not_ip: u64,
    /// Frames that a card in promiscuous mode saw for other machines.
    pub elsewhere: u64,
    /// IP packets whose header does not hold.
    pub unreadable: u64,
    /// Packets of which the capture kept a part.
    pub cut: u64,
    /// Segments whose checksum is not right as captured.
    pub checksums: u64,
    /// A link type that cannot be read, and how many frames have it.
    pub unknown_link: Option<(u32, u64)>,
    /// Nanoseconds since 1970.
    pub first: Option<u64>,
    pub last: u64,
    /// Where the file stopped making sense.
    pub damage: Option<String>,
}

/// What is done with the packets.
pub trait Visitor {
    /// Takes one; `false` ends the pass.
    fn packet(&mut self, item: &Item<'_>) -> Result<bool>;
    /// Told now and then how many bytes of the file have been read.
    fn position(&mut self, _bytes: u64) {}
}

/// Frames between two words on how far it is.
const STRIDE: u64 = 4096;

/// Reads a file. `checksums` says whether they are to be looked at.
///
/// # Errors
/// If the file cannot be opened, or what the visitor reports. A file that
/// stops making sense is no error: the tally says where.
pub fn read(path: &Path, checksums: bool, visitor: &mut impl Visitor) -> Result<Tally> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    feed(BufReader::with_capacity(1 << 18, file), checksums, visitor)
}

/// The same for anything that can be read.
///
/// # Errors
/// See [`read`].
pub fn feed(input: impl Read, checksums: bool, visitor: &mut impl Visitor) -> Result<Tally> {
    let mut tally = Tally::default();
    let end = match Reader::new(input) {
        Ok(mut reader) => {
            let end = frames(&mut reader, checksums, visitor, &mut tally)?;
            tally.format = reader.format();
            tally.said = reader.said().to_vec();
            tally.bytes = reader.position();
            end
        }
        Err(damage) => Some(damage),
    };
    tally.damage = end.map(|damage| damage.to_string());
    Ok(tally)
}

fn frames<R: Read>(
    reader: &mut Reader<R>,
    checksums: bool,
    visitor: &mut impl Visitor,
    tally: &mut Tally,
) -> Result<Option<Damage>> {
    loop {
        if tally.frames.is_multiple_of(STRIDE) {
            visitor.position(reader.position());
        }
        let frame = match reader.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(None),
            Err(damage) => return Ok(Some(damage)),
        };
        let index = tally.frames;
        tally.frames += 1;
        tally.first = Some(tally.first.unwrap_or(frame.at).min(frame.at));
        tally.last = tally.last.max(frame.at);
        let (packet, way) = match link::ip(frame.link, frame.bytes) {
            Ok(found) => found,
            Err(Skip::NotIp) => {
                tally.not_ip += 1;
                continue;
            }
            Err(Skip::Elsewhere) => {
                tally.elsewhere += 1;
                continue;
            }
            Err(Skip::Link(link)) => {
                let (_, count) = tally.unknown_link.get_or_insert((link, 0));
                *count += 1;
                continue;
            }
        };
        let cut = (frame.bytes.len() as u64) < u64::from(frame.original);
        tally.cut += u64::from(cut);
        let packet = link::whole(packet, cut);
        let Some(mut parsed) = Parsed::new(&packet) else {
            tally.unreadable += 1;
            continue;
        };
        tally.packets += 1;
        if let Transport::Tcp(tcp) = &mut parsed.transport
            && !tcp.checksum_valid
        {
            tally.checksums += u64::from(!cut);
            tcp.checksum_valid = !checksums || cut;
        }
        let item = Item { index, at: frame.at, way: frame.way.or(way), parsed };
        if !visitor.packet(&item)? {
            return Ok(None);
        }
    }
}
