//! A filter as WinDivert's driver takes it: a list of tests, each with the next one for
//! success and for failure.

use anyhow::{Result, ensure};

use super::address::Layer;

/// What a handle shows: what all of these choices hold for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The layer.
    pub layer: Layer,
    /// Only what arrives, or only what leaves.
    pub direction: Option<Direction>,
    /// Only this protocol.
    pub protocol: Option<Protocol>,
    /// Only from or to this port.
    pub port: Option<u16>,
}

/// A packet's direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Direction {
    Inbound,
    Outbound,
}

/// A protocol that a filter can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Protocol {
    Tcp,
    Udp,
    Icmp,
    Icmpv6,
}

/// `WINDIVERT_FILTER_FIELD_*`.
mod field {
    pub const ZERO: u16 = 0;
    pub const INBOUND: u16 = 1;
    pub const OUTBOUND: u16 = 2;
    pub const ICMP: u16 = 7;
    pub const TCP: u16 = 8;
    pub const UDP: u16 = 9;
    pub const ICMPV6: u16 = 10;
    pub const TCP_SOURCE: u16 = 38;
    pub const TCP_DESTINATION: u16 = 39;
    pub const UDP_SOURCE: u16 = 53;
    pub const UDP_DESTINATION: u16 = 54;
    pub const LOCAL_PORT: u16 = 63;
    pub const REMOTE_PORT: u16 = 64;
    pub const EVENT: u16 = 70;
}

/// `WINDIVERT_FILTER_RESULT_*`.
const ACCEPT: u16 = 0x7FFE;
const REJECT: u16 = 0x7FFF;
/// Bytes of a `WINDIVERT_FILTER`.
const SIZE: usize = 24;

/// A test for equality.
type Test = (u16, u32);

/// A filter as the driver takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// `WINDIVERT_FILTER_FLAG_*`: what the driver must have callouts for.
    pub flags: u64,
    /// The tests, each a `WINDIVERT_FILTER`.
    pub tests: Vec<u8>,
}

impl Filter {
    /// `true`: inbound, outbound, IPv4, IPv6, and every event.
    pub fn all(layer: Layer) -> Self {
        Self::of(layer, (field::ZERO, 0))
    }

    /// `false`.
    pub fn none(layer: Layer) -> Self {
        Self::of(layer, (field::ZERO, 1))
    }

    /// `event == …`, at the SOCKET layer: a number of `WINDIVERT_EVENT_SOCKET_*`.
    pub fn socket_event(event: u8) -> Self {
        const FIRST: u8 = 3;
        let one_event = BOTH_WAYS | IP | IPV6 | FIRST_SOCKET_EVENT << (event - FIRST);
        Self { flags: one_event, ..Self::of(Layer::Socket, (field::EVENT, event.into())) }
    }

    fn of(layer: Layer, test: Test) -> Self {
        let wanted = Wanted { layer, ..Wanted::default() };
        Self { flags: wanted.flags(), tests: compiled(&[vec![test]]) }
    }
}

/// Groups of tests as the driver's bytes.
fn compiled(groups: &[Vec<Test>]) -> Vec<u8> {
    let count: usize = groups.iter().map(Vec::len).sum();
    let mut filter = Vec::with_capacity(SIZE * count);
    let mut number = 0;
    for group in groups {
        let next = number + group.len() as u16;
        let last = next - 1;
        for &(field, value) in group {
            let success = if usize::from(next) == count { ACCEPT } else { next };
            let failure = if number == last { REJECT } else { number + 1 };
            // The test's number, in the upper five bits, is that of EQ: 0.
            for half in [field, success, failure, 0] {
                filter.extend(half.to_le_bytes());
            }
            for word in [value, 0, 0, 0] {
                filter.extend(word.to_le_bytes());
            }
            number += 1;
        }
    }
    filter
}

/// `WINDIVERT_FILTER_FLAG_*`.
const INBOUND: u64 = 0x10;
const OUTBOUND: u64 = 0x20;
const BOTH_WAYS: u64 = INBOUND | OUTBOUND;
const IP: u64 = 0x40;
const IPV6: u64 = 0x80;
const FLOW_DELETED: u64 = 0x100;
const FIRST_SOCKET_EVENT: u64 = 0x200;
const SOCKET_EVENTS: u64 = 0x3E00;

impl Wanted {
    /// Groups of tests: one of each group must hold.
    fn groups(&self) -> Result<Vec<Vec<Test>>> {
        let is_reflect = self.layer == Layer::Reflect;
        let is_empty = self.direction.is_none() && self.protocol.is_none() && self.port.is_none();
        ensure!(
            !is_reflect || is_empty,
            "the layer reflect has no packets: expected no direction, protocol or port"
        );
        let is_forward = self.layer == Layer::Forward;
        ensure!(
            !is_forward || self.direction.is_none(),
            "forwarded packets have no direction: expected none"
        );
        let direction = self.direction.map(|direction| match direction {
            Direction::Inbound => vec![(field::INBOUND, 1)],
            Direction::Outbound => vec![(field::OUTBOUND, 1)],
        });
        let protocol = self.protocol.map(|protocol| match protocol {
            Protocol::Tcp => vec![(field::TCP, 1)],
            Protocol::Udp => vec![(field::UDP, 1)],
            Protocol::Icmp => vec![(field::ICMP, 1)],
            Protocol::Icmpv6 => vec![(field::ICMPV6, 1)],
        });
        let ports: &[u16] = match self.layer.has_packets() {
            true => &[field::TCP_SOURCE, field::TCP_DESTINATION, field::UDP_SOURCE, field::UDP_DESTINATION],
            false => &[field::LOCAL_PORT, field::REMOTE_PORT],
        };
        let ports = self.port.map(|port| ports.iter().map(|field| (*field, port.into())).collect());
        let groups: Vec<_> = direction.into_iter().chain(protocol).chain(ports).collect();
        // One test that holds for everything, if nothing is asked.
        Ok(if groups.is_empty() { vec![vec![(field::ZERO, 0)]] } else { groups })
    }

    /// The filter.
    ///
    /// # Errors
    /// If the layer has not what is asked for.
    pub fn compile(&self) -> Result<Filter> {
        Ok(Filter { flags: self.flags(), tests: compiled(&self.groups()?) })
    }

    fn flags(&self) -> u64 {
        let directions = match self.direction {
            Some(Direction::Inbound) => INBOUND,
            Some(Direction::Outbound) => OUTBOUND,
            None => BOTH_WAYS,
        };
        match self.layer {
            Layer::Network | Layer::Forward => directions | IP | IPV6,
            Layer::Flow => directions | IP | IPV6 | FLOW_DELETED,
            Layer::Socket => directions | IP | IPV6 | SOCKET_EVENTS,
            Layer::Reflect => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field, value, success and failure of each test.
    fn tests(wanted: &Wanted) -> Vec<(u16, u32, u16, u16)> {
        let filter = wanted.compile().unwrap().tests;
        let half = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        filter
            .chunks(SIZE)
            .map(|one| (half(one, 0), u32::from(half(one, 8)), half(one, 2), half(one, 4)))
            .collect()
    }

    #[test]
    fn all_groups_must_hold_and_one_test_of_each() {
        assert_eq!(tests(&Wanted::default()), [(0, 0, ACCEPT, REJECT)]);
        let wanted = Wanted {
            direction: Some(Direction::Inbound),
            protocol: Some(Protocol::Tcp),
            port: Some(80),
            ..Wanted::default()
        };
        assert_eq!(
            tests(&wanted),
            [
                (1, 1, 1, REJECT),
                (8, 1, 2, REJECT),
                (38, 80, ACCEPT, 3),
                (39, 80, ACCEPT, 4),
                (53, 80, ACCEPT, 5),
                (54, 80, ACCEPT, REJECT)
            ]
        );
        let socket = Wanted { layer: Layer::Socket, port: Some(80), ..Wanted::default() };
        assert_eq!(tests(&socket), [(63, 80, ACCEPT, 1), (64, 80, ACCEPT, REJECT)]);
    }

    #[test]
    fn what_a_layer_has_not_is_refused() {
        let reflect = Wanted { layer: Layer::Reflect, port: Some(80), ..Wanted::default() };
        assert!(reflect.compile().unwrap_err().to_string().contains("reflect"));
        let forward =
            Wanted { layer: Layer::Forward, direction: Some(Direction::Inbound), ..Wanted::default() };
        assert!(forward.compile().unwrap_err().to_string().contains("direction"));
    }
}
