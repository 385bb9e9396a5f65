//! Runs a machine's threads one instruction of the driver at a time.

use std::sync::{Arc, PoisonError};

use super::Kernel;
use super::load::Loaded;
use crate::driver::DriverId;
use crate::image::{self, Next, Step};

/// Called before an instruction of the driver, whose address is its offset in the
/// image. Returns before which one it is called next.
pub type BeforeInstruction = Arc<dyn Fn(Step) -> Next + Send + Sync>;

impl Kernel {
    /// Runs `f`. Calls `before` for the instructions of a driver that this thread executes
    /// in `f`, as far as it asks for them: of the only loaded driver, or of the one that was
    /// loaded first. The thread keeps its IRQL and processor until `before` returns. Where
    /// `before` is not called, it runs at full speed.
    ///
    /// `before` may wait for other threads. It must not panic, and must not call
    /// the driver on this thread. It is not called for an image that is loaded
    /// later, or for a driver without an image.
    ///
    /// # Panics
    /// If this thread is already in a driver.
    pub fn stepwise<R>(&self, before: impl FnMut(Step) -> Next, f: impl FnOnce() -> R) -> R {
        step(self.drivers.find(|_| true), before, f)
    }

    /// As [`Self::stepwise`], for the instructions of a service's driver.
    ///
    /// # Panics
    /// As [`Self::stepwise`].
    pub fn stepwise_in<R>(
        &self,
        service: &str,
        before: impl FnMut(Step) -> Next,
        f: impl FnOnce() -> R,
    ) -> R {
        step(self.loaded_as(service), before, f)
    }

    /// Runs a thread of a driver, stepwise if requested.
    pub(super) fn run_stepped<R>(&self, driver: DriverId, f: impl FnOnce() -> R) -> R {
        let stepper = &self.drivers.service_of(driver).thread_stepper;
        let before = stepper.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match before {
            Some(before) => step(self.drivers.find(|it| it.id == driver), |step| before(step), f),
            None => f(),
        }
    }
}

fn step<R>(driver: Option<Arc<Loaded>>, mut before: impl FnMut(Step) -> Next, f: impl FnOnce() -> R) -> R {
    let Some(driver) = driver else { return f() };
    let image = driver.range();
    let base = image.start;
    image::stepping(image, |step| before(Step { address: step.address - base, ..step }), f)
}
