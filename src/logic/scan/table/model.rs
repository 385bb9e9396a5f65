//! Model checking with loom: the sweep reads a slot while its processor writes it.
//!
//! Each model is also run with the fences left out on one side. Then it must fail.

use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::logic::atomic::planted::without_fences;

/// Two remotes. Each meets a port of its own, with a technique of its own.
const REMOTES: [Remote; 2] = [Remote(1 << 64 | 2), Remote(3 << 64 | 4)];
const MET: [(u32, Technique); 2] = [(0, Technique::Syn), (1, Technique::Fin)];

fn enter(slot: &RemoteSlot, number: usize) {
    slot.take(REMOTES[number], 1, 0);
    slot.mark(1, MET[number].0, MET[number].1);
}

/// Runs a model with every thread preempted at most twice.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut bounded = loom::model::Builder::new();
    bounded.preemption_bound = Some(2);
    bounded.check(model);
}

/// The slot goes to another remote while the sweep reads it.
fn taken_while_read() {
    check(|| {
        let slot = Arc::new(RemoteSlot::default());
        enter(&slot, 0);
        let there = slot.clone();
        let owner = thread::spawn(move || enter(&there, 1));
        if let Some(seen) = slot.read(1) {
            let number = REMOTES.iter().position(|remote| *remote == seen.remote);
            let (port, technique) = MET[number.expect("one of the remotes, whole")];
            assert_eq!(seen.ports, 1 << port, "the ports are those of the remote");
            assert_eq!(seen.techniques & !Techniques::bit(technique), 0, "the techniques, too");
        }
        owner.join().unwrap();
    });
}

#[test]
fn a_remote_is_read_with_its_own_ports() {
    taken_while_read();
}

#[test]
#[should_panic]
fn without_release_a_remote_is_read_with_other_ports() {
    without_fences(Release, taken_while_read);
}

#[test]
#[should_panic]
fn without_acquire_a_remote_is_read_with_other_ports() {
    without_fences(Acquire, taken_while_read);
}

/// The remote comes again after a round of spans while the sweep reads the slot.
fn advanced_while_read() {
    check(|| {
        let slot = Arc::new(RemoteSlot::default());
        slot.take(REMOTES[0], 0, 0);
        slot.mark(0, 0, Technique::Syn);
        let there = slot.clone();
        let owner = thread::spawn(move || {
            there.advance(SPANS);
            there.mark(SPANS, 1, Technique::Syn);
        });
        let there = slot.clone();
        let sweep = thread::spawn(move || {
            if let Some(seen) = there.read(SPANS) {
                assert_eq!(seen.ports, 2, "the port of the first round has expired");
            }
        });
        owner.join().unwrap();
        sweep.join().unwrap();
    });
}

#[test]
fn a_new_span_does_not_have_old_ports() {
    advanced_while_read();
}

#[test]
#[should_panic]
fn without_release_a_new_span_has_old_ports() {
    without_fences(Release, advanced_while_read);
}

#[test]
#[should_panic]
fn without_acquire_a_new_span_has_old_ports() {
    without_fences(Acquire, advanced_while_read);
}

/// The sweep notes a report while the slot goes to another remote, which must be
/// reported, too.
#[test]
fn a_report_belongs_to_the_remote_that_was_reported() {
    check(|| {
        let slot = Arc::new(RemoteSlot::default());
        enter(&slot, 0);
        let there = slot.clone();
        let owner = thread::spawn(move || enter(&there, 1));
        if let Some(seen) = slot.read(1) {
            slot.set_reported(&seen, 1);
            let again = slot.read(1);
            let same = again.is_some_and(|again| again.remote == seen.remote);
            assert!(!same || again.is_some_and(|again| again.is_reported));
            assert!(same || again.is_none_or(|again| !again.is_reported), "another remote");
        }
        owner.join().unwrap();
    });
}
