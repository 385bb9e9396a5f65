//! What the driver waits for, where a debugger and the driver's watchdog find it.

use core::sync::atomic::{AtomicU64, Ordering};

use super::clock;
use crate::logic::waiting::{Awaited, COUNT, NAMES, to_tell};

/// Since when the driver waits, for each [`Awaited`]: [`clock::milliseconds`], or 0 if it
/// does not wait for it.
///
/// In a debugger: `dq hushport::kernel::waiting::WAITING`. docs/OBSERVE.md lists what the
/// words are about.
static WAITING: [AtomicU64; COUNT] = [const { AtomicU64::new(0) }; COUNT];

/// Makes a call that may not return for long, or waits for something else.
#[inline(always)]
pub fn waiting<T>(awaited: Awaited, wait: impl FnOnce() -> T) -> T {
    note(awaited, true);
    let result = wait();
    note(awaited, false);
    result
}

#[inline(never)]
fn note(awaited: Awaited, waits: bool) {
    let since = if waits { clock::milliseconds().max(1) } else { 0 };
    if let Some(place) = WAITING.get(awaited as usize) {
        place.store(since, Ordering::Relaxed);
    }
}

/// Calls `tell` with the name and the seconds of each wait that is to be told now. At
/// `before` this was last called. Times are in milliseconds.
pub fn to_be_told(before: u64, now: u64, mut tell: impl FnMut(&'static str, u32)) {
    for (name, since) in NAMES.iter().zip(&WAITING) {
        let since = since.load(Ordering::Relaxed);
        if since != 0
            && let Some(seconds) = to_tell(since, before, now)
        {
            tell(name, seconds);
        }
    }
}
