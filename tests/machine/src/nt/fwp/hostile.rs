//! Indications that no engine would make, put to a callout as they are.
//!
//! An indication of the engine's is always whole. Here each part may be absent,
//! short, of another type or inconsistent with the others, as long as it is no
//! lie that nobody could see through: what a pointer leads to is there, in the
//! length that goes with it, and ends at a guard page.

use super::super::memory::{Guarded, PAGE};
use super::super::types::{
    Address, FWP_BYTE_BLOB, FWPS_CALLOUT3, FWPS_CLASSIFY_OUT0, FWPS_INCOMING_METADATA_VALUES0,
    FWPS_INCOMING_VALUES0, FWPS_STREAM_CALLOUT_IO_PACKET0, FWPS_STREAM_DATA0, MDL, MDL_MAPPED_TO_SYSTEM_VA,
    MDL_PAGES_LOCKED, MDL_SOURCE_IS_NONPAGED_POOL, NET_BUFFER, NET_BUFFER_DATA, NET_BUFFER_LIST, Plain,
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
    /// A pointer to a `FWP_BYTE_BLOB` that says it has `size` bytes; without
    /// `data` its pointer is NULL.
    #[allow(missing_docs, reason = "the fields say it")]
    Blob { size: u32, data: Option<Vec<u8>> },
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

/// At which end of their pages bytes lie: what is read beyond it faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Edge {
    /// The byte after the last one is a guard page's.
    #[default]
    End,
    /// The byte before the first one is.
    Start,
}

/// One MDL.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct RawMdl {
    /// At most a page.
    pub bytes: Vec<u8>,
    pub mapping: RawMapping,
    /// `ByteCount`, where it is not the number of bytes.
    pub byte_count: Option<u32>,
    pub edge: Edge,
}

impl RawMdl {
    /// Over bytes in nonpaged pool, as many as it says.
    pub fn over(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), mapping: RawMapping::Pool, byte_count: None, edge: Edge::End }
    }
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
    /// `CurrentMdlOffset`, where it is not the data's offset. A callout that
    /// trusts it reads wrong bytes, or none.
    pub current_offset: Option<u32>,
}

/// A `FWPS_STREAM_DATA0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct RawStream {
    pub flags: u32,
    /// `dataLength`; there is no list of NET_BUFFERs behind it.
    pub length: u64,
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
    /// The same, but the last NET_BUFFER leads back to the first, and the list to
    /// itself.
    Cycle(Vec<RawBuffer>),
    /// A `FWPS_STREAM_CALLOUT_IO_PACKET0`; without data its pointer is NULL.
    Stream(Option<RawStream>),
}

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
    /// `flowContext`, any number: it need not be one that a driver associated.
    pub flow_context: u64,
    /// `classifyOut` on the way in; `None` is NULL.
    pub out: Option<FWPS_CLASSIFY_OUT0>,
}

/// Pages to put indications into, again and again: a pair of guard pages around
/// every structure and every run of bytes.
#[derive(Debug, Default)]
pub struct Room {
    pages: Vec<Guarded>,
    used: usize,
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
        let metadata = indication.metadata.as_ref().map_or(0, |metadata| self.put(metadata));
        let data = self.data(&indication.data);
        let out_page = self.used;
        let out = indication.out.as_ref().map_or(0, |out| self.put(out));
        // Neither context nor filter: they are the engine's own, and a callout
        // that needs none must not look.
        let flow_context = indication.flow_context;
        let arguments = [fixed as u64, metadata as u64, data as u64, 0, 0, flow_context, out as u64];
        let level = kernel.options().classify_irql;
        kernel.call_driver(callout.classifyFn, &arguments, level, "classifyFn")?;
        Ok(indication.out.map(|_| self.pages[out_page].get(out)))
    }

    fn fixed(&mut self, indication: &Indication) -> Address {
        let array = indication.values.as_ref().map_or(0, |values| self.array(values, indication.skew));
        let count = indication.values.as_ref().map_or(0, Vec::len) as u32;
        let fixed = FWPS_INCOMING_VALUES0 {
            layerId: indication.layer,
            valueCount: indication.count.unwrap_or(count),
            incomingValue: array,
        };
        if indication.fixed { self.put(&fixed) } else { 0 }
    }

    fn array(&mut self, values: &[RawValue], skew: usize) -> Address {
        let mut array = Vec::new();
        for value in values {
            let word = match &value.content {
                Content::Word(word) => *word,
                Content::Bytes(bytes) => self.bytes(bytes, Edge::End) as u64,
                Content::Blob { size, data } => {
                    let data = data.as_ref().map_or(0, |data| self.bytes(data, Edge::End));
                    self.put(&FWP_BYTE_BLOB { size: *size, data }) as u64
                }
            };
            // `FWPS_INCOMING_VALUE0`, byte by byte: it may begin at any address.
            array.extend(u64::from(value.kind).to_ne_bytes());
            array.extend(word.to_ne_bytes());
        }
        array.resize(array.len() + skew, 0);
        self.bytes(&array, Edge::End)
    }

    /// A page that nothing of this indication is in yet.
    fn page(&mut self) -> &Guarded {
        if self.used == self.pages.len() {
            self.pages.push(Guarded::new(PAGE));
        }
        self.used += 1;
        &self.pages[self.used - 1]
    }

    /// Bytes that end where their page does, or begin there.
    fn bytes(&mut self, bytes: &[u8], edge: Edge) -> Address {
        let page = self.page();
        let at = match edge {
            Edge::End => page.end() - bytes.len(),
            Edge::Start => page.start(),
        };
        page.put_bytes(at, bytes);
        at
    }

    /// A structure that ends where its page does.
    fn put<T: Plain>(&mut self, value: &T) -> Address {
        let page = self.page();
        let at = page.end() - size_of::<T>();
        page.put(at, value);
        at
    }

    fn data(&mut self, data: &RawData) -> Address {
        let (buffers, cycle) = match data {
            RawData::Null => return 0,
            RawData::Stream(stream) => return self.stream(*stream),
            RawData::Empty => (&[][..], false),
            RawData::Buffers(buffers) => (&buffers[..], false),
            RawData::Cycle(buffers) => (&buffers[..], true),
        };
        let first_page = self.used;
        let places: Vec<_> = buffers.iter().map(|_| self.put(&NET_BUFFER::zeroed())).collect();
        let first = places.first().copied().unwrap_or(0);
        for (index, buffer) in buffers.iter().enumerate() {
            let chain = self.chain(buffer);
            let data = NET_BUFFER_DATA {
                Next: places.get(index + 1).copied().unwrap_or(if cycle { first } else { 0 }),
                CurrentMdl: chain,
                CurrentMdlOffset: buffer.current_offset.unwrap_or(buffer.data_offset),
                stDataLength: buffer.data_length,
                MdlChain: chain,
                DataOffset: buffer.data_offset,
            };
            let buffer = NET_BUFFER { Data: data, ..NET_BUFFER::zeroed() };
            self.pages[first_page + index].put(places[index], &buffer);
        }
        let list_page = self.used;
        let mut list = NET_BUFFER_LIST { FirstNetBuffer: first, ..NET_BUFFER_LIST::zeroed() };
        let at = self.put(&list);
        if cycle {
            list.Next = at;
            self.pages[list_page].put(at, &list);
        }
        at
    }

    fn stream(&mut self, stream: Option<RawStream>) -> Address {
        let data = stream.map_or(0, |RawStream { flags, length }| {
            self.put(&FWPS_STREAM_DATA0 { flags, dataLength: length, ..FWPS_STREAM_DATA0::zeroed() })
        });
        self.put(&FWPS_STREAM_CALLOUT_IO_PACKET0 {
            streamData: data,
            ..FWPS_STREAM_CALLOUT_IO_PACKET0::zeroed()
        })
    }

    fn chain(&mut self, buffer: &RawBuffer) -> Address {
        let first_page = self.used;
        let places: Vec<_> = buffer.mdls.iter().map(|_| self.put(&MDL::zeroed())).collect();
        let first = places.first().copied().unwrap_or(0);
        for (index, mdl) in buffer.mdls.iter().enumerate() {
            let at = self.bytes(&mdl.bytes, mdl.edge);
            let (flags, mapped) = match mdl.mapping {
                RawMapping::Pool => (MDL_SOURCE_IS_NONPAGED_POOL, at),
                RawMapping::Mapped => (MDL_PAGES_LOCKED | MDL_MAPPED_TO_SYSTEM_VA, at),
                RawMapping::Unmapped => (MDL_PAGES_LOCKED, NOWHERE),
                RawMapping::AtNull => (MDL_MAPPED_TO_SYSTEM_VA, 0),
            };
            let mdl = MDL {
                Next: places.get(index + 1).copied().unwrap_or(if buffer.ring { first } else { 0 }),
                Size: size_of::<MDL>() as i16,
                MdlFlags: flags,
                Process: 0,
                MappedSystemVa: mapped,
                StartVa: at & !(PAGE - 1),
                ByteCount: mdl.byte_count.unwrap_or(mdl.bytes.len() as u32),
                ByteOffset: (at % PAGE) as u32,
            };
            self.pages[first_page + index].put(places[index], &mdl);
        }
        first
    }
}

impl Kernel {
    /// What the driver registered under a callout's key, last.
    pub fn registered(&self, key: Guid) -> Option<FWPS_CALLOUT3> {
        self.objects().callouts.get(&key).copied()
    }
}
