//! Windows Management Instrumentation (`wdm.h`): providers of data, and their events.
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::cpu::{self, Irql};
use super::enter::enter;
use super::types::{Address, GUID, NTSTATUS};
use super::{Kernel, Trouble, foreign, irp};
use crate::driver::DriverId;
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// `WMIREG_ACTION_*` (`wdm.h`).
mod action {
    pub(super) const REGISTER: u32 = 1;
    pub(super) const DEREGISTER: u32 = 2;
    pub(super) const REREGISTER: u32 = 3;
    pub(super) const UPDATE_GUIDS: u32 = 4;
    pub(super) const BLOCK_IRPS: u32 = 5;
}

/// The action has a structure that begins with the address of a callback in place of the
/// device. No header has it; the template of WPP, `km-init.tpl`, has. The lab registers such a
/// callback and does not call it: WPP asks for it only where `EtwRegisterClassicProvider` is
/// missing, which is on no Windows since Vista.
const FLAG_CALLBACK: u32 = 0x8000_0000;
/// `WMIREG_FLAG_TRACE_PROVIDER` (`wmistr.h`).
const FLAG_TRACE_PROVIDER: u32 = 0x1_0000;

/// `WMIREGISTER` and `WMIUPDATE` (`wmistr.h`).
const REGISTER: u64 = 0;
const UPDATE: u64 = 1;

/// `WNODE_FLAG_TRACED_GUID` (`wmistr.h`).
const TRACED_GUID: u32 = 0x2_0000;

/// The tag of WMI's buffers.
const TAG: u32 = u32::from_le_bytes(*b"Wmip");
/// The sizes of the first buffer for a driver's answer, and of the largest, in bytes.
const FIRST_BUFFER: usize = 4096;
const LARGEST_BUFFER: usize = 1 << 20;

/// A provider of data: a device, or a callback.
#[derive(Clone, Copy, Debug)]
pub struct Provider {
    /// Its driver.
    driver: DriverId,
    /// The callback, or 0 for a device.
    callback: Address,
    /// Whether its driver is being asked.
    asked: bool,
}

/// `IoWMIRegistrationControl`. A driver that registers is asked for its blocks before the call
/// returns.
pub extern "win64" fn IoWMIRegistrationControl(DeviceObject: Address, Action: u32) -> NTSTATUS {
    let kernel = enter!(IoWMIRegistrationControl);
    let status = kernel.settle(control(&kernel, DeviceObject, Action), Status::UNSUCCESSFUL);
    kernel.leave_if_stopped();
    status.0
}

fn control(kernel: &Kernel, provider: Address, asked: u32) -> Result<Status, Trouble> {
    let known = kernel.objects().wmi_providers.get(&provider).copied();
    let is_device = asked & FLAG_CALLBACK == 0;
    match (asked & !(FLAG_CALLBACK | FLAG_TRACE_PROVIDER), known) {
        (action::REGISTER | action::REREGISTER, _) => {
            let callback = match is_device {
                true => {
                    irp::is_device(kernel, "IoWMIRegistrationControl", provider)?;
                    0
                }
                false => foreign::read::<Address>(provider)?,
            };
            let driver = kernel.caller();
            let registered = Provider { driver, callback, asked: false };
            kernel.objects().wmi_providers.insert(provider, registered);
            if is_device {
                ask(kernel, provider, REGISTER)?;
            }
            Ok(Status::SUCCESS)
        }
        // "If a driver calls IoWMIRegistrationControl within a dispatch routine for an
        // IRP_MJ_SYSTEM_CONTROL request, the calling thread will deadlock."
        (action::DEREGISTER, Some(known)) if known.asked => {
            let text = format!("device {provider:#x}");
            Err(Violation::new(&rules::WMI_DEADLOCK, [provider as u64, 0, 0], text).into())
        }
        (action::DEREGISTER, Some(_)) => {
            kernel.objects().wmi_providers.remove(&provider);
            Ok(Status::SUCCESS)
        }
        (action::UPDATE_GUIDS, Some(_)) if is_device => {
            ask(kernel, provider, UPDATE)?;
            Ok(Status::SUCCESS)
        }
        (action::UPDATE_GUIDS | action::BLOCK_IRPS, Some(_)) => Ok(Status::SUCCESS),
        _ => Ok(Status::INVALID_PARAMETER),
    }
}

/// Sends IRP_MN_REGINFO_EX. What the driver answers is in the machine's log.
fn ask(kernel: &Kernel, device: Address, path: u64) -> Result<(), Trouble> {
    let set_asked = |asked| {
        if let Some(provider) = kernel.objects().wmi_providers.get_mut(&device) {
            provider.asked = asked;
        }
    };
    let mut size = FIRST_BUFFER;
    loop {
        let buffer = kernel.pool().allocate_for_system(size, TAG);
        foreign::write_bytes(buffer, &vec![0; size])?;
        set_asked(true);
        let parameters = [device as u64, path, size as u64, buffer as u64];
        let answer = irp::system_control(kernel, device, irp::minor::REGINFO_EX, parameters);
        set_asked(false);
        // WMIREGINFO: BufferSize and, behind three offsets, GuidCount. A driver that needs a
        // larger buffer writes its size.
        let (needed, blocks): (u32, u32) = (foreign::read(buffer)?, foreign::read(buffer + 16)?);
        kernel.pool().free(buffer, TAG, cpu::irql(), Vec::new())?;
        let Ok(Some(answer)) = answer else { return Ok(()) };
        if answer.status == Status::BUFFER_TOO_SMALL && (size..LARGEST_BUFFER).contains(&(needed as usize)) {
            size = needed as usize + 1;
            continue;
        }
        let blocks = if answer.status.is_success() { blocks } else { 0 };
        kernel.log(format!("WMI: device {device:#x} has {blocks} blocks ({})", answer.status));
        return Ok(());
    }
}

/// `IoWMIWriteEvent`. WMI frees the event, unless it is one of a trace.
pub extern "win64" fn IoWMIWriteEvent(WnodeEventItem: Address) -> NTSTATUS {
    // WNODE_HEADER: BufferSize, HistoricalContext, TimeStamp, Guid, ClientContext, Flags.
    let flags = foreign::read::<u32>(WnodeEventItem.wrapping_add(44)).unwrap_or(0);
    let is_traced = flags & TRACED_GUID != 0;
    let kernel = enter!(IoWMIWriteEvent, if is_traced { Irql::HIGH } else { Irql::APC });
    let write = || {
        let guid = foreign::read::<GUID>(WnodeEventItem.wrapping_add(24))?.to_guid();
        if !is_traced {
            kernel.log(format!("WMI: event {guid}"));
            kernel.pool().free(WnodeEventItem, 0, cpu::irql(), kernel.guest().frames())?;
        }
        Ok::<_, Trouble>(Status::SUCCESS)
    };
    kernel.settle(write(), Status::UNSUCCESSFUL).0
}

impl Kernel {
    /// Reports callbacks that a driver left registered: where it starts, and the callback.
    pub(super) fn check_wmi(&self, driver: DriverId) {
        let objects = self.objects();
        let left = objects.wmi_providers.iter().find(|(_, provider)| provider.driver == driver);
        let left = left.map(|(at, provider)| (*at, provider.callback));
        drop(objects);
        if let Some((at, callback)) = left {
            let start = self.driver_start(driver);
            let text = format!("provider {at:#x}");
            let parameters = [start, callback as u64, 0];
            self.condemn_driver(driver, Violation::new(&rules::WMI_PROVIDER_LEFT, parameters, text));
        }
    }

    /// Refuses to delete a device that is registered.
    pub(super) fn is_no_provider(&self, device: Address) -> Result<(), Violation> {
        match self.objects().wmi_providers.contains_key(&device) {
            true => {
                let text = format!("device {device:#x}");
                Err(Violation::new(&rules::WMI_DEVICE_DELETED, [device as u64, 0, 0], text))
            }
            false => Ok(()),
        }
    }
}
