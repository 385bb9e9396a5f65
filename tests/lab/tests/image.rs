//! The loader, the calls and the fault reports, on a real driver file.
#![expect(unsafe_code, reason = "calls driver code and maps memory for it")]

#[path = "image/build.rs"]
mod build;
#[path = "image/exports.rs"]
mod exports;

use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use lab::image::{
    Access, FaultKind, FaultReport, Image, LoadError, PeFile, Stop, SymbolError, call,
};

/// Built once for each test program.
static DRIVER: LazyLock<PathBuf> = LazyLock::new(|| build::build_test_driver(&source("driver.rs")));

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/image")
        .join(name)
}

/// The line of `driver.rs` that holds `text`.
fn line_of(text: &str) -> u32 {
    let driver = std::fs::read_to_string(source("driver.rs")).expect("the driver's source");
    let index = driver
        .lines()
        .position(|line| line.contains(text))
        .expect("the line");
    index as u32 + 1
}

/// What the driver offers, in the order of its table.
#[derive(Clone, Copy)]
enum Routine {
    Read,
    Write,
    Recurse,
    Cr8,
    Fail,
    Nested,
    Ten,
    Registers,
    ReadByExport,
    Instruction,
    Jump,
    Spend,
    Count,
    Number,
    Depth,
    Brink,
}

/// A loaded test driver whose DriverEntry has run.
struct Driver {
    image: Image,
    routines: [u64; 16],
}

impl Driver {
    fn start() -> Self {
        let image = Image::load(&DRIVER, &exports::resolve).expect("the driver loads");
        let mut routines = [0u64; 16];
        let table = routines.as_mut_ptr().expose_provenance() as u64;
        let status = run(image.entry(), &[table, 0x1122_3344_5566_7788]).expect("DriverEntry");
        assert_eq!(status, 0);
        Self { image, routines }
    }

    fn run(&self, routine: Routine, argument: u64) -> Result<u64, Stop> {
        run(self.routines[routine as usize], &[argument])
    }

    fn fault(&self, routine: Routine, argument: u64) -> FaultReport {
        fault(self.run(routine, argument))
    }
}

fn run(entry: u64, arguments: &[u64]) -> Result<u64, Stop> {
    let entry = std::ptr::with_exposed_provenance::<c_void>(entry as usize);
    // SAFETY: a routine of the test driver, which takes these arguments.
    unsafe { call(entry, arguments) }
}

fn fault(result: Result<u64, Stop>) -> FaultReport {
    match result {
        Err(Stop::Fault(report)) => *report,
        other => panic!("expected a fault, got {other:?}"),
    }
}

#[test]
fn the_image_is_mapped_relocated_and_bound() {
    let driver = Driver::start();
    let Driver { image, routines } = &driver;
    assert!(image.contains(image.base()) && image.contains(image.base() + image.size() - 1));
    assert!(!image.contains(image.base() + image.size()) && !image.contains(image.base() - 1));
    for &routine in routines {
        let section = image
            .rva(routine)
            .and_then(|rva| image.file().section_at(rva));
        assert_eq!(section.expect("in a section").name, ".text");
    }
    assert_eq!(driver.run(Routine::Number, 0).expect("a data import"), 4711);
}

#[test]
fn two_images_of_one_file_do_not_share_data() {
    let file = Arc::new(PeFile::read(&DRIVER).expect("the driver parses"));
    let first = Driver::start();
    let second = Image::map(file, &exports::resolve).expect("the driver loads again");
    assert_ne!(first.image.base(), second.base());
    assert_eq!(first.run(Routine::Count, 5).expect("counts"), 0);
    assert_eq!(first.run(Routine::Count, 1).expect("counts"), 5);
    let (counters, symbol) = first.image.data("COUNTERS").expect("in the PDB");
    assert_eq!(symbol.name, "driver::COUNTERS");
    assert_eq!(symbol.size, 32);
    let (others, _) = second.data("driver::COUNTERS").expect("in the PDB");
    let value = |base: u64| {
        let address = std::ptr::with_exposed_provenance::<u64>(base as usize + 16);
        // SAFETY: the third counter, in a mapped section for data.
        unsafe { address.read_volatile() }
    };
    assert_eq!((value(counters), value(others)), (6, 0));
}

#[test]
fn missing_imports_are_named_all_at_once() {
    let without = |module: &str, name: &str| {
        let wanted = !matches!(name, "LabTen" | "KeBugCheckEx");
        wanted.then(|| exports::resolve(module, name)).flatten()
    };
    let error = Image::load(&DRIVER, &without).expect_err("two imports are missing");
    let LoadError::Missing(missing) = &error else {
        panic!("{error}")
    };
    assert_eq!(missing.len(), 2);
    let text = error.to_string();
    assert!(text.contains("ntoskrnl.exe!KeBugCheckEx"), "{text}");
    assert!(text.contains("fwpkclnt.sys!LabTen"), "{text}");
}

#[test]
fn a_null_read_is_named_with_its_inline_chain() {
    let driver = Driver::start();
    let report = driver.fault(Routine::Read, 8);
    assert_eq!(report.kind, FaultKind::AccessViolation(Access::Read));
    assert_eq!(report.address, Some(8));
    assert_eq!(report.at.as_deref(), Some("null pointer + 0x8"));
    let chain: Vec<_> = report
        .inline_chain()
        .iter()
        .map(|frame| &*frame.function)
        .collect();
    assert!(
        chain.contains(&"driver::load") && chain.last() == Some(&"driver::read"),
        "{chain:?}"
    );
    let load = report
        .inline_chain()
        .iter()
        .find(|frame| frame.function == "driver::load");
    assert_eq!(
        load.and_then(|frame| frame.line),
        Some(line_of("read_volatile"))
    );
    assert!(
        load.and_then(|frame| frame.file.as_deref())
            .is_some_and(|file| file.ends_with("driver.rs"))
    );
}

#[test]
fn a_null_write_and_a_write_to_constants_are_named() {
    let driver = Driver::start();
    let report = driver.fault(Routine::Write, 0);
    assert_eq!(report.kind, FaultKind::AccessViolation(Access::Write));
    assert_eq!(report.at.as_deref(), Some("null pointer"));
    assert_eq!(report.function(), Some("driver::write"));

    let file = driver.image.file();
    let constants = file
        .sections
        .iter()
        .find(|section| section.name == ".rdata")
        .expect(".rdata");
    let address = driver.image.base() + u64::from(constants.range.start);
    let report = driver.fault(Routine::Write, address);
    assert_eq!(report.kind, FaultKind::AccessViolation(Access::Write));
    let at = report.at.expect("a place");
    assert!(
        at.starts_with("driver.sys+0x") && at.contains(".rdata"),
        "{at}"
    );
    // Code is no more writable than constants.
    let report = driver.fault(Routine::Write, driver.image.entry());
    assert!(report.at.expect("a place").contains(".text"));
}

#[test]
fn a_registered_describer_names_the_end_of_a_block() {
    const PAGE: usize = 4096;
    static GUARD: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at an address of the kernel's choice.
    let block = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            2 * PAGE,
            libc::PROT_NONE,
            flags,
            -1,
            0,
        )
    };
    // SAFETY: the first page of the mapping just made.
    let result = unsafe { libc::mprotect(block, PAGE, libc::PROT_READ | libc::PROT_WRITE) };
    assert_eq!(result, 0);
    let end = (block.expose_provenance() + PAGE) as u64;
    GUARD.set(end).expect("set once");
    lab::image::register_describer(|address| {
        let offset = address
            .checked_sub(*GUARD.get()?)
            .filter(|&offset| offset < PAGE as u64)?;
        Some(format!("{offset} bytes beyond a pool block"))
    });
    let driver = Driver::start();
    assert_eq!(
        driver
            .run(Routine::Write, end - 8)
            .expect("inside the block"),
        0
    );
    // The write of eight bytes begins inside and ends beyond.
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
    assert_eq!(
        report.at,
        Some(format!("unloaded image driver.sys+{rva:#x}"))
    );
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
    // The thread is none the worse for it.
    assert_eq!(driver.run(Routine::Count, 1).expect("still runs"), 0);
}

#[test]
fn an_import_called_at_the_end_of_the_stack_is_an_overflow_of_the_driver() {
    let driver = Driver::start();
    assert_eq!(driver.run(Routine::Brink, 4096).expect("fits"), 0);
    // So close to the end that the frame of the import does not fit, while the
    // driver's own does.
    let remaining = lab::image::stack_remaining() as u64;
    let mut in_gate = 0;
    for left in (0..512).step_by(16) {
        let Err(Stop::Fault(report)) = driver.run(Routine::Brink, remaining - left) else {
            continue;
        };
        assert_eq!(report.kind, FaultKind::StackOverflow);
        assert_eq!(
            report.at.as_deref(),
            Some("guard below the kernel stack: stack overflow")
        );
        let frames = &report.backtrace.0;
        if frames[0].place == "import gate" {
            assert_eq!(report.function(), Some("driver::brink"), "{report}");
            in_gate += 1;
        }
    }
    assert!(in_gate > 0, "no fault in the gate");
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
        // SAFETY: none; the process is meant to die of it.
        unsafe { address.read_volatile() };
        return;
    }
    let name = "a_fault_outside_any_call_goes_to_the_previous_handler";
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
fn the_stack_used_is_measured() {
    let driver = Driver::start();
    lab::image::stack_used_reset();
    driver.run(Routine::Count, 0).expect("counts");
    let little = lab::image::stack_used();
    driver.run(Routine::Spend, 0).expect("spends");
    let much = lab::image::stack_used();
    assert!(little < 300, "{little} bytes for a leaf");
    assert!(
        (3000..3600).contains(&much),
        "{much} bytes for a frame of 3000"
    );
    lab::image::stack_used_reset();
    assert_eq!(lab::image::stack_used(), 0);
    // The export's own megabyte is not the driver's.
    driver.run(Routine::Registers, 0).expect("calls an export");
    let with_export = lab::image::stack_used();
    assert!(with_export < 1000, "{with_export} bytes");
}

#[test]
fn instructions_that_a_driver_may_not_use_are_named() {
    let driver = Driver::start();
    let report = driver.fault(Routine::Cr8, 0);
    assert_eq!(report.kind, FaultKind::PrivilegedInstruction);
    assert_eq!(report.instruction.as_deref(), Some("Mov_r64_cr"));
    assert_eq!(
        (report.function(), report.line()),
        (Some("driver::cr8"), Some(line_of("mov {}, cr8")))
    );
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
fn a_panic_reaches_the_bugcheck_with_its_line() {
    let driver = Driver::start();
    assert_eq!(driver.run(Routine::Fail, 2).expect("in bounds"), 3);
    let stop = driver.run(Routine::Fail, 3).expect_err("out of bounds");
    let Stop::BugCheck {
        code,
        parameters,
        text,
        backtrace,
    } = &stop
    else {
        panic!("{stop}")
    };
    assert_eq!(*code, 0xDEAD);
    let line = line_of("black_box(index)");
    assert_eq!(parameters[2], u64::from(line));
    assert!(text.ends_with(&format!("driver.rs:{line}")), "{text}");
    let functions: Vec<_> = backtrace
        .0
        .iter()
        .flat_map(|frame| &frame.symbols)
        .collect();
    assert_eq!(backtrace.0[0].place, "ntoskrnl.exe!KeBugCheckEx");
    assert!(functions.iter().any(|frame| {
        frame
            .function
            .contains("core::panicking::panic_bounds_check")
    }));
    let last = functions.last().expect("a frame");
    assert_eq!((&*last.function, last.line), ("driver::fail", Some(line)));
}

#[test]
fn exports_take_their_stack_arguments() {
    assert_eq!(
        Driver::start().run(Routine::Ten, 0).expect("runs"),
        12_345_678_910
    );
}

#[test]
fn exports_keep_the_registers_that_a_callee_must() {
    assert_eq!(Driver::start().run(Routine::Registers, 0).expect("runs"), 0);
}

#[test]
fn calls_nest_on_one_stack() {
    let driver = Driver::start();
    assert_eq!(driver.run(Routine::Nested, 21).expect("runs"), 43);
    assert_eq!(driver.run(Routine::Depth, 20).expect("runs"), 20);
    let report = driver.fault(Routine::Depth, 5000);
    assert_eq!(report.kind, FaultKind::StackOverflow);
    assert!(!lab::image::in_call());
}

#[test]
fn a_fault_in_a_nested_call_shows_all_calls() {
    let driver = Driver::start();
    let report = driver.fault(Routine::Nested, 0x100);
    let name = |frame: &lab::image::Frame| match frame.symbols.last() {
        Some(function) => function.function.clone(),
        None => frame.place.clone(),
    };
    let named: Vec<_> = report.backtrace.0.iter().map(name).collect();
    let once = [
        "driver::called_back",
        "fwpkclnt.sys!LabCallback",
        "driver::nested",
    ];
    assert_eq!(named, [once, once].concat());
    assert_eq!(
        driver.run(Routine::Nested, 1).expect("the thread goes on"),
        3
    );
}

#[test]
fn a_fault_in_an_export_is_the_drivers() {
    let driver = Driver::start();
    let good = 41u64;
    let address = std::ptr::from_ref(&good).expose_provenance() as u64;
    assert_eq!(
        driver.run(Routine::ReadByExport, address).expect("reads"),
        42
    );
    let report = driver.fault(Routine::ReadByExport, 0x10);
    assert_eq!(report.kind, FaultKind::AccessViolation(Access::Read));
    assert_eq!(report.export.as_deref(), Some("fwpkclnt.sys!LabRead"));
    assert_eq!(report.function(), Some("driver::read_by_export"));
    assert!(
        report
            .to_string()
            .contains("in fwpkclnt.sys!LabRead, called by the driver")
    );
}

#[test]
fn threads_have_stacks_of_their_own() {
    let driver = Driver::start();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let driver = &driver;
            scope.spawn(move || {
                for round in 0..200 {
                    assert_eq!(
                        driver.run(Routine::Nested, thread).expect("runs"),
                        2 * thread + 1
                    );
                    if round % 50 == 0 {
                        let report = driver.fault(Routine::Read, thread);
                        assert_eq!(report.address, Some(thread));
                    }
                }
            });
        }
    });
}

#[test]
fn symbols_come_from_the_matching_pdb_only() {
    let driver = Driver::start();
    let symbols = driver.image.symbols().expect("the PDB matches");
    let named = |name: &str| {
        symbols
            .functions()
            .iter()
            .any(|function| function.name.contains(name))
    };
    assert!(named("driver::recurse") && named("core::panicking::panic_bounds_check"));
    assert!(matches!(
        symbols.data("NOTHING"),
        Err(SymbolError::NotFound(_))
    ));

    let folder = tempfile::tempdir().expect("a folder");
    let moved = folder.path().join("driver.sys");
    std::fs::copy(&*DRIVER, &moved).expect("copies");
    let lonely = Arc::new(PeFile::read(&moved).expect("parses"));
    let error = lab::image::Symbols::of(&lonely).expect_err("no PDB beside it");
    let id = lonely.pdb.clone().expect("a CodeView record");
    assert!(error.to_string().contains(&id.guid.to_string()), "{error}");

    // The right PDB, but the image wants another age.
    let other = folder.path().join("other.sys");
    let mut bytes = lonely.bytes.clone();
    let at = bytes
        .windows(4)
        .position(|window| window == b"RSDS")
        .expect("a CodeView record");
    bytes[at + 20] ^= 0x40;
    std::fs::write(&other, bytes).expect("writes");
    std::fs::copy(
        DRIVER.with_extension("pdb"),
        folder.path().join("other.pdb"),
    )
    .expect("copies");
    let stranger = Arc::new(PeFile::read(&other).expect("parses"));
    let error = lab::image::Symbols::of(&stranger).expect_err("another build's PDB");
    assert!(matches!(error, SymbolError::Mismatch { .. }), "{error}");
}

#[test]
fn discardable_sections_go_away() {
    let mut driver = Driver::start();
    let reloc = driver
        .image
        .file()
        .sections
        .iter()
        .find(|section| section.is_discardable());
    let start = u64::from(reloc.expect(".reloc is discardable").range.start);
    let address = driver.image.base() + start;
    assert!(driver.run(Routine::Read, address).is_ok());
    driver.image.discard().expect("protects");
    let report = driver.fault(Routine::Read, address);
    assert!(report.at.expect("a place").contains(".reloc"));
}
