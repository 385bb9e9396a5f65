//! Fuzz target: registry values of any type, length and content at the start.
//!
//! The driver must use values of the right type and range, and its defaults for others.

use machine::nt::Options;
use machine::nt::fwp::hostile::Room;
use machine::nt::registry::{REG_DWORD, RegistryValue};
use machine::wfp::ActionType;

use hushport_native_driver::logic::policy::VALUES;
use hushport_native_driver::logic::policy::values::{REG_MULTI_SZ, ValueKind};

use crate::builds::Machine;
use crate::indication::{DECIDING, choose};
use crate::input::Input;

/// The most bytes of one value.
const MOST: usize = 4096;

/// The target.
///
/// # Panics
/// If the driver does not start, stop or follow its values.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut machine = Machine::native(Options { processors: 1, ..Options::default() });
    let mut numbers = Numbers::default();
    for value in &VALUES {
        if let Some(data) = any_value(&mut input) {
            match value.kind {
                ValueKind::Number { max, .. } => numbers.read(value.name, max, &data),
                // It may exempt a packet that is shown below.
                ValueKind::List { .. } => numbers.listed |= data.kind == REG_MULTI_SZ,
            }
            machine.set(value.name, data);
        }
    }
    machine.start().expect("no value keeps the driver from starting");
    let callouts = machine.callouts();
    let filters = machine.engine().objects().filters.len();
    // Discard layers and ICMP errors of both families; with SilenceEcho, echo requests.
    let deciding = if numbers.echo { 8 } else { 6 };
    let expected = if numbers.observe { callouts.len() } else { deciding };
    assert_eq!(filters, expected, "{numbers:?}");
    for callout in callouts.iter().filter(|callout| DECIDING.contains(&callout.layer.name)) {
        let syn = choose(&mut Input::new(&[]), callout.layer);
        let out = Room::default().classify(machine.kernel(), &callout.functions, &syn);
        let out = out.expect("a plain SYN stops nothing").expect("there is a result");
        let blocked = out.actionType == ActionType::BLOCK.0;
        assert!(blocked == numbers.silent || (numbers.listed && !blocked), "{numbers:?}");
    }
    let findings = machine.kernel().verifier().findings();
    assert!(findings.is_empty(), "{findings:?}");
    let left = machine.stop().expect("the driver stops");
    assert!(left.is_empty(), "{left}");
}

/// No value, a number in or out of range, or any value.
fn any_value(input: &mut Input<'_>) -> Option<RegistryValue> {
    match input.below(5) {
        0 => None,
        1 => Some(RegistryValue::dword(input.u8().into())),
        2 => Some(RegistryValue::dword(input.u32())),
        3 => Some(RegistryValue { kind: REG_DWORD, data: input.bytes(MOST) }),
        _ => Some(RegistryValue { kind: input.u32() % 16, data: input.bytes(MOST) }),
    }
}

/// The policy that the values set, as far as the test can see it.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    observe: bool,
    silent: bool,
    echo: bool,
    listed: bool,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { observe: true, silent: true, echo: false, listed: false }
    }
}

impl Numbers {
    fn read(&mut self, name: &str, max: u32, value: &RegistryValue) {
        let Ok(bytes) = <[u8; 4]>::try_from(&value.data[..]) else { return };
        let number = u32::from_le_bytes(bytes);
        if value.kind != REG_DWORD || number > max {
            return;
        }
        match name {
            "Observe" => self.observe = number != 0,
            "Mode" => self.silent &= number == 2,
            "SilenceEcho" => self.echo = number != 0,
            "SilenceTcp" => self.silent &= number != 0,
            _ => {}
        }
    }
}
