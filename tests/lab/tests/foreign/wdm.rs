//! A WDM driver: devices, dispatch routines, buffers, cancellation.

use machine::Machine;
use machine::nt::error_log::ErrorLogEntry;
use machine::nt::irp::{Access, File, OpenError};
use machine::nt::{Options, Stop};
use machine::status::Status;

use super::{driver, text};

const PROCESS: u32 = 4321;

/// The code of a function, with the method in its lowest bits.
fn code(function: u32, method: u32) -> u32 {
    0x22 << 16 | function << 2 | method
}

fn start(arguments: &[&str]) -> Machine {
    let mut machine = Machine::new("wdm", Options::default());
    machine.report_missing_at_call();
    machine.start(&driver("wdm.rs", arguments)).expect("the driver starts");
    machine
}

fn open(machine: &Machine) -> File {
    machine.kernel().open(r"\\.\wdm-1", PROCESS, Access::FULL).expect("the device opens")
}

fn stop(mut machine: Machine, file: File) {
    file.close().unwrap();
    let left = machine.stop().unwrap_or_else(|stop| panic!("{}", text(&stop)));
    assert!(left.is_empty(), "{left}");
}

#[test]
fn all_four_methods_reach_the_driver() {
    let machine = start(&[]);
    let file = open(&machine);
    for method in 0..4 {
        let request = file.control(code(0x800, method), &[1, 2, 3, 250], &[9; 8]).unwrap();
        let reply = request.reply().unwrap();
        assert_eq!((reply.status, reply.information), (Status::SUCCESS, 8), "method {method}");
        assert_eq!(reply.output, 256u64.to_le_bytes(), "method {method}");
    }
    let unknown = file.control(code(0x8FF, 0), &[], &[]).unwrap().reply().unwrap();
    assert_eq!(unknown.status, Status(0xC000_0010_u32 as i32));
    stop(machine, file);
}

#[test]
fn reads_and_writes_pass_their_buffer_as_the_device_says() {
    for arguments in [&[][..], &["--cfg", "direct"], &["--cfg", "neither"]] {
        let machine = start(arguments);
        let file = open(&machine);
        let reply = file.read(5).unwrap().reply().unwrap();
        assert_eq!((reply.information, reply.output), (5, vec![0, 1, 2, 3, 4]), "{arguments:?}");
        let reply = file.write(&[100, 101, 102]).unwrap().reply().unwrap();
        assert_eq!((reply.status, reply.information), (Status::SUCCESS, 303), "{arguments:?}");
        stop(machine, file);
    }
}

#[test]
fn an_exclusive_device_opens_once_at_a_time() {
    let machine = start(&[]);
    let file = open(&machine);
    let again = machine.kernel().open(r"\Device\Wdm", PROCESS, Access::FULL).unwrap_err();
    assert!(matches!(again, OpenError::Refused(Status::ACCESS_DENIED)), "{again}");
    let other = machine.kernel().open(r"\\.\other", PROCESS, Access::FULL).unwrap_err();
    assert!(matches!(other, OpenError::Refused(Status::OBJECT_NAME_NOT_FOUND)), "{other}");
    file.close().unwrap();
    let file = open(&machine);
    stop(machine, file);
}

#[test]
fn a_pending_request_is_cancelled_by_its_program_or_when_its_file_is_closed() {
    let machine = start(&[]);
    let file = open(&machine);
    let request = file.control(code(0x801, 0), &[], &[]).unwrap();
    assert_eq!(request.reply(), None);
    request.cancel().unwrap();
    assert_eq!(request.reply().unwrap().status, Status::CANCELLED);
    let request = file.control(code(0x801, 0), &[], &[]).unwrap();
    stop(machine, file);
    assert_eq!(request.reply().unwrap().status, Status::CANCELLED);
}

#[test]
fn a_driver_knows_its_caller_and_queued_locks_raise_the_level() {
    let machine = start(&[]);
    let file = open(&machine);
    let reply = file.control(code(0x802, 0), &[], &[0; 32]).unwrap().reply().unwrap();
    let words: Vec<u64> =
        reply.output.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    assert_eq!(words, [PROCESS.into(), PROCESS.into(), 2, 0]);
    stop(machine, file);
}

#[test]
fn cr8_gs_and_the_shared_page_are_played() {
    let machine = start(&[]);
    let file = open(&machine);
    let reply = file.control(code(0x805, 0), &[], &[0; 64]).unwrap().reply().unwrap();
    let words: Vec<u64> =
        reply.output.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    assert_eq!(words[..5], [0, 2, 0, 10, 1]);
    let now = machine.kernel().clock().interrupt_time();
    assert!(words[5] > 0 && words[5] <= now, "{} of {now}", words[5]);
    assert_eq!(words[6], 0);
    assert_ne!(words[7], 0);
    stop(machine, file);
}

#[test]
fn the_error_log_keeps_codes_and_strings() {
    let machine = start(&[]);
    let file = open(&machine);
    file.control(code(0x803, 0), &[], &[]).unwrap();
    let log = machine.kernel().error_log();
    let [ErrorLogEntry { record: 1, source, code: 0x4004_0001, category: 0, status: 0, strings, data }] =
        &log[..]
    else {
        panic!("{log:?}");
    };
    assert_eq!(
        (source.as_str(), &strings[..], &data[..]),
        (machine.service(), &["a".into(), "bc".into()][..], &[][..])
    );
    stop(machine, file);
}

#[test]
fn strings_are_cut_to_their_room_and_guids_differ() {
    let machine = start(&[]);
    let file = open(&machine);
    let ask = || file.control(code(0x804, 0), &[], &[0; 32]).unwrap().reply().unwrap().output;
    let (one, other) = (ask(), ask());
    let text: Vec<u8> = "BEE".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!((&one[..6], one[8]), (&text[..], 6));
    assert_ne!(one[16..], other[16..]);
    stop(machine, file);
}

#[test]
fn each_bug_stops_the_machine_with_its_rule() {
    let bugs = [
        (0x900, "BEYOND_POOL_ACCESS"),
        (0x901, "IRP_COMPLETED_TWICE"),
        (0x902, "IRP_NOT_MARKED_PENDING"),
        (0x903, "IRP_MARKED_PENDING"),
        (0x904, "IRP_NOT_COMPLETED"),
        (0x905, "IRP_COMPLETED_PENDING"),
        (0x906, "IRP_CANCEL_ROUTINE_SET"),
        (0x907, "IRP_INFORMATION"),
        (0x908, "the driver called ntoskrnl.exe!KeStallExecutionProcessor"),
        (0x909, "FREED_POOL_ACCESS"),
        (0x910, "ERROR_LOG_ENTRY"),
        (0x911, "ERROR_LOG_ENTRY"),
        (0x912, "ERROR_LOG_ENTRY"),
        (0x913, "ERROR_LOG_ENTRY"),
        (0x914, "ERROR_LOG_ENTRY"),
        (0x915, "ERROR_LOG_ENTRY"),
    ];
    for (function, says) in bugs {
        let machine = start(&[]);
        let file = open(&machine);
        let stop = file.control(code(function, 0), &[1; 16], &[0; 16]).unwrap_err();
        assert!(text(&stop).contains(says), "{says}: {}", text(&stop));
        let Stop::BugCheck { text, .. } = stop else { panic!("{says}: {stop:?}") };
        let in_dispatch = ["IRP_NOT_MARKED_PENDING", "IRP_MARKED_PENDING", "IRP_NOT_COMPLETED"];
        if !in_dispatch.contains(&says) {
            assert!(text.contains("wdm.rs:") || text.contains("wdm::"), "{says}: {text}");
        }
    }
}

#[test]
fn a_programs_buffer_is_used_in_its_process_and_by_its_mdl() {
    let machine = start(&[]);
    let file = open(&machine);
    let request = file.control(code(0x90A, 3), &[1; 16], &[]).unwrap();
    let stop = request.cancel().unwrap_err();
    assert!(text(&stop).contains("USER_BUFFER_CONTEXT"), "{}", text(&stop));
    assert!(text(&stop).contains("wdm::late"), "{}", text(&stop));
    for method in [1, 2] {
        let machine = start(&[]);
        let file = open(&machine);
        let stop = file.control(code(0x90B, method), &[1; 16], &[0; 16]).unwrap_err();
        assert!(text(&stop).contains("USER_BUFFER_DIRECT"), "{}", text(&stop));
    }
}

#[test]
fn a_missing_import_refuses_the_load_unless_it_may_be_reported_at_its_call() {
    let mut machine = Machine::new("wdm", Options::default());
    let error = machine.start(&driver("wdm.rs", &[])).expect_err("an import is missing");
    assert_eq!(error.to_string(), "missing imports: ntoskrnl.exe!KeStallExecutionProcessor");
    let machine = start(&[]);
    let names: Vec<_> = machine.missing().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["ntoskrnl.exe!KeStallExecutionProcessor"]);
    let file = open(&machine);
    stop(machine, file);
}
