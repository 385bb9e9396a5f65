//! WinDivert64.sys, unchanged, from the package index.
//!
//! Assertions come from WinDivert's public documentation and header. If the index
//! cannot be reached, the tests say so and end.

pub mod client;
mod dropped;
mod events;
mod limits;
mod packets;
mod priorities;
mod storm;
mod sweep;
mod traffic;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lab::setup;
use machine::Machine;
use machine::image::PeFile;
use machine::nt::Options;

use super::kmdf::{alone, resident};
use super::text;
use client::{Divert, Layer, flag};

/// The driver, or a line that says why there is none.
pub fn sys() -> Option<PathBuf> {
    match setup::windivert() {
        Ok(driver) => Some(driver),
        Err(error) => {
            eprintln!("skipped: {error:#}");
            None
        }
    }
}

fn start(sys: &std::path::Path) -> Machine {
    start_with(sys, Options::default())
}

fn start_with(sys: &std::path::Path, options: Options) -> Machine {
    let mut machine = Machine::new("WinDivert", options);
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

#[test]
fn a_handle_of_each_layer_opens_tells_its_version_and_closes() {
    let Some(sys) = sys() else { return };
    let machine = start(&sys);
    for layer in Layer::ALL {
        let flags = layer.flags();
        let handle = Divert::open(machine.kernel(), layer, 0, flags)
            .unwrap_or_else(|error| panic!("{layer:?}: {error}"));
        assert_eq!(handle.parameter(client::parameter::VERSION_MAJOR), Ok(2), "{layer:?}");
        assert_eq!(handle.parameter(client::parameter::VERSION_MINOR), Ok(2), "{layer:?}");
        handle.close();
    }
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
