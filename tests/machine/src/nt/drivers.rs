//! The drivers of a machine, and which of them has called.
//!
//! A call is the driver's whose code made it. If that code is in no image, as native
//! code of a test is, it is the driver's that the thread runs. What the kernel does for
//! a driver on a thread of its own, it does in [`Kernel::act_for`].
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use super::Kernel;
use super::cpu::{self, Acting};
use super::failing::{Caller, FailCalls, Failure};
use super::load::Loaded;
use super::registry::{Reader, Reading};
use super::stack::StackMarks;
use super::stepwise::BeforeInstruction;
use super::types::Address;
use crate::driver::{DriverId, Origin};
use crate::exports;
use crate::image::{self, Residence};
use crate::verifier::Violation;
use crate::wfp;

/// What a machine keeps of a service, from its first load on.
pub(super) struct Service {
    pub(super) name: Arc<str>,
    calls: Box<[AtomicU64]>,
    /// Calls of the driver's functions that the system does not await everywhere.
    pub(super) callbacks: AtomicUsize,
    pub(super) stack_marks: StackMarks,
    fail_calls: RwLock<Option<Arc<dyn FailCalls>>>,
    pub(super) thread_stepper: Mutex<Option<BeforeInstruction>>,
    loads: AtomicU32,
}

impl Service {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            calls: (0..exports::count()).map(|_| AtomicU64::new(0)).collect(),
            callbacks: AtomicUsize::new(0),
            stack_marks: StackMarks::default(),
            fail_calls: RwLock::default(),
            thread_stepper: Mutex::default(),
            loads: AtomicU32::new(0),
        }
    }
}

/// The wait of which the number is noted.
const WAIT: usize = exports::index("ZwWaitForSingleObject");

/// An image that was unloaded.
type Gone = (Range<u64>, DriverId);

/// Number of unloaded images that are remembered.
const MOST_GONE: usize = 256;

/// The services and the loaded drivers of a machine.
pub(super) struct Drivers {
    /// By number. The first one is the system's.
    services: Box<[OnceLock<Service>]>,
    /// Number of services, with the system's.
    known: Mutex<usize>,
    loaded: RwLock<Vec<Arc<Loaded>>>,
    gone: Mutex<VecDeque<Gone>>,
}

impl Default for Drivers {
    fn default() -> Self {
        let services: Box<[OnceLock<Service>]> = (0..DriverId::SERVICES).map(|_| OnceLock::new()).collect();
        services[0].get_or_init(|| Service::new(""));
        Self { services, known: Mutex::new(1), loaded: RwLock::default(), gone: Mutex::default() }
    }
}

impl Drivers {
    fn known(&self) -> MutexGuard<'_, usize> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The services, without the system's.
    fn services(&self) -> impl Iterator<Item = &Service> {
        self.services[1..].iter().map_while(OnceLock::get)
    }

    /// The service of a load.
    pub(super) fn service_of(&self, driver: DriverId) -> &Service {
        self.services[driver.service()].get().expect("a load of a known service")
    }

    /// The number of the service with this name, which becomes known.
    fn number(&self, name: &str) -> usize {
        let mut known = self.known();
        let found = self.services().position(|service| service.name.eq_ignore_ascii_case(name));
        if let Some(at) = found {
            return at + 1;
        }
        assert!(*known < DriverId::SERVICES, "a machine knows at most {} services", DriverId::SERVICES - 1);
        let number = *known;
        self.services[number].get_or_init(|| Service::new(name));
        *known += 1;
        number
    }

    /// The service with this name, which becomes known.
    fn named(&self, name: &str) -> &Service {
        self.services[self.number(name)].get().expect("a service that is known")
    }

    /// The id of the next load of a service.
    pub(super) fn next_id(&self, name: &str) -> DriverId {
        let loads = &self.named(name).loads;
        DriverId::new(self.number(name), loads.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// The loaded drivers, in the order in which they were loaded.
    pub(super) fn loaded(&self) -> Vec<Arc<Loaded>> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first loaded driver of which `is` is true.
    pub(super) fn find(&self, is: impl Fn(&Loaded) -> bool) -> Option<Arc<Loaded>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.iter().find(|driver| is(driver)).cloned()
    }

    pub(super) fn add(&self, driver: Arc<Loaded>) {
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).push(driver);
    }

    pub(super) fn remove(&self, driver: &Loaded) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if gone.len() == MOST_GONE {
            gone.pop_front();
        }
        gone.push_back((driver.range(), driver.id));
        drop(gone);
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).retain(|other| other.id != driver.id);
    }

    /// The driver whose image, loaded or not, holds an address.
    fn holding(&self, address: u64) -> Option<DriverId> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let found = loaded.iter().find(|driver| driver.range().contains(&address)).map(|driver| driver.id);
        drop(loaded);
        found.or_else(|| {
            let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
            gone.iter().rev().find(|(range, _)| range.contains(&address)).map(|(_, driver)| *driver)
        })
    }

    /// The only loaded driver. `Err`: whether none is loaded.
    fn only<R>(&self, f: impl FnOnce(&Loaded) -> R) -> Result<R, bool> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        match &loaded[..] {
            [only] => Ok(f(only)),
            [] => Err(true),
            _ => Err(false),
        }
    }
}

impl Kernel {
    /// The driver whose routine begins at `entry`.
    pub(super) fn driver_of(&self, entry: Address) -> DriverId {
        let entry = entry as u64;
        let is_its = |only: &Loaded| (only.id, !only.is_mapped || only.range().contains(&entry));
        match self.drivers.only(is_its) {
            Ok((only, true)) => only,
            _ => self.drivers.holding(entry).unwrap_or_else(|| self.acting()),
        }
    }

    /// Where the image with an address is mapped; `None` if it is in none.
    pub(super) fn image_base(&self, address: Address) -> Option<Address> {
        let holds = |driver: &Loaded| driver.is_mapped && driver.range().contains(&(address as u64));
        self.drivers.find(holds).map(|driver| driver.range().start as Address)
    }

    /// The driver whose code calls the kernel on this thread, or for which the kernel
    /// acts there.
    pub(crate) fn caller(&self) -> DriverId {
        let (acting, is_for_it) = cpu::acting();
        match self.drivers.only(|only| only.id) {
            Ok(only) if acting == DriverId::SYSTEM => only,
            Ok(_) | Err(true) => acting,
            Err(false) if is_for_it => acting,
            Err(false) => {
                let code = image::call_site().and_then(|address| self.drivers.holding(address));
                code.unwrap_or_else(|| self.acting())
            }
        }
    }

    /// The driver that this thread runs. For a thread that runs none, the first one
    /// that is native code.
    fn acting(&self) -> DriverId {
        match cpu::acting().0 {
            DriverId::SYSTEM => {
                let native = self.drivers.find(|driver| !driver.is_mapped);
                native.map_or(DriverId::SYSTEM, |driver| driver.id)
            }
            acting => acting,
        }
    }

    /// Marks that the kernel acts for a driver on this thread, as long as the value
    /// lives.
    pub(super) fn act_for(&self, driver: DriverId) -> Acting {
        Acting::begin(driver, true)
    }

    /// The driver of a device; the system if there is no such device.
    pub(super) fn device_driver(&self, device: Address) -> DriverId {
        self.objects().devices.get(&device).map_or(DriverId::SYSTEM, |device| device.driver)
    }

    /// The driver whose code faulted at `instruction`, in a call of `called`.
    pub(super) fn faulting(&self, instruction: u64, called: DriverId) -> DriverId {
        // Code of an unloaded image is called by others.
        match image::residence(instruction) {
            Some(Residence::Loaded) => self.drivers.holding(instruction).unwrap_or(called),
            _ => called,
        }
    }

    /// Who calls the kernel on this thread, with the stack of the call.
    pub(super) fn origin(&self) -> Origin {
        Origin { driver: self.caller(), stack: self.guest().frames() }
    }

    /// The name of a driver's service; empty for the system.
    pub(crate) fn service_name(&self, driver: DriverId) -> &Arc<str> {
        &self.drivers.service_of(driver).name
    }

    /// The name of a driver's service, if the machine has had several drivers.
    pub(crate) fn distinguishing_name(&self, driver: DriverId) -> Option<&str> {
        let had = self.drivers.services().filter(|service| service.loads.load(Ordering::Relaxed) > 0);
        let is_named = driver != DriverId::SYSTEM && had.count() > 1;
        is_named.then(|| &**self.service_name(driver))
    }

    /// A violation whose detail names the driver, if the machine has had several.
    pub(super) fn with_name(&self, mut violation: Violation, driver: DriverId) -> Violation {
        if let Some(name) = self.distinguishing_name(driver) {
            violation.detail = format!("driver {name}: {}", violation.detail);
        }
        violation
    }

    /// Reports that the image of a service's driver, which is not loaded yet, breaks a
    /// rule.
    pub(crate) fn condemn_image(&self, service: &str, violation: Violation) {
        self.condemn_driver(DriverId::new(self.drivers.number(service), 0), violation);
    }

    /// Counts a call of the export at `index` of the table.
    pub(crate) fn count_call(&self, index: usize, caller: DriverId) {
        self.drivers.service_of(caller).calls[index].fetch_add(1, Ordering::Relaxed);
    }

    /// The exports that the drivers called, and how often they called each.
    pub fn calls(&self) -> Vec<(&'static str, u64)> {
        self.sum_of_calls(|_| true)
    }

    /// The exports that the driver of a service called, in all its loads, and how often.
    pub fn calls_of(&self, service: &str) -> Vec<(&'static str, u64)> {
        self.sum_of_calls(|known| known.name.eq_ignore_ascii_case(service))
    }

    fn sum_of_calls(&self, of: impl Fn(&Service) -> bool) -> Vec<(&'static str, u64)> {
        let system = self.drivers.services[0].get().into_iter();
        let services: Vec<_> = system.chain(self.drivers.services()).filter(|service| of(service)).collect();
        let sum =
            |index: usize| services.iter().map(|it| it.calls[index].load(Ordering::Relaxed)).sum::<u64>();
        let counted = (0..exports::count()).map(|index| (exports::name(index), sum(index)));
        counted.filter(|(_, calls)| *calls > 0).collect()
    }

    /// Most bytes of kernel stack used by each kind of entry point, in the measured
    /// calls of all drivers: the first 64 calls of each, then one in 64.
    pub fn stack_marks(&self) -> Vec<(&'static str, usize)> {
        let all = self.drivers.services().flat_map(|service| service.stack_marks.all());
        let mut most = std::collections::BTreeMap::new();
        for (what, bytes) in all {
            let mark = most.entry(what).or_insert(0);
            *mark = bytes.max(*mark);
        }
        most.into_iter().collect()
    }

    /// Those of the driver of a service.
    pub fn stack_marks_of(&self, service: &str) -> Vec<(&'static str, usize)> {
        self.drivers.named(service).stack_marks.all()
    }

    /// Sets what decides which calls of the driver of a service fail.
    pub fn set_fail_calls(&self, service: &str, fail_calls: Arc<dyn FailCalls>) {
        let service = self.drivers.named(service);
        *service.fail_calls.write().unwrap_or_else(PoisonError::into_inner) = Some(fail_calls);
    }

    /// How a driver's call of the export at `index` fails; `None` if it does not.
    pub(super) fn failure_of(&self, index: usize, driver: DriverId, caller: Caller) -> Option<Failure> {
        let service = self.drivers.service_of(driver);
        let decides = service.fail_calls.read().unwrap_or_else(PoisonError::into_inner).clone();
        decides?.failure(index, caller)
    }

    /// Whether a driver's calls of the export at `index` must not return now.
    pub(super) fn is_blocked(&self, index: usize, driver: DriverId) -> bool {
        let service = self.drivers.service_of(driver);
        let decides = service.fail_calls.read().unwrap_or_else(PoisonError::into_inner).clone();
        decides.is_some_and(|decides| decides.is_blocked(index))
    }

    /// Runs the own threads of a service's driver stepwise that start from now on.
    /// `None` ends this for threads that start later.
    pub fn step_threads_of(&self, service: &str, before: Option<BeforeInstruction>) {
        let service = self.drivers.named(service);
        *service.thread_stepper.lock().unwrap_or_else(PoisonError::into_inner) = before;
    }

    /// Runs the own threads of each driver stepwise that start from now on, of all
    /// services that are known. `None` ends this for threads that start later.
    pub fn step_driver_threads(&self, before: Option<BeforeInstruction>) {
        for service in self.drivers.services() {
            *service.thread_stepper.lock().unwrap_or_else(PoisonError::into_inner) = before.clone();
        }
    }

    /// The calling driver, as the registry notes it.
    pub(super) fn reader(&self) -> Reader {
        let driver = self.caller();
        Reader { driver, waits: self.drivers.service_of(driver).calls[WAIT].load(Ordering::Relaxed) }
    }

    /// How often the driver of a service called ZwWaitForSingleObject.
    pub fn waits_of(&self, service: &str) -> u64 {
        self.drivers.named(service).calls[WAIT].load(Ordering::Relaxed)
    }

    /// The last query of a value with this name by the driver of a service, in any key.
    pub fn last_reading_of(&self, service: &str, name: &str) -> Option<Reading> {
        let number = self.drivers.number(service);
        self.registry().last_reading(name, |driver| driver.service() == number)
    }

    /// The objects in the filter engine that belong to the drivers of which `of` is true.
    pub(super) fn engine_objects(&self, of: impl Fn(DriverId) -> bool) -> wfp::Objects {
        self.engine_if_used().map(|engine| engine.objects_of(of)).unwrap_or_default()
    }
}
