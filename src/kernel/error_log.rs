//! Writes entries of the System event log, through the I/O manager's error log.

use core::mem::offset_of;
use core::ptr::NonNull;

use super::entry::DriverObject;
use super::irql::MaxDispatch;
use crate::ffi;
use crate::logic::event_log::{MessageCode, ROOM, Strings};

/// Where a driver's entries go. Event Viewer shows them under the name of its service.
pub struct ErrorLog(DriverObject);

/// The size of an entry without strings.
const HEAD: usize = size_of::<ffi::IO_ERROR_LOG_PACKET>();

// ERROR_LOG_MAXIMUM_SIZE (wdm.h) is the most that an entry can have.
const _: () = assert!(HEAD + ROOM * size_of::<u16>() <= 240);
const _: () = assert!(offset_of!(ffi::IO_ERROR_LOG_PACKET, DumpData) < HEAD);

impl ErrorLog {
    /// The log of a driver.
    pub fn new(driver: &DriverObject) -> Self {
        Self(driver.clone())
    }

    /// Writes an entry. `status` is the NTSTATUS that the entry is about, or 0. If the
    /// system has no memory for the entry, it is lost: "drivers must not treat that as
    /// a fatal error" (IoAllocateErrorLogEntry).
    pub fn write(&self, message: MessageCode, status: i32, strings: &Strings, _: &MaxDispatch) {
        let units = strings.units();
        let size = HEAD + size_of_val(units);
        // SAFETY: the driver object is the system's; the size is that of a packet with
        // strings, and at most the largest (see above); the level is at most
        // DISPATCH_LEVEL.
        let entry = unsafe { ffi::IoAllocateErrorLogEntry(self.0.as_ptr().cast(), size as u8) };
        let Some(entry) = NonNull::new(entry) else { return };
        let packet = ffi::IO_ERROR_LOG_PACKET {
            NumberOfStrings: strings.count() as u16,
            StringOffset: HEAD as u16,
            EventCategory: message.category as u16,
            ErrorCode: message.code as i32,
            FinalStatus: status,
            ..Default::default()
        };
        // SAFETY: the entry has `size` bytes, is aligned as pool is, and is ours until it
        // is written to the log.
        unsafe { entry.cast().write(packet) };
        // SAFETY: as above; the strings follow the packet.
        let to = unsafe { entry.cast::<u8>().add(HEAD) };
        // SAFETY: there is room for the strings behind the packet, whose size keeps
        // their alignment, and nothing else has the entry.
        unsafe { to.cast::<u16>().copy_from_nonoverlapping(NonNull::from(units).cast(), units.len()) };
        // SAFETY: IoAllocateErrorLogEntry has made the entry; from here on it is the
        // system's.
        unsafe { ffi::IoWriteErrorLogEntry(entry.as_ptr()) };
    }
}
