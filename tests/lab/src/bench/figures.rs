//! Takes every measurement in one run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use machine::image;
use machine::nt::fwp::prepared::Prepared;
use machine::nt::registry::RegistryValue;
use machine::nt::{Irql, Options};
use serde::{Deserialize, Serialize};

use super::cases::{Set, prefixes};
use super::count::{self, Cost};
use super::direct;
use super::indication::Subject;
use super::stage::{Stage, family_of, layer_name};
use super::time::{Effort, median, nanoseconds, rates, through_engine};
use crate::traffic::Family;

/// A measured number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its group; each group is one plot.
    pub group: String,
    /// The name of what was measured.
    pub name: String,
    /// The unit: `ns`, `instructions`, ...
    pub unit: String,
    /// The number.
    pub value: f64,
}

/// All figures, in the order in which they were taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The list.
    pub figures: Vec<Figure>,
}

impl Figures {
    pub(super) fn add(&mut self, group: &str, name: impl Into<String>, unit: &str, value: f64) {
        let (group, unit) = (group.to_owned(), unit.to_owned());
        self.figures.push(Figure { group, name: name.into(), unit, value });
    }

    /// Takes all figures; `most_flows` is the maximum number of flows.
    ///
    /// # Errors
    /// If the driver cannot be built, or stops.
    pub fn take(effort: Effort, most_flows: u32, say: impl Fn(&str)) -> Result<Self> {
        let mut figures = Self::default();
        say("every layer");
        let base = figures.null(effort)?;
        figures.layers(effort, base)?;
        figures.engine(effort)?;
        say("every layer, in order");
        super::order::take(&mut figures, effort, base)?;
        say("policies");
        figures.policies(effort, base)?;
        say("every layer under every policy");
        super::policies::take(&mut figures, effort)?;
        say("events");
        super::tracing::take(&mut figures, effort, base)?;
        say("the native build under callgrind");
        super::native::take(&mut figures)?;
        say("1 to 512 processors");
        super::native::take_processors(&mut figures)?;
        say("walks");
        figures.walks(effort)?;
        figures.flood(effort)?;
        say("flows");
        super::flows::take(&mut figures, effort, most_flows)?;
        say("two processors");
        figures.processors(effort)?;
        say("the sandbox");
        super::sandboxed::take(&mut figures, effort)?;
        say("memory, load and unload");
        figures.memory()?;
        figures.life(effort)?;
        figures.sections()?;
        Ok(figures)
    }

    /// Measures the loop with a callout that returns at once.
    fn null(&mut self, effort: Effort) -> Result<f64> {
        let stage = timed(&[])?;
        let null = image::nothing as *const () as usize;
        let call = stage.call("INBOUND_TRANSPORT_V4", &Subject::syn(Family::V4))?.with_entry(null);
        let time = nanoseconds(&stage, effort, &[&call])?;
        self.add("null callout", "returns at once", "ns", time);
        Ok(time)
    }

    /// Measures each layer: time, ratio to the null callout, and counts.
    fn layers(&mut self, effort: Effort, null: f64) -> Result<()> {
        let (stage, counted) = (timed(&[])?, checked(&[])?);
        for layer in stage.layers() {
            let time = nanoseconds(&stage, effort, &[&at_layer(&stage, layer.name)?])?;
            let cost = count::cost(&counted, Irql::DISPATCH, &[&at_layer(&counted, layer.name)?])?;
            self.cost("each layer", layer.name, Some((time, null)), &cost);
        }
        Ok(())
    }

    /// Measures classifies through the lab's engine.
    fn engine(&mut self, effort: Effort) -> Result<()> {
        let stage = checked(&[])?;
        for name in ["INBOUND_IPPACKET_V4", "INBOUND_TRANSPORT_V4_DISCARD"] {
            let indication = common(name).at(stage.layer(name)?);
            let time = through_engine(&stage, effort, &indication)?;
            self.add("a classify through the lab's engine", name, "ns", time);
        }
        Ok(())
    }

    pub(super) fn cost(&mut self, group: &str, name: &str, time: Option<(f64, f64)>, cost: &Cost) {
        if let Some((time, null)) = time {
            self.add(&format!("{group}: time"), name, "ns", time);
            self.add(&format!("{group}: times the null callout"), name, "x", time / null);
        }
        self.add(&format!("{group}: instructions"), name, "instructions", cost.instructions as f64);
        self.add(&format!("{group}: locked instructions"), name, "locks", cost.locked as f64);
        self.add(&format!("{group}: shared lines written"), name, "lines", cost.shared_writes as f64);
    }

    /// Measures a SYN at its discard layer, under different policies.
    fn policies(&mut self, effort: Effort, null: f64) -> Result<()> {
        let mut cases: Vec<(String, Vec<Set>)> = Vec::new();
        for mode in 0..3 {
            cases.push((format!("Mode {mode}"), vec![number("Mode", mode)]));
        }
        for length in [10, 1000] {
            cases.push((format!("{length} exempt prefixes"), vec![prefixes(length)]));
        }
        for observe in 0..2 {
            cases.push((format!("Observe {observe}"), vec![number("Observe", observe)]));
        }
        for (name, values) in cases {
            for family in [Family::V4, Family::V6] {
                let layer = layer_name("INBOUND_TRANSPORT", family, true);
                let (stage, counted) = (timed(&values)?, checked(&values)?);
                let syn = Subject::syn(family);
                let time = nanoseconds(&stage, effort, &[&stage.call(&layer, &syn)?])?;
                let cost = count::cost(&counted, Irql::DISPATCH, &[&counted.call(&layer, &syn)?])?;
                self.cost(
                    "a SYN at its discard layer",
                    &format!("{name}, {family:?}"),
                    Some((time, null)),
                    &cost,
                );
            }
        }
        Ok(())
    }

    /// Measures all layers that a packet passes, one after another.
    fn walks(&mut self, effort: Effort) -> Result<()> {
        for order in [0, 1] {
            for family in [Family::V4, Family::V6] {
                let stage = timed(&[number("CheckOrder", order)])?;
                let name = format!("{family:?}, CheckOrder {order}");
                let syn = stage.walk(
                    &Subject::syn(family),
                    &[("INBOUND_IPPACKET", false), ("INBOUND_TRANSPORT", true)],
                )?;
                self.add(
                    "inbound walk",
                    format!("scanned SYN, {name}"),
                    "ns",
                    nanoseconds(&stage, effort, &refs(&syn))?,
                );
                let flow = stage.begin_flow(&Subject::data(family, machine::wfp::FlowHandle(1)))?;
                let layers = [("INBOUND_IPPACKET", false), ("INBOUND_TRANSPORT", false), ("STREAM", false)];
                let data = stage.walk(&Subject::data(family, flow), &layers)?;
                self.add(
                    "inbound walk",
                    format!("data segment, {name}"),
                    "ns",
                    nanoseconds(&stage, effort, &refs(&data))?,
                );
            }
        }
        Ok(())
    }

    /// Measures SYNs, and data of flows, on two processors at the same time.
    fn processors(&mut self, effort: Effort) -> Result<()> {
        let stage = timed(&[])?;
        let (discard, transport) = ("INBOUND_TRANSPORT_V4_DISCARD", "INBOUND_TRANSPORT_V4");
        let syns = |remote| stage.call(discard, &Subject { remote, ..Subject::syn(Family::V4) });
        let pair = [syns(1)?, syns(9)?];
        self.pair(&stage, effort, "scanned SYNs", &pair)?;
        let subject = Subject::data(Family::V4, machine::wfp::FlowHandle(1));
        let mut data = Vec::new();
        for _ in 0..2 {
            let flow = stage.begin_flow(&subject)?;
            let context = *stage.contexts(transport).get(&flow).context("a context of the flow")?;
            data.push((flow, context));
        }
        let segment = |(flow, context): (_, u64)| -> Result<Prepared> {
            Ok(stage.call(transport, &Subject::data(Family::V4, flow))?.with_flows(vec![context]))
        };
        self.pair(&stage, effort, "data of two flows", &[segment(data[0])?, segment(data[1])?])?;
        self.pair(&stage, effort, "data of one flow", &[segment(data[0])?, segment(data[0])?])
    }

    fn pair(&mut self, stage: &Stage, effort: Effort, name: &str, calls: &[Prepared; 2]) -> Result<()> {
        let (one, two) = rates(stage, effort, [&[&calls[0]], &[&calls[1]]])?;
        self.add("packets a second", format!("{name}, one processor"), "1/s", one);
        self.add("packets a second", format!("{name}, two processors"), "1/s", two.rate);
        self.add("two processors to one", name, "x", two.rate / one);
        self.add("two processors: time both ran", name, "share", two.together);
        Ok(())
    }

    /// Measures SYNs of more remotes in turn than a processor remembers.
    fn flood(&mut self, effort: Effort) -> Result<()> {
        const REMOTES: u32 = 1024;
        let stage = timed(&[])?;
        let layer = "INBOUND_TRANSPORT_V4_DISCARD";
        let syn = |remote| stage.call(layer, &Subject { remote, ..Subject::syn(Family::V4) });
        let calls = (1..=REMOTES).map(syn).collect::<Result<Vec<_>>>()?;
        let time = nanoseconds(&stage, effort, &refs(&calls))? / f64::from(REMOTES);
        self.add(
            "inbound walk",
            format!("a SYN of one of {REMOTES} remotes, discard layer only"),
            "ns",
            time,
        );
        Ok(())
    }

    /// Measures pool memory: in total, for a flow, and for each processor if flows
    /// are watched.
    fn memory(&mut self) -> Result<()> {
        const LIMITS: [u32; 2] = [16_384, 65_536];
        let held = |limit| -> Result<f64> {
            let stage = checked(&[number("FlowLimit", limit)])?;
            Ok(stage.kernel().pool().bytes().0 as f64)
        };
        let possible = Options { possible: 64, ..Options::default() };
        let values = with_base(&[number("FlowLimit", 0)]);
        let of_possible = Stage::new(possible, &values)?.kernel().pool().bytes().0 as f64;
        let (none, some, many) = (held(0)?, held(LIMITS[0])?, held(LIMITS[1])?);
        let processors = f64::from(Options::default().processors);
        let flow = (many - some) / f64::from(LIMITS[1] - LIMITS[0]);
        self.add("nonpaged pool", format!("without flows, {processors} processors"), "bytes", none);
        let name = format!("without flows, {processors} of 64 possible processors");
        self.add("nonpaged pool", name, "bytes", of_possible);
        self.add("nonpaged pool", format!("FlowLimit {}", LIMITS[1]), "bytes", many);
        self.add("nonpaged pool for flows", "each in the limit", "bytes", flow);
        let rest = some - none - flow * f64::from(LIMITS[0]);
        self.add("nonpaged pool for flows", "each processor", "bytes", rest / processors);
        Ok(())
    }

    fn life(&mut self, effort: Effort) -> Result<()> {
        let (mut loads, mut unloads) = (Vec::new(), Vec::new());
        for _ in 0..effort.runs {
            let begin = Instant::now();
            let mut stage = checked(&[])?;
            loads.push(millis(begin.elapsed()));
            let begin = Instant::now();
            stage.machine.stop().map_err(|stop| anyhow::anyhow!("{stop}"))?;
            unloads.push(millis(begin.elapsed()));
        }
        self.add("load and unload, in the lab", "load", "ms", median(loads));
        self.add("load and unload, in the lab", "unload", "ms", median(unloads));
        Ok(())
    }

    fn sections(&mut self) -> Result<()> {
        let stage = checked(&[])?;
        let file = stage.machine.image().context("a driver")?.file();
        for section in &file.sections {
            self.add(
                "hushport.sys",
                section.name.as_str(),
                "bytes",
                f64::from(section.range.end - section.range.start),
            );
        }
        Ok(())
    }
}

pub(super) fn at_layer(stage: &Stage, name: &str) -> Result<Prepared> {
    stage.call(name, &common(name))
}

/// The most common packet of a layer.
pub(super) fn common(name: &str) -> Subject {
    let family = family_of(name);
    match name {
        _ if name.contains("ICMP_ERROR") || name.contains("IPPACKET") && name.ends_with("_DISCARD") => {
            Subject::datagram(family)
        }
        _ if name.ends_with("_DISCARD") => Subject::syn(family),
        _ => Subject { flow: None, ..Subject::data(family, machine::wfp::FlowHandle(1)) },
    }
}

fn refs(calls: &[Prepared]) -> Vec<&Prepared> {
    calls.iter().collect()
}

/// The measured driver: it enforces and observes, with these values.
pub(super) fn timed(values: &[Set]) -> Result<Stage> {
    Stage::bound(Options::default(), &with_base(values), direct::function)
}

/// The driver with all imports checked, for counting.
pub(super) fn checked(values: &[Set]) -> Result<Stage> {
    Stage::new(Options::default(), &with_base(values))
}

fn with_base(values: &[Set]) -> Vec<Set> {
    // No time window ends while packets are counted.
    let base = [number("Mode", 2), number("Observe", 1), number("ScanWindowMs", 3_600_000)];
    base.into_iter().chain(values.iter().cloned()).collect()
}

pub(super) fn number(name: &'static str, value: u32) -> Set {
    (name, RegistryValue::dword(value))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
