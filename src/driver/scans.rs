//! Scan detection: the time and the key that all processors share.

use crate::kernel::clock;
use crate::kernel::irql::Passive;
use crate::logic::mix::mix;
use crate::logic::policy::Policy;
use crate::logic::processor::Remotes;
use crate::logic::scan::{Encounter, Scan, Seed, Settings, Spans, Technique, sweep};
use crate::logic::stealth::PacketView;

/// The time and the key for all processors' tables.
pub struct Scans {
    spans: Spans,
    seed: Seed,
}

impl Scans {
    /// Time starts now. `address` is part of the key's seed: any object of the
    /// driver, because the network does not know its address.
    pub fn new<T: ?Sized>(policy: &Policy, address: &T) -> Self {
        let seed = Seed::new(mix(clock::seed(address), 0));
        Self { spans: Spans::new(clock::milliseconds(), policy.scan_window_ms), seed }
    }

    /// The encounter of a packet that has met a closed port; `None` if no scan sends
    /// such a packet.
    #[inline(always)]
    pub fn encounter(packet: &impl PacketView) -> Option<Encounter> {
        let (remote, port, technique) = (packet.remote()?, packet.local_port()?, Technique::of(packet)?);
        Some(Encounter { remote, port, technique })
    }

    /// Notes an encounter on this processor.
    #[inline(always)]
    pub fn meet(&self, remotes: &Remotes, met: &Encounter) {
        remotes.meet(met, self.spans.current(), self.seed);
    }

    /// Reports scanning remotes; to be called every eighth of a window.
    pub fn sweep<'a>(
        &self,
        processors: impl Iterator<Item = &'a Remotes> + Clone,
        policy: &Policy,
        _: &Passive,
        report: impl FnMut(Scan),
    ) {
        let span = self.spans.advance_to(clock::milliseconds(), policy.scan_window_ms);
        let settings = Settings { ports: policy.scan_ports, seed: self.seed };
        sweep(processors, span, &settings, report);
    }
}
