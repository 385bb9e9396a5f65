//! What each layer takes of a walk in order, `CheckOrder` 1: with indications
//! that are in the nearest cache, with more of them than fit there, and what
//! their lines alone take.
//!
//! A walk may stop anywhere, so that what a layer takes is what its walk takes up
//! to it less what it takes up to the one before.
//!
//! A packet is new to the driver each time. Real indications are built on the
//! stack, in the same lines one after another, and so are the near ones here: two
//! packets walk in turn, and while one does, what tells the other from those
//! before is made new in its place: a word behind the ports, an endpoint's
//! handle. So nothing is written that is read soon. The others are as many as a
//! driver can be expected not to remember, each with structures of its own.

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

/// How far the numbers of the two packets are apart: neither becomes the other.
const APART: u16 = 1000;

/// Bytes of a cache line.
const LINE: u64 = 64;

/// A packet's calls, and those that make it another packet.
struct Near {
    calls: Vec<Prepared>,
    renewals: Vec<Prepared>,
}

/// Measures every walk of either family.
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
        for (at, (name, twin)) in walk.layers.iter().enumerate() {
            let name = format!("{}: {}", walk.name, layer_name(name, family, *twin));
            figures.cost(GROUP, &name, Some((near[at], null)), &costs[at]);
            for (what, times) in [("packets of their own", &new), ("their lines alone", &floor)] {
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

/// What each layer takes where packets walk in turn.
fn shares(stage: &Stage, effort: Effort, packets: &[Vec<Prepared>]) -> Result<Vec<f64>> {
    let layers = packets.first().map_or(0, Vec::len);
    let up_to = |at: usize| -> Result<f64> {
        let calls: Vec<&Prepared> = packets.iter().flat_map(|packet| &packet[..=at]).collect();
        Ok(nanoseconds(stage, effort, &calls)? / packets.len() as f64)
    };
    let times = std::iter::once(Ok(0.0)).chain((0..layers).map(up_to));
    Ok(differences(&times.collect::<Result<Vec<_>>>()?))
}

/// The same of two packets in turn, each made new while the other walks; without
/// what making them new takes by itself.
fn near(stage: &Stage, effort: Effort, walk: &Walk, family: Family, costs: &[Cost]) -> Result<Vec<f64>> {
    let pair = [Near::of(stage, walk, family, 0)?, Near::of(stage, walk, family, 1)?];
    // All of a packet's layers are made new, however far it walks: they show one
    // packet.
    let round = |layers: usize| -> Vec<&Prepared> {
        let turn = |turn: usize| pair[1 - turn].renewals.iter().chain(&pair[turn].calls[..layers]);
        (0..pair.len()).flat_map(turn).collect()
    };
    let time = |layers: usize| -> Result<f64> {
        let calls = round(layers);
        // Bytes of a stream have nothing that tells them, and need no renewal.
        if calls.is_empty() { Ok(0.0) } else { Ok(nanoseconds(stage, effort, &calls)? / pair.len() as f64) }
    };
    let times = (0..=walk.layers.len()).map(time).collect::<Result<Vec<_>>>()?;
    are_new(stage, &pair, &round(walk.layers.len()), costs)?;
    Ok(differences(&times))
}

/// Counts the first packet's next walk, which must take as much as a packet's that
/// the driver has not seen: a mark that it knows takes less where a walk begins.
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
        ensure!(here + SLACK >= there, "a packet that is not new: {here} instructions, not {there}");
    }
    Ok(())
}

/// Instructions by which walks of different marks differ, and fewer than one
/// takes to begin.
const SLACK: usize = 16;

impl Near {
    fn of(stage: &Stage, walk: &Walk, family: Family, number: u16) -> Result<Self> {
        let subject = walk.packet(family, number * APART);
        let (mut calls, mut renewals) = (Vec::new(), Vec::new());
        for (at, (name, twin)) in walk.layers.iter().enumerate() {
            let name = layer_name(name, family, *twin);
            let place = (usize::from(number) * walk.layers.len() + at) * 3;
            let call = stage.call_apart(&name, &subject, place)?;
            // Behind the ports: TCP's sequence number, UDP's length.
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

/// A callout in the driver's place that reads a word of each line that the driver
/// reads of an indication, and returns.
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

/// From each to the next.
fn differences(times: &[f64]) -> Vec<f64> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}
