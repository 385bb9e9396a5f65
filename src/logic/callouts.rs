//! The table of callouts: one for each layer and discard layer, by family.

use super::layers::{Decision, Family, Fields, FlowContexts, Guid, LAYERS, Layer, Role, Shows, Way};
use super::order::{Direction, LayerIndex, OrderLayer, Tracking};

/// One callout.
#[derive(Clone, Copy, Debug)]
pub struct Callout {
    /// The documented layer. The table of layers has the order of the documented
    /// flows.
    pub layer: &'static Layer,
    /// The address family.
    pub family: Family,
    /// Whether the callout is for the layer's discard layer.
    pub discard: bool,
    /// The layer's run-time id.
    pub layer_id: u16,
    /// The layer as the order check knows it.
    pub order_layer: OrderLayer,
    /// How the order check recognizes what a classify shows there.
    pub tracking: Tracking,
    /// What the callout does.
    pub role: Role,
    /// Whether flows begin at this layer.
    pub begins_flows: bool,
    /// The direction of the packets that are counted here for their flow. Every
    /// packet of a flow passes such a callout once, with the flow's context.
    pub flow_packets: Option<Direction>,
    /// The number of values that an indication must have: all fields that a decision
    /// reads; 0 if the callout only observes.
    pub least_values: usize,
    /// The index in [`CALLOUTS`].
    pub index: CalloutIndex,
}

/// Number of callouts.
pub const COUNT: usize = 66;

/// Every callout, in the order of registration: as the TCP flows first pass the
/// layers, each layer before its discard layer, IPv4 before IPv6. Layers that these
/// flows do not pass come last.
pub static CALLOUTS: [Callout; COUNT] = every();

/// The keys of this driver's callouts and filters, to which the layer's id is added.
const CALLOUT_KEY: Guid = 0x2f6b1e84_5d0a_4c3e_9b57_68a1c40d0000;
const FILTER_KEY: Guid = 0x93c07d15_e8f2_4b6a_a1d4_07be5c920000;

impl Callout {
    /// The callout's key.
    pub const fn key(&self) -> Guid {
        CALLOUT_KEY + self.layer_id as Guid
    }

    /// The key of its filter.
    pub const fn filter_key(&self) -> Guid {
        FILTER_KEY + self.layer_id as Guid
    }

    /// The layer's management key.
    pub const fn layer_key(&self) -> Guid {
        let column = self.family as usize;
        match &self.layer.discard {
            Some(discard_layer) if self.discard => discard_layer.keys[column],
            _ => self.layer.keys[column],
        }
    }

    /// Whether the callout associates contexts with flows, and needs a flowDeleteFn.
    pub const fn has_flows(&self) -> bool {
        !self.discard
            && matches!(
                self.layer.flows,
                FlowContexts::Every | FlowContexts::Streams | FlowContexts::Datagrams
            )
    }

    /// The positions of the layer's data fields.
    pub const fn fields(&self) -> &'static Fields {
        &self.layer.fields
    }

    /// The layer's name in parts, as in `fwpsk.h`.
    pub const fn name(&self) -> [&'static str; 3] {
        let family = match self.family {
            Family::V4 => "_V4",
            Family::V6 => "_V6",
        };
        [self.layer.name, family, if self.discard { "_DISCARD" } else { "" }]
    }
}

/// The callout at a layer, if it only observes.
pub fn observing(layer_id: u16) -> Option<&'static Callout> {
    static BY_LAYER: [u8; LAYER_IDS] = by_layer(true);
    CALLOUTS.get(usize::from(*BY_LAYER.get(usize::from(layer_id))?))
}

/// The index of the callout at a layer, if it only observes and no flow begins there. Most
/// often such a callout only counts.
#[inline(always)]
pub fn counting(layer_id: u16) -> Option<CalloutIndex> {
    static BY_LAYER: [u8; LAYER_IDS] = by_layer(false);
    match BY_LAYER.get(usize::from(layer_id)) {
        Some(&place) if usize::from(place) < COUNT => Some(CalloutIndex(place)),
        _ => None,
    }
}

/// Whether the packets of flows are counted at a layer.
#[inline(always)]
pub const fn counts_flow_packets(layer_id: u16) -> bool {
    const LAYERS: [u16; 4] = flow_layers();
    layer_id == LAYERS[0] || layer_id == LAYERS[1] || layer_id == LAYERS[2] || layer_id == LAYERS[3]
}

const fn flow_layers() -> [u16; 4] {
    let (mut layers, mut count, mut index) = ([0; 4], 0, 0);
    while index < COUNT {
        if CALLOUTS[index].flow_packets.is_some() {
            layers[count] = CALLOUTS[index].layer_id;
            count += 1;
        }
        index += 1;
    }
    assert!(count == layers.len());
    layers
}

/// The callouts of both families at one layer.
#[derive(Clone, Copy)]
pub struct Pair {
    /// The callout at the IPv4 layer.
    pub v4: &'static Callout,
    /// The callout at the IPv6 layer.
    pub v6: &'static Callout,
}

impl Pair {
    /// The callouts that take a decision.
    pub const fn deciding(decision: Decision) -> Self {
        let (mut v4, mut v6, mut index) = (None, None, 0);
        while index < COUNT {
            let callout = &CALLOUTS[index];
            if let Role::Decide(taken) = callout.role
                && taken as u8 == decision as u8
            {
                match callout.family {
                    Family::V4 => v4 = Some(callout),
                    Family::V6 => v6 = Some(callout),
                }
            }
            index += 1;
        }
        let (Some(v4), Some(v6)) = (v4, v6) else { panic!("each decision is taken in both families") };
        assert!(v4.layer.ids[0] == v6.layer.ids[0], "both stand at one layer");
        Self { v4, v6 }
    }

    /// The callout at a layer.
    #[inline(always)]
    pub const fn at(self, layer_id: u16) -> Option<&'static Callout> {
        match layer_id {
            id if id == self.v4.layer_id => Some(self.v4),
            id if id == self.v6.layer_id => Some(self.v6),
            _ => None,
        }
    }

    /// The layer of both callouts.
    pub const fn layer(self) -> &'static Layer {
        self.v4.layer
    }
}

/// The index of a callout in [`CALLOUTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalloutIndex(u8);

impl CalloutIndex {
    /// The index, which is below [`COUNT`].
    pub const fn number(self) -> usize {
        self.0 as usize
    }
}

const LAYER_IDS: usize = 72;
/// Means no callout. It is not below [`COUNT`].
const NONE: u8 = u8::MAX;

const fn every() -> [Callout; COUNT] {
    let nothing = Callout {
        layer: &LAYERS[0],
        family: Family::V4,
        discard: false,
        layer_id: 0,
        order_layer: OrderLayer::of(LayerIndex::of_row(0, false)),
        tracking: Tracking::of(&LAYERS[0], LayerIndex::of_row(0, false)),
        role: Role::Observe,
        begins_flows: false,
        flow_packets: None,
        least_values: 0,
        index: CalloutIndex(0),
    };
    let mut callouts = [nothing; COUNT];
    let (mut count, mut row) = (0, 0);
    while row < LAYERS.len() {
        let layer = &LAYERS[row];
        let mut column = 0;
        while column < Family::ALL.len() {
            let family = Family::ALL[column];
            let layer_id = layer.ids[column];
            let index = LayerIndex::of_row(row, false);
            let begins_flows = matches!(layer.flows, FlowContexts::Begin);
            callouts[count] = Callout {
                layer,
                family,
                discard: false,
                layer_id,
                order_layer: OrderLayer::of(index),
                tracking: Tracking::of(layer, index),
                role: layer.role,
                begins_flows,
                flow_packets: flow_packets(layer),
                least_values: least_values(layer, layer.role),
                index: CalloutIndex(count as u8),
            };
            count += 1;
            if let Some(discard_layer) = &layer.discard {
                let (layer_id, role) = (layer_id + 1, discard_layer.role);
                let index = LayerIndex::of_row(row, true);
                callouts[count] = Callout {
                    layer,
                    family,
                    discard: true,
                    layer_id,
                    order_layer: OrderLayer::of(index),
                    tracking: Tracking::of(layer, index),
                    role,
                    begins_flows: false,
                    flow_packets: None,
                    least_values: least_values(layer, role),
                    index: CalloutIndex(count as u8),
                };
                count += 1;
            }
            column += 1;
        }
        row += 1;
    }
    assert!(count == COUNT);
    callouts
}

const fn flow_packets(layer: &Layer) -> Option<Direction> {
    match (layer.flows, layer.shows) {
        (FlowContexts::Every, Shows::Segment(Way::In)) => Some(Direction::Inbound),
        (FlowContexts::Every, Shows::Segment(Way::Out)) => Some(Direction::Outbound),
        (FlowContexts::Every, _) => panic!("the packets of a flow are counted at the transport layers"),
        _ => None,
    }
}

const fn least_values(layer: &Layer, role: Role) -> usize {
    match role {
        Role::Observe => 0,
        Role::Decide(_) => layer.fields.count(),
    }
}

/// The index of each layer's callout. With `observing` only callouts that observe
/// and where no flow begins.
/// The indices of the callouts that only observe, with or without those at which flows
/// begin.
const fn by_layer(begins: bool) -> [u8; LAYER_IDS] {
    let (mut places, mut index) = ([NONE; LAYER_IDS], 0);
    while index < COUNT {
        let Callout { layer_id, role, begins_flows, .. } = CALLOUTS[index];
        assert!(places[layer_id as usize] == NONE);
        if matches!(role, Role::Observe) && (begins || !begins_flows) {
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
    fn every_layer_that_is_observed_finds_its_callout() {
        for layer_id in 0..=u16::MAX {
            let expected = CALLOUTS.iter().find(|callout| callout.layer_id == layer_id);
            let expected = expected.filter(|callout| callout.role == Role::Observe);
            let found = observing(layer_id);
            assert_eq!(found.map(|callout| callout.index), expected.map(|callout| callout.index));
        }
    }

    #[test]
    fn exactly_four_layers_of_each_family_decide() {
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
    fn most_callouts_that_observe_only_count() {
        for layer_id in 0..=u16::MAX {
            let expected = observing(layer_id).filter(|callout| !callout.begins_flows);
            assert_eq!(counting(layer_id), expected.map(|callout| callout.index), "{layer_id}");
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

    /// The next version of the driver finds by these keys what this one has left.
    #[test]
    fn keys_stay_as_they_are() {
        for callout in &CALLOUTS {
            let layer_id = u128::from(callout.layer_id);
            assert_eq!(callout.key(), 0x2f6b1e84_5d0a_4c3e_9b57_68a1c40d0000 | layer_id);
            assert_eq!(callout.filter_key(), 0x93c07d15_e8f2_4b6a_a1d4_07be5c920000 | layer_id);
        }
    }
}
