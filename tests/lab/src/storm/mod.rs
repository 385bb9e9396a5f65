//! Loads and unloads the driver under traffic, with changing policy and BFE.
//!
//! Policy changes, BFE restarts and traffic run on threads of a schedule. Whenever
//! the behavior of a closed port is known, it is checked: silent if the driver is
//! loaded with a policy that says so, answering otherwise.

pub mod host;
pub mod moving;
mod parts;
mod promise;
mod surroundings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use host::RestlessHost;
use machine::image::{Next, PeFile, Step};
use machine::nt::registry::RegistryValue;
use machine::nt::{Kernel, LeakReport, Options, Stop, parameters_key};
use machine::schedule::{self, Log, Random, Scheduling, Thread};
use machine::wfp::{BfeState, Engine};
use machine::{Machine, StartError};
use moving::Moving;
pub use parts::Part;
use promise::{EXEMPT, Promise, Wanted};
pub use surroundings::{Placed, Restless, priority};

use crate::hushport::{self, LOOK, SERVICE};
use crate::traffic::{Family, Indication, SYN, Traffic};

/// A machine with a driver that can be started and stopped repeatedly.
pub trait Subject: Send {
    /// Its kernel.
    fn kernel(&self) -> &Arc<Kernel>;
    /// Its filter engine.
    fn engine(&self) -> &Arc<Engine>;
    /// Loads the driver.
    fn start(&mut self) -> Result<(), StartError>;
    /// Unloads it.
    fn stop(&mut self) -> Result<LeakReport, Stop>;
}

/// A machine that loads the image of the driver.
pub struct Loaded {
    /// The machine.
    pub machine: Machine,
    file: Arc<PeFile>,
}

impl Loaded {
    /// A machine for a file that is already read.
    pub fn new(file: Arc<PeFile>, options: Options) -> Self {
        Self { machine: hushport::machine(options), file }
    }
}

impl Subject for Loaded {
    fn kernel(&self) -> &Arc<Kernel> {
        self.machine.kernel()
    }

    fn engine(&self) -> &Arc<Engine> {
        self.machine.engine()
    }

    fn start(&mut self) -> Result<(), StartError> {
        self.machine.start_file(Arc::clone(&self.file))
    }

    fn stop(&mut self) -> Result<LeakReport, Stop> {
        self.machine.stop()
    }
}

/// What happens while the driver is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// Its policy changes.
    Policy,
    /// BFE stops and starts, too.
    Restarts,
    /// Both happen at any time, also during load and unload, with a host whose flows
    /// outlive the driver. Then only a clean end is checked.
    AtAnyTime,
}

/// The state that all threads of a run share.
struct Stage {
    kernel: Arc<Kernel>,
    engine: Arc<Engine>,
    promise: Promise,
    over: AtomicBool,
    /// Whether traffic may be interrupted before each instruction of the driver,
    /// not only where it calls the kernel. That holds for one classify in
    /// [`STEPPED`], because a step takes a thousand times as long as an instruction.
    fine: bool,
    /// How many classifies there were.
    classifies: AtomicU64,
}

/// One classify in so many is stepped, in a run with steps.
const STEPPED: u64 = 5;

/// The time limit for a policy to take effect.
const APPLIED: Duration = Duration::from_secs(120);

impl Stage {
    fn new(subject: &dyn Subject, fine: bool) -> Self {
        let (kernel, engine) = (Arc::clone(subject.kernel()), Arc::clone(subject.engine()));
        let (over, classifies) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { kernel, engine, promise: Promise::new(Wanted::Open), over, fine, classifies }
    }

    /// Whether threads that run as long as the others should end.
    fn ends(&self) -> bool {
        self.over.load(Ordering::SeqCst) || self.kernel.stopped().is_some()
    }

    /// Classifies on a processor until the other threads are done.
    fn traffic(&self, processor: u32, seed: u64) {
        let (mut traffic, mut random) = (Traffic::new(seed), Random::new(!seed));
        while !self.ends() {
            let family = if random.once_in(2) { Family::V4 } else { Family::V6 };
            let port = if random.once_in(3) { EXEMPT } else { random.number() as u16 };
            self.closed_port(processor, family, port);
            for _ in 0..3 {
                let anything = traffic.anything();
                self.at(processor, || self.engine.classify(&anything.request()));
            }
            give_way();
        }
    }

    fn at<R>(&self, processor: u32, f: impl FnOnce() -> R) -> R {
        let (processor, level) = (self.kernel.processor_of_call(processor), self.kernel.level_of_call());
        let steps = self.fine && self.classifies.fetch_add(1, Ordering::Relaxed).is_multiple_of(STEPPED);
        self.kernel.on_processor(processor, level, |kernel| match steps {
            true => {
                let note = |step: Step| {
                    schedule::note("instruction", step.address);
                    Next::Instruction
                };
                kernel.stepwise(note, f)
            }
            false => f(),
        })
    }

    /// Whether a SYN to a closed port is blocked.
    fn syn(&self, processor: u32, family: Family, port: u16) -> bool {
        let syn = Indication::closed_port(family, port, SYN);
        self.at(processor, || self.engine.classify(&syn.request())).blocked()
    }

    fn closed_port(&self, processor: u32, family: Family, port: u16) {
        let (wanted, before) = self.promise.get();
        let blocked = self.syn(processor, family, port);
        schedule::note("closed port blocked", blocked.into());
        if before != self.promise.get().1 || self.kernel.stopped().is_some() {
            return;
        }
        if let Some(expected) = wanted.blocked(port) {
            assert_eq!(blocked, expected, "{family:?} port {port}, promised {wanted:?}");
        }
    }

    /// Loads and unloads the driver `lives` times, with changes of its policy and
    /// of BFE meanwhile.
    fn lives(&self, subject: &mut dyn Subject, random: &mut Random, lives: usize, meanwhile: Meanwhile) {
        for _ in 0..lives {
            let wanted = Wanted::draw(random);
            wanted.apply(&self.kernel, random);
            let observe = RegistryValue::dword(random.below(2) as u32);
            self.kernel.set_value(&parameters_key(SERVICE), "Observe", observe);
            self.promise.set(Wanted::Anything);
            match subject.start() {
                Ok(()) => {}
                Err(StartError::Stopped(_)) => return,
                Err(refused) => panic!("{refused}"),
            }
            match meanwhile {
                Meanwhile::AtAnyTime => {
                    rest("loaded", random.below(60));
                }
                _ => self.life(random, wanted, meanwhile),
            }
            self.promise.set(Wanted::Anything);
            let Ok(left) = subject.stop() else { return };
            assert!(left.is_empty(), "{left}");
            if meanwhile != Meanwhile::AtAnyTime {
                self.promise.set(Wanted::Open);
            }
            schedule::note("unloaded", 0);
        }
    }

    /// Sets promises while the driver is loaded.
    fn life(&self, random: &mut Random, mut wanted: Wanted, meanwhile: Meanwhile) {
        self.settle(wanted);
        for _ in 0..random.below(4) {
            if meanwhile == Meanwhile::Restarts && random.once_in(2) {
                self.promise.set(Wanted::Anything);
                self.restart_bfe(random);
                self.settle(wanted);
            } else {
                self.promise.set(Wanted::Anything);
                wanted = Wanted::draw(random);
                wanted.apply(&self.kernel, random);
                self.applied(wanted);
            }
        }
        // The driver is unloaded while a change of its policy is pending.
        if random.once_in(2) {
            self.promise.set(Wanted::Anything);
            Wanted::draw(random).apply(&self.kernel, random);
        }
    }

    /// Waits until the driver has its filters, and sets the promise.
    fn settle(&self, wanted: Wanted) {
        let own = |name: &String| name.contains("INBOUND_TRANSPORT") && name.contains("DISCARD");
        let ready = || self.engine.objects().filters.iter().filter(|name| own(name)).count() == 2;
        if self.kernel.wait_until("the driver's filters", ready) {
            self.promise.set(wanted);
        }
    }

    /// Waits until a changed policy takes effect, and promises that it stays.
    /// Afterwards the old policy must not be seen again.
    fn applied(&self, wanted: Wanted) {
        let end = Instant::now() + APPLIED;
        let holds = |port| wanted.blocked(port) == Some(self.syn(0, Family::V4, port));
        while !(holds(EXEMPT) && holds(EXEMPT + 1)) {
            if self.kernel.stopped().is_some() {
                return;
            }
            assert!(Instant::now() < end, "{wanted:?} does not take effect");
            // The driver may have begun to wait for its next look only now. Busy threads
            // let no time pass.
            self.kernel.pass(LOOK / 4);
            if !schedule::pause(&|| "the policy to take effect".to_owned()) {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        self.promise.set(wanted);
    }

    /// Stops and starts BFE, sometimes too fast to be noticed.
    fn restart_bfe(&self, random: &mut Random) {
        for state in [BfeState::StopPending, BfeState::Stopped, BfeState::StartPending, BfeState::Running] {
            self.engine.set_bfe_state(state);
            rest("BFE", random.below(3));
        }
    }

    /// Stops and starts BFE until the other threads are done. At the end it runs.
    fn restless_bfe(&self, random: &mut Random) {
        while !self.ends() {
            self.restart_bfe(random);
            rest("BFE runs", random.below(200));
        }
    }

    /// A host whose flows outlive the driver, until the other threads are done.
    fn restless_host(&self, seed: u64) {
        let family = Family::BOTH[seed as usize % 2];
        let moving = Moving::new(&self.kernel, seed, 1, &Arc::default());
        let mut host = RestlessHost::new(Arc::new(moving), family, seed);
        while !self.ends() {
            host.step();
        }
    }

    /// Sets and deletes valid and invalid values, sometimes with their key.
    fn restless_policy(&self, random: &mut Random) {
        let key = parameters_key(SERVICE);
        while !self.ends() {
            let set = |name, value| self.kernel.set_value(&key, name, value);
            match random.below(8) {
                0 => drop(self.kernel.delete_value(&key, "Mode")),
                1 => self.kernel.delete_key(&key),
                2 => drop(set("ExemptPrefixes", RegistryValue::multi_sz(["10.0.0.0/8", "nonsense"]))),
                3 => drop(set("ExemptPrefixes", RegistryValue::multi_sz(["10.0.0.0/8", "fd77::/16"]))),
                4 => drop(set("ExemptPorts", RegistryValue::multi_sz(["22", "80-90/udp"]))),
                _ => drop(set("Mode", RegistryValue::dword(random.below(4) as u32))),
            }
            self.kernel.pass(LOOK);
            rest("the registry rests", random.below(60));
        }
    }
}

/// Lets other threads run for a while.
fn rest(what: &'static str, steps: usize) {
    match schedule::now() {
        Some(_) => (0..steps).for_each(|step| schedule::note(what, step as u64)),
        None => std::thread::sleep(Duration::from_micros(10) * steps as u32),
    }
}

/// Lets other threads run, if more threads run at once than there are processors. A thread
/// that never waits keeps its processor for milliseconds. The thread that loads or changes
/// the driver would wait that long at each of its steps.
pub fn give_way() {
    if schedule::now().is_none() {
        std::thread::yield_now();
    }
}

/// What happens beside the driver for as long as a run lasts, such as the life of another
/// driver. It gets a function that says whether the run is over.
pub struct Neighbor<'a> {
    /// The name of its thread.
    pub name: String,
    /// What it does.
    pub life: Life<'a>,
}

/// The life of a [`Neighbor`].
pub type Life<'a> = Box<dyn FnOnce(&dyn Fn() -> bool) + Send + 'a>;

/// Ends the traffic when the leading thread ends, even by a panic.
struct Ends<'a>(&'a Stage);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
}

/// The options of a storm's machine.
pub fn options(seed: u64) -> Options {
    let mut options = Options::default();
    draw(seed, &mut options);
    options
}

/// Sets what a seed gives in the options of a machine.
pub fn draw(seed: u64, options: &mut Options) {
    let mut random = Random::new(seed ^ 0x1_4E7E1);
    options.seed = seed;
    Part::ALL.into_iter().for_each(|part| part.draw(&mut random, options));
}

/// Makes one run: a thread loads and unloads the driver `lives` times, with traffic
/// on three processors.
///
/// # Panics
/// If a promise was broken, or anything was leaked or reported.
pub fn storm(subject: &mut dyn Subject, scheduling: Scheduling, lives: usize, meanwhile: Meanwhile) -> Log {
    storm_beside(subject, scheduling, lives, meanwhile, Vec::new())
}

/// As [`storm`], beside others. They must have left nothing when they end.
///
/// # Panics
/// As [`storm`].
pub fn storm_beside(
    subject: &mut dyn Subject,
    scheduling: Scheduling,
    lives: usize,
    meanwhile: Meanwhile,
    neighbors: Vec<Neighbor<'_>>,
) -> Log {
    let (Scheduling::Deterministic { seed } | Scheduling::Parallel { seed }) = scheduling;
    let deterministic = matches!(scheduling, Scheduling::Deterministic { .. });
    let fine = deterministic && Random::new(seed ^ 0xF1_9E).once_in(3);
    let stage = &Stage::new(subject, fine);
    let mut threads = Vec::new();
    for number in 0..3 {
        let seed = seed.wrapping_mul(31) + u64::from(number);
        let priority = priority(&mut Random::new(!seed));
        let traffic = move || stage.kernel.with_priority(priority, || stage.traffic(number, seed));
        threads.push(Thread::new(format!("traffic {number}"), traffic));
    }
    if meanwhile == Meanwhile::AtAnyTime {
        let (mut bfe, mut policy) = (Random::new(seed ^ 0xBFE), Random::new(seed ^ 0x90_11C7));
        threads.push(Thread::new("BFE", move || stage.restless_bfe(&mut bfe)));
        threads.push(Thread::new("administrator", move || stage.restless_policy(&mut policy)));
        threads.push(Thread::new("host", move || stage.restless_host(seed)));
    }
    for Neighbor { name, life } in neighbors {
        threads.push(Thread::new(name, move || life(&|| stage.ends())));
    }
    threads.push(Thread::new("machine", move || Restless::new(seed).play(&stage.kernel, || stage.ends())));
    let mut random = Random::new(seed ^ 0x5707_2147);
    threads.push(Thread::new("leader", move || {
        let _ends = Ends(stage);
        stage.lives(subject, &mut random, lives, meanwhile);
    }));
    let log = stage.kernel.run_threads(scheduling, threads);
    clean(&stage.kernel, &stage.engine, seed);
    log
}

/// Asserts that nothing was reported and nothing is leaked.
///
/// # Panics
/// Otherwise.
pub fn clean(kernel: &Kernel, engine: &Engine, seed: u64) {
    if let Some(stop) = kernel.stopped() {
        panic!("seed {seed}: {stop}");
    }
    let findings = kernel.verifier().findings();
    assert!(findings.is_empty(), "seed {seed}: {findings:?}");
    let violations = engine.take_violations();
    assert!(violations.is_empty(), "seed {seed}: {violations:?}");
    assert_eq!(kernel.pool().bytes().0, 0, "seed {seed}: pool");
}
