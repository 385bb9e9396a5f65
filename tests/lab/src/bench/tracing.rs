//! What events cost: each `Trace`, with a session that listens and without.
//!
//! While time is measured `EtwWriteTransfer` only counts the event
//! ([`super::direct`]), so what the system does with one is not in the figures;
//! making it is. Verdicts and classifies are events of which so many a second
//! are written and the rest held back, and the two cost differently. So time is
//! taken twice: so few in each second that each is written, and as many as go,
//! where after the first moment all are held back. How many were is said beside
//! it, from what was counted at the same time.

use anyhow::{Result, ensure};
use machine::etw::{Enable, Filter, ZeroKeyword};
use machine::image;
use machine::nt::fwp::prepared::Prepared;
use machine::nt::{Irql, Trace};

use super::count;
use super::figures::{Figures, checked, number, timed};
use super::indication::Subject;
use super::stage::{Stage, layer_name};
use super::time::{Batch, Effort, batches};
use crate::hushport::EVENT_PROVIDER;
use crate::traffic::Family;

/// Verdicts and classifies (docs/EVENTS.md): what a packet may bring about.
const KEYWORDS: u64 = 0x4 | 0x20;

/// Classifies of a second in which each event is written: half of what is
/// allowed of verdicts.
const FEW: u64 = 500;

/// Classifies of a second in which nearly all are held back.
const MANY: u64 = 1_000_000;

/// What is set, in words.
pub(super) fn name(trace: u32, listened: bool) -> String {
    let session = if listened { "a session listens" } else { "no session" };
    format!("Trace {trace}, {session}")
}

/// One that wants everything that a packet may bring about.
pub(super) fn session(stage: &Stage) -> Trace {
    let filter = Filter { level: 0, any: KEYWORDS, all: 0 };
    let enable = Enable { provider: EVENT_PROVIDER, filter, zero: ZeroKeyword::AsAll };
    stage.machine.kernel().trace(enable, None)
}

/// Takes the figures; `null` is the null callout's time.
pub(super) fn take(figures: &mut Figures, effort: Effort, null: f64) -> Result<()> {
    for trace in 0..3 {
        for listened in [false, true] {
            let values = [number("Trace", trace)];
            let (stage, counted) = (timed(&values)?, checked(&values)?);
            let _sessions = listened.then(|| [session(&stage), session(&counted)]);
            for family in [Family::V4, Family::V6] {
                for (what, layer, discard) in
                    [("observing", "INBOUND_IPPACKET", false), ("silenced SYN", "INBOUND_TRANSPORT", true)]
                {
                    let (layer, syn) = (layer_name(layer, family, discard), Subject::syn(family));
                    let name = format!("{what}, {}, {family:?}", name(trace, listened));
                    let call = stage.call(&layer, &syn)?;
                    let (time, events) = paced(figures, &name, (&stage, effort), &call)?;
                    let cost = count::cost(&counted, Irql::DISPATCH, &[&counted.call(&layer, &syn)?])?;
                    figures.cost("events, each written", &name, Some((time, null)), &cost);
                    flood(figures, &name, (&stage, effort), &call, events)?;
                }
            }
        }
    }
    Ok(())
}

/// Each event is written; how many of them a classify has.
fn paced(
    figures: &mut Figures,
    name: &str,
    (stage, effort): (&Stage, Effort),
    call: &Prepared,
) -> Result<(f64, u64)> {
    let before = image::events_written();
    let batch = Batch { rounds: FEW, apart_ms: 1000 };
    let (time, rounds) = batches(stage, effort, &[call], batch)?;
    let written = image::events_written() - before;
    ensure!(written.is_multiple_of(rounds), "{name}: {written} events of {rounds} classifies");
    figures.add("events, each written: of a classify", name, "events", (written / rounds) as f64);
    Ok((time, written / rounds))
}

/// As many as go, and how many of their events were written and held back.
fn flood(
    figures: &mut Figures,
    name: &str,
    (stage, effort): (&Stage, Effort),
    call: &Prepared,
    events: u64,
) -> Result<()> {
    let before = image::events_written();
    let (time, rounds) = batches(stage, effort, &[call], Batch { rounds: MANY, apart_ms: 1000 })?;
    let written = image::events_written() - before;
    let held_back = (rounds * events).checked_sub(written);
    ensure!(held_back.is_some(), "{name}: {written} events of {rounds} classifies");
    let of_so_many = |count: u64| (count * MANY / rounds) as f64;
    let group = format!("events, {MANY} classifies a second");
    figures.add(&format!("{group}: time"), name, "ns", time);
    figures.add(&format!("{group}: written"), name, "events", of_so_many(written));
    figures.add(&format!("{group}: held back"), name, "events", of_so_many(held_back.unwrap_or(0)));
    Ok(())
}
