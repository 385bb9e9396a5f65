//! Two drivers of the framework in one machine.

use machine::Machine;
use machine::nt::Options;
use machine::status::Status;
use machine::verifier::rules;

use super::kmdf::{Client, at, attributes, context_type, peek};
use super::text;

fn both() -> (Machine, [Client; 2]) {
    let machine = Machine::new("nobody", Options::default());
    let sample = Client::start_in(&machine, "sample", &[]);
    let second = Client::start_in(&machine, "second", &["--cfg", "second", "--cfg", "minor33"]);
    (machine, [sample, second])
}

fn create(client: &Client, attributes: &[u64; 7]) -> u64 {
    let handle = 0u64;
    assert_eq!(client.status("WdfObjectCreate", [at(attributes), at(&handle)]), Status::SUCCESS);
    peek(at(&handle))
}

#[test]
fn each_has_its_own_driver_device_and_default_parent() {
    let (machine, clients) = both();
    assert_ne!(clients[0].driver, clients[1].driver);
    for client in &clients {
        assert_eq!(client.call("WdfDeviceGetDriver", [client.device]), client.driver);
        let object = client.call("WdfDriverWdmGetDriverObject", [client.driver]);
        assert_eq!(client.call("WdfWdmDriverGetWdfDriverHandle", [object]), client.driver);
        // Without a parent, an object is the driver's child.
        let item = 0u64;
        let config = [24, client.callbacks[0], 1];
        let parent = create(client, &attributes(0, client.callbacks[1], 0, 0));
        let given = attributes(parent, 0, 0, 0);
        assert_eq!(client.status("WdfWorkItemCreate", [at(&config), at(&given), at(&item)]), Status::SUCCESS);
        client.call("WdfWorkItemEnqueue", [peek(at(&item))]);
        client.call("WdfWorkItemFlush", [peek(at(&item))]);
        assert_eq!(client.called(), [0]);
    }
    let [sample, second] = clients;
    sample.stop();
    // Only the first one's objects are gone.
    assert_eq!(second.call("WdfDeviceGetDriver", [second.device]), second.driver);
    second.stop();
    assert!(machine.kernel().devices().is_empty());
}

#[test]
fn memory_of_each_has_its_own_tag_and_is_its_own_leak() {
    let (machine, [sample, second]) = both();
    let info = context_type(24);
    for client in [&sample, &second] {
        create(client, &attributes(0, 0, 0, at(&*info)));
    }
    let tags = |service: &str| {
        let report = machine.kernel().leak_report_of(service);
        report.pool.iter().map(|leak| leak.tag.to_string()).collect::<Vec<_>>()
    };
    assert_eq!((tags("sample"), tags("second")), (vec!["'samp'".to_owned()], vec!["'seco'".to_owned()]));
    second.stop();
    assert_eq!(tags("sample").len(), 1);
    sample.stop();
}

#[test]
fn a_reference_that_is_left_is_the_drivers_that_took_it() {
    for leaky in [0, 1] {
        let (machine, mut clients) = both();
        let object = create(&clients[leaky], &attributes(0, 0, 0, 0));
        clients[leaky].call("WdfObjectReferenceActual", [object, 0, 0, 0]);
        let tidy = &mut clients[1 - leaky];
        tidy.file.take().unwrap().close().unwrap();
        assert!(tidy.machine.stop().unwrap().is_empty());
        let leaky = &mut clients[leaky];
        leaky.file.take().unwrap().close().unwrap();
        let stop = leaky.machine.stop().unwrap_err();
        let service = leaky.machine.service();
        let says = format!("driver {service}: WDFOBJECT {object:#x} with 1 references");
        assert!(text(&stop).contains(&says), "{}", text(&stop));
        let found = machine.kernel().verifier().findings();
        assert_eq!((found[0].violation.rule, &*found[0].driver), (&rules::WDF_OBJECT_LEFT, service));
    }
}

#[test]
fn an_object_of_an_unloaded_driver_is_a_bad_handle() {
    let (machine, [sample, second]) = both();
    let object = create(&sample, &attributes(0, 0, 0, 0));
    sample.stop();
    let stop = second.try_call("WdfObjectDelete", [object]).unwrap_err();
    let says = format!("driver second: WDFOBJECT {object:#x}, which was deleted");
    assert!(text(&stop).contains(&says), "{}", text(&stop));
    assert_eq!(&*machine.kernel().verifier().findings()[0].driver, "second");
}
