//! A driver that traces with WPP, and is a provider of WMI.

use machine::Machine;
use machine::etw::{Enable, Filter, Message, ZeroKeyword};
use machine::nt::Options;
use machine::nt::irp::{Access, File};
use machine::status::Status;
use machine::wfp::Guid;

use super::{driver, text};

fn start() -> (Machine, File) {
    let mut machine = Machine::new("wpp", Options::default());
    machine.report_missing_at_call();
    machine.start(&driver("wpp.rs", &[])).unwrap_or_else(|error| panic!("{error}"));
    let file = machine.kernel().open(r"\Device\Wpp", 77, Access::FULL).expect("the device opens");
    (machine, file)
}

/// Lets the driver write a message and an event: the status of the message, the level as the
/// system and as the driver say it, the flags, and the status of the event.
fn ask(file: &File) -> [u64; 5] {
    let request =
        file.control(0x22_2000, &[0; 40], &[0; 40]).unwrap_or_else(|stop| panic!("{}", text(&stop)));
    let output = request.reply().expect("it is over").output;
    std::array::from_fn(|at| u64::from_le_bytes(output[8 * at..8 * at + 8].try_into().expect("8 bytes")))
}

fn stop(mut machine: Machine, file: File) {
    file.close().unwrap();
    let left = machine.stop().unwrap_or_else(|stop| panic!("{}", text(&stop)));
    assert!(left.is_empty(), "{left}");
}

#[test]
fn messages_reach_the_session_that_has_enabled_the_provider() {
    let (machine, file) = start();
    let refused = u64::from(Status::INVALID_HANDLE.0 as u32);
    assert_eq!(ask(&file), [refused, refused, 0, 0, 0]);
    let filter = Filter { level: 4, any: 0x7000_0001, all: 0 };
    let provider = Guid::from_bytes_le(*b"a classic source");
    let enable = Enable { provider, filter, zero: ZeroKeyword::default() };
    let trace = machine.kernel().trace(enable, None);
    assert_eq!(ask(&file), [0, 4, 4, 0x7000_0001, 0]);
    let message = Message {
        guid: Guid::from_bytes_le(*b"messages of file"),
        number: 11,
        data: [&0x0102_0304u32.to_le_bytes()[..], b"text\0"].concat(),
    };
    assert_eq!(trace.messages(), [message]);
    drop(trace);
    assert_eq!(ask(&file)[..1], [refused], "a message to a session that has ended is refused");
    stop(machine, file);
}

#[test]
fn a_provider_of_wmi_is_asked_for_its_blocks_until_its_buffer_is_large_enough() {
    let (machine, file) = start();
    assert_eq!(ask(&file)[4], 0);
    let log = machine.kernel().log_lines();
    assert!(log.iter().any(|line| line.contains("has 2 blocks (STATUS_SUCCESS)")), "{log:?}");
    assert!(
        log.iter().any(|line| line.contains("WMI: event 7373656d-6761-7365-206f-662066696c65")),
        "{log:?}"
    );
    stop(machine, file);
}
