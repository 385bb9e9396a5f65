//! Several drivers in one machine: what belongs to which.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use machine::Machine;
use machine::faults::{Mode, Plan};
use machine::nt::{Effect, Failure, Options, Stop};
use machine::status::Status;
use machine::verifier::{Rule, rules};
use machine::wfp::{ActionType, Engine, LayerData, Metadata, Request, Value};

use super::puppet::{Puppet, SERVICES, Word, at, both, counted, guid, raw, wide};
use super::text;

const TAG: u64 = u32::from_le_bytes(*b"Pupp") as u64;
/// `POOL_FLAG_NON_PAGED`.
const NON_PAGED: u64 = 0x40;

/// A leak, and the rule that its driver breaks.
type Leak = (&'static str, fn(&Puppet) -> u64, &'static Rule);

const LEAKS: [Leak; 18] = [
    ("pool", |it| it.call("ExAllocatePool2", &[NON_PAGED, 48, TAG]), &rules::POOL_LEAK),
    ("MDL", |it| it.call("IoAllocateMdl", &[it.device, 8, 0, 0, 0]), &rules::POOL_LEAK),
    ("event", event, &rules::HANDLE_LEFT),
    ("key", |it| it.gives("IoOpenDriverRegistryKey", &[it.object, 0, 0x11, 0]), &rules::HANDLE_LEFT),
    ("device", device, &rules::DEVICE_LEFT),
    ("link", link, &rules::SYMBOLIC_LINK_LEFT),
    ("work item", |it| it.call("IoAllocateWorkItem", &[it.device]), &rules::DEVICE_IN_USE),
    ("provider of events", provider, &rules::ETW_REGISTRATION_LEFT),
    ("processor callback", processor_callback, &rules::PROCESSOR_CALLBACK_LEFT),
    ("reference", reference, &rules::REFERENCE_LEFT),
    ("notification", notification, &rules::NOTIFICATION_LEFT),
    ("session", Puppet::session, &rules::FILTER_OBJECT_LEFT),
    ("sublayer", sublayer, &rules::FILTER_OBJECT_LEFT),
    ("callout", |it| it.register(guid(1)), &rules::DEVICE_IN_USE),
    ("subscription", subscription, &rules::DEVICE_IN_USE),
    ("pool of lists", list_pool, &rules::PACKET_POOL_LEFT),
    ("injection handle", injection, &rules::HANDLE_LEFT),
    ("redirect handle", redirect, &rules::HANDLE_LEFT),
];

fn event(it: &Puppet) -> u64 {
    let handle = std::sync::atomic::AtomicU64::new(0);
    assert_eq!(it.status("ZwCreateEvent", &[at(&handle), 0, 0, 0, 0]), Status::SUCCESS);
    handle.load(Ordering::SeqCst)
}

fn device(it: &Puppet) -> u64 {
    it.gives("IoCreateDevice", &[it.object, 0, 0, 0x22, 0, 0])
}

fn link(it: &Puppet) -> u64 {
    let (link, device) = (wide(r"\??\Another"), wide(r"\Device\Another"));
    let (link, device) = (counted(&link), counted(&device));
    it.call("IoCreateSymbolicLink", &[at(&link), at(&device)])
}

fn provider(it: &Puppet) -> u64 {
    let id = raw(guid(2));
    it.gives("EtwRegister", &[at(&id), 0, 0])
}

fn processor_callback(it: &Puppet) -> u64 {
    it.call("KeRegisterProcessorChangeCallback", &[it.told, 0, 0])
}

fn reference(it: &Puppet) -> u64 {
    let process = it.call("IoGetCurrentProcess", &[]);
    it.call("ObfReferenceObject", &[process])
}

fn notification(it: &Puppet) -> u64 {
    let key = it.gives("IoOpenDriverRegistryKey", &[it.object, 0, 0x11, 0]);
    let block = Box::leak(Box::new([0u64; 2]));
    it.call("ZwNotifyChangeKey", &[key, 0, 0, 0, at(block), 4, 0, 0, 0, 1])
}

fn sublayer(it: &Puppet) -> u64 {
    let session = it.session();
    it.add_sublayer(session, guid(3), 7);
    it.call("FwpmEngineClose0", &[session])
}

fn subscription(it: &Puppet) -> u64 {
    it.gives("FwpmBfeStateSubscribeChanges0", &[it.device, it.told, 0])
}

fn list_pool(it: &Puppet) -> u64 {
    // NET_BUFFER_LIST_POOL_PARAMETERS: header, protocol and a NET_BUFFER, context, tag, data.
    let parameters = [0x0018_0180u64, 1 << 8, TAG << 32, 0];
    let pool = it.call("NdisAllocateNetBufferListPool", &[0, at(&parameters)]);
    assert_ne!(pool, 0);
    pool
}

fn injection(it: &Puppet) -> u64 {
    // FWPS_INJECTION_TYPE_TRANSPORT.
    it.gives("FwpsInjectionHandleCreate0", &[0, 2])
}

fn redirect(it: &Puppet) -> u64 {
    let provider = raw(guid(4));
    it.gives("FwpsRedirectHandleCreate0", &[at(&provider), 0])
}

/// The names of the broken rules, and of the drivers that broke them.
fn findings(machine: &Machine) -> Vec<(String, String)> {
    let found = machine.kernel().verifier().findings();
    found.iter().map(|it| (it.violation.rule.id.to_owned(), it.driver.to_string())).collect()
}

#[test]
fn a_leak_is_the_drivers_that_made_it_whichever_ends_first() {
    for (what, leak, rule) in LEAKS {
        for leaky in [0, 1] {
            for leaky_ends_first in [false, true] {
                let (machine, puppets) = both([0, 1]);
                leak(&puppets[leaky]);
                let own = machine.kernel().leak_report_of(SERVICES[leaky]).to_string();
                let others = machine.kernel().leak_report_of(SERVICES[1 - leaky]).to_string();
                let lines = |text: &str| text.lines().count();
                // A pending notification and a referenced object are in no report.
                let is_in_report = ![&rules::REFERENCE_LEFT, &rules::PROCESSOR_CALLBACK_LEFT].contains(&rule);
                assert_eq!(lines(&others), 2, "{what}: {others}");
                assert_eq!(lines(&own) > 2, is_in_report, "{what}: {own}");
                let [one, two] = puppets;
                let (mut leaky_one, tidy) = if leaky == 0 { (one, two) } else { (two, one) };
                let stop = if leaky_ends_first {
                    let stop = leaky_one.try_stop().expect_err(what);
                    assert_eq!(
                        findings(&machine).len(),
                        if what == "notification" { 2 } else { 1 },
                        "{what}"
                    );
                    drop(tidy);
                    stop
                } else {
                    tidy.stop();
                    leaky_one.try_stop().expect_err(what)
                };
                let named = format!("driver {}: ", SERVICES[leaky]);
                assert!(text(&stop).contains(&named), "{what}: {}", text(&stop));
                let found = findings(&machine);
                assert!(found.contains(&(rule.id.into(), SERVICES[leaky].into())), "{what}: {found:?}");
                assert!(found.iter().all(|(_, driver)| driver == SERVICES[leaky]), "{what}: {found:?}");
            }
        }
    }
}

#[test]
fn each_ends_first_and_the_other_works_on() {
    for order in [[0, 1], [1, 0]] {
        for first in [0, 1] {
            let (machine, [one, two]) = both(order);
            assert_eq!(machine.kernel().loaded_services(), order.map(|place| SERVICES[place]));
            let (ends, stays) = if first == 0 { (one, two) } else { (two, one) };
            ends.stop();
            assert_eq!(machine.kernel().devices().len(), 1);
            let block = stays.call("ExAllocatePool2", &[NON_PAGED, 16, TAG]);
            stays.call("ExFreePoolWithTag", &[block, TAG]);
            Puppet::start(&machine, first).stop();
            stays.stop();
            assert!(machine.kernel().devices().is_empty() && findings(&machine).is_empty());
        }
    }
}

/// A call of the second driver that stops the machine, with what the report says.
#[track_caller]
fn blamed(call: impl FnOnce(&Puppet, &Puppet) -> Result<u64, Stop>, rule: &str, says: &[&str]) {
    let (machine, [one, two]) = both([0, 1]);
    let stop = call(&one, &two).expect_err(rule);
    let text = text(&stop);
    for says in says.iter().chain(&["driver two: "]) {
        assert!(text.contains(says), "{rule}, {says}: {text}");
    }
    if !rule.is_empty() {
        assert_eq!(findings(&machine), [(rule.to_owned(), "two".to_owned())], "{text}");
    }
    assert!(!text.contains("driver one"), "{text}");
}

#[test]
fn a_crash_names_the_driver_its_function_and_its_line() {
    let line = "drivers/puppet.rs:";
    blamed(|_, two| two.read(0x10), "ACCESS_VIOLATION", &["puppet::get", line]);
    blamed(
        |_, two| two.try_call("ExFreePoolWithTag", &[0x5000, 0]),
        "POOL_BAD_FREE",
        &["puppet::control", line],
    );
    blamed(|_, two| two.try_call("KeBugCheckEx", &[0xE2, 0, 0, 0, 0]), "", &["KeBugCheckEx", line]);
    let (_machine, [_one, two]) = both([0, 1]);
    let missing = two.try_call("KeStallExecutionProcessor", &[1]).expect_err("it is not modelled");
    assert!(text(&missing).contains("the driver two called ntoskrnl.exe!KeStall"), "{}", text(&missing));
}

#[test]
fn a_report_about_a_single_driver_needs_no_name() {
    let machine = Machine::new("nobody", Options::default());
    let two = Puppet::start(&machine, 1);
    let stop = two.read(0x10).expect_err("a null pointer");
    assert!(!text(&stop).contains("driver two"), "{}", text(&stop));
    assert_eq!(findings(&machine), [("ACCESS_VIOLATION".to_owned(), "two".to_owned())]);
}

#[test]
fn code_of_a_driver_that_is_called_by_the_other_is_its_own() {
    let (machine, [one, two]) = both([0, 1]);
    // The work routine of the first driver returns at once, and counts.
    two.jump(one.work).unwrap();
    assert_eq!((one.get(Word::Worked), two.get(Word::Worked)), (1, 0));
    one.word(Word::Works).store(1, Ordering::SeqCst);
    let before = [&one, &two].map(|it| calls(it, "KeDelayExecutionThread"));
    std::thread::scope(|scope| {
        scope.spawn(|| two.jump(one.work).unwrap());
        assert!(machine.kernel().wait_until("a call", || calls(&one, "KeDelayExecutionThread") > before[0]));
        one.word(Word::Works).store(0, Ordering::SeqCst);
    });
    assert_eq!(calls(&two, "KeDelayExecutionThread"), before[1]);
    one.stop();
    two.stop();
}

fn calls(it: &Puppet, export: &str) -> u64 {
    it.driver.calls().iter().find(|(name, _)| *name == export).map_or(0, |(_, calls)| *calls)
}

/// What a driver keeps of another one is dead when that is unloaded.
#[test]
fn use_of_what_an_unloaded_driver_had_is_found() {
    type Case = (
        fn(&Puppet) -> u64,
        fn(&Puppet, u64) -> u64,
        fn(&Puppet, u64) -> Result<u64, Stop>,
        &'static str,
        &'static str,
    );
    let used: [Case; 6] = [
        (|it| it.told, |_, _| 0, |it, code| it.jump(code), "UNLOADED_CODE", "unloaded image puppet.sys"),
        (
            |it| it.session(),
            |it, session| it.call("FwpmEngineClose0", &[session]),
            |it, session| it.try_call("FwpmSubLayerDeleteByKey0", &[session, at(&raw(guid(3)))]),
            "ENGINE_HANDLE",
            "engine handle",
        ),
        (
            |it| it.device,
            |_, _| 0,
            |it, device| it.try_call("FwpsCalloutRegister3", &[device, at(&[0u64; 6]), 0]),
            "BAD_OBJECT",
            "DEVICE_OBJECT",
        ),
        (
            |it| it.call("IoAllocateWorkItem", &[it.device]),
            |it, item| it.call("IoFreeWorkItem", &[item]),
            |it, item| it.try_call("IoQueueWorkItem", &[item, it.work, 1, 0]),
            "BAD_OBJECT",
            "IO_WORKITEM",
        ),
        (
            injection,
            |it, handle| it.call("FwpsInjectionHandleDestroy0", &[handle]),
            |it, handle| it.try_call("FwpsInjectionHandleDestroy0", &[handle]),
            "INJECTION_HANDLE",
            "injection handle",
        ),
        (
            |it| it.call("ExAllocatePool2", &[NON_PAGED, 16, TAG]),
            |it, block| it.call("ExFreePoolWithTag", &[block, TAG]),
            |it, block| it.read(block),
            "FREED_POOL_ACCESS",
            "freed pool block",
        ),
    ];
    for (make, unmake, use_it, rule, says) in used {
        let (machine, [one, two]) = both([0, 1]);
        let thing = make(&one);
        unmake(&one, thing);
        one.stop();
        let stop = use_it(&two, thing).expect_err(rule);
        assert!(text(&stop).contains(says) && text(&stop).contains("driver two: "), "{}", text(&stop));
        assert_eq!(findings(&machine), [(rule.to_owned(), "two".to_owned())]);
    }
}

#[test]
fn the_callout_id_of_an_unloaded_driver_leads_to_no_callout() {
    let (machine, [one, two]) = both([0, 1]);
    let (id, flow) = (one.register(guid(1)), machine.engine().flow_create());
    let layer = machine.engine().layer_by_name("STREAM_V4").unwrap().id.0;
    let associate = |it: &Puppet| it.status("FwpsFlowAssociateContext0", &[flow.0, layer.into(), id, 5]);
    // The id of another driver is as good as an own one, while its driver is there.
    assert_eq!(associate(&two), Status::SUCCESS);
    assert_eq!(one.status("FwpsCalloutUnregisterById0", &[id]), Status::DEVICE_BUSY);
    assert_eq!(two.status("FwpsFlowRemoveContext0", &[flow.0, layer.into(), id]), Status::SUCCESS);
    assert_eq!((one.get(Word::Deleted), two.get(Word::Deleted)), (1, 0));
    assert_eq!(one.status("FwpsCalloutUnregisterById0", &[id]), Status::SUCCESS);
    one.stop();
    assert_eq!(associate(&two), Status::INVALID_PARAMETER);
    assert_eq!(two.status("FwpsFlowRemoveContext0", &[flow.0, layer.into(), id]), Status::UNSUCCESSFUL);
    assert_eq!(two.status("FwpsCalloutUnregisterById0", &[id]), Status::FWP_CALLOUT_NOT_FOUND);
    two.stop();
}

/// Whether the engine blocks an indication at ALE_AUTH_CONNECT_V4.
fn blocks(engine: &Engine) -> bool {
    let layer = engine.layer_by_name("ALE_AUTH_CONNECT_V4").unwrap();
    let (values, metadata) = (vec![Value::Empty; layer.fields], Metadata::default());
    let request = Request { layer: layer.id, values: &values, metadata: &metadata, data: LayerData::None };
    engine.classify(&request).action == ActionType::BLOCK
}

/// "If a callout is not registered, the action of a TERMINATING or UNKNOWN filter is
/// Block, unless FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED is set; an INSPECTION
/// filter is skipped" (FWPM_ACTION0, FwpsCalloutUnregisterById0).
#[test]
fn a_filter_of_one_that_names_a_callout_of_the_other_outlives_it_as_documented() {
    const PERMIT_IF_UNREGISTERED: u32 = 0x10;
    let cases = [
        (ActionType::CALLOUT_TERMINATING, 0, true),
        (ActionType::CALLOUT_TERMINATING, PERMIT_IF_UNREGISTERED, false),
        (ActionType::CALLOUT_UNKNOWN, 0, true),
        (ActionType::CALLOUT_UNKNOWN, PERMIT_IF_UNREGISTERED, false),
        (ActionType::CALLOUT_INSPECTION, 0, false),
    ];
    for (action, flags, blocked) in cases {
        let (machine, [mut one, two]) = both([0, 1]);
        let engine = machine.engine();
        let layer = engine.layer_by_name("ALE_AUTH_CONNECT_V4").unwrap().key;
        let session = two.session();
        two.add_sublayer(session, guid(3), 7);
        let ids = [&one, &two].map(|it| it.register(guid(10 + u128::from(it.device == two.device))));
        for callout in [guid(10), guid(11)] {
            two.add_callout(session, callout, layer);
        }
        // Its own filter is behind the other one.
        let filter = two.add_filter(session, [layer, guid(3), guid(10)], action, flags);
        let own = two.add_filter(session, [layer, guid(3), guid(11)], ActionType::CALLOUT_INSPECTION, 0);
        assert_eq!((one.get(Word::Notified), two.get(Word::Notified)), (1, 1));
        for puppet in [&one, &two] {
            puppet.word(Word::Action).store(ActionType::PERMIT.0.into(), Ordering::SeqCst);
        }
        assert!(!blocks(engine), "{action:?}");
        assert_eq!(one.get(Word::Classified), 1);
        assert_eq!(one.status("FwpsCalloutUnregisterById0", &[ids[0]]), Status::SUCCESS);
        let left = one.try_stop().unwrap_or_else(|stop| panic!("{}", text(&stop)));
        assert!(left.is_empty(), "{left}");
        assert_eq!(blocks(engine), blocked, "{action:?} with flags {flags:#x}");
        // The same driver once more: the filter calls it.
        let one = Puppet::start(&machine, 0);
        let id = one.register(guid(10));
        one.word(Word::Action).store(ActionType::PERMIT.0.into(), Ordering::SeqCst);
        assert!(!blocks(engine), "{action:?}");
        assert_eq!(one.get(Word::Classified), 1);
        assert_eq!(one.status("FwpsCalloutUnregisterById0", &[id]), Status::SUCCESS);
        one.stop();
        for filter in [filter, own] {
            assert_eq!(two.status("FwpmFilterDeleteById0", &[session, filter]), Status::SUCCESS);
        }
        for callout in [guid(10), guid(11)] {
            assert_eq!(two.status("FwpmCalloutDeleteByKey0", &[session, at(&raw(callout))]), Status::SUCCESS);
        }
        assert_eq!(two.status("FwpmSubLayerDeleteByKey0", &[session, at(&raw(guid(3)))]), Status::SUCCESS);
        assert_eq!(two.status("FwpmEngineClose0", &[session]), Status::SUCCESS);
        assert_eq!(two.status("FwpsCalloutUnregisterById0", &[ids[1]]), Status::SUCCESS);
        two.stop();
        assert!(findings(&machine).is_empty());
    }
}

#[test]
fn only_the_calls_of_the_driver_with_the_plan_fail() {
    let (_machine, [one, two]) = both([0, 1]);
    let failure = Failure { status: Status::INSUFFICIENT_RESOURCES, effect: Effect::Refused };
    one.driver.faults().arm(Some(Plan { nth: 2, mode: Mode::Once, failure, seed: 0 }));
    let allocate = |it: &Puppet| it.call("ExAllocatePool2", &[NON_PAGED, 16, TAG]);
    let blocks = [allocate(&one), allocate(&two), allocate(&one), allocate(&two)];
    assert_eq!(blocks.map(|block| block != 0), [true, true, false, true]);
    assert_eq!((one.driver.faults().calls().len(), two.driver.faults().calls().len()), (2, 0));
    one.call("ExFreePoolWithTag", &[blocks[0], TAG]);
    for block in [blocks[1], blocks[3]] {
        two.call("ExFreePoolWithTag", &[block, TAG]);
    }
    one.stop();
    two.stop();
}

#[test]
fn calls_the_journal_and_stack_marks_tell_the_drivers_apart() {
    let (machine, [one, two]) = both([0, 1]);
    machine.kernel().journal().start();
    for it in [&two, &one, &two] {
        let block = it.call("ExAllocatePool2", &[NON_PAGED, 16, TAG]);
        it.call("ExFreePoolWithTag", &[block, TAG]);
    }
    assert_eq!((calls(&one, "ExAllocatePool2"), calls(&two, "ExAllocatePool2")), (1, 2));
    assert_eq!(machine.kernel().call_count("ExAllocatePool2"), 3);
    let journal = machine.kernel().journal().take();
    let allocated = journal.iter().filter(|call| call.export == "ExAllocatePool2");
    assert_eq!(allocated.map(|call| &*call.driver).collect::<Vec<_>>(), ["two", "one", "two"]);
    let marked = |service| machine.kernel().stack_marks_of(service).iter().any(|it| it.0 == "worker routine");
    let item = one.call("IoAllocateWorkItem", &[one.device]);
    one.call("IoQueueWorkItem", &[item, one.work, 1, 0]);
    assert!(machine.kernel().work().drain(Duration::from_secs(10)));
    assert_eq!(SERVICES.map(marked), [true, false]);
    one.call("IoFreeWorkItem", &[item]);
    one.stop();
    two.stop();
}

#[test]
fn an_unload_waits_for_the_drivers_own_work_only() {
    let (machine, [one, two]) = both([0, 1]);
    two.word(Word::Works).store(1, Ordering::SeqCst);
    let item = two.call("IoAllocateWorkItem", &[two.device]);
    two.call("IoQueueWorkItem", &[item, two.work, 1, 0]);
    assert!(machine.kernel().wait_until("the work", || two.get(Word::Worked) == 1));
    let began = Instant::now();
    one.stop();
    assert!(began.elapsed() < Options::default().drain_limit / 2, "{:?}", began.elapsed());
    assert_eq!(machine.kernel().work().pending(), 1);
    two.word(Word::Works).store(0, Ordering::SeqCst);
    assert!(machine.kernel().work().drain(Duration::from_secs(10)));
    two.call("IoFreeWorkItem", &[item]);
    two.stop();
}

#[test]
fn a_driver_is_told_of_its_own_key_and_has_its_own_devices() {
    let (_machine, [one, two]) = both([0, 1]);
    let of = |it: &Puppet| {
        // DRIVER_OBJECT.DeviceObject, DEVICE_OBJECT.NextDevice.
        let word = |address: u64| {
            u64::from_le_bytes(std::array::from_fn(|at| it.read(address + at as u64).unwrap() as u8))
        };
        let first = word(it.object + 8);
        let second = if first == 0 { 0 } else { word(first + 16) };
        [first, second]
    };
    let [a, b] = [&one, &two].map(|it| it.gives("IoCreateDevice", &[it.object, 0, 0, 0x22, 0, 0]));
    assert_eq!((of(&one), of(&two)), ([a, one.device], [b, two.device]));
    one.call("IoDeleteDevice", &[a]);
    two.call("IoDeleteDevice", &[b]);
    assert_eq!((of(&one), of(&two)), ([one.device, 0], [two.device, 0]));
    one.stop();
    two.stop();
}
