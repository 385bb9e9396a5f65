//! Reads the driver's Parameters key.

use core::mem::offset_of;
use core::ptr;

use super::entry::DriverObject;
use super::irql::Passive;
use super::pool::Zeroed;
use super::status::{Result, Status, to_result};
use super::utf16::Utf16;
use crate::ffi;
use crate::logic::policy::values::MAX_BYTES;

/// An open registry key.
pub struct Key(ffi::HANDLE);

/// A buffer for a value. By default it has room for the longest value, which is too
/// large for a kernel stack.
///
/// The layout is that of KEY_VALUE_PARTIAL_INFORMATION (wdm.h), with room for the
/// data.
#[repr(C)]
pub struct Room<D: ?Sized = [u8; MAX_BYTES]> {
    title_index: ffi::ULONG,
    kind: ffi::ULONG,
    data_length: ffi::ULONG,
    data: D,
}

impl<const N: usize> Room<[u8; N]> {
    /// A buffer for `N` bytes, on the caller's stack.
    pub const fn empty() -> Self {
        Self { title_index: 0, kind: 0, data_length: 0, data: [0; N] }
    }
}

const _: () = assert!(offset_of!(Room, data) == offset_of!(ffi::KEY_VALUE_PARTIAL_INFORMATION, Data));

// SAFETY: integers and an array of them.
unsafe impl Zeroed for Room {}

/// A value as the registry holds it. Nothing guarantees that the data fit the type.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    /// The type, `REG_*`.
    pub kind: u32,
    /// The data.
    pub bytes: &'a [u8],
}

/// Why a value cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueError {
    /// The buffer is too small.
    TooLong,
    /// The registry refuses.
    Unreadable(Status),
}

impl Key {
    /// Opens `Parameters` under the driver's service key; `None` if it does not
    /// exist.
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

    /// When the key or one of its values was last changed, in units of 100 ns of the
    /// system's time (KEY_BASIC_INFORMATION). Fails if the key is deleted.
    pub fn last_write_time(&self, _: &Passive) -> Result<i64> {
        // The key's name follows the structure. A part of it may be missing.
        let mut information = [ffi::KEY_BASIC_INFORMATION::default(); 4];
        let mut length = 0;
        // SAFETY: the handle is open, the buffer is a local of the length given, and the
        // call is made at PASSIVE_LEVEL.
        let queried = to_result(unsafe {
            ffi::ZwQueryKey(
                self.0,
                ffi::_KEY_INFORMATION_CLASS::KeyBasicInformation,
                ptr::from_mut(&mut information).cast(),
                size_of_val(&information) as ffi::ULONG,
                &mut length,
            )
        });
        if let Err(status) = queried
            && !status.is(ffi::STATUS_BUFFER_OVERFLOW)
        {
            return Err(status);
        }
        let [ffi::KEY_BASIC_INFORMATION { LastWriteTime, .. }, ..] = information;
        // SAFETY: all members of the union are numbers of its 8 bytes.
        Ok(unsafe { LastWriteTime.QuadPart })
    }

    /// Reads a value of any type; `None` if it does not exist.
    pub fn value<'r>(
        &self,
        name: &str,
        room: &'r mut Room<[u8]>,
        _: &Passive,
    ) -> core::result::Result<Option<Data<'r>>, ValueError> {
        let name = Utf16::<32>::concat(&[name]);
        let mut name = name.unicode_string();
        let (mut length, size) = (0, size_of_val(room));
        // SAFETY: the handle is open, the name is a local, the room is of the
        // length given, and the call is made at PASSIVE_LEVEL.
        let status = to_result(unsafe {
            ffi::ZwQueryValueKey(
                self.0,
                &mut name,
                ffi::_KEY_VALUE_INFORMATION_CLASS::KeyValuePartialInformation,
                ptr::from_mut(room).cast(),
                size as ffi::ULONG,
                &mut length,
            )
        });
        match status {
            Ok(()) => {
                let bytes = room.data.get(..room.data_length as usize).ok_or(ValueError::TooLong)?;
                Ok(Some(Data { kind: room.kind, bytes }))
            }
            Err(status) if status.is(ffi::STATUS_OBJECT_NAME_NOT_FOUND) => Ok(None),
            Err(status)
                if status.is(ffi::STATUS_BUFFER_OVERFLOW) || status.is(ffi::STATUS_BUFFER_TOO_SMALL) =>
            {
                Err(ValueError::TooLong)
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
        debug_assert!(closed >= 0, "closing an open handle succeeds");
    }
}
