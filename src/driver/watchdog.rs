//! Tells what the driver waits for, if it waits for long.
//!
//! A call of the engine may not return, or may refuse for ever to release something. The
//! thread that waits cannot say so. So this has a thread of its own, which takes no lock
//! and makes no such call.

use super::events;
use super::shared::Shared;
use crate::kernel::clock;
use crate::kernel::irql::Passive;
use crate::kernel::pool::PoolArc;
use crate::kernel::thread::{Signal, ThreadBody};
use crate::kernel::waiting::to_be_told;

/// Milliseconds between two looks at the waits.
const LOOK_MS: u32 = 5_000;

/// Looks at the waits until it is dropped.
pub struct Watchdog(pub PoolArc<Shared>);

impl ThreadBody for Watchdog {
    fn run(&mut self, signal: &Signal, irql: &Passive) {
        let Shared { channel, event_log, .. } = &*self.0;
        let mut before = clock::milliseconds();
        while !signal.is_ending() {
            let _only_its_end_wakes_it = signal.wait(LOOK_MS, irql);
            let now = clock::milliseconds();
            to_be_told(before, now, |awaited, seconds| {
                events::waiting(channel, awaited, seconds, irql);
                event_log.waiting(awaited, seconds, irql);
            });
            before = now;
        }
    }
}
