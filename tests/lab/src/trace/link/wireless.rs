//! 802.11: finds the LLC header of a data frame.

use super::{Cast, Skip};

/// The header of a data frame.
pub(super) struct Header {
    pub cast: Cast,
    pub size: usize,
}

/// The size of the radiotap header in bytes, which it holds in little-endian order.
pub(super) fn radiotap(bytes: &[u8]) -> Option<usize> {
    let [low, high] = *bytes.get(2..4)? else { return None };
    Some(u16::from_le_bytes([low, high]).into())
}

/// The header of a readable data frame (IEEE 802.11-2020, 9.2.4).
pub(super) fn data(bytes: &[u8]) -> Result<Header, Skip> {
    let other = |what: &'static str| Err(Skip::Other(what.into()));
    let [control, flags, ..] = *bytes else { return other("less than a header") };
    let (kind, subtype) = (control >> 2 & 3, control >> 4);
    match kind {
        0 => return other("802.11 management"),
        1 => return other("802.11 control"),
        3 => return other("802.11 extension"),
        _ if subtype & 4 != 0 => return other("802.11 data without a body"),
        _ if flags & 0x40 != 0 => return other("802.11 data, encrypted"),
        _ => {}
    }
    let (to_system, from_system) = (flags & 1 != 0, flags & 2 != 0);
    // A fourth address between two access points, QoS control, and HT control.
    let addresses = if to_system && from_system { 30 } else { 24 };
    let quality = subtype & 8 != 0;
    if quality && bytes.get(addresses).is_some_and(|control| control & 0x80 != 0) {
        return other("802.11 data, aggregated");
    }
    let size = addresses + if quality { 2 } else { 0 } + if quality && flags & 0x80 != 0 { 4 } else { 0 };
    let destination = if to_system { 16 } else { 4 };
    let cast = match bytes.get(destination) {
        Some(first) if first & 1 == 1 => Cast::Group,
        Some(_) => Cast::One,
        None => Cast::Unknown,
    };
    Ok(Header { cast, size })
}
