//! Why no callout at these layers can tell a change.

use machine::host::Fault;
use machine::host::documented::Flow;

/// Why no callout at these layers can tell a change; `None` if no reason is known,
/// so that it must be told.
pub fn reason(_flow: &Flow, _layer: &str, _fault: Fault) -> Option<&'static str> {
    None
}
