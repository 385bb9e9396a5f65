//! Options of a simulated machine.

use std::ops::Range;
use std::time::Duration;

use super::cpu::Irql;
use super::fwp::{MdlMapping, NblLayout};
use crate::verifier::option;

/// What undoing a registration does while its callback runs. The documents are silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunningCallbacks {
    /// It waits until the callback has returned.
    #[default]
    Awaited,
    /// It succeeds, and the callback goes on.
    Ignored,
}

/// Options of a simulated machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of active processors at the start, 1 to 64.
    pub processors: u32,
    /// Number of processors that the machine can have; those above `processors` may be
    /// added. 0 means no more than `processors`.
    pub possible: u32,
    /// Whether `KeGetProcessorNumberFromIndex` gives numbers of processors that may be
    /// added. No document says that it refuses them.
    pub inactive_have_numbers: bool,
    /// Whether a thread still runs where it is when it has asked to run elsewhere, and moves
    /// when it asks again.
    pub affinity_is_late: bool,
    /// Number of processors in each group; the last group may have fewer. Windows
    /// groups up to 64 processors, or fewer if configured (bcdedit's `groupsize`).
    pub group_size: u32,
    /// The IRQL at which classifyFn and flowDeleteFn run. It may be any up to
    /// DISPATCH_LEVEL ("FWPS_CALLOUT_CLASSIFY_FN3", remarks,
    /// "FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0"); no document names a layer's own.
    pub classify_irql: Irql,
    /// The IRQL at which notifyFn runs. It may be any up to DISPATCH_LEVEL
    /// ("FWPS_CALLOUT_NOTIFY_FN3").
    pub notify_irql: Irql,
    /// The IRQL at which callbacks about BFE's state run. No page says it.
    pub bfe_irql: Irql,
    /// Whether each call of these callbacks draws its own level: PASSIVE_LEVEL, APC_LEVEL
    /// or DISPATCH_LEVEL. The three fields above do not count then.
    pub mixed_levels: bool,
    /// Whether each call from outside the machine is on a processor of its own, so that
    /// the parts of one packet's way are on different processors.
    pub mixed_processors: bool,
    /// The seed of what is drawn.
    pub seed: u64,
    /// The kernel stack that is left when a callback begins, in bytes; `None` for the
    /// whole stack. The stacks of system threads and of DPCs are not shared.
    pub stack_left: Option<usize>,
    /// Whether the stack that a call uses is measured for each call, not for some.
    pub measure_every_call: bool,
    /// The processor time that one call of a routine may use at DISPATCH_LEVEL or above
    /// without leaving it. Windows counts ticks (bugcheck 0x133).
    pub dispatch_allotment: Duration,
    /// Whether a wait for a relative time ends during sleep
    /// ("QueryUnbiasedInterruptTime"), or only time awake counts ("SetWaitableTimer").
    pub sleep_ends_waits: bool,
    /// Whether each filter that is added is followed by a notification of a type that
    /// `FWPS_CALLOUT_NOTIFY_TYPE` does not have: a newer Windows may have more.
    pub unknown_notifications: bool,
    /// Whether notifyFn is not called for filters that are deleted. "FWPS_CALLOUT_NOTIFY_FN3"
    /// promises the call; a driver that registers its callout late gets none of those for
    /// added filters, so it cannot rely on pairs.
    pub delete_notices_lost: bool,
    /// How packets are divided among MDLs.
    pub nbl_layout: NblLayout,
    /// Whether packets' MDLs are already mapped.
    pub mdl_mapping: MdlMapping,
    /// Number of NET_BUFFERs in a list at the outbound layers. The first has the
    /// packet; each other one is a byte shorter than the one before.
    pub net_buffers: usize,
    /// Number of lists that an indication of a packet shows, each with
    /// [`net_buffers`](Self::net_buffers). "WFP only indicates a single net buffer list",
    /// says "Packet Indication Format"; but received datagrams that software has coalesced
    /// come as a chain of up to 255, as a field report says.
    pub net_buffer_lists: usize,
    /// Build number that `RtlGetVersion` reports.
    pub build: u32,
    /// How long an unload waits for work items.
    pub drain_limit: Duration,
    /// What `EtwUnregister` does while the enable callback runs.
    pub enable_callbacks: RunningCallbacks,
    /// What `KeDeregisterProcessorChangeCallback` does while the callback runs.
    pub processor_callbacks: RunningCallbacks,
    /// The steps in which `KeQueryUnbiasedInterruptTime` moves: a tick of the system's
    /// clock, at most 15.625 ms ("KeQueryTimeIncrement").
    pub clock_tick: Duration,
    /// A wait without a timeout is a deadlock if it takes longer.
    pub hang_limit: Duration,
    /// The options of Driver Verifier that are on: its flags, bits of
    /// [`option`](crate::verifier::option).
    pub verifier: u32,
    /// Whether locks must be released in the reverse order of their acquisition. The
    /// page of bugcheck 0xC4 has a code for a release "in an incorrect order"; that of
    /// deadlock detection, which lists what it finds, does not have it.
    pub release_order: bool,
    /// Whether time stands still unless the lab moves it ([`Kernel::run_until`]) or
    /// code that is called from outside the driver waits. If not, time is the host's.
    ///
    /// [`Kernel::run_until`]: super::Kernel::run_until
    pub own_time: bool,
}

impl Options {
    /// Number of processors that the machine can have.
    pub fn possible(&self) -> u32 {
        self.possible.max(self.processors)
    }

    /// A processor's group, and its number in the group.
    pub(super) fn group_and_number(&self, processor: u32) -> (u16, u8) {
        ((processor / self.group_size) as u16, (processor % self.group_size) as u8)
    }

    /// A group's processors, as numbers over all groups.
    pub(super) fn group(&self, group: u16) -> Range<u32> {
        let first = u32::from(group).saturating_mul(self.group_size).min(self.possible());
        first..first.saturating_add(self.group_size).min(self.possible())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            processors: 4,
            possible: 0,
            inactive_have_numbers: false,
            affinity_is_late: false,
            group_size: 64,
            classify_irql: Irql::DISPATCH,
            notify_irql: Irql::PASSIVE,
            bfe_irql: Irql::PASSIVE,
            mixed_levels: false,
            mixed_processors: false,
            seed: 0,
            stack_left: None,
            measure_every_call: false,
            dispatch_allotment: Duration::from_secs(1),
            sleep_ends_waits: false,
            unknown_notifications: false,
            delete_notices_lost: false,
            nbl_layout: NblLayout::Contiguous,
            mdl_mapping: MdlMapping::Mapped,
            net_buffers: 1,
            net_buffer_lists: 1,
            build: 22621,
            drain_limit: Duration::from_secs(5),
            enable_callbacks: RunningCallbacks::default(),
            processor_callbacks: RunningCallbacks::default(),
            clock_tick: Duration::ZERO,
            hang_limit: Duration::from_secs(30),
            verifier: option::STANDARD,
            release_order: false,
            own_time: false,
        }
    }
}
