//! Another product in the engine: a sublayer of its own, with filters and callouts.

use std::sync::Arc;

use anyhow::{Context, Result};
use machine::wfp::{
    ActionType, Callout, CalloutDriver, DisplayData, Engine, Filter, Guid, Session, SessionId, Sublayer,
};

/// The session of a product, with its sublayer.
pub struct Product<'a> {
    engine: &'a Engine,
    /// It stays open until somebody closes it.
    pub session: SessionId,
    display: DisplayData,
    sublayer: Guid,
}

impl<'a> Product<'a> {
    /// Adds the sublayer. `flags`: those of the session.
    ///
    /// # Errors
    /// If the engine refuses an object.
    pub fn add(engine: &'a Engine, name: &str, flags: u32, sublayer: Guid, weight: u16) -> Result<Self> {
        let display = DisplayData { name: Some(name.to_owned()), description: None };
        let session = engine.open(Session { display: display.clone(), flags, ..Session::default() })?;
        let object = Sublayer { key: sublayer, display: display.clone(), weight, ..Sublayer::default() };
        engine.sublayer_add(session, object).to_result()?;
        Ok(Self { engine, session, display, sublayer })
    }

    /// Registers a callout and adds it at a layer. Returns its run-time id.
    ///
    /// # Errors
    /// If there is no such layer, or the engine refuses the callout.
    pub fn callout(&self, layer: &str, key: Guid, driver: Arc<dyn CalloutDriver>) -> Result<u32> {
        let applicable_layer = self.layer(layer)?;
        let id = self.engine.callout_register(key, 0, driver)?;
        let display = self.display.clone();
        let callout = Callout { key, display, applicable_layer, ..Callout::default() };
        self.engine.callout_add(self.session, callout)?;
        Ok(id)
    }

    /// Adds a filter at a layer, in the product's sublayer. `change` changes it before.
    ///
    /// # Errors
    /// If there is no such layer, or the engine refuses the filter.
    pub fn filter(&self, layer: &str, action: ActionType, change: impl FnOnce(&mut Filter)) -> Result<()> {
        let mut filter = Filter::new(self.layer(layer)?, action);
        filter.display = self.display.clone();
        filter.sublayer = self.sublayer;
        change(&mut filter);
        self.engine.filter_add(self.session, filter).with_context(|| format!("a filter at {layer}"))?;
        Ok(())
    }

    fn layer(&self, name: &str) -> Result<Guid> {
        Ok(self.engine.layer_by_name(name).with_context(|| format!("no layer {name}"))?.key)
    }
}
