//! The shipping driver behaves as documented.

mod answer_exempt;
mod call_arguments;
mod compartments;
mod event_log;
mod events;
mod flow_events;
mod flows;
mod group_policy;
mod groups;
mod hostile_registry;
mod lifecycle;
mod linked_image;
mod list_entries;
mod mdl_loads;
mod mode;
mod net_buffer_lists;
mod nmap;
mod nmap_scans;
mod order;
mod order_events;
mod placement;
mod policy;
mod probe;
mod protection;
mod proven;
mod registration;
mod scan_detection;
mod sleep;
mod stack;
mod stacks;
#[path = "../support/mod.rs"]
mod support;
mod transport_discard;
mod unregistered_callouts;
mod verdicts;
mod world;
