//! A foreign policy with a higher weight than the driver's.

use anyhow::Result;
use machine::wfp::{ActionType, Engine, FILTER_FLAG_CLEAR_ACTION_RIGHT, Guid};

use super::product::Product;
use crate::hushport::DECIDING_LAYERS;

/// Adds a sublayer that permits or blocks at every layer where the driver decides, and
/// takes the right to write.
pub fn add(engine: &Engine, action: ActionType) -> Result<()> {
    const SUBLAYER: Guid = Guid::from_u128(0x1c6b_70e4_52fd_4a0e_8f0c_31a9_57d2_b4e6);
    let product = Product::add(engine, "another vendor's", 0, SUBLAYER, u16::MAX)?;
    for layer in
        DECIDING_LAYERS.into_iter().flat_map(|layer| ["V4", "V6"].map(|family| layer.replace('#', family)))
    {
        product.filter(&layer, action, |filter| filter.flags = FILTER_FLAG_CLEAR_ACTION_RIGHT)?;
    }
    Ok(())
}
