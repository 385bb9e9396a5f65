//! Stacks of devices: a device that is attached to another one gets its requests first, and
//! passes them down. Completion routines run on the way back.

use std::mem::offset_of;

use super::super::cpu::{self, Irql};
use super::super::enter::enter;
use super::super::process::SYSTEM_PROCESS;
use super::super::types::{Address, DEVICE_OBJECT, IO_STACK_LOCATION, IRP, NTSTATUS};
use super::super::{Kernel, Trouble, foreign};
use super::{Access, OpenError, PENDING_RETURNED, made, send};
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `SL_INVOKE_ON_CANCEL`, `SL_INVOKE_ON_SUCCESS` and `SL_INVOKE_ON_ERROR` (`wdm.h`).
pub(super) const ON_CANCEL: u8 = 0x20;
pub(super) const ON_SUCCESS: u8 = 0x40;
pub(super) const ON_ERROR: u8 = 0x80;

/// The most devices of a stack. The number has a signed byte in a request.
const HIGHEST: i8 = 100;

/// The device on top of the stack of a device.
pub(in crate::nt) fn top_of(device: Address) -> Address {
    let mut top = device;
    for _ in 0..HIGHEST {
        match foreign::read::<DEVICE_OBJECT>(top).map_or(0, |object| object.AttachedDevice) {
            0 => break,
            above => top = above,
        }
    }
    top
}

/// `IoAttachDeviceToDeviceStack`. NULL if the target is being deleted.
pub extern "win64" fn IoAttachDeviceToDeviceStack(SourceDevice: Address, TargetDevice: Address) -> Address {
    let kernel = enter!(IoAttachDeviceToDeviceStack);
    let attach = || {
        for device in [SourceDevice, TargetDevice] {
            is_device(&kernel, "IoAttachDeviceToDeviceStack", device)?;
        }
        if kernel.objects().devices.get(&TargetDevice).is_some_and(|target| target.deleted) {
            return Ok(0);
        }
        let below = top_of(TargetDevice);
        let lower: DEVICE_OBJECT = foreign::read(below)?;
        let mut upper: DEVICE_OBJECT = foreign::read(SourceDevice)?;
        if lower.StackSize >= HIGHEST || below == SourceDevice {
            return Ok(0);
        }
        upper.StackSize = lower.StackSize + 1;
        upper.AlignmentRequirement = lower.AlignmentRequirement;
        foreign::write(SourceDevice, &upper)?;
        foreign::write(below + offset_of!(DEVICE_OBJECT, AttachedDevice), &SourceDevice)?;
        Ok::<_, Trouble>(below)
    };
    kernel.settle(attach(), 0)
}

/// `IoDetachDevice`. The argument is the device to which another one is attached.
pub extern "win64" fn IoDetachDevice(TargetDevice: Address) {
    let kernel = enter!(IoDetachDevice);
    let detach = || {
        is_device(&kernel, "IoDetachDevice", TargetDevice)?;
        let object: DEVICE_OBJECT = foreign::read(TargetDevice)?;
        if object.AttachedDevice == 0 {
            let text = format!("IoDetachDevice: no device is attached to {TargetDevice:#x}");
            return Err(Violation::new(&rules::BAD_OBJECT, [TargetDevice as u64, 0, 0], text).into());
        }
        foreign::write(TargetDevice + offset_of!(DEVICE_OBJECT, AttachedDevice), &(0 as Address))?;
        Ok::<_, Trouble>(())
    };
    kernel.settle(detach(), ());
}

/// `IoGetDeviceObjectPointer`. The handle is closed at once; the file object stays until the
/// driver lets go of it.
pub extern "win64" fn IoGetDeviceObjectPointer(
    ObjectName: Address,
    DesiredAccess: u32,
    FileObject: Address,
    DeviceObject: Address,
) -> NTSTATUS {
    let kernel = enter!(IoGetDeviceObjectPointer);
    let open = || {
        let name =
            foreign::read_unicode_string(ObjectName).map_err(|bad| Trouble::String(ObjectName, bad))?;
        let Some(machine) = kernel.weak().upgrade() else { return Ok(Status::UNSUCCESSFUL) };
        let access = Access { read: DesiredAccess & 1 != 0, write: DesiredAccess & 2 != 0 };
        let file = match machine.open(&name, SYSTEM_PROCESS, access) {
            Ok(file) => file,
            Err(OpenError::Refused(status)) => return Ok(status),
            // The machine has stopped, so the caller goes no further.
            Err(OpenError::Stopped(_)) => return Ok(Status::UNSUCCESSFUL),
        };
        let (object, device) = file.objects();
        let driver = kernel.caller();
        kernel.objects().reference(object, driver);
        // What stopped the machine is in the machine.
        let _closed = file.close();
        foreign::write(FileObject, &object)?;
        foreign::write(DeviceObject, &top_of(device))?;
        Ok::<_, Trouble>(Status::SUCCESS)
    };
    let status = kernel.settle(open(), Status::UNSUCCESSFUL);
    kernel.leave_if_stopped();
    status.0
}

pub(in crate::nt) fn is_device(kernel: &Kernel, call: &str, device: Address) -> Result<(), Violation> {
    match kernel.objects().devices.contains_key(&device) {
        true => Ok(()),
        false => {
            let text = format!("{call}: {device:#x} is no device");
            Err(Violation::new(&rules::BAD_OBJECT, [device as u64, 0, 0], text))
        }
    }
}

impl Kernel {
    /// The devices to which a device is attached, or which are attached to it.
    pub(in crate::nt) fn attached_to(&self, device: Address) -> Vec<String> {
        let above = |of: Address| foreign::read::<DEVICE_OBJECT>(of).map_or(0, |it| it.AttachedDevice);
        let devices: Vec<Address> = self.objects().devices.keys().copied().collect();
        let below = devices.into_iter().filter(|other| above(*other) == device);
        let below = below.map(|other| format!("it is attached to the device {other:#x}"));
        let own = Some(above(device)).filter(|above| *above != 0);
        below.chain(own.map(|above| format!("the device {above:#x} is attached to it"))).collect()
    }
}

/// `IofCallDriver`. The next stack location is the one of the driver that is called.
pub extern "win64" fn IofCallDriver(DeviceObject: Address, Irp: Address) -> NTSTATUS {
    let kernel = enter!(IofCallDriver);
    let major = kernel.settle(descend(&kernel, DeviceObject, Irp).map(Some), None);
    let Some(major) = major else { return Status::UNSUCCESSFUL.0 };
    let _for_it = kernel.act_for(kernel.device_driver(DeviceObject));
    let level = cpu::irql();
    match send::dispatch(&kernel, DeviceObject, major, Irp, level) {
        Ok((_, status)) => status.0,
        Err(_) => {
            kernel.leave_if_stopped();
            Status::UNSUCCESSFUL.0
        }
    }
}

/// Goes to the next stack location. Returns its major function.
fn descend(kernel: &Kernel, device: Address, irp: Address) -> Result<u8, Trouble> {
    if !kernel.objects().devices.contains_key(&device) {
        let text = format!("{device:#x} is no device");
        return Err(Violation::new(&rules::CALL_DRIVER_BAD_DEVICE, [device as u64, 0, 0], text).into());
    }
    let is_sent = kernel.irps().contains_key(&irp);
    if !is_sent && !made::is_made(kernel, irp) {
        let text = format!("{irp:#x} is no IRP, or it is over");
        return Err(Violation::new(&rules::CALL_DRIVER_NO_IRP, [irp as u64, 0, 0], text).into());
    }
    let header: IRP = foreign::read(irp)?;
    let level = header.CurrentLocation - 1;
    if level <= 0 {
        let text = format!("IRP {irp:#x}, device {device:#x}");
        return Err(Violation::new(&rules::NO_MORE_STACK_LOCATIONS, [irp as u64, 0, 0], text).into());
    }
    let at = header.CurrentStackLocation - size_of::<IO_STACK_LOCATION>();
    let location: IO_STACK_LOCATION = foreign::read(at)?;
    if !is_sent {
        made::send(kernel, device, irp, &location)?;
    }
    foreign::write(irp + offset_of!(IRP, CurrentLocation), &level)?;
    foreign::write(irp + offset_of!(IRP, CurrentStackLocation), &at)?;
    foreign::write(at + offset_of!(IO_STACK_LOCATION, DeviceObject), &device)?;
    Ok(location.MajorFunction)
}

/// Goes up through the stack of a request that is completed, and calls the completion
/// routines. Returns whether one of them keeps the request
/// (`STATUS_MORE_PROCESSING_REQUIRED`).
pub(super) fn climb(kernel: &Kernel, irp: Address) -> Result<bool, Trouble> {
    loop {
        let header: IRP = foreign::read(irp)?;
        if header.CurrentLocation > header.StackCount {
            return Ok(false);
        }
        let at = header.CurrentStackLocation;
        let location: IO_STACK_LOCATION = foreign::read(at)?;
        let (level, above) = (header.CurrentLocation + 1, at + size_of::<IO_STACK_LOCATION>());
        let pending = location.Control & PENDING_RETURNED;
        foreign::write(irp + offset_of!(IRP, PendingReturned), &pending)?;
        foreign::write(irp + offset_of!(IRP, CurrentLocation), &level)?;
        foreign::write(irp + offset_of!(IRP, CurrentStackLocation), &above)?;
        made::comes_back(kernel, irp, level);
        let is_top = level > header.StackCount;
        let status = Status(header.IoStatus.Pointer as u32 as i32);
        let on = if status.0 >= 0 { ON_SUCCESS } else { ON_ERROR };
        let asked = location.Control & on != 0 || (header.Cancel != 0 && location.Control & ON_CANCEL != 0);
        if asked {
            // The routine is that of the driver above, which gets its own device.
            let device = match is_top {
                true => 0,
                false => foreign::read::<IO_STACK_LOCATION>(above)?.DeviceObject,
            };
            let [routine, context, referenced] = made::routine_of(kernel, &location)?;
            let arguments = [device as u64, irp as u64, context as u64];
            let level = cpu::irql().max(Irql::PASSIVE);
            let Ok(returned) = kernel.call_driver(routine, &arguments, level, "completion routine") else {
                kernel.leave_if_stopped();
                return Ok(true);
            };
            if referenced != 0 {
                kernel.objects().release_device(referenced);
            }
            if Status(returned as u32 as i32) == Status::MORE_PROCESSING_REQUIRED {
                return Ok(true);
            }
        } else if pending != 0 && !is_top {
            // Without a routine that does it, the system marks the location above.
            let control = above + offset_of!(IO_STACK_LOCATION, Control);
            foreign::write(control, &(foreign::read::<u8>(control)? | PENDING_RETURNED))?;
        }
    }
}
