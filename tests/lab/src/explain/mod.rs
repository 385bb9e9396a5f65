//! Who decides on a machine: the filters of `netsh wfp show state`, with hushport
//! among them.
//!
//! | module | guarantee |
//! |---|---|
//! | `source` | the file's text, decoded and repaired |
//! | `state` | reads the file; what is wrong with it has a line |
//! | `firewall` | Windows Firewall's stock filters, as such a state |
//! | `configuration` | what hushport does under its registry values |
//! | `load` | the filters in a running engine |
//! | `model` | arbitration, with what is not known left open |
//! | `packet` | a packet or an operation in one line, and the layers on its way |
//! | `report` | the answer, for text and JSON |

mod configuration;
mod firewall;
mod load;
mod model;
mod packet;
mod report;
mod source;
mod state;
mod text;

pub use configuration::Configuration;
pub use firewall::Firewall;
pub use load::{Loaded, load};
pub use model::{Decider, Does, Facts, Known, Layer, Outcome};
pub use packet::{Packet, profile};
pub use report::Report;
pub use state::{Key, Problem, State};
pub use text::write;
