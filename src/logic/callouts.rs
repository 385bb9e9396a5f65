//! The table of callouts: one at every layer and twin, of either family.

use super::layers::{Decision, Family, Fields, Flows, Guid, LAYERS, Layer, Role};
use super::order::{Look, Place};

/// One callout.
#[derive(Clone, Copy, Debug)]
pub struct Callout {
    /// The documented layer it stands at; its place there is the order of the
    /// flows.
    pub layer: &'static Layer,
    /// Address family.
    pub family: Family,
    /// Whether it stands at the layer's twin.
    pub discard: bool,
    /// The layer's run-time id.
    pub layer_id: u16,
    /// What the order of layers looks at there.
    pub look: Look,
    /// What the callout does.
    pub role: Role,
    /// Whether flows begin here.
    pub begins_flows: bool,
    /// Its place in [`CALLOUTS`].
    pub index: Index,
}

/// Number of callouts.
pub const COUNT: usize = 66;

/// Every callout, in the order in which they are registered and given their
/// filters: as the TCP flows first come to the layers, each with its twin
/// behind it, IPv4 before IPv6; then the layers beside those flows.
pub static CALLOUTS: [Callout; COUNT] = every();

/// Marks this driver's callouts and filters; the layer's id is added.
const CALLOUT_KEY: Guid = 0x2f6b1e84_5d0a_4c3e_9b57_68a1c40d0000;
const FILTER_KEY: Guid = 0x93c07d15_e8f2_4b6a_a1d4_07be5c920000;

impl Callout {
    /// The callout's own key.
    pub const fn key(&self) -> Guid {
        CALLOUT_KEY + self.layer_id as Guid
    }

    /// Its filter's key.
    pub const fn filter_key(&self) -> Guid {
        FILTER_KEY + self.layer_id as Guid
    }

    /// The layer's management key.
    pub const fn layer_key(&self) -> Guid {
        let column = self.family as usize;
        match &self.layer.discard {
            Some(twin) if self.discard => twin.keys[column],
            _ => self.layer.keys[column],
        }
    }

    /// Whether it is to hear of the end of flows whose contexts it has.
    pub const fn has_flows(&self) -> bool {
        !self.discard && matches!(self.layer.flows, Flows::Every | Flows::Streams | Flows::Datagrams)
    }

    /// Whether every packet of a flow passes here once, with the flow's context.
    pub const fn counts_flows(&self) -> bool {
        !self.discard && matches!(self.layer.flows, Flows::Every)
    }

    /// Where its layer's data fields stand.
    pub const fn fields(&self) -> &'static Fields {
        &self.layer.fields
    }

    /// The layer's name in parts, as `fwpsk.h` composes it.
    pub const fn name(&self) -> [&'static str; 3] {
        let family = match self.family {
            Family::V4 => "_V4",
            Family::V6 => "_V6",
        };
        [self.layer.name, family, if self.discard { "_DISCARD" } else { "" }]
    }
}

/// The callout at a layer, `None` for a layer that has none.
pub fn at_layer(layer_id: u16) -> Option<&'static Callout> {
    static BY_LAYER: [u8; LAYER_IDS] = by_layer(false);
    CALLOUTS.get(usize::from(*BY_LAYER.get(usize::from(layer_id))?))
}

/// The callout at a layer, if all it has to do may be to count: it decides
/// nothing, and no flow begins there.
#[inline(always)]
pub fn only_counting(layer_id: u16) -> Option<Index> {
    static BY_LAYER: [u8; LAYER_IDS] = by_layer(true);
    match BY_LAYER.get(usize::from(layer_id)) {
        Some(&place) if usize::from(place) < COUNT => Some(Index(place)),
        _ => None,
    }
}

/// A callout of either family, at one layer.
pub type Pair = [&'static Callout; Family::ALL.len()];

/// The callouts of either family that take a decision.
pub const fn deciding(decision: Decision) -> Pair {
    pair(Some(decision))
}

/// The callouts of either family that observe every packet of a flow.
pub const fn observing_flows() -> Pair {
    pair(None)
}

const fn pair(decision: Option<Decision>) -> Pair {
    let mut found = [&CALLOUTS[0]; Family::ALL.len()];
    let (mut count, mut index) = (0, 0);
    while index < COUNT {
        let callout = &CALLOUTS[index];
        let is_meant = match (callout.role, decision) {
            (Role::Decide(taken), Some(decision)) => taken as u8 == decision as u8,
            (Role::Observe, None) => callout.counts_flows(),
            _ => false,
        };
        if is_meant {
            found[count] = callout;
            count += 1;
        }
        index += 1;
    }
    assert!(count == found.len());
    found
}

/// Which of them stands at a layer.
#[inline(always)]
pub fn of_pair([v4, v6]: Pair, layer_id: u16) -> Option<&'static Callout> {
    match layer_id {
        _ if layer_id == v4.layer_id => Some(v4),
        _ if layer_id == v6.layer_id => Some(v6),
        _ => None,
    }
}

/// The layer of a pair, and the number of its fields, to be known when the driver
/// is built.
pub const fn layer_of(pair: Option<Pair>) -> Option<(&'static Layer, usize)> {
    match pair {
        Some([first, _]) => Some((first.layer, first.layer.fields.count())),
        None => None,
    }
}

/// A callout's place in [`CALLOUTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index(u8);

impl Index {
    /// As a number below [`COUNT`].
    pub const fn number(self) -> usize {
        self.0 as usize
    }
}

const LAYER_IDS: usize = 72;
/// No callout's place: what is below [`COUNT`] is checked by this, too.
const NONE: u8 = u8::MAX;

const fn every() -> [Callout; COUNT] {
    let nothing = Callout {
        layer: &LAYERS[0],
        family: Family::V4,
        discard: false,
        layer_id: 0,
        look: Look::of(&LAYERS[0], Place::of_row(0, false)),
        role: Role::Observe,
        begins_flows: false,
        index: Index(0),
    };
    let mut callouts = [nothing; COUNT];
    let (mut count, mut row) = (0, 0);
    while row < LAYERS.len() {
        let layer = &LAYERS[row];
        let mut column = 0;
        while column < Family::ALL.len() {
            let family = Family::ALL[column];
            let layer_id = layer.ids[column];
            let look = Look::of(layer, Place::of_row(row, false));
            let begins_flows = matches!(layer.flows, Flows::Begin);
            callouts[count] = Callout {
                layer,
                family,
                discard: false,
                layer_id,
                look,
                role: layer.role,
                begins_flows,
                index: Index(count as u8),
            };
            count += 1;
            if let Some(twin) = &layer.discard {
                let (layer_id, role) = (layer_id + 1, twin.role);
                let look = Look::of(layer, Place::of_row(row, true));
                let (begins_flows, index) = (false, Index(count as u8));
                callouts[count] =
                    Callout { layer, family, discard: true, layer_id, look, role, begins_flows, index };
                count += 1;
            }
            column += 1;
        }
        row += 1;
    }
    assert!(count == COUNT);
    callouts
}

/// By layer, its callout's place: of all, or of those alone that may have no
/// more to do than to count.
const fn by_layer(only_counting: bool) -> [u8; LAYER_IDS] {
    let (mut places, mut index) = ([NONE; LAYER_IDS], 0);
    while index < COUNT {
        let Callout { layer_id, role, begins_flows, .. } = CALLOUTS[index];
        assert!(places[layer_id as usize] == NONE);
        if !only_counting || matches!(role, Role::Observe) && !begins_flows {
            places[layer_id as usize] = index as u8;
        }
        index += 1;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_leads_to_its_callout() {
        for (number, callout) in CALLOUTS.iter().enumerate() {
            assert_eq!(at_layer(callout.layer_id).unwrap().index.number(), number);
        }
        assert_eq!((0..=u16::MAX).filter_map(at_layer).count(), COUNT);
    }

    #[test]
    fn four_layers_of_either_family_decide_and_no_others() {
        let deciding: Vec<_> = CALLOUTS
            .iter()
            .filter_map(|callout| match callout.role {
                Role::Observe => None,
                Role::Decide(decision) => Some((callout.name().concat(), decision)),
            })
            .collect();
        let expected = [
            ("INBOUND_IPPACKET_V4_DISCARD", Decision::PacketDiscard),
            ("INBOUND_IPPACKET_V6_DISCARD", Decision::PacketDiscard),
            ("INBOUND_TRANSPORT_V4", Decision::EchoRequest),
            ("INBOUND_TRANSPORT_V4_DISCARD", Decision::TransportDiscard),
            ("INBOUND_TRANSPORT_V6", Decision::EchoRequest),
            ("INBOUND_TRANSPORT_V6_DISCARD", Decision::TransportDiscard),
            ("OUTBOUND_ICMP_ERROR_V4", Decision::IcmpError),
            ("OUTBOUND_ICMP_ERROR_V6", Decision::IcmpError),
        ];
        assert_eq!(deciding, expected.map(|(name, decision)| (name.to_owned(), decision)));
    }

    #[test]
    fn what_only_counts_decides_nothing_and_begins_nothing() {
        for layer_id in 0..=u16::MAX {
            let expected = at_layer(layer_id)
                .filter(|callout| callout.role == Role::Observe && !callout.begins_flows)
                .map(|callout| callout.index);
            assert_eq!(only_counting(layer_id), expected, "{layer_id}");
        }
    }

    #[test]
    fn keys_differ() {
        let mut keys: Vec<_> =
            CALLOUTS.iter().flat_map(|callout| [callout.key(), callout.filter_key()]).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 2 * COUNT);
    }
}
