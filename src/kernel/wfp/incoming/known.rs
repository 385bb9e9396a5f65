//! The fields that identify a packet at the next layer, with one bounds check.

use super::{EngineValue, Incoming, byte_array16};
use crate::ffi;
use crate::logic::ip::Ends;
use crate::logic::layers::Family;
use crate::logic::order::{Direction, Positions};

/// The fields that identify a packet. All of them are within bounds.
pub(in crate::kernel::wfp) struct Known<'a> {
    incoming: &'a Incoming<'a>,
    positions: &'static Positions,
}

/// A function of the packet's two addresses. Monomorphized for each consumer, with
/// one copy for each family.
pub(in crate::kernel::wfp) trait EndsConsumer {
    /// The result.
    type Output;

    /// Computes the result, if possible.
    fn make(&self, ends: Ends) -> Option<Self::Output>;
}

struct KeepEnds;

impl EndsConsumer for KeepEnds {
    type Output = Ends;

    #[inline(always)]
    fn make(&self, ends: Ends) -> Option<Ends> {
        Some(ends)
    }
}

impl<'a> Incoming<'a> {
    /// The fields at these positions; `None` if the engine passed fewer values.
    #[inline(always)]
    pub(in crate::kernel::wfp) fn known(&'a self, positions: &'static Positions) -> Option<Known<'a>> {
        (positions.last() < self.values.len()).then_some(Known { incoming: self, positions })
    }
}

impl<'a> Known<'a> {
    /// Source and destination address.
    #[inline(always)]
    pub(in crate::kernel::wfp) fn ends(&self, direction: Direction) -> Option<Ends> {
        self.with_ends(direction, KeepEnds)
    }

    /// Passes source and destination address to `of`.
    #[inline(always)]
    pub(in crate::kernel::wfp) fn with_ends<M: EndsConsumer>(
        &self,
        direction: Direction,
        of: M,
    ) -> Option<M::Output> {
        let [local, remote] = self.positions.addresses();
        let [source, destination] = match direction {
            Direction::Outbound => [local, remote],
            Direction::Inbound => [remote, local],
        };
        match self.incoming.callout.family {
            Family::V4 => {
                let [source, destination] =
                    self.both([source, destination], ffi::FWP_DATA_TYPE_::FWP_UINT32)?;
                // SAFETY: the type says which member is valid.
                let source = unsafe { source.get().__bindgen_anon_1.uint32 };
                // SAFETY: as above.
                let destination = unsafe { destination.get().__bindgen_anon_1.uint32 };
                of.make(Ends::v4(source, destination))
            }
            Family::V6 => {
                let kind = ffi::FWP_DATA_TYPE_::FWP_BYTE_ARRAY16_TYPE;
                let [source, destination] = self.both([source, destination], kind)?;
                // SAFETY: the engine's value, of this type.
                let source = unsafe { byte_array16(source) }?;
                // SAFETY: as above.
                let destination = unsafe { byte_array16(destination) }?;
                of.make(Ends::v6(source, destination))
            }
        }
    }

    /// The local and the remote port. For ICMP they are type and code.
    #[inline(always)]
    pub(in crate::kernel::wfp) fn ports(&self) -> Option<[u16; 2]> {
        let [local, remote] = self.both(self.positions.ports(), ffi::FWP_DATA_TYPE_::FWP_UINT16)?;
        // SAFETY: the type says which member is valid.
        let local = unsafe { local.get().__bindgen_anon_1.uint16 };
        // SAFETY: as above.
        let remote = unsafe { remote.get().__bindgen_anon_1.uint16 };
        Some([local, remote])
    }

    /// The IP protocol.
    #[inline(always)]
    pub(in crate::kernel::wfp) fn protocol(&self) -> Option<u8> {
        let value = self.value(self.positions.protocol(), ffi::FWP_DATA_TYPE_::FWP_UINT8)?;
        // SAFETY: the type says which member is valid.
        Some(unsafe { value.get().__bindgen_anon_1.uint8 })
    }

    #[inline(always)]
    fn both(&self, [a, b]: [usize; 2], kind: ffi::FWP_DATA_TYPE) -> Option<[&'a EngineValue; 2]> {
        Some([self.value(a, kind)?, self.value(b, kind)?])
    }

    #[inline(always)]
    fn value(&self, position: usize, kind: ffi::FWP_DATA_TYPE) -> Option<&'a EngineValue> {
        debug_assert!(position <= self.positions.last(), "it is one of the positions");
        // SAFETY: no position is higher than the last one.
        // `known` has checked that it is within bounds.
        let value = unsafe { self.incoming.values.get_unchecked(position) };
        value.is(kind).then_some(value)
    }
}
