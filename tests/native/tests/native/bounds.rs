//! Indications that are too short or too long, at every layer, in both builds.
//!
//! The driver must not fault or read beyond a guard page. It must answer in bounded time
//! with the expected verdict.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use lab::hushport::EVENT_PROVIDER;
use machine::etw::Enable;
use machine::nt::{Irql, Options};
use native::bounds::{self, KINDS, SETUPS, Setup};
use native::builds::Machine;
use native::counters::Kept;
use native::targets::classify::Bench;

/// A classify takes microseconds. After this time it counts as endless.
const LONGEST: Duration = Duration::from_secs(120);

/// Ends the process if a case does not end, and names the case.
fn watch(test: String) -> Sender<String> {
    let (sender, receiver) = mpsc::channel::<String>();
    thread::spawn(move || {
        let mut last = String::new();
        loop {
            match receiver.recv_timeout(LONGEST) {
                Ok(name) => last = name,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("{test}: does not end: {last}");
                    std::process::abort();
                }
            }
        }
    });
    sender
}

/// Shows all cases to a build. Returns their number.
fn ask_all(build: fn(Options) -> Machine, setup: &Setup, level: Irql) -> usize {
    let options = Options { processors: 1, classify_irql: level, ..Options::default() };
    let machine = build(options);
    setup.values().into_iter().for_each(|(name, value)| machine.set(name, value));
    let mut bench = Bench::start(machine);
    let session = setup.looks.then(|| bench.machine.kernel().trace(Enable::all(EVENT_PROVIDER), None));
    let kept = Kept::find(bench.machine.kernel());
    let watch = watch(format!("{} at {level:?}", setup.name));
    let (mut shown, mut wrong) = (0, Vec::new());
    for callout in bench.callouts.clone() {
        let number = bounds::number(&callout);
        for kind in KINDS {
            let mut before = kept.row(number);
            for case in bounds::cases(&callout, setup, kind) {
                let name = format!("{}, {kind:?}: {}", callout.layer.name, case.name);
                watch.send(name.clone()).unwrap();
                let out = bench.ask(&callout, &case.indication);
                let after = kept.row(number);
                let counted: Vec<_> =
                    after.iter().zip(&before).map(|(after, before)| after - before).collect();
                wrong.extend(
                    bounds::check(&case, &counted, out).err().map(|error| format!("{name}: {error}")),
                );
                before = after;
                shown += 1;
            }
            session.iter().for_each(|session| drop(session.take()));
        }
    }
    drop(session);
    let list = wrong.iter().take(40).map(|one| format!("\n{one}")).collect::<String>();
    assert!(wrong.is_empty(), "{}: {} of {shown}:{list}", setup.name, wrong.len());
    bench.end();
    shown
}

fn ask_both(setup: usize, level: Irql) {
    let [image, native] =
        [Machine::image, Machine::native].map(|build| ask_all(build, &SETUPS[setup], level));
    assert_eq!(image, native);
    assert!(image > 50_000, "{image} cases");
}

#[test]
fn by_default() {
    ask_both(0, Irql::DISPATCH);
}

#[test]
fn with_lists_and_echo_below_dispatch_level() {
    ask_both(1, Irql::PASSIVE);
}

#[test]
fn watched() {
    ask_both(2, Irql::DISPATCH);
}
