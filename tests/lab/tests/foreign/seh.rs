//! A driver in C that handles exceptions with `__try`, `__except` and `__finally`, as
//! clang compiles them.

use lab::setup;
use machine::Machine;
use machine::nt::irp::{Access, File};
use machine::nt::{Options, Stop};

use super::text;

const IMPORTS: [&str; 19] = [
    "IoCreateDevice",
    "IoDeleteDevice",
    "IofCompleteRequest",
    "ProbeForRead",
    "ProbeForWrite",
    "ExRaiseStatus",
    "RtlRaiseStatus",
    "ExAllocatePool2",
    "ExFreePoolWithTag",
    "IoAllocateMdl",
    "IoFreeMdl",
    "MmProbeAndLockPages",
    "MmUnlockPages",
    "KfRaiseIrql",
    "KeLowerIrql",
    "RtlCompareMemory",
    "RtlCopyUnicodeString",
    "__C_specific_handler",
    "_local_unwind",
];

/// An address of the program that is not mapped.
const NOWHERE: u64 = 0x3_0000;
const ACCESS_VIOLATION: u64 = 0xC000_0005;
const MISALIGNED: u64 = 0x8000_0002;

struct Driver {
    machine: Machine,
    file: File,
}

impl Driver {
    fn start() -> Self {
        let source = setup::root().join("tests/lab/tests/foreign/drivers/seh.c");
        let driver = setup::compile_c(&source, &IMPORTS).unwrap_or_else(|error| panic!("{error:#}"));
        let mut machine = Machine::new("seh", Options::default());
        machine.start(&driver).expect("the driver starts");
        let file = machine.kernel().open(r"\Device\Seh", 8, Access::FULL).expect("the device opens");
        Self { machine, file }
    }

    fn try_run(&self, case: u32, words: [u64; 4]) -> Result<u64, Stop> {
        let input: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let reply = self.file.control(0x22_2000 | case << 2, &input, &[0; 8])?.reply().expect("it completes");
        Ok(u64::from_le_bytes(reply.output.try_into().unwrap()))
    }

    fn run(&self, case: u32, words: [u64; 4]) -> u64 {
        self.try_run(case, words).unwrap_or_else(|stop| panic!("case {case}: {}", text(&stop)))
    }

    fn stop(mut self) {
        self.file.close().unwrap();
        let left = self.machine.stop().unwrap_or_else(|stop| panic!("{}", text(&stop)));
        assert!(left.is_empty(), "{left}");
        assert!(self.machine.kernel().verifier().findings().is_empty());
    }
}

/// A word of this program.
fn word(value: &u64) -> u64 {
    std::ptr::from_ref(value).expose_provenance() as u64
}

#[test]
fn a_fault_of_a_programs_memory_is_handled_by_the_driver() {
    let driver = Driver::start();
    let value = 0x1234u64;
    assert_eq!(driver.run(0, [NOWHERE, 0, 0, 0]), ACCESS_VIOLATION);
    assert_eq!(driver.run(0, [word(&value), 0, 0, 0]), 0);
    assert_eq!(driver.run(1, [NOWHERE, 0, 0, 0]), 0xBAD);
    assert_eq!(driver.run(1, [word(&value), 0, 0, 0]), value);
    // A write (1) to the address.
    assert_eq!(driver.run(2, [NOWHERE, 0, 0, 0]), 1 << 56 | NOWHERE);
    driver.stop();
}

#[test]
fn filters_run_before_blocks_and_blocks_from_inside_out() {
    let driver = Driver::start();
    // Filters 1 and 2, blocks 3 and 4, the handler 5; then a block without an exception.
    assert_eq!(driver.run(3, [NOWHERE, 0, 0, 0]), 0x0123_4567);
    assert_eq!(driver.run(8, [NOWHERE, 0, 0, 0]), 0x123);
    assert_eq!(driver.run(9, [NOWHERE, 0, 0, 0]), 0x12);
    driver.stop();
}

#[test]
fn the_handlers_function_has_its_registers_again() {
    let driver = Driver::start();
    let seed = NOWHERE;
    let (mut a, mut b, x) = (seed + 1, seed + 2, (seed & 0xFF) as f64);
    let mut z = (x + 1.0) * 2.0;
    for round in 0..3 {
        a += round;
        b += a;
        z += x * (x + 1.0);
    }
    let rest = 4 * seed + 3 + 4 + 5 + 6;
    assert_eq!(driver.run(4, [seed, 0, 0, 0]), a + b + rest + z as u64);
    driver.stop();
}

#[test]
fn a_filter_repairs_the_registers_and_the_instruction_runs_again() {
    let driver = Driver::start();
    assert_eq!(driver.run(5, [NOWHERE, 0, 0, 0]), 0x600D);
    driver.stop();
}

#[test]
fn exceptions_are_raised_by_calls_too() {
    let driver = Driver::start();
    for status in [0xC000_0123, 0xC000_0120] {
        assert_eq!(driver.run(6, [status, 0, 0, 0]), status);
    }
    assert_eq!(driver.run(13, [0; 4]), 0xC000_009A);
    assert_eq!(driver.run(14, [0; 4]), 0xC000_0094);
    assert_eq!(driver.run(14, [5, 0, 0, 0]), 20);
    // An export that reads for the driver.
    assert_eq!(driver.run(10, [NOWHERE, 0, 0, 0]), ACCESS_VIOLATION);
    assert_eq!(driver.run(11, [NOWHERE, 0, 0, 0]), ACCESS_VIOLATION);
    driver.stop();
}

#[test]
fn probes_check_the_range_and_the_alignment() {
    let driver = Driver::start();
    let value = [1u64, 2];
    let at = word(&value[0]);
    for write in [0, 1] {
        assert_eq!(driver.run(7, [at, 16, 8, write]), 0);
        assert_eq!(driver.run(7, [at + 1, 4, 4, write]), MISALIGNED);
        // The kernel's half, and a range that wraps.
        assert_eq!(driver.run(7, [0xFFFF_8000_0000_0000, 8, 1, write]), ACCESS_VIOLATION);
        assert_eq!(driver.run(7, [at, u64::MAX, 1, write]), ACCESS_VIOLATION);
        assert_eq!(driver.run(7, [0xFFFF_8000_0000_0001, 0, 8, write]), 0);
    }
    // Only the probe for a write touches the memory.
    assert_eq!(driver.run(7, [NOWHERE, 8, 8, 0]), 0);
    assert_eq!(driver.run(7, [NOWHERE, 8, 8, 1]), ACCESS_VIOLATION);
    assert_eq!(driver.run(12, [NOWHERE, 0, 0, 0]), ACCESS_VIOLATION);
    assert_eq!(driver.run(12, [at, 0, 0, 0]), 0);
    driver.stop();
}

#[test]
fn a_handler_of_the_drivers_own_may_call_the_systems() {
    let driver = Driver::start();
    // The code and rdi; the driver's handler ran for the search and for the unwind.
    assert_eq!(driver.run(15, [NOWHERE, 0, 0, 0]), (ACCESS_VIOLATION + 0x77) | 0x11 << 40);
    let value = 7;
    assert_eq!(driver.run(15, [word(&value), 0, 0, 0]), 1);
    // _local_unwind calls the handler, which runs the block.
    assert_eq!(driver.run(16, [5, 0, 0, 0]), 5 | 0x12 << 40);
    driver.stop();
}

#[test]
fn what_stops_windows_stops_the_machine_whatever_handlers_there_are() {
    let stops: [(u32, u64, &str); 7] = [
        (32, 0, "FREED_POOL_ACCESS"),
        (33, NOWHERE, "BAD_POINTER_RAISED"),
        (34, 0x28, "ACCESS_VIOLATION"),
        (35, 0xC000_0123, "UNHANDLED_EXCEPTION"),
        (36, 0xFFFF_8000_0000_0000, "ACCESS_VIOLATION"),
        (0, 0xFFFF_F800_0000_0000, "BAD_POINTER"),
        (38, 0x1000, "BAD_OBJECT"),
    ];
    for (case, address, rule) in stops {
        let driver = Driver::start();
        let stop = driver.try_run(case, [address, 8, 1, 0]).unwrap_err();
        assert!(text(&stop).contains(rule), "case {case}, {rule}: {}", text(&stop));
        assert!(text(&stop).contains("seh.c:"), "case {case}: {}", text(&stop));
    }
    let driver = Driver::start();
    let value = 7;
    driver.run(37, [word(&value), 0, 0, 0]);
    let Driver { mut machine, file } = driver;
    file.close().unwrap();
    let stop = machine.stop().unwrap_err();
    assert!(text(&stop).contains("MDL_PAGES_LEFT_LOCKED"), "{}", text(&stop));
}
