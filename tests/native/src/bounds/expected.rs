//! Expected verdicts on indications of which a part cannot be read.

use hushport_native_driver::logic::callouts::CALLOUTS;
use hushport_native_driver::logic::layers::{Decision, Role};
use hushport_native_driver::logic::stealth::Verdict;
use machine::nt::registry::RegistryValue;
use machine::nt::types::metadata_field as field;

use super::plain::{EXEMPT_PORT, Kind, Plain};

/// Registry values that change what the driver reads or answers.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Its name.
    pub name: &'static str,
    /// `CheckOrder`, `Trace` 2 and a session: every callout reads the whole indication.
    pub looks: bool,
    /// `SilenceEcho`.
    pub echo: bool,
    /// Exemption lists. Only the UDP port matches.
    pub exempts: bool,
}

/// All setups.
pub const SETUPS: [Setup; 3] = [
    Setup { name: "by default", looks: false, echo: false, exempts: false },
    Setup { name: "with lists and echo", looks: false, echo: true, exempts: true },
    Setup { name: "watched, with lists and echo", looks: true, echo: true, exempts: true },
];

/// Which headers of a packet can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headers {
    /// All that the driver reads.
    Whole,
    /// Only source and protocol.
    Network,
    /// None.
    Nothing,
}

/// Which parts of an indication can be read.
#[derive(Clone, Debug)]
pub struct Read {
    /// Position of the field that cannot be read.
    pub missing: Option<usize>,
    /// Number of values, if there are too few.
    pub count: Option<usize>,
    /// Whether values and metadata are there.
    pub holds_together: bool,
    /// Whether the engine gives the discard reason.
    pub reason: bool,
    /// Headers of the packet.
    pub headers: Headers,
}

impl Read {
    /// All parts.
    pub fn all() -> Self {
        Self { missing: None, count: None, holds_together: true, reason: true, headers: Headers::Whole }
    }

    /// All but one field.
    pub fn without(position: usize) -> Self {
        Self { missing: Some(position), ..Self::all() }
    }

    /// All but some headers.
    pub fn with(headers: Headers) -> Self {
        Self { headers, ..Self::all() }
    }

    /// Whether a field can be read, by any of its names.
    fn has(&self, plain: &Plain, field: &str) -> bool {
        self.missing.is_none() || self.missing != plain.layer.field(field)
    }
}

impl Setup {
    /// The values for the registry.
    pub fn values(&self) -> Vec<(&'static str, RegistryValue)> {
        let dword = |is: bool, number| RegistryValue::dword(if is { number } else { 0 });
        let list = |text: &str| RegistryValue::multi_sz(self.exempts.then_some(text));
        vec![
            ("CheckOrder", dword(self.looks, 1)),
            ("Trace", dword(self.looks, 2)),
            ("SilenceEcho", dword(self.echo, 1)),
            ("ExemptPorts", list(&format!("{EXEMPT_PORT}/udp"))),
            ("ExemptPrefixes", list("192.0.2.0/24")),
            ("ExemptInterfaces", list("77")),
        ]
    }

    /// The verdict on an indication of which these parts can be read.
    ///
    /// # Panics
    /// If the driver has no callout at its layer.
    pub fn verdict(&self, plain: &Plain, read: &Read) -> Verdict {
        let callout = CALLOUTS.iter().find(|callout| callout.layer_id == plain.layer.id.0);
        let callout = callout.expect("the driver's table has the layer");
        let (needed, decision) = match callout.role {
            Role::Observe => (0, None),
            Role::Decide(Decision::EchoRequest) if !self.echo => (0, None),
            Role::Decide(decision) => (callout.fields().count(), Some(decision)),
        };
        let short = read.count.is_some_and(|count| count < needed);
        // A callout that only counts reads nothing.
        let looks = decision.is_some() || callout.begins_flows || self.looks;
        if looks && (short || !read.holds_together) {
            return Verdict::Malformed;
        }
        match decision {
            None => Verdict::Observed,
            Some(Decision::EchoRequest) => self.echo_request(plain, read),
            Some(Decision::IcmpError) if !read.has(plain, "ICMP_TYPE") || !read.has(plain, "ICMP_CODE") => {
                Verdict::Malformed
            }
            Some(Decision::IcmpError) => self.unless_exempt(plain, self.is_port_named(plain, read)),
            Some(Decision::TransportDiscard) => self.transport_discard(plain, read),
            Some(Decision::PacketDiscard) => self.packet_discard(plain, read),
        }
    }

    fn echo_request(&self, plain: &Plain, read: &Read) -> Verdict {
        // Type and code are in the place of the ports.
        let told =
            ["IP_PROTOCOL", "IP_LOCAL_PORT", "IP_REMOTE_PORT"].iter().all(|field| read.has(plain, field));
        if plain.kind == Kind::Echo && told { Verdict::Silenced } else { Verdict::Observed }
    }

    fn transport_discard(&self, plain: &Plain, read: &Read) -> Verdict {
        let is_named = ["IP_LOCAL_PORT", "IP_REMOTE_PORT"].iter().all(|field| read.has(plain, field));
        match plain.kind {
            _ if !read.has(plain, "IP_PROTOCOL") => Verdict::OtherKind,
            Kind::Echo => Verdict::OtherKind,
            // The ports show that this is the header of the segment.
            Kind::Reset if read.headers == Headers::Whole && is_named => Verdict::NoAnswer,
            Kind::Reset => Verdict::Silenced,
            Kind::Datagram => self.unless_exempt(plain, read.has(plain, "IP_LOCAL_PORT")),
        }
    }

    fn packet_discard(&self, plain: &Plain, read: &Read) -> Verdict {
        let protocol = match self.header_named(plain, read) {
            Headers::Nothing => None,
            Headers::Whole | Headers::Network => Some(plain.kind),
        };
        match protocol {
            // The protocol is enough to know that the stack would answer.
            None | Some(Kind::Reset | Kind::Echo) if !read.reason => Verdict::OtherKind,
            _ => self.unless_exempt(plain, self.is_port_named(plain, read)),
        }
    }

    /// The addresses show that this is the header of the packet.
    fn header_named(&self, plain: &Plain, read: &Read) -> Headers {
        match read.has(plain, "IP_LOCAL_ADDRESS") && read.has(plain, "IP_REMOTE_ADDRESS") {
            true => read.headers,
            false => Headers::Nothing,
        }
    }

    fn is_port_named(&self, plain: &Plain, read: &Read) -> bool {
        self.header_named(plain, read) == Headers::Whole && plain.kind == Kind::Datagram
    }

    fn unless_exempt(&self, plain: &Plain, port_is_known: bool) -> Verdict {
        let exempt = self.exempts && port_is_known && plain.kind == Kind::Datagram;
        if exempt { Verdict::ExemptPort } else { Verdict::Silenced }
    }
}

/// Metadata bits of values that decide the verdict.
pub const DECIDE_BY: u32 = field::DISCARD_REASON | field::IP_HEADER_SIZE;
