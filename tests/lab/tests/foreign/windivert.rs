//! WinDivert64.sys, unchanged, from the package index.
//!
//! Assertions come from WinDivert's public documentation and header. If the index
//! cannot be reached, the tests say so and end.

mod client;
mod packets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lab::setup;
use machine::faults::{FALLIBLE, Mode, Plan};
use machine::image::PeFile;
use machine::nt::{Effect, Failure, Kernel, Options};
use machine::status::Status;
use machine::verifier::rules;
use machine::{Machine, StartError};

use super::kmdf::{alone, resident};
use super::text;
use client::{Divert, Layer, flag};

/// The driver, or a line that says why there is none.
fn sys() -> Option<PathBuf> {
    match setup::windivert() {
        Ok(driver) => Some(driver),
        Err(error) => {
            eprintln!("skipped: {error:#}");
            None
        }
    }
}

fn start(sys: &std::path::Path) -> Machine {
    let mut machine = Machine::new("WinDivert", Options::default());
    machine.start(sys).unwrap_or_else(|error| panic!("{error}"));
    machine
}

/// Unloads the driver. Its worker must have ended: EvtDriverUnload deletes the
/// sublayers before it waits for the worker, which deletes the filters in them.
fn stop(mut machine: Machine) {
    assert!(machine.kernel().work().drain(Duration::from_secs(5)), "the driver's worker goes on");
    let left = machine.stop().unwrap_or_else(|stop| panic!("{}", text(&stop)));
    assert!(left.is_empty(), "{left}");
    let kernel = machine.kernel();
    assert!(kernel.devices().is_empty() && kernel.verifier().findings().is_empty());
}

#[test]
fn it_starts_and_stops_and_leaves_nothing() {
    let Some(sys) = sys() else { return };
    let machine = start(&sys);
    assert!(machine.missing().is_empty());
    let devices = machine.kernel().devices();
    assert_eq!(devices[0].links, ["windivert"]);
    stop(machine);
}

#[test]
fn a_thousand_starts_and_stops_leave_memory_flat() {
    let Some(sys) = sys() else { return };
    if !alone("windivert::a_thousand_starts_and_stops_leave_memory_flat") {
        return;
    }
    let file = Arc::new(PeFile::read(&sys).unwrap());
    let mut machine = Machine::new("WinDivert", Options::default());
    let mut after_warm_up = 0;
    for round in 0..1000 {
        machine.start_file(Arc::clone(&file)).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let left = machine.stop().unwrap_or_else(|stop| panic!("round {round}: {}", text(&stop)));
        assert!(left.is_empty(), "round {round}: {left}");
        if round == 500 {
            after_warm_up = resident();
        }
    }
    let now = resident();
    assert!(now < after_warm_up + (8 << 20), "{after_warm_up} bytes after 500 rounds, {now} after 1000");
}

/// What the driver does wrong if a call fails while a handle is opened
/// (docs/DRIVERS.md): its destroy callback passes the engine handle that it has not got.
const KNOWN: [&str; 4] = ["ExUuidCreate", "WdfIoQueueCreate", "WdfWorkItemCreate", "FwpmEngineOpen0"];
const NO_ENGINE: &str = "used a handle of the filter engine that is not open: engine handle 0x0";

/// Lets each call that can fail do so in turn, from the load over a handle to the
/// unload. The driver may refuse to start, and its handles may refuse to open; nothing
/// may stop the machine.
#[test]
fn each_call_that_fails_is_survived() {
    let Some(sys) = sys() else { return };
    let file = Arc::new(PeFile::read(&sys).unwrap());
    let mut complaints = Vec::new();
    for nth in 1.. {
        let (injected, complaint) = live(&file, nth);
        let Some(name) = injected else { break };
        let known = |text: &String| KNOWN.contains(&name) && text.contains(NO_ENGINE);
        let complaint = complaint.filter(|text| !known(text));
        complaints.extend(complaint.map(|text| format!("call {nth}, {name}: {text}")));
    }
    assert!(complaints.is_empty(), "{} problems:\n{}", complaints.len(), complaints.join("\n"));
}

/// One life in which the call with this number fails. Returns the call, if there was
/// one, and what stopped the machine.
fn live(file: &Arc<PeFile>, nth: usize) -> (Option<&'static str>, Option<String>) {
    let mut machine = Machine::new("WinDivert", Options::default());
    // A driver cannot free what the engine refuses to delete.
    for rule in [&rules::FILTER_OBJECT_LEFT, &rules::CALLOUTS_LEFT, &rules::FLOW_CONTEXT_LEFT] {
        machine.kernel().verifier().tolerate(rule);
    }
    let failure = Failure { status: Status::INSUFFICIENT_RESOURCES, effect: Effect::Refused };
    machine.faults().arm(Some(Plan { nth, mode: Mode::Once, failure, seed: 0 }));
    let complaint = match machine.start_file(Arc::clone(file)) {
        Err(StartError::Refused(_)) => None,
        Err(error) => Some(error.to_string()),
        Ok(()) => {
            // The client panics if the machine stops.
            let _used = catch_unwind(AssertUnwindSafe(|| use_it(machine.kernel())));
            match machine.kernel().stopped() {
                Some(stop) => Some(text(stop)),
                None => machine.stop().err().map(|stop| text(&stop)),
            }
        }
    };
    let injected = machine.faults().injected().first().map(|injection| FALLIBLE[injection.row].name);
    (injected, complaint)
}

/// Opens a handle, begins to read, and closes the handle.
fn use_it(kernel: &Arc<Kernel>) {
    if let Ok(handle) = Divert::open(kernel, Layer::Network, 0, 0) {
        let read = handle.start_receive(1500);
        handle.close();
        read.reply(None);
    }
    kernel.work().drain(Duration::from_secs(5));
}

#[test]
fn a_handle_of_each_layer_opens_tells_its_version_and_closes() {
    let Some(sys) = sys() else { return };
    let machine = start(&sys);
    for layer in Layer::ALL {
        let flags = layer.flags();
        let handle = Divert::open(machine.kernel(), layer, 0, flags)
            .unwrap_or_else(|error| panic!("{layer:?}: {error}"));
        assert_eq!(handle.parameter(client::VERSION_MAJOR), Ok(2), "{layer:?}");
        assert_eq!(handle.parameter(client::VERSION_MINOR), Ok(2), "{layer:?}");
        handle.close();
    }
    stop(machine);
}

#[test]
fn limits_of_the_queue_have_their_defaults_and_bounds() {
    let Some(sys) = sys() else { return };
    let machine = start(&sys);
    let handle = Divert::open(machine.kernel(), Layer::Network, 0, 0).unwrap();
    // "WINDIVERT_PARAM_QUEUE_LENGTH: default 4096, minimum 32, maximum 16384",
    // "QUEUE_TIME: 2000, 100, 16000", "QUEUE_SIZE: 4194304, 65535, 33554432".
    for (parameter, default, least, most) in [
        (client::QUEUE_LENGTH, 4096, 32, 16_384),
        (client::QUEUE_TIME, 2000, 100, 16_000),
        (client::QUEUE_SIZE, 4_194_304, 65_535, 33_554_432),
    ] {
        assert_eq!(handle.parameter(parameter), Ok(default), "parameter {parameter}");
        for value in [least, most] {
            assert_eq!(handle.set_parameter(parameter, value), Ok(()), "parameter {parameter}, {value}");
            assert_eq!(handle.parameter(parameter), Ok(value));
        }
        for value in [least - 1, most + 1] {
            assert!(handle.set_parameter(parameter, value).is_err(), "parameter {parameter}, {value}");
        }
    }
    handle.close();
    stop(machine);
}

#[test]
fn a_handle_with_pending_reads_closes_and_they_are_cancelled() {
    let Some(sys) = sys() else { return };
    let machine = start(&sys);
    let handle = Divert::open(machine.kernel(), Layer::Network, 0, 0).unwrap();
    let reads: Vec<_> = (0..3).map(|_| handle.start_receive(1500)).collect();
    for read in &reads {
        assert!(read.reply(Some(Duration::from_millis(2))).is_none());
    }
    handle.close();
    for read in reads {
        assert!(!read.reply(None).unwrap().status.is_success());
    }
    stop(machine);
}

#[test]
fn a_shutdown_ends_reads_with_no_data() {
    let Some(sys) = sys() else { return };
    let machine = start(&sys);
    let handle = Divert::open(machine.kernel(), Layer::Network, 0, 0).unwrap();
    let read = handle.start_receive(1500);
    assert_eq!(handle.shutdown(client::SHUTDOWN_RECV), Ok(()));
    // ERROR_NO_DATA is what STATUS_PIPE_EMPTY becomes for a program.
    assert_eq!(read.reply(None).unwrap().status, Status(0xC000_00D9_u32 as i32));
    let read = handle.start_receive(1500);
    assert_eq!(read.reply(None).unwrap().status, Status(0xC000_00D9_u32 as i32));
    handle.close();
    stop(machine);
}

#[test]
fn a_reflect_handle_sees_other_handles_open_and_close() {
    let Some(sys) = sys() else { return };
    let machine = start(&sys);
    let reflect = Divert::open(machine.kernel(), Layer::Reflect, 0, Layer::Reflect.flags()).unwrap();
    let sniffer = Divert::open(machine.kernel(), Layer::Network, 7, flag::SNIFF).unwrap();
    sniffer.close();
    let mut events = Vec::new();
    for _ in 0..2 {
        let read = reflect.start_receive(4096);
        let reply = read.reply(None).unwrap();
        assert_eq!(reply.status, Status::SUCCESS);
        let address = read.address();
        events.push((address.event(), address.process(), address.priority()));
    }
    // REFLECT_OPEN and REFLECT_CLOSE, of this process, with the priority it asked for.
    let process = client::PROCESS;
    assert_eq!(events, [(8, process, 7), (9, process, 7)]);
    reflect.close();
    stop(machine);
}

#[test]
fn a_wrong_request_is_refused() {
    let Some(sys) = sys() else { return };
    let machine = start(&sys);
    // SNIFF and DROP exclude each other; a priority ends at 30000.
    assert!(Divert::open(machine.kernel(), Layer::Network, 0, flag::SNIFF | flag::DROP).is_err());
    assert!(Divert::open(machine.kernel(), Layer::Network, 30_001, 0).is_err());
    // Nothing can be read before the handle is initialized.
    let raw = Divert::raw(machine.kernel());
    assert!(!raw.start_receive(1500).reply(None).unwrap().status.is_success());
    raw.close();
    stop(machine);
}
