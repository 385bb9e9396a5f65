//! Model checking with loom: a value is replaced while processors read it.
//!
//! `kernel::current` and `kernel::processors` do this with the kernel's calls. In the
//! model a processor is a lock: code at DISPATCH_LEVEL holds it, and a thread below that
//! level runs there only while the lock is free.

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

struct Replaced {
    processors: [Mutex<()>; 2],
    current: AtomicUsize,
    freed: [AtomicBool; 2],
}

/// Two processors read the value while it is replaced. `visits`: the processors that the
/// writer visits before it frees the old value.
fn replaced(visits: usize) {
    loom::model(move || {
        let shared = Arc::new(Replaced {
            processors: [Mutex::new(()), Mutex::new(())],
            current: AtomicUsize::new(0),
            freed: [AtomicBool::new(false), AtomicBool::new(false)],
        });
        let readers = [0, 1].map(|processor| {
            let shared = shared.clone();
            thread::spawn(move || {
                let at_dispatch = shared.processors[processor].lock().unwrap();
                let value = shared.current.load(Ordering::Acquire);
                assert!(!shared.freed[value].load(Ordering::Relaxed), "a freed value is read");
                drop(at_dispatch);
            })
        });
        shared.current.store(1, Ordering::Release);
        shared.processors[..visits].iter().for_each(|processor| drop(processor.lock().unwrap()));
        shared.freed[0].store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn no_reader_uses_a_value_that_is_freed_after_a_walk_over_all_processors() {
    replaced(2);
}

#[test]
#[should_panic(expected = "a freed value is read")]
fn without_the_visit_to_one_processor_its_reader_uses_a_freed_value() {
    replaced(1);
}
