//! A machine's threads, one instruction of the driver at a time.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::Kernel;
use crate::image;

/// Called before an instruction of the driver with its offset in the image. A break
/// ends the stepping of the thread.
pub type BeforeInstruction = Arc<dyn Fn(u64) -> ControlFlow<()> + Send + Sync>;

impl Kernel {
    /// Runs `f`. Calls `before` with the offset in the loaded image of each
    /// instruction that this thread is about to execute in it. Until `before`
    /// returns the thread stays where it is, at its level and on its processor. After
    /// a break it goes on at full speed.
    ///
    /// `before` may wait for other threads. It must not panic, and must not call
    /// the driver on this thread. It is not called for an image that is loaded
    /// later, nor for a driver that is no image.
    ///
    /// # Panics
    /// If this thread is in the driver already.
    pub fn stepwise<R>(&self, mut before: impl FnMut(u64) -> ControlFlow<()>, f: impl FnOnce() -> R) -> R {
        let Some(image) = self.image_range() else { return f() };
        let base = image.start;
        image::stepping(image, |address| before(address - base), f)
    }

    /// Has the driver's own threads run stepwise, those that start from now on;
    /// `None` ends that for threads that start later.
    pub fn step_driver_threads(&self, before: Option<BeforeInstruction>) {
        *self.thread_stepper() = before;
    }

    /// Runs a thread of the driver's, stepwise if that was asked for.
    pub(super) fn run_stepped<R>(&self, f: impl FnOnce() -> R) -> R {
        let before = self.thread_stepper().clone();
        match before {
            Some(before) => self.stepwise(|offset| before(offset), f),
            None => f(),
        }
    }
}
