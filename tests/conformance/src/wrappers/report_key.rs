//! The key of the report.

use core::ptr;

use crate::ffi;
use crate::kernel::entry::DriverObject;
use crate::kernel::irql::Passive;
use crate::kernel::status::{Result, to_result};
use crate::kernel::utf16::Utf16;

/// `REG_SZ` (winnt.h).
const REG_SZ: ffi::ULONG = 1;
/// `REG_DWORD` (winnt.h).
const REG_DWORD: ffi::ULONG = 4;

/// The key `Parameters\Report`, open for writing.
pub struct ReportKey(ffi::HANDLE);

// SAFETY: a kernel handle is the same in every thread.
unsafe impl Send for ReportKey {}
// SAFETY: as above; the system locks for itself.
unsafe impl Sync for ReportKey {}

impl ReportKey {
    /// Creates the key, or opens it.
    pub fn create(driver: &DriverObject, _: &Passive) -> Result<Self> {
        let mut parameters = ptr::null_mut();
        // SAFETY: the driver object is the system's, the handle is a local, and the
        // call is made at PASSIVE_LEVEL.
        to_result(unsafe {
            ffi::IoOpenDriverRegistryKey(
                driver.as_ptr(),
                ffi::_DRIVER_REGKEY_TYPE::DriverRegKeyParameters,
                ffi::KEY_CREATE_SUB_KEY,
                0,
                &mut parameters,
            )
        })?;
        let name = Utf16::<8>::concat(&["Report"]);
        let mut name = name.unicode_string();
        let attributes = ffi::OBJECT_ATTRIBUTES {
            Length: size_of::<ffi::OBJECT_ATTRIBUTES>() as ffi::ULONG,
            RootDirectory: parameters,
            ObjectName: &mut name,
            Attributes: ffi::OBJ_KERNEL_HANDLE,
            SecurityDescriptor: ptr::null_mut(),
            SecurityQualityOfService: ptr::null_mut(),
        };
        let mut handle = ptr::null_mut();
        // SAFETY: handle and attributes are locals, the key is open, and the call is
        // made at PASSIVE_LEVEL. 0 is REG_OPTION_NON_VOLATILE.
        let created = to_result(unsafe {
            ffi::ZwCreateKey(
                &mut handle,
                ffi::KEY_SET_VALUE,
                ptr::from_ref(&attributes).cast_mut(),
                0,
                ptr::null_mut(),
                0,
                ptr::null_mut(),
            )
        });
        // SAFETY: the handle is open and closed once, here.
        let _closed = unsafe { ffi::ZwClose(parameters) };
        created.map(|()| Self(handle))
    }

    /// Writes a text, which ends with a zero.
    pub fn set_text(&self, name: &Utf16<128>, text: &[u16], _: &Passive) -> Result {
        self.set(name, REG_SZ, text.as_ptr().cast(), size_of_val(text))
    }

    /// Writes a number.
    pub fn set_number(&self, name: &Utf16<128>, number: u32, _: &Passive) -> Result {
        self.set(name, REG_DWORD, ptr::from_ref(&number).cast(), size_of_val(&number))
    }

    fn set(&self, name: &Utf16<128>, kind: ffi::ULONG, data: *const u8, size: usize) -> Result {
        let mut name = name.unicode_string();
        // SAFETY: the key is open, the name and the data are the callers' and live
        // until the return, and callers are at PASSIVE_LEVEL.
        to_result(unsafe {
            ffi::ZwSetValueKey(self.0, &mut name, 0, kind, data.cast_mut().cast(), size as ffi::ULONG)
        })
    }
}

impl Drop for ReportKey {
    fn drop(&mut self) {
        // SAFETY: the handle is open and closed once, here; keys are dropped at
        // PASSIVE_LEVEL.
        let _closed = unsafe { ffi::ZwClose(self.0) };
    }
}
