//! Fuzz target: any indication to the callouts of the native build.
//!
//! The driver must not fault or panic. It may change only action and rights, and must
//! not block indications that [`crate::oracle`] forbids to block.

use std::cell::RefCell;

use machine::nt::fwp::hostile::{Indication, Room};
use machine::nt::registry::RegistryValue;
use machine::nt::types::FWPS_CLASSIFY_OUT0;
use machine::nt::{Kernel, Options};

use crate::builds::{Callout, Machine};
use crate::indication::{DECIDING, choose};
use crate::input::Input;
use crate::oracle::{self, PolicyValues};

/// The most indications of one input.
const MOST: usize = 8;

/// Registry values, and the policy that they set.
const POLICIES: [(&[(&str, u32)], PolicyValues); 7] = {
    const DEFAULT: PolicyValues = PolicyValues {
        mode: 2,
        silence_tcp: true,
        exempt_loopback: true,
        exempt_ipsec: true,
        answer_exempt: false,
    };
    [
        (&[], DEFAULT),
        (&[("ExemptLoopback", 0)], PolicyValues { exempt_loopback: false, ..DEFAULT }),
        (&[("ExemptIpsec", 0)], PolicyValues { exempt_ipsec: false, ..DEFAULT }),
        (&[("SilenceTcp", 0)], PolicyValues { silence_tcp: false, ..DEFAULT }),
        (&[("Mode", 1)], PolicyValues { mode: 1, ..DEFAULT }),
        (&[("Mode", 0)], PolicyValues { mode: 0, ..DEFAULT }),
        (&[("AnswerExempt", 1)], PolicyValues { answer_exempt: true, ..DEFAULT }),
    ]
};

/// One of the `POLICIES`, by number.
pub fn policy(number: usize) -> (&'static [(&'static str, u32)], PolicyValues) {
    POLICIES[number % POLICIES.len()]
}

/// A machine with a policy and a running driver.
///
/// # Panics
/// If the driver does not run.
pub fn start(machine: Machine, values: &[(&str, u32)]) -> Bench {
    for (name, number) in values {
        machine.set(name, RegistryValue::dword(*number));
    }
    Bench::start(machine)
}

/// A machine, and the callouts of its driver.
pub struct Bench {
    /// The machine.
    pub machine: Machine,
    /// The driver's callouts.
    pub callouts: Vec<Callout>,
    room: Room,
}

impl Bench {
    /// Starts the driver on a prepared machine.
    ///
    /// # Panics
    /// If the driver does not run.
    pub fn start(mut machine: Machine) -> Self {
        machine.start().expect("the driver starts");
        let callouts = machine.callouts();
        assert!(!callouts.is_empty(), "the driver has callouts");
        Self { machine, callouts, room: Room::default() }
    }

    /// The next indication of an input, and its callout.
    pub fn choose(&self, input: &mut Input<'_>) -> (Callout, Indication) {
        let deciding = |callout: &&Callout| DECIDING.contains(&callout.layer.name);
        let callout = match input.u8() {
            // Usually a deciding layer.
            choice @ 0..192 => self.callouts.iter().filter(deciding).nth(usize::from(choice % 2)),
            _ => self.callouts.get(input.below(self.callouts.len())),
        };
        let callout = *callout.expect("the driver has the callouts that decide");
        (callout, choose(input, callout.layer))
    }

    /// Shows an indication to a callout.
    ///
    /// # Panics
    /// If that stops the machine.
    pub fn ask(&mut self, callout: &Callout, indication: &Indication) -> Option<FWPS_CLASSIFY_OUT0> {
        let kernel: &Kernel = self.machine.kernel();
        match self.room.classify(kernel, &callout.functions, indication) {
            Ok(out) => out,
            Err(stop) => panic!("{stop}: {} {indication:#?}", callout.layer.name),
        }
    }

    /// Unloads the driver.
    ///
    /// # Panics
    /// If the verifier has findings, or the driver leaves objects.
    pub fn end(mut self) {
        let findings = self.machine.kernel().verifier().findings();
        assert!(findings.is_empty(), "{findings:?}");
        let left = self.machine.stop().expect("the driver stops");
        assert!(left.is_empty(), "{left}");
    }
}

thread_local! {
    /// A start takes longer than thousands of classifies, so the driver runs until an
    /// input needs another policy.
    static RUNNING: RefCell<Option<(usize, Bench)>> = const { RefCell::new(None) };
}

/// Stops the driver that this thread's inputs have left running.
pub fn finish() {
    if let Some((_, bench)) = RUNNING.take() {
        bench.end();
    }
}

/// The target with the default policy. It never restarts the driver.
pub fn run(bytes: &[u8]) {
    under(0, Input::new(bytes));
}

/// The target with any policy.
pub fn run_any_policy(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    under(input.below(POLICIES.len()), input);
}

fn under(number: usize, mut input: Input<'_>) {
    let (values, policy) = policy(number);
    RUNNING.with_borrow_mut(|running| {
        if running.as_ref().is_none_or(|(current, _)| *current != number) {
            // First stop the previous driver: only one can run.
            if let Some((_, bench)) = running.take() {
                bench.end();
            }
            let options = Options { processors: 1, ..Options::default() };
            *running = Some((number, start(Machine::native(options), values)));
        }
        let Some((_, bench)) = running else { return };
        for _ in 0..MOST {
            let (callout, indication) = bench.choose(&mut input);
            let after = bench.ask(&callout, &indication);
            oracle::check(policy, callout.layer, &indication, after);
            if input.is_empty() {
                break;
            }
        }
    });
}
