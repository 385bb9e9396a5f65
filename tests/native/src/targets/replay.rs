//! Fuzz target: replay of any segments with `CheckOrder` has no deviation.

use std::cell::RefCell;
use std::mem::ManuallyDrop;

use lab::trace::arbitrary::Player;
use machine::nt::Options;

use super::classify::{Bench, start};
use crate::builds::Machine;

thread_local! {
    /// The driver. It runs on, because its start takes longer than many captures. It is
    /// not dropped when the thread ends: its unload needs the thread's other locals.
    static RUNNING: RefCell<Option<ManuallyDrop<(Player, Bench)>>> = const { RefCell::new(None) };
}

/// Stops the driver that this thread's inputs have left running.
pub fn finish() {
    if let Some(running) = RUNNING.take() {
        let (player, bench) = ManuallyDrop::into_inner(running);
        drop(player);
        bench.end();
    }
}

/// The target.
///
/// # Panics
/// If the driver reports a deviation.
pub fn run(bytes: &[u8]) {
    let found = RUNNING.with_borrow_mut(|running| {
        let running = running.get_or_insert_with(|| {
            let options = Options { processors: 1, ..Options::default() };
            let bench = start(Machine::native(options), &[("CheckOrder", 1), ("FlowLimit", 64)]);
            ManuallyDrop::new((Player::new(bench.machine.kernel(), bench.machine.engine()), bench))
        });
        running.0.play(bytes).expect("the capture is read")
    });
    if !found.is_empty() {
        finish();
        panic!("{found:#?}");
    }
}
