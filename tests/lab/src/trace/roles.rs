//! Whose side a capture is seen from.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::wire::{Family, Way};

/// An address and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// Whether an address is within it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let differ = match (self.address, address) {
            (IpAddr::V4(one), IpAddr::V4(other)) => u128::from(one.to_bits() ^ other.to_bits()) << 96,
            (IpAddr::V6(one), IpAddr::V6(other)) => one.to_bits() ^ other.to_bits(),
            _ => return false,
        };
        differ.leading_zeros() >= self.length.into()
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let wanted = || format!("{text:?}: an address or a prefix such as 192.0.2.0/24 is wanted");
        let address: IpAddr = address.parse().map_err(|_| wanted())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(most), str::parse).map_err(|_| wanted())?;
        if length > most { Err(wanted()) } else { Ok(Self { address, length }) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Which addresses are the host's.
#[derive(Clone, Debug)]
pub struct Roles {
    given: Vec<Prefix>,
    found: BTreeSet<IpAddr>,
    how: &'static str,
}

impl Roles {
    /// As somebody says.
    pub fn given(prefixes: Vec<Prefix>) -> Self {
        Self { given: prefixes, found: BTreeSet::new(), how: "given" }
    }

    /// Whether an address is the host's.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.found.contains(&address) || self.given.iter().any(|prefix| prefix.contains(address))
    }

    /// The addresses, and how it is known that they are the host's.
    pub fn text(&self) -> (Vec<String>, &'static str) {
        let given = self.given.iter().map(Prefix::to_string);
        (given.chain(self.found.iter().map(IpAddr::to_string)).collect(), self.how)
    }
}

/// What speaks for an address being the host's.
#[derive(Clone, Copy, Debug, Default)]
struct Votes {
    /// Packets that the capture marks as going its way, less those that it
    /// marks as going the other.
    marked: i64,
    conversations: u64,
    syns: u64,
    packets: u64,
}

/// The most addresses that are counted.
const ADDRESSES: usize = 65_536;

/// Counts what the packets say about whose capture it is.
#[derive(Debug, Default)]
pub struct Ballot(HashMap<IpAddr, Votes>);

impl Ballot {
    fn votes(&mut self, address: IpAddr) -> Option<&mut Votes> {
        // What nobody has for an address of his own.
        if address.is_multicast() || address.is_unspecified() || is_broadcast(address) {
            return None;
        }
        if self.0.len() >= ADDRESSES && !self.0.contains_key(&address) {
            return None;
        }
        Some(self.0.entry(address).or_default())
    }

    /// A packet, and whether it opens a conversation or asks for a connection.
    pub fn packet(&mut self, from: IpAddr, to: IpAddr, way: Option<Way>, opens: bool, syn: bool) {
        let marked = |towards| match way {
            None => 0,
            Some(way) if way == towards => 1,
            Some(_) => -1,
        };
        for (address, marked) in [(from, marked(Way::FromHost)), (to, marked(Way::ToHost))] {
            if let Some(votes) = self.votes(address) {
                votes.marked += marked;
                votes.packets += 1;
                votes.conversations += u64::from(opens);
            }
        }
        if let Some(votes) = self.votes(to).filter(|_| syn) {
            votes.syns += 1;
        }
    }

    /// The addresses that the capture marks as this side's; where it marks
    /// none, of each family the one in most conversations, or asked for most
    /// connections, or in most packets.
    pub fn roles(&self) -> Roles {
        let marked: BTreeSet<_> =
            self.0.iter().filter(|(_, votes)| votes.marked > 0).map(|(address, _)| *address).collect();
        if !marked.is_empty() {
            return Roles { given: Vec::new(), found: marked, how: "marked in the capture" };
        }
        let found = Family::BOTH.into_iter().filter_map(|family| {
            let of_family = self.0.iter().filter(|(address, _)| Family::of(**address) == family);
            // The address last, so that equal votes always fall the same way.
            let best = of_family.max_by_key(|(address, votes)| {
                (votes.conversations, votes.syns, votes.packets, std::cmp::Reverse(**address))
            });
            best.map(|(address, _)| *address)
        });
        let how = "inferred: in most conversations, or asked for most connections";
        Roles { given: Vec::new(), found: found.collect(), how }
    }
}

/// The limited broadcast address; what a subnet's is, a capture does not say.
pub(super) fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let holds = |prefix: &str, address: &str| {
            prefix.parse::<Prefix>().unwrap().contains(address.parse().unwrap())
        };
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("10.0.0.1", "10.0.0.1") && !holds("10.0.0.1", "10.0.0.0"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("fd77::/64", "fd77::1") && !holds("fd77::/64", "fd77:0:0:1::1"));
        for bad in ["", "x", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn most_conversations_count_for_more_than_most_packets() {
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let mut ballot = Ballot::default();
        for peer in 2..5 {
            ballot.packet(address(1), address(peer), None, true, false);
        }
        for packet in 0..100 {
            ballot.packet(address(8), address(9), None, packet == 0, packet == 0);
        }
        assert_eq!(ballot.roles().text().0, ["10.0.0.1"]);
    }

    #[test]
    fn a_mark_counts_for_more_than_numbers() {
        let (one, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut ballot = Ballot::default();
        ballot.packet(one, other, None, true, true);
        assert!(ballot.roles().is_local(other) && !ballot.roles().is_local(one));
        ballot.packet(one, other, Some(Way::FromHost), false, false);
        assert!(ballot.roles().is_local(one) && !ballot.roles().is_local(other));
    }
}
