//! Reads the driver's values: from its policy key and from its Parameters key.

use core::mem::offset_of;
use core::ptr;

use super::entry::DriverObject;
use super::irql::Passive;
use super::pool::Zeroed;
use super::status::{Result, Status, to_result};
use super::utf16::Utf16;
use crate::ffi;
use crate::logic::policy::values::MAX_BYTES;

/// Where Group Policy writes the policies of `hushport.admx`.
const GROUP_POLICY: &str = r"\Registry\Machine\SOFTWARE\Policies\hushport";

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

impl Room<[u8]> {
    /// What was read last.
    fn data(&self) -> core::result::Result<Data<'_>, ValueError> {
        let bytes = self.data.get(..self.data_length as usize).ok_or(ValueError::TooLong)?;
        Ok(Data { kind: self.kind, bytes })
    }
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

/// The keys that hold the driver's values, each if it exists. What the first one has
/// overrides the second.
pub struct Keys {
    /// The policies of an administrator's Group Policy.
    pub group_policy: Option<Key>,
    /// The service's own `Parameters`.
    pub parameters: Option<Key>,
}

/// Which key a value is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// [`Keys::group_policy`].
    GroupPolicy,
    /// [`Keys::parameters`].
    Parameters,
}

impl Source {
    /// Both, in the order of their precedence.
    pub const ALL: [Self; 2] = [Self::GroupPolicy, Self::Parameters];
}

impl Keys {
    /// Opens the keys that exist.
    pub fn open(driver: &DriverObject, irql: &Passive) -> Result<Self> {
        let open = |source| Key::open(source, driver, irql);
        Ok(Self { group_policy: open(Source::GroupPolicy)?, parameters: open(Source::Parameters)? })
    }

    /// Reads a value of any type from the first key that has it; `None` if none has.
    pub fn value<'r>(
        &self,
        name: &str,
        room: &'r mut Room<[u8]>,
        irql: &Passive,
    ) -> core::result::Result<Option<(Source, Data<'r>)>, (Source, ValueError)> {
        for (source, key) in
            [(Source::GroupPolicy, &self.group_policy), (Source::Parameters, &self.parameters)]
        {
            let Some(key) = key else { continue };
            match key.read(name, room, irql) {
                Ok(false) => {}
                Ok(true) => {
                    return room.data().map(|data| Some((source, data))).map_err(|error| (source, error));
                }
                Err(error) => return Err((source, error)),
            }
        }
        Ok(None)
    }
}

impl Key {
    /// Opens the key of a source; `None` if it does not exist.
    pub fn open(source: Source, driver: &DriverObject, irql: &Passive) -> Result<Option<Self>> {
        match source {
            Source::GroupPolicy => Self::named(GROUP_POLICY, irql),
            Source::Parameters => Self::parameters(driver, irql),
        }
    }

    /// Opens a key by its full name; `None` if it does not exist, or if its hive is not
    /// loaded yet.
    fn named(name: &str, _: &Passive) -> Result<Option<Self>> {
        let name = Utf16::<64>::concat(&[name]);
        let mut name = name.unicode_string();
        let mut attributes = ffi::OBJECT_ATTRIBUTES {
            Length: size_of::<ffi::OBJECT_ATTRIBUTES>() as ffi::ULONG,
            ObjectName: &mut name,
            Attributes: ffi::OBJ_KERNEL_HANDLE | ffi::OBJ_CASE_INSENSITIVE,
            ..Default::default()
        };
        let mut handle = ptr::null_mut();
        // SAFETY: handle, attributes and name are locals, and the call is made at
        // PASSIVE_LEVEL.
        let opened = to_result(unsafe { ffi::ZwOpenKey(&mut handle, ffi::KEY_QUERY_VALUE, &mut attributes) });
        Self::if_found(opened, handle)
    }

    fn if_found(opened: Result, handle: ffi::HANDLE) -> Result<Option<Self>> {
        match opened {
            Ok(()) => Ok(Some(Self(handle))),
            Err(status)
                if status.is(ffi::STATUS_OBJECT_NAME_NOT_FOUND)
                    || status.is(ffi::STATUS_OBJECT_PATH_NOT_FOUND) =>
            {
                Ok(None)
            }
            Err(status) => Err(status),
        }
    }

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
        Self::if_found(status, handle)
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

    /// Reads a value of any type. Returns whether it exists.
    fn read(&self, name: &str, room: &mut Room<[u8]>, _: &Passive) -> core::result::Result<bool, ValueError> {
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
            Ok(()) => Ok(true),
            Err(status) if status.is(ffi::STATUS_OBJECT_NAME_NOT_FOUND) => Ok(false),
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
