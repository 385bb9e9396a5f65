//! Loading, devices, work items and unloading.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::super::ex::{ExAllocatePool2, ExFreePool};
use super::super::io::*;
use super::super::ke::KfRaiseIrql;
use super::super::types::{Address, DEVICE_OBJECT, DRIVER_OBJECT, UNICODE_STRING};
use super::super::zw::ZwClose;
use super::super::{Direct, DriverImage, Irql, Kernel, LeakReport, Options, Stop, foreign};
use super::{machine, peek, poke};
use crate::status::Status;
use crate::verifier::{Rule, rules};

type Entry = extern "win64" fn(Address, Address) -> i32;

fn image(entry: Entry) -> DriverImage {
    DriverImage { name: "sample".into(), entry: entry as *const () as Address, base: 0x1000, size: 0x2000 }
}

fn set_unload(driver: Address, routine: extern "win64" fn(Address)) {
    let at = driver + std::mem::offset_of!(DRIVER_OBJECT, DriverUnload);
    poke(at, routine as *const () as Address);
}

fn create_device(driver: Address) -> Address {
    let device: Address = 0;
    let out = std::ptr::from_ref(&device) as Address;
    assert_eq!(IoCreateDevice(driver, 64, 0, 0x12, 0, 0, out), 0);
    peek(out)
}

extern "win64" fn nothing(_: Address) {}

/// Loads a driver, and unloads it with its own routine.
fn cycle(entry: Entry) -> (std::sync::Arc<Kernel>, Result<LeakReport, Stop>) {
    let kernel = machine();
    let loaded = kernel.load_driver(image(entry));
    assert_eq!(loaded.unwrap(), Status::SUCCESS);
    let report = kernel.unload();
    (kernel, report)
}

#[track_caller]
fn leaves(rule: &'static Rule, entry: Entry) {
    let (kernel, outcome) = cycle(entry);
    super::stopped_by(&kernel, outcome, rule);
}

extern "win64" fn tidy_entry(driver: Address, path: Address) -> i32 {
    let object: DRIVER_OBJECT = peek(driver);
    assert_eq!((object.Type, object.Size), (4, 336));
    let path: UNICODE_STRING = peek(path);
    assert_eq!(path.Length % 2, 0);
    let name = foreign::read_unicode_string(driver + 56).unwrap();
    assert_eq!(name, r"\Driver\sample");
    let device = create_device(driver);
    let linked: DRIVER_OBJECT = peek(driver);
    assert_eq!(linked.DeviceObject, device);
    let raw: DEVICE_OBJECT = peek(device);
    assert_eq!((raw.Type, raw.DriverObject, raw.DeviceType), (3, driver, 0x12));
    assert_eq!(raw.DeviceExtension, device + 336);
    poke(raw.DeviceExtension + 56, u64::MAX);
    let key: Address = 0;
    let out = std::ptr::from_ref(&key) as Address;
    assert_eq!(IoOpenDriverRegistryKey(driver, 0, 1, 0, out), 0);
    assert_eq!(ZwClose(peek(out)), 0);
    set_unload(driver, tidy_unload);
    0
}

extern "win64" fn tidy_unload(driver: Address) {
    let object: DRIVER_OBJECT = peek(driver);
    IoDeleteDevice(object.DeviceObject);
    let object: DRIVER_OBJECT = peek(driver);
    assert_eq!(object.DeviceObject, 0);
}

#[test]
fn a_driver_without_leaks_can_be_loaded_twice() {
    let (kernel, report) = cycle(tidy_entry);
    assert!(super::clean(&kernel, report).is_empty());
    // Load it again on the same machine.
    assert!(kernel.load_driver(image(tidy_entry)).unwrap().is_success());
    assert!(super::clean(&kernel, kernel.unload()).is_empty());
}

extern "win64" fn leaky_pool(driver: Address, _: Address) -> i32 {
    set_unload(driver, nothing);
    assert_ne!(ExAllocatePool2(0x40, 48, u32::from_le_bytes(*b"leak")), 0);
    0
}

extern "win64" fn leaky_device(driver: Address, _: Address) -> i32 {
    set_unload(driver, nothing);
    create_device(driver);
    0
}

extern "win64" fn leaky_handle(driver: Address, _: Address) -> i32 {
    set_unload(driver, nothing);
    let key: Address = 0;
    IoOpenDriverRegistryKey(driver, 0, 1, 0, std::ptr::from_ref(&key) as Address)
}

extern "win64" fn leaky_work_item(driver: Address, _: Address) -> i32 {
    set_unload(driver, nothing);
    // A driver object is allowed, too.
    assert_ne!(IoAllocateWorkItem(driver), 0);
    0
}

/// The path that DriverEntry got.
static PATH: AtomicUsize = AtomicUsize::new(0);

extern "win64" fn keeps_the_path(driver: Address, path: Address) -> i32 {
    set_unload(driver, nothing);
    let string: UNICODE_STRING = peek(path);
    let end = string.Buffer + usize::from(string.Length);
    assert!(foreign::read::<u8>(end).is_err(), "behind the path is a guard page");
    PATH.store(path, Ordering::SeqCst);
    0
}

#[test]
fn the_registry_path_is_gone_after_driver_entry() {
    let kernel = machine();
    assert!(kernel.load_driver(image(keeps_the_path)).unwrap().is_success());
    assert!(foreign::read::<u8>(PATH.load(Ordering::SeqCst)).is_err());
}

#[test]
fn each_kind_of_leak_is_reported() {
    leaves(&rules::POOL_LEAK, leaky_pool);
    leaves(&rules::DEVICE_LEFT, leaky_device);
    leaves(&rules::HANDLE_LEFT, leaky_handle);
    leaves(&rules::WORK_ITEM_LEFT, leaky_work_item);
}

#[test]
fn a_leak_names_tag_and_size_and_counts() {
    let (kernel, outcome) = cycle(leaky_pool);
    let Err(Stop::BugCheck { parameters, text, .. }) = outcome else {
        panic!("a leak must be fatal");
    };
    assert_eq!((parameters[0], parameters[2..].to_vec()), (0x62, vec![0, 1]));
    assert_ne!(parameters[1], 0, "the name of the driver");
    assert!(text.contains("48 bytes, tag 'leak'"), "{text}");
    assert_eq!(kernel.leak_report().pool.len(), 1);
}

#[test]
fn a_tolerated_leak_is_only_reported() {
    let kernel = machine();
    kernel.verifier().tolerate(&rules::POOL_LEAK);
    assert!(kernel.load_driver(image(leaky_pool)).unwrap().is_success());
    assert_eq!(kernel.unload().unwrap().pool.len(), 1);
    assert_eq!(kernel.verifier().findings().len(), 1);
    assert!(kernel.stopped().is_none());
}

extern "win64" fn refusing(driver: Address, _: Address) -> i32 {
    create_device(driver);
    Status::INSUFFICIENT_RESOURCES.0
}

extern "win64" fn refusing_tidily(_: Address, _: Address) -> i32 {
    Status::INSUFFICIENT_RESOURCES.0
}

#[test]
fn a_driver_that_fails_to_start_must_not_leak() {
    let kernel = machine();
    let refused = kernel.load_driver(image(refusing_tidily));
    assert_eq!(super::clean(&kernel, refused), Status::INSUFFICIENT_RESOURCES);
    let outcome = kernel.load_driver(image(refusing));
    super::stopped_by(&kernel, outcome, &rules::DEVICE_LEFT);
}

static WORKED: AtomicU32 = AtomicU32::new(0);

extern "win64" fn worker(device: Address, context: Address) {
    // The device exists, although the driver has deleted it.
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_eq!(peek::<DEVICE_OBJECT>(device).Type, 3);
    WORKED.fetch_add(1, Ordering::SeqCst);
    IoFreeWorkItem(peek::<Address>(context));
}

static ITEM: AtomicU32 = AtomicU32::new(0);
static ITEM_ADDRESS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

extern "win64" fn busy_entry(driver: Address, _: Address) -> i32 {
    extern "win64" fn unload(driver: Address) {
        IoDeleteDevice(peek::<DRIVER_OBJECT>(driver).DeviceObject);
    }
    set_unload(driver, unload);
    let item = IoAllocateWorkItem(create_device(driver));
    ITEM_ADDRESS.store(item, Ordering::SeqCst);
    ITEM.store(1, Ordering::SeqCst);
    let context = ITEM_ADDRESS.as_ptr() as Address;
    IoQueueWorkItem(item, worker as *const () as Address, 1, context);
    0
}

#[test]
fn unload_waits_for_work_items() {
    let (kernel, report) = cycle(busy_entry);
    assert!(super::clean(&kernel, report).is_empty());
    assert_eq!((WORKED.load(Ordering::SeqCst), ITEM.load(Ordering::SeqCst)), (1, 1));
}

extern "win64" fn slow(_: Address, _: Address) {
    std::thread::sleep(std::time::Duration::from_millis(300));
}

/// Creates a device, and queues slow work items of it for all workers.
fn occupied(driver: Address) -> Address {
    set_unload(driver, nothing);
    let device = create_device(driver);
    for _ in 0..crate::nt::work::MOST_WORKERS {
        queue_slow(IoAllocateWorkItem(device));
    }
    device
}

fn queue_slow(item: Address) {
    IoQueueWorkItem(item, slow as *const () as Address, 1, 0);
}

/// Queues an item that waits for a worker, and then does `misuse` with it.
fn queued(driver: Address, misuse: fn(Address)) -> i32 {
    let item = IoAllocateWorkItem(occupied(driver));
    queue_slow(item);
    misuse(item);
    0
}

extern "win64" fn queues_twice(driver: Address, _: Address) -> i32 {
    queued(driver, queue_slow)
}

extern "win64" fn frees_queued(driver: Address, _: Address) -> i32 {
    queued(driver, |item| IoFreeWorkItem(item))
}

/// A work item in pool.
fn work_item_in_pool(device: Address) -> Address {
    let item = ExAllocatePool2(0x40, IoSizeofWorkItem() as usize, u32::from_le_bytes(*b"item"));
    IoInitializeWorkItem(device, item);
    item
}

/// As [`queued`], with a work item in pool.
fn in_place(driver: Address, misuse: fn(Address)) -> i32 {
    let item = work_item_in_pool(occupied(driver));
    queue_slow(item);
    misuse(item);
    0
}

extern "win64" fn uninitializes_queued(driver: Address, _: Address) -> i32 {
    in_place(driver, |item| IoUninitializeWorkItem(item))
}

extern "win64" fn frees_pool_of_queued(driver: Address, _: Address) -> i32 {
    in_place(driver, |item| ExFreePool(item))
}

extern "win64" fn frees_in_place(driver: Address, _: Address) -> i32 {
    in_place(driver, |item| IoFreeWorkItem(item))
}

extern "win64" fn uninitializes_allocated(driver: Address, _: Address) -> i32 {
    IoUninitializeWorkItem(IoAllocateWorkItem(create_device(driver)));
    0
}

/// A driver that waits for its work item and uninitializes it leaves nothing.
extern "win64" fn tidy_in_place(driver: Address, _: Address) -> i32 {
    extern "win64" fn unload(driver: Address) {
        while WORKED_IN_PLACE.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        IoUninitializeWorkItem(IN_PLACE.load(Ordering::SeqCst));
        ExFreePool(IN_PLACE.load(Ordering::SeqCst));
        IoDeleteDevice(peek::<DRIVER_OBJECT>(driver).DeviceObject);
    }
    extern "win64" fn work(_: Address, _: Address, item: Address) {
        WORKED_IN_PLACE.store(item, Ordering::SeqCst);
    }
    set_unload(driver, unload);
    let item = work_item_in_pool(create_device(driver));
    IN_PLACE.store(item, Ordering::SeqCst);
    IoQueueWorkItemEx(item, work as *const () as Address, 1, 0);
    0
}

static IN_PLACE: AtomicUsize = AtomicUsize::new(0);
static WORKED_IN_PLACE: AtomicUsize = AtomicUsize::new(0);

#[test]
fn a_work_item_in_memory_of_the_drivers() {
    let (kernel, report) = cycle(tidy_in_place);
    assert!(super::clean(&kernel, report).is_empty());
    assert_eq!(WORKED_IN_PLACE.load(Ordering::SeqCst), IN_PLACE.load(Ordering::SeqCst));
}

extern "win64" fn raises(_: Address, _: Address) {
    KfRaiseIrql(Irql::DISPATCH.0);
}

extern "win64" fn worker_raises(driver: Address, _: Address) -> i32 {
    set_unload(driver, nothing);
    let item = IoAllocateWorkItem(create_device(driver));
    IoQueueWorkItem(item, raises as *const () as Address, 1, 0);
    0
}

extern "win64" fn deletes_twice(driver: Address, _: Address) -> i32 {
    let device = create_device(driver);
    IoDeleteDevice(device);
    IoDeleteDevice(device);
    0
}

#[test]
fn misused_objects() {
    let misused = |rule, entry: Entry| {
        let kernel = machine();
        let outcome = kernel.load_driver(image(entry));
        super::stopped_by(&kernel, outcome, rule);
    };
    misused(&rules::WORK_ITEM_QUEUED_TWICE, queues_twice);
    misused(&rules::WORK_ITEM_FREED_ACTIVE, frees_queued);
    misused(&rules::WORK_ITEM_FREED_ACTIVE, uninitializes_queued);
    misused(&rules::POOL_WORK_ITEM_FREED, frees_pool_of_queued);
    misused(&rules::BAD_OBJECT, frees_in_place);
    misused(&rules::BAD_OBJECT, uninitializes_allocated);
    misused(&rules::DEVICE_DELETED_TWICE, deletes_twice);
    let kernel = machine();
    // The worker may run before DriverEntry has returned.
    let _ = kernel.load_driver(image(worker_raises));
    kernel.work().drain(std::time::Duration::from_secs(5));
    let outcome = kernel.stopped().cloned().map_or(Ok(()), Err);
    super::stopped_by(&kernel, outcome, &rules::WORKER_IRQL);
}

#[test]
fn an_overrun_of_the_device_extension_hits_a_guard_page() {
    let kernel = Kernel::new(std::sync::Arc::new(Direct), Options::default());
    extern "win64" fn entry(driver: Address, _: Address) -> i32 {
        set_unload(driver, nothing);
        create_device(driver);
        0
    }
    assert!(kernel.load_driver(image(entry)).unwrap().is_success());
    let objects = kernel.objects();
    let (device, _) = objects.devices.iter().next().unwrap();
    assert!(foreign::read::<u8>(device + 336 + 63).is_ok());
    assert!(foreign::read::<u8>(device + 336 + 64).is_err());
}
