//! A machine, traffic on its processors, and what must hold at every moment.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use lab::image::PeFile;
use lab::machine::{Machine, StartError};
use lab::nt::{Irql, Kernel, Options};
use lab::schedule::{self, Log, Random, Scheduling, Thread};
use lab::setup::{self, Target};
use lab::traffic::Traffic;
use lab::wfp::{BfeState, Engine};

/// The driver's file, parsed once.
pub fn file() -> &'static Arc<PeFile> {
    static FILE: LazyLock<Arc<PeFile>> = LazyLock::new(|| {
        let sys: &Path = &setup::build(Target::X64).unwrap().sys;
        Arc::new(PeFile::read(sys).unwrap())
    });
    &FILE
}

/// Seeds to play: `few` unless the environment asks for more.
pub fn seeds(few: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("HUSHPORT_LAB_SEEDS").ok();
    0..asked.map_or(few, |text| text.parse().expect("HUSHPORT_LAB_SEEDS is a number"))
}

/// What a SYN to a closed port must meet. The low bits of a word whose rest
/// counts changes, so that who reads the same word twice knows that nothing
/// happened between.
pub struct Promise(AtomicU64);

const CHANGING: u64 = 0;
const SILENT: u64 = 1;
const OPEN: u64 = 2;

impl Promise {
    fn set(&self, what: u64) {
        let next = (self.0.load(Ordering::SeqCst) & !3) + 4;
        self.0.store(next | what, Ordering::SeqCst);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What BFE does meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bfe {
    /// Runs.
    Stays,
    /// Stops and starts while the driver is loaded.
    Restarts,
    /// The same whatever the driver does at that moment; nothing is promised
    /// then but that all ends well.
    RestartsAtAnyTime,
}

/// Everything that threads of one run share.
pub struct Stage {
    pub kernel: Arc<Kernel>,
    pub engine: Arc<Engine>,
    pub promise: Promise,
    over: AtomicBool,
}

impl Stage {
    pub fn new(machine: &Machine) -> Self {
        let (kernel, engine) = (Arc::clone(machine.kernel()), Arc::clone(machine.engine()));
        Self { kernel, engine, promise: Promise(AtomicU64::new(OPEN)), over: AtomicBool::new(false) }
    }

    /// Classifies on a processor until the others are done.
    pub fn traffic(&self, processor: u32, seed: u64) {
        let mut traffic = Traffic::new(seed);
        while !self.over.load(Ordering::SeqCst) && self.kernel.stopped().is_none() {
            self.closed_port(processor, &mut traffic);
            for _ in 0..3 {
                let anything = traffic.anything();
                self.at(processor, || self.engine.classify(&anything.request()));
            }
        }
    }

    fn at<R>(&self, processor: u32, f: impl FnOnce() -> R) -> R {
        let level = self.kernel.options().classify_irql;
        self.kernel.on_processor(processor, level, |_| f())
    }

    fn closed_port(&self, processor: u32, traffic: &mut Traffic) {
        let syn = traffic.closed_port();
        let before = self.promise.get();
        let decision = self.at(processor, || self.engine.classify(&syn.request()));
        schedule::note("closed port blocked", decision.blocked().into());
        if before != self.promise.get() || self.kernel.stopped().is_some() {
            return;
        }
        match before & 3 {
            SILENT => assert!(decision.blocked(), "a closed port answers: {decision:?}"),
            OPEN => assert!(!decision.blocked(), "dark without the driver: {decision:?}"),
            _ => {}
        }
    }

    /// Loads the driver, lets BFE come and go if told to, unloads.
    pub fn lives(&self, machine: &mut Machine, random: &mut Random, lives: usize, bfe: Bfe) {
        for _ in 0..lives {
            let silent = random.below(4) > 0;
            machine.set("Mode", if silent { 2 } else { random.below(2) as u32 });
            machine.set("Observe", random.below(2) as u32);
            self.promise.set(CHANGING);
            match machine.start_file(file()) {
                Ok(()) => {}
                Err(StartError::Stopped(_)) => return,
                Err(refused) => panic!("{refused}"),
            }
            let restarts = match bfe {
                Bfe::Stays => 0,
                Bfe::Restarts | Bfe::RestartsAtAnyTime => random.below(3),
            };
            for restart in 0..=restarts {
                if bfe == Bfe::RestartsAtAnyTime {
                    schedule::note("loaded", restart as u64);
                    continue;
                }
                if restart > 0 {
                    self.restart_bfe(random);
                }
                self.settle(silent);
            }
            self.promise.set(CHANGING);
            let Ok(left) = machine.stop() else { return };
            assert!(left.is_empty(), "{left}");
            if bfe != Bfe::RestartsAtAnyTime {
                self.promise.set(OPEN);
            }
            schedule::note("unloaded", 0);
        }
    }

    /// Waits until the driver has its filters, and makes the promise.
    fn settle(&self, silent: bool) {
        let own = |name: &String| name.contains("INBOUND_TRANSPORT") && name.contains("DISCARD");
        let ready = || self.engine.objects().filters.iter().filter(|name| own(name)).count() == 2;
        if self.kernel.wait_until("the driver's filters", ready) {
            self.promise.set(if silent { SILENT } else { OPEN });
        }
    }

    /// BFE stops and starts; now and then nobody has time to notice.
    fn restart_bfe(&self, random: &mut Random) {
        self.promise.set(CHANGING);
        for state in [BfeState::StopPending, BfeState::Stopped, BfeState::StartPending, BfeState::Running] {
            self.engine.set_bfe_state(state);
            for _ in 0..random.below(3) {
                schedule::note("BFE", state as u64);
            }
        }
    }

    /// BFE stops and starts until the others are done; it ends running.
    fn restless_bfe(&self, random: &mut Random) {
        while !self.over.load(Ordering::SeqCst) && self.kernel.stopped().is_none() {
            self.restart_bfe(random);
            for _ in 0..random.below(200) {
                schedule::note("BFE runs", 0);
            }
        }
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

/// Ends traffic when the thread that leads does, by a panic too.
pub struct Ends<'a>(pub &'a Stage);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// One run: a thread that loads and unloads, traffic on three processors.
pub fn storm(scheduling: Scheduling, lives: usize, bfe: Bfe) -> Log {
    // Built before anybody has a turn.
    let _built = file();
    let (Scheduling::Deterministic { seed } | Scheduling::Parallel { seed }) = scheduling;
    let mut random = Random::new(seed ^ 0x5707_2147);
    let classify_irql = if random.once_in(4) { Irql::PASSIVE } else { Irql::DISPATCH };
    let mut machine = Machine::new(Options { classify_irql, ..Options::default() });
    let stage = Stage::new(&machine);
    let mut threads = Vec::new();
    for number in 0..3 {
        let stage = &stage;
        let traffic = move || stage.traffic(number, seed.wrapping_mul(31) + u64::from(number));
        threads.push(Thread::new(format!("traffic {number}"), traffic));
    }
    if bfe == Bfe::RestartsAtAnyTime {
        let (stage, mut random) = (&stage, Random::new(seed ^ 0xBFE));
        threads.push(Thread::new("BFE", move || stage.restless_bfe(&mut random)));
    }
    let (leader, all) = (&stage, &mut machine);
    threads.push(Thread::new("leader", move || {
        let _ends = Ends(leader);
        leader.lives(all, &mut random, lives, bfe);
    }));
    let log = stage.kernel.run_threads(scheduling, threads);
    clean(&machine, seed);
    log
}

/// Asserts that nothing was found.
pub fn clean(machine: &Machine, seed: u64) {
    if let Some(stop) = machine.kernel().stopped() {
        panic!("seed {seed}: {stop}");
    }
    let findings = machine.kernel().verifier().findings();
    assert!(findings.is_empty(), "seed {seed}: {findings:?}");
    let violations = machine.engine().take_violations();
    assert!(violations.is_empty(), "seed {seed}: {violations:?}");
    assert_eq!(machine.kernel().pool().bytes().0, 0, "seed {seed}: pool");
}
