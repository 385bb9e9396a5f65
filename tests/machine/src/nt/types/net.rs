//! `nbl.h`: network buffers.

use super::{Address, raw};

raw! {
    /// The first part of a `NET_BUFFER` (`nbl.h`).
    struct NET_BUFFER_DATA {
        Next: Address,
        CurrentMdl: Address,
        CurrentMdlOffset: u32,
        stDataLength = "@u1.stDataLength": u64,
        MdlChain: Address,
        DataOffset: u32,
    }

    /// `nbl.h`.
    #[repr(align(16))]
    struct NET_BUFFER {
        Data = "@u1.@s1": NET_BUFFER_DATA,
        ChecksumBias: u16,
        Reserved: u16,
        NdisPoolHandle: Address,
        NdisReserved: [Address; 2],
        ProtocolReserved: [Address; 6],
        MiniportReserved: [Address; 4],
        DataPhysicalAddress: u64,
        SharedMemoryInfo = "@u2.SharedMemoryInfo": Address,
    }

    /// `nbl.h`, as of NDIS 6.80.
    #[repr(align(16))]
    struct NET_BUFFER_LIST {
        Next = "@u1.@s1.Next": Address,
        FirstNetBuffer = "@u1.@s1.FirstNetBuffer": Address,
        Context: Address,
        ParentNetBufferList: Address,
        NdisPoolHandle: Address,
        NdisReserved: NDIS_RESERVED,
        ProtocolReserved: [Address; 4],
        MiniportReserved: [Address; 2],
        Scratch: Address,
        SourceHandle: Address,
        NblFlags: u32,
        ChildRefCount: i32,
        Flags: u32,
        Status = "@u2.Status": i32,
        NetBufferListInfo: [Address; 27],
    }

    /// `nbl.h`. The context's data follow it.
    #[repr(align(16))]
    struct NET_BUFFER_LIST_CONTEXT { Next: Address, Size: u16, Offset: u16 }

    /// `objectheader.h`.
    struct NDIS_OBJECT_HEADER { Type: u8, Revision: u8, Size: u16 }

    /// `nblapi.h`. Revision 1 ends before `Flags`.
    struct NET_BUFFER_LIST_POOL_PARAMETERS {
        Header: NDIS_OBJECT_HEADER,
        ProtocolId: u8,
        fAllocateNetBuffer: u8,
        ContextSize: u16,
        PoolTag: u32,
        DataSize: u32,
        Flags: u32,
    }

    /// `nblapi.h`. Revision 1 ends before `Flags`.
    struct NET_BUFFER_POOL_PARAMETERS { Header: NDIS_OBJECT_HEADER, PoolTag: u32, DataSize: u32, Flags: u32 }
}

/// `NdisReserved`, which the header aligns to 16 bytes.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug)]
pub struct NDIS_RESERVED([Address; 2]);
