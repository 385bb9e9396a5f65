//! A policy is not freed while a classify reads it.
//!
//! A reader is stopped before each of its instructions in turn, also between the read
//! of the policy's address and the read of its contents. Then the policy is replaced.
//! Freed pool faults in the lab, so a reader of a freed policy stops the machine. The
//! test does not depend on how the driver waits for readers.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lab::bench::indication::Subject;
use lab::hushport::SERVICE;
use lab::traffic::{Family, Indication, SYN};
use machine::image::Next;
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, Kernel, Options, parameters_key};
use machine::schedule::{Bell, Random};
use machine::wfp::{Engine, Value};

use super::super::actors::{NOWHERE, Play, Stop, play};
use super::super::stage::{file, seeds};

/// The two policies differ in whether this port is exempt.
const PORT: u16 = 23;

/// Processors of the machine. The last has its own group.
const PROCESSORS: u32 = 4;
const GROUP: u32 = 3;

/// The levels at which the engine may call.
const LEVELS: [Irql; 3] = [Irql::PASSIVE, Irql::APC, Irql::DISPATCH];

/// The policy of a running driver.
struct Changing<'a> {
    play: &'a Play,
    /// Bytes of pool when no change is in progress.
    rest: usize,
    exempt: bool,
}

/// Numbers of policy changes while readers were stopped.
#[derive(Debug, Default)]
struct Seen {
    /// Changes that waited for readers.
    waited: usize,
    /// Changes that completed.
    complete: usize,
    /// Changes that could not begin, because a reader held the processor.
    prevented: usize,
}

/// Sets one of two policies. Their lists have one size.
fn set(kernel: &Kernel, exempt: bool) {
    let ports = if exempt { ["23", "53/udp"] } else { ["24", "54/udp"] };
    kernel.set_value(&parameters_key(SERVICE), "ExemptPorts", RegistryValue::multi_sz(ports));
    kernel.pass(lab::hushport::LOOK);
}

impl Changing<'_> {
    /// Whether the current policy exempts the port.
    fn is_exempt(&self, processor: u32) -> bool {
        let syn = Indication::closed_port(Family::V4, PORT, SYN);
        let ask = |_: &Kernel| !self.play.engine.classify(&syn.request()).blocked();
        self.play.kernel.on_processor(processor, Irql::DISPATCH, ask)
    }

    fn is_at_rest(&self) -> bool {
        self.play.kernel.pool().bytes().0 == self.rest
    }

    /// Changes the policy and lets the driver run as far as it can. `free` is a processor
    /// without a reader.
    fn change(&mut self, free: u32, seen: &mut Seen) {
        self.exempt = !self.exempt;
        set(&self.play.kernel, self.exempt);
        self.play.let_others_run(30);
        // The driver may have begun to wait for its next look after the change.
        self.play.kernel.pass(lab::hushport::LOOK);
        self.play.let_others_run(30);
        if self.play.is_stopped() {
            return;
        }
        match (self.is_exempt(free) == self.exempt, self.is_at_rest()) {
            (true, false) => seen.waited += 1,
            (true, true) => seen.complete += 1,
            (false, _) => seen.prevented += 1,
        }
    }

    /// Waits until the change is complete and the old policy is freed.
    fn settle(&self, free: u32) {
        let settled = || self.is_at_rest() && self.is_exempt(free) == self.exempt;
        self.play.wait("the end of the policy's change", || self.play.is_stopped() || settled());
    }
}

/// Runs `lead` with so many readers. Afterwards nothing is left.
fn change_policies(seed: u64, readers: usize, lead: impl FnOnce(&mut Changing<'_>) + Send) {
    let options = Options {
        processors: PROCESSORS,
        group_size: GROUP,
        classify_irql: Irql::PASSIVE,
        ..Options::default()
    };
    play(options, seed, readers, |mut machine, play| {
        set(&play.kernel, false);
        machine.start_file(file()).unwrap();
        // The driver's thread reads the policy once more at its start.
        play.let_others_run(100);
        let rest = play.kernel.pool().bytes().0;
        lead(&mut Changing { play, rest, exempt: false });
        if !play.is_stopped() {
            let left = machine.stop().unwrap();
            assert!(left.is_empty(), "{left}");
        }
    });
}

/// Layers and packets at which the driver reads the policy.
fn decisions() -> Vec<(String, Subject)> {
    let of_family = |family| {
        let subjects = [
            ("INBOUND_TRANSPORT_#_DISCARD", Subject::syn(family)),
            ("INBOUND_IPPACKET_#_DISCARD", Subject::datagram(family)),
            ("OUTBOUND_ICMP_ERROR_#", Subject::datagram(family)),
        ];
        subjects.map(|(layer, subject)| (layer.replace('#', &format!("{family:?}")), subject))
    };
    [Family::V4, Family::V6].into_iter().flat_map(of_family).collect()
}

/// The indication of a reader.
fn indication(engine: &Engine, layer: &str, subject: &Subject) -> Indication {
    let mut indication = subject.at(engine.layer_by_name(layer).unwrap());
    if layer.contains("ICMP_ERROR") {
        // Port unreachable. At V6 layers the port fields hold type and code.
        let v6 = subject.family == Family::V6;
        let (kind, code) = if v6 { (1, 4) } else { (3, 3) };
        let fields = if v6 { ["IP_LOCAL_PORT", "IP_REMOTE_PORT"] } else { ["ICMP_TYPE", "ICMP_CODE"] };
        indication.set(fields[0], Value::Uint16(kind));
        indication.set(fields[1], Value::Uint16(code));
    }
    indication
}

/// Stops one reader before every instruction, or every `stride` instructions.
fn one_reader(layer: &str, subject: &Subject, irql: Irql, stride: usize) -> Seen {
    let seen = Mutex::new(Seen::default());
    change_policies(stride as u64, 1, |changing| {
        let (play, stop, mut seen) = (changing.play, Arc::<Stop>::default(), seen.lock().unwrap());
        let [reader] = &play.actors[..] else { panic!("one reader") };
        let shown = Arc::new(indication(&play.engine, layer, subject));
        let classify = || {
            let (engine, shown) = (Arc::clone(&play.engine), Arc::clone(&shown));
            move || drop(engine.classify(&shown.request()))
        };
        // A stop of its own: the two policies have different ways.
        let whole = Arc::<Stop>::default();
        play.stop_in(reader, &whole, NOWHERE, (0, irql), classify());
        let instructions = whole.executed();
        assert!(instructions > 50, "{layer}: {instructions} instructions");
        for (round, at) in (0..instructions).step_by(stride).enumerate() {
            let processor = round as u32 % PROCESSORS;
            let free = (processor + 1) % PROCESSORS;
            play.stop_in(reader, &stop, at, (processor, irql), classify());
            changing.change(free, &mut seen);
            play.release(&stop);
            play.join(reader);
            changing.settle(free);
            if play.is_stopped() {
                return;
            }
        }
    });
    seen.into_inner().unwrap()
}

fn check(layer: &str, irql: Irql, seen: &Seen) {
    let what = format!("{layer} at {irql}: {seen:?}");
    assert!(seen.waited > 0, "no change waited for a reader. {what}");
    assert!(seen.prevented <= seen.waited + seen.complete, "most changes could not begin. {what}");
}

#[test]
fn a_policy_outlives_a_reader_stopped_at_any_instruction() {
    let (layer, subject) = &decisions()[0];
    for irql in [Irql::PASSIVE, Irql::DISPATCH] {
        check(layer, irql, &one_reader(layer, subject, irql, 1));
    }
}

#[test]
fn every_decision_reads_a_policy_that_lasts() {
    for (layer, subject) in decisions() {
        for irql in LEVELS {
            check(&layer, irql, &one_reader(&layer, &subject, irql, 5));
        }
    }
}

/// Readers are stopped on every processor but one: any of them may have raised its
/// level. They were called at different levels. One after the other goes on. At the end
/// of each round no reader is left.
fn many_readers(seed: u64, rounds: usize) -> Seen {
    let readers = PROCESSORS as usize - 1;
    let seen = Mutex::new(Seen::default());
    change_policies(seed, readers, |changing| {
        let (play, mut random) = (changing.play, Random::new(seed));
        let mut seen = seen.lock().unwrap();
        let shown =
            Arc::new(indication(&play.engine, "INBOUND_TRANSPORT_V4_DISCARD", &Subject::syn(Family::V4)));
        let stops: Vec<_> = play.actors.iter().map(|_| Arc::<Stop>::default()).collect();
        for _ in 0..rounds {
            let free = random.below(PROCESSORS as usize) as u32;
            let others = (0..PROCESSORS).filter(|processor| *processor != free);
            let places = others.map(|processor| (processor, *random.pick(&LEVELS).unwrap()));
            let places: Vec<_> = places.collect();
            for ((actor, stop), place) in play.actors.iter().zip(&stops).zip(places) {
                let (engine, shown) = (Arc::clone(&play.engine), Arc::clone(&shown));
                let at = random.below(250) as u64;
                play.stop_in(actor, stop, at, place, move || drop(engine.classify(&shown.request())));
            }
            changing.change(free, &mut seen);
            let mut left: Vec<_> = (0..readers).collect();
            while !left.is_empty() && !play.is_stopped() {
                let next = left.swap_remove(random.below(left.len()));
                play.release(&stops[next]);
                play.let_others_run(3);
            }
            play.actors.iter().for_each(|actor| play.join(actor));
            changing.settle(free);
            if play.is_stopped() {
                return;
            }
        }
    });
    seen.into_inner().unwrap()
}

#[test]
fn readers_on_every_processor_at_each_level_are_waited_for() {
    // A seed may have no reader that the driver must wait for.
    let mut any_waited = false;
    for seed in seeds(16) {
        any_waited |= many_readers(seed, 12).waited > 0;
    }
    assert!(any_waited, "in no seed did the driver wait for a reader");
}

/// Stops the driver's thread at its first instruction after it has freed a block that
/// existed when this was armed.
#[derive(Default)]
struct Freeing {
    armed: AtomicBool,
    stopped: AtomicBool,
    released: AtomicBool,
    bytes: AtomicUsize,
    /// Addresses of the blocks.
    blocks: Mutex<BTreeSet<usize>>,
}

impl Freeing {
    fn blocks(kernel: &Kernel) -> BTreeSet<usize> {
        kernel.pool().leaks().iter().map(|block| block.address).collect()
    }

    fn arm(&self, kernel: &Kernel) {
        *self.blocks.lock().unwrap() = Self::blocks(kernel);
        self.stopped.store(false, Ordering::SeqCst);
        self.released.store(false, Ordering::SeqCst);
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Called after each call of the kernel by the driver's thread, before its next
    /// instruction.
    fn before(&self, kernel: &Kernel, bell: &Bell) {
        let bytes = kernel.pool().bytes().0;
        let freed = bytes < self.bytes.swap(bytes, Ordering::SeqCst);
        if !freed || !self.armed.load(Ordering::SeqCst) {
            return;
        }
        if !self.blocks.lock().unwrap().is_subset(&Self::blocks(kernel)) {
            self.armed.store(false, Ordering::SeqCst);
            self.stopped.store(true, Ordering::SeqCst);
            bell.ring();
            let goes_on = || self.released.load(Ordering::SeqCst);
            let _goes_on = bell.wait(&|| "to go on".to_owned(), None, goes_on);
        }
    }
}

/// The driver replaces the policy word before the policy. When the old policy is freed,
/// no verdict uses its word.
#[test]
fn no_verdict_uses_a_freed_policy() {
    let options = Options { processors: PROCESSORS, classify_irql: Irql::PASSIVE, ..Options::default() };
    for seed in seeds(1) {
        play(options.clone(), seed, 0, |mut machine, play| {
            let freeing = Arc::<Freeing>::default();
            let (kernel, bell, there) = (Arc::downgrade(&play.kernel), play.bell(), Arc::clone(&freeing));
            let before = move |_| {
                if let Some(kernel) = kernel.upgrade() {
                    there.before(&kernel, &bell);
                }
                // Only a call of the kernel frees a block.
                Next::Return
            };
            play.kernel.step_driver_threads(Some(Arc::new(before)));
            machine.set("Mode", 2);
            machine.start_file(file()).unwrap();
            play.let_others_run(200);
            for mode in [0, 2, 1, 2, 0] {
                freeing.arm(&play.kernel);
                machine.set("Mode", mode);
                play.wait("the old policy's end", || freeing.stopped.load(Ordering::SeqCst));
                let verdicts = verdicts(play);
                freeing.released.store(true, Ordering::SeqCst);
                play.let_others_run(200);
                let expected = vec![mode == 2; verdicts.len()];
                assert_eq!(verdicts, expected, "seed {seed}, Mode {mode} after the old policy was freed");
            }
            assert!(machine.stop().unwrap().is_empty());
        });
    }
}

/// Whether a SYN to a closed port is blocked, by family and level.
fn verdicts(play: &Play) -> Vec<bool> {
    let ways = [Family::V4, Family::V6].into_iter();
    let ways = ways.flat_map(|family| [Irql::PASSIVE, Irql::DISPATCH].map(|irql| (family, irql)));
    let blocked = ways.map(|(family, irql)| {
        let syn = Indication::closed_port(family, PORT, SYN);
        play.kernel.on_processor(0, irql, |_| play.engine.classify(&syn.request()).blocked())
    });
    blocked.collect()
}
