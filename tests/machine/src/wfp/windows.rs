//! What Windows' own callouts do.
//!
//! Their keys, layers and flags are those of real machines. IPsec, edge traversal and
//! the others find nothing to do on a machine without IPsec and tunnels, so they let
//! everything pass.

use super::{
    ActionType, CalloutDriver, ClassifyOut, Discard, RIGHT_ACTION_WRITE, Request, RuntimeFilter, SilentDrop,
};

/// `FwpsDiscardModuleTransport`, `InetDiscardEndpointNotFound` and
/// `InetDiscardPauseAccept` (`fwpstypes.h`, `fwpsk.h`).
const TRANSPORT: u32 = 1;
const ENDPOINT_NOT_FOUND: u32 = 4;
const PAUSE_ACCEPT: u32 = 30;

/// A callout of Windows' own.
pub(super) enum WindowsCallout {
    /// `WFP_TRANSPORT_LAYER_V4_SILENT_DROP`, or V6.
    SilentDrop(SilentDrop),
    /// Any other one.
    Passes,
}

impl WindowsCallout {
    /// The callout of a name without prefix.
    pub(super) fn named(name: &str, silent_drop: SilentDrop) -> Self {
        if name.ends_with("_SILENT_DROP") { Self::SilentDrop(silent_drop) } else { Self::Passes }
    }

    fn drops(&self, discard: Option<Discard>) -> bool {
        match (self, discard) {
            (Self::Passes, _) => false,
            (Self::SilentDrop(SilentDrop::Everything), _) | (_, None) => true,
            // "Silently drops all incoming packets for which TCP does not have a
            // listening endpoint" (Built-in Callout Identifiers). Real machines report
            // drops of UDP, too. A listener that is paused is named in "Disable
            // stealth mode".
            (_, Some(Discard { module, reason, .. })) => {
                module == TRANSPORT && [ENDPOINT_NOT_FOUND, PAUSE_ACCEPT].contains(&reason)
            }
        }
    }
}

impl CalloutDriver for WindowsCallout {
    fn classify(&self, request: &Request<'_>, filter: &RuntimeFilter, _: u64, out: &mut ClassifyOut) {
        if out.rights & RIGHT_ACTION_WRITE == 0 {
            return;
        }
        if self.drops(request.metadata.discard) {
            out.action = ActionType::BLOCK;
            out.rights &= !RIGHT_ACTION_WRITE;
        } else if filter.action == ActionType::CALLOUT_TERMINATING {
            out.action = ActionType::PERMIT;
        } else {
            out.action = ActionType::CONTINUE;
        }
    }
}
