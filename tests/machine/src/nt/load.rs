//! Starts and stops a driver, and reports what it leaves behind.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;

use super::cpu::Irql;
use super::guest::Stop;
use super::memory::{Guarded, PAGE};
use super::pool::Leak;
use super::types::{Address, DEVICE_OBJECT, DRIVER_EXTENSION, DRIVER_OBJECT, UNICODE_STRING};
use super::{Kernel, io};
use crate::status::Status;
use crate::verifier::{Rule, Violation, rules};
use crate::wfp;

/// What the kernel needs to know of a driver image.
#[derive(Clone, Debug)]
pub struct DriverImage {
    /// Service name, such as `sample`.
    pub name: String,
    /// Address of `DriverEntry`.
    pub entry: Address,
    /// First address of the image.
    pub base: Address,
    /// Size of the image in bytes.
    pub size: u32,
}

/// A loaded driver.
#[derive(Debug)]
pub(super) struct Loaded {
    image: DriverImage,
    /// Pages that start with the `DRIVER_OBJECT`; its strings follow.
    memory: Guarded,
    /// Objects in the filter engine before the driver was loaded.
    others: wfp::Objects,
}

/// What a driver left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct LeakReport {
    pub pool: Vec<Leak>,
    pub handles: Vec<String>,
    pub devices: Vec<String>,
    pub links: Vec<String>,
    pub work_items: Vec<String>,
    pub packets: Vec<String>,
    pub providers_of_events: Vec<String>,
    pub engine: wfp::Objects,
}

impl LeakReport {
    /// Whether the driver left nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for LeakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = self.pool.iter().map(Leak::to_string).collect();
        let engine = &self.engine;
        let groups: [(&str, &Vec<String>); 15] = [
            ("pool", &pool),
            ("handle", &self.handles),
            ("device", &self.devices),
            ("symbolic link", &self.links),
            ("work item", &self.work_items),
            ("packet", &self.packets),
            ("provider of events", &self.providers_of_events),
            ("registered callout", &engine.registered_callouts),
            ("session", &engine.sessions),
            ("provider", &engine.providers),
            ("sublayer", &engine.sublayers),
            ("callout", &engine.callouts),
            ("filter", &engine.filters),
            ("flow context", &engine.flow_contexts),
            ("subscription", &engine.subscriptions),
        ];
        for (kind, things) in groups {
            for thing in things {
                writeln!(f, "{kind}: {thing}")?;
            }
        }
        Ok(())
    }
}

/// Registry path of the services key.
const SERVICES: &str = r"\REGISTRY\MACHINE\SYSTEM\ControlSet001\Services";

/// Registry key of a service.
pub fn service_key(name: &str) -> String {
    format!(r"{SERVICES}\{name}")
}

/// Registry key of a service's parameters. `IoOpenDriverRegistryKey` opens it for
/// `DriverRegKeyParameters`.
pub fn parameters_key(name: &str) -> String {
    format!(r"{}\Parameters", service_key(name))
}

impl Kernel {
    /// Loads a driver: creates its driver object and calls `DriverEntry` at
    /// PASSIVE_LEVEL on processor 0. If `DriverEntry` returns an error, the driver
    /// is removed, and must not have left anything behind.
    ///
    /// # Panics
    /// If a driver is already loaded. A machine runs one driver.
    pub fn load_driver(&self, image: DriverImage) -> Result<Status, Stop> {
        let watches = self.registry().create_key(&parameters_key(&image.name));
        self.complete_watches(watches, Status::SUCCESS);
        let others = self.engine_objects();
        let memory = Guarded::new(2 * PAGE);
        let registry_path = driver_object(&memory, &image);
        let object = memory.start();
        let entry = image.entry;
        {
            let mut loaded = self.loaded();
            assert!(loaded.is_none(), "a driver is already loaded");
            *loaded = Some(Loaded { image, memory, others });
        }
        let arguments = [object as u64, registry_path as u64];
        let status = self.on_processor(0, Irql::PASSIVE, |kernel| {
            kernel.call_driver(entry, &arguments, Irql::PASSIVE, "DriverEntry")
        })?;
        let status = Status(status as u32 as i32);
        if status.is_success() {
            self.finish_initializing();
            return Ok(status);
        }
        self.check_pending_code();
        self.check_left_behind()?;
        *self.loaded() = None;
        Ok(status)
    }

    /// Unloads the driver: calls `DriverUnload` at PASSIVE_LEVEL on processor 0,
    /// waits for its work items, which reference the device, and reports what is
    /// left behind.
    ///
    /// # Errors
    /// What stopped the machine. A leak also stops it.
    ///
    /// # Panics
    /// If no driver is loaded, or a device of it is open: Windows keeps such a driver.
    pub fn unload(&self) -> Result<LeakReport, Stop> {
        let (object, routine) = {
            let loaded = self.loaded();
            let loaded = loaded.as_ref().expect("a driver is loaded");
            let object: DRIVER_OBJECT = loaded.memory.get(loaded.memory.start());
            (loaded.memory.start(), object.DriverUnload)
        };
        assert_ne!(routine, 0, "the driver has no unload routine");
        let open = self.objects().files.len();
        assert_eq!(open, 0, "{open} files of the driver's devices are open");
        self.on_processor(0, Irql::PASSIVE, |kernel| {
            kernel.call_driver(routine, &[object as u64], Irql::PASSIVE, "DriverUnload")
        })?;
        self.check_pending_code();
        // Where unregistering does not wait for a call, the system keeps the image until
        // the call has returned.
        let what = || "calls into the driver to return".to_owned();
        let none = || self.callbacks.load(Ordering::SeqCst) == 0;
        let _none_or_too_late = self.bell.wait(&what, Some(self.options().drain_limit), none);
        self.work().drain(self.options().drain_limit);
        let report = self.check_left_behind()?;
        *self.loaded() = None;
        Ok(report)
    }

    /// What the driver has not released so far.
    pub fn leak_report(&self) -> LeakReport {
        let objects = self.objects();
        let work_items = objects.work_items.iter().map(|(address, item)| {
            let state = if item.queued { "queued" } else { "idle" };
            format!("{address:#x}: {state}")
        });
        LeakReport {
            pool: self.pool().leaks(),
            handles: objects.describe_handles().into_iter().chain(self.packet_handles()).collect(),
            devices: objects.describe_devices(),
            links: objects.links.iter().map(|(link, device)| format!("{link} to {device}")).collect(),
            work_items: work_items.collect(),
            packets: self.packets_left().into_iter().map(|(_, text)| text).collect(),
            providers_of_events: self
                .tracing()
                .registered()
                .iter()
                .map(|(_, it)| it.provider.to_string())
                .collect(),
            engine: match self.loaded().as_ref() {
                Some(loaded) => self.engine_objects().without(&loaded.others),
                None => self.engine_objects(),
            },
        }
    }

    fn engine_objects(&self) -> wfp::Objects {
        self.engine_if_used().map(|engine| engine.objects()).unwrap_or_default()
    }

    /// Lets devices that DriverEntry has created be opened. Those of the framework wait
    /// for WdfControlFinishInitializing.
    fn finish_initializing(&self) {
        for (address, device) in self.objects().devices.iter().filter(|(_, device)| device.framework == 0) {
            let mut object: DEVICE_OBJECT = device.memory.get(*address);
            object.Flags &= !io::DO_DEVICE_INITIALIZING;
            device.memory.put(*address, &object);
        }
    }

    /// Reports `WORK_QUEUE_ITEM`s that can run after the unload. An `IO_WORKITEM`
    /// references its device and so keeps the driver; a `WORK_QUEUE_ITEM` does not.
    fn check_pending_code(&self) {
        let count = self.work().bare();
        if count > 0 {
            let text = format!("{count} WORK_QUEUE_ITEM queued or running");
            // What would be executed.
            let routine = self.work().bare_routine() as u64;
            self.condemn(Violation::new(&rules::UNLOADED_CODE, [routine, 8, 0], text));
        }
    }

    /// Reports each kind of leftover as a breach of its rule.
    fn check_left_behind(&self) -> Result<LeakReport, Stop> {
        let report = self.leak_report();
        let engine = &report.engine;
        let pool: Vec<String> = report.pool.iter().map(|leak| self.describe_leak(leak)).collect();
        let notified = self.registry().has_watch(|_| true).then(|| "ZwNotifyChangeKey".to_owned());
        let notified: Vec<String> = notified.into_iter().collect();
        let managed =
            [&engine.sessions, &engine.providers, &engine.sublayers, &engine.callouts, &engine.filters];
        let managed: Vec<String> = managed.into_iter().flatten().cloned().collect();
        let threads: Vec<String> = self.objects().threads.iter().map(|at| format!("{at:#x}")).collect();
        let callbacks: Vec<String> =
            self.objects().processor_callbacks.keys().map(|at| format!("{at:#x}")).collect();
        let referenced: Vec<String> = self.objects().referenced.keys().map(|at| format!("{at:#x}")).collect();
        let kinds: [(&'static Rule, &[String]); 14] = [
            (&rules::FLOW_CONTEXT_LEFT, &engine.flow_contexts),
            (&rules::NOTIFICATION_LEFT, &notified),
            (&rules::CALLOUTS_LEFT, &engine.registered_callouts),
            (&rules::SUBSCRIPTION_LEFT, &engine.subscriptions),
            (&rules::ETW_REGISTRATION_LEFT, &report.providers_of_events),
            (&rules::PROCESSOR_CALLBACK_LEFT, &callbacks),
            (&rules::REFERENCE_LEFT, &referenced),
            (&rules::THREAD_LEFT, &threads),
            (&rules::WORK_ITEM_LEFT, &report.work_items),
            (&rules::SYMBOLIC_LINK_LEFT, &report.links),
            (&rules::DEVICE_LEFT, &report.devices),
            (&rules::HANDLE_LEFT, &report.handles),
            (&rules::FILTER_OBJECT_LEFT, &managed),
            (&rules::POOL_LEAK, &pool),
        ];
        for (rule, things) in kinds {
            if !things.is_empty() {
                let parameters = match *rule == rules::ETW_REGISTRATION_LEFT {
                    true => self.first_registration(),
                    // 0xC4/0x62: name, reserved, count.
                    false => [self.name_address(), 0, things.len() as u64],
                };
                self.condemn(Violation::new(rule, parameters, things.join("; ")));
            }
        }
        self.check_locked_pages();
        let mut packets: BTreeMap<&str, (&'static Rule, Vec<String>)> = BTreeMap::new();
        for (rule, text) in self.packets_left() {
            packets.entry(rule.id).or_insert((rule, Vec::new())).1.push(text);
        }
        for (rule, things) in packets.into_values() {
            let parameters = [0, 0, things.len() as u64];
            self.condemn(Violation::new(rule, parameters, things.join("; ")));
        }
        match self.stopped() {
            Some(stop) => Err(stop.clone()),
            None => Ok(report),
        }
    }

    /// Where the driver object has the driver's name.
    fn name_address(&self) -> u64 {
        let loaded = self.loaded();
        let object = loaded.as_ref().map(|it| it.memory.get::<DRIVER_OBJECT>(it.memory.start()));
        object.map_or(0, |object| object.DriverName.Buffer as u64)
    }

    /// 0xC4/0xDD: address of the registration, driver start, handle.
    fn first_registration(&self) -> [u64; 3] {
        let base = self.loaded().as_ref().map_or(0, |loaded| loaded.image.base as u64);
        let registered = self.tracing().registered();
        registered.first().map_or([0; 3], |(handle, it)| [it.caller, base, *handle])
    }

    /// Describes a leak and its allocation's call stack. Must run while the driver
    /// is loaded, so that addresses have names.
    fn describe_leak(&self, leak: &Leak) -> String {
        let frames = leak.stack.iter().map(|&address| format!("\n  {}", self.guest().describe(address)));
        frames.fold(leak.to_string(), |text, frame| text + &frame)
    }

    /// The service name of the loaded driver, if `object` is its driver object.
    pub(super) fn driver_name(&self, object: Address) -> Option<String> {
        let loaded = self.loaded();
        let loaded = loaded.as_ref()?;
        (loaded.memory.start() == object).then(|| loaded.image.name.clone())
    }

    /// Address range of the loaded image.
    pub(super) fn image_range(&self) -> Option<std::ops::Range<u64>> {
        let loaded = self.loaded();
        let image = &loaded.as_ref()?.image;
        let base = image.base as u64;
        Some(base..base + u64::from(image.size))
    }

    /// Links the device list that starts at `first` into the driver object.
    pub(super) fn link_devices(&self, first: Address) {
        let loaded = self.loaded();
        if let Some(Loaded { memory, .. }) = loaded.as_ref() {
            let mut object: DRIVER_OBJECT = memory.get(memory.start());
            object.DeviceObject = first;
            memory.put(memory.start(), &object);
        }
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, Option<Loaded>> {
        self.loaded.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Fills in the driver object. Returns the address of the registry path.
fn driver_object(memory: &Guarded, image: &DriverImage) -> Address {
    let object_at = memory.start();
    let extension_at = object_at + size_of::<DRIVER_OBJECT>();
    let path_at = extension_at + size_of::<DRIVER_EXTENSION>();
    let mut text_at = object_at + PAGE;
    let mut string = |text: &str| {
        let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        memory.put_bytes(text_at, &bytes);
        let string =
            UNICODE_STRING { Length: bytes.len() as u16, MaximumLength: bytes.len() as u16, Buffer: text_at };
        text_at += bytes.len().next_multiple_of(8);
        string
    };
    memory.put(path_at, &string(&service_key(&image.name)));
    let object = DRIVER_OBJECT {
        // IO_TYPE_DRIVER (wdm.h).
        Type: 4,
        Size: size_of::<DRIVER_OBJECT>() as i16,
        DriverStart: image.base,
        DriverSize: image.size,
        DriverExtension: extension_at,
        DriverName: string(&format!(r"\Driver\{}", image.name)),
        DriverInit: image.entry,
        MajorFunction: [io::invalid_device_request as *const () as Address; 28],
        ..DRIVER_OBJECT::zeroed()
    };
    memory.put(object_at, &object);
    let extension = DRIVER_EXTENSION {
        DriverObject: object_at,
        ServiceKeyName: string(&image.name),
        ..DRIVER_EXTENSION::zeroed()
    };
    memory.put(extension_at, &extension);
    path_at
}
