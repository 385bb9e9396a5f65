//! Measures what many flows cost, beside the cost of memory itself.
//!
//! Packets in random order each belong to a random flow, as in a driver that has
//! many flows. There are two measurements: packets of a thousand flows while more
//! and more flows are established, and packets of all flows. The latter wait for
//! memory, whatever the code does. The minimum time for that is measured, too: a
//! callout that only increments a word for each flow, in the same loop and order.

use anyhow::{Result, ensure};
use machine::image;
use machine::schedule::Random;

use super::figures::{Figures, number, timed};
use super::indication::Subject;
use super::stage::Stage;
use super::time::{Effort, nanoseconds};
use crate::traffic::Family;

const LAYER: &str = "INBOUND_TRANSPORT_V4";

/// The number of active flows if not all are active.
const ACTIVE: usize = 1 << 10;

/// The number of packets before the order repeats: more than the largest cache has
/// lines.
const PACKETS: usize = 1 << 20;

/// The sizes of a record that holds only a word, in bytes: one for each line, and
/// four in a line.
const RECORDS: [usize; 2] = [64, 16];

/// Adds the figures for up to `most` flows.
pub fn take(figures: &mut Figures, effort: Effort, most: u32) -> Result<()> {
    let stage = timed(&[number("FlowLimit", most)])?;
    let subject = Subject::data(Family::V4, machine::wfp::FlowHandle(1));
    let none = nanoseconds(&stage, effort, &[&stage.call(LAYER, &subject)?])?;
    figures.add("flows, packets in random order", "a packet without flow", "ns", none);
    let mut begun = 0;
    for count in [1 << 10, 1 << 14, 1 << 17, 1 << 20_u32].into_iter().filter(|count| *count <= most) {
        while begun < count {
            stage.begin_flow(&subject)?;
            begun += 1;
        }
        let mut flows: Vec<u64> = stage.contexts(LAYER).into_values().collect();
        ensure!(flows.len() == count as usize, "{} of {count} flows have a context", flows.len());
        let random = &mut Random::new(u64::from(count));
        shuffle(&mut flows, random);
        let some = time(&stage, effort, &subject, packets(&flows[..ACTIVE], random), None)?;
        figures.add("flows, packets in random order", format!("{ACTIVE} of {count}"), "ns", some);
        let all = time(&stage, effort, &subject, packets(&flows, random), None)?;
        figures.add("flows, packets in random order", format!("all of {count}"), "ns", all);
        for bytes in RECORDS {
            let floor = floor(&stage, effort, &subject, flows.len(), bytes)?;
            let name = format!("all of {count}, a word in {bytes} bytes each");
            figures.add("flows, memory alone", name, "ns", floor);
        }
    }
    Ok(())
}

/// The time of a callout that only touches a record for each flow.
fn floor(stage: &Stage, effort: Effort, subject: &Subject, flows: usize, bytes: usize) -> Result<f64> {
    // All are written once, so that the pages exist.
    let mut records = vec![1_u64; flows * bytes / size_of::<u64>()];
    let start = records.as_mut_ptr().expose_provenance() as u64;
    let places: Vec<u64> = (0..flows as u64).map(|at| start + at * bytes as u64).collect();
    let packets = packets(&places, &mut Random::new(flows as u64));
    let time = time(stage, effort, subject, packets, Some(image::touch as *const () as usize))?;
    ensure!(records.iter().any(|word| *word != 1), "the callout touched no record");
    Ok(time)
}

/// Packets of random flows among these.
fn packets(flows: &[u64], random: &mut Random) -> Vec<u64> {
    (0..PACKETS).map(|_| flows[random.below(flows.len())]).collect()
}

fn shuffle(flows: &mut [u64], random: &mut Random) {
    for at in (1..flows.len()).rev() {
        flows.swap(at, random.below(at + 1));
    }
}

/// The time of packets with these contexts in turn, for the driver or another
/// callout.
fn time(
    stage: &Stage,
    effort: Effort,
    subject: &Subject,
    contexts: Vec<u64>,
    callout: Option<usize>,
) -> Result<f64> {
    let call = stage.call(LAYER, subject)?.with_flows(contexts);
    let call = match callout {
        Some(entry) => call.with_entry(entry),
        None => call,
    };
    nanoseconds(stage, effort, &[&call])
}
