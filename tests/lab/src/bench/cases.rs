//! The classifies that are counted in both builds, stepped and native.

use anyhow::{Context, Result};
use machine::nt::fwp::prepared::Prepared;
use machine::nt::registry::RegistryValue;

use super::callouts::{Callouts, layer_name};
use super::indication::Subject;
use crate::traffic::Family;

/// The numbers of exempt prefixes.
const EXEMPTED: [u32; 3] = [0, 10, 1000];

/// A registry value of the driver.
pub type Set = (&'static str, RegistryValue);

/// A classify that is counted.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name in reports.
    pub name: String,
    family: Family,
    kind: &'static Kind,
}

/// The cases of both families.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    layer: &'static str,
    discard: bool,
    subject: fn(Family) -> Subject,
    /// Whether it belongs to a watched flow.
    flow: bool,
}

const fn kind(name: &'static str, layer: &'static str, subject: fn(Family) -> Subject) -> Kind {
    Kind { name, layer, discard: false, subject, flow: false }
}

/// The packets that pass or are decided. Only for the last kind the prefixes
/// matter.
static KINDS: [Kind; 6] = [
    kind("an observing layer", "INBOUND_IPPACKET", Subject::syn),
    kind("INBOUND_TRANSPORT, no flow", "INBOUND_TRANSPORT", Subject::syn),
    Kind { flow: true, ..kind("INBOUND_TRANSPORT, a watched flow", "INBOUND_TRANSPORT", Subject::syn) },
    Kind {
        discard: true,
        ..kind("UDP without endpoint, INBOUND_IPPACKET_DISCARD", "INBOUND_IPPACKET", Subject::datagram)
    },
    kind("OUTBOUND_ICMP_ERROR", "OUTBOUND_ICMP_ERROR", Subject::datagram),
    Kind { discard: true, ..kind("a silenced SYN", "INBOUND_TRANSPORT", Subject::syn) },
];

/// The drivers on which cases are counted: the number of exempt prefixes, and the
/// family of the remote. Each has one remote, because two remotes may be neighbors
/// in the table of remotes, where the second one takes a few instructions more to
/// find.
pub fn drivers() -> impl Iterator<Item = (u32, Family)> {
    EXEMPTED.into_iter().flat_map(|exempted| [Family::V4, Family::V6].map(|family| (exempted, family)))
}

/// The cases of a driver with this number of exempt prefixes.
pub fn cases((exempted, family): (u32, Family)) -> Vec<Case> {
    let kinds = if exempted == 0 { &KINDS[..] } else { &KINDS[KINDS.len() - 1..] };
    let prefixes = if exempted == 0 { String::new() } else { format!(", {exempted} exempt prefixes") };
    let case =
        |kind: &'static Kind| Case { name: format!("{}{prefixes}, {family:?}", kind.name), family, kind };
    kinds.iter().map(case).collect()
}

/// The values of that driver: it enforces, observes, and exempts this number of
/// prefixes, none of which contains the remote.
pub fn values(exempted: u32) -> Vec<Set> {
    vec![("Mode", RegistryValue::dword(2)), ("Observe", RegistryValue::dword(1)), prefixes(exempted)]
}

/// This number of disjoint prefixes, of both families and on both sides of the
/// remote's address, none of which contains it.
pub fn prefixes(count: u32) -> Set {
    let prefix = |at: u32| match at % 4 {
        0 => format!("1.{}.{}.0/25", at / 256, at % 256),
        1 => format!("223.{}.{}.0/25", at / 256, at % 256),
        2 => format!("1:{at:x}::/48"),
        _ => format!("fec0:{at:x}::/48"),
    };
    let all: Vec<String> = (0..count).map(prefix).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    ("ExemptPrefixes", RegistryValue::multi_sz(all))
}

impl Case {
    /// The call of this case.
    ///
    /// # Errors
    /// If the driver has no callout there, or stopped.
    pub fn call(&self, callouts: &Callouts) -> Result<Prepared> {
        let Kind { layer, discard, subject, flow, .. } = self.kind;
        let (layer, subject) = (layer_name(layer, self.family, *discard), subject(self.family));
        if !flow {
            return callouts.call(&layer, &subject);
        }
        let flow = callouts.begin_flow(&subject)?;
        let context = callouts.contexts(&layer).get(&flow).copied();
        let call = callouts.call(&layer, &Subject::data(self.family, flow))?;
        Ok(call.with_flows(vec![context.context("a context of the flow")?]))
    }
}
