//! The thread: it does the steps that `Parameters\Step` asks for.
#![deny(unsafe_code)]

use core::sync::atomic::Ordering;

use crate::driver::{self, Objects};
use crate::kernel::device::Device;
use crate::kernel::entry::DriverObject;
use crate::kernel::irql::Passive;
use crate::kernel::mutex::Mutex;
use crate::kernel::pool::PoolArc;
use crate::kernel::registry::{Key, Keys, Room};
use crate::kernel::status::{Result, Status};
use crate::kernel::thread::{Signal, ThreadBody};
use crate::kernel::work_item::wait_until;
use crate::logic::layers::{Family, Guid};
use crate::logic::waiting::Awaited;
use crate::measure::{FLOW_LAYER, State};
use crate::report::Report;
use crate::wrappers::callout::{self, Callouts, Place};
use crate::wrappers::filters::Action;
use crate::wrappers::processors;

/// The steps, in their order. Others are refused by not being confirmed.
mod step {
    /// The driver has started, and has asked what needs no packet.
    pub const STARTED: u32 = 1;
    /// Filter and callout of a flow context go.
    pub const CONTEXTS: u32 = 2;
    /// The next packet to the held port is held, and its callout unregistered.
    pub const HOLD: u32 = 3;
    /// That is over.
    pub const HELD: u32 = 4;
    /// A filter permits at the discard layer.
    pub const PERMIT: u32 = 5;
    /// It permits and clears the right.
    pub const PERMIT_FINAL: u32 = 6;
    /// It blocks.
    pub const BLOCK: u32 = 7;
    /// Windows' callout SILENT_DROP decides.
    pub const SILENT_DROP: u32 = 8;
    /// The filter is deleted.
    pub const NO_FILTER: u32 = 9;
    /// The report is written.
    pub const REPORT: u32 = 10;
}

/// FWPM_CALLOUT_WFP_TRANSPORT_LAYER_V4_SILENT_DROP and _V6 (fwpmk.h).
const SILENT_DROP: [Guid; 2] =
    [0xeda08606_2494_4d78_89bc_67837c03b969, 0x8693cc74_a075_4156_b476_9286eece814e];

/// Milliseconds between two looks at the registry.
const LOOK: u32 = 10;

/// The longest wait for the packet that is held, in milliseconds.
const HOLD_WAIT: u32 = 10_000;

/// The highest flag of callouts that is tried. fwpsk.h has lower ones.
const HIGHEST_FLAG: u32 = 0x800;

/// What the thread works with.
pub struct Steps {
    /// What is measured.
    pub state: PoolArc<State>,
    /// The callouts.
    pub callouts: PoolArc<Callouts>,
    /// The objects in the engine.
    pub objects: PoolArc<Objects>,
    /// The device, for further callouts.
    pub device: Device,
    /// The driver, whose Parameters are read.
    pub driver: DriverObject,
    /// Where the answers go.
    pub report: Mutex<Report>,
}

impl ThreadBody for Steps {
    fn run(&mut self, signal: &Signal, irql: &Passive) {
        let mut report = self.report.lock(irql);
        self.ask(&mut report, irql);
        let mut done = step::STARTED;
        report.number("Step", done, irql);
        while !signal.is_ending() {
            let wanted = self.wanted(irql).unwrap_or(0);
            if wanted > done && wanted <= step::REPORT {
                done += 1;
                self.perform(done, &mut report, signal, irql);
                report.number("Step", done, irql);
            } else {
                let _woken = signal.wait(LOOK, irql);
            }
        }
    }
}

impl Steps {
    /// The value `Step`.
    fn wanted(&self, irql: &Passive) -> Option<u32> {
        let keys = Keys { group_policy: None, parameters: Key::parameters(&self.driver, irql).ok()? };
        let mut room = Room::<[u8; 4]>::empty();
        let (_, data) = keys.value("Step", &mut room, irql).ok()??;
        <[u8; 4]>::try_from(data.bytes).ok().map(u32::from_le_bytes)
    }

    /// What needs no packet.
    fn ask(&self, report: &mut Report, irql: &Passive) {
        let (active, maximum) = processors::counts();
        report.begin().name("active").decimal(active).name("maximum").decimal(maximum);
        report.end(&["processors"], irql);
        for bit in 0..=HIGHEST_FLAG.ilog2() {
            let flag = 1 << bit;
            let key = driver::key(Place::Flags, bit as u16);
            let (status, registered) = callout::register(&self.device, key, flag, Place::Flags, irql);
            if let Some(callout) = &registered {
                wait_until(Awaited::CalloutUnregister, || {
                    let _status = callout.unregister(irql);
                    callout.is_gone()
                });
            }
            report.begin().name("register").hex(status as u32);
            let mut name = [0u8; 7];
            report.end(&["flag/", flag_name(bit, &mut name)], irql);
        }
        for (name, which) in [("weight/first", 0), ("weight/second", 1)] {
            let asked = self.objects.weigh(which, irql);
            let given = self.state.weight.load(Ordering::Acquire);
            report.begin();
            match asked {
                Ok(asked) => report
                    .name("asked")
                    .hex(asked.into())
                    .name("given")
                    .signed(i32::try_from(given).unwrap_or(0) - i32::from(asked)),
                Err(status) => report.status("refused", Some(status.code() as u32)),
            };
            report.end(&[name], irql);
        }
    }

    fn perform(&self, number: u32, report: &mut Report, signal: &Signal, irql: &Passive) {
        let filter = |action: fn(Family) -> Action| -> Result {
            let set = |family| self.objects.set_filter(family, Some(action(family)), irql);
            Family::ALL.into_iter().try_for_each(set)
        };
        let outcome = match number {
            step::CONTEXTS => {
                self.contexts(report, irql);
                Ok(())
            }
            step::HOLD => {
                self.state.held.armed.store(true, Ordering::Release);
                report.number("Step", number, irql);
                self.hold(report, signal, irql);
                Ok(())
            }
            step::PERMIT => filter(|_| Action::Permit),
            step::PERMIT_FINAL => filter(|_| Action::PermitFinal),
            step::BLOCK => filter(|_| Action::Block),
            step::SILENT_DROP => filter(|family| {
                let [v4, v6] = SILENT_DROP;
                Action::Terminate(match family {
                    Family::V4 => v4,
                    Family::V6 => v6,
                })
            }),
            step::NO_FILTER => {
                Family::ALL.into_iter().try_for_each(|family| self.objects.set_filter(family, None, irql))
            }
            step::REPORT => {
                report.probes(&self.state, irql);
                Ok(())
            }
            // Confirms that HOLD is over.
            step::HELD => Ok(()),
            _ => Err(Status::INSUFFICIENT_RESOURCES),
        };
        if let Err(status) = outcome {
            report.begin().status("refused", Some(status.code() as u32));
            let mut name = [0u8; 7];
            report.end(&["step/", flag_name(number, &mut name)], irql);
        }
    }

    /// Deletes the filter of a callout that has a context, and unregisters another.
    fn contexts(&self, report: &mut Report, irql: &Passive) {
        let state = &self.state;
        let flow = state.flow.load(Ordering::Acquire);
        let results = &state.flow_results;
        report.begin().status("status", results.associated.get()).status("again", results.again.get());
        report.end(&["context/associate"], irql);
        report.begin().status("status", results.removed.get());
        report.name("deleted-inside").decimal(results.deleted_inside.get().unwrap_or(0));
        report.name("deleted").decimal(state.deletions(Place::Inside));
        report.end(&["context/remove-inside"], irql);

        let deleted = self.objects.delete_observer(Place::FilterDeleted, irql);
        pause(irql);
        report.begin().name("filter").bytes(if deleted.is_ok() { b"deleted" } else { b"kept" });
        report.name("deleted").decimal(state.deletions(Place::FilterDeleted));
        let removed = callout::remove(flow, FLOW_LAYER, state.id(Place::FilterDeleted));
        report
            .status("remove", Some(removed))
            .name("deleted-after")
            .decimal(state.deletions(Place::FilterDeleted));
        report.end(&["context/filter-deleted"], irql);

        let busy = state.id(Place::Busy);
        let Some(callout) = self.callouts.0.iter().find(|callout| callout.id() == busy) else { return };
        let first = callout.unregister(irql);
        let removed = if callout.is_gone() { None } else { Some(callout::remove(flow, FLOW_LAYER, busy)) };
        pause(irql);
        let again = if callout.is_gone() { None } else { Some(callout.unregister(irql) as u32) };
        report.begin().status("status", Some(first as u32)).status("remove", removed);
        report.name("deleted").decimal(state.deletions(Place::Busy)).status("again", again);
        report.end(&["context/unregister"], irql);
    }

    /// Unregisters a callout while its classify waits.
    fn hold(&self, report: &mut Report, signal: &Signal, irql: &Passive) {
        let held = &self.state.held;
        let mut left = HOLD_WAIT;
        while !held.entered.load(Ordering::Acquire) && left > 0 && !signal.is_ending() {
            let _woken = signal.wait(1, irql);
            left = left.saturating_sub(1);
        }
        report.begin();
        let id = self.state.id(Place::Held);
        let callout = self.callouts.0.iter().find(|callout| callout.id() == id);
        match callout.filter(|_| held.inside.load(Ordering::Acquire)) {
            Some(callout) => {
                let status = callout.unregister(irql);
                let inside = held.inside.load(Ordering::Acquire);
                held.released.store(true, Ordering::Release);
                report.status("status", Some(status as u32));
                report.name("classify").bytes(if inside { b"running" } else { b"returned" });
            }
            None => {
                report.name("status").bytes(b"none");
            }
        }
        held.armed.store(false, Ordering::Release);
        report.end(&["unregister-in-classify"], irql);
    }
}

/// Gives other threads time: callbacks that are not awaited.
fn pause(_: &Passive) {
    let mut looks = 0;
    wait_until(Awaited::Callbacks, || {
        looks += 1;
        looks > 20
    });
}

/// `0x` and the number that has this bit set, three digits.
fn flag_name(bit: u32, name: &mut [u8; 7]) -> &str {
    let number = 1u32.checked_shl(bit).unwrap_or(0);
    *name = *b"0x00000";
    for (place, shift) in name.iter_mut().skip(2).zip([16, 12, 8, 4, 0]) {
        let digit = (number >> shift & 0xF) as u8;
        *place = if digit < 10 { b'0' + digit } else { b'A' + digit - 10 };
    }
    core::str::from_utf8(name).unwrap_or("?")
}
