//! I/O manager: the error log, whose entries Windows copies to the System event log
//! (`wdm.h`; "Logging errors", Microsoft Learn).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::Kernel;
use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::pool::Wanted;
use super::types::{Address, DEVICE_OBJECT, IO_ERROR_LOG_PACKET};
use crate::image::{Messages, insert};
use crate::verifier::{Violation, rules};

/// `ERROR_LOG_MAXIMUM_SIZE` (`wdm.h`): most bytes of an entry.
const LARGEST_ENTRY: usize = 240;
/// The tag of entries.
const ENTRY_TAG: u32 = u32::from_le_bytes(*b"IoEr");
/// Facility `FACILITY_IO_ERROR_CODE`: codes of ntiologc.h, whose texts are in
/// iologmsg.dll.
const IO_ERROR_CODES: u32 = 4;

/// The most entries that are kept. Then the oldest are overwritten, as in the event log.
const MOST_ENTRIES: usize = 500;

/// An entry that is allocated and not yet written.
#[derive(Clone, Debug)]
pub struct OpenEntry {
    driver: String,
    size: usize,
}

/// An entry of the System event log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorLogEntry {
    /// `EventRecordID`: 1 for the first entry.
    pub record: u64,
    /// The service that wrote it, which Event Viewer shows as the source.
    pub source: String,
    /// `ErrorCode`. The low 16 bits are the event id.
    pub code: u32,
    /// `EventCategory`; 0 is none.
    pub category: u16,
    /// `FinalStatus`.
    pub status: u32,
    /// The strings that the message inserts.
    pub strings: Vec<String>,
    /// `DumpData`.
    pub data: Vec<u8>,
}

impl ErrorLogEntry {
    /// The event id.
    pub fn id(&self) -> u16 {
        self.code as u16
    }

    /// The severity, as Event Viewer names it. The upper two bits are those of an
    /// NTSTATUS.
    pub fn severity(&self) -> &'static str {
        match self.code >> 30 {
            0 | 1 => "Information",
            2 => "Warning",
            _ => "Error",
        }
    }

    /// The text with its strings, or what Event Viewer shows if there is no message.
    /// The system itself gives the first string, the name of device or driver.
    pub fn text(&self, messages: &Messages) -> String {
        let name = format!(r"\Driver\{}", self.source);
        let strings: Vec<&str> = std::iter::once(&name).chain(&self.strings).map(String::as_str).collect();
        match messages.text(self.code) {
            Some(text) => insert(text, &strings),
            None => format!(
                "The description for event {} from source {} cannot be found. Its strings: {}",
                self.id(),
                self.source,
                self.strings.join(", "),
            ),
        }
    }

    /// The name of the category, which has the category's number in the table.
    pub fn category<'m>(&self, messages: &'m Messages) -> &'m str {
        messages.text(self.category.into()).unwrap_or("None")
    }
}

/// `IoAllocateErrorLogEntry`. NULL if the size is not one that an entry can have, or
/// while the lab makes allocations fail.
pub extern "win64" fn IoAllocateErrorLogEntry(IoObject: Address, EntrySize: u8) -> Address {
    let kernel = enter!(IoAllocateErrorLogEntry);
    let Some(driver) = kernel.service_of_object(IoObject) else {
        let text = format!("IoAllocateErrorLogEntry: {IoObject:#x} is no driver or device");
        kernel.violate(Violation::new(&rules::BAD_OBJECT, [IoObject as u64, 0, 0], text));
        return 0;
    };
    let size = usize::from(EntrySize);
    if !(size_of::<IO_ERROR_LOG_PACKET>()..=LARGEST_ENTRY).contains(&size) {
        return 0;
    }
    let address = kernel.pool().allocate(Wanted {
        size,
        tag: ENTRY_TAG,
        paged: false,
        zeroed: true,
        cache_aligned: false,
        origin: kernel.origin(),
    });
    kernel.objects().open_entries.insert(address, OpenEntry { driver, size });
    address
}

/// `IoWriteErrorLogEntry`. The entry belongs to the I/O manager then.
pub extern "win64" fn IoWriteErrorLogEntry(ElEntry: Address) {
    let kernel = enter!(IoWriteErrorLogEntry);
    let open = kernel.objects().open_entries.remove(&ElEntry);
    if let Some(open) = open {
        match read_entry(ElEntry, &open) {
            Ok(Ok(entry)) => kernel.keep_entry(entry),
            Ok(Err(wrong)) => kernel.refuse_entry(ElEntry, &wrong),
            Err(bad) => kernel.settle(Err(bad), ()),
        }
    }
    free_entry(&kernel, ElEntry);
}

/// `IoFreeErrorLogEntry`.
pub extern "win64" fn IoFreeErrorLogEntry(ElEntry: Address) {
    let kernel = enter!(IoFreeErrorLogEntry);
    kernel.objects().open_entries.remove(&ElEntry);
    free_entry(&kernel, ElEntry);
}

/// Frees an entry. The pool reports what is none.
fn free_entry(kernel: &Kernel, entry: Address) {
    let freed = kernel.pool().free(entry, ENTRY_TAG, super::cpu::irql(), kernel.guest().frames());
    kernel.settle(freed.map(drop), ());
}

/// Reads an entry, or says what is wrong with it.
fn read_entry(address: Address, open: &OpenEntry) -> Result<Result<ErrorLogEntry, String>, BadPointer> {
    const DATA: usize = std::mem::offset_of!(IO_ERROR_LOG_PACKET, DumpData);
    let packet: IO_ERROR_LOG_PACKET = foreign::read(address)?;
    let (data_size, offset) = (usize::from(packet.DumpDataSize), usize::from(packet.StringOffset));
    if !data_size.is_multiple_of(4) || DATA + data_size > open.size {
        let wrong =
            format!("DumpDataSize {data_size} is no multiple of 4, or beyond the {} bytes", open.size);
        return Ok(Err(wrong));
    }
    let data = foreign::read_bytes(address + DATA, data_size)?;
    let mut strings = Vec::new();
    if packet.NumberOfStrings != 0 {
        if !offset.is_multiple_of(2) || offset < DATA + data_size || offset > open.size {
            let wrong = format!("StringOffset {offset} is odd, in the dump data, or beyond the entry");
            return Ok(Err(wrong));
        }
        let bytes = foreign::read_bytes(address + offset, open.size - offset)?;
        let units: Vec<u16> = bytes.as_chunks::<2>().0.iter().copied().map(u16::from_le_bytes).collect();
        let mut rest = &units[..];
        for number in 1..=packet.NumberOfStrings {
            let Some(end) = rest.iter().position(|unit| *unit == 0) else {
                return Ok(Err(format!("string {number} does not end in the entry's {} bytes", open.size)));
            };
            strings.push(String::from_utf16_lossy(&rest[..end]));
            rest = &rest[end + 1..];
        }
    }
    Ok(Ok(ErrorLogEntry {
        record: 0,
        source: open.driver.clone(),
        code: packet.ErrorCode as u32,
        category: packet.EventCategory,
        status: packet.FinalStatus as u32,
        strings,
        data,
    }))
}

impl Kernel {
    /// The newest entries that drivers wrote to the System event log, oldest first.
    pub fn error_log(&self) -> Vec<ErrorLogEntry> {
        self.objects().error_log.iter().cloned().collect()
    }

    /// Gives the texts of a driver's entries.
    pub fn set_messages(&self, driver: &str, messages: Messages) {
        self.objects().messages.insert(driver.to_owned(), messages);
    }

    /// The texts of a driver's entries; none if its image has no message table.
    pub fn messages(&self, driver: &str) -> Messages {
        self.objects().messages.get(driver).cloned().unwrap_or_default()
    }

    /// The service to which a device or driver object belongs.
    fn service_of_object(&self, object: Address) -> Option<String> {
        let of_device = self.objects().devices.get(&object).map(|device| {
            let device: DEVICE_OBJECT = device.memory.get(object);
            device.DriverObject
        });
        self.driver_name(of_device.unwrap_or(object))
    }

    /// Adds an entry to the log. Its message must exist: Event Viewer shows an entry
    /// without one as a fault of the driver. Drivers without a message table may take
    /// their texts from another file.
    fn keep_entry(&self, mut entry: ErrorLogEntry) {
        let messages = self.messages(&entry.source);
        let is_own = entry.code >> 16 & 0xfff != IO_ERROR_CODES;
        if is_own && !messages.is_empty() {
            if messages.text(entry.code).is_none() {
                let wrong = format!("the image has no message {:#010x}", entry.code);
                self.refuse_entry(0, &wrong);
            } else if entry.category != 0 && messages.text(entry.category.into()).is_none() {
                self.refuse_entry(0, &format!("the image has no name for category {}", entry.category));
            }
        }
        let mut objects = self.objects();
        let log = &mut objects.error_log;
        entry.record = log.back().map_or(0, |last| last.record) + 1;
        if log.len() == MOST_ENTRIES {
            log.pop_front();
        }
        log.push_back(entry);
    }

    fn refuse_entry(&self, address: Address, wrong: &str) {
        let text = format!("IoWriteErrorLogEntry: {wrong}");
        self.violate(Violation::new(&rules::ERROR_LOG_ENTRY, [address as u64, 0, 0], text));
    }
}
