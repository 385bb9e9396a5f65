//! A packet or an operation in one line: `tcp syn 203.0.113.7:4000 -> :22`.

use std::net::IpAddr;
use std::str::FromStr;

use machine::host::{Options, PROFILES};
use machine::wfp::Value;

use super::configuration::{Answer, Configuration};
use super::model::{Facts, Known};
use crate::hushport::DECIDING_LAYERS;

const LOOPBACK: u32 = 1;
const IPSEC_SECURED: u32 = 2;

/// When a segment comes too late for its connection.
const ENDED: &str = "if its connection has just been closed";

/// The number of a profile by its name.
///
/// # Errors
/// If it is none.
pub fn profile(name: &str) -> Result<u32, String> {
    let found = PROFILES.iter().find(|(_, known)| *known == name);
    found.map(|&(number, _)| number).ok_or_else(|| format!("{name:?}: expected public, private or domain"))
}

/// What is asked about.
#[derive(Clone, Debug)]
pub struct Packet {
    kind: Kind,
    /// As it was written.
    pub text: String,
    v6: bool,
    protocol: u8,
    remote: End,
    local: End,
    icmp: (u16, u16),
    profile: Option<u32>,
    interface: Option<u64>,
    flags: u32,
    /// The program's path, for operations.
    pub app: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp { syn: bool },
    Udp,
    Icmp,
    Accept,
    Connect,
    Listen,
}

#[derive(Clone, Copy, Debug, Default)]
struct End {
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl FromStr for Packet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "expected tcp [syn|ack|fin] FROM -> TO, udp FROM -> TO, icmp [TYPE/CODE] FROM -> TO, \
                            accept|connect [tcp|udp] FROM -> TO or listen [tcp|udp] TO, \
                            followed by profile=public, interface=LUID, loopback, ipsec or ipv6";
        let mut words = text.split_whitespace().peekable();
        let kind = match words.next() {
            Some("tcp") => Kind::Tcp { syn: !matches!(words.peek(), Some(&("ack" | "fin"))) },
            Some("udp") => Kind::Udp,
            Some("icmp") => Kind::Icmp,
            Some("accept") => Kind::Accept,
            Some("connect") => Kind::Connect,
            Some("listen") => Kind::Listen,
            _ => return Err(FORM.into()),
        };
        let mut packet = Self {
            kind,
            text: text.to_owned(),
            v6: false,
            protocol: if kind == Kind::Udp { 17 } else { 6 },
            remote: End::default(),
            local: End::default(),
            icmp: (0, 0),
            profile: None,
            interface: None,
            flags: 0,
            app: None,
        };
        let (mut ends, mut echo) = (Vec::new(), kind == Kind::Icmp);
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("syn" | "ack" | "fin", "") if matches!(kind, Kind::Tcp { .. }) => {}
                ("tcp", "") if !matches!(kind, Kind::Tcp { .. } | Kind::Udp | Kind::Icmp) => {
                    packet.protocol = 6
                }
                ("udp", "") if !matches!(kind, Kind::Tcp { .. } | Kind::Udp | Kind::Icmp) => {
                    packet.protocol = 17
                }
                ("echo" | "->", "") => {}
                ("loopback", "") => packet.flags |= LOOPBACK,
                ("ipsec", "") => packet.flags |= IPSEC_SECURED,
                ("ipv6", "") => packet.v6 = true,
                ("profile", name) => packet.profile = Some(profile(name)?),
                ("interface", luid) => {
                    packet.interface = Some(luid.parse().map_err(|_| "interface is a LUID, a number")?);
                }
                (word, "") => match word.split_once('/') {
                    Some((kind, code)) if echo => {
                        let number = |text: &str| text.parse::<u8>().map(u16::from);
                        let wrong = |_| format!("{word:?}: expected type and code of ICMP, such as 8/0");
                        packet.icmp = (number(kind).map_err(wrong)?, number(code).map_err(wrong)?);
                        echo = false;
                    }
                    _ => ends.push(end(word)?),
                },
                (word, _) => return Err(format!("{word:?}: {FORM}")),
            }
        }
        let (from, to) = match ends[..] {
            [from, to] => (from, to),
            [to] => (End::default(), to),
            _ => return Err(FORM.into()),
        };
        (packet.remote, packet.local) = if kind == Kind::Connect { (to, from) } else { (from, to) };
        let addresses = [packet.remote.address, packet.local.address];
        packet.v6 |= addresses.iter().flatten().any(IpAddr::is_ipv6);
        if packet.v6 && addresses.iter().flatten().any(IpAddr::is_ipv4) {
            return Err("both addresses are of one family".into());
        }
        if addresses.iter().flatten().any(IpAddr::is_loopback) {
            packet.flags |= LOOPBACK;
        }
        if kind == Kind::Icmp {
            packet.protocol = if packet.v6 { 58 } else { 1 };
            if echo {
                packet.icmp = (if packet.v6 { 128 } else { 8 }, 0);
            }
        }
        Ok(packet)
    }
}

/// `203.0.113.7:4000`, `:22`, `192.0.2.1`, `[2001:db8::1]:22`; `:` is any.
fn end(text: &str) -> Result<End, String> {
    let wrong = || format!("{text:?}: expected an address with or without :PORT");
    if let Ok(address) = text.parse() {
        return Ok(End { address: Some(address), port: None });
    }
    let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    Ok(End {
        address: if address.is_empty() { None } else { Some(address.parse().map_err(|_| wrong())?) },
        port: if port.is_empty() { None } else { Some(port.parse().map_err(|_| wrong())?) },
    })
}

/// What hushport decides about a packet at a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionAt {
    /// Nothing.
    None,
    /// Nothing: it belongs to a connection.
    Connection,
    /// Whether an echo request is answered.
    Echo,
    /// Whether it is answered.
    Answer,
}

/// The layers that a packet passes if something holds.
#[derive(Clone, Debug)]
pub struct Path {
    /// What holds.
    pub when: &'static str,
    /// The layers, without prefix.
    pub layers: Vec<String>,
    /// Whether the stack found no endpoint, if it discards the packet.
    pub no_endpoint: Option<bool>,
}

impl Packet {
    /// The layers on its way, as the documented flows have them.
    pub fn paths(&self) -> Vec<Path> {
        let closed = "if no program has the port";
        let open = "if a program has the port";
        let paths: &[(&'static str, &[&str])] = match (self.kind, self.protocol) {
            (Kind::Tcp { syn: true }, _) => &[
                (closed, &["INBOUND_IPPACKET_#", "INBOUND_TRANSPORT_#_DISCARD"]),
                (open, &["INBOUND_IPPACKET_#", "INBOUND_TRANSPORT_#", "ALE_AUTH_RECV_ACCEPT_#"]),
            ],
            (Kind::Tcp { syn: false }, _) => &[
                (closed, &["INBOUND_IPPACKET_#", "INBOUND_TRANSPORT_#_DISCARD"]),
                ("if it is part of a connection", &["INBOUND_IPPACKET_#", "INBOUND_TRANSPORT_#"]),
                (ENDED, &["INBOUND_IPPACKET_#", "INBOUND_TRANSPORT_#_DISCARD"]),
            ],
            (Kind::Udp, _) => &[
                (
                    closed,
                    &[
                        "INBOUND_IPPACKET_#",
                        "INBOUND_TRANSPORT_#_DISCARD",
                        "INBOUND_IPPACKET_#_DISCARD",
                        "OUTBOUND_ICMP_ERROR_#",
                    ],
                ),
                (open, &["INBOUND_IPPACKET_#", "INBOUND_TRANSPORT_#", "ALE_AUTH_RECV_ACCEPT_#"]),
            ],
            (Kind::Icmp, _) => {
                &[("always", &["INBOUND_IPPACKET_#", "INBOUND_TRANSPORT_#", "ALE_AUTH_RECV_ACCEPT_#"])]
            }
            (Kind::Accept, _) => &[("always", &["ALE_AUTH_RECV_ACCEPT_#"])],
            (Kind::Connect, _) => {
                &[("always", &["ALE_AUTH_CONNECT_#", "OUTBOUND_TRANSPORT_#", "OUTBOUND_IPPACKET_#"])]
            }
            (Kind::Listen, 17) => &[("always", &["ALE_RESOURCE_ASSIGNMENT_#"])],
            (Kind::Listen, _) => &[("always", &["ALE_RESOURCE_ASSIGNMENT_#", "ALE_AUTH_LISTEN_#"])],
        };
        let family = if self.v6 { "V6" } else { "V4" };
        let named = |layers: &[&str]| layers.iter().map(|layer| layer.replace('#', family)).collect();
        let no_endpoint =
            |when| [(closed, true), (ENDED, false)].iter().find(|of| of.0 == when).map(|of| of.1);
        let path = |&(when, layers)| Path { when, layers: named(layers), no_endpoint: no_endpoint(when) };
        paths.iter().map(path).collect()
    }

    /// Whether hushport exempts it as loopback or as IPsec-secured.
    pub fn is_exempt(&self, configuration: &Configuration) -> bool {
        configuration.exempts(self.flags & LOOPBACK != 0, self.flags & IPSEC_SECURED != 0)
    }

    /// The profile of its network, if it is known.
    pub fn profile(&self) -> Option<u32> {
        self.profile
    }

    /// What is suppressed if it is silenced.
    pub fn answer(&self) -> Answer {
        match self.kind {
            Kind::Icmp => Answer::Echo,
            Kind::Udp => Answer::Udp,
            _ => Answer::Tcp,
        }
    }

    /// What hushport decides about it at a layer of a path.
    pub fn decision_at(&self, layer: &str, path: &Path) -> DecisionAt {
        // Echo, and the other requests of docs/SECURITY.md, "ICMP errors".
        let requests: &[u16] = if self.v6 { &[128, 139] } else { &[8, 13, 15, 17] };
        let is_echo = self.kind == Kind::Icmp && requests.contains(&self.icmp.0);
        let decides = DECIDING_LAYERS
            .iter()
            .any(|deciding| ["V4", "V6"].iter().any(|family| deciding.replace('#', family) == layer));
        let is_discarded = layer.ends_with("_DISCARD") || layer.starts_with("OUTBOUND_ICMP_ERROR");
        // Nobody answers what is for several machines.
        let is_for_several = self.local.address.is_some_and(|it| Options::default().is_for_several(it));
        match () {
            () if !decides || !is_discarded && !is_echo => DecisionAt::None,
            () if is_for_several && layer.ends_with("_DISCARD") => DecisionAt::None,
            () if path.no_endpoint == Some(false) => DecisionAt::Connection,
            () if is_discarded => DecisionAt::Answer,
            () => DecisionAt::Echo,
        }
    }

    /// What is known of it at a layer of a path.
    pub fn facts(&self, layer: &str, path: &Path) -> Facts {
        let mut facts = Facts::default();
        facts.no_endpoint = path.no_endpoint.filter(|_| layer.ends_with("_DISCARD"));
        common(&mut facts, self.flags, self.profile);
        for (name, address) in [("REMOTE", self.remote.address), ("LOCAL", self.local.address)] {
            let value = match address {
                Some(IpAddr::V4(address)) => Value::Uint32(address.into()),
                Some(IpAddr::V6(address)) => Value::ByteArray16(address.octets()),
                None => continue,
            };
            facts.set(&format!("IP_{name}_ADDRESS"), Known::Value(value));
        }
        if let Some(address) = self.local.address {
            facts.set(
                "IP_LOCAL_ADDRESS_TYPE",
                Known::Value(Value::Uint8(Options::default().address_type(address))),
            );
        }
        if let Some(luid) = self.interface {
            facts.set("IP_LOCAL_INTERFACE", Known::Value(Value::Uint64(luid)));
        }
        if layer.starts_with("OUTBOUND_ICMP_ERROR") {
            let (kind, code) = if self.v6 { (1, 4) } else { (3, 3) };
            icmp(&mut facts, kind, code);
            return facts;
        }
        facts.set("IP_PROTOCOL", Known::Value(Value::Uint8(self.protocol)));
        for (name, port) in [("REMOTE", self.remote.port), ("LOCAL", self.local.port)] {
            if let Some(port) = port {
                facts.set(&format!("IP_{name}_PORT"), Known::Value(Value::Uint16(port)));
            }
        }
        if self.kind == Kind::Icmp {
            icmp(&mut facts, self.icmp.0, self.icmp.1);
        }
        if let Some(app) = &self.app {
            facts.set("ALE_APP_ID", Known::Path(app.clone()));
        }
        facts
    }
}

/// Type and code stand in the fields of the ports.
fn icmp(facts: &mut Facts, kind: u16, code: u16) {
    for (field, value) in
        [("ICMP_TYPE", kind), ("IP_LOCAL_PORT", kind), ("ICMP_CODE", code), ("IP_REMOTE_PORT", code)]
    {
        facts.set(field, Known::Value(Value::Uint16(value)));
    }
}

/// Flags and the network's profile.
fn common(facts: &mut Facts, flags: u32, profile: Option<u32>) {
    facts.set("FLAGS", Known::Bits(flags, LOOPBACK | IPSEC_SECURED));
    for name in [
        "CURRENT_PROFILE_ID",
        "ORIGINAL_PROFILE_ID",
        "NEXTHOP_INTERFACE_PROFILE_ID",
        "ARRIVAL_INTERFACE_PROFILE_ID",
        "LOCAL_INTERFACE_PROFILE_ID",
    ] {
        if let Some(profile) = profile {
            facts.set(name, Known::Value(Value::Uint32(profile)));
        }
    }
}

/// What is known of every probe that a deciding layer shows: neither loopback nor
/// IPsec-secured, on a network of a profile.
pub fn probe(layer: &str, profile: u32) -> Facts {
    let mut facts = Facts::default();
    common(&mut facts, 0, Some(profile));
    facts.no_endpoint = layer.ends_with("_DISCARD").then_some(true);
    let v6 = layer.contains("_V6");
    match layer {
        _ if layer.starts_with("OUTBOUND_ICMP_ERROR") => {
            icmp(&mut facts, if v6 { 1 } else { 3 }, if v6 { 4 } else { 3 })
        }
        _ if layer.starts_with("INBOUND_TRANSPORT") && layer.ends_with("_DISCARD") => {
            facts.set("IP_PROTOCOL", Known::Value(Value::Uint8(6)));
        }
        _ if layer.starts_with("INBOUND_TRANSPORT") => {
            facts.set("IP_PROTOCOL", Known::Value(Value::Uint8(if v6 { 58 } else { 1 })));
            icmp(&mut facts, if v6 { 128 } else { 8 }, 0);
        }
        _ => {}
    }
    facts
}
