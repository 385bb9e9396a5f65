//! Who scans: what every processor saw, put together from time to time.

use crate::kernel::clock;
use crate::kernel::irql::{MaxDispatch, Passive};
use crate::kernel::per_cpu::PerCpu;
use crate::kernel::status::Result;
use crate::logic::mix::mix;
use crate::logic::policy::Policy;
use crate::logic::scan::{self, ROWS, Scan, Settings, Spans, Technique, WAYS, sweep};
use crate::logic::stealth::Shown;

/// Remotes that one processor remembers, and cells for those that it cannot:
/// 32 KB each. What that means for floods is in [`crate::logic::scan`].
const SETS: usize = 512 / WAYS;
const CELLS: usize = ROWS * 1024;

/// Remotes that have met closed ports.
pub struct Scans {
    processors: PerCpu<Table>,
    spans: Spans,
    seed: u64,
}

type Table = scan::Table<SETS, CELLS>;

impl Scans {
    /// Nobody yet.
    pub fn new(policy: &Policy, irql: &Passive) -> Result<Self> {
        let processors = PerCpu::zeroed(irql)?;
        let seed = mix(clock::seed(&processors), 0);
        Ok(Self { processors, spans: Spans::new(clock::milliseconds(), policy.scan_window_ms), seed })
    }

    /// Takes in that a packet has met a closed port.
    #[inline(always)]
    pub fn meet(&self, packet: &impl Shown, irql: &MaxDispatch) {
        let technique = Technique::of(packet);
        let met = (packet.remote(), packet.local_port(), technique, self.processors.current(irql));
        if let (Some(remote), Some(port), Some(technique), Some(table)) = met {
            table.meet(remote, port, technique, self.spans.current(), self.seed);
        }
    }

    /// Reports who scans; to be called every eighth of a window.
    pub fn sweep(&self, policy: &Policy, _: &Passive, report: impl FnMut(Scan)) {
        let span = self.spans.turn(clock::milliseconds(), policy.scan_window_ms);
        let settings = Settings { ports: policy.scan_ports, seed: self.seed };
        sweep(self.processors.all().iter(), span, &settings, report);
    }
}
