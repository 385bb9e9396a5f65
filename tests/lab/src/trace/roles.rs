//! Infers which addresses of a capture are the host's.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use machine::wire::{Family, Way};

use super::link::Cast;

/// An address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// Whether the prefix contains an address.
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
        let expected = || format!("{text:?}: expected an address or a prefix such as 192.0.2.0/24");
        let address: IpAddr = address.parse().map_err(|_| expected())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(most), str::parse).map_err(|_| expected())?;
        if length > most { Err(expected()) } else { Ok(Self { address, length }) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The host's addresses.
#[derive(Clone, Debug)]
pub struct Roles {
    given: Vec<Prefix>,
    found: BTreeSet<IpAddr>,
    /// Broadcast addresses of subnets, whose form does not show that they are.
    groups: BTreeSet<IpAddr>,
    how: &'static str,
}

impl Roles {
    /// The given addresses.
    pub fn given(prefixes: Vec<Prefix>) -> Self {
        Self { given: prefixes, found: BTreeSet::new(), groups: BTreeSet::new(), how: "given" }
    }

    /// These addresses, with the groups that a survey has found.
    pub fn with_groups(self, ballot: &Ballot) -> Self {
        Self { groups: ballot.groups(), ..self }
    }

    /// Whether an address stands for several machines. Then a packet for it without
    /// a socket gets no answer.
    pub fn is_group(&self, address: IpAddr) -> bool {
        address.is_multicast() || is_broadcast(address) || self.groups.contains(&address)
    }

    /// The addresses of groups whose form does not show that they are.
    pub fn groups(&self) -> &BTreeSet<IpAddr> {
        &self.groups
    }

    /// Each address of the host that is known as such, and not only by its prefix.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let whole = |prefix: &&Prefix| prefix.length == if prefix.address.is_ipv4() { 32 } else { 128 };
        let given = self.given.iter().filter(whole).map(|prefix| prefix.address);
        given.chain(self.found.iter().copied())
    }

    /// Whether an address is the host's.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.found.contains(&address) || self.given.iter().any(|prefix| prefix.contains(address))
    }

    /// The addresses, and how they were found.
    pub fn text(&self) -> (Vec<String>, &'static str) {
        let given = self.given.iter().map(Prefix::to_string);
        (given.chain(self.found.iter().map(IpAddr::to_string)).collect(), self.how)
    }
}

/// The evidence that an address is the host's.
#[derive(Clone, Copy, Debug, Default)]
struct Votes {
    /// The number of packets that the capture marks with the direction of this
    /// address, minus those marked with the other direction.
    marked: i64,
    conversations: u64,
    syns: u64,
    packets: u64,
    /// It has sent a packet, so it belongs to one machine.
    sends: bool,
    /// The link layer sent a frame for it to a group.
    grouped: bool,
    /// The link layer sent a frame for it to one station, or a packet came from
    /// outside the largest subnet whose broadcast address it can be.
    single: bool,
}

impl Votes {
    /// Whether the address is a group's. No packet comes from such an address.
    fn is_group(&self, address: IpAddr) -> bool {
        !self.sends && (self.grouped || (!self.single && self.syns == 0 && host_bits(address) >= LEAST))
    }
}

/// The number of trailing 1 bits of an IPv4 address. In a subnet's broadcast
/// address these are the host bits (RFC 919).
fn host_bits(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits().trailing_ones(),
        IpAddr::V6(_) => 0,
    }
}

/// If the link layer shows nothing, an address with at least this many trailing 1
/// bits counts as a broadcast address: that of a subnet of 256 addresses.
const LEAST: u32 = 8;

/// The maximum number of addresses that are counted.
const ADDRESSES: usize = 65_536;

/// What a packet shows about the host's address.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Seen {
    pub from: IpAddr,
    pub to: IpAddr,
    pub way: Option<Way>,
    pub cast: Cast,
    /// Whether it opens a conversation.
    pub opens: bool,
    /// Whether it asks for a connection.
    pub syn: bool,
}

/// Counts the evidence for each address.
#[derive(Debug, Default)]
pub struct Ballot(HashMap<IpAddr, Votes>);

impl Ballot {
    fn votes(&mut self, address: IpAddr) -> Option<&mut Votes> {
        // No machine has such an address.
        if address.is_multicast() || address.is_unspecified() || is_broadcast(address) {
            return None;
        }
        if self.0.len() >= ADDRESSES && !self.0.contains_key(&address) {
            return None;
        }
        Some(self.0.entry(address).or_default())
    }

    /// Counts a packet.
    pub fn packet(&mut self, seen: &Seen) {
        let Seen { from, to, way, cast, opens, syn } = *seen;
        let marked = |towards| match way {
            None => 0,
            // A packet for a group does not show that the address is this host's.
            Some(Way::ToHost) if towards == Way::ToHost && cast == Cast::Group => 0,
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
        if let Some(votes) = self.votes(from) {
            votes.sends = true;
        }
        let near = is_near(from, to);
        if let Some(votes) = self.votes(to) {
            votes.syns += u64::from(syn);
            votes.grouped |= cast == Cast::Group;
            votes.single |= !near || cast == Cast::One;
        }
    }

    /// The addresses of groups.
    pub fn groups(&self) -> BTreeSet<IpAddr> {
        let groups = self.0.iter().filter(|(address, votes)| votes.is_group(**address));
        groups.map(|(address, _)| *address).collect()
    }

    /// The addresses that the capture marks as this side's. Without marks, the one
    /// of each family that has most conversations, or asked for most connections,
    /// or has most packets. An address of a group is never chosen.
    pub fn roles(&self) -> Roles {
        let groups = self.groups();
        let one = |address: &IpAddr| !groups.contains(address);
        let marked = self.0.iter().filter(|(_, votes)| votes.marked > 0).map(|(address, _)| *address);
        let marked: BTreeSet<_> = marked.filter(|address| one(address)).collect();
        if !marked.is_empty() {
            return Roles { given: Vec::new(), found: marked, groups, how: "marked in the capture" };
        }
        let found = Family::BOTH.into_iter().filter_map(|family| {
            let of_family = self.0.iter().filter(|(address, _)| Family::of(**address) == family);
            let of_family = of_family.filter(|(address, _)| one(address));
            // The address is compared last, so that a tie always has the same
            // result.
            let best = of_family.max_by_key(|(address, votes)| {
                (votes.conversations, votes.syns, votes.packets, std::cmp::Reverse(**address))
            });
            best.map(|(address, _)| *address)
        });
        let how = "inferred: in most conversations, or asked for most connections";
        Roles { given: Vec::new(), found: found.collect(), groups, how }
    }
}

/// Whether two addresses are in one subnet, if the second one is its broadcast
/// address.
fn is_near(from: IpAddr, to: IpAddr) -> bool {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(broadcast)) => {
            let differ = from.to_bits() ^ broadcast.to_bits();
            u32::BITS - differ.leading_zeros() <= host_bits(to)
        }
        _ => false,
    }
}

/// The limited broadcast address.
fn is_broadcast(address: IpAddr) -> bool {
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

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn seen(from: u8, to: u8) -> Seen {
        let (from, to) = (address(from), address(to));
        Seen { from, to, way: None, cast: Cast::Unknown, opens: true, syn: false }
    }

    #[test]
    fn most_conversations_count_for_more_than_most_packets() {
        let mut ballot = Ballot::default();
        for peer in 2..5 {
            ballot.packet(&seen(1, peer));
        }
        for packet in 0..100 {
            ballot.packet(&Seen { opens: packet == 0, syn: packet == 0, ..seen(8, 9) });
        }
        assert_eq!(ballot.roles().text().0, ["10.0.0.1"]);
    }

    #[test]
    fn a_marked_direction_outweighs_counts() {
        let (one, other) = (address(1), address(2));
        let mut ballot = Ballot::default();
        ballot.packet(&Seen { syn: true, ..seen(1, 2) });
        assert!(ballot.roles().is_local(other) && !ballot.roles().is_local(one));
        let marked = Seen { way: Some(Way::FromHost), opens: false, ..seen(1, 2) };
        ballot.packet(&marked);
        assert!(ballot.roles().is_local(one) && !ballot.roles().is_local(other));
    }

    #[test]
    fn a_group_address_is_never_the_hosts() {
        // The link layer decides, whatever the address is; without a link layer the
        // address decides; so does a mark for a group.
        let (link, raw) = (Seen { cast: Cast::Group, ..seen(2, 63) }, seen(2, 255));
        let marked = Seen { way: Some(Way::ToHost), cast: Cast::Group, ..seen(2, 63) };
        for (to, kind) in [(63, link), (255, raw), (63, marked)] {
            let mut ballot = Ballot::default();
            for from in 2..8 {
                ballot.packet(&Seen { from: address(from), ..kind });
            }
            ballot.packet(&Seen { syn: true, ..seen(9, 1) });
            let roles = ballot.roles();
            assert!(roles.is_group(address(to)) && !roles.is_local(address(to)), "{kind:?}");
            // An address that sends belongs to one machine.
            ballot.packet(&Seen { opens: false, ..seen(to, 9) });
            assert!(!ballot.roles().is_group(address(to)), "{kind:?}");
        }
    }

    #[test]
    fn a_silent_host_is_not_a_group() {
        // It is asked for connections, or packets come from outside its subnet, or
        // it cannot be a broadcast address.
        let afar = Seen { from: [198, 51, 100, 7].into(), ..seen(2, 255) };
        for packet in [Seen { syn: true, ..seen(2, 255) }, afar, seen(2, 20)] {
            let mut ballot = Ballot::default();
            ballot.packet(&packet);
            assert!(!ballot.roles().is_group(packet.to), "{packet:?}");
        }
    }
}
