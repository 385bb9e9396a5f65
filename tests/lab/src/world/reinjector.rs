//! Another product, which takes each packet that arrives and injects it again.

use std::sync::Arc;

use anyhow::Result;
use machine::wfp::{
    ActionType, CLASSIFY_OUT_FLAG_ABSORB, CalloutDriver, ClassifyOut, Demand, Engine, Entry, Guid, Injection,
    InjectionState, LayerData, RIGHT_ACTION_WRITE, Request, RuntimeFilter, Value, injection_state,
};

use super::product::Product;

/// Where it injects what it has taken at INBOUND_IPPACKET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reinjects {
    /// With `FwpsInjectNetworkReceiveAsync0`.
    Network,
    /// With `FwpsInjectTransportReceiveAsync0`: "Cross-layer injection is enabled if the
    /// callout can supply all needed information" (*Packet Injection Functions*).
    Transport,
}

/// The injection handle of the product. No driver's handle has this value.
const HANDLE: u64 = 0x7265_696e_6a65_6374;

/// `FWP_CONDITION_FLAG_IS_LOOPBACK` (`fwptypes.h`).
const IS_LOOPBACK: u32 = 1;

struct Reinjector {
    engine: std::sync::Weak<Engine>,
    into: Reinjects,
}

/// Adds the product: a callout at INBOUND_IPPACKET of both families, in a sublayer of the
/// highest weight.
///
/// # Errors
/// If the engine refuses an object.
pub fn add(engine: &Arc<Engine>, into: Reinjects) -> Result<()> {
    const SUBLAYER: Guid = Guid::from_u128(0x8e25_41b3_7d0c_4f6a_9b18_c3e7_5a20_d96f);
    const CALLOUT: u128 = 0x2b90_6cd4_18f7_4e3d_a5c2_7f61_0b94_e850;
    let product = Product::add(engine, "takes and injects", 0, SUBLAYER, u16::MAX)?;
    for (number, layer) in (0..).zip(["INBOUND_IPPACKET_V4", "INBOUND_IPPACKET_V6"]) {
        let key = Guid::from_u128(CALLOUT + number);
        product.callout(layer, key, Arc::new(Reinjector { engine: Arc::downgrade(engine), into }))?;
        product.filter(layer, ActionType::CALLOUT_UNKNOWN, |filter| filter.callout = Some(key))?;
    }
    Ok(())
}

impl Reinjector {
    /// The packet, if the product takes it. What the machine has sent to itself, and at the
    /// transport layer a fragment, stays where it is.
    fn takes(&self, engine: &Engine, request: &Request<'_>) -> Option<(Entry, Vec<u8>)> {
        let layer = engine.layer(request.layer)?;
        let number = |field: &str| match request.values.get(layer.field(field)?) {
            Some(Value::Uint32(number)) => Some(*number),
            _ => None,
        };
        let (state, _) = injection_state(&request.metadata.injections, HANDLE);
        let is_new = [InjectionState::NotInjected, InjectionState::InjectedByOther].contains(&state);
        let at_transport = self.into == Reinjects::Transport;
        let is_part = request.metadata.fragment.is_some();
        let LayerData::Packet(packet) = request.data else { return None };
        if !is_new || number("FLAGS")? & IS_LOOPBACK != 0 || (is_part && at_transport) {
            return None;
        }
        let (interface, sub_interface) = (number("INTERFACE_INDEX")?, number("SUB_INTERFACE_INDEX")?);
        Some((Entry::Receive { interface, sub_interface, at_transport }, packet.bytes.to_vec()))
    }
}

impl CalloutDriver for Reinjector {
    fn classify(&self, request: &Request<'_>, _: &RuntimeFilter, _: u64, out: &mut ClassifyOut) {
        let Some(engine) = self.engine.upgrade() else { return };
        if out.rights & RIGHT_ACTION_WRITE == 0 {
            return;
        }
        out.action = ActionType::CONTINUE;
        let Some((entry, packet)) = self.takes(&engine, request) else { return };
        let injection = Injection { handle: HANDLE, context: 0 };
        let earlier = request.metadata.injections.as_deref().unwrap_or_default();
        let injections = Some(earlier.iter().copied().chain([injection]).collect());
        out.action = ActionType::BLOCK;
        out.rights &= !RIGHT_ACTION_WRITE;
        out.flags |= CLASSIFY_OUT_FLAG_ABSORB;
        engine.demands.demand(Demand::Inject { entry, packets: vec![packet], injections }, |_| ());
    }
}
