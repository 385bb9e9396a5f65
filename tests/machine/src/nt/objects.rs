//! The machine's objects for drivers: handles, devices, work items.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::links::ErrorLogEntry;
use super::memory::Guarded;
use super::types::{Address, FWPS_CALLOUT3, HANDLE};
use crate::wfp::{Guid, SessionId, SubscriptionId};

/// Bugcheck 0x93's code for a handle that is not open. 0 stands for a protected
/// handle.
pub const INVALID_HANDLE: u64 = 1;

/// An event.
#[derive(Debug)]
pub struct Event {
    /// Whether it is signaled.
    pub signaled: AtomicBool,
    /// Whether it is a `SynchronizationEvent`: one wait resets the signal.
    pub synchronization: bool,
}

/// The object of a handle.
#[derive(Clone, Debug)]
pub enum Object {
    /// A registry key: its path, and its generation among the keys of that path.
    Key(String, u64),
    /// An event that `ZwCreateEvent` created.
    Event(Arc<Event>),
    /// A thread that `PsCreateSystemThread` created: the event that its end sets.
    Thread(Arc<Event>),
}

/// How a registry change is reported.
#[derive(Clone, Debug)]
pub struct Notice {
    /// Identifies the notice.
    pub id: Address,
    /// Set when the key changes.
    pub event: Option<Arc<Event>>,
    /// A `WORK_QUEUE_ITEM` that is queued when the key changes, or 0.
    pub work_item: Address,
    /// An `IO_STATUS_BLOCK` for the outcome.
    pub status_block: Address,
}

/// A device object with its extension.
#[derive(Debug)]
pub struct Device {
    /// The pages that hold it.
    pub memory: Guarded,
    /// Its name, empty if it has none.
    pub name: String,
    /// Number of its work items that are queued or running.
    pub references: u32,
    /// Whether the driver has deleted it. It is kept while it is referenced.
    pub deleted: bool,
    /// Number of open files.
    pub open: u32,
    /// The framework's object for it, or 0 if its driver handles requests itself.
    pub framework: Address,
}

/// An `IO_WORKITEM`.
#[derive(Clone, Copy, Debug)]
pub struct WorkItem {
    /// The device object for which it was allocated.
    pub device: Address,
    /// Whether it is queued and no worker has taken it.
    pub queued: bool,
    /// The routine with which it was last queued.
    pub routine: Address,
}

/// A callback about added processors.
#[derive(Clone, Copy, Debug)]
pub struct ProcessorCallback {
    /// Its function and its context.
    pub call: (Address, Address),
    /// How many calls of it run.
    pub running: u32,
}

/// All objects that have a handle or an address.
#[derive(Debug)]
pub struct Objects {
    handles: BTreeMap<HANDLE, Object>,
    next_handle: HANDLE,
    next_opaque: Address,
    /// Start routines of the driver's running threads.
    pub threads: Vec<Address>,
    /// By address of the `DEVICE_OBJECT`.
    pub devices: BTreeMap<Address, Device>,
    /// Addresses of devices that were deleted.
    pub deleted_devices: BTreeSet<Address>,
    /// By address.
    pub work_items: BTreeMap<Address, WorkItem>,
    /// Engine handles by value.
    pub sessions: BTreeMap<HANDLE, SessionId>,
    /// Redirect handles by value, with their providers.
    pub redirects: BTreeMap<HANDLE, Guid>,
    /// BFE change handles by value.
    pub subscriptions: BTreeMap<HANDLE, SubscriptionId>,
    /// MDLs that `NdisRetreatNetBufferDataStart` made, with their buffers.
    pub mdls: BTreeMap<Address, Guarded>,
    /// Callbacks about added processors by their handles.
    pub processor_callbacks: BTreeMap<Address, ProcessorCallback>,
    /// Number of the driver's references by object.
    pub referenced: BTreeMap<Address, u32>,
    /// The callout that the driver last registered under each key.
    pub callouts: BTreeMap<Guid, FWPS_CALLOUT3>,
    /// Ids of processes by their objects.
    pub processes: BTreeMap<Address, u32>,
    /// Names of devices by the links to them. The links are in lower case, without
    /// their folder.
    pub links: BTreeMap<String, String>,
    /// Devices by their open file objects.
    pub files: BTreeMap<Address, Address>,
    /// Entries of the error log.
    pub error_log: Vec<ErrorLogEntry>,
    /// Number of GUIDs that `ExUuidCreate` has made.
    pub uuids: u32,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            handles: BTreeMap::new(),
            // Kernel handles on x64 have the high bit set.
            next_handle: 0xFFFF_FFFF_8000_0004,
            // Addresses in the kernel's half. A driver that uses them faults.
            next_opaque: 0xFFFF_9800_0000_0000,
            threads: Vec::new(),
            devices: BTreeMap::new(),
            deleted_devices: BTreeSet::new(),
            work_items: BTreeMap::new(),
            sessions: BTreeMap::new(),
            redirects: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            mdls: BTreeMap::new(),
            processor_callbacks: BTreeMap::new(),
            referenced: BTreeMap::new(),
            callouts: BTreeMap::new(),
            processes: BTreeMap::new(),
            links: BTreeMap::new(),
            files: BTreeMap::new(),
            error_log: Vec::new(),
            uuids: 0,
        }
    }
}

impl Objects {
    /// Opens a handle for an object.
    pub fn open(&mut self, object: Object) -> HANDLE {
        let handle = self.next_handle;
        self.next_handle += 4;
        self.handles.insert(handle, object);
        handle
    }

    /// The object of a handle.
    pub fn handle(&self, handle: HANDLE) -> Option<&Object> {
        self.handles.get(&handle)
    }

    /// Closes a handle. Returns its object.
    pub fn close(&mut self, handle: HANDLE) -> Option<Object> {
        self.handles.remove(&handle)
    }

    /// Whether a value is a handle of the kernel's table (the high bit is set, and it is
    /// no pseudo handle), and not open.
    pub fn is_closed_kernel_handle(&self, handle: HANDLE) -> bool {
        /// `NtCurrentProcess()`, `NtCurrentThread()` and the like are small negative numbers.
        const PSEUDO: usize = 16;
        let kernel = (handle as isize) < 0 && handle < usize::MAX - PSEUDO;
        kernel && !self.handles.contains_key(&handle)
    }

    /// A unique address for an opaque object. It faults when it is dereferenced.
    pub fn opaque(&mut self) -> Address {
        self.next_opaque += 0x100;
        self.next_opaque
    }

    /// Deletes a device object, at once if it is not referenced. `false` if there
    /// is no such device.
    pub fn delete_device(&mut self, address: Address) -> bool {
        let Some(device) = self.devices.get_mut(&address).filter(|d| !d.deleted) else {
            return false;
        };
        device.deleted = true;
        if device.references == 0 {
            self.devices.remove(&address);
        }
        self.deleted_devices.insert(address);
        true
    }

    /// Releases a work item's reference to its device.
    pub fn release_device(&mut self, address: Address) {
        if let Some(device) = self.devices.get_mut(&address) {
            device.references = device.references.saturating_sub(1);
            if device.deleted && device.references == 0 {
                self.devices.remove(&address);
            }
        }
    }

    /// Opens a device. `false` if it is open already, and exclusive.
    pub fn open_device(&mut self, address: Address, exclusive: bool) -> bool {
        let Some(device) = self.devices.get_mut(&address).filter(|device| !exclusive || device.open == 0)
        else {
            return false;
        };
        device.open += 1;
        device.references += 1;
        true
    }

    /// Closes a file object.
    pub fn close_file(&mut self, file: Address) {
        if let Some(address) = self.files.remove(&file) {
            if let Some(device) = self.devices.get_mut(&address) {
                device.open -= 1;
            }
            self.release_device(address);
        }
    }

    /// Describes open handles.
    pub fn describe_handles(&self) -> Vec<String> {
        let describe = |(handle, object): (&HANDLE, &Object)| match object {
            Object::Key(path, _) => format!("{handle:#x}: key {path}"),
            Object::Event(_) => format!("{handle:#x}: event"),
            Object::Thread(_) => format!("{handle:#x}: thread"),
        };
        let redirects = self.redirects.keys().map(|handle| format!("{handle:#x}: redirect"));
        self.handles.iter().map(describe).chain(redirects).collect()
    }

    /// Describes device objects.
    pub fn describe_devices(&self) -> Vec<String> {
        let describe = |(address, device): (&Address, &Device)| match device.name.as_str() {
            "" => format!("{address:#x}: unnamed device"),
            name => format!("{address:#x}: {name}"),
        };
        let left = self.devices.iter().filter(|(_, device)| !device.deleted);
        left.map(describe).collect()
    }
}
