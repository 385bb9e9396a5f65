//! A foreign policy with a higher weight than the driver's.

use anyhow::{Context, Result, ensure};
use machine::wfp::{
    ActionType, DisplayData, Engine, FILTER_FLAG_CLEAR_ACTION_RIGHT, Filter, Guid, Session, Sublayer, Value,
};

use crate::hushport::DECIDING_LAYERS;

/// Adds a sublayer that permits or blocks at every layer where the driver decides, and
/// takes the right to write.
pub fn add(engine: &Engine, action: ActionType) -> Result<()> {
    const SUBLAYER: Guid = Guid::from_u128(0x1c6b_70e4_52fd_4a0e_8f0c_31a9_57d2_b4e6);
    let display = DisplayData { name: Some("another vendor's".into()), description: None };
    let session = engine.open(Session { display: display.clone(), ..Session::default() })?;
    let sublayer =
        Sublayer { key: SUBLAYER, display: display.clone(), weight: u16::MAX, ..Sublayer::default() };
    engine.sublayer_add(session, sublayer).to_result()?;
    for layer in
        DECIDING_LAYERS.into_iter().flat_map(|layer| ["V4", "V6"].map(|family| layer.replace('#', family)))
    {
        let filter = Filter {
            key: Guid::nil(),
            display: display.clone(),
            flags: FILTER_FLAG_CLEAR_ACTION_RIGHT,
            provider: None,
            layer: engine.layer_by_name(&layer).with_context(|| format!("no layer {layer}"))?.key,
            sublayer: SUBLAYER,
            weight: Value::Empty,
            conditions: Vec::new(),
            action,
            callout: None,
            raw_context: 0,
        };
        let added = engine.filter_add(session, filter);
        ensure!(added.is_ok(), "{layer}: {added:?}");
    }
    Ok(())
}
