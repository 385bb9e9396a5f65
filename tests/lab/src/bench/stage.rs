//! A machine with the driver, and calls of its callouts.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};

use super::indication::Subject;
use crate::machine::{Direct, Machine};
use crate::nt::fwp::prepared::Prepared;
use crate::nt::registry::RegistryValue;
use crate::nt::types::FWPS_CALLOUT3;
use crate::nt::{Kernel, Options};
use crate::setup::{self, Target};
use crate::traffic::Family;
use crate::wfp::{Change, FlowHandle, LayerInfo};

/// A running driver, its callouts found by their layers' names.
pub struct Stage {
    /// The machine.
    pub machine: Machine,
    callouts: BTreeMap<&'static str, (&'static LayerInfo, FWPS_CALLOUT3)>,
}

impl Stage {
    /// The shipping driver with these values.
    ///
    /// # Errors
    /// Where it cannot be built or does not start.
    pub fn new(options: Options, values: &[(&str, RegistryValue)]) -> Result<Self> {
        Self::bound(options, values, |_| None)
    }

    /// The same, some of its imports bound to functions themselves.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn bound(options: Options, values: &[(&str, RegistryValue)], direct: Direct) -> Result<Self> {
        let mut machine = Machine::new(options);
        machine.bind_directly(direct);
        for (name, value) in values {
            machine.set_value(name, value.clone());
        }
        machine.start(&setup::build(Target::X64)?.sys)?;
        let (engine, kernel) = (machine.engine(), machine.kernel());
        let mut callouts = BTreeMap::new();
        for change in engine.journal() {
            let Change::CalloutAdd { key, layer, .. } = change else { continue };
            let layer = engine.layer_by_key(layer).context("a layer of the tables")?;
            let callout = kernel.registered(key).context("a registered callout")?;
            callouts.insert(layer.name, (layer, callout));
        }
        Ok(Self { machine, callouts })
    }

    /// The machine's kernel.
    pub fn kernel(&self) -> &Kernel {
        self.machine.kernel()
    }

    /// The layers that the driver stands at.
    pub fn layers(&self) -> impl Iterator<Item = &'static LayerInfo> {
        self.callouts.values().map(|(layer, _)| *layer)
    }

    /// Whether the engine has a filter of the driver's at a layer, and so calls it.
    pub fn has_filter(&self, layer: &LayerInfo) -> bool {
        let journal = self.machine.engine().journal();
        journal.iter().any(|change| matches!(change, Change::FilterAdd { layer: at, .. } if *at == layer.key))
    }

    /// A call of the driver's callout at a layer, with a subject as that layer
    /// shows it.
    ///
    /// # Errors
    /// If the driver has none there.
    pub fn call(&self, layer: &str, subject: &Subject) -> Result<Prepared> {
        let (info, callout) = self.callouts.get(layer).with_context(|| format!("no callout at {layer}"))?;
        Ok(Prepared::new(self.kernel(), callout, &subject.at(info).request()))
    }

    /// Calls at layers in turn, each its name and whether its twin is meant, with
    /// the contexts of the subject's flow.
    ///
    /// # Errors
    /// If the driver has no callout at one of them.
    pub fn walk(&self, subject: &Subject, layers: &[(&str, bool)]) -> Result<Vec<Prepared>> {
        let mut calls = Vec::new();
        for (name, discard) in layers {
            let layer = layer_name(name, subject.family, *discard);
            let call = self.call(&layer, subject)?;
            let context = subject.flow.and_then(|flow| self.contexts(&layer).get(&flow).copied());
            calls.push(match context {
                Some(context) => call.with_flows(vec![context]),
                None => call,
            });
        }
        Ok(calls)
    }

    /// Begins a flow.
    ///
    /// # Errors
    /// If the driver stopped.
    pub fn begin_flow(&self, subject: &Subject) -> Result<FlowHandle> {
        let engine = self.machine.engine();
        let flow = engine.flow_create();
        let name = format!("ALE_FLOW_ESTABLISHED_{:?}", subject.family);
        let layer = engine.layer_by_name(&name).context("a layer of the tables")?;
        let begun = Subject { flow: Some(flow), ..subject.clone() };
        engine.classify(&begun.at(layer).request());
        match self.kernel().stopped() {
            None => Ok(flow),
            Some(stop) => Err(anyhow!("{stop}")),
        }
    }

    /// The contexts that the driver has at a layer, by flow.
    pub fn contexts(&self, layer: &str) -> BTreeMap<FlowHandle, u64> {
        let Some((info, _)) = self.callouts.get(layer) else { return BTreeMap::new() };
        let contexts = self.machine.engine().flow_contexts().into_iter();
        contexts.filter(|(_, at, _)| *at == info.id).map(|(flow, _, context)| (flow, context)).collect()
    }
}

/// The name of a layer of a family.
pub fn layer_name(name: &str, family: Family, discard: bool) -> String {
    format!("{name}_{family:?}{}", if discard { "_DISCARD" } else { "" })
}

/// The family that a layer's name has.
pub fn family_of(name: &str) -> Family {
    if name.contains("_V6") { Family::V6 } else { Family::V4 }
}
