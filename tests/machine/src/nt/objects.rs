//! The machine's objects for drivers: handles, devices, work items. Each is some
//! driver's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::callbacks::{CallbackObject, Registered};
use super::dispatcher::{header, kind};
use super::error_log::{ErrorLogEntry, OpenEntry};
use super::fwp::Prototype;
use super::irp::{Access, Unclosed};
use super::ke::signal_state;
use super::lookaside::Lookaside;
use super::memory::{Guarded, PAGE};
use super::process_routines::ProcessRoutine;
use super::resource::Resource;
use super::types::{Address, FWPS_CALLOUT3, HANDLE, KEVENT};
use super::wmi::Provider;
use crate::driver::DriverId;
use crate::image::Messages;
use crate::wfp::{Guid, SessionId, SubscriptionId};

/// Bugcheck 0x93's code for a handle that is not open. 0 stands for a protected
/// handle.
pub const INVALID_HANDLE: u64 = 1;

/// An event, or the end of a thread: an object that a driver can wait for by its handle or
/// its address.
#[derive(Debug)]
pub struct Event {
    /// The page that holds the `KEVENT`.
    memory: Guarded,
    /// Whether it is a `SynchronizationEvent`: one wait resets the signal.
    pub synchronization: bool,
}

impl Event {
    /// An event.
    pub fn new(synchronization: bool, signaled: bool) -> Self {
        let kind = if synchronization { kind::SYNCHRONIZATION_EVENT } else { kind::EVENT };
        Self::with(kind, signaled)
    }

    /// A thread that has not ended.
    pub fn of_thread() -> Self {
        Self::with(kind::THREAD, false)
    }

    fn with(kind: u8, signaled: bool) -> Self {
        let memory = Guarded::new(PAGE);
        let at = memory.start();
        memory.put(at, &KEVENT { Header: header(at, kind, size_of::<KEVENT>(), signaled.into()) });
        Self { memory, synchronization: kind == kind::SYNCHRONIZATION_EVENT }
    }

    /// The object's address.
    pub fn address(&self) -> Address {
        self.memory.start()
    }

    /// Whether it is signaled.
    pub fn is_signaled(&self) -> bool {
        signal_state(self.address()).load(Ordering::Acquire) != 0
    }

    /// Sets or resets the signal. Returns whether it was set.
    pub fn set(&self, signaled: bool) -> bool {
        signal_state(self.address()).swap(signaled.into(), Ordering::AcqRel) != 0
    }
}

/// The object of a handle.
#[derive(Clone, Debug)]
pub enum Object {
    /// A registry key: its path, its generation among the keys of that path, and the
    /// access that the handle has.
    Key(String, u64, u32),
    /// An event that `ZwCreateEvent` created.
    Event(Arc<Event>),
    /// A thread that `PsCreateSystemThread` created: the event that its end sets.
    Thread(Arc<Event>),
    /// A process by its id.
    Process(u32),
}

/// How a registry change is reported.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The driver that is told.
    pub driver: DriverId,
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
    /// Its driver.
    pub driver: DriverId,
    /// Counts the devices in the order of their creation.
    pub number: u64,
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
    /// The driver that has allocated it.
    pub driver: DriverId,
    /// The device object for which it was allocated, or 0 if it is the driver object.
    pub device: Address,
    /// Whether the driver has initialized it in memory of its own.
    pub in_place: bool,
    /// Whether it is queued and no worker has taken it.
    pub queued: bool,
    /// The routine with which it was last queued.
    pub routine: Address,
}

/// A callback about added processors.
#[derive(Clone, Copy, Debug)]
pub struct ProcessorCallback {
    /// The driver that has registered it.
    pub driver: DriverId,
    /// Its function and its context.
    pub call: (Address, Address),
    /// How many calls of it run.
    pub running: u32,
}

/// A symbolic link.
#[derive(Clone, Debug)]
pub struct Link {
    /// The driver that has made it.
    pub driver: DriverId,
    /// The name of the device.
    pub device: String,
}

/// All objects that have a handle or an address.
#[derive(Debug)]
pub struct Objects {
    /// With the driver that has opened each.
    handles: BTreeMap<HANDLE, (Object, DriverId)>,
    next_handle: HANDLE,
    next_opaque: Address,
    /// Number of devices so far.
    pub devices_made: u64,
    /// Start routines of the drivers' running threads.
    pub threads: Vec<(Address, DriverId)>,
    /// Providers of WMI: the device, or the structure with the callback.
    pub wmi_providers: BTreeMap<Address, Provider>,
    /// By address of the `DEVICE_OBJECT`.
    pub devices: BTreeMap<Address, Device>,
    /// Addresses of devices that were deleted.
    pub deleted_devices: BTreeSet<Address>,
    /// By address.
    pub work_items: BTreeMap<Address, WorkItem>,
    /// Engine handles by value.
    pub sessions: BTreeMap<HANDLE, SessionId>,
    /// Redirect handles by value, with their providers and drivers.
    pub redirects: BTreeMap<HANDLE, (Guid, DriverId)>,
    /// BFE change handles by value.
    pub subscriptions: BTreeMap<HANDLE, SubscriptionId>,
    /// Devices with which callouts are registered, by the callouts' ids.
    pub callout_devices: BTreeMap<u32, Address>,
    /// Devices with which subscriptions were made, by their handles.
    pub subscription_devices: BTreeMap<HANDLE, Address>,
    /// The drivers that have subscribed to changes of BFE's state.
    pub subscribed: BTreeSet<DriverId>,
    /// Objects for which threads wait, by the number of the wait.
    pub awaited: BTreeMap<u64, Object>,
    /// MDLs that `NdisRetreatNetBufferDataStart` made, with their buffers.
    pub mdls: BTreeMap<Address, Guarded>,
    /// Callbacks about added processors by their handles.
    pub processor_callbacks: BTreeMap<Address, ProcessorCallback>,
    /// References by object, each with its driver.
    pub referenced: BTreeMap<Address, Vec<DriverId>>,
    /// The callout that the driver last registered under each key.
    pub callouts: BTreeMap<Guid, (FWPS_CALLOUT3, Prototype)>,
    /// Ids of processes by their objects.
    pub processes: BTreeMap<Address, u32>,
    /// Processes that have begun.
    pub begun: BTreeSet<u32>,
    /// Routines that are told of processes.
    pub process_routines: Vec<ProcessRoutine>,
    /// Number of threads that run in each process.
    pub inside: BTreeMap<u32, i32>,
    /// Names of devices by the links to them. The links are in lower case, without
    /// their folder.
    pub links: BTreeMap<String, Link>,
    /// Devices by their open file objects.
    pub files: BTreeMap<Address, Address>,
    /// File objects by the process and its handle, with the access that the handle has.
    pub file_handles: BTreeMap<(u32, HANDLE), (Address, Access)>,
    /// File objects whose handles are closed, and to which drivers have references.
    pub unclosed: BTreeMap<Address, Unclosed>,
    /// Entries of the error log.
    pub error_log: VecDeque<ErrorLogEntry>,
    /// Entries that are not yet written, by their addresses.
    pub open_entries: BTreeMap<Address, OpenEntry>,
    /// The texts of entries, by the service.
    pub messages: BTreeMap<String, Messages>,
    /// Elements of the driver's generic tables, by table.
    pub tables: BTreeMap<Address, Vec<Address>>,
    /// Lookaside lists that are not deleted.
    pub lookasides: BTreeMap<Address, Lookaside>,
    /// Resources that are not deleted.
    pub resources: BTreeMap<Address, Resource>,
    /// Callback objects, and the routines that are registered with them.
    pub callback_objects: BTreeMap<Address, CallbackObject>,
    /// By registration.
    pub registered: BTreeMap<Address, Registered>,
    /// The objects of the driver's running threads, by address.
    pub running: BTreeMap<Address, Arc<Event>>,
    /// Events and threads that the driver references, by address.
    pub held: BTreeMap<Address, Arc<Event>>,
    /// Number of GUIDs that `ExUuidCreate` has made.
    pub uuids: u32,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            wmi_providers: BTreeMap::new(),
            handles: BTreeMap::new(),
            // Kernel handles on x64 have the high bit set.
            next_handle: 0xFFFF_FFFF_8000_0004,
            // Addresses in the kernel's half. A driver that uses them faults.
            next_opaque: 0xFFFF_9800_0000_0000,
            devices_made: 0,
            threads: Vec::new(),
            devices: BTreeMap::new(),
            deleted_devices: BTreeSet::new(),
            work_items: BTreeMap::new(),
            sessions: BTreeMap::new(),
            redirects: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            callout_devices: BTreeMap::new(),
            subscription_devices: BTreeMap::new(),
            subscribed: BTreeSet::new(),
            awaited: BTreeMap::new(),
            mdls: BTreeMap::new(),
            processor_callbacks: BTreeMap::new(),
            referenced: BTreeMap::new(),
            callouts: BTreeMap::new(),
            processes: BTreeMap::new(),
            begun: BTreeSet::new(),
            process_routines: Vec::new(),
            inside: BTreeMap::new(),
            links: BTreeMap::new(),
            files: BTreeMap::new(),
            file_handles: BTreeMap::new(),
            unclosed: BTreeMap::new(),
            error_log: VecDeque::new(),
            open_entries: BTreeMap::new(),
            messages: BTreeMap::new(),
            tables: BTreeMap::new(),
            lookasides: BTreeMap::new(),
            resources: BTreeMap::new(),
            callback_objects: BTreeMap::new(),
            registered: BTreeMap::new(),
            running: BTreeMap::new(),
            held: BTreeMap::new(),
            uuids: 0,
        }
    }
}

impl Objects {
    /// Opens a handle of a driver for an object.
    pub fn open(&mut self, driver: DriverId, object: Object) -> HANDLE {
        let handle = self.next_handle;
        self.next_handle += 4;
        self.handles.insert(handle, (object, driver));
        handle
    }

    /// The object of a handle.
    pub fn handle(&self, handle: HANDLE) -> Option<&Object> {
        self.handles.get(&handle).map(|(object, _)| object)
    }

    /// Closes a handle. Returns its object.
    pub fn close(&mut self, handle: HANDLE) -> Option<Object> {
        self.handles.remove(&handle).map(|(object, _)| object)
    }

    /// The object of a process. Made at its first use.
    pub fn process(&mut self, id: u32) -> Address {
        if let Some((object, _)) = self.processes.iter().find(|(_, known)| **known == id) {
            return *object;
        }
        let object = self.opaque();
        self.processes.insert(object, id);
        object
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

    /// What refers to a device object, in words.
    pub fn users_of_device(&self, address: Address) -> Vec<String> {
        let of = |user: &Address| *user == address;
        let callouts = self.callout_devices.iter().filter(|(_, device)| of(device));
        let callouts = callouts.map(|(id, _)| format!("callout {id:#x}"));
        let subscriptions = self.subscription_devices.values().filter(|device| of(device));
        let subscriptions = subscriptions.map(|_| "a subscription to BFE's state".to_owned());
        // A work item that is queued or runs has a reference to its device.
        let referenced = self.devices.get(&address).is_some_and(|device| device.references > 0);
        let idle = |item: &WorkItem| of(&item.device) && !item.queued && !referenced;
        let items = self.work_items.iter().filter(|(_, item)| idle(item));
        let items = items.map(|(item, _)| format!("work item {item:#x}"));
        callouts.chain(subscriptions).chain(items).collect()
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

    /// References an object for a driver. Returns the number of references.
    pub fn reference(&mut self, object: Address, driver: DriverId) -> usize {
        let references = self.referenced.entry(object).or_default();
        references.push(driver);
        references.len()
    }

    /// Ends a reference of a driver, or of another one if it has none itself. Returns
    /// the number that is left; `None` if there was none.
    pub fn dereference(&mut self, object: Address, driver: DriverId) -> Option<usize> {
        let references = self.referenced.get_mut(&object)?;
        let own = references.iter().position(|of| *of == driver);
        references.swap_remove(own.unwrap_or(0));
        let left = references.len();
        if left == 0 {
            self.referenced.remove(&object);
        }
        Some(left)
    }

    /// A driver's threads, callbacks about processors, and referenced objects.
    pub fn addresses_of(&self, driver: DriverId) -> [Vec<String>; 3] {
        let text = |at: &Address| format!("{at:#x}");
        let threads = self.threads.iter().filter(|(_, of)| *of == driver);
        let callbacks = self.processor_callbacks.iter().filter(|(_, it)| it.driver == driver);
        let referenced = self.referenced.iter().filter(|(_, of)| of.contains(&driver));
        [
            threads.map(|(at, _)| text(at)).collect(),
            callbacks.map(|(at, _)| text(at)).collect(),
            referenced.map(|(at, _)| text(at)).collect(),
        ]
    }

    /// Describes open handles of the drivers of which `of` is true.
    pub fn describe_handles(&self, of: impl Fn(DriverId) -> bool) -> Vec<String> {
        let describe = |(handle, (object, _)): (&HANDLE, &(Object, DriverId))| match object {
            Object::Key(path, ..) => format!("{handle:#x}: key {path}"),
            Object::Event(_) => format!("{handle:#x}: event"),
            Object::Thread(_) => format!("{handle:#x}: thread"),
            Object::Process(id) => format!("{handle:#x}: process {id}"),
        };
        let redirects = self.redirects.iter().filter(|(_, (_, driver))| of(*driver));
        let redirects = redirects.map(|(handle, _)| format!("{handle:#x}: redirect"));
        let handles = self.handles.iter().filter(|(_, (_, driver))| of(*driver));
        handles.map(describe).chain(redirects).collect()
    }

    /// Describes device objects of the drivers of which `of` is true.
    pub fn describe_devices(&self, of: impl Fn(DriverId) -> bool) -> Vec<String> {
        let describe = |(address, device): (&Address, &Device)| match device.name.as_str() {
            "" => format!("{address:#x}: unnamed device"),
            name => format!("{address:#x}: {name}"),
        };
        let left = self.devices.iter().filter(|(_, device)| !device.deleted && of(device.driver));
        left.map(describe).collect()
    }
}
