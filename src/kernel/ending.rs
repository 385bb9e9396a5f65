//! Values that must be ended before they are dropped.

use super::irql::Passive;

/// What must be ended.
pub trait End {
    /// Ends it. Called once.
    fn end(&self, irql: &Passive);
}

/// Ends a value when it is dropped. So the order of a type's fields says when, also if
/// a later step of the start fails. To be dropped at PASSIVE_LEVEL, where it is made.
pub struct Ending<T: End>(T);

impl<T: End> Ending<T> {
    /// Ends the value later.
    pub fn new(value: T, _: &Passive) -> Self {
        Self(value)
    }
}

impl<T: End> Drop for Ending<T> {
    fn drop(&mut self) {
        // SAFETY: it was made at PASSIVE_LEVEL, and is dropped there.
        self.0.end(&unsafe { Passive::assume() });
    }
}
