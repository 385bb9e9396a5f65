//! The callouts of a running driver, and calls of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use machine::nt::Kernel;
use machine::nt::fwp::prepared::Prepared;
use machine::nt::types::FWPS_CALLOUT3;
use machine::wfp::{Change, Engine, FlowHandle, LayerInfo};

use super::indication::Subject;
use crate::traffic::Family;

/// ACK (RFC 9293, 3.1).
const ACK: u8 = 0x10;

/// The callouts of the driver on a machine, by the names of their layers.
pub struct Callouts {
    kernel: Arc<Kernel>,
    engine: Arc<Engine>,
    callouts: BTreeMap<&'static str, (&'static LayerInfo, FWPS_CALLOUT3)>,
}

impl Callouts {
    /// The callouts that the driver has added.
    ///
    /// # Errors
    /// If one of them is not registered, or is added at no layer.
    pub fn of(kernel: &Arc<Kernel>, engine: &Arc<Engine>) -> Result<Self> {
        let mut callouts = BTreeMap::new();
        for change in engine.journal() {
            let Change::CalloutAdd { key, layer, .. } = change else { continue };
            let layer = engine.layer_by_key(layer).context("a layer of the tables")?;
            let callout = kernel.registered(key).context("a registered callout")?;
            callouts.insert(layer.name, (layer, callout));
        }
        Ok(Self { kernel: Arc::clone(kernel), engine: Arc::clone(engine), callouts })
    }

    /// The machine's kernel.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The layers where the driver has callouts.
    pub fn layers(&self) -> impl Iterator<Item = &'static LayerInfo> {
        self.callouts.values().map(|(layer, _)| *layer)
    }

    /// Whether a filter of the driver is at a layer, so that the engine calls the
    /// callout.
    pub fn has_filter(&self, layer: &LayerInfo) -> bool {
        let journal = self.engine.journal();
        journal.iter().any(|change| matches!(change, Change::FilterAdd { layer: at, .. } if *at == layer.key))
    }

    /// A call of the driver's callout at a layer, with the indication of a subject
    /// there.
    ///
    /// # Errors
    /// If the driver has no callout there.
    pub fn call(&self, layer: &str, subject: &Subject) -> Result<Prepared> {
        let (info, callout) = self.callouts.get(layer).with_context(|| format!("no callout at {layer}"))?;
        Ok(Prepared::new(&self.kernel, callout, &subject.at(info).request()))
    }

    /// A layer where the driver has a callout.
    ///
    /// # Errors
    /// If it has none there.
    pub fn layer(&self, name: &str) -> Result<&'static LayerInfo> {
        let found = self.callouts.get(name).map(|(layer, _)| *layer);
        found.with_context(|| format!("no callout at {name}"))
    }

    /// A call as of [`call`](Self::call), in the memory layout of
    /// [`Prepared::apart`].
    ///
    /// # Errors
    /// As for [`call`](Self::call).
    pub fn call_apart(&self, layer: &str, subject: &Subject, number: usize) -> Result<Prepared> {
        let (info, callout) = self.callouts.get(layer).with_context(|| format!("no callout at {layer}"))?;
        Ok(Prepared::apart(&self.kernel, callout, &subject.at(info).request(), number))
    }

    /// Calls at layers in turn, with the contexts of the subject's flow. Each layer
    /// is a name, and whether the discard layer is meant.
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

    /// Begins a flow; for TCP with the ACK that completes the handshake.
    ///
    /// # Errors
    /// If the driver stopped.
    pub fn begin_flow(&self, subject: &Subject) -> Result<FlowHandle> {
        let engine = &self.engine;
        let flow = engine.flow_create();
        let name = format!("ALE_FLOW_ESTABLISHED_{:?}", subject.family);
        let layer = engine.layer_by_name(&name).context("a layer of the tables")?;
        let begun = Subject { flow: Some(flow), flags: ACK, ..subject.clone() };
        engine.classify(&begun.at(layer).request());
        match self.kernel.stopped() {
            None => Ok(flow),
            Some(stop) => Err(anyhow!("{stop}")),
        }
    }

    /// The driver's contexts at a layer, by flow.
    pub fn contexts(&self, layer: &str) -> BTreeMap<FlowHandle, u64> {
        let Some((info, _)) = self.callouts.get(layer) else { return BTreeMap::new() };
        let contexts = self.engine.flow_contexts().into_iter();
        contexts.filter(|(_, at, _)| *at == info.id).map(|(flow, _, context)| (flow, context)).collect()
    }
}

/// The full name of a layer.
pub fn layer_name(name: &str, family: Family, discard: bool) -> String {
    format!("{name}_{family:?}{}", if discard { "_DISCARD" } else { "" })
}

/// The family in a layer's name.
pub fn family_of(name: &str) -> Family {
    if name.contains("_V6") { Family::V6 } else { Family::V4 }
}
