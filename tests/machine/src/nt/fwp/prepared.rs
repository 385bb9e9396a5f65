//! An indication laid out once, for many calls of a callout.

use std::mem::offset_of;

use super::super::Kernel;
use super::super::cpu::{self, Irql};
use super::super::guest::Stop;
use super::super::types::{Address, FWPS_CALLOUT3, FWPS_CLASSIFY_OUT0, FWPS_INCOMING_METADATA_VALUES0};
use super::Prototype;
use super::incoming::Scratch;
use crate::image::{self, Call, Trace, Walk};
use crate::wfp::{ActionType, ClassifyOut, RIGHT_ACTION_WRITE, Request, RuntimeFilter};

/// The flow context that the engine passes if none is associated.
static NO_FLOW: [u64; 1] = [0];

/// A call of a callout's classifyFn, with structures in its own pages.
pub struct Prepared {
    scratch: Scratch,
    call: Call,
    flows: Vec<u64>,
}

impl Prepared {
    /// Lays out an indication as the engine would pass it to a callout.
    pub fn new(kernel: &Kernel, callout: &FWPS_CALLOUT3, request: &Request<'_>) -> Self {
        Self::laid(kernel, callout, request, Scratch::new())
    }

    /// Like [`Self::new`], at a cache position that depends on `number`. A few
    /// dozen with different numbers fit in the nearest cache together.
    pub fn apart(kernel: &Kernel, callout: &FWPS_CALLOUT3, request: &Request<'_>, number: usize) -> Self {
        Self::laid(kernel, callout, request, Scratch::apart(number))
    }

    fn laid(kernel: &Kernel, callout: &FWPS_CALLOUT3, request: &Request<'_>, mut scratch: Scratch) -> Self {
        let options = kernel.options();
        let filter = RuntimeFilter {
            filter_id: 1,
            weight: 1,
            sublayer_weight: 1,
            flags: 0,
            action: ActionType::CALLOUT_TERMINATING,
            callout_id: 1,
            layer: request.layer,
            raw_context: 0,
        };
        let out = ClassifyOut { action: ActionType::NONE_NO_MATCH, rights: RIGHT_ACTION_WRITE, flags: 0 };
        let call = Call {
            entry: callout.classifyFn as u64,
            values: scratch.values(request) as u64,
            metadata: scratch.metadata(request.metadata) as u64,
            data: scratch.layer_data(&request.data, options.nbl_layout, options.mdl_mapping).0 as u64,
            context: scratch.point_to(&0u64) as u64,
            filter: scratch.filter(&filter, 0) as u64,
            out: scratch.classify_out(&out) as u64,
            flows: NO_FLOW.as_ptr().expose_provenance() as u64,
            flow_mask: 0,
        };
        Self { scratch, call, flows: Vec::new() }
    }

    /// Passes this filter, as its owner added it.
    pub fn with_filter(mut self, filter: &RuntimeFilter) -> Self {
        self.call.filter = self.scratch.filter(filter, filter.raw_context) as u64;
        self
    }

    /// Calls a function with this prototype. The loop passes seven arguments, which a
    /// function of six reads as its own: classifyContext as the filter, the filter as the
    /// flow context, and the flow context as `classifyOut`.
    pub fn with_prototype(mut self, prototype: Prototype) -> Self {
        if prototype == Prototype::Vista {
            self.call.context = self.call.filter;
            self.call.filter = 0;
            let out = self.call.out;
            return self.with_flows(vec![out]);
        }
        self
    }

    /// Passes these flow contexts in turn, one per round.
    ///
    /// # Panics
    /// If the number of flows is not a power of two.
    pub fn with_flows(mut self, flows: Vec<u64>) -> Self {
        assert!(flows.len().is_power_of_two(), "the number of flows is not a power of two");
        self.flows = flows;
        self.call.flows = self.flows.as_ptr().expose_provenance() as u64;
        self.call.flow_mask = self.flows.len() as u64 - 1;
        self
    }

    /// Calls another function with the same arguments.
    pub fn with_entry(mut self, entry: Address) -> Self {
        self.call.entry = entry as u64;
        self
    }

    /// Calls a function that reads a word at each of these addresses.
    pub fn with_words_read(mut self, mut addresses: Vec<u64>) -> Self {
        addresses.push(0);
        self.flows = addresses;
        self.call.context = self.flows.as_ptr().expose_provenance() as u64;
        self.with_entry(image::read_words as *const () as Address)
    }

    /// The address of the packet's last MDL.
    pub fn last_mdl(&self) -> u64 {
        self.scratch.packet().last_mdl() as u64
    }

    /// Maps the packet's last MDL or unmaps it, as another callout may do on another
    /// processor.
    pub fn set_mapped(&self, mapped: bool) {
        self.scratch.packet().set_mapped(mapped);
    }

    /// The address of the packet's byte that is `before_end` bytes before its end.
    pub fn packet_byte(&self, before_end: usize) -> u64 {
        (self.scratch.end_of_packet() - before_end) as u64
    }

    /// The address of the endpoint handle in the metadata.
    pub fn endpoint(&self) -> u64 {
        self.call.metadata + offset_of!(FWPS_INCOMING_METADATA_VALUES0, transportEndpointHandle) as u64
    }

    /// Whether an address is part of the indication.
    pub fn contains(&self, address: u64) -> bool {
        self.scratch.contains(address as Address)
    }

    /// The cache lines, of `line` bytes each, that hold `classifyOut`.
    pub fn out_lines(&self, line: u64) -> std::ops::RangeInclusive<u64> {
        let last = self.call.out + size_of::<FWPS_CLASSIFY_OUT0>() as u64 - 1;
        self.call.out / line..=last / line
    }

    /// The action after the last call.
    pub fn action(&self) -> ActionType {
        ActionType(self.scratch.classify_result(self.call.out as Address).actionType)
    }
}

/// Makes the calls in turn, `rounds` times, on this thread's processor.
///
/// # Errors
/// What stopped the machine.
pub fn run(kernel: &Kernel, calls: &[&Prepared], rounds: u64, first_round: u64) -> Result<(), Stop> {
    spin(kernel, calls, Walk { rounds, first_round, ..one_round(calls) })
}

/// Makes the calls in turn, once, and traces the image's instructions.
///
/// # Errors
/// What stopped the machine.
pub fn count(kernel: &Kernel, image: &image::Image, calls: &[&Prepared]) -> Result<Trace, Stop> {
    let code = image.base()..image.base() + image.size();
    let (outcome, trace) =
        image::trace(code, || spin(kernel, calls, Walk { stepped: 1, ..one_round(calls) }));
    outcome.map(|()| trace)
}

/// What the loop is called that calls a classifyFn again and again. It may take any time.
pub(in crate::nt) const LOOP: &str = "loop of classifyFn";

fn one_round(calls: &[&Prepared]) -> Walk {
    Walk { calls: std::ptr::null(), count: calls.len() as u64, rounds: 1, first_round: 0, stepped: 0 }
}

fn spin(kernel: &Kernel, calls: &[&Prepared], walk: Walk) -> Result<(), Stop> {
    if calls.is_empty() || walk.rounds == 0 {
        return Ok(());
    }
    let calls: Vec<Call> = calls.iter().map(|prepared| prepared.call).collect();
    let walk = Walk { calls: calls.as_ptr(), ..walk };
    let entry = image::spin as *const () as Address;
    let arguments = [std::ptr::from_ref(&walk).addr() as u64];
    image::set_here(cpu::processor(), cpu::irql().0);
    // The call runs at the thread's IRQL, which is PASSIVE_LEVEL or higher.
    kernel.call_driver(entry, &arguments, Irql::PASSIVE, LOOP).map(|_| ())
}
