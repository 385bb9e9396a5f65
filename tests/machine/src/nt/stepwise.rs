//! Runs a machine's threads one instruction of the driver at a time.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::Kernel;
use crate::image;

/// Called before an instruction of the driver, with the instruction's offset in the
/// image. A break ends the stepping of the thread.
pub type BeforeInstruction = Arc<dyn Fn(u64) -> ControlFlow<()> + Send + Sync>;

impl Kernel {
    /// Runs `f`. Calls `before` for each instruction of the loaded image that this
    /// thread executes in `f`, with the instruction's offset in the image. The
    /// thread keeps its IRQL and processor until `before` returns. After a break it
    /// runs at full speed.
    ///
    /// `before` may wait for other threads. It must not panic, and must not call
    /// the driver on this thread. It is not called for an image that is loaded
    /// later, or for a driver without an image.
    ///
    /// # Panics
    /// If this thread is already in the driver.
    pub fn stepwise<R>(&self, mut before: impl FnMut(u64) -> ControlFlow<()>, f: impl FnOnce() -> R) -> R {
        let Some(image) = self.image_range() else { return f() };
        let base = image.start;
        image::stepping(image, |address| before(address - base), f)
    }

    /// Runs the driver's own threads stepwise that start from now on. `None` ends
    /// this for threads that start later.
    pub fn step_driver_threads(&self, before: Option<BeforeInstruction>) {
        *self.thread_stepper() = before;
    }

    /// Runs a thread of the driver, stepwise if requested.
    pub(super) fn run_stepped<R>(&self, f: impl FnOnce() -> R) -> R {
        let before = self.thread_stepper().clone();
        match before {
            Some(before) => self.stepwise(|offset| before(offset), f),
            None => f(),
        }
    }
}
