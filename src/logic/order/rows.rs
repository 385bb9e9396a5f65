//! The rows: the documented sequences of layers, and those that are tolerated.
//!
//! A row is the sequence of layers that one packet or one socket call passes. Rows
//! of the pages "TCP packet flows" and "UDP packet flows" come first, so that a
//! deviation names the documented layer if possible.

use super::layer::LayerIndex;
use crate::logic::tcp::{ACK, FIN, RST, SYN, TcpFlags};

/// What passes a layer, as a set of possibilities. If nothing is known:
/// [`Kinds::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    /// A SYN.
    pub const SYN: Self = Self(1);
    /// A SYN-ACK.
    pub const SYN_ACK: Self = Self(1 << 1);
    /// A segment without payload and without SYN, FIN, RST.
    pub const BARE: Self = Self(1 << 2);
    /// A segment with payload, with or without FIN.
    pub const DATA: Self = Self(1 << 3);
    /// A FIN without payload.
    pub const FIN: Self = Self(1 << 4);
    /// A reset.
    pub const RST: Self = Self(1 << 5);
    /// Any protocol but TCP. All of them follow the UDP page.
    pub const DATAGRAM: Self = Self(1 << 6);
    /// A socket call without a packet.
    pub const CALL: Self = Self(1 << 7);
    /// Unknown.
    pub const ALL: Self = Self(u8::MAX);

    /// Any segment of a connection after its SYN and SYN-ACK.
    const LATER: Self = Self::BARE.or(Self::DATA).or(Self::FIN).or(Self::RST);
    const TCP: Self = Self::LATER.or(Self::SYN).or(Self::SYN_ACK);
    /// A segment other than the page's bare ACK that may complete a server's
    /// handshake. Its ACK does what the lost ACK would have done (RFC 9293,
    /// 3.10.7.4, fifth). A SYN or a RST never completes a handshake.
    const COMPLETING: Self = Self::DATA.or(Self::FIN);
    /// A segment that may bring something to the stream: bytes or an end.
    const FOR_STREAM: Self = Self::DATA.or(Self::FIN).or(Self::RST);

    /// The kind of a segment, from its flags and whether it has payload. With
    /// several flags the one that the stack checks first counts (RFC 9293, 3.10.7).
    pub const fn of_segment(flags: TcpFlags, payload: bool) -> Self {
        match (flags.0 & RST != 0, flags.0 & SYN != 0, flags.0 & ACK != 0) {
            (true, ..) => Self::RST,
            (_, true, true) => Self::SYN_ACK,
            (_, true, false) => Self::SYN,
            _ if payload => Self::DATA,
            _ if flags.0 & FIN != 0 => Self::FIN,
            _ => Self::BARE,
        }
    }

    /// The possible kinds of a segment with this much payload; `None` means unknown.
    ///
    /// One byte may be a keep-alive's garbage octet, which no application has sent
    /// (RFC 9293, 3.8.4).
    #[inline(always)]
    pub fn of_some_segment(flags: TcpFlags, payload: Option<u64>) -> Self {
        // The columns: no payload; one byte, or unknown; more.
        let column = payload.unwrap_or(1).min(2) as usize;
        let at = column * usize::from(FLAGS) + usize::from(flags.0 % FLAGS);
        OF_SEGMENT.as_flattened().get(at).copied().unwrap_or(Self::ALL)
    }

    /// The kinds with these bits, for tables indexed by the bits.
    pub(super) const fn of_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// One bit for each kind.
    pub(super) const fn bits(self) -> u8 {
        self.0
    }

    /// The union of both.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it is certainly one of `others`.
    pub(super) const fn within(self, others: Self) -> bool {
        self.0 & !others.0 == 0
    }

    pub(super) const fn meets(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// The flags that matter are below this value.
const FLAGS: u8 = 0x20;
const _: () = assert!(SYN < FLAGS && ACK < FLAGS && FIN < FLAGS && RST < FLAGS);

/// [`Kinds::of_segment`] by flags: without payload, either, with payload.
static OF_SEGMENT: [[Kinds; FLAGS as usize]; 3] = of_segment();

const fn of_segment() -> [[Kinds; FLAGS as usize]; 3] {
    let mut kinds = [[Kinds::ALL; FLAGS as usize]; 3];
    let mut flags = 0;
    while flags < FLAGS {
        let without = Kinds::of_segment(TcpFlags(flags), false);
        let with = Kinds::of_segment(TcpFlags(flags), true);
        kinds[0][flags as usize] = without;
        kinds[1][flags as usize] = without.or(with);
        kinds[2][flags as usize] = with;
        flags += 1;
    }
    kinds
}

/// Why a row is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// It is a row of a page.
    Documented,
    /// The documents leave open whether this row or a documented one is right.
    Open,
    /// No document lists it, but it follows from what the documents say elsewhere.
    Tolerated,
}

/// A sequence of layers that is in order.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The page's name for it, or why it is tolerated.
    pub name: &'static str,
    /// Why the row is in the table.
    pub standing: Basis,
    /// What passes these layers.
    pub kinds: Kinds,
    /// The layers, in order.
    pub layers: &'static [LayerIndex],
}

pub(super) const BIND_REDIRECT: LayerIndex = LayerIndex::named("ALE_BIND_REDIRECT");
pub(super) const ASSIGNMENT: LayerIndex = LayerIndex::named("ALE_RESOURCE_ASSIGNMENT");
pub(super) const LISTEN: LayerIndex = LayerIndex::named("ALE_AUTH_LISTEN");
pub(super) const CONNECT_REDIRECT: LayerIndex = LayerIndex::named("ALE_CONNECT_REDIRECT");
pub(super) const CONNECT: LayerIndex = LayerIndex::named("ALE_AUTH_CONNECT");
pub(super) const ACCEPT: LayerIndex = LayerIndex::named("ALE_AUTH_RECV_ACCEPT");
pub(super) const ESTABLISHED: LayerIndex = LayerIndex::named("ALE_FLOW_ESTABLISHED");
pub(super) const CLOSURE: LayerIndex = LayerIndex::named("ALE_ENDPOINT_CLOSURE");
pub(super) const RELEASE: LayerIndex = LayerIndex::named("ALE_RESOURCE_RELEASE");
pub(super) const OUT: LayerIndex = LayerIndex::named("OUTBOUND_TRANSPORT");
pub(super) const OUT_IP: LayerIndex = LayerIndex::named("OUTBOUND_IPPACKET");
pub(super) const IN: LayerIndex = LayerIndex::named("INBOUND_TRANSPORT");
pub(super) const IN_IP: LayerIndex = LayerIndex::named("INBOUND_IPPACKET");
pub(super) const STREAM: LayerIndex = LayerIndex::named("STREAM");
pub(super) const DATAGRAM: LayerIndex = LayerIndex::named("DATAGRAM_DATA");
pub(super) const ERROR: LayerIndex = LayerIndex::named("OUTBOUND_ICMP_ERROR");
pub(super) const ACCEPT_DISCARD: LayerIndex = ACCEPT.discard();
pub(super) const CONNECT_DISCARD: LayerIndex = CONNECT.discard();
pub(super) const IN_DISCARD: LayerIndex = IN.discard();
pub(super) const IN_IP_DISCARD: LayerIndex = IN_IP.discard();

const fn documented(name: &'static str, kinds: Kinds, layers: &'static [LayerIndex]) -> Row {
    Row { name, standing: Basis::Documented, kinds, layers }
}

const fn open(name: &'static str, kinds: Kinds, layers: &'static [LayerIndex]) -> Row {
    Row { name, standing: Basis::Open, kinds, layers }
}

const fn tolerated(name: &'static str, kinds: Kinds, layers: &'static [LayerIndex]) -> Row {
    Row { name, standing: Basis::Tolerated, kinds, layers }
}

/// All rows. In addition, any layer may be followed by its own discard layer, where
/// the walk ends.
pub static ROWS: [Row; COUNT] = rows();
const COUNT: usize = 42;

/// The layers of a row, without its name, which the driver does not need, and without
/// a pointer, which would need a relocation.
#[derive(Clone, Copy)]
pub(super) struct RowLayers {
    layers: [LayerIndex; Self::MAX],
    count: u8,
}

impl RowLayers {
    /// The longest row.
    const MAX: usize = 6;

    const fn of(row: &Row) -> Self {
        let mut layers = [BIND_REDIRECT; Self::MAX];
        let mut at = 0;
        while at < row.layers.len() {
            layers[at] = row.layers[at];
            at += 1;
        }
        Self { layers, count: row.layers.len() as u8 }
    }

    /// The layers, in order.
    pub(super) fn layers(&self) -> &[LayerIndex] {
        self.layers.get(..usize::from(self.count)).unwrap_or(&[])
    }
}

/// The layers of each row.
pub(super) static ROW_LAYERS: [RowLayers; COUNT] = {
    let (rows, mut at) = (rows(), 0);
    let mut row_layers = [RowLayers::of(&rows[0]); COUNT];
    while at < rows.len() {
        row_layers[at] = RowLayers::of(&rows[at]);
        at += 1;
    }
    row_layers
};

/// A function, so that the sets can be computed from it at compile time, too.
pub(super) const fn rows() -> [Row; COUNT] {
    use Kinds as K;
    const SEGMENT_OUT: K = K::TCP;
    // A client's flow is established by the SYN-ACK. If both sides connect at once,
    // it is established like a server's.
    const SERVERS: K = K::BARE.or(K::COMPLETING);
    const CLIENTS: K = SERVERS.or(K::SYN_ACK);
    [
        // "TCP packet flows".
        documented("bind", K::CALL, &[BIND_REDIRECT, ASSIGNMENT]),
        documented("listen", K::CALL, &[LISTEN]),
        documented("connect", K::CALL, &[CONNECT_REDIRECT, CONNECT]),
        documented("SYN in", K::SYN, &[IN_IP, IN, ACCEPT]),
        documented("SYN-ACK in", K::SYN_ACK, &[IN_IP, IN, ESTABLISHED]),
        documented("data received", K::DATA, &[IN_IP, IN, STREAM]),
        documented("ACK in", K::BARE, &[IN_IP, IN, ESTABLISHED]),
        documented("SYN, nobody listening", K::SYN, &[IN_IP, IN_DISCARD]),
        documented("SYN, SYN-ACK, ACK, RST out; a segment of data sent", SEGMENT_OUT, &[OUT, OUT_IP]),
        documented("data sent", K::DATA, &[STREAM, OUT, OUT_IP]),
        documented("reauthorization passes", K::DATA, &[IN_IP, IN, ACCEPT, STREAM]),
        documented("reauthorization fails", K::LATER, &[IN_IP, IN, ACCEPT, ACCEPT_DISCARD]),
        // "UDP packet flows"; the bind is TCP's.
        documented("first receive", K::DATAGRAM, &[IN_IP, IN, ACCEPT, ESTABLISHED, DATAGRAM]),
        documented(
            "first send",
            K::DATAGRAM,
            &[CONNECT_REDIRECT, CONNECT, ESTABLISHED, DATAGRAM, OUT, OUT_IP],
        ),
        documented("no endpoint", K::DATAGRAM, &[IN_IP, IN_IP_DISCARD]),
        documented("ICMP unreachable", K::DATAGRAM, &[ERROR, OUT, OUT_IP]),
        documented("reauthorization passes", K::DATAGRAM, &[IN_IP, IN, ACCEPT, DATAGRAM]),
        documented("reauthorization fails", K::DATAGRAM, &[IN_IP, IN, ACCEPT, ACCEPT_DISCARD]),
        // "ALE Layers", "ALE Endpoint Lifetime", "ALE Stateful Filtering".
        documented("endpoint closed", K::CALL, &[CLOSURE]),
        documented("port freed", K::CALL, &[RELEASE]),
        documented("later receive", K::DATAGRAM, &[IN_IP, IN, DATAGRAM]),
        documented("later send", K::DATAGRAM, &[DATAGRAM, OUT, OUT_IP]),
        // The pages' rows do not list INBOUND_TRANSPORT before its discard layer.
        open("no endpoint, by way of the layer", K::TCP.or(K::DATAGRAM), &[IN_IP, IN, IN_DISCARD]),
        // Real machines show UDP at INBOUND_TRANSPORT_DISCARD, contrary to the page. If it
        // is blocked there, INBOUND_IPPACKET_DISCARD does not follow.
        open("no endpoint or connection", K::TCP.or(K::DATAGRAM), &[IN_IP, IN_DISCARD]),
        open("no endpoint, at both", K::DATAGRAM, &[IN_IP, IN_DISCARD, IN_IP_DISCARD]),
        // The later segments of a flow: acknowledgements, FIN, RST, keep-alives,
        // retransmissions. STREAM follows if they bring bytes or an end.
        tolerated("nothing for the stream", K::TCP, &[IN_IP, IN]),
        tolerated("an end for the stream", K::FIN.or(K::RST), &[IN_IP, IN, STREAM]),
        // The page's ACK was lost, or was sent with data or a FIN. Data out of order
        // bring nothing to the stream yet.
        tolerated("data or a FIN completes the handshake", K::COMPLETING, &[IN_IP, IN, ESTABLISHED]),
        tolerated(
            "data or a FIN completes the handshake, with data for the stream",
            K::COMPLETING,
            &[IN_IP, IN, ESTABLISHED, STREAM],
        ),
        // A reauthorization is indicated at the layer of the first authorization, by
        // the first packet in either direction ("ALE Reauthorization"). It may be an
        // old duplicate, because TCP has not checked it yet.
        tolerated("reauthorization without data", K::TCP, &[IN_IP, IN, ACCEPT]),
        tolerated("reauthorization by the end of a stream", K::FIN.or(K::RST), &[IN_IP, IN, ACCEPT, STREAM]),
        tolerated("reauthorization at connect", K::TCP, &[IN_IP, IN, CONNECT]),
        tolerated(
            "reauthorization at connect, with data for the stream",
            K::FOR_STREAM,
            &[IN_IP, IN, CONNECT, STREAM],
        ),
        tolerated("reauthorization at connect, by a datagram", K::DATAGRAM, &[IN_IP, IN, CONNECT, DATAGRAM]),
        // The filters changed during the handshake.
        tolerated("reauthorization of a half-open flow", SERVERS, &[IN_IP, IN, ACCEPT, ESTABLISHED]),
        tolerated(
            "reauthorization of a half-open flow, with data for the stream",
            K::COMPLETING,
            &[IN_IP, IN, ACCEPT, ESTABLISHED, STREAM],
        ),
        tolerated(
            "reauthorization of a half-open flow, at connect",
            CLIENTS,
            &[IN_IP, IN, CONNECT, ESTABLISHED],
        ),
        tolerated(
            "reauthorization of a half-open flow, at connect, with data for the stream",
            K::COMPLETING,
            &[IN_IP, IN, CONNECT, ESTABLISHED, STREAM],
        ),
        tolerated("reauthorization by what is sent", SEGMENT_OUT, &[ACCEPT, OUT, OUT_IP]),
        tolerated("reauthorization by what is sent, at connect", SEGMENT_OUT, &[CONNECT, OUT, OUT_IP]),
        tolerated(
            "reauthorization by a datagram that is sent",
            K::DATAGRAM,
            &[ACCEPT, DATAGRAM, OUT, OUT_IP],
        ),
        tolerated(
            "reauthorization by a datagram that is sent, at connect",
            K::DATAGRAM,
            &[CONNECT, DATAGRAM, OUT, OUT_IP],
        ),
    ]
}

/// Whether an indication at the layer may show no packet: at ALE_CONNECT_REDIRECT it
/// never does, and at ALE_AUTH_CONNECT not for TCP ("Data Offset Positions").
pub(super) const fn may_show_no_packet(layer: LayerIndex) -> bool {
    layer.number() == CONNECT_REDIRECT.number() || layer.number() == CONNECT.number()
}
