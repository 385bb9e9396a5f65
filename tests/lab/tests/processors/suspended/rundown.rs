//! A session asks for the driver's state while the driver reads the registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use machine::etw::Enable;
use machine::image::Next;
use machine::nt::Options;
use machine::nt::registry::RegistryValue;

use super::super::actors::play;
use super::super::stage::file;
use lab::hushport::EVENT_PROVIDER;

/// Stops the driver's thread when it has read the value that is read first.
#[derive(Default)]
struct Halt {
    /// The number of the change that is to be read; 0 stops nothing.
    change: AtomicU64,
    stopped: AtomicBool,
    released: AtomicBool,
}

#[test]
fn a_refused_value_is_reported_while_the_registry_is_read_again() {
    play(Options::default(), 1, 0, |mut machine, play| {
        let halt = Arc::<Halt>::default();
        let (kernel, bell, here) = (Arc::downgrade(&play.kernel), play.bell(), Arc::clone(&halt));
        let before = move |_| {
            let Some(kernel) = kernel.upgrade() else { return Next::Nowhere };
            let change = here.change.load(Ordering::SeqCst);
            let read = kernel.last_reading_of(lab::hushport::SERVICE, "Mode");
            if change != 0 && read.is_some_and(|read| read.change >= change) {
                here.change.store(0, Ordering::SeqCst);
                here.stopped.store(true, Ordering::SeqCst);
                bell.ring();
                let goes_on = || here.released.load(Ordering::SeqCst);
                let _goes_on = bell.wait(&|| "the release".to_owned(), None, goes_on);
            }
            // Only a call of the kernel reads a value.
            Next::Return
        };
        play.kernel.step_driver_threads(Some(Arc::new(before)));
        machine.set_value("ExemptPorts", RegistryValue::multi_sz(["ssh"]));
        machine.start_file(file()).unwrap();
        play.let_others_run(200);
        halt.change.store(play.kernel.registry().changes() + 1, Ordering::SeqCst);
        machine.set("ScanPorts", 17);
        play.kernel.pass(lab::hushport::LOOK);
        play.wait("the driver's reading of Mode", || halt.stopped.load(Ordering::SeqCst));
        let events = play.kernel.trace(Enable::all(EVENT_PROVIDER), None).events();
        let rejected: Vec<_> = events
            .iter()
            .filter(|event| event.name == "PolicyRejected")
            .map(|event| event.text("Value"))
            .collect();
        assert_eq!(rejected, ["ExemptPorts"]);
        halt.released.store(true, Ordering::SeqCst);
        play.let_others_run(200);
        assert!(machine.stop().unwrap().is_empty());
    });
}
