//! Requests that the I/O manager builds for a driver (`wdm.h`): with the stack location of the
//! device that gets them, and with the driver's buffer as the device asks for it.

use super::super::enter::enter;
use super::super::mm;
use super::super::pool::Wanted;
use super::super::seh::first_inaccessible;
use super::super::types::{Address, BOOLEAN, DEVICE_OBJECT, IO_STACK_LOCATION, IRP, LARGE_INTEGER};
use super::super::{Kernel, Trouble, cpu, foreign};
use super::buffers::Method;
use super::made::{Origin, allocate, release};
use super::{buffers, file::flag, major};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `IRP_BUFFERED_IO`, `IRP_DEALLOCATE_BUFFER` and `IRP_INPUT_OPERATION` (`ntifs.h`,
/// `wdm.h`).
const BUFFERED_IO: u32 = 0x10;
const DEALLOCATE_BUFFER: u32 = 0x20;
const INPUT_OPERATION: u32 = 0x40;

/// How the I/O manager passes a driver's buffer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Transfer {
    /// The size of the buffer into which a copy goes back, in bytes.
    back: Option<usize>,
}

impl Transfer {
    /// Copies the result to the driver, and frees what the I/O manager has allocated.
    pub fn finish(self, kernel: &Kernel, header: &IRP) -> Result<(), Trouble> {
        let status = Status(header.IoStatus.Pointer as u32 as i32);
        if let Some(length) = self.back.filter(|_| !buffers::is_error(status)) {
            let length = length.min(header.IoStatus.Information as usize);
            let bytes = foreign::read_bytes(header.SystemBuffer, length)?;
            foreign::write_bytes(header.UserBuffer, &bytes)?;
        }
        if header.Flags & DEALLOCATE_BUFFER != 0 {
            let stack = kernel.guest().frames();
            kernel.pool().free(header.SystemBuffer, buffers::BUFFER_TAG, cpu::irql(), stack)?;
        }
        if header.MdlAddress != 0 {
            mm::release_locked(kernel, header.MdlAddress)?;
        }
        Ok(())
    }
}

/// `IoBuildDeviceIoControlRequest`. NULL if there is no memory.
pub extern "win64" fn IoBuildDeviceIoControlRequest(
    IoControlCode: u32,
    DeviceObject: Address,
    InputBuffer: Address,
    InputBufferLength: u32,
    OutputBuffer: Address,
    OutputBufferLength: u32,
    InternalDeviceIoControl: BOOLEAN,
    Event: Address,
    IoStatusBlock: Address,
) -> Address {
    let kernel = enter!(IoBuildDeviceIoControlRequest);
    let build = || {
        let (input, output) = (InputBufferLength as usize, OutputBufferLength as usize);
        let wanted = Wish {
            device: DeviceObject,
            origin: Origin::Threaded,
            major: match InternalDeviceIoControl {
                0 => major::DEVICE_CONTROL,
                _ => major::INTERNAL_DEVICE_CONTROL,
            },
            parameters: [output as u64, input as u64, IoControlCode.into(), 0],
            outcome: [Event, IoStatusBlock],
            buffer: Buffer {
                method: Method::of_code(IoControlCode),
                input: (InputBuffer, input),
                second: (OutputBuffer, output),
            },
        };
        make(&kernel, wanted, |status| {
            let parameters = [DeviceObject as u64, IoControlCode.into(), u64::from(status.0 as u32)];
            let text = format!("control code {IoControlCode:#x}: {InputBuffer:#x}, {OutputBuffer:#x}");
            Violation::new(&rules::IRP_CONTROL_BUFFER, parameters, text)
        })
    };
    kernel.settle(build(), 0)
}

/// `IoBuildSynchronousFsdRequest`. NULL if there is no memory.
pub extern "win64" fn IoBuildSynchronousFsdRequest(
    MajorFunction: u32,
    DeviceObject: Address,
    Buffer: Address,
    Length: u32,
    StartingOffset: Address,
    Event: Address,
    IoStatusBlock: Address,
) -> Address {
    let kernel = enter!(IoBuildSynchronousFsdRequest);
    let outcome = [Event, IoStatusBlock];
    let request = (MajorFunction, DeviceObject, Origin::Threaded);
    kernel.settle(make_transfer(&kernel, request, (Buffer, Length), StartingOffset, outcome), 0)
}

/// `IoBuildAsynchronousFsdRequest`. NULL if there is no memory. The driver frees the request,
/// with the copy of its buffer or the MDL.
pub extern "win64" fn IoBuildAsynchronousFsdRequest(
    MajorFunction: u32,
    DeviceObject: Address,
    Buffer: Address,
    Length: u32,
    StartingOffset: Address,
    IoStatusBlock: Address,
) -> Address {
    let kernel = enter!(IoBuildAsynchronousFsdRequest);
    let outcome = [0, IoStatusBlock];
    let request = (MajorFunction, DeviceObject, Origin::Asynchronous);
    kernel.settle(make_transfer(&kernel, request, (Buffer, Length), StartingOffset, outcome), 0)
}

/// A request to build.
struct Wish {
    device: Address,
    origin: Origin,
    major: u8,
    parameters: [u64; 4],
    /// The event and the status block, or 0.
    outcome: [Address; 2],
    buffer: Buffer,
}

/// The driver's memory, by address and size in bytes.
struct Buffer {
    method: Method,
    input: (Address, usize),
    /// The only buffer of a read or a write.
    second: (Address, usize),
}

/// Builds a request that moves data, or one without a buffer.
fn make_transfer(
    kernel: &Kernel,
    (major, device, origin): (u32, Address, Origin),
    (address, length): (Address, u32),
    offset: Address,
    outcome: [Address; 2],
) -> Result<Address, Trouble> {
    let object: DEVICE_OBJECT = foreign::read(device)?;
    let major = major as u8;
    let (moves, reads) = (matches!(major, major::READ | major::WRITE), major == major::READ);
    let buffer = (address, length as usize);
    let none = (0, 0);
    let (method, input, second) = match object.Flags {
        _ if !moves => (Method::Neither, none, none),
        flags if flags & flag::BUFFERED_IO != 0 && reads => (Method::Buffered, none, buffer),
        flags if flags & flag::BUFFERED_IO != 0 => (Method::Buffered, buffer, none),
        flags if flags & flag::DIRECT_IO != 0 && reads => (Method::OutDirect, none, buffer),
        flags if flags & flag::DIRECT_IO != 0 => (Method::InDirect, none, buffer),
        _ => (Method::Neither, none, buffer),
    };
    let at = foreign::read_optional::<LARGE_INTEGER>(offset)?.map_or(0, |offset| offset.QuadPart);
    // Length, Key and ByteOffset.
    let parameters = if moves { [length.into(), 0, at as u64, 0] } else { [0; 4] };
    let wanted =
        Wish { device, origin, major, parameters, outcome, buffer: Buffer { method, input, second } };
    make(kernel, wanted, |status| {
        let parameters = [device as u64, major.into(), u64::from(status.0 as u32)];
        let text = format!("{length} bytes at {address:#x}");
        Violation::new(&rules::IRP_TRANSFER_BUFFER, parameters, text)
    })
}

/// Builds a request. `bad` is the breach of a buffer that cannot be accessed.
fn make(kernel: &Kernel, wanted: Wish, bad: impl Fn(Status) -> Violation) -> Result<Address, Trouble> {
    let Wish { device, origin, major, mut parameters, outcome: [event, block], buffer } = wanted;
    super::stack::is_device(kernel, "a request for a device", device)?;
    let Buffer { method, input, second } = buffer;
    let writes = method != Method::InDirect;
    let inaccessible = first_inaccessible_of(input, false)
        .or_else(|| first_inaccessible_of(second, writes && method != Method::Neither));
    if inaccessible.is_some() && method != Method::Neither {
        return Err(bad(Status::ACCESS_VIOLATION).into());
    }
    let irp = allocate(kernel, super::made::locations_of(device)?, origin)?;
    if irp == 0 {
        return Ok(0);
    }
    let mut header: IRP = foreign::read(irp)?;
    (header.UserEvent, header.UserIosb) = (event, block);
    header.Thread = cpu::thread_object(|| kernel.objects().opaque());
    let mut transfer = Transfer::default();
    let copied = match method {
        Method::Buffered => input.1.max(second.1),
        Method::InDirect | Method::OutDirect => input.1,
        Method::Neither => 0,
    };
    if copied > 0 {
        let origin = kernel.origin();
        let tag = buffers::BUFFER_TAG;
        let wanted = Wanted { size: copied, tag, paged: false, zeroed: false, cache_aligned: false, origin };
        header.SystemBuffer = kernel.pool().allocate(wanted);
        if header.SystemBuffer == 0 {
            return give_up(kernel, irp, 0);
        }
        foreign::write_bytes(header.SystemBuffer, &foreign::read_bytes(input.0, input.1)?)?;
        header.Flags = BUFFERED_IO | DEALLOCATE_BUFFER;
    }
    header.UserBuffer = second.0;
    if method == Method::Buffered && second.1 > 0 {
        header.Flags |= INPUT_OPERATION;
        transfer.back = Some(second.1);
    }
    if matches!(method, Method::InDirect | Method::OutDirect) && second.1 > 0 {
        header.MdlAddress = mm::allocate_locked(kernel, second.0, second.1 as u32, writes)?;
        header.UserBuffer = 0;
        if header.MdlAddress == 0 {
            return give_up(kernel, irp, header.SystemBuffer);
        }
    }
    if method == Method::Neither && matches!(major, major::DEVICE_CONTROL | major::INTERNAL_DEVICE_CONTROL) {
        // Type3InputBuffer.
        parameters[3] = input.0 as u64;
    }
    let at = header.CurrentStackLocation - size_of::<IO_STACK_LOCATION>();
    let location =
        IO_STACK_LOCATION { MajorFunction: major, Parameters: parameters, ..IO_STACK_LOCATION::zeroed() };
    foreign::write(at, &location)?;
    foreign::write(irp, &header)?;
    if let Some(made) = kernel.made().get_mut(&irp) {
        made.transfer = transfer;
    }
    Ok(irp)
}

fn first_inaccessible_of((address, length): (Address, usize), write: bool) -> Option<Address> {
    if length == 0 { None } else { first_inaccessible(address, length, write) }
}

/// Frees a request for which memory is short, and the copy of its buffer. Returns NULL.
fn give_up(kernel: &Kernel, irp: Address, copy: Address) -> Result<Address, Trouble> {
    if copy != 0 {
        kernel.pool().free(copy, buffers::BUFFER_TAG, cpu::irql(), kernel.guest().frames())?;
    }
    release(kernel, irp)?;
    Ok(0)
}
