//! Reports of faults name the kind, the function and the address.
#![expect(unsafe_code, reason = "maps memory for the driver and faults on purpose")]

use machine::image::{Access, FaultKind, Stop};

use crate::harness::{Driver, Routine, fault, line_of, run};

#[test]
fn a_null_read_is_named_with_its_inline_chain() {
    let driver = Driver::start();
    let report = driver.fault(Routine::Read, 8);
    assert_eq!(report.kind, FaultKind::AccessViolation(Access::Read));
    assert_eq!(report.address, Some(8));
    assert_eq!(report.at.as_deref(), Some("null pointer + 0x8"));
    let chain: Vec<_> = report.inline_chain().iter().map(|frame| &*frame.function).collect();
    assert!(chain.contains(&"driver::load") && chain.last() == Some(&"driver::read"), "{chain:?}");
    let load = report.inline_chain().iter().find(|frame| frame.function == "driver::load");
    assert_eq!(load.and_then(|frame| frame.line), Some(line_of("read_volatile")));
    assert!(load.and_then(|frame| frame.file.as_deref()).is_some_and(|file| file.ends_with("driver.rs")));
}

#[test]
fn a_null_write_and_a_write_to_constants_are_named() {
    let driver = Driver::start();
    let report = driver.fault(Routine::Write, 0);
    assert_eq!(report.kind, FaultKind::AccessViolation(Access::Write));
    assert_eq!(report.at.as_deref(), Some("null pointer"));
    assert_eq!(report.function(), Some("driver::write"));

    let file = driver.image.file();
    let constants = file.sections.iter().find(|section| section.name == ".rdata").expect(".rdata");
    let address = driver.image.base() + u64::from(constants.range.start);
    let report = driver.fault(Routine::Write, address);
    assert_eq!(report.kind, FaultKind::AccessViolation(Access::Write));
    let at = report.at.expect("a place");
    assert!(at.starts_with("driver.sys+0x") && at.contains(".rdata"), "{at}");
    for beside in [driver.image.base() - 8, driver.image.base() + driver.image.size()] {
        let at = driver.fault(Routine::Write, beside).at;
        assert_eq!(at.as_deref(), Some("guard page beside image driver.sys"));
    }
    // Code is not writable, either.
    let report = driver.fault(Routine::Write, driver.image.entry());
    assert!(report.at.expect("a place").contains(".text"));
}

#[test]
fn a_registered_describer_names_the_end_of_a_block() {
    const PAGE: usize = 4096;
    static GUARD: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at an address of the kernel's choice.
    let block = unsafe { libc::mmap(std::ptr::null_mut(), 2 * PAGE, libc::PROT_NONE, flags, -1, 0) };
    // SAFETY: the first page of the mapping just made.
    let result = unsafe { libc::mprotect(block, PAGE, libc::PROT_READ | libc::PROT_WRITE) };
    assert_eq!(result, 0);
    let end = (block.expose_provenance() + PAGE) as u64;
    GUARD.set(end).expect("set once");
    machine::image::register_describer(|address| {
        let offset = address.checked_sub(*GUARD.get()?).filter(|&offset| offset < PAGE as u64)?;
        Some(format!("{offset} bytes beyond a pool block"))
    });
    let driver = Driver::start();
    assert_eq!(driver.run(Routine::Write, end - 8).expect("inside the block"), 0);
    // This write of 8 bytes begins inside the block and ends outside.
    let report = driver.fault(Routine::Write, end);
    assert_eq!(report.at.as_deref(), Some("0 bytes beyond a pool block"));
}

#[test]
fn a_call_after_unload_is_named() {
    let driver = Driver::start();
    let entry = driver.routines[Routine::Count as usize];
    let rva = driver.image.rva(entry).expect("in the image");
    drop(driver);
    let report = fault(run(entry, &[1]));
    assert_eq!(report.kind, FaultKind::AccessViolation(Access::Execute));
    assert_eq!(report.at, Some(format!("unloaded image driver.sys+{rva:#x}")));
    assert_eq!((report.address, report.rip), (Some(entry), entry));
}

#[test]
fn a_jump_to_nowhere_keeps_its_caller() {
    let driver = Driver::start();
    let report = driver.fault(Routine::Jump, 0);
    assert_eq!(report.kind, FaultKind::AccessViolation(Access::Execute));
    assert_eq!(report.at.as_deref(), Some("null pointer"));
    assert_eq!(report.function(), Some("driver::jump"));
    // Beyond the canonical addresses the processor faults before it jumps.
    let report = driver.fault(Routine::Jump, 0x8000_0000_0000_0000);
    assert_eq!(report.function(), Some("driver::jump"));
}

#[test]
fn a_non_canonical_address_is_named() {
    let report = Driver::start().fault(Routine::Read, 0xDEAD_BEEF_0000_0008);
    assert_eq!(report.kind, FaultKind::AccessViolation(Access::Read));
    assert_eq!(report.address, Some(0xDEAD_BEEF_0000_0008));
    let report = Driver::start().fault(Routine::Write, 0xDEAD_BEEF_0000_0008);
    assert_eq!(report.kind, FaultKind::AccessViolation(Access::Write));
}

#[test]
fn the_kernel_stack_ends_at_24_kilobytes() {
    let driver = Driver::start();
    assert_eq!(driver.run(Routine::Recurse, 60).expect("fits"), 60 * 61 / 2);
    let report = driver.fault(Routine::Recurse, 1000);
    assert_eq!(report.kind, FaultKind::StackOverflow);
    assert_eq!(report.function(), Some("driver::recurse"));
    let frames = report.backtrace.0.len();
    // Each frame holds 256 bytes of array and a little more.
    assert!((60..=24 * 1024 / 256).contains(&frames), "{frames} frames");
    // The thread can go on.
    assert_eq!(driver.run(Routine::Count, 1).expect("still runs"), 0);
}

#[test]
fn an_import_called_at_the_end_of_the_stack_is_an_overflow_of_the_driver() {
    let driver = Driver::start();
    assert_eq!(driver.run(Routine::Brink, 4096).expect("fits"), 0);
    // The driver's frame fits on the rest of the stack, the frame of the import does
    // not.
    let remaining = machine::image::stack_remaining() as u64;
    let mut in_gate = 0;
    for left in (0..512).step_by(16) {
        let Err(Stop::Fault(report)) = driver.run(Routine::Brink, remaining - left) else {
            continue;
        };
        assert_eq!(report.kind, FaultKind::StackOverflow);
        assert_eq!(report.at.as_deref(), Some("guard below the kernel stack: stack overflow"));
        let frames = &report.backtrace.0;
        if frames[0].place == "import gate" {
            assert_eq!(report.function(), Some("driver::brink"), "{report}");
            in_gate += 1;
        }
    }
    assert!(in_gate > 0, "no fault in the thunk of an import");
}

#[test]
fn a_fault_outside_any_call_goes_to_the_previous_handler() {
    use std::os::unix::process::ExitStatusExt;
    const CHILD: &str = "IMAGE_TEST_CHILD";
    extern "C" fn previous(_: i32, information: &libc::siginfo_t, _: usize) {
        // SAFETY: SIGSEGV carries an address.
        let address = unsafe { information.si_addr() }.addr();
        let code = if address == 16 { 42 } else { 43 };
        // SAFETY: ends the process at once, which a handler may do.
        unsafe { libc::_exit(code) };
    }
    if let Some(kind) = std::env::var_os(CHILD) {
        if kind == "handler" {
            // SAFETY: all bit patterns of `sigaction` are valid.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = previous as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            // SAFETY: installs a handler that does nothing but end the process.
            unsafe { libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()) };
        }
        let driver = Driver::start();
        driver.fault(Routine::Read, 0);
        let address = std::ptr::without_provenance::<u64>(std::hint::black_box(16));
        // SAFETY: none; this must kill the process.
        unsafe { address.read_volatile() };
        return;
    }
    let name = "fault_reports::a_fault_outside_any_call_goes_to_the_previous_handler";
    let child = |kind| {
        std::process::Command::new(std::env::current_exe().expect("this program"))
            .args([name, "--exact"])
            .env(CHILD, kind)
            .output()
            .expect("starts")
    };
    let output = child("handler");
    assert_eq!(output.status.code(), Some(42), "{output:?}");
    let output = child("none");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
}

#[test]
fn instructions_that_a_driver_may_not_use_are_named() {
    let driver = Driver::start();
    let report = driver.fault(Routine::Cr8, 0);
    assert_eq!(report.kind, FaultKind::PrivilegedInstruction);
    assert_eq!(report.instruction.as_deref(), Some("Mov_r64_cr"));
    assert_eq!((report.function(), report.line()), (Some("driver::cr8"), Some(line_of("mov {}, cr8"))));
    for (which, kind) in [
        (0, FaultKind::IllegalInstruction),
        (1, FaultKind::Breakpoint),
        (2, FaultKind::DivideError),
        (3, FaultKind::FastFail(7)),
        (4, FaultKind::GeneralProtection),
    ] {
        let report = driver.fault(Routine::Instruction, which);
        assert_eq!(report.kind, kind);
        assert_eq!(report.function(), Some("driver::instruction"));
    }
}

#[test]
fn a_fault_in_a_nested_call_shows_all_calls() {
    let driver = Driver::start();
    let report = driver.fault(Routine::Nested, 0x100);
    let name = |frame: &machine::image::Frame| match frame.symbols.last() {
        Some(function) => function.function.clone(),
        None => frame.place.clone(),
    };
    let named: Vec<_> = report.backtrace.0.iter().map(name).collect();
    let once = ["driver::called_back", "fwpkclnt.sys!LabCallback", "driver::nested"];
    assert_eq!(named, [once, once].concat());
    assert_eq!(driver.run(Routine::Nested, 1).expect("the thread goes on"), 3);
}

#[test]
fn a_fault_in_an_export_is_the_drivers() {
    let driver = Driver::start();
    let good = 41u64;
    let address = std::ptr::from_ref(&good).expose_provenance() as u64;
    assert_eq!(driver.run(Routine::ReadByExport, address).expect("reads"), 42);
    let report = driver.fault(Routine::ReadByExport, 0x10);
    assert_eq!(report.kind, FaultKind::AccessViolation(Access::Read));
    assert_eq!(report.export.as_deref(), Some("fwpkclnt.sys!LabRead"));
    assert_eq!(report.function(), Some("driver::read_by_export"));
    assert!(report.to_string().contains("in fwpkclnt.sys!LabRead, called by the driver"));
}
