//! Calls into the driver and calls of exports keep the calling convention.

use machine::image::{FaultKind, Stop};

use crate::exports::SITE;
use crate::harness::{Driver, Routine, line_of};

#[test]
fn exports_take_their_stack_arguments() {
    assert_eq!(Driver::start().run(Routine::Ten, 0).expect("runs"), 12_345_678_910);
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
    assert!(!machine::image::in_call());
}

#[test]
fn the_stack_used_is_measured() {
    let driver = Driver::start();
    machine::image::stack_used_reset();
    driver.run(Routine::Count, 0).expect("counts");
    let little = machine::image::stack_used();
    driver.run(Routine::Spend, 0).expect("spends");
    let much = machine::image::stack_used();
    assert!(little < 300, "{little} bytes for a leaf");
    assert!((3000..3600).contains(&much), "{much} bytes for a frame of 3000");
    machine::image::stack_used_reset();
    assert_eq!(machine::image::stack_used(), 0);
    // The export uses a megabyte of stack, which does not count for the driver.
    driver.run(Routine::Registers, 0).expect("calls an export");
    let with_export = machine::image::stack_used();
    assert!(with_export < 1000, "{with_export} bytes");
}

#[test]
fn threads_have_stacks_of_their_own() {
    let driver = Driver::start();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let driver = &driver;
            scope.spawn(move || {
                for round in 0..200 {
                    assert_eq!(driver.run(Routine::Nested, thread).expect("runs"), 2 * thread + 1);
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
fn a_panic_reaches_the_bugcheck_with_its_line() {
    let driver = Driver::start();
    assert_eq!(driver.run(Routine::Fail, 2).expect("in bounds"), 3);
    let stop = driver.run(Routine::Fail, 3).expect_err("out of bounds");
    let Stop::BugCheck { code, parameters, text, backtrace } = &stop else { panic!("{stop}") };
    assert_eq!(*code, 0xDEAD);
    let line = line_of("black_box(index)");
    assert_eq!(parameters[2], u64::from(line));
    assert!(text.ends_with(&format!("driver.rs:{line}")), "{text}");
    let functions: Vec<_> = backtrace.0.iter().flat_map(|frame| &frame.symbols).collect();
    assert_eq!(backtrace.0[0].place, "ntoskrnl.exe!KeBugCheckEx");
    assert!(functions.iter().any(|frame| { frame.function.contains("core::panicking::panic_bounds_check") }));
    let last = functions.last().expect("a frame");
    assert_eq!((&*last.function, last.line), ("driver::fail", Some(line)));
}

#[test]
fn an_export_knows_where_it_was_called() {
    let driver = Driver::start();
    driver.run(Routine::Nested, 1).expect("runs");
    let site = SITE.get().expect("called back");
    let line = line_of("LabCallback(called_back");
    let text = machine::image::describe(site);
    assert!(text.starts_with("driver.sys+0x"), "{text}");
    assert!(text.contains("(.text, driver::nested at "), "{text}");
    assert!(text.ends_with(&format!("driver.rs:{line})")), "{text}");
    assert_eq!(machine::image::call_site(), None);
    let (counters, _) = driver.image.data("COUNTERS").expect("in the PDB");
    let text = machine::image::describe(counters + 8);
    assert!(text.ends_with("driver::COUNTERS+0x8)"), "{text}");
}
