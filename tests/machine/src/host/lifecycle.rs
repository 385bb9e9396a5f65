//! The documented order of events, and the comparison with what was seen.
//!
//! [`documented`](super::documented) has the layers of each event. This table has
//! the order of the events themselves, as the pages list them: *TCP Packet Flows*
//! from the bind to the data, *UDP Packet Flows* likewise.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::documented::Page;
use super::log::{Event, Record};
use crate::wire::Family;

/// The events of a connection or a flow, in order.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Lifecycle {
    pub name: &'static str,
    pub page: Page,
    /// The events of its socket, which come first.
    pub socket: &'static [Event],
    /// Each stage is one of these events. All stages are needed.
    pub stages: &'static [&'static [Event]],
    /// The events that may come after all stages, in any order.
    pub then: &'static [Event],
}

/// The lifecycles. The first stage of each one begins it.
pub static LIFECYCLES: [Lifecycle; 6] = [
    Lifecycle {
        name: "TCP, server",
        page: Page::Tcp,
        socket: &[Event::Bind, Event::Listen],
        stages: &[
            &[Event::SynIn],
            &[Event::SynAckOut],
            // If the ACK is lost, data or a FIN completes the handshake.
            &[Event::AckIn, Event::AckInWithData, Event::FinIn],
            &[Event::Accept],
        ],
        then: &[
            Event::DataReceived,
            Event::DataSent,
            Event::ReauthorizationPasses,
            Event::ReauthorizationFails,
            Event::FinIn,
            Event::FinOut,
        ],
    },
    Lifecycle {
        name: "TCP, client",
        page: Page::Tcp,
        socket: &[Event::Bind],
        stages: &[
            &[Event::Connect],
            &[Event::SynOut],
            &[Event::SynAckIn],
            &[Event::AckOut, Event::AckOutWithData],
        ],
        then: &[Event::DataSent, Event::DataReceived, Event::FinOut, Event::FinIn],
    },
    Lifecycle {
        name: "TCP, nobody listening",
        page: Page::Tcp,
        socket: &[],
        stages: &[&[Event::SynNobodyListening]],
        then: &[Event::RstOut],
    },
    Lifecycle {
        name: "UDP, server",
        page: Page::Udp,
        socket: &[Event::Bind],
        stages: &[&[Event::DatagramIn]],
        then: &[
            Event::DatagramOut,
            Event::LaterDatagramIn,
            Event::DatagramReauthorizationPasses,
            Event::DatagramReauthorizationFails,
        ],
    },
    Lifecycle {
        name: "UDP, client",
        page: Page::Udp,
        socket: &[Event::Bind],
        stages: &[&[Event::FirstDatagramOut]],
        then: &[Event::LaterDatagramIn, Event::DatagramOut],
    },
    Lifecycle {
        name: "UDP, nobody listening",
        page: Page::Udp,
        socket: &[],
        stages: &[&[Event::EndpointlessDatagram]],
        then: &[],
    },
];

impl Lifecycle {
    /// The documented order in words.
    pub fn text(&self) -> String {
        let names = |events: &[Event]| events.iter().map(|event| event.text()).collect::<Vec<_>>().join(", ");
        let stages = self.stages.iter().map(|stage| stage[0]);
        let order: Vec<_> = self.socket.iter().copied().chain(stages).collect();
        match self.then {
            [] => names(&order),
            then => format!("{}; then, in any order, {}", names(&order), names(then)),
        }
    }
}

/// What was seen of a lifecycle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// The number of connections or flows that began.
    pub begun: usize,
    /// How many of them went through all stages.
    pub complete: usize,
    /// The different orders in which events came, each event once.
    pub seen: BTreeSet<String>,
    /// The first event that came too early.
    pub deviation: Option<String>,
}

/// The maximum number of connections that are followed at once, and of different
/// orders that are stored.
const FOLLOWED: usize = 65_536;
const ORDERS: usize = 16;

/// Follows every connection and flow of a log.
#[derive(Clone, Debug, Default)]
pub struct Lifecycles {
    /// The events of the socket at a port. A socket may be bound to every address.
    sockets: BTreeMap<(u8, Family, u16), Vec<Event>>,
    followed: BTreeMap<(u8, SocketAddr, SocketAddr), Followed>,
    courses: BTreeMap<usize, Course>,
}

#[derive(Clone, Debug)]
struct Followed {
    /// The index in [`LIFECYCLES`].
    lifecycle: usize,
    /// The events so far, each once.
    met: Vec<Event>,
    stages: usize,
}

impl Lifecycles {
    /// Adds the next record.
    pub fn note(&mut self, record: &Record) {
        let (event, ends) = (record.event, record.ends);
        let port = (ends.protocol, Family::of(ends.local.ip()), ends.local.port());
        let Some(remote) = ends.remote else {
            match event {
                Event::Bind => drop(self.sockets.insert(port, vec![event])),
                Event::PortFreed => drop(self.sockets.remove(&port)),
                _ => self.sockets.entry(port).or_default().push(event),
            }
            return;
        };
        let key = (ends.protocol, ends.local, remote);
        let begins = |lifecycle: &Lifecycle| lifecycle.stages[0].contains(&event);
        if let Some(index) = LIFECYCLES.iter().position(begins) {
            self.finish(key);
            let course = self.courses.entry(index).or_default();
            course.begun += 1;
            let socket = self.sockets.get(&port).map_or(&[][..], |events| events);
            let expected = LIFECYCLES[index].socket;
            if !expected.is_empty() && !socket.starts_with(expected) && course.deviation.is_none() {
                course.deviation = Some(format!("{event} of {ends} before its socket was ready"));
            }
            if self.followed.len() >= FOLLOWED
                && let Some(any) = self.followed.keys().next().copied()
            {
                self.finish(any);
            }
            let met = expected.iter().copied().chain([event]).collect();
            self.followed.insert(key, Followed { lifecycle: index, met, stages: 1 });
            return;
        }
        let Some(followed) = self.followed.get_mut(&key) else { return };
        let lifecycle = &LIFECYCLES[followed.lifecycle];
        if event == Event::EndpointClosed {
            followed.met.push(event);
            return self.finish(key);
        }
        let next = lifecycle.stages.get(followed.stages).is_some_and(|stage| stage.contains(&event));
        let is_listed =
            lifecycle.then.contains(&event) || lifecycle.stages.iter().any(|stage| stage.contains(&event));
        if !is_listed || (followed.met.contains(&event) && !next) {
            return;
        }
        let due = lifecycle.stages.get(followed.stages).filter(|_| !next);
        if let Some(due) = due {
            let course = self.courses.entry(followed.lifecycle).or_default();
            let due = due[0].text();
            course.deviation.get_or_insert_with(|| format!("{event} of {ends} before {due}"));
        }
        followed.stages += usize::from(next);
        followed.met.push(event);
    }

    /// What was seen of each lifecycle, in the order of the pages.
    pub fn courses(&self) -> Vec<(&'static Lifecycle, Course)> {
        let mut all = self.clone();
        for key in self.followed.keys() {
            all.finish(*key);
        }
        all.courses.into_iter().map(|(index, course)| (&LIFECYCLES[index], course)).collect()
    }

    /// Stores the order of a connection that is over.
    fn finish(&mut self, key: (u8, SocketAddr, SocketAddr)) {
        let Some(followed) = self.followed.remove(&key) else { return };
        let course = self.courses.entry(followed.lifecycle).or_default();
        course.complete += usize::from(followed.stages == LIFECYCLES[followed.lifecycle].stages.len());
        if course.seen.len() < ORDERS {
            let names: Vec<_> = followed.met.iter().map(|event| event.text()).collect();
            course.seen.insert(names.join(", "));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::log::Ends;
    use super::*;

    fn course(events: &[Event]) -> Course {
        let mut lifecycles = Lifecycles::default();
        for &event in events {
            let of_socket = matches!(event, Event::Bind | Event::Listen | Event::PortFreed);
            let remote = (!of_socket).then(|| ([10, 77, 0, 1], 4000).into());
            let local = if of_socket { ([0; 4], 80).into() } else { ([10, 77, 0, 2], 80).into() };
            let ends = Ends { protocol: 6, local, remote };
            lifecycles.note(&Record { at: Duration::ZERO, ends, event, steps: Vec::new(), is_rest: false });
        }
        lifecycles.courses().pop().map(|(_, course)| course).unwrap_or_default()
    }

    const SERVER: [Event; 9] = [
        Event::Bind,
        Event::Listen,
        Event::SynIn,
        Event::SynAckOut,
        Event::AckIn,
        Event::Accept,
        Event::DataReceived,
        Event::FinIn,
        Event::EndpointClosed,
    ];

    #[test]
    fn the_documented_order_matches_and_every_exchange_is_named() {
        let whole = course(&SERVER);
        assert_eq!((whole.begun, whole.complete, &whole.deviation), (1, 1, &None));
        let names: Vec<_> = SERVER.iter().map(|event| event.text()).collect();
        assert_eq!(whole.seen, BTreeSet::from([names.join(", ")]));
        // Data and FIN come in any order.
        for first in 0..6 {
            let mut events = SERVER;
            events.swap(first, first + 1);
            let exchanged = course(&events);
            assert!(exchanged.deviation.is_some() || exchanged.begun == 0, "{events:?}");
            let mut without = SERVER.to_vec();
            without.remove(first);
            let without = course(&without);
            assert!(without.deviation.is_some() || without.begun == 0, "{first}");
        }
    }

    #[test]
    fn a_connection_that_ends_early_is_no_deviation_and_repetition_neither() {
        let early = [&SERVER[..4], &SERVER[3..4], &SERVER[8..]].concat();
        let early = course(&early);
        assert_eq!((early.begun, early.complete, early.deviation), (1, 0, None));
        let again = [&SERVER[..], &SERVER[2..]].concat();
        let again = course(&again);
        assert_eq!((again.begun, again.complete, again.deviation), (2, 2, None));
    }
}
