//! Two drivers with callouts at the same layers, each loaded and unloaded while the other
//! works. Filters of one name callouts of the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lab::setup::{self, Target};
use lab::storm::{self, Loaded, Meanwhile, Neighbor, Subject};
use lab::traffic::Traffic;
use machine::image::PeFile;
use machine::nt::{Irql, Kernel, Options};
use machine::schedule::{self, Random, Scheduling, Thread};
use machine::status::Status;
use machine::wfp::{
    ActionType, Callout, DisplayData, Engine, FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED, Guid, LayerInfo,
    Session, layers,
};
use machine::{Driver, Machine};

use super::puppet::{Puppet, SERVICES, Word, at, guid, raw};
use super::text;

/// The layers of both drivers. A driver has one callout at each.
const LAYERS: [&str; 6] = [
    "INBOUND_TRANSPORT_V4_DISCARD",
    "INBOUND_TRANSPORT_V6_DISCARD",
    "INBOUND_TRANSPORT_V4",
    "OUTBOUND_TRANSPORT_V6",
    "ALE_FLOW_ESTABLISHED_V4",
    "STREAM_V4",
];

fn layer(number: usize) -> &'static LayerInfo {
    layers().iter().find(|layer| layer.name == LAYERS[number]).expect("a layer of the tables")
}

/// The key of a driver's callout at a layer.
fn key(place: usize, number: usize) -> Guid {
    guid(0x100 + 0x10 * place as u128 + number as u128)
}

/// What a driver has registered and added, to be undone in reverse order.
struct Works {
    session: u64,
    sublayer: Guid,
    callouts: Vec<u64>,
    filters: Vec<u64>,
}

/// Registers callouts at some of the layers, and adds filters that name them and those of
/// the other driver.
fn begin(
    puppet: &Puppet,
    place: usize,
    random: &mut Random,
    others: &dyn Fn() -> Vec<(Guid, Guid)>,
) -> Works {
    let session = puppet.session();
    let sublayer = guid(0x200 + place as u128);
    puppet.add_sublayer(session, sublayer, 0x4000 + place as u16);
    let mut works = Works { session, sublayer, callouts: Vec::new(), filters: Vec::new() };
    // It decides nothing: what is blocked is known without it.
    puppet.word(Word::Action).store(ActionType::CONTINUE.0.into(), Ordering::SeqCst);
    for number in 0..LAYERS.len() {
        if random.once_in(4) {
            continue;
        }
        works.callouts.push(puppet.register(key(place, number)));
        rest(random.below(6));
    }
    for (layer, callout) in others() {
        let action = [ActionType::CALLOUT_INSPECTION, ActionType::CALLOUT_UNKNOWN][random.below(2)];
        let permits = FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED;
        let flags = if action == ActionType::CALLOUT_UNKNOWN { permits } else { 0 };
        let (status, id) = puppet.try_filter(session, [layer, sublayer, callout], action, flags);
        match status {
            Status::SUCCESS => works.filters.push(id),
            // Its object is in the dynamic session of its driver, or is not there now.
            Status::FWP_LIFETIME_MISMATCH | Status::FWP_CALLOUT_NOT_FOUND => {}
            other => panic!("a filter that names a callout of another driver: {other}"),
        }
    }
    works
}

fn end(puppet: &Puppet, works: Works, forgets: bool) {
    for filter in works.filters {
        assert_eq!(puppet.status("FwpmFilterDeleteById0", &[works.session, filter]), Status::SUCCESS);
    }
    for callout in works.callouts.into_iter().skip(usize::from(forgets)) {
        assert_eq!(puppet.status("FwpsCalloutUnregisterById0", &[callout]), Status::SUCCESS);
    }
    let sublayer = raw(works.sublayer);
    let deleted = puppet.status("FwpmSubLayerDeleteByKey0", &[works.session, at(&sublayer)]);
    assert_eq!(deleted, Status::SUCCESS);
    assert_eq!(puppet.status("FwpmEngineClose0", &[works.session]), Status::SUCCESS);
}

/// Lets other threads run.
fn rest(steps: usize) {
    match schedule::now() {
        Some(_) => (0..steps).for_each(|step| schedule::note("the driver rests", step as u64)),
        None => std::thread::sleep(std::time::Duration::from_micros(50) * steps as u32),
    }
}

/// Loads a driver, lets it work and unloads it, again and again.
fn lives(
    mut driver: Driver,
    place: usize,
    seed: u64,
    others: &dyn Fn() -> Vec<(Guid, Guid)>,
    is_over: &dyn Fn() -> bool,
) {
    let mut random = Random::new(seed);
    while !is_over() {
        let puppet = Puppet::load(driver, place);
        let works = begin(&puppet, place, &mut random, others);
        rest(random.below(40));
        end(&puppet, works, false);
        driver = puppet.unload();
    }
}

/// Adds the objects of the callouts of the drivers `one` and `two`. They stay, so that
/// filters of both can name them, whichever is loaded.
fn add_objects(engine: &Engine) -> Vec<(Guid, Guid)> {
    let display = DisplayData { name: Some("callouts of both".into()), description: None };
    let session = engine.open(Session { display: display.clone(), ..Session::default() }).unwrap();
    let mut objects = Vec::new();
    for place in 0..2 {
        for number in 0..LAYERS.len() {
            let (key, layer) = (key(place, number), layer(number).key);
            let callout =
                Callout { key, display: display.clone(), applicable_layer: layer, ..Callout::default() };
            engine.callout_add(session, callout).unwrap();
            objects.push((layer, key));
        }
    }
    assert_eq!(engine.close(session), Status::SUCCESS);
    objects
}

/// Random indications at the layers of both, until the drivers have lived.
fn traffic(kernel: &Kernel, processor: u32, seed: u64, is_over: &dyn Fn() -> bool) {
    let (mut traffic, mut random) = (Traffic::new(seed), Random::new(seed));
    while !is_over() {
        let shown = traffic.at(layer(random.below(LAYERS.len())));
        let level = if random.once_in(3) { Irql::PASSIVE } else { Irql::DISPATCH };
        kernel.on_processor(processor, level, |kernel| kernel.engine().classify(&shown.request()));
        schedule::note("a classify", processor.into());
    }
}

fn machine(seed: u64) -> Machine {
    Machine::new("nobody", Options { processors: 4, ..storm::options(seed) })
}

/// Two puppets, each with filters that name the callouts of both. `forgets`: one of them
/// leaves a callout registered when it is unloaded.
fn both(machine: &Machine, scheduling: Scheduling, lives: usize, forgets: bool) -> [u64; 2] {
    let (Scheduling::Deterministic { seed } | Scheduling::Parallel { seed }) = scheduling;
    let kernel = machine.kernel();
    let objects = add_objects(machine.engine());
    let (left, classified) = (AtomicUsize::new(2), [const { std::sync::atomic::AtomicU64::new(0) }; 2]);
    let is_over = || left.load(Ordering::SeqCst) == 0 || kernel.stopped().is_some();
    let mut threads = Vec::new();
    for processor in 0..2 {
        let is_over = &is_over;
        let traffic = move || traffic(kernel, processor, seed + u64::from(processor), is_over);
        threads.push(Thread::new(format!("traffic {processor}"), traffic));
    }
    for place in 0..2 {
        let mut driver = machine.driver(SERVICES[place]);
        driver.report_missing_at_call();
        let (objects, left, classified) = (&objects, &left, &classified[place]);
        threads.push(Thread::new(SERVICES[place], move || {
            let mut random = Random::new(seed ^ place as u64);
            for life in 0..lives {
                let puppet = Puppet::load(driver, place);
                let works = begin(&puppet, place, &mut random, &|| objects.clone());
                rest(random.below(60));
                end(&puppet, works, forgets && place == 1 && life + 1 == lives);
                classified.fetch_add(puppet.get(Word::Classified), Ordering::SeqCst);
                driver = puppet.unload();
            }
            left.fetch_sub(1, Ordering::SeqCst);
        }));
    }
    kernel.run_threads(scheduling, threads);
    storm::clean(kernel, machine.engine(), seed);
    classified.map(std::sync::atomic::AtomicU64::into_inner)
}

#[test]
fn two_drivers_come_and_go_with_filters_that_name_each_others_callouts() {
    let mut classified = [0, 0];
    for seed in 0..6 {
        let counts = both(&machine(seed), Scheduling::Deterministic { seed }, 3, false);
        classified = [0, 1].map(|place| classified[place] + counts[place]);
    }
    for seed in 0..2 {
        both(&machine(seed), Scheduling::Parallel { seed }, 3, false);
    }
    assert!(classified.iter().all(|count| *count > 20), "{classified:?}");
}

#[test]
fn a_callout_that_one_of_them_leaves_is_found() {
    let machine = machine(1);
    let run = || both(&machine, Scheduling::Deterministic { seed: 1 }, 2, true);
    let outcome = catch_unwind(AssertUnwindSafe(run));
    assert!(outcome.is_err(), "the second driver has left a callout: {outcome:?}");
    let stop = machine.kernel().stopped().expect("the machine has stopped");
    assert!(text(stop).contains("driver two: callout"), "{}", text(stop));
}

/// hushport's callouts at the layers, whose objects are in its dynamic session.
fn of_hushport(engine: &Engine) -> impl Iterator<Item = (Guid, Guid)> {
    let own =
        |key: &Guid| (0..2).any(|place| (0..LAYERS.len()).any(|number| *key == self::key(place, number)));
    let here = |at: &Guid| (0..LAYERS.len()).any(|number| *at == layer(number).key);
    let callouts = engine.inventory().callouts.into_iter();
    callouts
        .filter(move |it| !own(&it.key) && here(&it.applicable_layer))
        .map(|it| (it.applicable_layer, it.key))
}

/// Closed ports are silent or not, as hushport's policy says, whatever the other driver
/// does at the same layers.
#[test]
fn hushport_keeps_its_promise_beside_a_driver_that_comes_and_goes() {
    let file = Arc::new(PeFile::read(&setup::build(Target::X64).unwrap().sys).unwrap());
    let storm = |scheduling: Scheduling| {
        let (Scheduling::Deterministic { seed } | Scheduling::Parallel { seed }) = scheduling;
        let mut subject = Loaded::new(Arc::clone(&file), storm::options(seed));
        let engine = Arc::clone(subject.engine());
        // The objects of the puppet's own callouts.
        let own: Vec<_> = add_objects(&engine).into_iter().take(LAYERS.len()).collect();
        let mut driver = subject.machine.driver(SERVICES[0]);
        driver.report_missing_at_call();
        let life = move |is_over: &dyn Fn() -> bool| {
            let others = || own.iter().copied().chain(of_hushport(&engine)).collect();
            lives(driver, 0, seed, &others, is_over);
        };
        let neighbor = Neighbor { name: "another driver".to_owned(), life: Box::new(life) };
        storm::storm_beside(&mut subject, scheduling, 2, Meanwhile::Policy, vec![neighbor]);
    };
    for seed in 0..2 {
        storm(Scheduling::Deterministic { seed });
    }
    storm(Scheduling::Parallel { seed: 2 });
}
