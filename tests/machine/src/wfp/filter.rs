//! Filters: the checks of `FwpmFilterAdd0`, and their run-time form.

use std::cmp::Reverse;
use std::sync::Arc;

use super::arbitration::{
    ActiveFilter, RUNTIME_FLAG_CLEAR_ACTION_RIGHT, RUNTIME_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED,
};
use super::callout::Callouts;
use super::condition::Conditions;
use super::store::{Caller, Lifetime, Store, built_in_sublayer, check_flags, check_lifetime, check_name};
use super::{
    ActionType, FILTER_FLAG_BOOTTIME, FILTER_FLAG_CLEAR_ACTION_RIGHT,
    FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED, FLAG_PERSISTENT, Filter, LayerInfo, RuntimeFilter, Value,
    layer,
};
use crate::driver::DriverId;
use crate::status::Status;

/// A filter as the engine stores it.
pub(super) struct StoredFilter {
    pub(super) filter: Filter,
    pub(super) lifetime: Lifetime,
    /// The driver that has added it.
    pub(super) owner: DriverId,
    pub(super) layer: &'static LayerInfo,
    pub(super) active: Arc<ActiveFilter>,
}

impl StoredFilter {
    pub(super) fn id(&self) -> u64 {
        self.active.runtime.filter_id
    }

    pub(super) fn is_boot_time(&self) -> bool {
        self.filter.flags & FILTER_FLAG_BOOTTIME != 0
    }

    /// The order of sublayers at a layer: heaviest first. No two have one weight.
    pub(super) fn sublayer_order(&self) -> Reverse<u16> {
        Reverse(self.active.runtime.sublayer_weight)
    }

    /// The order of filters in a sublayer: heaviest first.
    pub(super) fn order(&self) -> (Reverse<u64>, u64) {
        (Reverse(self.active.runtime.weight), self.id())
    }
}

impl Store {
    /// Checks and adds a filter that has a key. `id` is its run-time id.
    pub(super) fn add_filter(
        &mut self,
        caller: Caller,
        mut filter: Filter,
        id: u64,
        callouts: &Callouts,
    ) -> Result<Arc<StoredFilter>, Status> {
        check_name(&filter.display)?;
        check_filter_flags(&filter)?;
        let permanent = FLAG_PERSISTENT | FILTER_FLAG_BOOTTIME;
        let lifetime = caller.lifetime(filter.flags & permanent != 0)?;
        let layer = layer::layer_by_key(self.ale_fields, filter.layer).ok_or(Status::FWP_LAYER_NOT_FOUND)?;
        self.check_provider(filter.provider, lifetime)?;
        if filter.sublayer.is_nil() {
            // It is inferred that this is the default sublayer.
            filter.sublayer = built_in_sublayer("UNIVERSAL");
        }
        let sublayer = self.sublayers.get(&filter.sublayer).ok_or(Status::FWP_SUBLAYER_NOT_FOUND)?;
        check_lifetime(lifetime, sublayer.lifetime)?;
        self.check_action(&mut filter, layer, lifetime)?;
        let conditions = Conditions::compile(layer, &filter.conditions)?;
        let weight = effective_weight(&filter.weight, conditions.specificity())?;
        if self.filters.values().any(|stored| stored.filter.key == filter.key) {
            return Err(Status::FWP_ALREADY_EXISTS);
        }
        let slot = filter.callout.map(|key| callouts.slot(key));
        let runtime = RuntimeFilter {
            filter_id: id,
            weight,
            sublayer_weight: sublayer.object.weight,
            flags: runtime_flags(filter.flags),
            action: filter.action,
            callout_id: slot.as_ref().map_or(0, |slot| slot.id),
            layer: layer.id,
            raw_context: filter.raw_context,
        };
        let stored = Arc::new(StoredFilter {
            filter,
            lifetime,
            owner: caller.owner,
            layer,
            active: Arc::new(ActiveFilter { runtime, conditions, slot }),
        });
        self.filters.insert(id, Arc::clone(&stored));
        Ok(stored)
    }

    /// Checks the action, its callout, and what the sublayer accepts.
    fn check_action(&self, filter: &mut Filter, layer: &LayerInfo, lifetime: Lifetime) -> Result<(), Status> {
        let permits_if_unregistered = filter.flags & FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED != 0;
        match filter.action {
            // For these actions the GUID is a filter type without effect
            // (FWPM_ACTION0).
            ActionType::BLOCK | ActionType::PERMIT => filter.callout = None,
            ActionType::CALLOUT_TERMINATING
            | ActionType::CALLOUT_INSPECTION
            | ActionType::CALLOUT_UNKNOWN => {
                let key = filter.callout.unwrap_or_default();
                let callout = self.callouts.get(&key).ok_or(Status::FWP_CALLOUT_NOT_FOUND)?;
                check_lifetime(lifetime, callout.lifetime)?;
                if callout.object.applicable_layer != layer.key {
                    return Err(Status::FWP_INCOMPATIBLE_LAYER);
                }
            }
            _ => return Err(Status::FWP_INVALID_ACTION_TYPE),
        }
        let may_be_unregistered =
            [ActionType::CALLOUT_TERMINATING, ActionType::CALLOUT_UNKNOWN].contains(&filter.action);
        if permits_if_unregistered && !may_be_unregistered {
            return Err(Status::FWP_INVALID_FLAGS);
        }
        let inspects = filter.action == ActionType::CALLOUT_INSPECTION;
        if filter.sublayer == built_in_sublayer("INSPECTION") && !inspects {
            return Err(Status::FWP_ACTION_INCOMPATIBLE_WITH_SUBLAYER);
        }
        Ok(())
    }
}

/// Checks `FWPM_FILTER0.flags`; DISABLED is read-only.
fn check_filter_flags(filter: &Filter) -> Result<(), Status> {
    const PROVIDER_CONTEXT: u32 = 0x4 | 0x80;
    // INDEXED, SYSTEMOS_ONLY, GAMEOS_ONLY, SILENT_MODE, IPSEC_NO_ACQUIRE_INITIATE.
    const WITHOUT_EFFECT_HERE: u32 = 0x40 | 0x100 | 0x200 | 0x400 | 0x800;
    const VALID: u32 = FLAG_PERSISTENT
        | FILTER_FLAG_BOOTTIME
        | FILTER_FLAG_CLEAR_ACTION_RIGHT
        | FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED
        | PROVIDER_CONTEXT
        | WITHOUT_EFFECT_HERE;
    check_flags(filter.flags, VALID)?;
    let both = FLAG_PERSISTENT | FILTER_FLAG_BOOTTIME;
    if filter.flags & both == both {
        return Err(Status::FWP_INVALID_FLAGS);
    }
    // This engine has no provider contexts.
    if filter.flags & PROVIDER_CONTEXT != 0 {
        return Err(Status::FWP_PROVIDER_CONTEXT_NOT_FOUND);
    }
    Ok(())
}

fn runtime_flags(flags: u32) -> u16 {
    [
        (FILTER_FLAG_CLEAR_ACTION_RIGHT, RUNTIME_FLAG_CLEAR_ACTION_RIGHT),
        (FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED, RUNTIME_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED),
    ]
    .into_iter()
    .filter(|(flag, _)| flags & flag != 0)
    .fold(0, |all, (_, runtime)| all | runtime)
}

/// *Filter Weight Assignment*: a literal weight, a range of sixteen with an
/// automatic rest, or an automatic weight below 2^60. How Windows computes the
/// automatic part is not documented; here a filter with narrower conditions weighs
/// more.
fn effective_weight(weight: &Value, specificity: u64) -> Result<u64, Status> {
    const AUTO_BITS: u32 = 60;
    let automatic = (specificity << 32).min((1 << AUTO_BITS) - 1);
    match *weight {
        Value::Uint64(weight) => Ok(weight),
        Value::Empty => Ok(automatic),
        Value::Uint8(range @ 0..=15) => Ok(u64::from(range) << AUTO_BITS | automatic),
        _ => Err(Status::FWP_INVALID_WEIGHT),
    }
}
