//! Trace messages as WPP writes them (`wdm.h`). On Windows 10 and 11, a driver that was built
//! with WPP finds `EtwRegisterClassicProvider`, `EtwUnregister`, `WmiTraceMessage` and
//! `WmiQueryTraceInformation` by `MmGetSystemRoutineAddress`, after `PsGetVersion` has told it
//! the version. The first has no page; its prototype is that of WPP's template `km-init.tpl`.
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::enter::enter;
use super::types::{Address, BOOLEAN, GUID, NTSTATUS};
use super::{Kernel, Trouble, foreign};
use crate::etw::Message;
use crate::status::Status;

/// Most parts of a message, and most bytes. The template of WPP has the second limit.
const MOST_PARTS: usize = 64;
const MOST_BYTES: usize = 8 << 10;

/// `EtwRegisterClassicProvider`. If sessions have enabled the provider, its callback runs
/// before the call returns, as with `EtwRegister`. `EtwUnregister` ends the registration.
pub extern "win64" fn EtwRegisterClassicProvider(
    ProviderGuid: Address,
    Type: u32,
    EnableCallback: Address,
    CallbackContext: Address,
    RegHandle: Address,
) -> NTSTATUS {
    let kernel = enter!(EtwRegisterClassicProvider);
    let _ = Type;
    let outcome =
        super::etw::register(&kernel, ProviderGuid, [EnableCallback, CallbackContext], RegHandle, true);
    let status = kernel.settle(outcome, Status::UNSUCCESSFUL);
    kernel.leave_if_stopped();
    status.0
}

/// `WmiTraceMessage`. Behind the number are addresses and sizes, up to an address of NULL.
pub extern "win64" fn WmiTraceMessage(
    LoggerHandle: u64,
    MessageFlags: u32,
    MessageGuid: Address,
    MessageNumber: u16,
) -> NTSTATUS {
    let kernel = enter!(WmiTraceMessage);
    // What the flags ask for is in the header of each event.
    let _ = MessageFlags;
    let outcome = (|| {
        let guid = foreign::read::<GUID>(MessageGuid)?.to_guid();
        let mut data = Vec::new();
        for part in 0..MOST_PARTS {
            let count = 4 + 2 * part + 2;
            let passed = kernel.guest().arguments("WmiTraceMessage", count).unwrap_or_default();
            let [.., at, length] = passed[..] else { break };
            if at == 0 {
                break;
            }
            if data.len().saturating_add(length as usize) > MOST_BYTES {
                return Ok(Status::BUFFER_OVERFLOW);
            }
            data.extend(foreign::read_bytes(at as Address, length as usize)?);
        }
        let message = Message { guid, number: MessageNumber, data };
        Ok::<_, Trouble>(match kernel.tracing().write_message(LoggerHandle, message) {
            true => Status::SUCCESS,
            false => Status::INVALID_HANDLE,
        })
    })();
    kernel.settle(outcome, Status::UNSUCCESSFUL).0
}

/// `TRACE_INFORMATION_CLASS` (`wdm.h`).
mod class {
    pub(super) const ID: i32 = 0;
    pub(super) const HANDLE: i32 = 1;
    pub(super) const FLAGS: i32 = 2;
    pub(super) const LEVEL: i32 = 3;
    pub(super) const GLOBAL_LOGGER: i32 = 4;
    pub(super) const ALL: i32 = 6;
    pub(super) const BY_NAME: i32 = 7;
}

/// `WmiQueryTraceInformation`. Sessions have no names here, and none is the global logger.
pub extern "win64" fn WmiQueryTraceInformation(
    TraceInformationClass: i32,
    TraceInformation: Address,
    TraceInformationLength: u32,
    RequiredLength: Address,
    Buffer: Address,
) -> NTSTATUS {
    let kernel = enter!(WmiQueryTraceInformation);
    let asked = (TraceInformationClass, TraceInformationLength as usize);
    let outcome = query(&kernel, asked, TraceInformation, RequiredLength, Buffer);
    kernel.settle(outcome, Status::UNSUCCESSFUL).0
}

fn query(
    kernel: &Kernel,
    (class, length): (i32, usize),
    out: Address,
    required: Address,
    input: Address,
) -> Result<Status, Trouble> {
    let size = match class {
        class::ID | class::FLAGS | class::LEVEL => 4,
        class::HANDLE | class::GLOBAL_LOGGER | class::BY_NAME | class::ALL => 8,
        _ => return Ok(Status::INVALID_INFO_CLASS),
    };
    if required != 0 {
        foreign::write(required, &(size as u32))?;
    }
    let fits = match class {
        class::FLAGS | class::LEVEL => length >= size,
        class::ALL => true,
        _ => length == size,
    };
    if !fits {
        return Ok(Status::INFO_LENGTH_MISMATCH);
    }
    if input == 0 && matches!(class, class::ID | class::HANDLE | class::FLAGS | class::LEVEL) {
        return Ok(Status::INVALID_PARAMETER_MIX);
    }
    let loggers = kernel.tracing().loggers();
    // WNODE_HEADER.HistoricalContext, or the number of a session.
    let wanted = match class {
        class::ID | class::FLAGS | class::LEVEL => foreign::read::<u64>(input + 8)? as u16,
        class::HANDLE => foreign::read::<u32>(input)? as u16,
        _ => 0,
    };
    let found = loggers.iter().find(|logger| **logger as u16 == wanted).copied();
    match (class, found) {
        (class::GLOBAL_LOGGER, _) => Ok(Status::NOT_FOUND),
        (class::BY_NAME, _) => Ok(Status::INVALID_PARAMETER),
        (class::ALL, _) => {
            for (at, logger) in loggers.iter().enumerate().take(length / size) {
                foreign::write(out + at * size, logger)?;
            }
            Ok(if loggers.len() > length / size { Status::MORE_ENTRIES } else { Status::SUCCESS })
        }
        (_, None) => Ok(Status::INVALID_HANDLE),
        (class::HANDLE, Some(logger)) => {
            foreign::write(out, &logger)?;
            Ok(Status::SUCCESS)
        }
        (class, Some(logger)) => {
            // The number has 16 bits, the level 8, and the flags the upper half.
            let value = match class {
                class::ID => logger as u16 as u32,
                class::LEVEL => (logger >> 16) as u8 as u32,
                _ => (logger >> 32) as u32,
            };
            foreign::write(out, &value)?;
            Ok(Status::SUCCESS)
        }
    }
}

/// `PsGetVersion`. FALSE: it is no checked build.
pub extern "win64" fn PsGetVersion(
    MajorVersion: Address,
    MinorVersion: Address,
    BuildNumber: Address,
    CSDVersion: Address,
) -> BOOLEAN {
    let kernel = enter!(PsGetVersion);
    let write = || {
        for (at, value) in [(MajorVersion, 10), (MinorVersion, 0), (BuildNumber, kernel.options().build)] {
            if at != 0 {
                foreign::write::<u32>(at, &value)?;
            }
        }
        if CSDVersion != 0 {
            // An empty string: its length.
            foreign::write(CSDVersion, &0u16)?;
        }
        Ok::<_, Trouble>(())
    };
    kernel.settle(write(), ());
    0
}
