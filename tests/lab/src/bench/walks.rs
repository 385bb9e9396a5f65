//! Walks in the documented order, to measure each of their layers.
//!
//! A driver that checks the order reports a layer that is indicated alone. So each
//! layer is measured at its place in a walk, and each walk has a new packet. More
//! packets walk in turn than a driver can be expected to remember, because in
//! practice nearly every packet is new.

use anyhow::Result;
use machine::nt::fwp::prepared::Prepared;
use machine::wfp::FlowHandle;

use super::indication::Subject;
use super::stage::Stage;
use crate::traffic::Family;

/// The number of packets that walk in turn.
pub const PACKETS: u16 = 18;

/// A walk that the documents list.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// The name of the packet or call.
    pub name: &'static str,
    subject: fn(Family) -> Subject,
    /// The layers in order, and whether each is the discard layer.
    pub layers: &'static [(&'static str, bool)],
}

const IN_IP: (&str, bool) = ("INBOUND_IPPACKET", false);
const IN: (&str, bool) = ("INBOUND_TRANSPORT", false);
const OUT: (&str, bool) = ("OUTBOUND_TRANSPORT", false);
const OUT_IP: (&str, bool) = ("OUTBOUND_IPPACKET", false);
const ACCEPT: (&str, bool) = ("ALE_AUTH_RECV_ACCEPT", false);
const ESTABLISHED: (&str, bool) = ("ALE_FLOW_ESTABLISHED", false);
const STREAM: (&str, bool) = ("STREAM", false);
const DATAGRAM: (&str, bool) = ("DATAGRAM_DATA", false);
const ASSIGNMENT: (&str, bool) = ("ALE_RESOURCE_ASSIGNMENT", false);
const LISTEN: (&str, bool) = ("ALE_AUTH_LISTEN", false);
const CONNECT: (&str, bool) = ("ALE_AUTH_CONNECT", false);
const BIND: (&str, bool) = ("ALE_BIND_REDIRECT", false);
const REDIRECT: (&str, bool) = ("ALE_CONNECT_REDIRECT", false);

/// Data that are received.
pub const DATA_RECEIVED: Walk = walk("data received", data, &[IN_IP, IN, STREAM]);
/// Data that are sent.
pub const DATA_SENT: Walk = walk("data sent", sent_data, &[STREAM, OUT, OUT_IP]);
/// A later datagram of a flow that is received.
pub const DATAGRAM_RECEIVED: Walk = walk("datagram received", datagram, &[IN_IP, IN, DATAGRAM]);
/// A later datagram of a flow that is sent.
pub const DATAGRAM_SENT: Walk = walk("datagram sent", sent_datagram, &[DATAGRAM, OUT, OUT_IP]);

/// The walks of "TCP packet flows" and "UDP packet flows", and a filter's drop at
/// every layer with a discard layer.
pub const WALKS: [Walk; 24] = [
    walk("bind", syn, &[BIND, ASSIGNMENT]),
    walk("listen", syn, &[LISTEN]),
    walk("connect", syn, &[REDIRECT, CONNECT]),
    walk("endpoint closed", syn, &[("ALE_ENDPOINT_CLOSURE", false)]),
    walk("port freed", syn, &[("ALE_RESOURCE_RELEASE", false)]),
    walk("SYN in", syn, &[IN_IP, IN, ACCEPT]),
    walk("SYN, nobody listening", syn, &[IN_IP, discarded(IN)]),
    walk("SYN-ACK in", syn_ack, &[IN_IP, IN, ESTABLISHED]),
    walk("SYN out", sent_syn, &[OUT, OUT_IP]),
    DATA_RECEIVED,
    DATA_SENT,
    DATAGRAM_RECEIVED,
    DATAGRAM_SENT,
    walk("first datagram received", datagram, &[IN_IP, IN, ACCEPT, ESTABLISHED, DATAGRAM]),
    walk("first datagram sent", sent_datagram, &[REDIRECT, CONNECT, ESTABLISHED, DATAGRAM, OUT, OUT_IP]),
    walk("datagram, no endpoint", datagram, &[IN_IP, discarded(IN_IP)]),
    walk("bind dropped", syn, &[BIND, ASSIGNMENT, discarded(ASSIGNMENT)]),
    walk("listen dropped", syn, &[LISTEN, discarded(LISTEN)]),
    walk("connect dropped", syn, &[REDIRECT, CONNECT, discarded(CONNECT)]),
    walk("SYN dropped", syn, &[IN_IP, IN, ACCEPT, discarded(ACCEPT)]),
    walk("flow dropped", syn_ack, &[IN_IP, IN, ESTABLISHED, discarded(ESTABLISHED)]),
    walk("segment dropped", sent_syn, &[OUT, discarded(OUT)]),
    walk("packet dropped", sent_syn, &[OUT, OUT_IP, discarded(OUT_IP)]),
    walk("datagram dropped", sent_datagram, &[DATAGRAM, discarded(DATAGRAM)]),
];

const fn walk(
    name: &'static str,
    subject: fn(Family) -> Subject,
    layers: &'static [(&'static str, bool)],
) -> Walk {
    Walk { name, subject, layers }
}

const fn discarded((name, _): (&'static str, bool)) -> (&'static str, bool) {
    (name, true)
}

impl Walk {
    /// [`PACKETS`] packets of a family with this walk, of no flow that the driver
    /// knows.
    ///
    /// # Errors
    /// If the driver has a callout at none of the layers.
    pub fn packets(&self, stage: &Stage, family: Family) -> Result<Vec<Vec<Prepared>>> {
        (0..PACKETS).map(|packet| stage.walk(&self.packet(family, packet), self.layers)).collect()
    }

    /// Packets with this walk, each of a flow of its own that the driver watches.
    ///
    /// # Errors
    /// As for [`packets`](Self::packets), and if a flow does not begin.
    pub fn of_a_flow(&self, stage: &Stage, family: Family) -> Result<Vec<Vec<Prepared>>> {
        let of = |packet| {
            let subject = self.packet(family, packet);
            let flow = stage.begin_flow(&subject)?;
            stage.walk(&Subject { flow: Some(flow), ..subject }, self.layers)
        };
        (0..PACKETS).map(of).collect()
    }

    /// The packet with a number; each number is another packet.
    pub fn packet(&self, family: Family, packet: u16) -> Subject {
        let subject = (self.subject)(family);
        Subject { remote_port: subject.remote_port + packet, ..subject }
    }
}

fn syn(family: Family) -> Subject {
    Subject::syn(family)
}

fn syn_ack(family: Family) -> Subject {
    // SYN and ACK (RFC 9293, 3.1).
    Subject { flags: 0x12, ..syn(family) }
}

fn sent_syn(family: Family) -> Subject {
    Subject { sent: true, ..syn(family) }
}

fn data(family: Family) -> Subject {
    Subject { flow: None, ..Subject::data(family, FlowHandle(1)) }
}

fn sent_data(family: Family) -> Subject {
    Subject { sent: true, ..data(family) }
}

fn datagram(family: Family) -> Subject {
    Subject::datagram(family)
}

fn sent_datagram(family: Family) -> Subject {
    Subject { sent: true, ..datagram(family) }
}
