//! One run of the planted driver, from load to unload.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lab::setup;
use machine::etw::Enable;
use machine::host::{self, Host, OpenPoints};
use machine::nt::irp::Access;
use machine::nt::{Options, Stop, foreign};
use machine::status::Status;
use machine::verifier::{Finding, Rule, option, rules};
use machine::wfp::{
    ActionType, BfeState, Callout, DisplayData, Engine, FILTER_FLAG_CLEAR_ACTION_RIGHT, Filter, Guid,
    LayerData, LayerInfo, Metadata, NO_ACTION, Packet, Request, Session, SessionId, Sublayer, Value,
};
use machine::{Machine, StartError};

/// The driver's source.
pub fn source() -> PathBuf {
    lab::setup::root().join("tests/lab/tests/planted_faults/driver.rs")
}

/// The driver, linked with extra arguments. Its sections INIT and INITDATA are discardable,
/// and its integrity is forced, so that it may be told of processes.
pub fn driver(linker: &[&str]) -> PathBuf {
    let arguments: Vec<_> = linker
        .iter()
        .chain(&["/SECTION:INIT,ERD", "/SECTION:INITDATA,RWD", "/INTEGRITYCHECK"])
        .map(|argument| format!("-Clink-arg={argument}"))
        .collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    setup::compile(&source(), &arguments).unwrap_or_else(|error| panic!("{error:#}"))
}

/// The driver's `id` of a rule's name: FNV-1a.
fn bug_id(name: &str) -> u32 {
    name.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// How a run ended.
pub struct Outcome {
    /// Findings of the verifier.
    pub findings: Vec<Finding>,
    /// Why the machine stopped, if it did.
    pub stop: Option<Stop>,
    /// What the driver does against advice.
    pub advice: Vec<&'static str>,
    /// What the driver noted.
    pub noted: [u64; 4],
    /// The driver's addresses.
    image: Range<u64>,
    /// The most kernel stack that each kind of entry point used.
    pub stack: Vec<(&'static str, usize)>,
}

impl Outcome {
    /// Whether a bugcheck has the parameters that [`super::expected`] describes.
    pub fn has(&self, rule: &Rule, wanted: &str, actual: &[u64; 4]) -> bool {
        const TAG: u64 = u32::from_le_bytes(*b"plnt") as u64;
        let words: Vec<_> = wanted.split(' ').collect();
        assert_eq!(words.len(), actual.len(), "{}: {wanted}", rule.id);
        words.iter().zip(actual).all(|(word, actual)| match *word {
            "any" => true,
            "set" => *actual != 0,
            "tag" => *actual == TAG,
            "tag+1" => *actual == TAG + 1,
            "text" => *actual == rule.text.as_ptr().addr() as u64,
            "code" => self.image.contains(actual),
            "n0" | "n1" | "n2" | "n3" => *actual == self.noted[usize::from(word.as_bytes()[1] - b'0')],
            number => u64::from_str_radix(number, 16).expect("a hexadecimal number") == *actual,
        })
    }

    /// The broken rules, in order.
    pub fn rules(&self) -> Vec<&'static str> {
        self.findings.iter().map(|finding| finding.violation.rule.id).collect()
    }
}

/// The flags of Driver Verifier with which a rule is checked. Some rules come first only if
/// DDI compliance checking is off.
pub fn flags(rule: &Rule) -> u32 {
    const BEHIND_DDI: [&Rule; 13] = [
        &rules::RELEASE_SPIN_LOCK_IRQL,
        &rules::ACQUIRE_FAST_MUTEX_IRQL,
        &rules::ENTER_CRITICAL_REGION_IRQL,
        &rules::LEAVE_CRITICAL_REGION_IRQL,
        &rules::ACQUIRE_AT_DPC_IRQL,
        &rules::RELEASE_FROM_DPC_IRQL,
        &rules::ACQUIRE_SPIN_LOCK_IRQL,
        &rules::SET_EVENT_IRQL,
        &rules::MDL_ALLOCATE_IRQL,
        &rules::DISPATCH_IRQL_CHANGED,
        &rules::API_IRQL,
        &rules::CALL_IRQL,
        &rules::CRITICAL_REGION_UNDERFLOW,
    ];
    let off = if BEHIND_DDI.contains(&rule) { option::DDI } else { 0 };
    (option::STANDARD | rule.option()) & !off
}

/// Loads the driver with a bug chosen by name ("" for none). Shows it requests, a packet
/// and a change of BFE, and unloads it.
pub fn run(sys: &Path, bug: &str, flags: u32) -> Outcome {
    run_in(sys, bug, flags, OF_WORLDS.contains(&bug))
}

/// Bugs that only another world shows: a notice that a filter is deleted is lost, or an
/// interface goes away while a packet is under way.
pub const OF_WORLDS: [&str; 2] = ["CALLOUTS_LEFT__NOTICE_LOST", "PACKET_POOL_IN_USE__INTERFACE_GONE"];

/// As [`run`]. `elsewhere`: in the other world of a bug of [`OF_WORLDS`].
pub fn run_in(sys: &Path, bug: &str, flags: u32, elsewhere: bool) -> Outcome {
    let delete_notices_lost = elsewhere && bug == "CALLOUTS_LEFT__NOTICE_LOST";
    run_at(sys, bug, Options { delete_notices_lost, ..options(bug, flags) }, elsewhere)
}

/// The options of the machine for a bug.
fn options(bug: &str, flags: u32) -> Options {
    Options {
        verifier: flags,
        release_order: bug == "LOCK_RELEASE_ORDER",
        stack_left: (bug == "STACK_OVERFLOW__LITTLE_LEFT").then_some(6 << 10),
        // 16 ticks, so that nobody waits for long.
        dispatch_allotment: Duration::from_millis(250),
        ..Options::default()
    }
}

/// As [`run`], on a machine with these options.
pub fn run_on(sys: &Path, bug: &str, options: Options) -> Outcome {
    run_at(sys, bug, options, false)
}

fn run_at(sys: &Path, bug: &str, options: Options, elsewhere: bool) -> Outcome {
    let drain_limit = options.drain_limit;
    let engine = machine::wfp::Options {
        // An engine that passes no action shows whether a callout sets one.
        initial_action: match bug {
            "ACTION_UNSET" => NO_ACTION,
            _ => ActionType::CONTINUE,
        },
        ..Default::default()
    };
    let mut machine = Machine::with("planted", options, engine);
    if !bug.is_empty() {
        machine.set("Bug", bug_id(bug));
    }
    let without_right = [rules::ACTION_WITHOUT_RIGHT.id, rules::RIGHT_RAISED.id].contains(&bug);
    let layer = layer(machine.engine(), bug);
    let session = prepare(machine.engine(), layer, without_right);
    let started = machine.start(sys);
    if let Err(StartError::Refused(status)) = started {
        panic!("the driver does not know {bug}: {status}");
    }
    if let Err(error @ StartError::Load(_)) = started {
        panic!("{bug}: {error}");
    }
    machine.kernel().work().drain(drain_limit);
    let _session = machine.kernel().trace(Enable::all(Guid::from_bytes_le(*b"planted provider")), None);
    if machine.kernel().stopped().is_none() {
        requests(&machine, bug);
    }
    if machine.kernel().stopped().is_none() {
        traffic(machine.engine(), layer, session, (bug, elsewhere));
        machine.engine().set_bfe_state(BfeState::StopPending);
    }
    let image = machine.image().map_or(0..0, |image| image.base()..image.base() + image.size());
    if machine.kernel().stopped().is_none() {
        // The findings include leftover objects.
        let _ = machine.stop();
    }
    let kernel = machine.kernel();
    Outcome {
        findings: kernel.verifier().findings(),
        advice: kernel.verifier().advice().iter().map(|finding| finding.violation.rule.id).collect(),
        stop: kernel.stopped().cloned(),
        noted: noted(&machine),
        image,
        stack: kernel.stack_marks(),
    }
}

/// What the driver noted, if its image is still there, as it is after a bugcheck.
fn noted(machine: &Machine) -> [u64; 4] {
    let noted = machine.image().and_then(|image| image.data("driver::NOTED").ok());
    let bytes = noted.and_then(|(address, _)| foreign::read_bytes(address as usize, 32).ok());
    let words = bytes.unwrap_or_default();
    let mut words = words.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
    [(); 4].map(|()| words.next().unwrap_or(0))
}

/// A control request, and a write. The request passes the program's addresses (METHOD_NEITHER),
/// unless the bug is about a buffer that is copied (METHOD_BUFFERED).
fn requests(machine: &Machine, bug: &str) {
    const CODE: u32 = 0x12 << 16 | 0x800 << 2;
    const PROCESS: u32 = 0x1234;
    // What stops the machine is in the machine.
    let Ok(file) = machine.kernel().open(r"\Device\planted", PROCESS, Access::FULL) else { return };
    let method = if bug == "IRP_INFORMATION" { 0 } else { 3 };
    if file.control(CODE | method, &[1; 16], &[0; 16]).is_ok() {
        let _ = file.write(&[1; 16]);
    }
    let _ = file.close();
}

/// The endpoint of the packet.
const ENDPOINT: u64 = 0x77;

/// The layer of the driver's callout: where the bug can be committed.
fn layer(engine: &Engine, bug: &str) -> &'static LayerInfo {
    let name = match bug {
        "FLOW_ESTABLISHED_BLOCKED" => "ALE_FLOW_ESTABLISHED_V4",
        "STREAM_WITHOUT_ACTION"
        | "STREAM_INJECTED_WITHOUT_BLOCK"
        | "STREAM_CONTINUED_WHILE_INJECTING"
        | "STREAM_CONTINUED_INSIDE" => "STREAM_V4",
        "PENDED_WITHOUT_BLOCK"
        | "REDIRECT_REAUTHORIZED"
        | "CLASSIFY_LOST"
        | "CLASSIFY_NOT_PENDED"
        | "LAYER_DATA_NOT_APPLIED" => "ALE_CONNECT_REDIRECT_V4",
        "OPERATION_NOT_ABSORBED" | "OPERATION_COMPLETED_TWICE" | "OPERATION_LOST" => "ALE_AUTH_CONNECT_V4",
        // No TCP may be injected from a transport layer.
        "LIST_FREED_WHILE_INJECTED" | "LIST_INJECTED_TWICE" | "PACKET_POOL_IN_USE__INTERFACE_GONE" => {
            "INBOUND_IPPACKET_V4"
        }
        _ => "INBOUND_TRANSPORT_V4",
    };
    engine.layer_by_name(name).expect("the layer")
}

/// A sublayer lighter than FWPM_SUBLAYER_UNIVERSAL.
const LIGHT: Guid = Guid::from_u128(0x1167);

fn callout_key() -> Guid {
    Guid::from_bytes_le(*b"planted callout.")
}

fn display() -> DisplayData {
    DisplayData { name: Some("planted".into()), description: None }
}

fn filter(layer: &LayerInfo) -> Filter {
    let callout = Some(callout_key());
    Filter { display: display(), callout, ..Filter::new(layer.key, ActionType::CALLOUT_UNKNOWN) }
}

/// Adds the object of the driver's callout and, if `hard_permit`, a hard permit that
/// clears the callouts' right.
fn prepare(engine: &Engine, layer: &LayerInfo, hard_permit: bool) -> SessionId {
    let session = engine.open(Session { display: display(), ..Session::default() }).expect("a session");
    let callout =
        Callout { key: callout_key(), display: display(), applicable_layer: layer.key, ..Callout::default() };
    engine.callout_add(session, callout).expect("a callout");
    let light = Sublayer { key: LIGHT, display: display(), weight: 0x100, ..Sublayer::default() };
    assert_eq!(engine.sublayer_add(session, light), Status::SUCCESS);
    if hard_permit {
        let key = Guid::from_u128(0x5E1F);
        let sublayer = Sublayer { key, display: display(), weight: u16::MAX, ..Sublayer::default() };
        assert_eq!(engine.sublayer_add(session, sublayer), Status::SUCCESS);
        let permit = Filter {
            sublayer: key,
            flags: FILTER_FLAG_CLEAR_ACTION_RIGHT,
            action: ActionType::PERMIT,
            callout: None,
            ..filter(layer)
        };
        engine.filter_add(session, permit).expect("a permit");
    }
    session
}

/// Adds a filter for the callout, shows a packet of a flow, and deletes the filter.
fn traffic(engine: &Arc<Engine>, layer: &LayerInfo, session: SessionId, (bug, elsewhere): (&str, bool)) {
    // Fails if notifyFn stopped the machine.
    let sublayer = if bug == "SUBLAYER_NOT_LIGHTER" { Guid::nil() } else { LIGHT };
    let flags = if bug == "PERMIT_KEEPS_RIGHT" { FILTER_FLAG_CLEAR_ACTION_RIGHT } else { 0 };
    let Ok(filter) = engine.filter_add(session, Filter { sublayer, flags, ..filter(layer) }) else {
        return;
    };
    let mut values = vec![Value::Empty; layer.fields];
    if let Some(protocol) = layer.field("IP_PROTOCOL") {
        values[protocol] = Value::Uint8(6);
    }
    let metadata = Metadata {
        flow_handle: Some(engine.flow_create()),
        completion_handle: Some(ENDPOINT),
        transport_endpoint_handle: Some(ENDPOINT),
        ale_classify_required: bug == "ALE_REQUIRED_BLOCKED",
        ..Metadata::default()
    };
    // It does not take what is injected, like a host that is busy.
    let options = host::Options::default();
    let mut busy = Host::new(engine.clone(), options.clone(), OpenPoints::default());
    let data = match layer.is_stream() {
        true => LayerData::Stream { bytes: &[0; 20], flags: 0 },
        false => LayerData::Packet(Packet { bytes: &[0; 60], data_start: 40 }),
    };
    engine.classify(&Request { layer: layer.id, values: &values, metadata: &metadata, data });
    if bug == "PACKET_POOL_IN_USE__INTERFACE_GONE" {
        if elsewhere {
            busy.remove_interface(&options.other_interface);
        }
        busy.poll(Duration::from_millis(1));
    }
    assert_eq!(engine.filter_delete_by_id(session, filter), Status::SUCCESS);
}

/// The other rules that a bug cannot avoid to break.
pub fn consequences(rule: &Rule) -> Vec<&'static Rule> {
    match rule.id {
        // A flow context prevents that its callout is unregistered. What refers to a device
        // prevents that the device is deleted.
        "FLOW_CONTEXT_LEFT" => vec![&rules::CALLOUTS_LEFT, &rules::DEVICE_LEFT],
        "CALLOUTS_LEFT" | "SUBSCRIPTION_LEFT" | "WORK_ITEM_LEFT" => vec![&rules::DEVICE_LEFT],
        // To close the key would end the notification.
        "NOTIFICATION_LEFT" => vec![&rules::HANDLE_LEFT],
        // A list is from a pool, which then cannot be freed.
        "LIST_LEFT" => vec![&rules::PACKET_POOL_LEFT],
        _ => vec![],
    }
}
