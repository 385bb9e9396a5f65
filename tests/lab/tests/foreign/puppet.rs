//! Two drivers that call what a test asks them to call, in one machine.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use machine::nt::irp::{Access, File};
use machine::nt::types::{
    FWPM_ACTION0, FWPM_CALLOUT0, FWPM_DISPLAY_DATA0, FWPM_FILTER0, FWPM_SUBLAYER0, FWPS_CALLOUT3, GUID,
};
use machine::nt::{Options, Stop};
use machine::status::Status;
use machine::wfp::{ActionType, Guid};
use machine::{Driver, Machine};

use super::{driver, text};

/// The imports, in the driver's order.
const IMPORTS: [&str; 52] = [
    "ExAllocatePool2",
    "ExFreePoolWithTag",
    "IoCreateDevice",
    "IoDeleteDevice",
    "IoCreateSymbolicLink",
    "IoDeleteSymbolicLink",
    "IoAllocateWorkItem",
    "IoQueueWorkItem",
    "IoFreeWorkItem",
    "ZwCreateEvent",
    "ZwSetEvent",
    "ZwClose",
    "ZwNotifyChangeKey",
    "IoOpenDriverRegistryKey",
    "EtwRegister",
    "EtwUnregister",
    "KeRegisterProcessorChangeCallback",
    "IoGetCurrentProcess",
    "ObfReferenceObject",
    "ObfDereferenceObject",
    "IoAllocateMdl",
    "IoFreeMdl",
    "KeBugCheckEx",
    "PsCreateSystemThread",
    "KeDelayExecutionThread",
    "IofCompleteRequest",
    "KeStallExecutionProcessor",
    "ZwQueryValueKey",
    "ObReferenceObjectByHandle",
    "PsSetCreateProcessNotifyRoutineEx",
    "FwpmEngineOpen0",
    "FwpmEngineClose0",
    "FwpmSubLayerAdd0",
    "FwpmSubLayerDeleteByKey0",
    "FwpmCalloutAdd0",
    "FwpmCalloutDeleteByKey0",
    "FwpmFilterAdd0",
    "FwpmFilterDeleteById0",
    "FwpsCalloutRegister3",
    "FwpsCalloutUnregisterById0",
    "FwpsFlowAssociateContext0",
    "FwpsFlowRemoveContext0",
    "FwpmBfeStateSubscribeChanges0",
    "FwpmBfeStateUnsubscribeChanges0",
    "FwpsInjectionHandleCreate0",
    "FwpsInjectionHandleDestroy0",
    "FwpsRedirectHandleCreate0",
    "FwpsRedirectHandleDestroy0",
    "FwpsAllocateNetBufferAndNetBufferList0",
    "FwpsFreeNetBufferList0",
    "NdisAllocateNetBufferListPool",
    "NdisFreeNetBufferListPool",
];

/// The names of the services.
pub const SERVICES: [&str; 2] = ["one", "two"];

const PROCESS: u32 = 77;
const CALL: u32 = 0x22_2000;
const JUMP: u32 = 0x22_2004;
const READ: u32 = 0x22_2008;
const OWN: u32 = 0x22_200C;

/// A driver that is loaded, with an open handle of its device.
pub struct Puppet {
    // Dropped first: a driver with open files cannot be unloaded.
    file: Option<File>,
    pub driver: Driver,
    pub object: u64,
    pub device: u64,
    words: u64,
    pub classify: u64,
    notify: u64,
    flow_delete: u64,
    pub work: u64,
    pub told: u64,
}

/// The words of the driver: the action of its callout, numbers of calls, whether its work
/// routine goes on, and the number of files that were closed.
#[derive(Clone, Copy, Debug)]
pub enum Word {
    Action,
    Classified,
    Notified,
    Deleted,
    Worked,
    Works,
    Closed,
}

/// Both drivers in one machine. `order`: their places, in the order in which they start.
pub fn both(order: [usize; 2]) -> (Machine, [Puppet; 2]) {
    let machine = Machine::new("nobody", Options::default());
    let mut started = order.map(|place| Some((place, Puppet::start(&machine, place))));
    started.sort_by_key(|puppet| puppet.as_ref().map(|(place, _)| *place));
    let puppets = started.map(|puppet| puppet.expect("it was just started").1);
    (machine, puppets)
}

pub fn sys(place: usize) -> PathBuf {
    driver("puppet.rs", [&[][..], &["--cfg", "two"]][place])
}

impl Puppet {
    pub fn start(machine: &Machine, place: usize) -> Self {
        let mut driver = machine.driver(SERVICES[place]);
        driver.report_missing_at_call();
        Self::load(driver, place)
    }

    /// Loads a driver that is not loaded.
    pub fn load(mut driver: Driver, place: usize) -> Self {
        driver.start(&sys(place)).unwrap_or_else(|error| panic!("{error}"));
        let path = format!(r"\\.\Puppet-{}", place + 1);
        let file = driver.kernel().open(&path, PROCESS, Access::FULL).expect("the device opens");
        let reply = file.control(OWN, &[0; 96], &[0; 96]).unwrap().reply().unwrap();
        let own: Vec<u64> =
            reply.output.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        let [object, device, words, classify, notify, flow_delete, work, told] = own[..8].try_into().unwrap();
        Self { file: Some(file), driver, object, device, words, classify, notify, flow_delete, work, told }
    }

    fn ask(&self, code: u32, first: u64, arguments: &[u64]) -> Result<u64, Stop> {
        let mut input = [0u64; 12];
        input[0] = first;
        input[1..=arguments.len()].copy_from_slice(arguments);
        let input: Vec<u8> = input.into_iter().flat_map(u64::to_le_bytes).collect();
        let file = self.file.as_ref().expect("the device is open");
        let request = file.control(code, &input, &[0; 8])?;
        let reply = request.wait(None)?.expect("the driver answers at once");
        Ok(u64::from_le_bytes(reply.output.try_into().unwrap()))
    }

    /// Lets the driver call an import.
    pub fn try_call(&self, import: &str, arguments: &[u64]) -> Result<u64, Stop> {
        let number = IMPORTS.iter().position(|name| *name == import).expect("an import of the driver");
        self.ask(CALL, number as u64, arguments)
    }

    pub fn call(&self, import: &str, arguments: &[u64]) -> u64 {
        self.try_call(import, arguments).unwrap_or_else(|stop| panic!("{import}: {}", text(&stop)))
    }

    /// Lets it call a function that returns a status.
    pub fn status(&self, import: &str, arguments: &[u64]) -> Status {
        Status(self.call(import, arguments) as u32 as i32)
    }

    /// As [`Self::status`], of a function that writes a result through the last
    /// argument.
    pub fn gives(&self, import: &str, arguments: &[u64]) -> u64 {
        let out = AtomicU64::new(0);
        let arguments: Vec<u64> = arguments.iter().copied().chain([at(&out)]).collect();
        assert_eq!(self.status(import, &arguments), Status::SUCCESS, "{import}");
        out.load(Ordering::SeqCst)
    }

    /// Lets the driver call an address.
    pub fn jump(&self, address: u64) -> Result<u64, Stop> {
        self.ask(JUMP, address, &[])
    }

    /// Lets the driver read an address.
    pub fn read(&self, address: u64) -> Result<u64, Stop> {
        self.ask(READ, address, &[])
    }

    pub fn word(&self, word: Word) -> &AtomicU64 {
        let address = self.words as usize + 8 * word as usize;
        // SAFETY: a word of the driver's data, which is mapped as long as it is loaded.
        unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(address)) }
    }

    pub fn get(&self, word: Word) -> u64 {
        self.word(word).load(Ordering::SeqCst)
    }

    /// Closes the device and unloads the driver.
    pub fn try_stop(&mut self) -> Result<machine::nt::LeakReport, Stop> {
        if let Some(file) = self.file.take() {
            file.close()?;
        }
        self.driver.stop()
    }

    /// As [`Self::try_stop`]; the driver must have left nothing. It can be loaded again.
    pub fn unload(mut self) -> Driver {
        let left = self.try_stop().unwrap_or_else(|stop| panic!("{}", text(&stop)));
        assert!(left.is_empty(), "{left}");
        self.driver
    }

    /// As [`Self::unload`], at the end.
    pub fn stop(self) {
        drop(self.unload());
    }

    /// Opens an engine session.
    pub fn session(&self) -> u64 {
        self.gives("FwpmEngineOpen0", &[0, 10, 0, 0])
    }

    /// Registers its callout under a key. Returns the id.
    pub fn register(&self, key: Guid) -> u64 {
        let callout = FWPS_CALLOUT3 {
            calloutKey: key.into(),
            classifyFn: self.classify as usize,
            notifyFn: self.notify as usize,
            flowDeleteFn: self.flow_delete as usize,
            ..FWPS_CALLOUT3::zeroed()
        };
        self.gives("FwpsCalloutRegister3", &[self.device, at(&callout)]) & 0xFFFF_FFFF
    }

    /// Adds a sublayer in a session.
    pub fn add_sublayer(&self, session: u64, key: Guid, weight: u16) {
        let name = wide("sublayer");
        let sublayer = FWPM_SUBLAYER0 {
            subLayerKey: key.into(),
            displayData: FWPM_DISPLAY_DATA0 { name: name.as_ptr().addr(), description: 0 },
            weight,
            ..FWPM_SUBLAYER0::zeroed()
        };
        assert_eq!(self.status("FwpmSubLayerAdd0", &[session, at(&sublayer), 0]), Status::SUCCESS);
    }

    /// Adds a callout of this key to a layer.
    pub fn add_callout(&self, session: u64, key: Guid, layer: Guid) {
        let name = wide("callout");
        let callout = FWPM_CALLOUT0 {
            calloutKey: key.into(),
            displayData: FWPM_DISPLAY_DATA0 { name: name.as_ptr().addr(), description: 0 },
            applicableLayer: layer.into(),
            ..FWPM_CALLOUT0::zeroed()
        };
        assert_eq!(self.status("FwpmCalloutAdd0", &[session, at(&callout), 0, 0]), Status::SUCCESS);
    }

    /// Adds a filter that names a callout. Returns its id.
    pub fn add_filter(&self, session: u64, keys: [Guid; 3], action: ActionType, flags: u32) -> u64 {
        let (status, id) = self.try_filter(session, keys, action, flags);
        assert_eq!(status, Status::SUCCESS);
        id
    }

    /// Tries to add a filter of a layer and a sublayer that names a callout. Returns the
    /// status, and its id.
    pub fn try_filter(
        &self,
        session: u64,
        [layer, sublayer, callout]: [Guid; 3],
        action: ActionType,
        flags: u32,
    ) -> (Status, u64) {
        let name = wide("filter");
        let filter = FWPM_FILTER0 {
            displayData: FWPM_DISPLAY_DATA0 { name: name.as_ptr().addr(), description: 0 },
            flags,
            layerKey: layer.into(),
            subLayerKey: sublayer.into(),
            action: FWPM_ACTION0 { r#type: action.0, calloutKey: callout.into() },
            ..FWPM_FILTER0::zeroed()
        };
        let id = AtomicU64::new(0);
        let status = self.status("FwpmFilterAdd0", &[session, at(&filter), 0, at(&id)]);
        (status, id.load(Ordering::SeqCst))
    }
}

/// The address of memory that a driver gets.
pub fn at<T: ?Sized>(memory: &T) -> u64 {
    std::ptr::from_ref(memory).cast::<u8>().expose_provenance() as u64
}

/// A string for a driver, with its NUL.
pub fn wide(text: &str) -> Vec<u16> {
    let units: Vec<u16> = text.encode_utf16().chain([0]).collect();
    at(&units[..]);
    units
}

/// A `UNICODE_STRING` over a string with a NUL.
pub fn counted(text: &[u16]) -> [u64; 2] {
    let length = 2 * (text.len() as u64 - 1);
    [length | (length + 2) << 16, at(text)]
}

/// A key of a GUID.
pub fn guid(number: u128) -> Guid {
    Guid::from_u128(0x7075_7070_6574_0000_0000_0000_0000_0000 | number)
}

/// A GUID in memory.
pub fn raw(guid: Guid) -> GUID {
    guid.into()
}
