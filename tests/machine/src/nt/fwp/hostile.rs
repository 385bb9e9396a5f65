//! Indications that an engine would not make, passed to a callout unchanged.
//!
//! The engine's indications are always complete and consistent. Here each part may
//! be absent, short, of another type or inconsistent with other parts. Only lies
//! that no callout can detect are excluded: pointers lead to readable memory of the
//! stated length, which ends at a guard page.

use super::super::memory::{Guarded, PAGE};
use super::super::placement::Callback;
use super::super::types::{
    Address, FWP_BYTE_BLOB, FWPS_CALLOUT3, FWPS_CLASSIFY_OUT0, FWPS_INCOMING_METADATA_VALUES0,
    FWPS_INCOMING_VALUES0, FWPS_STREAM_CALLOUT_IO_PACKET0, FWPS_STREAM_DATA0, MDL, MDL_MAPPED_TO_SYSTEM_VA,
    MDL_PAGES_LOCKED, MDL_SOURCE_IS_NONPAGED_POOL, NET_BUFFER, NET_BUFFER_DATA, NET_BUFFER_LIST, Plain,
};
use super::super::{Kernel, Stop};
use super::Prototype;
use crate::wfp::Guid;

/// A value: its `FWP_DATA_TYPE`, which may be any number, and its union.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct RawValue {
    pub kind: u32,
    pub content: Content,
}

/// The union of a `FWP_VALUE0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A value in place. 0 is also NULL.
    Word(u64),
    /// A pointer to at most a page of bytes.
    Bytes(Vec<u8>),
    /// A pointer to a `FWP_BYTE_BLOB` with this `size`. Without `data`, its pointer
    /// is NULL.
    #[allow(missing_docs, reason = "the fields say it")]
    Blob { size: u32, data: Option<Vec<u8>> },
}

/// How an MDL describes its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawMapping {
    /// `MDL_SOURCE_IS_NONPAGED_POOL`.
    Pool,
    /// `MDL_MAPPED_TO_SYSTEM_VA`.
    Mapped,
    /// Locked but not mapped. `MappedSystemVa`, which is then undefined, is an
    /// invalid address.
    Unmapped,
    /// Flagged as mapped, with a NULL address.
    AtNull,
}

/// The end of the page at which bytes lie. Reads beyond that end fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Edge {
    /// The byte after the last one is in a guard page.
    #[default]
    End,
    /// The byte before the first one is in a guard page.
    Start,
}

/// An MDL.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct RawMdl {
    /// At most a page.
    pub bytes: Vec<u8>,
    pub mapping: RawMapping,
    /// `ByteCount`, if it is not the number of bytes.
    pub byte_count: Option<u32>,
    pub edge: Edge,
}

impl RawMdl {
    /// An MDL over bytes in nonpaged pool, with the right length.
    pub fn over(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), mapping: RawMapping::Pool, byte_count: None, edge: Edge::End }
    }
}

/// A NET_BUFFER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawBuffer {
    /// The MDL chain; may be empty.
    pub mdls: Vec<RawMdl>,
    /// Whether the last MDL links to the first.
    pub ring: bool,
    /// `DataOffset`; may be beyond the chain.
    pub data_offset: u32,
    /// `DataLength`; may be more than the chain has.
    pub data_length: u64,
    /// `CurrentMdlOffset`, if it is not the data's offset. A callout that uses it
    /// reads wrong bytes, or none.
    pub current_offset: Option<u32>,
}

/// A `FWPS_STREAM_DATA0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct RawStream {
    pub flags: u32,
    /// `dataLength`. There is no chain of NET_BUFFER_LISTs.
    pub length: u64,
}

/// `layerData`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawData {
    /// NULL.
    Null,
    /// A NET_BUFFER_LIST without a NET_BUFFER.
    Empty,
    /// A NET_BUFFER_LIST with these NET_BUFFERs, in order.
    Buffers(Vec<RawBuffer>),
    /// A NET_BUFFER_LIST whose last NET_BUFFER links to the first, and which links
    /// to itself.
    Cycle(Vec<RawBuffer>),
    /// A `FWPS_STREAM_CALLOUT_IO_PACKET0`. Without data, its pointer is NULL.
    Stream(Option<RawStream>),
}

/// The arguments of a classifyFn.
#[derive(Clone, Debug)]
pub struct Indication {
    /// `layerId`; may be any number.
    pub layer: u16,
    /// The array of values; `None` is NULL.
    pub values: Option<Vec<RawValue>>,
    /// `valueCount`, if it is not the array's length. A callout detects a larger
    /// count only if it reads more values than the layer has.
    pub count: Option<u32>,
    /// Number of bytes by which the array is misaligned.
    pub skew: usize,
    /// Whether `inFixedValues` is not NULL.
    pub fixed: bool,
    /// `inMetaValues`; `None` is NULL.
    pub metadata: Option<FWPS_INCOMING_METADATA_VALUES0>,
    /// `layerData`.
    pub data: RawData,
    /// `flowContext`; may be a number that no driver associated.
    pub flow_context: u64,
    /// `classifyOut` before the call; `None` is NULL.
    pub out: Option<FWPS_CLASSIFY_OUT0>,
}

/// Reusable pages for indications. Guard pages surround every structure and every
/// run of bytes.
#[derive(Debug, Default)]
pub struct Room {
    pages: Vec<Guarded>,
    used: usize,
}

/// An invalid address in the kernel's half, where the host has no memory.
const NOWHERE: Address = 0xFFFF_9800_DEAD_0000;

impl Room {
    /// Copies an indication into the pages and calls a callout's classifyFn with
    /// it. Returns what the callout left in `classifyOut`, if there is one.
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
        // No context and no filter: they are opaque, and a callout that does not
        // use them must not read them.
        let flow_context = indication.flow_context;
        let arguments = [fixed as u64, metadata as u64, data as u64, 0, 0, flow_context, out as u64];
        let level = kernel.level_of(Callback::Callout);
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
            // `FWPS_INCOMING_VALUE0` as bytes, because it may be misaligned.
            array.extend(u64::from(value.kind).to_ne_bytes());
            array.extend(word.to_ne_bytes());
        }
        array.resize(array.len() + skew, 0);
        self.bytes(&array, Edge::End)
    }

    /// A page that this indication does not use yet.
    fn page(&mut self) -> &Guarded {
        if self.used == self.pages.len() {
            self.pages.push(Guarded::new(PAGE));
        }
        self.used += 1;
        &self.pages[self.used - 1]
    }

    /// Copies bytes to the given end of a page.
    fn bytes(&mut self, bytes: &[u8], edge: Edge) -> Address {
        let page = self.page();
        let at = match edge {
            Edge::End => page.end() - bytes.len(),
            Edge::Start => page.start(),
        };
        page.put_bytes(at, bytes);
        at
    }

    /// Copies a structure to the end of a page.
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
    /// The callout that the driver last registered under a key.
    pub fn registered(&self, key: Guid) -> Option<FWPS_CALLOUT3> {
        self.objects().callouts.get(&key).map(|(callout, _)| *callout)
    }

    /// The prototype of its functions.
    pub fn prototype(&self, key: Guid) -> Option<Prototype> {
        self.objects().callouts.get(&key).map(|(_, prototype)| *prototype)
    }
}
