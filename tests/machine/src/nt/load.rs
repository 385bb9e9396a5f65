//! Starts and stops drivers, and reports what they leave behind.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::cpu::Irql;
use super::guest::Stop;
use super::memory::{Guarded, PAGE};
use super::objects::{Device, WorkItem};
use super::pool::Leak;
use super::types::{Address, DEVICE_OBJECT, DRIVER_EXTENSION, DRIVER_OBJECT, UNICODE_STRING};
use super::{Kernel, io};
use crate::driver::DriverId;
use crate::image::{self, Residence};
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
    pub(super) id: DriverId,
    image: DriverImage,
    /// Whether the image is mapped. Otherwise the driver is native code.
    pub(super) is_mapped: bool,
    /// Pages that start with the `DRIVER_OBJECT`; its strings follow.
    memory: Guarded,
    /// The registry path. After DriverEntry its pages are inaccessible, and nothing else
    /// gets their addresses.
    path: Guarded,
}

impl Loaded {
    /// The addresses of its image.
    pub(super) fn range(&self) -> Range<u64> {
        let base = self.image.base as u64;
        base..base + u64::from(self.image.size)
    }

    /// The address of its driver object.
    fn object(&self) -> Address {
        self.memory.start()
    }

    /// The name of its service.
    pub(super) fn service(&self) -> &str {
        &self.image.name
    }
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
    /// If the driver of the service is already loaded.
    pub fn load_driver(&self, image: DriverImage) -> Result<Status, Stop> {
        assert!(self.loaded_as(&image.name).is_none(), "a driver of {} is already loaded", image.name);
        let watches = self.registry().create_key(&parameters_key(&image.name));
        self.complete_watches(watches, Status::SUCCESS);
        let memory = Guarded::new(2 * PAGE);
        driver_object(&memory, &image);
        let (path, path_address) = registry_path(&image);
        let entry = image.entry;
        let id = self.drivers.next_id(&image.name);
        let is_mapped = image::residence(image.base as u64) == Some(Residence::Loaded);
        let loaded = Arc::new(Loaded { id, image, is_mapped, memory, path });
        self.drivers.add(Arc::clone(&loaded));
        let arguments = [loaded.object() as u64, path_address as u64];
        let status = self.on_processor(0, Irql::PASSIVE, |kernel| {
            let _for_it = kernel.act_for(id);
            kernel.call_driver(entry, &arguments, Irql::PASSIVE, "DriverEntry")
        });
        // "The driver must save a copy of the string, because the pointer will be
        // invalid after DriverEntry returns" (DRIVER_INITIALIZE).
        loaded.path.revoke();
        let status = status?;
        let status = Status(status as u32 as i32);
        if status.is_success() {
            self.finish_initializing(id);
            return Ok(status);
        }
        self.check_pending_code(id);
        self.check_left_in_image(&loaded);
        self.check_left_behind(id)?;
        self.forget_driver(&loaded);
        Ok(status)
    }

    /// The driver is gone.
    fn forget_driver(&self, loaded: &Arc<Loaded>) {
        self.spin_locks.clear(loaded.id);
        let image = loaded.image.base..loaded.image.base + loaded.image.size as usize;
        self.locks().forget(image.clone());
        self.forget_irps(&image);
        self.forget_remove_locks(image);
        self.objects().subscribed.remove(&loaded.id);
        self.drivers.remove(loaded);
    }

    /// Unloads the only driver; see [`Self::unload_driver`].
    ///
    /// # Errors
    /// As [`Self::unload_driver`].
    ///
    /// # Panics
    /// As [`Self::unload_driver`], and if not exactly one driver is loaded.
    pub fn unload(&self) -> Result<LeakReport, Stop> {
        let loaded = self.drivers.loaded();
        let [only] = &loaded[..] else { panic!("{} drivers are loaded", loaded.len()) };
        self.unload_driver(only.service())
    }

    /// Unloads the driver of a service: calls `DriverUnload` at PASSIVE_LEVEL on
    /// processor 0, waits for its work items, which reference the device, and reports
    /// what it leaves behind.
    ///
    /// # Errors
    /// What stopped the machine. A leak also stops it.
    ///
    /// # Panics
    /// If the driver is not loaded, or a device of it is open: Windows keeps such a
    /// driver.
    pub fn unload_driver(&self, service: &str) -> Result<LeakReport, Stop> {
        let loaded = self.loaded_as(service).unwrap_or_else(|| panic!("{service} is not loaded"));
        let id = loaded.id;
        let object: DRIVER_OBJECT = loaded.memory.get(loaded.object());
        let routine = object.DriverUnload;
        assert_ne!(routine, 0, "the driver has no unload routine");
        let open = self.open_files(id);
        assert_eq!(open, 0, "{open} files of the driver's devices are open");
        self.on_processor(0, Irql::PASSIVE, |kernel| {
            let _for_it = kernel.act_for(id);
            kernel.call_driver(routine, &[loaded.object() as u64], Irql::PASSIVE, "DriverUnload")
        })?;
        self.check_pending_code(id);
        self.check_left_in_image(&loaded);
        // Where unregistering does not wait for a call, the system keeps the image until
        // the call has returned.
        let what = || "calls into the driver to return".to_owned();
        let callbacks = &self.drivers.service_of(id).callbacks;
        let none = || callbacks.load(Ordering::SeqCst) == 0;
        let _none_or_too_late = self.bell.wait(&what, Some(self.options().drain_limit), none);
        self.work().drain_of(id, self.options().drain_limit);
        let report = self.check_left_behind(id)?;
        self.forget_driver(&loaded);
        Ok(report)
    }

    /// The loaded driver of a service.
    pub(super) fn loaded_as(&self, service: &str) -> Option<Arc<Loaded>> {
        self.drivers.find(|driver| driver.service().eq_ignore_ascii_case(service))
    }

    /// The services of the loaded drivers, in the order in which they were loaded.
    pub fn loaded_services(&self) -> Vec<String> {
        self.drivers.loaded().iter().map(|driver| driver.service().to_owned()).collect()
    }

    /// Whether the driver of a service is loaded and has a `DriverUnload` routine.
    /// Windows cannot unload one without.
    pub fn can_unload(&self, service: &str) -> bool {
        self.loaded_as(service).is_some_and(|driver| {
            let object: DRIVER_OBJECT = driver.memory.get(driver.memory.start());
            object.DriverUnload != 0
        })
    }

    /// The number of open files of all drivers' devices.
    pub fn all_open_files(&self) -> usize {
        self.objects().files.len()
    }

    fn open_files(&self, driver: DriverId) -> usize {
        let objects = self.objects();
        let devices = objects.files.values().filter_map(|device| objects.devices.get(device));
        devices.filter(|device| device.driver == driver).count()
    }

    /// What all drivers have not released so far.
    pub fn leak_report(&self) -> LeakReport {
        self.report_of(|_| true)
    }

    /// What the loaded driver of a service has not released so far.
    ///
    /// # Panics
    /// If it is not loaded.
    pub fn leak_report_of(&self, service: &str) -> LeakReport {
        let id = self.loaded_as(service).unwrap_or_else(|| panic!("{service} is not loaded")).id;
        self.report_of(|driver| driver == id)
    }

    fn report_of(&self, of: impl Fn(DriverId) -> bool) -> LeakReport {
        let objects = self.objects();
        let links = objects.links.iter().filter(|(_, link)| of(link.driver));
        let work_items = objects.work_items.iter().filter(|(_, item)| of(item.driver));
        let state = |item: &WorkItem| if item.queued { "queued" } else { "idle" };
        let registered = self.tracing().registered();
        LeakReport {
            pool: self.pool().leaks().into_iter().filter(|leak| of(leak.origin.driver)).collect(),
            handles: objects.describe_handles(&of).into_iter().chain(self.packet_handles(&of)).collect(),
            devices: objects.describe_devices(&of),
            links: links.map(|(name, link)| format!("{name} to {}", link.device)).collect(),
            work_items: work_items.map(|(at, item)| format!("{at:#x}: {}", state(item))).collect(),
            packets: self.packets_left(&of).into_iter().map(|(_, text)| text).collect(),
            providers_of_events: registered
                .iter()
                .filter(|(_, it)| of(it.origin.driver))
                .map(|(_, it)| it.provider.to_string())
                .collect(),
            engine: self.engine_objects(of),
        }
    }

    /// Lets devices that DriverEntry has created be opened. Those of the framework wait
    /// for WdfControlFinishInitializing.
    fn finish_initializing(&self, driver: DriverId) {
        let own = |device: &Device| device.driver == driver && device.framework == 0;
        for (address, device) in self.objects().devices.iter().filter(|(_, device)| own(device)) {
            let mut object: DEVICE_OBJECT = device.memory.get(*address);
            object.Flags &= !io::DO_DEVICE_INITIALIZING;
            device.memory.put(*address, &object);
        }
    }

    /// Reports `WORK_QUEUE_ITEM`s that can run after the unload. An `IO_WORKITEM`
    /// references its device and so keeps the driver; a `WORK_QUEUE_ITEM` does not.
    fn check_pending_code(&self, driver: DriverId) {
        let count = self.work().bare(driver);
        if count > 0 {
            let text = format!("{count} WORK_QUEUE_ITEM queued or running");
            // What would be executed.
            let routine = self.work().bare_routine(driver) as u64;
            self.condemn_driver(driver, Violation::new(&rules::UNLOADED_CODE, [routine, 8, 0], text));
        }
    }

    /// Reports what would be left in the memory of the unloaded image: timers, DPCs, and
    /// objects that the system keeps in lists.
    fn check_left_in_image(&self, loaded: &Loaded) {
        let image = loaded.image.base..loaded.image.base + loaded.image.size as usize;
        let checks = [
            self.check_deferred(image.clone()),
            self.check_lookasides(image.clone()),
            self.check_resources(image),
        ];
        for violation in checks.into_iter().filter_map(Result::err) {
            self.condemn(violation);
        }
    }

    /// Reports each kind of leftover of a driver as a breach of its rule.
    fn check_left_behind(&self, driver: DriverId) -> Result<LeakReport, Stop> {
        let report = self.report_of(|of| of == driver);
        let engine = &report.engine;
        let pool: Vec<String> = report.pool.iter().map(|leak| self.describe_leak(leak)).collect();
        let notified = self.registry().has_watch(|notice| notice.driver == driver);
        let notified: Vec<String> = notified.then(|| "ZwNotifyChangeKey".to_owned()).into_iter().collect();
        let managed =
            [&engine.sessions, &engine.providers, &engine.sublayers, &engine.callouts, &engine.filters];
        let managed: Vec<String> = managed.into_iter().flatten().cloned().collect();
        let [threads, callbacks, referenced] = self.objects().addresses_of(driver);
        let registered = self.callbacks_of(driver);
        let routines = self.process_routines_of(driver);
        let kinds: [(&'static Rule, &[String]); 16] = [
            (&rules::FLOW_CONTEXT_LEFT, &engine.flow_contexts),
            (&rules::NOTIFICATION_LEFT, &notified),
            (&rules::CALLOUTS_LEFT, &engine.registered_callouts),
            (&rules::SUBSCRIPTION_LEFT, &engine.subscriptions),
            (&rules::ETW_REGISTRATION_LEFT, &report.providers_of_events),
            (&rules::PROCESSOR_CALLBACK_LEFT, &callbacks),
            (&rules::CALLBACK_LEFT, &registered),
            (&rules::PROCESS_ROUTINE_LEFT, &routines),
            (&rules::REFERENCE_LEFT, &referenced),
            (&rules::THREAD_LEFT, &threads),
            (&rules::WORK_ITEM_LEFT, &report.work_items),
            (&rules::SYMBOLIC_LINK_LEFT, &report.links),
            (&rules::DEVICE_LEFT, &report.devices),
            (&rules::HANDLE_LEFT, &report.handles),
            (&rules::FILTER_OBJECT_LEFT, &managed),
            (&rules::POOL_LEAK, &pool),
        ];
        self.check_locked_pages(driver);
        self.check_wmi(driver);
        for (rule, things) in kinds {
            if !things.is_empty() {
                let parameters = match *rule == rules::ETW_REGISTRATION_LEFT {
                    true => self.first_registration(driver),
                    // 0xC4/0x62: name, reserved, count.
                    false => [self.name_address(driver), 0, things.len() as u64],
                };
                self.condemn_driver(driver, Violation::new(rule, parameters, things.join("; ")));
            }
        }
        let mut packets: BTreeMap<&str, (&'static Rule, Vec<String>)> = BTreeMap::new();
        for (rule, text) in self.packets_left(|of| of == driver) {
            packets.entry(rule.id).or_insert((rule, Vec::new())).1.push(text);
        }
        for (rule, things) in packets.into_values() {
            let parameters = [0, 0, things.len() as u64];
            self.condemn_driver(driver, Violation::new(rule, parameters, things.join("; ")));
        }
        match self.stopped() {
            Some(stop) => Err(stop.clone()),
            None => Ok(report),
        }
    }

    /// Where the driver object has the driver's name.
    fn name_address(&self, driver: DriverId) -> u64 {
        let loaded = self.drivers.find(|it| it.id == driver);
        let object = loaded.map(|it| it.memory.get::<DRIVER_OBJECT>(it.object()));
        object.map_or(0, |object| object.DriverName.Buffer as u64)
    }

    /// 0xC4/0xDD: address of the registration, driver start, handle.
    fn first_registration(&self, driver: DriverId) -> [u64; 3] {
        let base = self.driver_start(driver);
        let registered = self.tracing().registered();
        let first = registered.iter().find(|(_, it)| it.origin.driver == driver);
        let caller = |stack: &[u64]| stack.first().copied().unwrap_or(0);
        first.map_or([0; 3], |(handle, it)| [caller(&it.origin.stack), base, *handle])
    }

    /// Where a driver's image starts; 0 if it is not loaded.
    pub(super) fn driver_start(&self, driver: DriverId) -> u64 {
        self.drivers.find(|it| it.id == driver).map_or(0, |loaded| loaded.image.base as u64)
    }

    /// Describes a leak and its allocation's call stack. Must run while the driver
    /// is loaded, so that addresses have names.
    fn describe_leak(&self, leak: &Leak) -> String {
        let frames = leak.origin.stack.iter();
        let frames = frames.map(|&address| format!("\n  {}", self.guest().describe(address)));
        frames.fold(leak.to_string(), |text, frame| text + &frame)
    }

    /// The address of a driver's object; 0 if it is not loaded.
    pub(super) fn driver_object(&self, driver: DriverId) -> Address {
        self.drivers.find(|loaded| loaded.id == driver).map_or(0, |loaded| loaded.object())
    }

    /// The driver whose driver object this is, with the name of its service.
    pub(super) fn driver_with(&self, object: Address) -> Option<(DriverId, String)> {
        let loaded = self.drivers.find(|driver| driver.object() == object)?;
        Some((loaded.id, loaded.service().to_owned()))
    }

    /// The name of the service whose driver object this is.
    pub(super) fn driver_name(&self, object: Address) -> Option<String> {
        self.driver_with(object).map(|(_, name)| name)
    }

    /// Links a driver's devices, the newest first, and its driver object to them.
    pub(super) fn link_devices(&self, driver: DriverId) {
        let objects = self.objects();
        let own = objects.devices.iter().filter(|(_, device)| device.driver == driver && !device.deleted);
        let mut own: Vec<_> = own.collect();
        own.sort_by_key(|(_, device)| device.number);
        let mut next = 0;
        for (address, device) in own {
            let object: DEVICE_OBJECT = device.memory.get(*address);
            device.memory.put(*address, &DEVICE_OBJECT { NextDevice: next, ..object });
            next = *address;
        }
        drop(objects);
        if let Some(loaded) = self.drivers.find(|it| it.id == driver) {
            let object: DRIVER_OBJECT = loaded.memory.get(loaded.object());
            loaded.memory.put(loaded.object(), &DRIVER_OBJECT { DeviceObject: next, ..object });
        }
    }
}

/// The registry path for DriverEntry, in a page of its own whose end is the path's, and its
/// address.
fn registry_path(image: &DriverImage) -> (Guarded, Address) {
    let bytes: Vec<u8> = service_key(&image.name).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let memory = Guarded::new(PAGE);
    let buffer = memory.end() - bytes.len();
    memory.put_bytes(buffer, &bytes);
    let (length, at) = (bytes.len() as u16, memory.start());
    memory.put(at, &UNICODE_STRING { Length: length, MaximumLength: length, Buffer: buffer });
    (memory, at)
}

/// Fills in the driver object.
fn driver_object(memory: &Guarded, image: &DriverImage) {
    let object_at = memory.start();
    let extension_at = object_at + size_of::<DRIVER_OBJECT>();
    let mut text_at = object_at + PAGE;
    let mut string = |text: &str| {
        let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        memory.put_bytes(text_at, &bytes);
        let string =
            UNICODE_STRING { Length: bytes.len() as u16, MaximumLength: bytes.len() as u16, Buffer: text_at };
        text_at += bytes.len().next_multiple_of(8);
        string
    };
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
}
