//! Measures each layer of a walk in order, with `CheckOrder` 1.
//!
//! There are three measurements: with indications that are in the nearest cache,
//! with more of them than fit there, and the time that reading their lines takes by
//! itself.
//!
//! A walk may stop anywhere. So the time of a layer is the time of the walk up to
//! it minus the time up to the layer before.
//!
//! The driver must see a new packet each time. The system builds indications on the
//! stack, in the same lines one after the other, and so does the near measurement.
//! Two packets walk in turn. While one walks, the other one is renewed in place: a
//! word after the ports or the handle of an endpoint changes. So nothing is read
//! soon after it was written. In the far measurement there are as many packets as a
//! driver can be expected not to remember, each in memory of its own.

use std::collections::BTreeSet;

use anyhow::{Context, Result, anyhow, ensure};
use machine::image;
use machine::nt::Irql;
use machine::nt::fwp::prepared::{self, Prepared};

use super::count::{self, Cost};
use super::figures::{Figures, checked, number, timed};
use super::stage::{Stage, layer_name};
use super::time::{Effort, nanoseconds};
use super::walks::{WALKS, Walk};
use crate::traffic::Family;

const GROUP: &str = "each layer in order, CheckOrder 1";

/// The distance between the numbers of the two packets, so that neither becomes the
/// other.
const APART: u16 = 1000;

/// The size of a cache line in bytes.
const LINE: u64 = 64;

/// The calls of a packet, and the changes that renew it.
struct Near {
    calls: Vec<Prepared>,
    renewals: Vec<Prepared>,
}

/// Measures every walk of both families.
pub(super) fn take(figures: &mut Figures, effort: Effort, null: f64) -> Result<()> {
    let values = [number("CheckOrder", 1)];
    let (stage, counted) = (timed(&values)?, checked(&values)?);
    for (walk, family) in WALKS.iter().flat_map(|walk| [Family::V4, Family::V6].map(|family| (walk, family)))
    {
        let costs = count::costs(&counted, Irql::DISPATCH, &walk.packets(&counted, family)?)?;
        let near = near(&stage, effort, walk, family, &costs)?;
        let packets = walk.packets(&stage, family)?;
        let new = shares(&stage, effort, &packets)?;
        let floor = shares(&stage, effort, &floor(&stage, packets)?)?;
        for (at, (name, discard)) in walk.layers.iter().enumerate() {
            let name = format!("{}: {}", walk.name, layer_name(name, family, *discard));
            figures.cost(GROUP, &name, Some((near[at], null)), &costs[at]);
            for (what, times) in [("far structures", &new), ("lines of far structures alone", &floor)] {
                figures.add(&format!("{GROUP}, {what}: time"), &name, "ns", times[at]);
                figures.add(
                    &format!("{GROUP}, {what}: times the null callout"),
                    &name,
                    "x",
                    times[at] / null,
                );
            }
        }
    }
    Ok(())
}

/// The time of each layer if packets walk in turn.
fn shares(stage: &Stage, effort: Effort, packets: &[Vec<Prepared>]) -> Result<Vec<f64>> {
    let layers = packets.first().map_or(0, Vec::len);
    let up_to = |at: usize| -> Result<f64> {
        let calls: Vec<&Prepared> = packets.iter().flat_map(|packet| &packet[..=at]).collect();
        Ok(nanoseconds(stage, effort, &calls)? / packets.len() as f64)
    };
    let times = std::iter::once(Ok(0.0)).chain((0..layers).map(up_to));
    Ok(differences(&times.collect::<Result<Vec<_>>>()?))
}

/// The time of each layer if two packets walk in turn and each is renewed while the
/// other one walks. The time of the renewal is subtracted.
fn near(stage: &Stage, effort: Effort, walk: &Walk, family: Family, costs: &[Cost]) -> Result<Vec<f64>> {
    let pair = [Near::of(stage, walk, family, 0)?, Near::of(stage, walk, family, 1)?];
    // A renewal changes the packet at all layers, even if its walk is shorter,
    // because they show one packet.
    let round = |layers: usize| -> Vec<&Prepared> {
        let turn = |turn: usize| pair[1 - turn].renewals.iter().chain(&pair[turn].calls[..layers]);
        (0..pair.len()).flat_map(turn).collect()
    };
    let time = |layers: usize| -> Result<f64> {
        let calls = round(layers);
        // Stream data do not identify a packet, so they are not renewed.
        if calls.is_empty() { Ok(0.0) } else { Ok(nanoseconds(stage, effort, &calls)? / pair.len() as f64) }
    };
    let times = (0..=walk.layers.len()).map(time).collect::<Result<Vec<_>>>()?;
    are_new(stage, &pair, &round(walk.layers.len()), costs)?;
    Ok(differences(&times))
}

/// Counts the next walk of the first packet. It must take as many instructions as
/// that of a new packet, because a known mark takes fewer where a walk begins.
fn are_new(stage: &Stage, pair: &[Near; 2], round: &[&Prepared], costs: &[Cost]) -> Result<()> {
    let image = stage.machine.image().context("a driver")?;
    let counted = stage.kernel().on_processor(0, Irql::DISPATCH, |kernel| {
        prepared::run(kernel, round, 3, 0)?;
        pair[0]
            .calls
            .iter()
            .map(|call| prepared::count(kernel, image, &[call]))
            .collect::<Result<Vec<_>, _>>()
    });
    for (trace, cost) in counted.map_err(|stop| anyhow!("{stop}"))?.iter().zip(costs) {
        let (here, there) = (trace.instructions.len(), cost.instructions);
        ensure!(here + SLACK >= there, "a packet that is not new: {here} instructions, expected {there}");
    }
    Ok(())
}

/// The difference between walks of different marks, in instructions. It is smaller
/// than the cost of beginning a walk.
const SLACK: usize = 16;

impl Near {
    fn of(stage: &Stage, walk: &Walk, family: Family, number: u16) -> Result<Self> {
        let subject = walk.packet(family, number * APART);
        let (mut calls, mut renewals) = (Vec::new(), Vec::new());
        for (at, (name, discard)) in walk.layers.iter().enumerate() {
            let name = layer_name(name, family, *discard);
            let place = (usize::from(number) * walk.layers.len() + at) * 3;
            let call = stage.call_apart(&name, &subject, place)?;
            // After the ports: TCP's sequence number, UDP's length.
            let packet =
                subject.is_shown_at(stage.layer(&name)?).then(|| call.packet_byte(subject.upper() - 4));
            let endpoint = name.starts_with("ALE").then(|| call.endpoint());
            let words = packet.into_iter().chain(endpoint).enumerate();
            let renew = |(word, address): (usize, u64)| -> Result<Prepared> {
                let call = stage.call_apart(&name, &subject, place + 1 + word)?;
                Ok(call.with_entry(image::touch as *const () as usize).with_flows(vec![address]))
            };
            for word in words {
                renewals.push(renew(word)?);
            }
            calls.push(call);
        }
        Ok(Self { calls, renewals })
    }
}

/// A callout in place of the driver's that reads a word of each line that the
/// driver reads, and returns.
fn floor(stage: &Stage, packets: Vec<Vec<Prepared>>) -> Result<Vec<Vec<Prepared>>> {
    let image = stage.machine.image().context("a driver")?;
    let of = |call: Prepared| -> Result<Prepared> {
        let trace = stage
            .kernel()
            .on_processor(0, Irql::DISPATCH, |kernel| prepared::count(kernel, image, &[&call]))
            .map_err(|stop| anyhow!("{stop}"))?;
        let read = trace.accesses.iter().filter(|access| call.contains(access.address));
        let lines: BTreeSet<u64> = read.map(|access| access.address / LINE).collect();
        Ok(call.with_words_read(lines.into_iter().map(|line| line * LINE).collect()))
    };
    packets.into_iter().map(|packet| packet.into_iter().map(of).collect()).collect()
}

/// The differences of neighbors.
fn differences(times: &[f64]) -> Vec<f64> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}
