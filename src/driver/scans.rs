//! Who scans: what every processor saw, put together from time to time.

use core::net::IpAddr;

use crate::kernel::clock;
use crate::kernel::irql::{MaxDispatch, Passive};
use crate::kernel::per_cpu::PerCpu;
use crate::kernel::pool::PoolVec;
use crate::kernel::status::Result;
use crate::logic::policy::Policy;
use crate::logic::scan::{Cell, Queue, ROWS, Scan, Settings, Slot, Table, Technique, sweep};
use crate::logic::stealth::{Packet, TCP, UDP};

/// Remotes that one processor remembers, and cells for those that it cannot:
/// 16 KB and 32 KB. What that means for floods is in [`crate::logic::scan`].
const SLOTS: usize = 256;
const CELLS: usize = ROWS * 1024;

/// Remotes that have met closed ports.
pub struct Scans {
    processors: PerCpu<Processor>,
    seed: u64,
}

struct Processor {
    slots: PoolVec<Slot>,
    cells: PoolVec<Cell>,
}

impl Scans {
    /// Nobody yet.
    pub fn new(irql: &Passive) -> Result<Self> {
        let processors = PerCpu::try_new(
            |processors| {
                let (slots, cells) = (PoolVec::filled(SLOTS)?, PoolVec::filled(CELLS)?);
                processors.push(Processor { slots, cells })
            },
            irql,
        )?;
        let seed = clock::seed(&processors);
        Ok(Self { processors, seed })
    }

    /// Takes in that a packet has met a closed port.
    #[inline(always)]
    pub fn meet(&self, packet: &Packet, policy: &Policy<'_>, irql: &MaxDispatch) {
        let technique = match (packet.protocol, packet.tcp_flags) {
            (Some(TCP), Some(flags)) => Technique::of_segment(flags),
            (Some(TCP), None) => Some(Technique::Other),
            (Some(UDP), _) => Some(Technique::Udp),
            _ => None,
        };
        let met: Option<(IpAddr, u16)> = packet.remote_address.zip(packet.local_port);
        let processor = self.processors.current(irql);
        if let (Some((remote, port)), Some(technique), Some(processor)) = (met, technique, processor) {
            let (now, settings) = (clock::milliseconds(), self.settings(policy));
            processor.table().meet(remote.into(), port, technique, now, &settings);
        }
    }

    /// Reports who scans; to be called every eighth of a window.
    pub fn sweep(&self, policy: &Policy<'_>, _: &Passive, report: impl FnMut(Scan)) {
        let tables = self.processors.all().iter().map(Processor::table);
        sweep(tables, clock::milliseconds(), &self.settings(policy), report);
    }

    fn settings(&self, policy: &Policy<'_>) -> Settings {
        let (ports, window_ms) = (policy.scan_ports, policy.scan_window_ms);
        // With another window times are counted otherwise: by another key
        // nobody remembered so far is known any more.
        Settings { ports, window_ms, seed: self.seed ^ u64::from(window_ms) << 32 }
    }
}

impl Processor {
    fn table(&self) -> Table<'_> {
        Table { slots: &self.slots, queue: Queue { cells: &self.cells } }
    }
}
