//! The device object that registrations with the system need.

use core::ptr;

use super::entry::DriverObject;
use super::irql::Passive;
use super::pool::{PoolArc, tag};
use super::status::{Result, to_result};
use crate::ffi;

/// A device without a name: nothing can open it.
///
/// Every registration that refers to the device also owns it, so the device is
/// deleted after the last of them.
#[derive(Clone)]
pub struct Device(PoolArc<Created>);

struct Created(ffi::PDEVICE_OBJECT);

// SAFETY: the pointer is only handed back to the system, which locks for itself.
unsafe impl Send for Created {}
// SAFETY: as above.
unsafe impl Sync for Created {}

impl Device {
    /// Creates the device object.
    pub fn create(driver: &DriverObject, _: &Passive) -> Result<Self> {
        let mut device = ptr::null_mut();
        // SAFETY: the driver object is the system's, a NULL name is allowed,
        // `device` is a local, and the call is made at PASSIVE_LEVEL.
        to_result(unsafe {
            ffi::IoCreateDevice(
                driver.as_ptr(),
                0,
                ptr::null_mut(),
                ffi::FILE_DEVICE_NETWORK,
                ffi::FILE_DEVICE_SECURE_OPEN,
                0,
                &mut device,
            )
        })?;
        let created = Created(device);
        Ok(Self(PoolArc::new(tag::DEVICE, created)?))
    }

    pub(crate) fn as_ptr(&self) -> ffi::PDEVICE_OBJECT {
        self.0.0
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        // SAFETY: IoCreateDevice made it, its last owner is gone, and it is
        // deleted once, here; devices are dropped at PASSIVE_LEVEL.
        unsafe { ffi::IoDeleteDevice(self.0) };
    }
}
