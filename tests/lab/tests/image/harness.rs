//! Compiles and loads the test driver, and calls its routines.
#![expect(unsafe_code, reason = "calls driver code")]

use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::LazyLock;

use machine::image::{FaultReport, Image, Stop, call};

use crate::exports;

/// The test driver, built once for each test program.
pub static DRIVER: LazyLock<PathBuf> = LazyLock::new(|| compile("driver.rs"));

pub fn source(name: &str) -> PathBuf {
    lab::setup::root().join("tests/lab/tests/image/drivers").join(name)
}

/// Compiles a test driver of one source file for Windows.
pub fn compile(name: &str) -> PathBuf {
    lab::setup::compile(&source(name), &[]).unwrap_or_else(|error| panic!("{error:#}"))
}

/// The line of `driver.rs` that holds `text`.
pub fn line_of(text: &str) -> u32 {
    let driver = std::fs::read_to_string(source("driver.rs")).expect("the driver's source");
    let index = driver.lines().position(|line| line.contains(text)).expect("the line");
    index as u32 + 1
}

/// Routines of the driver, in the order of its table.
#[derive(Clone, Copy)]
pub enum Routine {
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
pub struct Driver {
    pub image: Image,
    pub routines: [u64; 16],
}

impl Driver {
    pub fn start() -> Self {
        let image = Image::load(&DRIVER, &exports::resolve).expect("the driver loads");
        let mut routines = [0u64; 16];
        let table = routines.as_mut_ptr().expose_provenance() as u64;
        let status = run(image.entry(), &[table, 0x1122_3344_5566_7788]).expect("DriverEntry");
        assert_eq!(status, 0);
        Self { image, routines }
    }

    pub fn run(&self, routine: Routine, argument: u64) -> Result<u64, Stop> {
        run(self.routines[routine as usize], &[argument])
    }

    pub fn fault(&self, routine: Routine, argument: u64) -> FaultReport {
        fault(self.run(routine, argument))
    }
}

pub fn run(entry: u64, arguments: &[u64]) -> Result<u64, Stop> {
    let entry = std::ptr::with_exposed_provenance::<c_void>(entry as usize);
    // SAFETY: a routine of the test driver, which takes these arguments.
    unsafe { call(entry, arguments) }
}

pub fn fault(result: Result<u64, Stop>) -> FaultReport {
    match result {
        Err(Stop::Fault(report)) => *report,
        other => panic!("expected a fault, got {other:?}"),
    }
}
