//! Each call of the driver that can fail does so in turn, from the load over a handle to
//! the unload.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use machine::Machine;
use machine::faults::FALLIBLE;
use machine::image::PeFile;
use machine::sweep::{Expectations, Extent, Failed, Sweep, Variant};
use machine::verifier::{Rule, rules};

use super::client::{Divert, Layer};
use super::sys;

const JOBS: usize = 2;

/// What the driver does wrong if a call fails while a handle is opened
/// (docs/DRIVERS.md): its destroy callback passes the engine handle that it has not got.
const KNOWN: [&str; 4] = ["ExUuidCreate", "WdfIoQueueCreate", "WdfWorkItemCreate", "FwpmEngineOpen0"];
const NO_ENGINE: &str = "used a handle of the filter engine that is not open: engine handle 0x0";

struct WinDivert;

impl Expectations for WinDivert {
    fn service(&self) -> &str {
        "WinDivert"
    }

    fn may_lack_imports(&self) -> bool {
        false
    }

    /// `DriverEntry` opens an engine session, which it uses until its unload.
    fn follows_bfe(&self) -> bool {
        false
    }

    /// It does not ask again what the engine has refused to delete.
    fn may_leave(&self) -> &[&'static Rule] {
        const { &[&rules::FILTER_OBJECT_LEFT, &rules::CALLOUTS_LEFT, &rules::FLOW_CONTEXT_LEFT] }
    }

    /// Opens handles of two layers, begins to read, and closes them.
    fn use_it(&self, machine: &Machine) {
        let kernel = machine.kernel();
        // The client panics if the machine stops.
        let _used = catch_unwind(AssertUnwindSafe(|| {
            for layer in [Layer::Network, Layer::Socket] {
                if let Ok(handle) = Divert::open(kernel, layer, 0, layer.flags()) {
                    let read = handle.start_receive(1500);
                    handle.close();
                    read.reply(None);
                }
                kernel.work().drain(Duration::from_secs(5));
            }
        }));
    }
}

/// Whether a run shows the known fault only.
fn is_known(failed: &Failed) -> bool {
    let named = |injection: &machine::faults::Injection| KNOWN.contains(&FALLIBLE[injection.row].name);
    // The machine has stopped, so the unload says the same.
    let of_it = |problem: &String| problem.contains(NO_ENGINE);
    failed.life.injected.iter().any(named) && failed.life.problems.iter().all(of_it)
}

#[test]
fn each_call_that_fails_is_survived() {
    let Some(sys) = sys() else { return };
    let file = Arc::new(PeFile::read(&sys).unwrap());
    let sweep = Sweep::of(&WinDivert, &file, Variant::Plain, Extent::Loops, 0, JOBS);
    println!("{sweep}");
    assert!(sweep.undisturbed.is_empty(), "{:?}", sweep.undisturbed);
    let (known, new): (Vec<_>, Vec<_>) = sweep.failed.iter().partition(|failed| is_known(failed));
    let reports: String = new.iter().take(20).map(ToString::to_string).collect();
    assert!(new.is_empty(), "{} problems:\n{reports}", new.len());
    // The fault of the driver is still there, at each of these calls.
    let found: BTreeSet<_> = known.iter().map(|failed| failed.function).collect();
    assert!(KNOWN.iter().all(|name| found.contains(name)), "{found:?}");
    for name in
        ["FwpsCalloutRegister0", "FwpmFilterAdd0", "FwpmSubLayerDeleteByKey0", "WdfObjectAllocateContext"]
    {
        assert!(sweep.tallies.get(name).is_some_and(|tally| tally.failures > 0), "{name} never failed");
    }
}
