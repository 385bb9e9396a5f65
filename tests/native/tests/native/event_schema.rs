//! The lab's decoder reads all events of the table, with the right fields.

use core::net::{Ipv4Addr, SocketAddr};

use hushport_native_driver::logic::events::{
    EVENTS, FlowEnded, LARGEST, OrderDeviation, ScanDetected, layer_name,
};
use hushport_native_driver::logic::order::LayerIndex;
use hushport_native_driver::logic::scan::{Remote, Techniques};
use hushport_native_driver::logic::tracelogging::{self, Event, Hex, Payload, Process, Socket, Text};
use machine::etw::schema::{Field, schema};
use machine::etw::value::{Value, values};

fn same(declared: &[tracelogging::Field], read: &[Field], event: &str) {
    let names = |fields: &[Field]| fields.iter().map(|field| field.name.clone()).collect::<Vec<_>>();
    assert_eq!(declared.iter().map(|field| field.name).collect::<Vec<_>>(), names(read), "{event}");
    for (declared, read) in declared.iter().zip(read) {
        assert_eq!(declared.kind.input, read.input as u8, "{event}.{}", read.name);
        assert_eq!(declared.kind.output, read.output, "{event}.{}", read.name);
        same(declared.nested, &read.fields, event);
    }
}

#[test]
fn every_events_metadata_say_what_the_table_says() {
    assert!(EVENTS.len() > 10);
    for event in EVENTS {
        let read = schema(event.metadata).unwrap_or_else(|error| panic!("{}: {error}", event.name));
        assert_eq!(read.name, event.name);
        let limited = event.fields.last().is_some_and(|field| field.name == "Dropped");
        assert_eq!(limited, event.per_second.is_some(), "{}", event.name);
        same(event.fields, &read.fields, event.name);
    }
}

fn decoded<E: Event>(event: &E) -> Vec<(String, Value)> {
    let mut room = [0; LARGEST];
    let mut payload = Payload::new(&mut room);
    event.put(7, &mut payload);
    values(&schema(E::DESCRIPTION.metadata).unwrap().fields, payload.bytes().unwrap()).unwrap()
}

#[test]
fn events_that_are_not_written_yet_are_read_as_they_are_meant() {
    let number = Value::Unsigned;
    let text = |text: &str| Value::Text(text.into());
    let flow = FlowEnded {
        flow: Hex(0x2_0000_0001),
        process: Process(4711),
        bytes_out: 1,
        bytes_in: 2,
        packets_out: 3,
        packets_in: 4,
        cut: true,
        duration_ms: 5,
        order: "Kept",
    };
    let expected = [
        ("Flow", Value::Hex(0x2_0000_0001)),
        ("Process", number(4711)),
        ("BytesOut", number(1)),
        ("BytesIn", number(2)),
        ("PacketsOut", number(3)),
        ("PacketsIn", number(4)),
        ("Cut", Value::Bool(true)),
        ("DurationMs", number(5)),
        ("Order", text("Kept")),
        ("Dropped", number(7)),
    ];
    assert_eq!(decoded(&flow), expected.map(|(name, value)| (name.to_owned(), value)));

    // INBOUND_TRANSPORT_V4_DISCARD (fwpsk.h).
    let nowhere = Socket::new(None, None);
    let deviation = OrderDeviation {
        layer: Text(["INBOUND_TRANSPORT", "_V4", "_DISCARD"]),
        flow: Hex(0),
        expected: layer_name(None),
        seen: layer_name(LayerIndex::of_layer(13)),
        protocol: 6,
        local: nowhere,
        remote: nowhere,
    };
    let seen = decoded(&deviation);
    assert_eq!([&seen[2].1, &seen[3].1], [&text(""), &text("INBOUND_TRANSPORT_DISCARD")]);

    let address = Ipv4Addr::new(192, 0, 2, 1);
    let scan = ScanDetected {
        remote: Socket::new(Some(Remote::from(address).address()), None),
        techniques: Techniques::default(),
        ports: 16,
        window_ms: 10_000,
        proven: true,
    };
    let fields = decoded(&scan);
    assert_eq!(fields[0].1, Value::Socket(SocketAddr::new(address.into(), 0)));
    assert_eq!((&fields[1].1, &fields[2].1), (&text(""), &number(16)));
}
