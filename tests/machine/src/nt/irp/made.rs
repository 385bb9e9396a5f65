//! Requests that drivers make themselves (`wdm.h`): allocated, initialized in memory of their
//! own, sent, and freed.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::enter::enter;
use super::super::ke;
use super::super::pool::Wanted;
use super::super::process::{self, SYSTEM_PROCESS};
use super::super::types::{
    Address, BOOLEAN, DEVICE_OBJECT, IO_STACK_LOCATION, IO_STATUS_BLOCK, IRP, LIST_ENTRY, NTSTATUS,
};
use super::super::{Kernel, Trouble, cpu, foreign};
use super::build::Transfer;
use super::{IRP_TAG, Irp, set_status};
use crate::status::Status;
use crate::verifier::{Rule, Violation, rules};

/// `IO_TYPE_IRP` (`wdm.h`).
const IO_TYPE_IRP: i16 = 6;
/// `KernelMode` (`wdm.h`).
const KERNEL_MODE: i8 = 0;

/// How a driver has made a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// `IoAllocateIrp`, and whether its process pays for it.
    Allocated { quota: bool },
    /// `IoInitializeIrp`, in memory of the driver's.
    InPlace,
    /// `IoBuildAsynchronousFsdRequest`.
    Asynchronous,
    /// `IoBuildDeviceIoControlRequest` or `IoBuildSynchronousFsdRequest`. It is its thread's,
    /// and the I/O manager frees it.
    Threaded,
}

/// A request that a driver has made.
#[derive(Clone, Copy, Debug)]
pub(in crate::nt) struct Made {
    pub(super) origin: Origin,
    /// The stack location from which it was sent; `None` if its driver has it.
    pub(super) sent_from: Option<i8>,
    /// Whether it was ever sent.
    pub(super) sent: bool,
    /// The buffer that the I/O manager passes.
    pub(super) transfer: Transfer,
}

/// The requests that drivers have made, by address.
pub(in crate::nt) type MadeIrps = BTreeMap<Address, Made>;

impl Kernel {
    pub(super) fn made(&self) -> MutexGuard<'_, MadeIrps> {
        self.made_irps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a driver may not free memory with `ExFreePool`, because it is a request of the
    /// I/O manager's.
    pub(in crate::nt) fn is_system_irp(&self, address: Address) -> bool {
        match self.made().get(&address) {
            Some(made) => made.origin != Origin::InPlace,
            None => self.irps().contains_key(&address),
        }
    }

    /// Forgets the requests in memory of a driver's that is gone.
    pub(in crate::nt) fn forget_irps(&self, memory: &Range<Address>) {
        self.made().retain(|address, _| !memory.contains(address));
    }
}

/// The size of a request with so many stack locations, in bytes (`IoSizeOfIrp`, `wdm.h`).
pub(super) fn size_of_irp(locations: i8) -> usize {
    size_of::<IRP>() + locations.max(0) as usize * size_of::<IO_STACK_LOCATION>()
}

/// `IoAllocateIrp`. The request is in nonpaged pool, so a leak of it is a leak of pool. NULL
/// if there is no memory.
pub extern "win64" fn IoAllocateIrp(StackSize: i8, ChargeQuota: BOOLEAN) -> Address {
    let kernel = enter!(IoAllocateIrp);
    let origin = Origin::Allocated { quota: ChargeQuota != 0 };
    kernel.settle(allocate(&kernel, StackSize, origin), 0)
}

/// Allocates a request in pool of the calling driver's.
pub(super) fn allocate(kernel: &Kernel, locations: i8, origin: Origin) -> Result<Address, Trouble> {
    let size = size_of_irp(locations);
    let wanted = Wanted {
        size,
        tag: IRP_TAG,
        paged: false,
        zeroed: true,
        cache_aligned: false,
        origin: kernel.origin(),
    };
    let irp = kernel.pool().allocate(wanted);
    if irp != 0 {
        initialize(irp, size, locations)?;
        kernel.made().insert(irp, Made::new(origin));
    }
    Ok(irp)
}

impl Made {
    fn new(origin: Origin) -> Self {
        Self { origin, sent_from: None, sent: false, transfer: Transfer::default() }
    }
}

/// Writes a request that no driver has got. The stack locations are zeroed already.
fn initialize(irp: Address, size: usize, locations: i8) -> Result<(), Trouble> {
    let list = irp + offset_of!(IRP, ThreadListEntry);
    let header = IRP {
        Type: IO_TYPE_IRP,
        Size: size as u16,
        ThreadListEntry: LIST_ENTRY { Flink: list, Blink: list },
        RequestorMode: KERNEL_MODE,
        StackCount: locations,
        CurrentLocation: locations.wrapping_add(1),
        CurrentStackLocation: irp + size_of_irp(locations),
        ..IRP::zeroed()
    };
    Ok(foreign::write(irp, &header)?)
}

/// `IoInitializeIrp`, in memory of the driver's. `PacketSize` is in bytes.
pub extern "win64" fn IoInitializeIrp(Irp: Address, PacketSize: u16, StackSize: i8) {
    let kernel = enter!(IoInitializeIrp);
    kernel.settle(initialize_in_place(&kernel, Irp, PacketSize.into(), StackSize), ());
}

fn initialize_in_place(kernel: &Kernel, irp: Address, size: usize, locations: i8) -> Result<(), Trouble> {
    let origin = match known(kernel, irp) {
        None => Origin::InPlace,
        Some(made) => {
            is_reusable(kernel, irp, made)?;
            if made.origin == (Origin::Allocated { quota: true }) {
                return Err(about(kernel, &rules::IRP_INITIALIZED_ALLOCATED, irp).into());
            }
            made.origin
        }
    };
    foreign::write_bytes(irp, &vec![0; size.max(size_of_irp(locations))])?;
    initialize(irp, size, locations)?;
    kernel.made().insert(irp, Made::new(origin));
    Ok(())
}

/// `IoReuseIrp`. The stack locations stay as many as they are.
pub extern "win64" fn IoReuseIrp(Irp: Address, Iostatus: NTSTATUS) {
    let kernel = enter!(IoReuseIrp);
    kernel.settle(reuse(&kernel, Irp, Status(Iostatus)), ());
}

fn reuse(kernel: &Kernel, irp: Address, status: Status) -> Result<(), Trouble> {
    let Some(made) = known(kernel, irp) else { return Err(super::not_a_request(irp).into()) };
    is_reusable(kernel, irp, made)?;
    let header: IRP = foreign::read(irp)?;
    foreign::write_bytes(irp, &vec![0; size_of_irp(header.StackCount)])?;
    initialize(irp, header.Size.into(), header.StackCount)?;
    foreign::write(irp + offset_of!(IRP, AllocationFlags), &header.AllocationFlags)?;
    kernel.made().insert(irp, Made::new(made.origin));
    set_status(irp, status, 0)
}

/// Whether a request may be initialized again.
fn is_reusable(kernel: &Kernel, irp: Address, made: Made) -> Result<(), Violation> {
    match (made.origin, made.sent_from) {
        (Origin::Asynchronous | Origin::Threaded, _) => Err(about(kernel, &rules::IRP_REUSED_BUILT, irp)),
        (_, Some(_)) => Err(about(kernel, &rules::IRP_REUSED_IN_USE, irp)),
        (_, None) => Ok(()),
    }
}

/// `IoFreeIrp`. What its MDLs describe stays the driver's.
pub extern "win64" fn IoFreeIrp(Irp: Address) {
    let kernel = enter!(IoFreeIrp);
    kernel.settle(free(&kernel, Irp), ());
}

fn free(kernel: &Kernel, irp: Address) -> Result<(), Violation> {
    let simple = |rule, text: &str| {
        let text = format!("IRP {irp:#x}{text}");
        Err(Violation::new(rule, [irp as u64, 0, 0], text))
    };
    let Some(made) = known(kernel, irp) else {
        return match kernel.irps().contains_key(&irp) {
            true => simple(&rules::IRP_FREED_OF_THREAD, ", which a program has made"),
            false => simple(&rules::IRP_FREED_NO_IRP, ": there is none, or it is free"),
        };
    };
    match made.origin {
        Origin::Threaded => simple(&rules::IRP_FREED_OF_THREAD, ", which the I/O manager frees"),
        Origin::InPlace => simple(&rules::BAD_OBJECT, ", which IoAllocateIrp has not allocated"),
        _ if made.sent_from.is_some() => Err(about(kernel, &rules::IRP_FREED_IN_USE, irp)),
        _ => release(kernel, irp),
    }
}

/// A request that a driver has made and not freed.
fn known(kernel: &Kernel, irp: Address) -> Option<Made> {
    kernel.made().get(&irp).copied()
}

/// A breach about a request: the driver's call, and the request.
fn about(kernel: &Kernel, rule: &'static Rule, irp: Address) -> Violation {
    Violation::new(rule, [kernel.call_site(), irp as u64, 0], format!("IRP {irp:#x}"))
}

/// `IoSetCompletionRoutineEx`. The device cannot go before the routine has run.
pub extern "win64" fn IoSetCompletionRoutineEx(
    DeviceObject: Address,
    Irp: Address,
    CompletionRoutine: Address,
    Context: Address,
    InvokeOnSuccess: BOOLEAN,
    InvokeOnError: BOOLEAN,
    InvokeOnCancel: BOOLEAN,
) -> NTSTATUS {
    let kernel = enter!(IoSetCompletionRoutineEx);
    let when = [InvokeOnSuccess, InvokeOnError, InvokeOnCancel].map(|invoke| invoke != 0);
    let outcome = set_routine(&kernel, DeviceObject, Irp, [CompletionRoutine, Context], when);
    kernel.settle(outcome, Status::UNSUCCESSFUL).0
}

/// The tag of what the system keeps for `IoSetCompletionRoutineEx`.
const ROUTINE_TAG: u32 = u32::from_le_bytes(*b"IoUs");

/// Stands for a routine that was set by `IoSetCompletionRoutineEx`. Its context is a block of
/// pool with the device, the routine and the context of the driver's.
pub(super) extern "win64" fn unload_safe_completion(_: Address, _: Address, _: Address) -> NTSTATUS {
    Status::SUCCESS.0
}

fn set_routine(
    kernel: &Kernel,
    device: Address,
    irp: Address,
    [routine, context]: [Address; 2],
    [success, error, cancel]: [bool; 3],
) -> Result<Status, Trouble> {
    super::stack::is_device(kernel, "IoSetCompletionRoutineEx", device)?;
    let wanted = Wanted {
        size: size_of::<[Address; 3]>(),
        tag: ROUTINE_TAG,
        paged: false,
        zeroed: true,
        cache_aligned: false,
        origin: kernel.origin(),
    };
    let block = kernel.pool().allocate(wanted);
    if block == 0 {
        return Ok(Status::INSUFFICIENT_RESOURCES);
    }
    for (place, word) in [device, routine, context].into_iter().enumerate() {
        foreign::write(block + place * size_of::<Address>(), &word)?;
    }
    let at = super::stack_location(irp) - size_of::<IO_STACK_LOCATION>();
    let mut next: IO_STACK_LOCATION = foreign::read(at)?;
    let when = |wanted: bool, flag: u8| if wanted { flag } else { 0 };
    next.Control = when(success, super::stack::ON_SUCCESS)
        | when(error, super::stack::ON_ERROR)
        | when(cancel, super::stack::ON_CANCEL);
    next.CompletionRoutine = unload_safe_completion as *const () as Address;
    next.Context = block;
    foreign::write(at, &next)?;
    if let Some(device) = kernel.objects().devices.get_mut(&device) {
        device.references += 1;
    }
    Ok(Status::SUCCESS)
}

/// The routine and the context of a stack location, and the device that
/// `IoSetCompletionRoutineEx` has referenced for it, or 0.
pub(super) fn routine_of(kernel: &Kernel, location: &IO_STACK_LOCATION) -> Result<[Address; 3], Trouble> {
    if location.CompletionRoutine != unload_safe_completion as *const () as Address {
        return Ok([location.CompletionRoutine, location.Context, 0]);
    }
    let word = |place: usize| foreign::read::<Address>(location.Context + place * size_of::<Address>());
    let (device, routine, context) = (word(0)?, word(1)?, word(2)?);
    kernel.pool().free(location.Context, ROUTINE_TAG, cpu::irql(), kernel.guest().frames())?;
    Ok([routine, context, device])
}

/// A request that a driver has made goes to a device, which gets the stack location: it is in
/// use.
pub(super) fn send(
    kernel: &Kernel,
    device: Address,
    irp: Address,
    location: &IO_STACK_LOCATION,
) -> Result<(), Trouble> {
    let header: IRP = foreign::read(irp)?;
    has_no_user_address(kernel, irp, &header, location)?;
    if let Some(known) = kernel.made().get_mut(&irp) {
        known.sent_from = Some(header.CurrentLocation);
        known.sent = true;
    }
    let process = if header.Thread == 0 { SYSTEM_PROCESS } else { process::current() };
    let entry = Irp {
        major: location.MajorFunction,
        // Parameters.DeviceIoControl.IoControlCode.
        code: location.Parameters[2] as u32,
        device,
        // No program closes it.
        file: 0,
        process,
        framework: 0,
        buffers: None,
        reply: Arc::new(Mutex::new(None)),
        status: None,
        returned: None,
        completed: None,
    };
    kernel.irps().insert(irp, entry);
    Ok(())
}

/// "An IRP with Irp.RequestorMode set to KernelMode was found to have a user-mode address as
/// one of its members" (bugcheck 0xC4, parameter 0xE2).
fn has_no_user_address(
    kernel: &Kernel,
    irp: Address,
    header: &IRP,
    location: &IO_STACK_LOCATION,
) -> Result<(), Violation> {
    let input = match location.MajorFunction {
        // Type3InputBuffer, if the code passes addresses.
        super::major::DEVICE_CONTROL | super::major::INTERNAL_DEVICE_CONTROL
            if location.Parameters[2] & 3 == 3 =>
        {
            location.Parameters[3] as Address
        }
        _ => 0,
    };
    let members = [header.UserBuffer, header.UserIosb, header.UserEvent, header.SystemBuffer, input];
    let user = members.into_iter().find(|member| *member != 0 && kernel.is_program_buffer(*member));
    match user.filter(|_| header.RequestorMode == KERNEL_MODE) {
        None => Ok(()),
        Some(address) => {
            let text = format!("IRP {irp:#x} has {address:#x}");
            Err(Violation::new(&rules::IRP_USER_ADDRESS, [irp as u64, address as u64, 0], text))
        }
    }
}

/// A request goes up to a stack location. If it was sent from there, its driver has it again.
pub(super) fn comes_back(kernel: &Kernel, irp: Address, level: i8) {
    let back = match kernel.made().get_mut(&irp) {
        Some(made) if made.sent_from.is_some_and(|from| level >= from) => {
            made.sent_from = None;
            true
        }
        _ => false,
    };
    if back {
        kernel.irps().remove(&irp);
    }
}

/// A request that a driver has made, and that no completion routine has kept, is over: the
/// I/O manager reports its outcome and frees it.
pub(super) fn finish(kernel: &Kernel, irp: Address) -> Result<(), Trouble> {
    let Some(made) = known(kernel, irp) else { return Ok(()) };
    if made.origin != Origin::Threaded {
        let text = format!("IRP {irp:#x}");
        return Err(Violation::new(&rules::IRP_NOT_TAKEN_BACK, [irp as u64, 0, 0], text).into());
    }
    let header: IRP = foreign::read(irp)?;
    made.transfer.finish(kernel, &header)?;
    if header.UserIosb != 0 {
        foreign::write::<IO_STATUS_BLOCK>(header.UserIosb, &header.IoStatus)?;
    }
    release(kernel, irp)?;
    if header.UserEvent != 0 {
        ke::initialized(header.UserEvent)?;
        ke::signal_state(header.UserEvent).store(1, std::sync::atomic::Ordering::Release);
    }
    kernel.bell.ring();
    Ok(())
}

/// Why a request that is in no driver's hands cannot be completed.
pub(super) fn not_to_complete(kernel: &Kernel, irp: Address, text: String) -> Violation {
    match known(kernel, irp) {
        Some(made) if !made.sent => {
            Violation::new(&rules::IRP_NEVER_SENT, [kernel.call_site(), irp as u64, 0], text)
        }
        _ => Violation::new(&rules::IRP_COMPLETED_TWICE, [irp as u64, 0, 0], text),
    }
}

/// Whether a driver has made this request.
pub(super) fn is_made(kernel: &Kernel, irp: Address) -> bool {
    kernel.made().contains_key(&irp)
}

/// The number of stack locations that a request for a device needs.
pub(super) fn locations_of(device: Address) -> Result<i8, Trouble> {
    Ok(foreign::read::<DEVICE_OBJECT>(device)?.StackSize.max(1))
}

/// Frees the memory of a request that a driver has made.
pub(super) fn release(kernel: &Kernel, irp: Address) -> Result<(), Violation> {
    kernel.made().remove(&irp);
    kernel.pool().free(irp, IRP_TAG, cpu::irql(), kernel.guest().frames()).map(drop)
}
