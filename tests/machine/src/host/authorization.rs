//! When a flow is authorized again (*ALE Reauthorization*).

/// `FWP_CONDITION_REAUTHORIZE_REASON_*` (`fwptypes.h`).
#[allow(missing_docs, reason = "the names are those of the headers")]
pub mod reauthorize_reason {
    pub const POLICY_CHANGE: u32 = 0x1;
    pub const NEW_ARRIVAL_INTERFACE: u32 = 0x2;
    pub const NEW_NEXTHOP_INTERFACE: u32 = 0x4;
    pub const PROFILE_CROSSING: u32 = 0x8;
    pub const CLASSIFY_COMPLETION: u32 = 0x10;
    pub const IPSEC_PROPERTIES_CHANGED: u32 = 0x20;
    pub const MID_STREAM_INSPECTION: u32 = 0x40;
    pub const SOCKET_PROPERTY_CHANGED: u32 = 0x80;
    pub const NEW_INBOUND_MCAST_BCAST_PACKET: u32 = 0x100;
    pub const EDP_POLICY_CHANGED: u32 = 0x200;
    pub const PROXY_HANDLE_CHANGED: u32 = 0x4000;
    pub const CHECK_OFFLOAD: u32 = 0x1_0000;
}

/// All reasons.
pub const REAUTHORIZE_REASONS: [u32; 12] = [
    reauthorize_reason::POLICY_CHANGE,
    reauthorize_reason::NEW_ARRIVAL_INTERFACE,
    reauthorize_reason::NEW_NEXTHOP_INTERFACE,
    reauthorize_reason::PROFILE_CROSSING,
    reauthorize_reason::CLASSIFY_COMPLETION,
    reauthorize_reason::IPSEC_PROPERTIES_CHANGED,
    reauthorize_reason::MID_STREAM_INSPECTION,
    reauthorize_reason::SOCKET_PROPERTY_CHANGED,
    reauthorize_reason::NEW_INBOUND_MCAST_BCAST_PACKET,
    reauthorize_reason::EDP_POLICY_CHANGED,
    reauthorize_reason::PROXY_HANDLE_CHANGED,
    reauthorize_reason::CHECK_OFFLOAD,
];

/// What a flow was authorized for.
#[derive(Clone, Debug)]
pub(super) struct Authorization {
    /// The generation of the authorizing layer's filters.
    generation: u64,
    /// The LUIDs of the interfaces on which its packets may arrive.
    arrivals: Vec<u64>,
    /// The profile at the first authorization.
    pub profile: u32,
    /// Reasons that came up since the last authorization.
    asked: u32,
    /// If each packet is a reason, the number of the next one.
    always: Option<usize>,
}

impl Authorization {
    /// `always`: each packet is a reason to authorize again.
    pub fn new(generation: u64, arrival: u64, profile: u32, always: bool) -> Self {
        Self { generation, arrivals: vec![arrival], profile, asked: 0, always: always.then_some(0) }
    }

    /// Adds reasons to authorize the flow again with its next packet.
    pub fn ask(&mut self, reasons: u32) {
        self.asked |= reasons;
    }

    /// Packets may not arrive any more on an interface that has gone away.
    pub fn forget(&mut self, luid: u64) {
        self.arrivals.retain(|known| *known != luid);
    }

    /// The reasons to authorize the flow again for a packet; 0 if there is none. A
    /// packet that is sent arrives nowhere.
    pub fn reasons(&self, generation: u64, arrival: Option<u64>) -> u32 {
        let changed = generation != self.generation;
        let elsewhere = arrival.is_some_and(|luid| !self.arrivals.contains(&luid));
        let always = self.always.map_or(0, |number| REAUTHORIZE_REASONS[number % REAUTHORIZE_REASONS.len()]);
        self.asked
            | always
            | (u32::from(changed) * reauthorize_reason::POLICY_CHANGE)
            | (u32::from(elsewhere) * reauthorize_reason::NEW_ARRIVAL_INTERFACE)
    }

    pub fn renew(&mut self, generation: u64, arrival: Option<u64>) {
        self.generation = generation;
        self.asked = 0;
        self.always = self.always.map(|number| number + 1);
        let new = arrival.filter(|luid| !self.arrivals.contains(luid));
        self.arrivals.extend(new);
    }
}
