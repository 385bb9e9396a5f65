//! Objects of the framework: their lives, and the small ones.

use machine::nt::Stop;
use machine::nt::registry::RegistryValue;
use machine::status::Status;
use machine::verifier::{Rule, rules};

use super::kmdf::{CALL_TWICE, Client, ENTER_REGION, RAISE, at, attributes, context_type, peek};
use super::text;

/// A new general object.
fn create(client: &Client, attributes: &[u64; 7]) -> u64 {
    let handle = 0u64;
    assert_eq!(client.status("WdfObjectCreate", [at(attributes), at(&handle)]), Status::SUCCESS);
    peek(at(&handle))
}

#[test]
fn children_are_cleaned_up_first_and_destroyed_first() {
    let client = Client::start(&[]);
    let [a, b, c, d, e, f] = client.callbacks;
    let parent = create(&client, &attributes(0, a, b, 0));
    let child = create(&client, &attributes(parent, c, d, 0));
    let grandchild = create(&client, &attributes(child, e, f, 0));
    client.call("WdfObjectDelete", [parent]);
    let order: Vec<_> = client.calls().into_iter().map(|(number, [object, ..])| (number, object)).collect();
    let expected = [(4, grandchild), (2, child), (0, parent), (5, grandchild), (3, child), (1, parent)];
    assert_eq!(order, expected);
    client.stop();
}

#[test]
fn a_reference_keeps_an_object_and_its_context_until_it_is_released() {
    let client = Client::start(&[]);
    let [cleanup, destroy, ..] = client.callbacks;
    let info = context_type(24);
    let object = create(&client, &attributes(0, cleanup, destroy, at(&*info)));
    let context = client.call("WdfObjectGetTypedContextWorker", [object, at(&*info)]);
    assert_eq!([0, 1, 2].map(|word| peek(context + 8 * word)), [0; 3]);
    client.call("WdfObjectReferenceActual", [object, 0, 0, 0]);
    client.call("WdfObjectDelete", [object]);
    assert_eq!(client.called(), [0]);
    assert_eq!(client.call("WdfObjectGetTypedContextWorker", [object, at(&*info)]), context);
    assert_eq!(client.call("WdfObjectContextGetObject", [context]), object);
    client.call("WdfObjectDereferenceActual", [object, 0, 0, 0]);
    assert_eq!(client.called(), [1]);
    client.stop();
}

#[test]
fn an_object_has_one_context_of_each_type() {
    let client = Client::start(&[]);
    let object = create(&client, &attributes(0, 0, 0, 0));
    let (first, second) = (context_type(8), context_type(16));
    let context = 0u64;
    let add = |info: &[u64; 5], expected| {
        let given = attributes(0, 0, 0, at(info));
        let status = client.status("WdfObjectAllocateContext", [object, at(&given), at(&context)]);
        assert_eq!(status, expected);
        peek(at(&context))
    };
    let one = add(&first, Status::SUCCESS);
    let other = add(&second, Status::SUCCESS);
    assert_ne!(one, other);
    assert_eq!(add(&first, Status::OBJECT_NAME_EXISTS), one);
    client.call("WdfObjectDelete", [object]);
    client.stop();
}

/// Checks that a call breaks this rule and no other.
fn breaks<const N: usize>(client: &Client, function: &str, arguments: [u64; N], rule: &Rule, says: &str) {
    let stop = client.try_call(function, arguments).unwrap_err();
    assert!(text(&stop).contains(says), "{}", text(&stop));
    let Stop::BugCheck { code, parameters, .. } = stop else { panic!("{stop:?}") };
    assert_eq!(code, rule.code, "{function}");
    assert!(rule.parameter.is_none_or(|parameter| parameters[0] == parameter), "{function}: {parameters:x?}");
    let found = client.machine.kernel().verifier().findings();
    assert_eq!(found.iter().map(|finding| finding.violation.rule.id).collect::<Vec<_>>(), [rule.id]);
}

/// The parameters of the bugcheck that a call ends with, which must be of this rule.
fn parameters<T: std::fmt::Debug>(outcome: Result<T, Stop>, rule: &Rule) -> [u64; 4] {
    let Err(Stop::BugCheck { code, parameters, text }) = outcome else { panic!("{outcome:?}") };
    assert!(code == rule.code && text.starts_with(rule.id), "{text}");
    parameters
}

fn spin_lock(client: &Client) -> u64 {
    let lock = 0u64;
    assert_eq!(client.status("WdfSpinLockCreate", [0, at(&lock)]), Status::SUCCESS);
    peek(at(&lock))
}

/// Bugcheck 0x10D: its parameters are those of its page.
#[test]
fn locks_and_callbacks_break_their_rules_with_the_documented_parameters() {
    let client = Client::start(&[]);
    let lock = spin_lock(&client);
    let stop = client.try_code(CALL_TWICE, "WdfSpinLockAcquire", [lock]);
    assert_eq!(parameters(stop, &rules::WDF_LOCK_HELD), [0x2, 0, 0, 0]);

    let client = Client::start(&[]);
    let lock = spin_lock(&client);
    let verifier = client.machine.kernel().verifier();
    verifier.tolerate(&rules::SPIN_LOCK_HELD);
    verifier.tolerate(&rules::WDF_IRQL_CHANGED);
    verifier.tolerate(&rules::CALL_IRQL);
    client.call("WdfSpinLockAcquire", [lock]);
    // The thread that comes back does not hold it.
    let stop = client.try_call("WdfSpinLockRelease", [lock]);
    assert_eq!(parameters(stop, &rules::WDF_LOCK_MISUSED), [0xB, lock, 1, 0]);

    let client = Client::start(&[]);
    let stop = client.file().control(RAISE, &[], &[]);
    assert_eq!(parameters(stop, &rules::WDF_IRQL_CHANGED), [0xE, 0, 1, 0]);

    let client = Client::start(&[]);
    let image = client.machine.image().map(|image| image.base()..image.base() + image.size()).unwrap();
    let stop = client.file().control(ENTER_REGION, &[], &[]);
    let [kind, callback, third, fourth] = parameters(stop, &rules::WDF_CRITICAL_REGION);
    assert!((kind, third, fourth) == (0xF, 0, 0) && image.contains(&callback), "{callback:#x}");

    let client = Client::start(&[]);
    let image = client.machine.image().map(|image| image.base()..image.base() + image.size()).unwrap();
    let stop = client.try_call("WdfIoQueueCreate", [client.device, 0, 0, 0]);
    let [kind, second, caller, fourth] = parameters(stop, &rules::WDF_NULL_PARAMETER);
    assert!((kind, second, fourth) == (0x4, 0, 0) && image.contains(&caller), "{caller:#x}");

    let client = Client::start(&[]);
    let (_pending, request) = client.pend(0x22_2404, &[1; 8], &[0; 8]);
    let memory = 0u64;
    let status = client.status("WdfRequestRetrieveInputMemory", [request, at(&memory)]);
    assert_eq!(status, Status::SUCCESS);
    client.call("WdfObjectReferenceActual", [peek(at(&memory)), 0, 0, 0]);
    let stop = client.try_call("WdfRequestComplete", [request, 0]);
    assert_eq!(parameters(stop, &rules::WDF_BUFFER_REFERENCED), [0x3, request, 1, 0]);

    let client = Client::start(&[]);
    let stop = client.try_call("WdfIoQueueGetDevice", [client.device]);
    assert_eq!(parameters(stop, &rules::WDF_BAD_HANDLE), [0x5, client.device, 0, 0]);

    let client = Client::start(&[]);
    let stop = client.try_call("WdfObjectDelete", [client.driver]);
    assert_eq!(parameters(stop, &rules::WDF_OBJECT_ERROR), [0x7, client.driver, 0, 0]);
}

#[test]
fn wrong_and_stale_handles_break_rules_that_name_them() {
    let client = Client::start(&[]);
    let object = create(&client, &attributes(0, 0, 0, 0));
    let says = format!("WDFOBJECT {object:#x} in place of a WDFQUEUE");
    breaks(&client, "WdfIoQueueGetDevice", [object], &rules::WDF_BAD_HANDLE, &says);

    let client = Client::start(&[]);
    let object = create(&client, &attributes(0, 0, 0, 0));
    client.call("WdfObjectDelete", [object]);
    let says = format!("WDFOBJECT {object:#x}, which was deleted");
    breaks(&client, "WdfObjectDelete", [object], &rules::WDF_BAD_HANDLE, &says);

    let client = Client::start(&[]);
    let says = "WdfObjectDelete of WDFDRIVER";
    breaks(&client, "WdfObjectDelete", [client.driver], &rules::WDF_OBJECT_ERROR, says);

    let client = Client::start(&[]);
    let object = create(&client, &attributes(0, 0, 0, 0));
    let (rule, says) = (&rules::WDF_OBJECT_ERROR, "WdfObjectDereference of WDFOBJECT");
    breaks(&client, "WdfObjectDereferenceActual", [object, 0, 0, 0], rule, says);

    let client = Client::start(&[]);
    let info = context_type(8);
    let (rule, says) = (&rules::WDF_CONTEXT_TYPE, "has no context SAMPLE_CONTEXT");
    breaks(&client, "WdfObjectGetTypedContextWorker", [client.device, at(&*info)], rule, says);

    let client = Client::start(&[]);
    let arguments = [client.device, 0, 0, 0];
    breaks(&client, "WdfIoQueueCreate", arguments, &rules::WDF_NULL_PARAMETER, "Config");
}

#[test]
fn a_reference_that_is_never_released_is_found_at_unload() {
    let mut client = Client::start(&[]);
    let object = create(&client, &attributes(0, 0, 0, 0));
    client.call("WdfObjectReferenceActual", [object, 0, 0, 0]);
    client.file.take().unwrap().close().unwrap();
    let stop = client.machine.stop().unwrap_err();
    let says = format!("WDFOBJECT {object:#x} with 1 references");
    assert!(
        text(&stop).contains(rules::WDF_OBJECT_LEFT.id) && text(&stop).contains(&says),
        "{}",
        text(&stop)
    );
}

#[test]
fn a_work_item_runs_once_for_all_calls_while_it_is_queued_and_flush_waits() {
    let client = Client::start(&[]);
    let config = [24, client.callbacks[0], 1];
    let item = 0u64;
    let without_parent = client.status("WdfWorkItemCreate", [at(&config), 0, at(&item)]);
    assert_eq!(without_parent, Status(0xC020_0212_u32 as i32));
    let given = attributes(client.device, 0, 0, 0);
    assert_eq!(client.status("WdfWorkItemCreate", [at(&config), at(&given), at(&item)]), Status::SUCCESS);
    let item = peek(at(&item));
    assert_eq!(client.call("WdfWorkItemGetParentObject", [item]), client.device);
    for _ in 0..3 {
        client.call("WdfWorkItemEnqueue", [item]);
        client.call("WdfWorkItemFlush", [item]);
    }
    let calls = client.calls();
    assert_eq!(
        calls.iter().map(|(number, [first, ..])| (*number, *first)).collect::<Vec<_>>(),
        [(0, item); 3]
    );
    client.stop();
}

#[test]
fn a_timer_fires_at_its_time_again_and_again_until_it_is_stopped() {
    let client = Client::start(&[]);
    let given = attributes(client.device, 0, 0, 0);
    let timer = |period: u64| {
        let (config, timer) = ([40, client.callbacks[0], period, 0, 0], 0u64);
        assert_eq!(client.status("WdfTimerCreate", [at(&config), at(&given), at(&timer)]), Status::SUCCESS);
        peek(at(&timer))
    };
    let (once, periodic) = (timer(0), timer(2));
    // An hour, and then 1 ms, which replaces it: TRUE, because it was started.
    assert_eq!(client.call("WdfTimerStart", [once, (-36_000_000_000i64) as u64]) as u8, 0);
    assert_eq!(client.call("WdfTimerStart", [once, (-10_000i64) as u64]) as u8, 1);
    let mut fired = Vec::new();
    assert!(client.machine.kernel().wait_until("the timer", || {
        fired.extend(client.called());
        !fired.is_empty()
    }));
    client.call("WdfTimerStart", [periodic, (-10_000i64) as u64]);
    fired.clear();
    assert!(client.machine.kernel().wait_until("the periodic timer", || {
        fired.extend(client.called());
        fired.len() >= 3
    }));
    assert_eq!(client.call("WdfTimerStop", [periodic, 1]) as u8, 1);
    client.called();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(client.called().is_empty(), "a stopped timer fired");
    client.stop();
}

#[test]
fn memory_objects_strings_and_collections_hold_what_they_are_given() {
    let client = Client::start(&[]);
    let (memory, buffer, size) = (0u64, 0u64, 0u64);
    let tag = u64::from(u32::from_le_bytes(*b"Test"));
    let arguments = [0, 512, tag, 32, at(&memory), at(&buffer)];
    assert_eq!(client.status("WdfMemoryCreate", arguments), Status::SUCCESS);
    let memory = peek(at(&memory));
    assert_eq!(client.call("WdfMemoryGetBuffer", [memory, at(&size)]), peek(at(&buffer)));
    assert_eq!(peek(at(&size)), 32);
    let (from, to) = (*b"what it holds...", [0u8; 16]);
    let copied = client.status("WdfMemoryCopyFromBuffer", [memory, 16, at(&from), 16]);
    assert_eq!(copied, Status::SUCCESS);
    assert_eq!(client.status("WdfMemoryCopyToBuffer", [memory, 16, at(&to), 16]), Status::SUCCESS);
    assert_eq!([peek(at(&to)), peek(at(&to) + 8)], [peek(at(&from)), peek(at(&from) + 8)]);
    let too_far = client.status("WdfMemoryCopyToBuffer", [memory, 17, at(&to), 16]);
    assert_eq!(too_far, Status::BUFFER_TOO_SMALL);

    let units: Vec<u16> = "Größe".encode_utf16().collect();
    let string = [10 | 10 << 16, at(&units[..])];
    let (handle, got) = (0u64, [0u64; 2]);
    assert_eq!(client.status("WdfStringCreate", [at(&string), 0, at(&handle)]), Status::SUCCESS);
    let handle = peek(at(&handle));
    client.call("WdfStringGetUnicodeString", [handle, at(&got)]);
    assert_eq!(peek(at(&got)) & 0xFFFF_FFFF, 10 | 12 << 16);

    let collection = 0u64;
    assert_eq!(client.status("WdfCollectionCreate", [0, at(&collection)]), Status::SUCCESS);
    let collection = peek(at(&collection));
    for object in [memory, handle] {
        assert_eq!(client.status("WdfCollectionAdd", [collection, object]), Status::SUCCESS);
    }
    assert_eq!(client.call("WdfCollectionGetCount", [collection]) as u32, 2);
    assert_eq!(client.call("WdfCollectionGetLastItem", [collection]), handle);
    client.call("WdfCollectionRemoveItem", [collection, 0]);
    assert_eq!(client.call("WdfCollectionGetFirstItem", [collection]), handle);
    assert_eq!(client.call("WdfCollectionGetItem", [collection, 1]), 0);
    client.call("WdfCollectionRemove", [collection, handle]);
    client.stop();
}

#[test]
fn values_of_the_parameters_key_are_read_by_type() {
    let client = Client::start(&[]);
    client.machine.set("Depth", 7);
    client.machine.set_value("Name", RegistryValue::sz("inspect"));
    let name = |text: &str| {
        let units: Vec<u16> = text.encode_utf16().collect();
        let length = 2 * units.len() as u64;
        ([length | length << 16, at(&units[..])], units)
    };
    let (depth, text) = (name("Depth"), name("Name"));
    let key = 0u64;
    let opened = client.status("WdfDriverOpenParametersRegistryKey", [client.driver, 0x20019, 0, at(&key)]);
    assert_eq!(opened, Status::SUCCESS);
    let key = peek(at(&key));
    let value = 0u64;
    assert_eq!(client.status("WdfRegistryQueryULong", [key, at(&depth.0), at(&value)]), Status::SUCCESS);
    assert_eq!(peek(at(&value)), 7);
    let wrong = client.status("WdfRegistryQueryULong", [key, at(&text.0), at(&value)]);
    assert_eq!(wrong, Status::OBJECT_TYPE_MISMATCH);
    let (units, length) = ([0u16; 8], 0u64);
    let string = [16 << 16, at(&units)];
    let arguments = [key, at(&text.0), at(&length), at(&string)];
    assert_eq!(client.status("WdfRegistryQueryUnicodeString", arguments), Status::SUCCESS);
    assert_eq!((peek(at(&length)), peek(at(&string)) & 0xFFFF), (16, 14));
    let small = [14 << 16, at(&units)];
    let arguments = [key, at(&text.0), 0, at(&small)];
    assert_eq!(client.status("WdfRegistryQueryUnicodeString", arguments), Status::BUFFER_OVERFLOW);
    client.call("WdfRegistryClose", [key]);
    client.stop();
}

#[test]
fn a_wait_lock_tests_with_a_timeout_of_zero() {
    let client = Client::start(&[]);
    let (lock, zero) = (0u64, 0i64);
    assert_eq!(client.status("WdfWaitLockCreate", [0, at(&lock)]), Status::SUCCESS);
    let lock = peek(at(&lock));
    // The driver returns from the callback with the lock held.
    let stop = client.try_call("WdfWaitLockAcquire", [lock, at(&zero)]).unwrap_err();
    assert!(text(&stop).contains("SPIN_LOCK_HELD"), "{}", text(&stop));
}
