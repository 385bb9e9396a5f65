//! What a classify costs in instructions, locks and shared lines: counted on
//! the shipping image, the same on every machine.

use lab::bench::count::{Cost, cost};
use lab::bench::indication::Subject;
use lab::bench::stage::{Stage, family_of};
use lab::nt::registry::RegistryValue;
use lab::nt::{Irql, Options};

fn stage(values: &[(&str, u32)]) -> Stage {
    let values: Vec<_> = values.iter().map(|(name, value)| (*name, RegistryValue::dword(*value))).collect();
    Stage::new(Options::default(), &values).unwrap()
}

fn at(stage: &Stage, layer: &str, subject: &Subject, irql: Irql) -> Cost {
    let call = stage.call(layer, subject).unwrap();
    cost(stage, irql, &[&call]).unwrap()
}

#[test]
fn every_layer() {
    for order in [0, 1] {
        let stage = stage(&[("Observe", 1), ("Mode", 2), ("CheckOrder", order)]);
        for layer in stage.layers() {
            let family = family_of(layer.name);
            let flow = stage.begin_flow(&Subject::syn(family)).unwrap();
            let subject = if layer.is_discard() { Subject::syn(family) } else { Subject::data(family, flow) };
            let cost = at(&stage, layer.name, &subject, Irql::DISPATCH);
            if std::env::var("PROFILE").is_ok_and(|name| name == layer.name) {
                let mut all: Vec<_> = cost.by_function.iter().collect();
                all.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
                for (name, count) in all {
                    println!("  {count:5} {name}");
                }
            }
            println!(
                "{:34} {order} {:4} {:2} {:2} {:?} {:?}",
                layer.name, cost.instructions, cost.locked, cost.shared_writes, cost.exports, cost.places
            );
        }
    }
}

#[test]
#[ignore]
fn dump() {
    use lab::nt::fwp::prepared;
    let stage = stage(&[("Observe", 1), ("Mode", 2)]);
    let layer = std::env::var("PROFILE").unwrap();
    let call = stage.call(&layer, &Subject::syn(family_of(&layer))).unwrap();
    let image = stage.machine.image().unwrap();
    stage.kernel().on_processor(0, Irql::DISPATCH, |kernel| {
        prepared::run(kernel, &[&call], 3, 0).unwrap();
        let trace = prepared::count(kernel, image, &[&call]).unwrap();
        for at in trace.instructions {
            println!("@{:x}", image.rva(at).unwrap());
        }
    });
}
