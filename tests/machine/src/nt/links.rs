//! I/O manager: symbolic links to devices, and the error log (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::objects::Link;
use super::pool::Wanted;
use super::types::{Address, IO_ERROR_LOG_PACKET, NTSTATUS};
use super::{Kernel, Trouble};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `ERROR_LOG_MAXIMUM_SIZE` (`wdm.h`): most bytes of an entry.
const LARGEST_ENTRY: usize = 240;
/// The tag of entries of the error log.
const ENTRY_TAG: u32 = u32::from_le_bytes(*b"IoEr");

/// The folders of the object manager that hold the links of all users.
const LINK_FOLDERS: [&str; 3] = [r"\??\", r"\dosdevices\", r"\global??\"];

/// The name of a link without its folder, in lower case.
fn link_name(path: &str) -> Option<String> {
    let path = path.to_ascii_lowercase();
    LINK_FOLDERS.iter().find_map(|folder| path.strip_prefix(folder)).map(str::to_owned)
}

fn string(address: Address) -> Result<String, Trouble> {
    foreign::read_unicode_string(address).map_err(|bad| Trouble::String(address, bad))
}

/// `IoCreateSymbolicLink`.
pub extern "win64" fn IoCreateSymbolicLink(SymbolicLinkName: Address, DeviceName: Address) -> NTSTATUS {
    let kernel = enter!(IoCreateSymbolicLink);
    let create = || Ok::<_, Trouble>(kernel.create_link(&string(SymbolicLinkName)?, string(DeviceName)?));
    kernel.settle(create(), Status::UNSUCCESSFUL).0
}

/// `IoDeleteSymbolicLink`.
pub extern "win64" fn IoDeleteSymbolicLink(SymbolicLinkName: Address) -> NTSTATUS {
    let kernel = enter!(IoDeleteSymbolicLink);
    let delete = || Ok::<_, Trouble>(kernel.delete_link(&string(SymbolicLinkName)?));
    kernel.settle(delete(), Status::UNSUCCESSFUL).0
}

impl Kernel {
    /// Makes a link from a path such as `\??\Sample` to a device's name.
    pub(super) fn create_link(&self, link: &str, device: String) -> Status {
        let Some(name) = link_name(link) else {
            return Status::OBJECT_PATH_NOT_FOUND;
        };
        let driver = self.caller();
        let mut objects = self.objects();
        if objects.links.contains_key(&name) {
            return Status::OBJECT_NAME_COLLISION;
        }
        objects.links.insert(name, Link { driver, device });
        Status::SUCCESS
    }

    /// Removes a link.
    pub(super) fn delete_link(&self, link: &str) -> Status {
        let removed = link_name(link).and_then(|name| self.objects().links.remove(&name));
        removed.map_or(Status::OBJECT_NAME_NOT_FOUND, |_| Status::SUCCESS)
    }

    /// The device that a path leads to, and the rest of the path after its name.
    /// The path may be a device's (`\Device\Sample`), a link's (`\??\Sample`), or as
    /// a program writes it (`\\.\Sample`).
    pub(super) fn find_device(&self, path: &str) -> Option<(Address, String)> {
        let path = match path.strip_prefix(r"\\.\") {
            Some(name) => format!(r"\??\{name}"),
            None => path.to_owned(),
        };
        let objects = self.objects();
        let target = match link_name(&path) {
            None => path.clone(),
            Some(name) => {
                let (link, rest) = name.split_at(name.find('\\').unwrap_or(name.len()));
                let rest = &path[path.len() - rest.len()..];
                format!("{}{rest}", objects.links.get(link)?.device)
            }
        };
        let live = objects.devices.iter().filter(|(_, device)| !device.deleted && !device.name.is_empty());
        let mut found = live.filter_map(|(address, device)| {
            let rest = strip_prefix_ignoring_case(&target, &device.name)?;
            (rest.is_empty() || rest.starts_with('\\')).then(|| (*address, rest.to_owned()))
        });
        found.next()
    }

    /// The entries that drivers wrote to the error log.
    pub fn error_log(&self) -> Vec<ErrorLogEntry> {
        self.objects().error_log.clone()
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

/// An entry of the error log, which Windows copies to the System event log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorLogEntry {
    /// The service of the driver that wrote it, which is the event's source.
    pub source: String,
    /// `ErrorCode`.
    pub code: u32,
    /// The strings that the message inserts.
    pub strings: Vec<String>,
}

/// `IoAllocateErrorLogEntry`. NULL if the size is not one that an entry can have,
/// or while the lab makes allocations fail.
pub extern "win64" fn IoAllocateErrorLogEntry(IoObject: Address, EntrySize: u8) -> Address {
    let kernel = enter!(IoAllocateErrorLogEntry);
    let known = kernel.objects().devices.contains_key(&IoObject) || kernel.driver_name(IoObject).is_some();
    if !known {
        let text = format!("IoAllocateErrorLogEntry: {IoObject:#x} is no driver or device");
        kernel.violate(Violation::new(&rules::BAD_OBJECT, [IoObject as u64, 0, 0], text));
        return 0;
    }
    let size = usize::from(EntrySize);
    if !(size_of::<IO_ERROR_LOG_PACKET>()..=LARGEST_ENTRY).contains(&size) {
        return 0;
    }
    kernel.pool().allocate(Wanted {
        size,
        tag: ENTRY_TAG,
        paged: false,
        zeroed: true,
        cache_aligned: false,
        origin: kernel.origin(),
    })
}

/// `IoWriteErrorLogEntry`. The entry belongs to the I/O manager then.
pub extern "win64" fn IoWriteErrorLogEntry(ElEntry: Address) {
    let kernel = enter!(IoWriteErrorLogEntry);
    let source = kernel.service_name(kernel.caller()).to_string();
    match read_entry(source, ElEntry) {
        Ok(entry) => kernel.objects().error_log.push(entry),
        Err(bad) => kernel.settle(Err(bad), ()),
    }
    free_entry(&kernel, ElEntry);
}

/// `IoFreeErrorLogEntry`.
pub extern "win64" fn IoFreeErrorLogEntry(ElEntry: Address) {
    let kernel = enter!(IoFreeErrorLogEntry);
    free_entry(&kernel, ElEntry);
}

fn free_entry(kernel: &Kernel, entry: Address) {
    let freed = kernel.pool().free(entry, ENTRY_TAG, super::cpu::irql(), kernel.guest().frames());
    kernel.settle(freed.map(drop), ());
}

fn read_entry(source: String, address: Address) -> Result<ErrorLogEntry, BadPointer> {
    let packet: IO_ERROR_LOG_PACKET = foreign::read(address)?;
    let mut at = address + usize::from(packet.StringOffset);
    let mut strings = Vec::new();
    for _ in 0..packet.NumberOfStrings {
        let text = foreign::read_wide(at)?.unwrap_or_default();
        at += 2 * (text.encode_utf16().count() + 1);
        strings.push(text);
    }
    Ok(ErrorLogEntry { source, code: packet.ErrorCode as u32, strings })
}
