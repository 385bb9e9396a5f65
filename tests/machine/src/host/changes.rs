//! Changes of the machine while packets are under way: its network, its interfaces, and
//! what gives flows a reason to be authorized again.

use super::authorization::{Authorization, reauthorize_reason};
use super::options::Interface;
use super::{Host, Pair};

impl Host {
    /// Lets each flow be authorized again with its next packet, for these
    /// [`reauthorize_reason`]s.
    pub fn ask_again(&mut self, reasons: u32) {
        self.for_each_authorization(|authorization| authorization.ask(reasons));
    }

    /// The host's network gets another profile, one of [`PROFILES`](super::PROFILES).
    pub fn change_profile(&mut self, profile: u32) {
        if std::mem::replace(&mut self.gate.options.profile, profile) != profile {
            self.ask_again(reauthorize_reason::PROFILE_CROSSING);
        }
    }

    /// The host's packets leave by another interface from now on, and those that name none
    /// arrive there. The old one stays.
    pub fn leave_by(&mut self, interface: Interface) {
        let old = std::mem::replace(&mut self.gate.options.interface, interface);
        if old.luid != self.gate.options.interface.luid {
            self.ask_again(reauthorize_reason::NEW_NEXTHOP_INTERFACE);
        }
    }

    /// An interface goes away. Nothing arrives on it any more, whoever sends it. If the
    /// host's packets leave by it, the host has lost its addresses: its connections and
    /// flows end, and what was under way is lost.
    pub fn remove_interface(&mut self, interface: &Interface) {
        if self.is_gone(interface.luid) {
            return;
        }
        self.gone.push(interface.clone());
        self.for_each_authorization(|authorization| authorization.forget(interface.luid));
        if interface.luid != self.gate.options.interface.luid {
            return;
        }
        self.fragments = super::Fragments::default();
        self.looped.clear();
        let pairs: Vec<Pair> = self.connections.keys().copied().collect();
        pairs.into_iter().for_each(|pair| self.forget(pair));
        for flow in std::mem::take(&mut self.flows).into_values() {
            self.gate.filter.flow_end(flow.handle);
        }
        // What TCP had still to send has no way out.
        self.stack.egress(self.gate.now);
        while self.stack.outbound().is_some() {}
        self.outbound.clear();
    }

    /// An interface comes back.
    pub fn restore_interface(&mut self, interface: &Interface) {
        self.gone.retain(|gone| gone.luid != interface.luid);
    }

    /// Whether an interface has gone away.
    pub(super) fn is_gone(&self, luid: u64) -> bool {
        self.gone.iter().any(|gone| gone.luid == luid)
    }

    /// Whether the host can send to others.
    pub(super) fn is_cut_off(&self) -> bool {
        self.is_gone(self.gate.options.interface.luid)
    }

    fn for_each_authorization(&mut self, mut change: impl FnMut(&mut Authorization)) {
        self.connections.values_mut().for_each(|connection| change(&mut connection.authorization));
        self.flows.values_mut().for_each(|flow| change(&mut flow.authorization));
    }

    /// The number of connections and flows of datagrams.
    pub fn flow_count(&self) -> usize {
        self.connections.len() + self.flows.len()
    }
}
