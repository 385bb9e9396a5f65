//! Indications that no engine would make, put to a callout as they are.
//!
//! An indication of the engine's is always whole. Here each part may be absent,
//! short, of another type or inconsistent with the others, as long as it is no
//! lie that nobody could see through: what a pointer leads to is there, in the
//! length that goes with it, and ends at a guard page.

use super::super::memory::{Guarded, PAGE};
use super::super::types::{
    Address, FWP_VALUE0, FWPS_CALLOUT3, FWPS_CLASSIFY_OUT0, FWPS_INCOMING_METADATA_VALUES0,
    FWPS_INCOMING_VALUE0, FWPS_INCOMING_VALUES0, MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_PAGES_LOCKED,
    MDL_SOURCE_IS_NONPAGED_POOL, NET_BUFFER, NET_BUFFER_DATA, NET_BUFFER_LIST,
};
use super::super::{Kernel, Stop};
use crate::wfp::Guid;

/// A value: its `FWP_DATA_TYPE`, any number, and its union.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct RawValue {
    pub kind: u32,
    pub content: Content,
}

/// The union of a `FWP_VALUE0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In place; 0 is also NULL.
    Word(u64),
    /// A pointer to bytes, at most a page.
    Bytes(Vec<u8>),
}

/// How an MDL says where its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawMapping {
    /// `MDL_SOURCE_IS_NONPAGED_POOL`.
    Pool,
    /// `MDL_MAPPED_TO_SYSTEM_VA`.
    Mapped,
    /// Locked, not mapped; the address that is no business of anybody's leads
    /// nowhere.
    Unmapped,
    /// Said to be mapped, at NULL.
    AtNull,
}

/// One MDL.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct RawMdl {
    /// At most a page.
    pub bytes: Vec<u8>,
    pub mapping: RawMapping,
}

/// A NET_BUFFER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawBuffer {
    /// The chain, possibly none.
    pub mdls: Vec<RawMdl>,
    /// The last MDL leads back to the first.
    pub ring: bool,
    /// `DataOffset`, in the chain or not.
    pub data_offset: u32,
    /// `DataLength`, as many bytes or not.
    pub data_length: u64,
}

/// `layerData`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawData {
    /// NULL.
    Null,
    /// A NET_BUFFER_LIST without a NET_BUFFER.
    Empty,
    /// A NET_BUFFER_LIST with these, the first first.
    Buffers(Vec<RawBuffer>),
}

/// The most NET_BUFFERs of an indication.
pub const MOST_BUFFERS: usize = 4;
/// The most MDLs of an indication, all NET_BUFFERs together.
pub const MOST_MDLS: usize = 96;

/// What is passed to a classifyFn.
#[derive(Clone, Debug)]
pub struct Indication {
    /// `layerId`, any number.
    pub layer: u16,
    /// The values' array; `None` is NULL.
    pub values: Option<Vec<RawValue>>,
    /// `valueCount`, where it is not the array's length. More is a lie that a
    /// callout can only tell where it looks beyond what the layer has.
    pub count: Option<u32>,
    /// Bytes by which the array is off its alignment.
    pub skew: usize,
    /// `inFixedValues` is not NULL.
    pub fixed: bool,
    /// `None` is NULL.
    pub metadata: Option<FWPS_INCOMING_METADATA_VALUES0>,
    /// `layerData`.
    pub data: RawData,
    /// `classifyOut` on the way in; `None` is NULL.
    pub out: Option<FWPS_CLASSIFY_OUT0>,
}

/// Pages to put indications into, again and again.
#[derive(Debug)]
pub struct Room {
    values: Guarded,
    fixed: Guarded,
    metadata: Guarded,
    out: Guarded,
    head: Guarded,
    mdls: Guarded,
    /// One for each value's bytes, and each MDL's.
    bytes: Vec<Guarded>,
    used: usize,
}

impl Default for Room {
    fn default() -> Self {
        let page = || Guarded::new(PAGE);
        Self {
            values: page(),
            fixed: page(),
            metadata: page(),
            out: page(),
            head: Guarded::new(2 * PAGE),
            mdls: Guarded::new(2 * PAGE),
            bytes: Vec::new(),
            used: 0,
        }
    }
}

/// Leads nowhere: in the kernel's half, where nothing of the host is.
const NOWHERE: Address = 0xFFFF_9800_DEAD_0000;

impl Room {
    /// Puts an indication into the pages and calls a callout's classifyFn with
    /// it; what it left in `classifyOut`, where there was one.
    ///
    /// # Errors
    /// What stopped the machine.
    pub fn classify(
        &mut self,
        kernel: &Kernel,
        callout: &FWPS_CALLOUT3,
        indication: &Indication,
    ) -> Result<Option<FWPS_CLASSIFY_OUT0>, Stop> {
        self.used = 0;
        let fixed = self.fixed(indication);
        let metadata = indication.metadata.as_ref().map_or(0, |metadata| last(&self.metadata, metadata));
        let data = self.data(&indication.data);
        let out = indication.out.as_ref().map_or(0, |out| last(&self.out, out));
        // Neither context nor filter nor flow context: they are the engine's
        // own, and a callout that needs none must not look.
        let arguments = [fixed as u64, metadata as u64, data as u64, 0, 0, 0, out as u64];
        let level = kernel.options().classify_irql;
        kernel.call_driver(callout.classifyFn, &arguments, level, "classifyFn")?;
        Ok(indication.out.map(|_| self.out.get(out)))
    }

    fn fixed(&mut self, indication: &Indication) -> Address {
        let array = indication.values.as_ref().map_or(0, |values| self.array(values, indication.skew));
        let count = indication.values.as_ref().map_or(0, Vec::len) as u32;
        let fixed = FWPS_INCOMING_VALUES0 {
            layerId: indication.layer,
            valueCount: indication.count.unwrap_or(count),
            incomingValue: array,
        };
        if indication.fixed { last(&self.fixed, &fixed) } else { 0 }
    }

    fn array(&mut self, values: &[RawValue], skew: usize) -> Address {
        let size = size_of::<FWPS_INCOMING_VALUE0>();
        let array = self.values.end() - values.len() * size - skew;
        for (index, value) in values.iter().enumerate() {
            let word = match &value.content {
                Content::Word(word) => *word,
                Content::Bytes(bytes) => self.bytes(bytes) as u64,
            };
            let value = FWP_VALUE0 { r#type: value.kind, value: word };
            if skew == 0 {
                self.values.put(array + index * size, &FWPS_INCOMING_VALUE0 { value });
            }
        }
        array
    }

    /// Bytes that end where their pages do.
    fn bytes(&mut self, bytes: &[u8]) -> Address {
        if self.used == self.bytes.len() {
            self.bytes.push(Guarded::new(PAGE));
        }
        let page = &self.bytes[self.used];
        self.used += 1;
        let at = page.end() - bytes.len();
        page.put_bytes(at, bytes);
        at
    }

    fn data(&mut self, data: &RawData) -> Address {
        let buffers = match data {
            RawData::Null => return 0,
            RawData::Empty => &[][..],
            RawData::Buffers(buffers) => buffers,
        };
        let list = self.head.end() - size_of::<NET_BUFFER_LIST>();
        let at = |index: usize| list - (index + 1) * size_of::<NET_BUFFER>();
        let mut mdls = self.mdls.end();
        for (index, buffer) in buffers.iter().enumerate() {
            let next = if index + 1 < buffers.len() { at(index + 1) } else { 0 };
            mdls -= buffer.mdls.len() * size_of::<MDL>();
            let chain = self.chain(mdls, buffer);
            let data = NET_BUFFER_DATA {
                Next: next,
                CurrentMdl: chain,
                // Consistent or not: a callout that trusts it reads wrong
                // bytes, but within the chain.
                CurrentMdlOffset: buffer.data_offset,
                stDataLength: buffer.data_length,
                MdlChain: chain,
                DataOffset: buffer.data_offset,
            };
            self.head.put(at(index), &NET_BUFFER { Data: data, ..NET_BUFFER::zeroed() });
        }
        let first = if buffers.is_empty() { 0 } else { at(0) };
        self.head.put(list, &NET_BUFFER_LIST { FirstNetBuffer: first, ..NET_BUFFER_LIST::zeroed() });
        list
    }

    fn chain(&mut self, first: Address, buffer: &RawBuffer) -> Address {
        let count = buffer.mdls.len();
        for (index, mdl) in buffer.mdls.iter().enumerate() {
            let next = match index + 1 {
                next if next < count => first + next * size_of::<MDL>(),
                _ if buffer.ring => first,
                _ => 0,
            };
            let at = self.bytes(&mdl.bytes);
            let (flags, mapped) = match mdl.mapping {
                RawMapping::Pool => (MDL_SOURCE_IS_NONPAGED_POOL, at),
                RawMapping::Mapped => (MDL_PAGES_LOCKED | MDL_MAPPED_TO_SYSTEM_VA, at),
                RawMapping::Unmapped => (MDL_PAGES_LOCKED, NOWHERE),
                RawMapping::AtNull => (MDL_MAPPED_TO_SYSTEM_VA, 0),
            };
            let mdl = MDL {
                Next: next,
                Size: size_of::<MDL>() as i16,
                MdlFlags: flags,
                Process: 0,
                MappedSystemVa: mapped,
                StartVa: at & !(PAGE - 1),
                ByteCount: mdl.bytes.len() as u32,
                ByteOffset: (at % PAGE) as u32,
            };
            self.mdls.put(first + index * size_of::<MDL>(), &mdl);
        }
        if count == 0 { 0 } else { first }
    }
}

/// Puts a structure at the end of its pages.
fn last<T: super::super::types::Plain>(room: &Guarded, value: &T) -> Address {
    let at = room.end() - size_of::<T>();
    room.put(at, value);
    at
}

impl Kernel {
    /// What the driver registered under a callout's key, last.
    pub fn registered(&self, key: Guid) -> Option<FWPS_CALLOUT3> {
        self.objects().callouts.get(&key).copied()
    }
}
