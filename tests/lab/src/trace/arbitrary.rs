//! Builds captures of arbitrary segments from a fuzzer's bytes.
//!
//! A replay of such a capture must never deviate from the documented order. The
//! driver is not at fault there, so a deviation is a fault of the replay.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use etherparse::TcpHeader;
use machine::etw::{Enable, Filter as Events, ZeroKeyword};
use machine::host::{Ends, OpenPoints, Record};
use machine::nt::{Kernel, Trace};
use machine::wfp::Engine;
use machine::wire::compose::{fragments, ip};

use super::replay::Finished;
use super::{Account, Limits, Replay, Roles, Survey, Witness, feed};
use crate::flows::Watched;
use crate::hushport::EVENT_PROVIDER;

/// Flags, common ones first: `FSRPAU` from the lowest bit on.
const FLAGS: [u8; 16] =
    [0x02, 0x12, 0x10, 0x10, 0x18, 0x18, 0x11, 0x19, 0x14, 0x04, 0x03, 0x15, 0x16, 0x00, 0x01, 0x29];
/// The sizes of payloads, in bytes.
const PAYLOADS: [usize; 4] = [0, 4, 1, 40];
/// The addresses of the host: inferred, one side, the other side, both.
const SIDES: [&[&str]; 4] =
    [&[], &["192.0.2.1", "2001:db8::1"], &["192.0.2.2", "2001:db8::2"], &["192.0.2.0/24", "2001:db8::/64"]];

/// Reads bytes as choices; after the last byte each choice is 0.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }
}

/// The sequence numbers of one side.
#[derive(Clone, Copy)]
struct Numbers {
    first: u32,
    next: u32,
}

/// A pcap file of raw IP.
#[derive(Default)]
struct File(Vec<u8>);

impl File {
    fn words(&mut self, words: &[u32]) {
        self.0.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    fn packet(&mut self, at: u32, packet: &[u8]) {
        let length = packet.len() as u32;
        self.words(&[1_700_000_000 + at / 100, at % 100 * 10_000, length, length]);
        self.0.extend_from_slice(packet);
    }
}

/// A capture with a segment for each of the choices.
fn capture(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut file = File::default();
    file.words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, 101]);
    let mut numbers = [[Numbers { first: 1000, next: 1000 }; 2]; 4];
    let mut at = 0;
    while !choices.0.is_empty() {
        let (what, flags, how) = (choices.next(), choices.next(), choices.next());
        let (side, pair, family) = (usize::from(what & 1), usize::from(what >> 1 & 3), what >> 3 & 1);
        let flags = if flags < 192 { FLAGS[usize::from(flags % 16)] } else { flags & 0x3f };
        let mine = number(&mut numbers[pair][side], how & 7, at);
        let theirs = numbers[pair][1 - side];
        let acknowledged = match how >> 3 & 7 {
            0..=3 => theirs.next,
            4 => theirs.first.wrapping_add(1),
            5 => theirs.next.wrapping_sub(1),
            6 => theirs.next.wrapping_add(100),
            _ => 0,
        };
        let payload = vec![b'x'; PAYLOADS[usize::from(how >> 6)]];
        let controls = (flags & 1) + (flags >> 1 & 1);
        if how & 7 == 0 || how & 7 == 6 {
            let next = mine.wrapping_add(payload.len() as u32).wrapping_add(controls.into());
            numbers[pair][side].next = next;
        }
        let (from, to) = ends(side, pair, family);
        let mut header = TcpHeader::new(from.port(), to.port(), mine, 8192);
        header.acknowledgment_number = acknowledged;
        (header.fin, header.syn, header.rst) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        (header.psh, header.ack, header.urg) = (flags & 8 != 0, flags & 16 != 0, flags & 32 != 0);
        let kind = what >> 4;
        let mut packet = match kind {
            // Few different ones, so that equal datagrams repeat.
            12 | 13 => datagram(from, to, &payload),
            _ => segment(from, to, header, &payload),
        };
        match kind {
            14 if family == 0 => {
                for piece in fragments(&packet, at as u16, 8) {
                    file.packet(at, &piece);
                }
            }
            15 => {
                if let Some(last) = packet.last_mut() {
                    *last ^= 1;
                }
                file.packet(at, &packet);
            }
            _ => file.packet(at, &packet),
        }
        at += 1;
    }
    file.0
}

/// A sequence number: the next one, or a wrong one.
fn number(mine: &mut Numbers, choice: u8, at: u32) -> u32 {
    match choice {
        0 => mine.next,
        1 => mine.next.wrapping_sub(1),
        2 => mine.first,
        3 => mine.next.wrapping_add(10),
        4 => mine.next.wrapping_sub(8),
        5 => mine.next.wrapping_add(0x7fff_ffff),
        // A new connection.
        6 => {
            mine.first = at.wrapping_mul(0x9e37_79b9);
            mine.next = mine.first;
            mine.first
        }
        _ => 0,
    }
}

/// The ends of a segment of this side. Each side has two ports.
fn ends(side: usize, pair: usize, family: u8) -> (SocketAddr, SocketAddr) {
    let address = |last: u8| match family {
        0 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)),
        _ => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into())),
    };
    let one = SocketAddr::new(address(1), [80, 40_000][pair & 1]);
    let other = SocketAddr::new(address(2), [5000, 443][pair >> 1]);
    if side == 0 { (other, one) } else { (one, other) }
}

fn segment(from: SocketAddr, to: SocketAddr, header: TcpHeader, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let written = ip(from.ip(), to.ip()).tcp_header(header).write(&mut packet, payload);
    written.expect("writing to a vector does not fail");
    packet
}

fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let written = ip(from.ip(), to.ip()).udp(from.port(), to.port()).write(&mut packet, payload);
    written.expect("writing to a vector does not fail");
    packet
}

/// Stores the deviations.
struct Noted(Account);

impl Witness for Noted {
    fn record(&mut self, record: &Record) -> Result<()> {
        // The account stores it.
        let _ = self.0.note(record);
        Ok(())
    }

    fn suppressed(&mut self, at: Duration, ends: Ends) -> Result<()> {
        self.0.note_suppressed(at, ends);
        Ok(())
    }
}

/// Replays captures through a driver that checks the order.
pub struct Player {
    engine: Arc<Engine>,
    reported: Arc<Mutex<Vec<String>>>,
    _session: Trace,
}

/// The keyword of the driver's order events (docs/EVENTS.md).
const ORDER: u64 = 0x10;

impl Player {
    /// A player for a machine whose driver runs with `CheckOrder`.
    pub fn new(kernel: &Arc<Kernel>, engine: &Arc<Engine>) -> Self {
        let reported = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&reported);
        let filter = Events { level: 0, any: ORDER, all: 0 };
        let enable = Enable { provider: EVENT_PROVIDER, filter, zero: ZeroKeyword::default() };
        let listening = Box::new(move |event: &machine::etw::Event| {
            if event.name == "OrderDeviation" {
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{event:?}"));
            }
        });
        let session = kernel.trace(enable, Some(listening));
        Self { engine: Arc::clone(engine), reported, _session: session }
    }

    /// Plays the capture of these choices. Returns the deviations that the replay
    /// or the driver reports; none are expected.
    ///
    /// # Errors
    /// Those of the replay.
    pub fn play(&self, choices: &[u8]) -> Result<Vec<String>> {
        let mut choices = Choices(choices);
        let side = SIDES[usize::from(choices.next() % 4)];
        self.play_file(&capture(&mut choices), side)
    }

    /// Plays a file, from the side of these addresses.
    ///
    /// # Errors
    /// See [`Player::play`].
    pub fn play_file(&self, file: &[u8], local: &[&str]) -> Result<Vec<String>> {
        let mut survey = Survey::default();
        feed(file, true, &mut survey)?;
        let roles: Roles = match local {
            [] => survey.roles(),
            local => {
                let prefixes = local.iter().filter_map(|prefix| prefix.parse().ok());
                survey.roles_given(prefixes.collect())
            }
        };
        let limits = Limits { connections: 0, rows: 0 };
        let account = Account::new(Watched::of(&self.engine), true, limits, Duration::ZERO);
        let filter = Arc::<Engine>::clone(&self.engine);
        let mut replay = Replay::new(filter, OpenPoints::default(), &survey, &roles, Noted(account));
        feed(file, true, &mut replay)?;
        let (Finished { .. }, Noted(account)) = replay.finish();
        let mut found = account.deviating;
        found.append(&mut self.reported.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(found)
    }
}
