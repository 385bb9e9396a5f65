//! Requests that a driver makes itself and sends to another driver's device.

use machine::nt::Options;
use machine::nt::irp::{Access, File};
use machine::status::Status;
use machine::{Driver, Machine};

use super::{driver, text};

/// A machine with the driver that answers, whose reads and writes are passed as the arguments
/// say, and the driver that sends.
fn start(arguments: &[&str]) -> (Machine, Driver, File) {
    let mut machine = Machine::new("wdm", Options::default());
    machine.report_missing_at_call();
    machine.start(&driver("wdm.rs", arguments)).unwrap_or_else(|error| panic!("{error}"));
    let mut sender = machine.driver("sender");
    sender.report_missing_at_call();
    sender.start(&driver("sender.rs", &[])).unwrap_or_else(|error| panic!("{error}"));
    let file = machine.kernel().open(r"\Device\Sender", 77, Access::FULL).expect("the device opens");
    (machine, sender, file)
}

/// Lets the driver send a request: status, information, the first bytes of its buffer, and one
/// value more.
fn send(file: &File, function: u32, argument: u64) -> (Status, u64, u64, u64) {
    let mut input = [0; 32];
    input[..8].copy_from_slice(&argument.to_le_bytes());
    let request = file.control(0x22 << 16 | function << 2, &input, &[0; 32]);
    let request = request.unwrap_or_else(|stop| panic!("{}", text(&stop)));
    let reply = request.wait(None).unwrap_or_else(|stop| panic!("{}", text(&stop))).expect("it is over");
    let mut words =
        reply.output.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
    let mut next = || words.next().expect("four words");
    (Status(next() as u32 as i32), next(), next(), next())
}

fn stop(mut machine: Machine, mut sender: Driver, file: File) {
    file.close().unwrap();
    for left in [sender.stop(), machine.stop()] {
        let left = left.unwrap_or_else(|stop| panic!("{}", text(&stop)));
        assert!(left.is_empty(), "{left}");
    }
}

/// The sum of the four bytes that the driver sends.
const SUM: u64 = 256;

#[test]
fn a_request_that_a_driver_allocates_comes_back_to_its_completion_routine() {
    let (machine, sender, file) = start(&[]);
    // A routine gets the device of the stack location above, if there is one.
    for (function, has_device) in [(0x800, 0), (0x801, 0), (0x802, 1)] {
        let outcome = send(&file, function, 0);
        assert_eq!(outcome, (Status::SUCCESS, 8, SUM, has_device), "{function:#x}");
    }
    stop(machine, sender, file);
}

#[test]
fn a_control_request_is_built_for_each_method_and_sets_its_event() {
    let (machine, sender, file) = start(&[]);
    for method in 0..4 {
        assert_eq!(send(&file, 0x803, method), (Status::SUCCESS, 8, SUM, 1), "method {method}");
    }
    stop(machine, sender, file);
}

#[test]
fn reads_and_writes_are_built_as_the_device_asks() {
    for arguments in [&[][..], &["--cfg", "direct"], &["--cfg", "neither"]] {
        let (machine, sender, file) = start(arguments);
        let read = (Status::SUCCESS, 4, 0x03_02_01_00, 1);
        assert_eq!(send(&file, 0x804, 0), read, "{arguments:?}");
        let written = (Status::SUCCESS, SUM, 0xFA_03_02_01, 1);
        assert_eq!(send(&file, 0x805, 0), written, "{arguments:?}");
        assert_eq!(send(&file, 0x806, 0), (Status::SUCCESS, SUM, 0xFA_03_02_01, 0), "{arguments:?}");
        stop(machine, sender, file);
    }
}

#[test]
fn a_driver_cancels_a_request_that_it_has_sent() {
    let (machine, sender, file) = start(&[]);
    assert_eq!(send(&file, 0x807, 0), (Status::CANCELLED, 0, 0xFA_03_02_01, 1));
    stop(machine, sender, file);
}

#[test]
fn a_request_in_memory_of_the_drivers_is_used_again() {
    let (machine, sender, file) = start(&[]);
    assert_eq!(send(&file, 0x808, 0), (Status::SUCCESS, 8, 7, SUM));
    stop(machine, sender, file);
}
