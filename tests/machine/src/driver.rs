//! Tells the drivers of a machine apart.
#![forbid(unsafe_code)]

/// A load of a driver, or the system itself. No two loads in a machine have the same id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriverId(u32);

impl DriverId {
    /// No driver.
    pub const SYSTEM: Self = Self(0);
    /// The most services that a machine knows; the system counts as one.
    pub const SERVICES: usize = 64;

    /// A load of the service with this number, which is less than [`Self::SERVICES`].
    /// `load` counts its loads from 1.
    pub(crate) fn new(service: usize, load: u32) -> Self {
        Self(load * Self::SERVICES as u32 + service as u32)
    }

    /// The number of the service. That of the system is 0.
    pub(crate) fn service(self) -> usize {
        self.0 as usize % Self::SERVICES
    }
}

/// Who has made something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The driver.
    pub driver: DriverId,
    /// Return addresses of the driver's call, innermost first. Empty if unknown.
    pub stack: Vec<u64>,
}
