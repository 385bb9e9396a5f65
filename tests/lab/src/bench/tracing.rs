//! Measures events: each `Trace`, with a session that listens and without.
//!
//! While time is measured, `EtwWriteTransfer` only counts the event
//! ([`super::direct`]). So the figures hold the cost of building an event, but not
//! of what the system does with it. Of verdict and classify events a limited number
//! is written per second and the rest is suppressed; the costs of both differ. So
//! time is measured twice: with so few events per second that each is written, and
//! at full speed, where almost all are suppressed. The numbers of written and
//! suppressed events are reported, too.

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

/// Verdicts and classifies (docs/EVENTS.md): the events that a packet can cause.
const KEYWORDS: u64 = 0x4 | 0x20;

/// Classifies per second at which each event is written: half of the limit for
/// verdicts.
const FEW: u64 = 500;

/// Classifies per second at which nearly all events are suppressed.
const MANY: u64 = 1_000_000;

/// The setting in words.
pub(super) fn name(trace: u32, listened: bool) -> String {
    let session = if listened { "a session listens" } else { "no session" };
    format!("Trace {trace}, {session}")
}

/// A session that enables every event that a packet can cause.
pub(super) fn session(stage: &Stage) -> Trace {
    let filter = Filter { level: 0, any: KEYWORDS, all: 0 };
    let enable = Enable { provider: EVENT_PROVIDER, filter, zero: ZeroKeyword::AsAll };
    stage.machine.kernel().trace(enable, None)
}

/// Adds the figures; `null` is the time of the null callout.
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

/// Measures while each event is written. Returns the number of events for each
/// classify.
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

/// Measures at full speed. Returns how many events were written and suppressed.
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
    let suppressed = (rounds * events).checked_sub(written);
    ensure!(suppressed.is_some(), "{name}: {written} events of {rounds} classifies");
    let of_so_many = |count: u64| (count * MANY / rounds) as f64;
    let group = format!("events, {MANY} classifies a second");
    figures.add(&format!("{group}: time"), name, "ns", time);
    figures.add(&format!("{group}: written"), name, "events", of_so_many(written));
    figures.add(&format!("{group}: suppressed"), name, "events", of_so_many(suppressed.unwrap_or(0)));
    Ok(())
}
