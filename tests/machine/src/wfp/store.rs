//! The management objects, and the rules for references between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::filter::StoredFilter;
use super::{
    AleFields, CALLOUT_FLAG_PERSISTENT, Callout, DisplayData, FLAG_PERSISTENT, Guid, Provider, SessionId,
    Sublayer, TakenWeight, facts, layer,
};
use crate::driver::DriverId;
use crate::status::Status;

/// The lifetime of an object (*Object Management*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// Until its session ends.
    Dynamic(SessionId),
    /// Until the Base Filtering Engine stops.
    Static,
    /// Until it is deleted; boot-time filters too.
    Persistent,
    BuiltIn,
}

impl Lifetime {
    /// An object may not refer to one with a shorter lifetime.
    fn may_refer_to(self, other: Self) -> bool {
        let rank = |lifetime| match lifetime {
            Self::Dynamic(_) => 0,
            Self::Static => 1,
            Self::Persistent => 2,
            Self::BuiltIn => 3,
        };
        match (self, other) {
            (_, Self::Dynamic(_)) => self == other,
            _ => rank(self) <= rank(other),
        }
    }
}

/// The caller, on which the lifetime of an object depends.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    /// The driver that has opened the session.
    pub(super) owner: DriverId,
    pub(super) session: SessionId,
    pub(super) dynamic: bool,
}

impl Caller {
    /// It is inferred that a dynamic session cannot create persistent objects; the
    /// status is inferred, too.
    pub(super) fn lifetime(self, persistent: bool) -> Result<Lifetime, Status> {
        match (self.dynamic, persistent) {
            (true, true) => Err(Status::FWP_DYNAMIC_SESSION_IN_PROGRESS),
            (true, false) => Ok(Lifetime::Dynamic(self.session)),
            (false, true) => Ok(Lifetime::Persistent),
            (false, false) => Ok(Lifetime::Static),
        }
    }

    /// A dynamic session can delete what was added in it, and nothing else (the pages of
    /// `FwpmFilterDeleteByKey0` and its relatives). They name two statuses: for an object of
    /// another dynamic session, and for one that was not added in any. It is inferred that
    /// a session that is not dynamic cannot delete the objects of one that is.
    fn may_delete(self, lifetime: Lifetime) -> Result<(), Status> {
        match lifetime {
            Lifetime::BuiltIn => Err(Status::FWP_BUILTIN_OBJECT),
            Lifetime::Dynamic(owner) if owner != self.session => Err(Status::FWP_WRONG_SESSION),
            Lifetime::Static | Lifetime::Persistent if self.dynamic => {
                Err(Status::FWP_DYNAMIC_SESSION_IN_PROGRESS)
            }
            Lifetime::Dynamic(_) | Lifetime::Static | Lifetime::Persistent => Ok(()),
        }
    }
}

#[derive(Clone)]
pub(super) struct Entry<T> {
    pub(super) object: Arc<T>,
    pub(super) lifetime: Lifetime,
    /// The driver that has added it.
    pub(super) owner: DriverId,
}

/// All management objects. A transaction works on a copy.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) providers: BTreeMap<Guid, Entry<Provider>>,
    pub(super) sublayers: BTreeMap<Guid, Entry<Sublayer>>,
    pub(super) callouts: BTreeMap<Guid, Entry<Callout>>,
    pub(super) filters: BTreeMap<u64, Arc<StoredFilter>>,
    /// The last data fields of the ALE layers.
    pub(super) ale_fields: AleFields,
}

impl Store {
    /// Windows' own sublayers and callouts.
    pub(super) fn new(ale_fields: AleFields) -> Self {
        fn entry<T>(key: Guid, object: T) -> (Guid, Entry<T>) {
            let owner = DriverId::SYSTEM;
            (key, Entry { object: Arc::new(object), lifetime: Lifetime::BuiltIn, owner })
        }
        let named = |name: &str| DisplayData { name: Some(name.to_owned()), description: None };
        let sublayers = facts::windows_sublayers().map(|(name, key, weight)| {
            entry(key, Sublayer { key, display: named(name), flags: 0, provider: None, weight })
        });
        let callouts = facts::windows_callouts().map(|callout| {
            let facts::WindowsCallout { name, key, layer, flags, .. } = callout;
            entry(key, Callout { key, display: named(name), flags, provider: None, applicable_layer: layer })
        });
        Self {
            providers: BTreeMap::new(),
            sublayers: sublayers.collect(),
            callouts: callouts.collect(),
            filters: BTreeMap::new(),
            ale_fields,
        }
    }

    pub(super) fn add_provider(&mut self, caller: Caller, provider: Provider) -> Result<(), Status> {
        check_name(&provider.display)?;
        // DISABLED is read-only.
        check_flags(provider.flags, FLAG_PERSISTENT)?;
        let lifetime = caller.lifetime(provider.flags & FLAG_PERSISTENT != 0)?;
        insert(&mut self.providers, provider.key, provider, (lifetime, caller.owner))
    }

    pub(super) fn delete_provider(&mut self, caller: Caller, key: Guid) -> Result<(), Status> {
        let entry = self.providers.get(&key).ok_or(Status::FWP_PROVIDER_NOT_FOUND)?;
        caller.may_delete(entry.lifetime)?;
        let used = self.sublayers.values().any(|entry| entry.object.provider == Some(key))
            || self.callouts.values().any(|entry| entry.object.provider == Some(key))
            || self.filters.values().any(|stored| stored.filter.provider == Some(key));
        check_unused(used)?;
        self.providers.remove(&key);
        Ok(())
    }

    pub(super) fn add_sublayer(
        &mut self,
        caller: Caller,
        mut sublayer: Sublayer,
        taken: TakenWeight,
    ) -> Result<(), Status> {
        check_name(&sublayer.display)?;
        check_flags(sublayer.flags, FLAG_PERSISTENT)?;
        let lifetime = caller.lifetime(sublayer.flags & FLAG_PERSISTENT != 0)?;
        self.check_provider(sublayer.provider, lifetime)?;
        sublayer.weight = self.free_weight(sublayer.weight, taken).ok_or(Status::FWP_TOO_MANY_SUBLAYERS)?;
        insert(&mut self.sublayers, sublayer.key, sublayer, (lifetime, caller.owner))
    }

    /// The weight that a sublayer gets if it asks for `asked`: no two have one weight.
    fn free_weight(&self, asked: u16, taken: TakenWeight) -> Option<u16> {
        let used: BTreeSet<_> = self.sublayers.values().map(|entry| entry.object.weight).collect();
        let above = (asked..=u16::MAX).find(|weight| !used.contains(weight));
        let below = || (0..=asked).rev().find(|weight| !used.contains(weight));
        match taken {
            TakenWeight::Above => above.or_else(below),
            TakenWeight::Below => below().or(above),
        }
    }

    pub(super) fn delete_sublayer(&mut self, caller: Caller, key: Guid) -> Result<(), Status> {
        let entry = self.sublayers.get(&key).ok_or(Status::FWP_SUBLAYER_NOT_FOUND)?;
        caller.may_delete(entry.lifetime)?;
        check_unused(self.filters.values().any(|stored| stored.filter.sublayer == key))?;
        self.sublayers.remove(&key);
        Ok(())
    }

    pub(super) fn add_callout(&mut self, caller: Caller, callout: Callout) -> Result<(), Status> {
        const USES_PROVIDER_CONTEXT: u32 = 0x2_0000;
        check_name(&callout.display)?;
        // REGISTERED is read-only.
        check_flags(callout.flags, CALLOUT_FLAG_PERSISTENT | USES_PROVIDER_CONTEXT)?;
        let lifetime = caller.lifetime(callout.flags & CALLOUT_FLAG_PERSISTENT != 0)?;
        layer::layer_by_key(self.ale_fields, callout.applicable_layer).ok_or(Status::FWP_LAYER_NOT_FOUND)?;
        self.check_provider(callout.provider, lifetime)?;
        insert(&mut self.callouts, callout.key, callout, (lifetime, caller.owner))
    }

    pub(super) fn delete_callout(&mut self, caller: Caller, key: Guid) -> Result<(), Status> {
        let entry = self.callouts.get(&key).ok_or(Status::FWP_CALLOUT_NOT_FOUND)?;
        caller.may_delete(entry.lifetime)?;
        let mut filters = self.filters.values();
        check_unused(filters.any(|stored| stored.filter.callout == Some(key)))?;
        self.callouts.remove(&key);
        Ok(())
    }

    pub(super) fn delete_filter(&mut self, caller: Caller, id: u64) -> Result<Guid, Status> {
        let stored = self.filters.get(&id).ok_or(Status::FWP_FILTER_NOT_FOUND)?;
        caller.may_delete(stored.lifetime)?;
        let key = stored.filter.key;
        self.filters.remove(&id);
        Ok(key)
    }

    /// Deletes every object whose lifetime ends. No object that stays can refer to
    /// one of them.
    pub(super) fn drop_lifetimes(&mut self, ends: impl Fn(Lifetime) -> bool) {
        self.filters.retain(|_, stored| !ends(stored.lifetime));
        self.callouts.retain(|_, entry| !ends(entry.lifetime));
        self.sublayers.retain(|_, entry| !ends(entry.lifetime));
        self.providers.retain(|_, entry| !ends(entry.lifetime));
    }

    pub(super) fn check_provider(&self, provider: Option<Guid>, lifetime: Lifetime) -> Result<(), Status> {
        let Some(key) = provider else { return Ok(()) };
        let entry = self.providers.get(&key).ok_or(Status::FWP_PROVIDER_NOT_FOUND)?;
        check_lifetime(lifetime, entry.lifetime)
    }
}

pub(super) fn built_in_sublayer(name: &str) -> Guid {
    facts::guid(&format!("FWPM_SUBLAYER_{name}")).unwrap_or_default()
}

fn insert<T>(
    table: &mut BTreeMap<Guid, Entry<T>>,
    key: Guid,
    object: T,
    (lifetime, owner): (Lifetime, DriverId),
) -> Result<(), Status> {
    if table.contains_key(&key) {
        return Err(Status::FWP_ALREADY_EXISTS);
    }
    table.insert(key, Entry { object: Arc::new(object), lifetime, owner });
    Ok(())
}

pub(super) fn check_name(display: &DisplayData) -> Result<(), Status> {
    display.name.as_ref().map(|_| ()).ok_or(Status::FWP_NULL_DISPLAY_NAME)
}

pub(super) fn check_flags(flags: u32, valid: u32) -> Result<(), Status> {
    if flags & !valid == 0 { Ok(()) } else { Err(Status::FWP_INVALID_FLAGS) }
}

fn check_unused(used: bool) -> Result<(), Status> {
    if used { Err(Status::FWP_IN_USE) } else { Ok(()) }
}

pub(super) fn check_lifetime(object: Lifetime, referenced: Lifetime) -> Result<(), Status> {
    if object.may_refer_to(referenced) { Ok(()) } else { Err(Status::FWP_LIFETIME_MISMATCH) }
}
