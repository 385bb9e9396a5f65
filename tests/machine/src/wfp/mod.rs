//! The filter engine: objects, sessions, arbitration, classify.
//!
//! Pure Rust without unsafe. A callout of a loaded driver reaches it as a
//! [`CalloutDriver`]; raw structures are translated in [`crate::nt`].
#![forbid(unsafe_code)]

mod activation;
mod arbitration;
mod bfe;
mod callout;
mod classify;
mod condition;
mod demands;
mod engine;
mod facts;
mod filter;
mod flow;
mod inventory;
mod journal;
mod layer;
mod lock;
mod management;
#[cfg(test)]
mod naive;
mod objects;
mod options;
mod report;
mod store;
#[cfg(test)]
mod tests;
mod transaction;
mod value;
mod violation;
mod windows;

pub use bfe::{BfeState, SubscriptionId};
pub use callout::{CALLOUT_FLAG_CONDITIONAL_ON_FLOW, CALLOUT_FLAG_ENABLE_COMMIT_ADD_NOTIFY};
pub use classify::*;
pub use condition::matches as condition_holds;
pub use demands::*;
pub use engine::*;
pub use facts::{flag_names, guid as named_guid};
pub use inventory::{AddedFilter, Inventory, RegisteredCallout};
pub use layer::{Field, LayerInfo, layers};
pub use objects::*;
pub use options::*;
pub use report::Objects;
pub use value::*;
pub use violation::{Rule, Violation};

use bfe::Subscription;
use layer::layer_by_id;

/// A GUID (`guiddef.h`).
pub type Guid = uuid::Uuid;
