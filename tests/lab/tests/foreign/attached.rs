//! Devices that are attached to those of other drivers, and file objects that drivers keep.

use std::sync::atomic::{AtomicU64, Ordering};

use machine::nt::irp::{Access, File};
use machine::nt::{Options, Stop};
use machine::status::Status;
use machine::{Driver, Machine};

use super::puppet::{Puppet, Word, at, both};
use super::{driver, text};

const PROCESS: u32 = 4320;

/// The machine with the driver below, and filters with these arguments above it, the lowest
/// first.
fn start(filters: &[&[&str]]) -> (Machine, Vec<Driver>) {
    let mut machine = Machine::new("wdm", Options::default());
    machine.report_missing_at_call();
    machine.start(&driver("wdm.rs", &[])).unwrap_or_else(|error| panic!("{error}"));
    let filters = filters.iter().enumerate().map(|(number, arguments)| {
        let mut filter = machine.driver(&format!("filter-{number}"));
        filter.start(&driver("filter.rs", arguments)).unwrap_or_else(|error| panic!("{error}"));
        filter
    });
    let filters = filters.collect();
    (machine, filters)
}

fn open(machine: &Machine) -> File {
    machine.kernel().open(r"\\.\wdm-1", PROCESS, Access::FULL).expect("the device opens")
}

/// The sum of the bytes, as it comes back.
fn sum(file: &File) -> u64 {
    let reply = file.control(0x22_2000, &[1, 2, 3, 250], &[0; 8]).unwrap().reply().unwrap();
    assert_eq!((reply.status, reply.information), (Status::SUCCESS, 8));
    u64::from_le_bytes(reply.output.try_into().unwrap())
}

fn stop(mut driver: Driver) {
    let left = driver.stop().unwrap_or_else(|stop| panic!("{}", text(&stop)));
    assert!(left.is_empty(), "{left}");
}

#[test]
fn a_request_goes_down_and_completion_routines_run_in_order_on_its_way_up() {
    let one: &[&str] = &[];
    let second: &[&str] = &["--cfg", "second"];
    for (filters, expected) in
        [(&[][..], 256), (&[one][..], 257), (&[one, second][..], 2570), (&[second, one][..], 2561)]
    {
        let (mut machine, filters) = start(filters);
        let file = open(&machine);
        assert_eq!(sum(&file), expected);
        // A read and a write pass through, with the buffer that the device below asks for.
        let read = file.read(3).unwrap().reply().unwrap();
        assert_eq!((read.information, read.output), (3, vec![0, 1, 2]));
        // The driver above keeps the request, and completes it with another size.
        let kept = file.control(0x22_2014, &[], &[0; 64]).unwrap().reply().unwrap();
        assert_eq!(kept.information, if filters.is_empty() { 64 } else { 8 });
        // A request that waits below is cancelled there.
        let waits = file.control(0x22_2004, &[], &[]).unwrap();
        assert_eq!(waits.reply(), None);
        waits.cancel().unwrap();
        assert_eq!(waits.reply().unwrap().status, Status::CANCELLED);
        file.close().unwrap();
        for filter in filters.into_iter().rev() {
            stop(filter);
        }
        // Without the filters, the device works as before.
        let file = open(&machine);
        assert_eq!(sum(&file), 256);
        file.close().unwrap();
        let left = machine.stop().unwrap_or_else(|stop| panic!("{}", text(&stop)));
        assert!(left.is_empty(), "{left}");
    }
}

#[test]
fn a_device_that_is_attached_cannot_be_deleted() {
    let (machine, filters) = start(&[&["--cfg", "forgets_to_detach"]]);
    let stop = filters.into_iter().next().unwrap().stop().expect_err("it is attached");
    assert!(matches!(stop, Stop::BugCheck { .. }), "{stop}");
    assert!(text(&stop).contains("DEVICE_IN_USE") && text(&stop).contains("attached"), "{}", text(&stop));
    drop(machine);
}

/// A driver below that is unloaded first leaves a stack without its lowest device.
#[test]
fn a_device_below_cannot_be_deleted() {
    let (mut machine, _filters) = start(&[&[]]);
    let stop = machine.stop().expect_err("another device is attached");
    assert!(text(&stop).contains("is attached to it"), "{}", text(&stop));
}

/// A handle of the program, as the driver passes it to `ObReferenceObjectByHandle`.
fn reference(puppet: &Puppet, handle: u64, access: u64) -> (Status, u64) {
    const USER_MODE: u64 = 1;
    let object = AtomicU64::new(0);
    let arguments = [handle, access, 0, USER_MODE, at(&object), 0];
    (puppet.status("ObReferenceObjectByHandle", &arguments), object.load(Ordering::SeqCst))
}

#[test]
fn a_file_is_closed_when_its_handle_is_closed_and_no_driver_has_a_reference() {
    let (machine, [one, two]) = both([0, 1]);
    let read = Access { read: true, write: false };
    let file = machine.kernel().open(r"\\.\Puppet-1", 77, read).unwrap();
    assert_eq!(reference(&one, file.handle(), 2).0, Status::ACCESS_DENIED);
    let (status, object) = reference(&one, file.handle(), 1);
    assert_eq!(status, Status::SUCCESS);
    let again = reference(&one, file.handle(), 1).1;
    assert_eq!(again, object);
    let handle = file.handle();
    file.close().unwrap();
    assert_eq!(one.get(Word::Closed), 0);
    assert_eq!(one.call("ObfDereferenceObject", &[object]), 1);
    assert_eq!(one.get(Word::Closed), 0);
    assert_eq!(one.call("ObfDereferenceObject", &[object]), 0);
    assert_eq!(one.get(Word::Closed), 1);
    let stop = one.try_call("ObReferenceObjectByHandle", &[handle, 1, 0, 1, at(&AtomicU64::new(0)), 0]);
    assert!(text(&stop.expect_err("the handle is closed")).contains("REFERENCE_BAD_HANDLE"));
    drop(two);
}

/// The image does not force its integrity.
#[test]
fn an_image_that_is_not_signed_for_it_is_told_of_no_process() {
    let (_machine, [one, two]) = both([0, 1]);
    assert_eq!(one.status("PsSetCreateProcessNotifyRoutineEx", &[one.told, 0]), Status::ACCESS_DENIED);
    one.stop();
    two.stop();
}
