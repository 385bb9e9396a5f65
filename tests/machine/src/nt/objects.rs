//! What the machine keeps for drivers: handles, devices, work items.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::memory::Guarded;
use super::types::{Address, FWPS_CALLOUT3, HANDLE};
use crate::wfp::{Guid, SessionId, SubscriptionId};

/// Bugcheck 0x93's word for a handle that is not open; 0 is a protected one.
pub const INVALID_HANDLE: u64 = 1;

/// An event behind a handle.
#[derive(Debug)]
pub struct Event {
    /// Signaled.
    pub signaled: AtomicBool,
    /// A `SynchronizationEvent`: one wait takes the signal away.
    pub synchronization: bool,
}

/// What a handle stands for.
#[derive(Clone, Debug)]
pub enum Object {
    /// A registry key, by its path and which of those of that path it is.
    Key(String, u64),
    /// An event made by `ZwCreateEvent`.
    Event(Arc<Event>),
    /// A thread made by `PsCreateSystemThread`, by the event of its end.
    Thread(Arc<Event>),
}

/// How a registry watcher is told.
#[derive(Clone, Debug)]
pub struct Notice {
    /// Tells it from other notices.
    pub id: Address,
    /// Set when the change comes.
    pub event: Option<Arc<Event>>,
    /// A `WORK_QUEUE_ITEM` queued when the change comes, or 0.
    pub work_item: Address,
    /// An `IO_STATUS_BLOCK` that gets the outcome.
    pub status_block: Address,
}

/// A device object with its extension.
#[derive(Debug)]
pub struct Device {
    /// The pages.
    pub memory: Guarded,
    /// Its name, empty if it has none.
    pub name: String,
    /// Work items queued or running for it.
    pub references: u32,
    /// Deleted by the driver; kept while it is referenced.
    pub deleted: bool,
}

/// An `IO_WORKITEM`.
#[derive(Clone, Copy, Debug)]
pub struct WorkItem {
    /// The device object it was made for.
    pub device: Address,
    /// Queued and not yet taken by the worker.
    pub queued: bool,
}

/// Everything the machine hands out by number or address.
#[derive(Debug)]
pub struct Objects {
    handles: BTreeMap<HANDLE, Object>,
    next_handle: HANDLE,
    next_opaque: Address,
    /// Start routines of the driver's threads that have not ended.
    pub threads: Vec<Address>,
    /// By address of the `DEVICE_OBJECT`.
    pub devices: BTreeMap<Address, Device>,
    /// By address.
    pub work_items: BTreeMap<Address, WorkItem>,
    /// Engine handles by value.
    pub sessions: BTreeMap<HANDLE, SessionId>,
    /// BFE change handles by value.
    pub subscriptions: BTreeMap<HANDLE, SubscriptionId>,
    /// MDLs that `NdisRetreatNetBufferDataStart` made, with their buffers.
    pub mdls: BTreeMap<Address, Guarded>,
    /// What the driver registered under each callout's key, last.
    pub callouts: BTreeMap<Guid, FWPS_CALLOUT3>,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            handles: BTreeMap::new(),
            // Kernel handles on x64 carry the high bit.
            next_handle: 0xFFFF_FFFF_8000_0004,
            // Addresses of the kernel's half, where a driver can only fault.
            next_opaque: 0xFFFF_9800_0000_0000,
            threads: Vec::new(),
            devices: BTreeMap::new(),
            work_items: BTreeMap::new(),
            sessions: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            mdls: BTreeMap::new(),
            callouts: BTreeMap::new(),
        }
    }
}

impl Objects {
    /// A new handle.
    pub fn open(&mut self, object: Object) -> HANDLE {
        let handle = self.next_handle;
        self.next_handle += 4;
        self.handles.insert(handle, object);
        handle
    }

    /// What a handle stands for.
    pub fn handle(&self, handle: HANDLE) -> Option<&Object> {
        self.handles.get(&handle)
    }

    /// Closes a handle.
    pub fn close(&mut self, handle: HANDLE) -> Option<Object> {
        self.handles.remove(&handle)
    }

    /// An address for something opaque: never given out twice, and faults
    /// when it is dereferenced.
    pub fn opaque(&mut self) -> Address {
        self.next_opaque += 0x100;
        self.next_opaque
    }

    /// Deletes a device object, at once if nothing refers to it. `false` if
    /// there is no such device.
    pub fn delete_device(&mut self, address: Address) -> bool {
        let Some(device) = self.devices.get_mut(&address).filter(|d| !d.deleted) else {
            return false;
        };
        device.deleted = true;
        if device.references == 0 {
            self.devices.remove(&address);
        }
        true
    }

    /// Gives back a work item's reference to its device.
    pub fn release_device(&mut self, address: Address) {
        if let Some(device) = self.devices.get_mut(&address) {
            device.references = device.references.saturating_sub(1);
            if device.deleted && device.references == 0 {
                self.devices.remove(&address);
            }
        }
    }

    /// Open handles in words.
    pub fn describe_handles(&self) -> Vec<String> {
        let describe = |(handle, object): (&HANDLE, &Object)| match object {
            Object::Key(path, _) => format!("{handle:#x}: key {path}"),
            Object::Event(_) => format!("{handle:#x}: event"),
            Object::Thread(_) => format!("{handle:#x}: thread"),
        };
        self.handles.iter().map(describe).collect()
    }

    /// Device objects in words.
    pub fn describe_devices(&self) -> Vec<String> {
        let describe = |(address, device): (&Address, &Device)| match device.name.as_str() {
            "" => format!("{address:#x}: unnamed device"),
            name => format!("{address:#x}: {name}"),
        };
        let left = self.devices.iter().filter(|(_, device)| !device.deleted);
        left.map(describe).collect()
    }
}
