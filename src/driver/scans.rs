//! Scan detection: the time and the key that all processors share.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::kernel::clock;
use crate::kernel::irql::Passive;
use crate::logic::mix::mix;
use crate::logic::policy::Policy;
use crate::logic::processor::Remotes;
use crate::logic::scan::{Encounter, Remote, Scan, Seed, Settings, Spans, sweep};

/// The time and the key for all processors' tables.
pub struct Scans {
    spans: Spans,
    seed: Seed,
    /// `DynamicPortStart` of the policy in force.
    dynamic_port_start: AtomicU32,
}

impl Scans {
    /// Time starts now. `address` is part of the key's seed: any object of the
    /// driver, because the network does not know its address.
    pub fn new<T: ?Sized>(policy: &Policy, address: &T) -> Self {
        let seed = Seed::new(mix(clock::seed(address), 0));
        let spans = Spans::new(clock::milliseconds(), policy.scan_window_ms);
        Self { spans, seed, dynamic_port_start: AtomicU32::new(policy.dynamic_port_start) }
    }

    /// Takes over from a new policy what packets need.
    pub fn apply(&self, policy: &Policy) {
        self.dynamic_port_start.store(policy.dynamic_port_start, Ordering::Relaxed);
    }

    /// Whether a port is a dynamic port of this machine.
    #[inline(always)]
    pub fn is_dynamic(&self, port: Option<u16>) -> bool {
        matches!(port, Some(port) if u32::from(port) >= self.dynamic_port_start.load(Ordering::Relaxed))
    }

    /// Notes an encounter on this processor.
    #[inline(always)]
    pub fn meet(&self, remotes: &Remotes, met: &Encounter) {
        remotes.meet(met, self.spans.current(), self.seed);
    }

    /// Notes on this processor that a remote has proven its address.
    pub fn prove(&self, remotes: &Remotes, remote: Remote) {
        remotes.prove(remote, self.spans.current(), self.seed);
    }

    /// Reports scanning remotes; to be called every eighth of a window.
    pub fn sweep<'a>(
        &self,
        processors: impl Fn(usize) -> Option<&'a Remotes>,
        policy: &Policy,
        _: &Passive,
        report: impl FnMut(Scan),
    ) {
        let span = self.spans.advance_to(clock::milliseconds(), policy.scan_window_ms);
        let settings = Settings { ports: policy.scan_ports, seed: self.seed };
        sweep(processors, span, &settings, report);
    }
}
