//! How a packet or a call is recognized at each layer.

use super::flow_order::Direction;
use super::layer::LayerIndex;
use super::sets::is_on_row;
use crate::logic::layers::{Fields, Layer, Shows, Way};

/// How the order check recognizes what a classify shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tracking {
    /// Not at all: everything is in order here. No document says when a packet comes
    /// to this layer, as with STREAM_PACKET, or it is forwarded.
    Away,
    /// Not at all: an ICMP error does not show the packet that will be sent.
    /// Decisions use the positions.
    Error(Positions),
    /// A socket call; the position of its flags, if it has them, and those of both
    /// ends, if it has them.
    Call(Option<u8>, Option<Positions>),
    /// A packet, by its IP header.
    Packet(Direction, Positions),
    /// A packet, by its transport header.
    Segment(Way, Positions),
    /// A packet, by its transport header, and a socket call; or only the call.
    CallOrSegment(Way, Positions),
    /// Bytes of a stream.
    Stream(Positions),
}

/// The positions of the data fields that identify a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    local_address: u8,
    remote_address: u8,
    local_port: u8,
    remote_port: u8,
    protocol: u8,
    last: u8,
}

impl Tracking {
    /// At a layer or its discard layer.
    pub const fn of(layer: &Layer, index: LayerIndex) -> Self {
        let fields = &layer.fields;
        if let (Shows::Error(_), Some(positions)) = (layer.shows, Positions::of_packet(fields)) {
            return Self::Error(positions);
        }
        if !is_on_row(index) {
            return Self::Away;
        }
        match layer.shows {
            Shows::Call => Self::Call(fields.flags, Positions::of_ends(fields)),
            Shows::Packet(way) => match (way, Positions::of_packet(fields)) {
                (Way::In, Some(positions)) => Self::Packet(Direction::Inbound, positions),
                (Way::Out, Some(positions)) => Self::Packet(Direction::Outbound, positions),
                _ => panic!("addresses are fields, and the direction is known"),
            },
            Shows::Segment(way) | Shows::CallOrSegment(way) => {
                match (Positions::of_segment(fields), layer.shows) {
                    (Some(positions), Shows::Segment(_)) => Self::Segment(way, positions),
                    (Some(positions), _) => Self::CallOrSegment(way, positions),
                    _ => panic!("addresses, ports and protocol are fields"),
                }
            }
            Shows::Stream => match Positions::of_ends(fields) {
                Some(positions) => Self::Stream(positions),
                None => panic!("addresses and ports are fields"),
            },
            Shows::Error(_) | Shows::Forwarded => Self::Away,
        }
    }
}

impl Positions {
    const fn of_packet(fields: &Fields) -> Option<Self> {
        match (fields.local_address, fields.remote_address) {
            (Some(local), Some(remote)) => Some(Self::new([local, remote, 0, 0, 0])),
            _ => None,
        }
    }

    const fn of_segment(fields: &Fields) -> Option<Self> {
        let addresses = (fields.local_address, fields.remote_address);
        match (addresses, fields.local_port, fields.remote_port, fields.protocol) {
            ((Some(local), Some(remote)), Some(local_port), Some(remote_port), Some(protocol)) => {
                Some(Self::new([local, remote, local_port, remote_port, protocol]))
            }
            _ => None,
        }
    }

    /// Without the protocol.
    const fn of_ends(fields: &Fields) -> Option<Self> {
        let addresses = (fields.local_address, fields.remote_address);
        match (addresses, fields.local_port, fields.remote_port) {
            ((Some(local), Some(remote)), Some(local_port), Some(remote_port)) => {
                Some(Self::new([local, remote, local_port, remote_port, 0]))
            }
            _ => None,
        }
    }

    const fn new(all: [u8; 5]) -> Self {
        let [local_address, remote_address, local_port, remote_port, protocol] = all;
        let (mut last, mut at) = (0, 0);
        while at < all.len() {
            if all[at] > last {
                last = all[at];
            }
            at += 1;
        }
        Self { local_address, remote_address, local_port, remote_port, protocol, last }
    }

    /// The highest position.
    #[inline(always)]
    pub const fn last(&self) -> usize {
        self.last as usize
    }

    /// The positions of the local and the remote address.
    #[inline(always)]
    pub const fn addresses(&self) -> [usize; 2] {
        [self.local_address as usize, self.remote_address as usize]
    }

    /// The positions of the local and the remote port, at layers that show segments.
    #[inline(always)]
    pub const fn ports(&self) -> [usize; 2] {
        [self.local_port as usize, self.remote_port as usize]
    }

    /// The position of the protocol, at layers that show segments.
    #[inline(always)]
    pub const fn protocol(&self) -> usize {
        self.protocol as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::callouts::CALLOUTS;

    #[test]
    fn every_layer_is_tracked_by_what_it_shows() {
        for callout in &CALLOUTS {
            let name = callout.name().concat();
            assert_eq!(LayerIndex::of_layer(callout.layer_id), Some(callout.order_layer.index));
            match callout.tracking {
                Tracking::Away => {
                    assert!(["STREAM_PACKET", "IPFORWARD"].contains(&callout.layer.name), "{name}");
                }
                Tracking::Error(_) => assert!(callout.layer.name.ends_with("ICMP_ERROR"), "{name}"),
                Tracking::Call(flags, _) => {
                    assert_eq!((callout.layer.shows, callout.fields().flags), (Shows::Call, flags));
                }
                Tracking::Stream(_) => assert_eq!(callout.layer.shows, Shows::Stream),
                Tracking::Packet(_, positions)
                | Tracking::Segment(_, positions)
                | Tracking::CallOrSegment(_, positions) => {
                    let all = [positions.addresses(), positions.ports(), [positions.protocol(); 2]].concat();
                    assert_eq!(all.into_iter().max(), Some(positions.last()), "{name}");
                    let fields = callout.fields();
                    let addresses = [fields.local_address, fields.remote_address];
                    assert_eq!(positions.addresses().map(|at| Some(at as u8)), addresses);
                }
            }
        }
    }
}
