//! A machine for any Windows Filtering Platform driver, on Linux.
//!
//! The crate has an NT kernel, a filter engine with Driver Verifier's rules, and a
//! host. A program loads the `.sys` as it ships, starts it, passes packets to it
//! and unloads it. The crate knows no particular driver: the caller gives service
//! name, registry values and events.
//!
//! # Load a driver
//!
//! ```
//! use std::path::Path;
//!
//! use machine::nt::Options;
//! use machine::nt::registry::RegistryValue;
//! use machine::{Machine, StartError};
//!
//! let mut machine = Machine::new("sample", Options::default());
//! // A function that the crate lacks is reported when it is called.
//! machine.report_missing_at_call();
//! machine.set_value("Peer", RegistryValue::sz("192.0.2.1"));
//! match machine.start(Path::new("sample.sys")) {
//!     Ok(()) => {
//!         println!("{:?}", machine.kernel().devices());
//!         match machine.stop() {
//!             Ok(left) => assert!(left.is_empty(), "{left}"),
//!             Err(stop) => println!("a rule was broken: {stop}"),
//!         }
//!     }
//!     Err(StartError::Load(error)) => println!("this is no driver: {error}"),
//!     Err(StartError::Refused(status)) => println!("DriverEntry returned {status}"),
//!     Err(StartError::Stopped(stop)) => println!("a rule was broken: {stop}"),
//! }
//! ```
//!
//! # Add a rule
//!
//! A filter blocks connections to a port, for as long as its session is open.
//!
//! ```
//! use machine::wfp::{
//!     ActionType, Condition, DisplayData, Engine, Filter, Guid, MatchType, SESSION_FLAG_DYNAMIC, Session,
//!     Value, named_guid,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let display = DisplayData { name: Some("no telnet".to_owned()), description: None };
//! let engine = Engine::new();
//! let session = Session { display: display.clone(), flags: SESSION_FLAG_DYNAMIC, ..Session::default() };
//! let session = engine.open(session)?;
//! engine.filter_add(
//!     session,
//!     Filter {
//!         key: Guid::nil(),
//!         display,
//!         flags: 0,
//!         provider: None,
//!         layer: engine.layer_by_name("ALE_AUTH_CONNECT_V4").ok_or("no such layer")?.key,
//!         sublayer: Guid::nil(),
//!         weight: Value::Empty,
//!         conditions: vec![Condition {
//!             field: named_guid("FWPM_CONDITION_IP_REMOTE_PORT").ok_or("no such field")?,
//!             match_type: MatchType::Equal,
//!             value: Value::Uint16(23),
//!         }],
//!         action: ActionType::BLOCK,
//!         callout: None,
//!         raw_context: 0,
//!     },
//! )?;
//! assert_eq!(engine.inventory().filters.len(), 1);
//! assert!(engine.close(session).is_success());
//! assert!(engine.inventory().filters.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # Send a packet
//!
//! The host answers a ping. On the way the packets pass the engine's layers.
//!
//! ```
//! use std::time::Duration;
//!
//! use machine::Machine;
//! use machine::host::{self, Host, OpenPoints};
//! use machine::nt::Options;
//! use machine::wire::{Network, compose};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let machine = Machine::new("sample", Options::default());
//! let mut host = Host::new(machine.engine().clone(), host::Options::default(), OpenPoints::default());
//! let network = Network::default();
//! let mut ping = Vec::new();
//! compose::ip(network.near.0.into(), network.host.0.into())
//!     .icmpv4_echo_request(1, 1)
//!     .write(&mut ping, b"hello")?;
//! host.receive(&ping, Duration::ZERO);
//! host.poll(Duration::from_millis(1));
//! let answer = host.transmit().ok_or("the host is silent")?;
//! assert!(answer.ends_with(b"hello"));
//! let layers: Vec<_> = host.log().records().flat_map(|record| record.layers()).collect();
//! assert!(layers.contains(&"INBOUND_IPPACKET_V4") && layers.contains(&"OUTBOUND_TRANSPORT_V4"));
//! # Ok(())
//! # }
//! ```
//!
//! # Ask the engine
//!
//! An indication gets a decision, as a stack would get it.
//!
//! ```
//! use machine::wfp::{Engine, LayerData, Metadata, Request, Value};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::new();
//! let layer = engine.layer_by_name("ALE_AUTH_CONNECT_V4").ok_or("no such layer")?;
//! let mut values = vec![Value::Empty; layer.fields];
//! values[layer.field("IP_REMOTE_PORT").ok_or("no such field")?] = Value::Uint16(23);
//! let metadata = Metadata::default();
//! let request = Request { layer: layer.id, values: &values, metadata: &metadata, data: LayerData::None };
//! let decision = engine.classify(&request);
//! // No filter speaks against it.
//! assert!(!decision.blocked() && decision.filter_id.is_none());
//! # Ok(())
//! # }
//! ```
//!
//! # Modules
//!
//! A module imports only modules above it in this table.
//!
//! | module | guarantee |
//! |---|---|
//! | [`status`] | NTSTATUS values by their names in `ntstatus.h` |
//! | [`driver`] | tells the drivers of a machine apart |
//! | [`notes`] | shows other processes what a hanging process waits for |
//! | [`schedule`] | simulated threads run one at a time, in an order that a seed fixes |
//! | [`verifier`] | Driver Verifier's rules, each with its bugcheck code |
//! | [`wfp`] | the filter engine, pure Rust without unsafe |
//! | [`etw`] | events as a consumer decodes them |
//! | [`wire`] | TUN device in a network namespace, packet recording |
//! | [`host`] | a TCP host that walks the layers in the documented order |
//! | [`image`] | maps the unchanged PE, names its code from the PDB; raw memory |
//! | [`irql`] | interrupt request levels |
//! | [`exports`] | one table of everything a driver can import |
//! | [`nt`] | ntoskrnl, fwpkclnt and ndis as a driver imports them; raw memory |
//! | [`faults`] | makes chosen calls of a driver fail, each with a status it can have |
//! | [`assembly`] | assembles kernel, filter engine and image |
//! | [`sweep`] | makes every call of a driver fail in turn |

pub mod assembly;
pub mod driver;
pub mod etw;
#[macro_use]
pub mod exports;
pub mod faults;
pub mod host;
pub mod image;
pub mod irql;
pub mod notes;
pub mod nt;
pub mod schedule;
pub mod status;
pub mod sweep;
pub mod verifier;
pub mod wfp;
pub mod wire;

pub use assembly::{Driver, Machine, StartError};
pub use driver::DriverId;
