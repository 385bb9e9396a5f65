//! DriverEntry and DriverUnload, around a driver that starts and stops.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

use super::irql::Passive;
use super::status::Result;
use crate::ffi;

/// The system's object for this driver. It lives until the driver has been unloaded.
#[derive(Clone)]
pub struct DriverObject(NonNull<ffi::DRIVER_OBJECT>);

// SAFETY: the pointer is only handed back to the system, which locks for itself.
unsafe impl Send for DriverObject {}
// SAFETY: as above.
unsafe impl Sync for DriverObject {}

impl DriverObject {
    pub(crate) fn as_ptr(&self) -> *mut ffi::DRIVER_OBJECT {
        self.0.as_ptr()
    }
}

/// A driver: started when loaded; dropped when unloaded, which stops everything in
/// reverse order.
pub trait Lifecycle: Sized + Send + Sync {
    /// Starts the driver. On failure undoes what was started before.
    fn start(object: &DriverObject, irql: &Passive) -> Result<Self>;
}

/// Storage for the one running driver.
pub struct Instance<D> {
    running: AtomicBool,
    driver: UnsafeCell<MaybeUninit<D>>,
}

// SAFETY: `running` passes the driver from the thread that loads it to the thread
// that unloads it. Nothing else accesses it.
unsafe impl<D: Send> Sync for Instance<D> {}

impl<D: Lifecycle> Instance<D> {
    /// No driver runs.
    pub const fn none() -> Self {
        Self { running: AtomicBool::new(false), driver: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// DRIVER_INITIALIZE: starts the driver.
    ///
    /// # Safety
    /// The system calls it with its driver object at PASSIVE_LEVEL, and not
    /// again before [`Self::unload`].
    pub unsafe fn load(&self, object: *mut ffi::DRIVER_OBJECT, unload: ffi::PDRIVER_UNLOAD) -> ffi::NTSTATUS {
        let Some(object) = NonNull::new(object) else {
            return ffi::STATUS_INVALID_PARAMETER;
        };
        // SAFETY: DriverEntry is called at PASSIVE_LEVEL (DRIVER_INITIALIZE).
        let irql = unsafe { Passive::assume() };
        let driver = match D::start(&DriverObject(object), &irql) {
            Ok(driver) => driver,
            Err(status) => return status.code(),
        };
        // SAFETY: no driver runs, so nothing else accesses the storage.
        unsafe { (*self.driver.get()).write(driver) };
        self.running.store(true, Ordering::Release);
        // SAFETY: the driver object is the system's, for DriverEntry to fill in.
        unsafe { (*object.as_ptr()).DriverUnload = unload };
        ffi::STATUS_SUCCESS
    }

    /// DRIVER_UNLOAD: stops the driver.
    ///
    /// # Safety
    /// The system calls it at PASSIVE_LEVEL, when of the driver that [`Self::load`]
    /// started only callbacks can still run.
    pub unsafe fn unload(&self) {
        if self.running.swap(false, Ordering::Acquire) {
            // SAFETY: `running` says that a driver was written and not yet
            // taken.
            let driver = unsafe { self.driver.get().cast::<D>().read() };
            // DriverUnload is called at PASSIVE_LEVEL (DRIVER_UNLOAD), where everything
            // was started.
            drop(driver);
        }
    }
}

/// Makes a [`Lifecycle`] the driver that the system loads: defines DriverEntry,
/// which the linker's /ENTRY names.
macro_rules! driver_entry {
    ($driver:ty) => {
        #[allow(unsafe_code, reason = "defines the image's entry point for src/kernel")]
        const _: () = {
            use $crate::{ffi, kernel::entry::Instance};

            static INSTANCE: Instance<$driver> = Instance::none();

            // SAFETY: the one definition of the image's entry point.
            #[unsafe(no_mangle)]
            unsafe extern "C" fn DriverEntry(
                object: *mut ffi::DRIVER_OBJECT,
                _registry_path: ffi::PUNICODE_STRING,
            ) -> ffi::NTSTATUS {
                // SAFETY: the system calls DriverEntry as `load` asks.
                unsafe { INSTANCE.load(object, Some(driver_unload)) }
            }

            unsafe extern "C" fn driver_unload(_object: *mut ffi::DRIVER_OBJECT) {
                // SAFETY: the system calls DriverUnload as `unload` asks.
                unsafe { INSTANCE.unload() }
            }
        };
    };
}

pub(crate) use driver_entry;
