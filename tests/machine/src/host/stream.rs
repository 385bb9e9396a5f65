//! Data streams: what callouts at STREAM see of received data, and of data that drivers inject.
//!
//! "The new data is injected into the stream at the same point where the blocked data is
//! removed" (*Modifying Stream Data*): what a callout injects while it sees data comes before
//! the data behind them. Injected data go on to the callouts behind the one that injected
//! them.

use std::collections::VecDeque;

use super::connection::Connection;
use super::gate::Gate;
use super::layers::Layer;
use super::log::{Event, RecordId};
use super::scene::Scene;
use super::segment::{has_peer_closed, stream_flag, take};
use super::{Host, Pair};
use crate::status::Status;
use crate::wfp::{Demand, Entry, FlowHandle, StreamAsk};

/// Stream data that a driver has injected.
#[derive(Debug)]
pub(super) struct Injected {
    bytes: Vec<u8>,
    /// `FWPS_STREAM_FLAG_*`.
    flags: u32,
    /// The callout that has injected them.
    by: u32,
    /// A callout wants to see at least so many bytes at once.
    least: usize,
    /// A callout has deferred them.
    deferred: bool,
}

impl Injected {
    pub fn new(bytes: Vec<u8>, flags: u32, by: u32) -> Self {
        Self { bytes, flags, by, least: 0, deferred: false }
    }

    /// Whether the stream ends behind them.
    fn ends(&self) -> bool {
        self.flags & (stream_flag::RECEIVE_DISCONNECT | stream_flag::SEND_DISCONNECT) != 0
    }

    /// Whether they wait for a callout.
    fn waits(&self) -> bool {
        self.deferred || (self.bytes.len() < self.least && !self.ends())
    }

    /// Shows them to the callouts behind the one that injected them. Returns whether the first
    /// bytes pass, and how many are decided; `None` if they wait.
    fn show(
        &mut self,
        gate: &mut Gate,
        record: RecordId,
        flow: FlowHandle,
        scene: &Scene<'_>,
    ) -> Option<(bool, usize)> {
        let shown = Scene { stream: Some((&self.bytes, self.flags)), injected_by: Some(self.by), ..*scene };
        let passed = gate.pass(record, Layer::Stream, &shown);
        let ask = take_ask(gate, flow);
        // Only inbound streams can be deferred.
        self.deferred = ask.deferred && self.flags & stream_flag::RECEIVE != 0;
        self.least = ask.needs.map_or(0, |needs| self.bytes.len() + needs.max(1) as usize);
        if self.waits() {
            return None;
        }
        let length = self.bytes.len();
        Some((passed, ask.enforced.map_or(length, |enforced| length.min(enforced as usize))))
    }
}

/// Received data, to be indicated.
pub(super) struct Received {
    pub record: RecordId,
    pub bytes: Vec<u8>,
    /// `FWPS_STREAM_FLAG_*`, without the direction.
    pub flags: u32,
    /// Whether the peer has closed the stream behind them.
    pub closed_now: bool,
}

/// Indicates received data at STREAM, and passes them to the application. Callouts may
/// decide about the first bytes only; then the others are indicated again. A callout that
/// blocks data, or the end of the stream, may inject them later. Returns `false` if data
/// wait for a callout.
pub(super) fn indicate(
    gate: &mut Gate,
    connection: &mut Connection,
    scene: &Scene<'_>,
    received: Received,
) -> bool {
    let Received { record, mut bytes, flags, closed_now } = received;
    let ends = loop {
        let shown = Scene { stream: Some((&bytes, flags | stream_flag::RECEIVE)), ..*scene };
        let passed = gate.pass(record, Layer::Stream, &shown);
        let ask = take_ask(gate, connection.flow);
        if ask.deferred {
            connection.peer_closed &= !closed_now;
            connection.deferred = Some(bytes);
            return false;
        }
        // Behind the end of the stream, nothing more comes.
        if let Some(needs) = ask.needs.filter(|_| !closed_now) {
            let least = bytes.len() + needs.max(1) as usize;
            connection.waiting = Some((bytes, least));
            return false;
        }
        let decided = ask.enforced.map_or(bytes.len(), |enforced| bytes.len().min(enforced as usize));
        if passed {
            connection.session.data(&bytes[..decided]);
        }
        bytes.drain(..decided);
        let injected = injected_now(gate, connection.flow, stream_flag::RECEIVE, true);
        deliver_all(gate, connection, scene, record, injected);
        if bytes.is_empty() {
            break passed && closed_now;
        }
        if is_deferred(connection) {
            // They come behind what waits.
            connection.peer_closed &= !closed_now;
            connection.deferred = Some(bytes);
            return false;
        }
    };
    connection.peer_closed |= closed_now;
    if ends {
        connection.session.peer_closed();
    }
    true
}

/// Whether injected data wait for `FwpsStreamContinue0`.
pub(super) fn is_deferred(connection: &Connection) -> bool {
    connection.held.front().is_some_and(|held| held.deferred)
}

/// Passes injected data to the callouts behind, and to the application, unless others wait
/// before them.
fn deliver_all(
    gate: &mut Gate,
    connection: &mut Connection,
    scene: &Scene<'_>,
    record: RecordId,
    injected: VecDeque<Injected>,
) {
    for one in injected {
        match connection.held.back_mut() {
            None => deliver(gate, connection, scene, record, one),
            // A callout wants more of them.
            Some(held) if held.by == one.by && !held.deferred => {
                held.bytes.extend(one.bytes);
                held.flags |= one.flags;
            }
            Some(_) => connection.held.push_back(one),
        }
    }
    if connection.held.front().is_some_and(|held| !held.waits()) {
        let held = std::mem::take(&mut connection.held);
        deliver_all(gate, connection, scene, record, held);
    }
}

fn deliver(
    gate: &mut Gate,
    connection: &mut Connection,
    scene: &Scene<'_>,
    record: RecordId,
    mut injected: Injected,
) {
    loop {
        let Some((passed, decided)) = injected.show(gate, record, connection.flow, scene) else {
            return connection.held.push_back(injected);
        };
        if passed {
            connection.session.data(&injected.bytes[..decided]);
        }
        injected.bytes.drain(..decided);
        let nested = injected_now(gate, connection.flow, stream_flag::RECEIVE, false);
        deliver_all(gate, connection, scene, record, nested);
        match (injected.bytes.is_empty(), connection.held.is_empty()) {
            (true, _) => {
                if passed && injected.ends() {
                    connection.session.peer_closed();
                }
                return;
            }
            (false, false) => return connection.held.push_back(injected),
            (false, true) => {}
        }
    }
}

/// Takes the data that callouts have injected into a flow. `of_every_thread`: also what other
/// threads have injected. While injected data are shown, a worker of their driver may inject
/// more. That comes behind them. Only what a callout injects while it is called, on this
/// thread, comes before their rest.
fn injected_now(gate: &Gate, flow: FlowHandle, direction: u32, of_every_thread: bool) -> VecDeque<Injected> {
    let demands = gate.filter.demands();
    let taken =
        demands.map_or_else(Vec::new, |demands| demands.take_stream(flow, direction, of_every_thread));
    let mut all = VecDeque::new();
    for mut demanded in taken {
        if let Demand::Inject { entry: Entry::Stream { flags, callout, .. }, packets, .. } =
            &mut demanded.demand
        {
            let bytes = std::mem::take(packets).concat();
            all.push_back(Injected::new(bytes, *flags, *callout));
        }
        demanded.end(Status::SUCCESS);
    }
    all
}

impl Host {
    /// Puts data into a stream.
    pub(super) fn inject_stream(
        &mut self,
        flow: FlowHandle,
        flags: u32,
        callout: u32,
        bytes: Vec<u8>,
    ) -> Status {
        let Some(connection) = self.connections.values_mut().find(|it| it.flow == flow && !it.closed) else {
            return Status::NOT_FOUND;
        };
        let injected = Injected::new(bytes, flags, callout);
        if flags & stream_flag::RECEIVE != 0 {
            let record = self.gate.open(connection.ends, Event::DataReceived);
            let scene = connection.scene(None);
            deliver_all(&mut self.gate, connection, &scene, record, [injected].into());
        } else {
            connection.injected.push_back(injected);
        }
        Status::SUCCESS
    }

    /// Passes data that drivers have injected to the callouts behind, and to TCP. Returns
    /// whether anything changed.
    pub(super) fn hand_over_injected(&mut self, pair: Pair) -> bool {
        let Some(connection) = self.connections.get_mut(&pair) else { return false };
        if !connection.established || !self.stack.socket(connection.handle).may_send() {
            return false;
        }
        while let Some(mut injected) = connection.injected.pop_front() {
            if let Some(more) = connection.injected.front()
                && injected.waits()
                && more.by == injected.by
                && let Some(more) = connection.injected.pop_front()
            {
                injected.bytes.extend(more.bytes);
                injected.flags |= more.flags;
            }
            let record = self.gate.open(connection.ends, Event::DataSent);
            let scene = connection.scene(None);
            let shown = match injected.waits() {
                true => None,
                false => injected.show(&mut self.gate, record, connection.flow, &scene),
            };
            let Some((passed, decided)) = shown else {
                connection.injected.push_front(injected);
                break;
            };
            let first: Vec<u8> = injected.bytes.drain(..decided).collect();
            if passed {
                connection.cleared.extend(first);
            }
            let mut nested = injected_now(&self.gate, connection.flow, stream_flag::SEND, false);
            match injected.bytes.is_empty() {
                true => connection.disconnect |= passed && injected.ends(),
                false => nested.push_back(injected),
            }
            nested.append(&mut connection.injected);
            connection.injected = nested;
        }
        let socket = self.stack.socket(connection.handle);
        let taken = socket.send_slice(&connection.cleared).unwrap_or(0);
        connection.cleared.drain(..taken);
        let ends = connection.cleared.is_empty() && std::mem::take(&mut connection.disconnect);
        if ends {
            connection.close_sent = true;
            socket.close();
        }
        taken > 0 || ends
    }

    /// Goes on with a stream that a callout has deferred: its data are indicated again,
    /// with what has come since. What was injected before comes first.
    pub(super) fn resume(&mut self, flow: FlowHandle) {
        let Some(connection) = self.connections.values_mut().find(|it| it.flow == flow && !it.closed) else {
            return;
        };
        let scene = connection.scene(None);
        let record = self.gate.open(connection.ends, Event::DataReceived);
        let held = std::mem::take(&mut connection.held);
        deliver_all(
            &mut self.gate,
            connection,
            &scene,
            record,
            held.into_iter().map(|held| Injected { deferred: false, ..held }).collect(),
        );
        if is_deferred(connection) {
            return;
        }
        let Some(mut bytes) = connection.deferred.take() else { return };
        bytes.extend(take(self.stack.socket(connection.handle)));
        let closed_now = !connection.peer_closed && has_peer_closed(self.stack.state(connection.handle));
        let flags = if closed_now { stream_flag::RECEIVE_DISCONNECT } else { 0 };
        let _all =
            indicate(&mut self.gate, connection, &scene, Received { record, bytes, flags, closed_now });
    }
}

/// What callouts ask of the stream data that they have just seen.
pub(super) fn take_ask(gate: &Gate, flow: FlowHandle) -> StreamAsk {
    gate.filter.demands().map_or_else(StreamAsk::default, |demands| demands.take_stream_ask(flow))
}
