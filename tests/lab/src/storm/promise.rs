//! What a SYN to a closed port must meet, and when that may be asked.

use std::sync::atomic::{AtomicU64, Ordering};

use machine::nt::registry::RegistryValue;
use machine::nt::{Kernel, parameters_key};
use machine::schedule::Random;

use crate::hushport::SERVICE;

/// The port that [`Wanted::SilentBut`] leaves alone.
pub(super) const EXEMPT: u16 = 22;

/// What the driver is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing is promised.
    Anything,
    /// Closed ports answer.
    Open,
    /// They do not.
    Silent,
    /// They do not, but for [`EXEMPT`].
    SilentBut,
}

impl Wanted {
    /// One that a policy can say.
    pub(super) fn draw(random: &mut Random) -> Self {
        match random.below(5) {
            0 => Self::Open,
            1 => Self::SilentBut,
            _ => Self::Silent,
        }
    }

    /// Says it by the driver's values; the list before the mode, and each of
    /// them may be read alone.
    pub(super) fn tell(self, kernel: &Kernel, random: &mut Random) {
        let key = parameters_key(SERVICE);
        let list: &[&str] = if self == Self::SilentBut { &["22/tcp"] } else { &[] };
        kernel.set_value(&key, "ExemptPorts", RegistryValue::multi_sz(list));
        // Off or only counting.
        let quiet = matches!(self, Self::Silent | Self::SilentBut);
        let mode = if quiet { 2 } else { random.below(2) as u32 };
        kernel.set_value(&key, "Mode", RegistryValue::dword(mode));
    }

    /// Whether a SYN for a closed port must be blocked; `None` if nobody knows.
    pub(super) fn blocked(self, port: u16) -> Option<bool> {
        match self {
            Self::Anything => None,
            Self::Open => Some(false),
            Self::Silent => Some(true),
            Self::SilentBut => Some(port != EXEMPT),
        }
    }
}

/// The low bits of a word whose rest counts changes, so that who reads the same
/// word twice knows that nothing happened between.
pub(super) struct Promise(AtomicU64);

const ALL: [Wanted; 4] = [Wanted::Anything, Wanted::Open, Wanted::Silent, Wanted::SilentBut];

impl Promise {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self(AtomicU64::new(wanted as u64))
    }

    /// One thread makes promises.
    pub(super) fn set(&self, wanted: Wanted) {
        let next = (self.0.load(Ordering::SeqCst) & !3) + 4;
        self.0.store(next | wanted as u64, Ordering::SeqCst);
    }

    /// The promise, and the word to compare.
    pub(super) fn get(&self) -> (Wanted, u64) {
        let word = self.0.load(Ordering::SeqCst);
        (ALL[word as usize & 3], word)
    }
}
