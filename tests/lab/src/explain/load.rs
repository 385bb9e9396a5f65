//! A state's filters in a running engine.

use std::fmt;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use machine::wfp::{
    ActionType, BfeState, CALLOUT_FLAG_PERSISTENT, Callout, CalloutDriver, ClassifyOut, Condition,
    DisplayData, Engine, FILTER_FLAG_BOOTTIME, FILTER_FLAG_CLEAR_ACTION_RIGHT,
    FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED, FLAG_PERSISTENT, Filter, RIGHT_ACTION_WRITE, Request,
    RuntimeFilter, Session, Sublayer, Value,
};

use super::state::{self, Key, State};
use crate::hushport::SUBLAYER;
use crate::printable::printable;

/// What was loaded.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Loaded {
    pub filters: usize,
    /// Filters that are left out, each with the reason.
    pub left_out: Vec<(u64, String)>,
    /// Callouts of other drivers. Their code is missing here, so they let every packet
    /// pass.
    pub callouts: usize,
}

/// Adds the sublayers, callouts and filters of a state, without hushport's own.
///
/// Persistent filters outlive a stop of BFE, and filters for the boot stand in while it
/// does not run. The others are lost with BFE; the services that made them start with it
/// again and add them again.
///
/// # Errors
/// If the engine refuses a session.
pub fn load(state: &State, engine: &Arc<Engine>) -> Result<Loaded> {
    if state.filters.is_empty() {
        bail!("the state has no filters");
    }
    let loaded = add(state, engine, |_| true)?;
    let (again, services) = (state.clone(), Arc::downgrade(engine));
    let start = move |state: BfeState| {
        if let (BfeState::Running, Some(engine)) = (state, services.upgrade()) {
            // BFE may have stopped again. Then it starts them again.
            let _added_or_refused = add(&again, &engine, |filter| !filter.is_permanent());
        }
    };
    engine.bfe_subscribe(Arc::new(start)).map_err(|status| anyhow!("the engine says {status:?}"))?;
    Ok(loaded)
}

/// Adds the objects that are missing, and these filters.
fn add(state: &State, engine: &Engine, wanted: impl Fn(&state::Filter) -> bool) -> Result<Loaded> {
    let session = engine.open(Session { display: display("the state"), ..Session::default() })?;
    engine.transaction_begin(session, 0).to_result()?;
    let mut loaded = Loaded::default();
    // A persistent filter refers only to persistent objects.
    let permanent = || state.filters.iter().filter(|filter| filter.is_permanent());
    for sublayer in state.sublayers.iter().filter(|sublayer| !sublayer.key.is(SUBLAYER)) {
        let Some(key) = sublayer.key.guid else { continue };
        let persistent = sublayer.persistent || permanent().any(|filter| filter.sublayer == sublayer.key);
        let object = Sublayer {
            key,
            display: display(&sublayer.name),
            flags: if persistent { FLAG_PERSISTENT } else { 0 },
            weight: sublayer.weight,
            ..Sublayer::default()
        };
        // Windows' own are there already.
        let _added_or_there = engine.sublayer_add(session, object);
    }
    for callout in &state.callouts {
        let (Some(key), Some(layer)) = (callout.key.guid, callout.applicable_layer.guid) else { continue };
        let persistent = callout.persistent || permanent().any(|filter| filter.callout == callout.key);
        let object = Callout {
            key,
            display: display(&callout.name),
            flags: if persistent { CALLOUT_FLAG_PERSISTENT } else { 0 },
            provider: None,
            applicable_layer: layer,
        };
        let _added_or_there = engine.callout_add(session, object);
        if !callout.registered {
            continue;
        }
        // Windows' own are registered already.
        let registered = engine.callout_register(key, 0, Arc::new(Stand));
        loaded.callouts += usize::from(registered.is_ok());
    }
    for filter in &state.filters {
        if filter.sublayer.is(SUBLAYER) || filter.has_flag("DISABLED") || !wanted(filter) {
            continue;
        }
        match object(filter).and_then(|object| {
            engine.filter_add(session, object).map_err(|status| format!("the engine says {status:?}"))
        }) {
            Ok(_) => loaded.filters += 1,
            Err(reason) => loaded.left_out.push((filter.id, reason)),
        }
    }
    engine.transaction_commit(session).to_result()?;
    // The objects stay: the session is not dynamic.
    engine.close(session).to_result()?;
    Ok(loaded)
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 5;
        write!(f, "{} filters of the state", self.filters)?;
        if self.callouts > 0 {
            write!(f, "; its {} callouts of other products let everything pass", self.callouts)?;
        }
        for (id, reason) in self.left_out.iter().take(MOST) {
            write!(f, "\n  left out: filter {id}: {}", printable(reason))?;
        }
        match self.left_out.len().saturating_sub(MOST) {
            0 => Ok(()),
            more => write!(f, "\n  left out: {more} more"),
        }
    }
}

fn object(filter: &state::Filter) -> Result<Filter, String> {
    let key = |key: &Key| key.guid.ok_or_else(|| format!("{} is not known", key.text));
    let mut flags = 0;
    for (name, flag) in [
        ("CLEAR_ACTION_RIGHT", FILTER_FLAG_CLEAR_ACTION_RIGHT),
        ("PERMIT_IF_CALLOUT_UNREGISTERED", FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED),
        ("PERSISTENT", FLAG_PERSISTENT),
        ("BOOTTIME", FILTER_FLAG_BOOTTIME),
    ] {
        flags |= if filter.has_flag(name) { flag } else { 0 };
    }
    let mut conditions = Vec::new();
    for condition in &filter.conditions {
        let not_compared = || format!("{} {} is not compared", condition.field_name(), condition.shown);
        conditions.push(Condition {
            field: key(&condition.field)?,
            match_type: condition.match_type.ok_or_else(not_compared)?,
            value: condition.value.clone().ok_or_else(not_compared)?,
        });
    }
    let is_callout = ![ActionType::PERMIT, ActionType::BLOCK].contains(&filter.action);
    Ok(Filter {
        key: key(&filter.key)?,
        display: display(&filter.name),
        flags,
        provider: None,
        layer: key(&filter.layer)?,
        sublayer: key(&filter.sublayer)?,
        weight: Value::Uint64(filter.weight),
        conditions,
        action: filter.action,
        callout: if is_callout { Some(key(&filter.callout)?) } else { None },
        raw_context: 0,
    })
}

fn display(name: &str) -> DisplayData {
    DisplayData { name: Some(name.to_owned()), description: None }
}

/// Stands for a callout of another product: it lets everything pass.
struct Stand;

impl CalloutDriver for Stand {
    fn classify(&self, _: &Request<'_>, filter: &RuntimeFilter, _: u64, out: &mut ClassifyOut) {
        if out.rights & RIGHT_ACTION_WRITE == 0 {
            return;
        }
        out.action = match filter.action {
            ActionType::CALLOUT_TERMINATING => ActionType::PERMIT,
            _ => ActionType::CONTINUE,
        };
    }
}
