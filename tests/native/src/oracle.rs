//! Indications that the driver must not block, by the documents.
//!
//! It shares no code with the driver. The driver may block all other indications; the
//! lab's tests check which of them it blocks.

use machine::nt::fwp::hostile::{Content, Indication, RawBuffer, RawData, RawMapping, RawValue};
use machine::nt::types::{FWPS_CLASSIFY_OUT0, data_type, metadata_field as field};
use machine::wfp::{ActionType, LayerInfo, RIGHT_ACTION_WRITE, layers};

/// Deciding layers: the transport layer's discards, the network layer's discards,
/// outbound ICMP errors, and inbound echo requests.
const DECISIONS: [[&str; 2]; 4] = [
    ["INBOUND_TRANSPORT_V4_DISCARD", "INBOUND_TRANSPORT_V6_DISCARD"],
    ["INBOUND_IPPACKET_V4_DISCARD", "INBOUND_IPPACKET_V6_DISCARD"],
    ["OUTBOUND_ICMP_ERROR_V4", "OUTBOUND_ICMP_ERROR_V6"],
    ["INBOUND_TRANSPORT_V4", "INBOUND_TRANSPORT_V6"],
];
const TRANSPORT_DISCARD: usize = 0;
const ECHO_REQUEST: usize = 3;
/// `FWPS_DISCARD_MODULE_TRANSPORT` with a listener's reasons (`fwpsk.h`):
/// ExpectedSyn, ListenerInvalidFlags, PauseAccept.
const TRANSPORT: u32 = 1;
const OF_LISTENERS: [u32; 3] = [9, 23, 30];
/// Reasons of connections: TcbRemoved, FinReceived, TcbNotInTcbTable, TimeWaitTcb.
const OF_CONNECTIONS: [u32; 4] = [19, 22, 25, 28];

/// `FWP_CONDITION_FLAG_IS_LOOPBACK`, `FWP_CONDITION_FLAG_IS_IPSEC_SECURED`
/// (`fwptypes.h`).
const LOOPBACK: u64 = 1;
const IPSEC_SECURED: u64 = 2;
/// `FWPS_DISCARD_MODULE_GENERAL` (`fwpstypes.h`).
const GENERAL: u32 = 2;
/// MDLs that the driver walks at most. Data behind them may stay unread.
const MDLS_READ: usize = 64;

/// The values of the policy that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the registry's own")]
pub struct PolicyValues {
    pub mode: u32,
    pub silence_tcp: bool,
    pub exempt_loopback: bool,
    pub exempt_ipsec: bool,
    pub answer_exempt: bool,
}

impl Default for PolicyValues {
    fn default() -> Self {
        let answer_exempt = false;
        Self { mode: 2, silence_tcp: true, exempt_loopback: true, exempt_ipsec: true, answer_exempt }
    }
}

const LOOPBACK_REASON: &str = "it is loopback";
const IPSEC_REASON: &str = "IPsec secures it";
const COMPARTMENT_REASON: &str = "it is in another compartment";
/// `NET_IF_COMPARTMENT_ID_PRIMARY` (`ifdef.h`).
const OWN_COMPARTMENT: u64 = 1;
/// `NlatMulticast` and `NlatBroadcast` of NL_ADDRESS_TYPE (`nldef.h`).
const GROUPS: [u64; 2] = [3, 4];

/// Compares `classifyOut` before and after a callout.
///
/// # Panics
/// If the callout did something forbidden.
pub fn check(
    policy: PolicyValues,
    layer: &LayerInfo,
    indication: &Indication,
    after: Option<FWPS_CLASSIFY_OUT0>,
) {
    let (Some(before), Some(after)) = (indication.out, after) else { return };
    let others = |out: FWPS_CLASSIFY_OUT0| (out.outContext, out.filterId, out.flags, out.reserved);
    assert_eq!(others(after), others(before), "only action and rights are a callout's: {indication:#?}");
    let verdict = (after.actionType, after.rights);
    if before.rights & RIGHT_ACTION_WRITE == 0 {
        assert_eq!(verdict, (before.actionType, before.rights), "without the right: {indication:#?}");
        return;
    }
    if verdict == (ActionType::BLOCK.0, before.rights & !RIGHT_ACTION_WRITE) {
        if let Some(reason) = must_pass(policy, layer, indication) {
            panic!("blocked at {}, though {reason}: {policy:?} {indication:#?}", layer.name);
        }
    } else if verdict == (ActionType::PERMIT.0, before.rights & !RIGHT_ACTION_WRITE) {
        // Without lists, only loopback, IPsec-secured packets and other compartments are
        // exempt.
        let reason = must_pass(policy, layer, indication);
        let is_exempt = matches!(reason, Some(LOOPBACK_REASON | IPSEC_REASON | COMPARTMENT_REASON));
        let may_permit = policy.answer_exempt && layer.name != "INBOUND_TRANSPORT_V4";
        let may_permit = may_permit && layer.name != "INBOUND_TRANSPORT_V6";
        assert!(may_permit && is_exempt, "permitted at {}: {policy:?} {indication:#?}", layer.name);
        assert_ne!(before.actionType, ActionType::BLOCK.0, "over a block: {indication:#?}");
    } else if policy.answer_exempt && before.actionType == ActionType::BLOCK.0 {
        // The block of a heavier sublayer stands, or the driver continues.
        let expected = [before.actionType, ActionType::CONTINUE.0];
        assert!(expected.contains(&verdict.0) && verdict.1 == before.rights, "{indication:#?}");
    } else {
        assert_eq!(verdict, (ActionType::CONTINUE.0, before.rights), "no such answer: {indication:#?}");
    }
}

/// Why an indication to the callout at `layer` must pass, if it must.
pub fn must_pass(policy: PolicyValues, layer: &LayerInfo, indication: &Indication) -> Option<&'static str> {
    let Indication { fixed: true, values: Some(values), metadata: Some(metadata), .. } = indication else {
        return Some("it does not hold together");
    };
    let decision = |name: &str| DECISIONS.iter().position(|layers| layers.contains(&name));
    let Some(asked_for) = decision(layer.name) else {
        return Some("that callout decides nothing");
    };
    // The callout's layer, or the layer id of the values: both families share a
    // classifyFn.
    let said = layers().iter().find(|known| known.id.0 == indication.layer);
    let Some(layer) = said.filter(|said| decision(said.name) == Some(asked_for)) else {
        return Some("something else is decided at that layer, if anything");
    };
    let value = |name| read(values, layer.field(name)?);
    let plain = |name, kind| value(name).and_then(|value: &RawValue| word(value, kind));
    let flags = plain("FLAGS", data_type::UINT32).unwrap_or(0) & 0xFFFF_FFFF;
    let has = |bit| metadata.currentMetadataValues & bit != 0;
    let discarded = has(field::DISCARD_REASON).then_some(metadata.discardMetadata);
    let compartment = match has(field::COMPARTMENT_ID) {
        true => Some(u64::from(metadata.compartmentId)),
        false => plain("COMPARTMENT_ID", data_type::UINT32).map(|word| word & 0xFFFF_FFFF),
    };
    let address_type = plain("IP_LOCAL_ADDRESS_TYPE", data_type::UINT8).map(|word| word & 0xFF);
    let reasons = [
        (policy.mode != 2, "Mode says so"),
        (asked_for == ECHO_REQUEST, "SilenceEcho is 0"),
        (policy.exempt_loopback && flags & LOOPBACK != 0, LOOPBACK_REASON),
        (policy.exempt_ipsec && flags & IPSEC_SECURED != 0, IPSEC_REASON),
        // `ExemptCompartments` is 1 by default.
        (compartment.is_some_and(|it| it > OWN_COMPARTMENT), COMPARTMENT_REASON),
        (
            layer.is_discard() && address_type.is_some_and(|it| GROUPS.contains(&it)),
            "it is for several machines",
        ),
        (
            layer.is_discard() && discarded.is_some_and(|why| why.discardModule == GENERAL),
            "a filter dropped it",
        ),
    ];
    if let Some((_, reason)) = reasons.into_iter().find(|(holds, _)| *holds) {
        return Some(reason);
    }
    if asked_for != TRANSPORT_DISCARD {
        return None;
    }
    let protocol = plain("IP_PROTOCOL", data_type::UINT8).map(|word| word as u8);
    let of_listener = protocol == Some(6)
        && discarded
            .is_some_and(|why| why.discardModule == TRANSPORT && OF_LISTENERS.contains(&why.discardReason));
    let of_connection = discarded
        .is_some_and(|why| why.discardModule == TRANSPORT && OF_CONNECTIONS.contains(&why.discardReason));
    let endpoint = has(field::TRANSPORT_ENDPOINT_HANDLE) && metadata.transportEndpointHandle != 0;
    let reasons = [
        (!matches!(protocol, Some(6 | 17)), "it is neither TCP nor UDP"),
        (protocol == Some(6) && !policy.silence_tcp, "SilenceTcp says so"),
        (has(field::FLOW_HANDLE) && metadata.flowHandle != 0, "it has a flow"),
        (endpoint && !of_listener, "it has an endpoint"),
        (of_connection, "a connection's segment was discarded"),
    ];
    if let Some((_, reason)) = reasons.into_iter().find(|(holds, _)| *holds) {
        return Some(reason);
    }
    let port = |name| plain(name, data_type::UINT16).map(|word| word as u16);
    let ports = (port("IP_REMOTE_PORT")?, port("IP_LOCAL_PORT")?);
    let size = has(field::TRANSPORT_HEADER_SIZE).then_some(metadata.transportHeaderSize);
    let RawData::Buffers(buffers) = &indication.data else { return None };
    let flags = tcp_flags(buffers.first()?, ports, size)?;
    (protocol == Some(6) && flags & 0x04 != 0).then_some("it is a reset")
}

fn read(values: &[RawValue], index: usize) -> Option<&RawValue> {
    values.get(index)
}

fn word(value: &RawValue, kind: u32) -> Option<u64> {
    match value.content {
        Content::Word(word) if value.kind == kind => Some(word),
        _ => None,
    }
}

/// The flags of a TCP header that ends or begins at the start of the data, if it is
/// complete and has these ports.
fn tcp_flags(buffer: &RawBuffer, (source, destination): (u16, u16), size: Option<u32>) -> Option<u8> {
    let mut bytes: Vec<Option<u8>> = Vec::new();
    let chain = buffer.mdls.iter().cycle().take(if buffer.ring { MDLS_READ } else { buffer.mdls.len() });
    for mdl in chain.take(MDLS_READ) {
        let there = matches!(mdl.mapping, RawMapping::Pool | RawMapping::Mapped);
        bytes.extend(mdl.bytes.iter().map(|byte| there.then_some(*byte)));
    }
    // The packet ends with its data. The length has 32 bits.
    let end = u64::from(buffer.data_offset) + u64::from(buffer.data_length as u32);
    bytes.truncate(usize::try_from(end).unwrap_or(usize::MAX));
    let header = |back: u32| -> Option<Vec<u8>> {
        let start = buffer.data_offset.checked_sub(back)? as usize;
        bytes.get(start..start.checked_add(14)?)?.iter().copied().collect()
    };
    size.into_iter().chain([0]).filter_map(header).find_map(|header| {
        let ports = (u16::from_be_bytes([header[0], header[1]]), u16::from_be_bytes([header[2], header[3]]));
        (ports == (source, destination)).then_some(header[13])
    })
}
