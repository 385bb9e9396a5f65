//! Reading the driver's Parameters key.

use core::mem::size_of;
use core::ptr;

use super::entry::DriverObject;
use super::irql::Passive;
use super::status::{Result, Status, to_result};
use super::utf16::Utf16;
use crate::ffi;

/// An open registry key.
pub struct Key(ffi::HANDLE);

/// Why a value is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueError {
    /// It is there, but is no REG_DWORD.
    WrongType,
    /// It cannot be read.
    Unreadable(Status),
}

impl Key {
    /// Opens `Parameters` under the driver's service key; `None` where there is
    /// none.
    pub fn parameters(driver: &DriverObject, _: &Passive) -> Result<Option<Self>> {
        let mut handle = ptr::null_mut();
        // SAFETY: the driver object is the system's, `handle` is a local, and
        // the call is made at PASSIVE_LEVEL.
        let status = to_result(unsafe {
            ffi::IoOpenDriverRegistryKey(
                driver.as_ptr(),
                ffi::_DRIVER_REGKEY_TYPE::DriverRegKeyParameters,
                ffi::KEY_QUERY_VALUE,
                0,
                &mut handle,
            )
        });
        match status {
            Ok(()) => Ok(Some(Self(handle))),
            Err(status) if status.is(ffi::STATUS_OBJECT_NAME_NOT_FOUND) => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// A REG_DWORD's number; `None` where there is no such value.
    pub fn dword(&self, name: &str, _: &Passive) -> core::result::Result<Option<u32>, ValueError> {
        /// KEY_VALUE_PARTIAL_INFORMATION with room for four bytes of data.
        #[repr(C)]
        struct Dword {
            title_index: ffi::ULONG,
            kind: ffi::ULONG,
            data_length: ffi::ULONG,
            data: [u8; size_of::<u32>()],
        }
        const _: () = assert!(size_of::<Dword>() == size_of::<ffi::KEY_VALUE_PARTIAL_INFORMATION>());
        let mut value = Dword { title_index: 0, kind: 0, data_length: 0, data: [0; 4] };
        let name = Utf16::<32>::concat(&[name]);
        let mut name = name.unicode_string();
        let mut length = 0;
        // SAFETY: the handle is open, name and value are locals of the lengths
        // given, and the call is made at PASSIVE_LEVEL.
        let status = to_result(unsafe {
            ffi::ZwQueryValueKey(
                self.0,
                &mut name,
                ffi::_KEY_VALUE_INFORMATION_CLASS::KeyValuePartialInformation,
                (&raw mut value).cast(),
                size_of::<Dword>() as ffi::ULONG,
                &mut length,
            )
        });
        match status {
            Ok(()) if value.kind == ffi::REG_DWORD && value.data_length as usize == value.data.len() => {
                Ok(Some(u32::from_le_bytes(value.data)))
            }
            Ok(()) => Err(ValueError::WrongType),
            Err(status) if status.is(ffi::STATUS_OBJECT_NAME_NOT_FOUND) => Ok(None),
            // Longer than a REG_DWORD can be.
            Err(status)
                if status.is(ffi::STATUS_BUFFER_OVERFLOW) || status.is(ffi::STATUS_BUFFER_TOO_SMALL) =>
            {
                Err(ValueError::WrongType)
            }
            Err(status) => Err(ValueError::Unreadable(status)),
        }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: the handle is open and closed once, here; keys are only held
        // at PASSIVE_LEVEL.
        let closed = unsafe { ffi::ZwClose(self.0) };
        debug_assert!(closed >= 0, "an open handle closes");
    }
}
