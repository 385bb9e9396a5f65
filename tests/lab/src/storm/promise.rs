//! What must happen to a SYN to a closed port, and when that is known.

use std::sync::atomic::{AtomicU64, Ordering};

use machine::nt::registry::RegistryValue;
use machine::nt::{Kernel, parameters_key};
use machine::schedule::Random;

use crate::hushport::{LOOK, SERVICE};

/// The port that [`Wanted::SilentBut`] exempts.
pub(super) const EXEMPT: u16 = 22;

/// The policy that the driver is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing is known.
    Anything,
    /// Closed ports answer.
    Open,
    /// Closed ports are silent.
    Silent,
    /// Closed ports are silent, except [`EXEMPT`].
    SilentBut,
}

impl Wanted {
    /// A random one that a policy can express.
    pub(super) fn draw(random: &mut Random) -> Self {
        match random.below(5) {
            0 => Self::Open,
            1 => Self::SilentBut,
            _ => Self::Silent,
        }
    }

    /// Sets the driver's values. The list is set before the mode, because the
    /// driver may read after each change.
    pub(super) fn apply(self, kernel: &Kernel, random: &mut Random) {
        let key = parameters_key(SERVICE);
        let list: &[&str] = if self == Self::SilentBut { &["22/tcp"] } else { &[] };
        kernel.set_value(&key, "ExemptPorts", RegistryValue::multi_sz(list));
        // Off or audit.
        let quiet = matches!(self, Self::Silent | Self::SilentBut);
        let mode = if quiet { 2 } else { random.below(2) as u32 };
        kernel.set_value(&key, "Mode", RegistryValue::dword(mode));
        kernel.pass(LOOK);
    }

    /// Whether a SYN to a closed port must be blocked; `None` if unknown.
    pub(super) fn blocked(self, port: u16) -> Option<bool> {
        match self {
            Self::Anything => None,
            Self::Open => Some(false),
            Self::Silent => Some(true),
            Self::SilentBut => Some(port != EXEMPT),
        }
    }
}

/// The current promise in the low bits of a word. The other bits count changes, so
/// a reader that gets the same word twice knows that nothing has changed.
pub(super) struct Promise(AtomicU64);

const ALL: [Wanted; 4] = [Wanted::Anything, Wanted::Open, Wanted::Silent, Wanted::SilentBut];

impl Promise {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self(AtomicU64::new(wanted as u64))
    }

    /// Sets the promise. Only one thread does this.
    pub(super) fn set(&self, wanted: Wanted) {
        let next = (self.0.load(Ordering::SeqCst) & !3) + 4;
        self.0.store(next | wanted as u64, Ordering::SeqCst);
    }

    /// The promise, and the word for the comparison.
    pub(super) fn get(&self) -> (Wanted, u64) {
        let word = self.0.load(Ordering::SeqCst);
        (ALL[word as usize & 3], word)
    }
}
