//! When a flow is authorized again (*ALE Reauthorization*).

/// `FWP_CONDITION_REAUTHORIZE_REASON_*` (`fwptypes.h`) that the host shows.
#[allow(missing_docs, reason = "the names are those of the headers")]
pub mod reauthorize_reason {
    pub const POLICY_CHANGE: u32 = 0x1;
    pub const NEW_ARRIVAL_INTERFACE: u32 = 0x2;
    pub const CLASSIFY_COMPLETION: u32 = 0x10;
}

/// What a flow was authorized for.
#[derive(Clone, Debug)]
pub(super) struct Authorization {
    /// The generation of the authorizing layer's filters.
    generation: u64,
    /// The LUIDs of the interfaces on which its packets may arrive.
    arrivals: Vec<u64>,
}

impl Authorization {
    pub fn new(generation: u64, arrival: u64) -> Self {
        Self { generation, arrivals: vec![arrival] }
    }

    /// The reasons to authorize the flow again for a packet; 0 if there is none. A
    /// packet that is sent arrives nowhere.
    pub fn reasons(&self, generation: u64, arrival: Option<u64>) -> u32 {
        let changed = generation != self.generation;
        let elsewhere = arrival.is_some_and(|luid| !self.arrivals.contains(&luid));
        u32::from(changed) * reauthorize_reason::POLICY_CHANGE
            + u32::from(elsewhere) * reauthorize_reason::NEW_ARRIVAL_INTERFACE
    }

    pub fn renew(&mut self, generation: u64, arrival: Option<u64>) {
        self.generation = generation;
        let new = arrival.filter(|luid| !self.arrivals.contains(luid));
        self.arrivals.extend(new);
    }
}
