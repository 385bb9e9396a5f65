//! One life of a driver, from load to unload, and what is demanded of it.
//!
//! What the driver promises is taken from its undisturbed life: a driver that
//! keeps closed ports silent there must do so in every other life from the
//! moment at which nothing fails any more.

use std::sync::Arc;
use std::time::Duration;

use super::inject::{Injection, Plan};
use super::table::FALLIBLE;
use crate::etw::{Enable, HUSHPORT};
use crate::image::PeFile;
use crate::machine::{Machine, StartError};
use crate::nt::{Options, Trace};
use crate::status::Status;
use crate::wfp::{
    BfeState, Discard, DisplayData, Engine, Guid, LayerData, Metadata, Objects, Packet, Provider, Request,
    Session, Value,
};
use crate::wire::Family;

/// Where BFE stands when the driver is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Bfe {
    /// It runs.
    Running,
    /// It starts later.
    Late,
}

/// What the undisturbed life was like.
#[derive(Clone, Debug)]
pub struct Baseline {
    /// Rows in [`FALLIBLE`] of its calls, in their order.
    pub calls: Vec<usize>,
    /// Whether closed ports were silent while BFE ran.
    pub silent: bool,
    /// What was wrong in it.
    pub problems: Vec<String>,
}

/// How a life went.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// What was made to fail.
    pub injected: Vec<Injection>,
    /// With what the driver refused to start, if it did.
    pub refused: Option<Status>,
    /// What was wrong.
    pub problems: Vec<String>,
}

impl Baseline {
    /// Lives undisturbed.
    pub fn of(file: &Arc<PeFile>, bfe: Bfe) -> Self {
        let mut living = Living::new(bfe, None, None);
        living.pass(file);
        let calls = living.machine.kernel().faults().calls();
        Self { calls, silent: living.promise.unwrap_or(false), problems: living.life.problems }
    }
}

/// Lives with calls that fail.
pub fn live(file: &Arc<PeFile>, bfe: Bfe, baseline: &Baseline, plan: Plan) -> Life {
    let mut living = Living::new(bfe, Some(baseline.silent), Some(plan));
    living.pass(file);
    living.life.injected = living.machine.kernel().faults().injected();
    if living.life.injected.is_empty() {
        living.problem("no call failed: the driver made fewer calls than in its undisturbed life");
    }
    living.life
}

struct Living {
    machine: Machine,
    /// What an earlier run has left in the engine.
    left: Objects,
    bfe: Bfe,
    /// Whether closed ports are to be silent; not known in the first life.
    promise: Option<bool>,
    life: Life,
    _session: Trace,
}

/// How long work that is put off may take.
const PATIENCE: Duration = Duration::from_secs(10);

impl Living {
    fn new(bfe: Bfe, promise: Option<bool>, plan: Option<Plan>) -> Self {
        let machine = Machine::new(Options::default());
        // Room that thousands of lives can afford.
        machine.set("FlowLimit", 64);
        if bfe == Bfe::Late {
            machine.engine().set_bfe_state(BfeState::Stopped);
        }
        leave(machine.engine());
        let left = machine.engine().objects();
        // Somebody listens, so that events are written, and can fail to be.
        let session = machine.kernel().trace(Enable::all(HUSHPORT), None);
        machine.kernel().faults().arm(plan);
        Self { machine, left, bfe, promise, life: Life::default(), _session: session }
    }

    fn problem(&mut self, text: impl Into<String>) {
        self.life.problems.push(text.into());
    }

    fn pass(&mut self, file: &Arc<PeFile>) {
        if self.start(file) {
            self.run();
            // One that lasts longer than the driver.
            let flow = self.machine.engine().flow_create();
            let metadata = Metadata { flow_handle: Some(flow), ..Metadata::default() };
            blocks(self.machine.engine(), &layer("ALE_FLOW_ESTABLISHED", Family::V4, ""), &metadata);
            // Then the machine has stopped, or the driver is stopped.
            match self.machine.stop() {
                Ok(left) if left.is_empty() => {}
                Ok(left) => self.problem(format!("left behind: {left}")),
                Err(stop) => self.problem(format!("the unload stopped the machine: {stop}")),
            }
        }
        let (kernel, engine) = (self.machine.kernel(), self.machine.engine());
        let findings = kernel.verifier().findings();
        let violations = engine.take_violations();
        let stopped = kernel.stopped().is_some();
        for finding in findings {
            self.problem(finding.violation.to_string());
        }
        for violation in violations {
            self.problem(format!("{violation:?}"));
        }
        if !stopped {
            self.expect_empty("at the end");
        }
    }

    /// Loads the driver; where it refuses, once more without failures. Whether
    /// it runs.
    fn start(&mut self, file: &Arc<PeFile>) -> bool {
        match self.machine.start_file(Arc::clone(file)) {
            Ok(()) => {
                // Whatever failed, a driver that starts keeps its promise.
                self.look("after DriverEntry", self.bfe == Bfe::Running, false);
                return true;
            }
            Err(StartError::Refused(status)) => self.refused(status),
            Err(other) => {
                self.problem(other.to_string());
                return false;
            }
        }
        self.machine.kernel().faults().pause(true);
        match self.machine.start_file(Arc::clone(file)) {
            Ok(()) => {
                self.look("after a second start, without failures", self.bfe == Bfe::Running, false);
                true
            }
            Err(error) => {
                self.problem(format!("a second start, without failures: {error}"));
                false
            }
        }
    }

    /// The cause is the last call that failed before the driver began to give
    /// back what it had.
    fn refused(&mut self, status: Status) {
        self.life.refused = Some(status);
        let injected = self.machine.kernel().faults().injected();
        let cause = injected.iter().rev().find(|injection| !FALLIBLE[injection.row].releases);
        match cause {
            Some(cause) if cause.failure.status == status => {}
            Some(cause) => self.problem(format!(
                "DriverEntry returned {status}, and not {}, with which {} failed",
                cause.failure.status, FALLIBLE[cause.row].name
            )),
            None => self.problem(format!("DriverEntry returned {status}, and nothing had failed")),
        }
        self.expect_empty("after the refusal");
        self.look("after the refusal", false, false);
    }

    /// BFE comes and goes; then, where the driver does not protect, it gets
    /// another chance without failures.
    fn run(&mut self) {
        if self.bfe == Bfe::Late {
            self.change("when BFE starts", &[BfeState::StartPending, BfeState::Running], true);
        }
        self.change("when BFE stops", &[BfeState::StopPending, BfeState::Stopped], false);
        self.change("when BFE starts again", &[BfeState::StartPending, BfeState::Running], true);
        let silent = self.silent();
        if self.promise == Some(true) && silent != [true; 2] && self.machine.kernel().stopped().is_none() {
            let machine = self.machine.kernel().clone();
            machine.faults().pause(true);
            self.change("when BFE stops once more", &[BfeState::StopPending, BfeState::Stopped], false);
            let up = [BfeState::StartPending, BfeState::Running];
            self.change("when BFE starts once more, without failures", &up, true);
            machine.faults().pause(self.life.refused.is_some());
        }
    }

    /// Changes BFE's state and lets the driver follow. What fails meanwhile may
    /// leave the machine open, not dark.
    fn change(&mut self, when: &str, states: &[BfeState], running: bool) {
        let kernel = Arc::clone(self.machine.kernel());
        let before = kernel.faults().injected().len();
        for state in states {
            self.machine.engine().set_bfe_state(*state);
            if !kernel.work().drain(PATIENCE) {
                self.problem(format!("{when}: work that was put off does not end"));
            }
        }
        self.look(when, running, kernel.faults().injected().len() > before);
    }

    /// Looks at what the driver does to traffic. `running`: BFE runs, so that
    /// it can; `may_fail`: something failed just now, so that it need not.
    fn look(&mut self, when: &str, running: bool, may_fail: bool) {
        if self.machine.kernel().stopped().is_some() {
            return;
        }
        for layer in blocked_flow(self.machine.engine()) {
            self.problem(format!("{when}: a connection is blocked at {layer}"));
        }
        let silent = self.silent();
        if silent[0] != silent[1] {
            self.problem(format!("{when}: silent over one family only: {silent:?}"));
        }
        let silent = silent == [true; 2];
        if running && self.promise.is_none() {
            self.promise = Some(silent);
        }
        let promised = running && self.promise == Some(true);
        match (promised, silent) {
            (true, false) if !may_fail => self.problem(format!("{when}: closed ports answer")),
            (false, true) => self.problem(format!("{when}: closed ports are silent")),
            _ => {}
        }
        let objects = self.machine.engine().objects();
        let holds_some = !objects.sessions.is_empty() || !objects.filters.is_empty();
        if !silent && holds_some {
            self.problem(format!("{when}: does not protect, and holds {:?}", objects.sessions));
        }
    }

    fn expect_empty(&mut self, when: &str) {
        let objects = self.machine.engine().objects().without(&self.left);
        if objects != Objects::default() {
            self.problem(format!("{when} the engine holds {objects:?}"));
        }
    }

    /// Whether a SYN to a closed port is blocked before it is answered, over
    /// IPv4 and IPv6.
    fn silent(&self) -> [bool; 2] {
        Family::BOTH.map(|family| {
            let discard = Some(Discard { module: 1, reason: 4, filter_id: 0 });
            let metadata = Metadata { discard, transport_header_size: Some(20), ..Metadata::default() };
            blocks(self.machine.engine(), &layer("INBOUND_TRANSPORT", family, "_DISCARD"), &metadata)
        })
    }
}

/// Puts in the driver's way what it would have left, had its session not been
/// dynamic.
fn leave(engine: &Engine) {
    let display = DisplayData { name: Some("left".into()), description: None };
    if let Ok(session) = engine.open(Session { display: display.clone(), ..Session::default() }) {
        let provider = Provider { key: PROVIDER, display, ..Provider::default() };
        // Where BFE starts late there is nothing yet that could be in the way.
        let _added_or_no_engine = engine.provider_add(session, provider);
        let _closed = engine.close(session);
    }
}

/// The driver's provider.
const PROVIDER: Guid = Guid::from_u128(0x5b8e21f6_7a3c_4d90_8f14_c2e6907b3d51);

/// The layers that an accepted connection passes.
const FLOW: [&str; 11] = [
    "ALE_RESOURCE_ASSIGNMENT",
    "ALE_AUTH_LISTEN",
    "ALE_AUTH_CONNECT",
    "INBOUND_IPPACKET",
    "INBOUND_TRANSPORT",
    "ALE_AUTH_RECV_ACCEPT",
    "OUTBOUND_TRANSPORT",
    "OUTBOUND_IPPACKET",
    "ALE_FLOW_ESTABLISHED",
    "STREAM",
    "ALE_ENDPOINT_CLOSURE",
];

/// At which of its layers a connection is blocked.
fn blocked_flow(engine: &Engine) -> Vec<String> {
    let flow = engine.flow_create();
    let metadata = Metadata { flow_handle: Some(flow), ..Metadata::default() };
    let layers =
        Family::BOTH.into_iter().flat_map(|family| FLOW.iter().map(move |name| layer(name, family, "")));
    let blocked = layers.filter(|layer| blocks(engine, layer, &metadata)).collect();
    engine.flow_end(flow);
    blocked
}

fn layer(name: &str, family: Family, twin: &str) -> String {
    let family = match family {
        Family::V4 => "V4",
        Family::V6 => "V6",
    };
    format!("{name}_{family}{twin}")
}

/// Whether a SYN is blocked at a layer.
fn blocks(engine: &Engine, layer: &str, metadata: &Metadata) -> bool {
    /// TCP.
    const PROTOCOL: u8 = 6;
    /// `FWPS_STREAM_FLAG_SEND` (`fwpsk.h`).
    const STREAM_SEND: u32 = 0x1_0000;
    let layer = engine.layer_by_name(layer).expect("a built-in layer");
    let mut values = vec![Value::Empty; layer.fields];
    if let Some(protocol) = layer.field("IP_PROTOCOL") {
        values[protocol] = Value::Uint8(PROTOCOL);
    }
    // A TCP header of 20 bytes: data offset and SYN.
    let mut bytes = [0; 20];
    bytes[12] = 0x50;
    bytes[13] = 0x02;
    let data = match layer.name {
        name if name.starts_with("ALE") => LayerData::None,
        name if name.starts_with("STREAM") => LayerData::Stream { bytes: &bytes, flags: STREAM_SEND },
        _ => LayerData::Packet(Packet { bytes: &bytes, data_start: 20 }),
    };
    engine.classify(&Request { layer: layer.id, values: &values, metadata, data }).blocked()
}
