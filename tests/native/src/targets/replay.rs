//! Captures of any segments in any roles, replayed with `CheckOrder`: whatever
//! they hold, nothing is out of order, for there is no fault in the stack.

use std::cell::RefCell;

use lab::trace::arbitrary::Player;
use machine::nt::Options;

use super::classify::{Bench, start};
use crate::builds::Machine;

thread_local! {
    /// The driver, which takes longer to start than many captures take.
    static RUNNING: RefCell<Option<(Player, Bench)>> = const { RefCell::new(None) };
}

/// Lets the driver stop that this thread's inputs have left running.
pub fn finish() {
    if let Some((player, bench)) = RUNNING.take() {
        drop(player);
        bench.end();
    }
}

/// The target.
///
/// # Panics
/// If the replay brings about a deviation.
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
        // A driver that still runs when the thread ends would end the process, and
        // the message with it.
        finish();
        panic!("{found:#?}");
    }
}
