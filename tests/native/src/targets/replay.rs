//! Fuzz target: replay of any segments with `CheckOrder` has no deviation.

use std::cell::RefCell;

use lab::trace::arbitrary::Player;
use machine::nt::Options;

use super::classify::{Bench, start};
use crate::builds::Machine;

thread_local! {
    /// The driver. It runs on, because its start takes longer than many captures.
    static RUNNING: RefCell<Option<(Player, Bench)>> = const { RefCell::new(None) };
}

/// Stops the driver that this thread's inputs have left running.
pub fn finish() {
    if let Some((player, bench)) = RUNNING.take() {
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
        let (player, _) = running.get_or_insert_with(|| {
            let options = Options { processors: 1, ..Options::default() };
            let bench = start(Machine::native(options), &[("CheckOrder", 1), ("FlowLimit", 64)]);
            (Player::new(bench.machine.kernel(), bench.machine.engine()), bench)
        });
        player.play(bytes).expect("the capture is read")
    });
    if !found.is_empty() {
        // If the driver still ran when the thread ends, the process would end without
        // this message.
        finish();
        panic!("{found:#?}");
    }
}
