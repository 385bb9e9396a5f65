//! Buffers of requests, and memory objects (`wdfrequest.h`, `wdfmemory.h`).

use super::super::cpu::Irql;
use super::super::enter::enter;
use super::super::irp::major;
use super::super::memory::PAGE;
use super::super::pool::Wanted;
use super::super::types::{
    Address, IRP, MDL, MDL_MAPPED_TO_SYSTEM_VA, MDL_PAGES_LOCKED, MDL_SOURCE_IS_NONPAGED_POOL, NTSTATUS,
};
use super::super::{Kernel, Trouble, cpu, foreign, process, status as nt_status};
use super::object::{self, Parent};
use super::request::{self, Place};
use super::{Data, Framework, Kind, finish, finish_value, not_null};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// A request's two buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Input,
    Output,
}

/// `METHOD_NEITHER` (`wdm.h`).
const METHOD_NEITHER: u32 = 3;
/// `METHOD_BUFFERED` (`wdm.h`).
const METHOD_BUFFERED: u32 = 0;
/// The tag of the framework's MDLs.
const MDL_TAG: u32 = u32::from_le_bytes(*b"FxMd");

/// A buffer as the driver reaches it: address, size, and the I/O manager's MDL, if it
/// has one.
#[derive(Clone, Copy, Debug)]
struct Found {
    address: Address,
    size: usize,
    mdl: Address,
}

/// A request's buffer. STATUS_BUFFER_TOO_SMALL if there is none or it is smaller than
/// `least`; STATUS_INVALID_DEVICE_REQUEST if this request passes it in another way.
fn find(
    kernel: &Kernel,
    handle: Address,
    which: Which,
    least: usize,
) -> Result<Result<Found, Status>, Trouble> {
    let (irp, kind, code, parameters) = {
        let mut framework = kernel.framework();
        let data = request::live(framework.request(handle)?, handle)?;
        (data.irp, data.major, data.code, data.parameters)
    };
    let header: IRP = foreign::read(irp)?;
    let word = |at: usize| parameters[at] as u32 as usize;
    let (size, is_copied) = match (kind, which) {
        (major::DEVICE_CONTROL | major::INTERNAL_DEVICE_CONTROL, _) if code & 3 == METHOD_NEITHER => {
            return Ok(Err(nt_status::INVALID_DEVICE_REQUEST));
        }
        (major::DEVICE_CONTROL | major::INTERNAL_DEVICE_CONTROL, Which::Input) => (word(1), true),
        (major::DEVICE_CONTROL | major::INTERNAL_DEVICE_CONTROL, Which::Output) => {
            (word(0), code & 3 == METHOD_BUFFERED)
        }
        (major::READ, Which::Output) | (major::WRITE, Which::Input) => (word(0), header.SystemBuffer != 0),
        _ => return Ok(Err(nt_status::INVALID_DEVICE_REQUEST)),
    };
    if size == 0 || size < least {
        return Ok(Err(Status::BUFFER_TOO_SMALL));
    }
    if is_copied {
        return Ok(Ok(Found { address: header.SystemBuffer, size, mdl: 0 }));
    }
    if header.MdlAddress == 0 {
        // Reads and writes of a device that passes addresses as they are.
        return Ok(Err(nt_status::INVALID_DEVICE_REQUEST));
    }
    let mut mdl: MDL = foreign::read(header.MdlAddress)?;
    if mdl.MdlFlags & MDL_MAPPED_TO_SYSTEM_VA == 0 {
        if kernel.pool().take_shortage() {
            return Ok(Err(Status::INSUFFICIENT_RESOURCES));
        }
        mdl.MappedSystemVa = mdl.StartVa + mdl.ByteOffset as usize;
        mdl.MdlFlags |= MDL_MAPPED_TO_SYSTEM_VA;
        foreign::write(header.MdlAddress, &mdl)?;
    }
    Ok(Ok(Found { address: mdl.MappedSystemVa, size, mdl: header.MdlAddress }))
}

fn retrieve_buffer(
    kernel: &Kernel,
    request: Address,
    which: Which,
    least: usize,
    out: [Address; 2],
) -> Result<Status, Trouble> {
    let found = match find(kernel, request, which, least)? {
        Ok(found) => found,
        Err(status) => return Ok(status),
    };
    foreign::write(not_null("Buffer", out[0])?, &found.address)?;
    if out[1] != 0 {
        foreign::write(out[1], &found.size)?;
    }
    Ok(Status::SUCCESS)
}

/// `WdfRequestRetrieveInputBuffer`.
pub extern "win64" fn WdfRequestRetrieveInputBuffer(
    DriverGlobals: Address,
    Request: Address,
    MinimumRequiredLength: usize,
    Buffer: Address,
    Length: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRequestRetrieveInputBuffer);
    let _ = DriverGlobals;
    let out = [Buffer, Length];
    finish(&kernel, retrieve_buffer(&kernel, Request, Which::Input, MinimumRequiredLength, out))
}

/// `WdfRequestRetrieveOutputBuffer`.
pub extern "win64" fn WdfRequestRetrieveOutputBuffer(
    DriverGlobals: Address,
    Request: Address,
    MinimumRequiredSize: usize,
    Buffer: Address,
    Length: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRequestRetrieveOutputBuffer);
    let _ = DriverGlobals;
    let out = [Buffer, Length];
    finish(&kernel, retrieve_buffer(&kernel, Request, Which::Output, MinimumRequiredSize, out))
}

fn retrieve_memory(kernel: &Kernel, request: Address, which: Which, out: Address) -> Result<Status, Trouble> {
    let found = match find(kernel, request, which, 0)? {
        Ok(found) => found,
        Err(status) => return Ok(status),
    };
    let known = kernel.framework().request(request)?.memories[which as usize];
    let memory = match known {
        0 => {
            let data = Data::Memory { address: found.address, size: found.size, tag: 0 };
            match object::create(kernel, Kind::Memory, 0, Parent::Fixed(request), data)? {
                Ok(memory) => memory,
                Err(status) => return Ok(status),
            }
        }
        known => known,
    };
    kernel.framework().request(request)?.memories[which as usize] = memory;
    foreign::write(not_null("Memory", out)?, &memory)?;
    Ok(Status::SUCCESS)
}

/// `WdfRequestRetrieveInputMemory`. The object belongs to the request.
pub extern "win64" fn WdfRequestRetrieveInputMemory(
    DriverGlobals: Address,
    Request: Address,
    Memory: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRequestRetrieveInputMemory);
    let _ = DriverGlobals;
    finish(&kernel, retrieve_memory(&kernel, Request, Which::Input, Memory))
}

/// `WdfRequestRetrieveOutputMemory`. The object belongs to the request.
pub extern "win64" fn WdfRequestRetrieveOutputMemory(
    DriverGlobals: Address,
    Request: Address,
    Memory: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRequestRetrieveOutputMemory);
    let _ = DriverGlobals;
    finish(&kernel, retrieve_memory(&kernel, Request, Which::Output, Memory))
}

/// Gives the MDL of a buffer: the I/O manager's, or one that the framework builds over
/// the copied buffer and frees with the request.
fn retrieve_mdl(kernel: &Kernel, request: Address, which: Which, out: Address) -> Result<Status, Trouble> {
    let found = match find(kernel, request, which, 0)? {
        Ok(found) => found,
        Err(status) => return Ok(status),
    };
    let known = kernel.framework().request(request)?.mdls[which as usize];
    let mdl = match (found.mdl, known) {
        (0, 0) => build_mdl(kernel, found)?,
        (0, known) => known,
        (mdl, _) => mdl,
    };
    if found.mdl == 0 {
        kernel.framework().request(request)?.mdls[which as usize] = mdl;
    }
    foreign::write(not_null("Mdl", out)?, &mdl)?;
    Ok(Status::SUCCESS)
}

fn build_mdl(kernel: &Kernel, found: Found) -> Result<Address, Trouble> {
    let offset = found.address % PAGE;
    let size = size_of::<MDL>() + 8 * (offset + found.size).div_ceil(PAGE);
    let address = kernel.pool().allocate_for_system(size, MDL_TAG);
    let mdl = MDL {
        Size: size as i16,
        MdlFlags: MDL_SOURCE_IS_NONPAGED_POOL | MDL_PAGES_LOCKED,
        MappedSystemVa: found.address,
        StartVa: found.address - offset,
        ByteCount: found.size as u32,
        ByteOffset: offset as u32,
        ..MDL::zeroed()
    };
    foreign::write(address, &mdl)?;
    Ok(address)
}

/// Frees the MDLs that the framework built for a request.
pub(super) fn release(kernel: &Kernel, mdls: [Address; 2]) {
    for mdl in mdls.into_iter().filter(|mdl| *mdl != 0) {
        if let Err(violation) = kernel.pool().free(mdl, MDL_TAG, cpu::irql(), Vec::new()) {
            kernel.condemn(violation);
        }
    }
}

/// `WdfRequestRetrieveInputWdmMdl`.
pub extern "win64" fn WdfRequestRetrieveInputWdmMdl(
    DriverGlobals: Address,
    Request: Address,
    Mdl: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRequestRetrieveInputWdmMdl);
    let _ = DriverGlobals;
    finish(&kernel, retrieve_mdl(&kernel, Request, Which::Input, Mdl))
}

/// `WdfRequestRetrieveOutputWdmMdl`.
pub extern "win64" fn WdfRequestRetrieveOutputWdmMdl(
    DriverGlobals: Address,
    Request: Address,
    Mdl: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRequestRetrieveOutputWdmMdl);
    let _ = DriverGlobals;
    finish(&kernel, retrieve_mdl(&kernel, Request, Which::Output, Mdl))
}

/// Gives the address of the program's own buffer, in EvtIoInCallerContext only.
fn retrieve_unsafe(
    kernel: &Kernel,
    request: Address,
    which: Which,
    least: usize,
    out: [Address; 2],
) -> Result<Status, Trouble> {
    let (irp, kind, code, parameters, place) = {
        let mut framework = kernel.framework();
        let data = request::live(framework.request(request)?, request)?;
        (data.irp, data.major, data.code, data.parameters, data.place)
    };
    let header: IRP = foreign::read(irp)?;
    let word = |at: usize| parameters[at] as u32 as usize;
    let is_control = kind == major::DEVICE_CONTROL && code & 3 == METHOD_NEITHER;
    let (address, size) = match (kind, which) {
        _ if place != Place::CallerContext => return Ok(nt_status::INVALID_DEVICE_REQUEST),
        (_, Which::Input) if is_control => (parameters[3] as Address, word(1)),
        (_, Which::Output) if is_control => (header.UserBuffer, word(0)),
        (major::WRITE, Which::Input) | (major::READ, Which::Output)
            if header.SystemBuffer == 0 && header.MdlAddress == 0 =>
        {
            (header.UserBuffer, word(0))
        }
        _ => return Ok(nt_status::INVALID_DEVICE_REQUEST),
    };
    if size == 0 || size < least {
        return Ok(Status::BUFFER_TOO_SMALL);
    }
    foreign::write(not_null("Buffer", out[0])?, &address)?;
    if out[1] != 0 {
        foreign::write(out[1], &size)?;
    }
    Ok(Status::SUCCESS)
}

/// `WdfRequestRetrieveUnsafeUserInputBuffer`.
pub extern "win64" fn WdfRequestRetrieveUnsafeUserInputBuffer(
    DriverGlobals: Address,
    Request: Address,
    MinimumRequiredLength: usize,
    InputBuffer: Address,
    Length: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRequestRetrieveUnsafeUserInputBuffer);
    let _ = DriverGlobals;
    let out = [InputBuffer, Length];
    finish(&kernel, retrieve_unsafe(&kernel, Request, Which::Input, MinimumRequiredLength, out))
}

/// `WdfRequestRetrieveUnsafeUserOutputBuffer`.
pub extern "win64" fn WdfRequestRetrieveUnsafeUserOutputBuffer(
    DriverGlobals: Address,
    Request: Address,
    MinimumRequiredLength: usize,
    OutputBuffer: Address,
    Length: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRequestRetrieveUnsafeUserOutputBuffer);
    let _ = DriverGlobals;
    let out = [OutputBuffer, Length];
    finish(&kernel, retrieve_unsafe(&kernel, Request, Which::Output, MinimumRequiredLength, out))
}

/// Checks and locks memory of the program that made the request. The memory object
/// belongs to the request.
fn probe_and_lock(
    kernel: &Kernel,
    request: Address,
    buffer: Address,
    length: usize,
    write: bool,
    out: Address,
) -> Result<Status, Trouble> {
    not_null("MemoryObject", out)?;
    let irp = request::live(kernel.framework().request(request)?, request)?.irp;
    // "The driver must call it in the context of the process that made the request"
    // (reference page): the addresses mean something else in another process.
    if super::super::irp::requestor(kernel, irp)? != process::current() {
        return Ok(Status::INVALID_USER_BUFFER);
    }
    if length == 0 {
        return Ok(Status::INVALID_USER_BUFFER);
    }
    let Ok(bytes) = foreign::read_bytes(buffer, length) else { return Ok(Status::ACCESS_VIOLATION) };
    if write && foreign::write_bytes(buffer, &bytes).is_err() {
        return Ok(Status::ACCESS_VIOLATION);
    }
    kernel.lock_users(buffer);
    let data = Data::Memory { address: buffer, size: length, tag: 0 };
    object::give(object::create(kernel, Kind::Memory, 0, Parent::Fixed(request), data)?, out)
}

/// `WdfRequestProbeAndLockUserBufferForRead`.
pub extern "win64" fn WdfRequestProbeAndLockUserBufferForRead(
    DriverGlobals: Address,
    Request: Address,
    Buffer: Address,
    Length: usize,
    MemoryObject: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRequestProbeAndLockUserBufferForRead);
    let _ = DriverGlobals;
    finish(&kernel, probe_and_lock(&kernel, Request, Buffer, Length, false, MemoryObject))
}

/// `WdfRequestProbeAndLockUserBufferForWrite`.
pub extern "win64" fn WdfRequestProbeAndLockUserBufferForWrite(
    DriverGlobals: Address,
    Request: Address,
    Buffer: Address,
    Length: usize,
    MemoryObject: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRequestProbeAndLockUserBufferForWrite);
    let _ = DriverGlobals;
    finish(&kernel, probe_and_lock(&kernel, Request, Buffer, Length, true, MemoryObject))
}

/// Address and size of a memory object's buffer.
fn memory(framework: &mut Framework, handle: Address) -> Result<(Address, usize), Violation> {
    match framework.object_of(handle, Kind::Memory)?.data {
        Data::Memory { address, size, .. } => Ok((address, size)),
        ref other => unreachable!("a WDFMEMORY with {other:?}"),
    }
}

/// The address of a memory object's buffer.
pub(super) fn address(kernel: &Kernel, handle: Address) -> Result<Address, Violation> {
    memory(&mut kernel.framework(), handle).map(|(address, _)| address)
}

/// `WdfMemoryGetBuffer`.
pub extern "win64" fn WdfMemoryGetBuffer(
    DriverGlobals: Address,
    Memory: Address,
    BufferSize: Address,
) -> Address {
    let kernel = enter!(WdfMemoryGetBuffer);
    let _ = DriverGlobals;
    let get = || {
        let (address, size) = memory(&mut kernel.framework(), Memory)?;
        if BufferSize != 0 {
            foreign::write(BufferSize, &size)?;
        }
        Ok(address)
    };
    finish_value(&kernel, get())
}

/// `POOL_TYPE` (`wdm.h`): set for paged pool.
const PAGED_POOL: i32 = 1;

/// Creates a memory object with a block of pool of its own. `paged`: in paged pool.
pub(super) fn create_memory(
    kernel: &Kernel,
    attributes: Address,
    paged: bool,
    tag: u32,
    size: usize,
) -> Result<Result<Address, Status>, Trouble> {
    if paged && cpu::irql() > Irql::APC {
        let parameters = [cpu::irql().0.into(), 1, size as u64];
        return Err(Violation::new(&rules::POOL_PAGED_IRQL, parameters, "WdfMemoryCreate").into());
    }
    let (default_tag, driver) = (kernel.wdf_tag(), kernel.wdf_driver());
    let tag = if tag == 0 { default_tag } else { tag };
    let origin = kernel.origin();
    let wanted = Wanted { size, tag, paged, zeroed: false, cache_aligned: false, origin };
    let address = kernel.pool().allocate(wanted);
    if address == 0 {
        return Ok(Err(Status::INSUFFICIENT_RESOURCES));
    }
    let data = Data::Memory { address, size, tag };
    let made = object::create(kernel, Kind::Memory, attributes, Parent::Default(driver), data);
    if !matches!(made, Ok(Ok(_))) {
        object::free_block(kernel, address, tag);
    }
    made
}

/// `WdfMemoryCreate`.
pub extern "win64" fn WdfMemoryCreate(
    DriverGlobals: Address,
    Attributes: Address,
    PoolType: i32,
    PoolTag: u32,
    BufferSize: usize,
    Memory: Address,
    Buffer: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfMemoryCreate);
    let _ = DriverGlobals;
    let create = || {
        not_null("Memory", Memory)?;
        if BufferSize == 0 {
            return Ok(Status::INVALID_PARAMETER);
        }
        let made = create_memory(&kernel, Attributes, PoolType & PAGED_POOL != 0, PoolTag, BufferSize)?;
        if let (Ok(handle), true) = (made, Buffer != 0) {
            let address = memory(&mut kernel.framework(), handle)?.0;
            foreign::write(Buffer, &address)?;
        }
        object::give(made, Memory)
    };
    finish(&kernel, create())
}

/// `WdfMemoryCreatePreallocated`: over a buffer of the driver's.
pub extern "win64" fn WdfMemoryCreatePreallocated(
    DriverGlobals: Address,
    Attributes: Address,
    Buffer: Address,
    BufferSize: usize,
    Memory: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfMemoryCreatePreallocated);
    let _ = DriverGlobals;
    let create = || {
        not_null("Memory", Memory)?;
        if BufferSize == 0 {
            return Ok(Status::INVALID_PARAMETER);
        }
        let address = not_null("Buffer", Buffer)?;
        let data = Data::Memory { address, size: BufferSize, tag: 0 };
        let parent = Parent::Default(kernel.wdf_driver());
        object::give(object::create(&kernel, Kind::Memory, Attributes, parent, data)?, Memory)
    };
    finish(&kernel, create())
}

/// Copies between a memory object, from an offset, and a buffer.
fn copy(
    kernel: &Kernel,
    handle: Address,
    offset: usize,
    buffer: Address,
    size: usize,
    out_of: bool,
) -> Result<Status, Trouble> {
    not_null("Buffer", buffer)?;
    let (address, there) = memory(&mut kernel.framework(), handle)?;
    if size == 0 {
        return Ok(Status::INVALID_PARAMETER);
    }
    if offset.checked_add(size).is_none_or(|end| end > there) {
        return Ok(Status::BUFFER_TOO_SMALL);
    }
    let (from, to) = if out_of { (address + offset, buffer) } else { (buffer, address + offset) };
    foreign::write_bytes(to, &foreign::read_bytes(from, size)?)?;
    Ok(Status::SUCCESS)
}

/// `WdfMemoryCopyToBuffer`.
pub extern "win64" fn WdfMemoryCopyToBuffer(
    DriverGlobals: Address,
    SourceMemory: Address,
    SourceOffset: usize,
    Buffer: Address,
    NumBytesToCopyTo: usize,
) -> NTSTATUS {
    let kernel = enter!(WdfMemoryCopyToBuffer);
    let _ = DriverGlobals;
    finish(&kernel, copy(&kernel, SourceMemory, SourceOffset, Buffer, NumBytesToCopyTo, true))
}

/// `WdfMemoryCopyFromBuffer`.
pub extern "win64" fn WdfMemoryCopyFromBuffer(
    DriverGlobals: Address,
    DestinationMemory: Address,
    DestinationOffset: usize,
    Buffer: Address,
    NumBytesToCopyFrom: usize,
) -> NTSTATUS {
    let kernel = enter!(WdfMemoryCopyFromBuffer);
    let _ = DriverGlobals;
    finish(&kernel, copy(&kernel, DestinationMemory, DestinationOffset, Buffer, NumBytesToCopyFrom, false))
}
