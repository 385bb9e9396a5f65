//! Registry keys of the framework (`wdfregistry.h`).

use super::super::enter::enter;
use super::super::load::parameters_key;
use super::super::objects::Object;
use super::super::registry::{REG_DWORD, REG_MULTI_SZ, REG_SZ, RegistryValue};
use super::super::types::{Address, HANDLE, NTSTATUS, UNICODE_STRING};
use super::super::{Kernel, Trouble, foreign, zw};
use super::object::{self, Parent};
use super::{Data, Kind, buffers, finish, finish_value, finish_void, not_null, strings};
use crate::status::Status;

fn string(address: Address) -> Result<String, Trouble> {
    foreign::read_unicode_string(address).map_err(|bad| Trouble::String(address, bad))
}

/// Opens a key of the registry as an object.
fn open(kernel: &Kernel, path: String, attributes: Address, out: Address) -> Result<Status, Trouble> {
    not_null("Key", out)?;
    let Some(generation) = kernel.registry().generation(&path) else {
        return Ok(Status::OBJECT_NAME_NOT_FOUND);
    };
    let handle: HANDLE = kernel.objects().open(kernel.caller(), Object::Key(path, generation, u32::MAX));
    let parent = Parent::Default(kernel.wdf_driver());
    let made = object::create(kernel, Kind::Key, attributes, parent, Data::Key(handle));
    if !matches!(made, Ok(Ok(_))) {
        kernel.objects().close(handle);
    }
    object::give(made?, out)
}

/// The path of a key object; `Err` in the result if the key was deleted.
fn path(kernel: &Kernel, key: Address) -> Result<Result<String, Status>, Trouble> {
    let handle = *kernel.framework().key(key)?;
    Ok(zw::key(kernel, handle))
}

/// `WdfDriverOpenParametersRegistryKey`.
pub extern "win64" fn WdfDriverOpenParametersRegistryKey(
    DriverGlobals: Address,
    Driver: Address,
    DesiredAccess: u32,
    KeyAttributes: Address,
    Key: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfDriverOpenParametersRegistryKey);
    let _ = (DriverGlobals, DesiredAccess);
    let open = || {
        let service = {
            let mut framework = kernel.framework();
            framework.object_of(Driver, Kind::Driver)?;
            let client = framework.clients.get(&framework.owner(Driver));
            client.map(|client| client.service.clone()).unwrap_or_default()
        };
        open(&kernel, parameters_key(&service), KeyAttributes, Key)
    };
    finish(&kernel, open())
}

/// The path below a parent key, or the path itself without one.
fn below(kernel: &Kernel, parent: Address, name: Address) -> Result<Result<String, Status>, Trouble> {
    let name = string(not_null("KeyName", name)?)?;
    Ok(match parent {
        0 => Ok(name),
        parent => path(kernel, parent)?.map(|parent| format!(r"{parent}\{name}")),
    })
}

/// `WdfRegistryOpenKey`.
pub extern "win64" fn WdfRegistryOpenKey(
    DriverGlobals: Address,
    ParentKey: Address,
    KeyName: Address,
    DesiredAccess: u32,
    KeyAttributes: Address,
    Key: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRegistryOpenKey);
    let _ = (DriverGlobals, DesiredAccess);
    let open = || match below(&kernel, ParentKey, KeyName)? {
        Ok(path) => open(&kernel, path, KeyAttributes, Key),
        Err(status) => Ok(status),
    };
    finish(&kernel, open())
}

/// `WdfRegistryCreateKey`: creates the key if it does not exist, and opens it.
pub extern "win64" fn WdfRegistryCreateKey(
    DriverGlobals: Address,
    ParentKey: Address,
    KeyName: Address,
    DesiredAccess: u32,
    CreateOptions: u32,
    CreateDisposition: Address,
    KeyAttributes: Address,
    Key: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRegistryCreateKey);
    let _ = (DriverGlobals, DesiredAccess, CreateOptions);
    let create = || {
        let path = match below(&kernel, ParentKey, KeyName)? {
            Ok(path) => path,
            Err(status) => return Ok(status),
        };
        let existed = kernel.registry().has_key(&path);
        let watches = kernel.registry().create_key(&path);
        kernel.complete_watches(watches, Status::SUCCESS);
        if CreateDisposition != 0 {
            // REG_OPENED_EXISTING_KEY, REG_CREATED_NEW_KEY (wdm.h).
            foreign::write(CreateDisposition, &if existed { 2u32 } else { 1u32 })?;
        }
        open(&kernel, path, KeyAttributes, Key)
    };
    finish(&kernel, create())
}

/// `WdfRegistryClose`. Deletes the object.
pub extern "win64" fn WdfRegistryClose(DriverGlobals: Address, Key: Address) {
    let kernel = enter!(WdfRegistryClose);
    let _ = DriverGlobals;
    let close = || {
        kernel.framework().key(Key)?;
        object::delete(&kernel, Key)
    };
    finish_void(&kernel, close());
}

/// `WdfRegistryWdmGetHandle`.
pub extern "win64" fn WdfRegistryWdmGetHandle(DriverGlobals: Address, Key: Address) -> Address {
    let kernel = enter!(WdfRegistryWdmGetHandle);
    let _ = DriverGlobals;
    let get = || Ok(*kernel.framework().key(Key)?);
    finish_value(&kernel, get())
}

/// A value of a key, or the status of the query.
fn value(kernel: &Kernel, key: Address, name: Address) -> Result<Result<RegistryValue, Status>, Trouble> {
    let name = string(not_null("ValueName", name)?)?;
    Ok(path(kernel, key)?.and_then(|path| {
        let found = kernel.registry().read(&path, &name, kernel.reader());
        found.map(|found| found.value).ok_or(Status::OBJECT_NAME_NOT_FOUND)
    }))
}

/// A value of one type. STATUS_OBJECT_TYPE_MISMATCH for another.
fn typed(
    kernel: &Kernel,
    key: Address,
    name: Address,
    kinds: &[u32],
) -> Result<Result<RegistryValue, Status>, Trouble> {
    Ok(value(kernel, key, name)?.and_then(|value| match kinds.contains(&value.kind) {
        true => Ok(value),
        false => Err(Status::OBJECT_TYPE_MISMATCH),
    }))
}

/// `WdfRegistryQueryULong`.
pub extern "win64" fn WdfRegistryQueryULong(
    DriverGlobals: Address,
    Key: Address,
    ValueName: Address,
    Value: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRegistryQueryULong);
    let _ = DriverGlobals;
    let query = || {
        not_null("Value", Value)?;
        let found = match typed(&kernel, Key, ValueName, &[REG_DWORD])? {
            Ok(found) => found,
            Err(status) => return Ok(status),
        };
        let Some(number) = found.data.first_chunk::<4>() else { return Ok(Status::OBJECT_TYPE_MISMATCH) };
        foreign::write(Value, &u32::from_le_bytes(*number))?;
        Ok(Status::SUCCESS)
    };
    finish(&kernel, query())
}

/// The text of a value, without its terminator.
fn text(value: &RegistryValue) -> String {
    let units: Vec<u16> = value.data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
    String::from_utf16_lossy(units.split(|unit| *unit == 0).next().unwrap_or_default())
}

/// `WdfRegistryQueryUnicodeString`. STATUS_BUFFER_OVERFLOW if the string is too small.
pub extern "win64" fn WdfRegistryQueryUnicodeString(
    DriverGlobals: Address,
    Key: Address,
    ValueName: Address,
    ValueByteLength: Address,
    Value: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRegistryQueryUnicodeString);
    let _ = DriverGlobals;
    let query = || {
        let found = match typed(&kernel, Key, ValueName, &[REG_SZ])? {
            Ok(found) => found,
            Err(status) => return Ok(status),
        };
        let bytes: Vec<u8> = text(&found).encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        if ValueByteLength != 0 {
            foreign::write(ValueByteLength, &(bytes.len() as u16))?;
        }
        if Value != 0 {
            let mut string: UNICODE_STRING = foreign::read(Value)?;
            if usize::from(string.MaximumLength) < bytes.len() {
                return Ok(Status::BUFFER_OVERFLOW);
            }
            foreign::write_bytes(string.Buffer, &bytes)?;
            string.Length = (bytes.len() - 2) as u16;
            foreign::write(Value, &string)?;
        }
        Ok(Status::SUCCESS)
    };
    finish(&kernel, query())
}

/// `WdfRegistryQueryString`, into a string object.
pub extern "win64" fn WdfRegistryQueryString(
    DriverGlobals: Address,
    Key: Address,
    ValueName: Address,
    String: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRegistryQueryString);
    let _ = DriverGlobals;
    let query = || {
        kernel.framework().string(String)?;
        match typed(&kernel, Key, ValueName, &[REG_SZ])? {
            Ok(found) => strings::set(&kernel, String, &text(&found)),
            Err(status) => Ok(status),
        }
    };
    finish(&kernel, query())
}

/// `WdfRegistryQueryMultiString`: a string object for each string of the value.
pub extern "win64" fn WdfRegistryQueryMultiString(
    DriverGlobals: Address,
    Key: Address,
    ValueName: Address,
    StringsAttributes: Address,
    Collection: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRegistryQueryMultiString);
    let _ = DriverGlobals;
    let query = || {
        kernel.framework().collection(Collection)?;
        let found = match typed(&kernel, Key, ValueName, &[REG_MULTI_SZ])? {
            Ok(found) => found,
            Err(status) => return Ok(status),
        };
        let units: Vec<u16> = found.data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        for part in units.split(|unit| *unit == 0).filter(|part| !part.is_empty()) {
            match strings::create(&kernel, &std::string::String::from_utf16_lossy(part), StringsAttributes)? {
                Ok(string) => {
                    let _added = strings::add(&kernel, Collection, string)?;
                }
                Err(status) => return Ok(status),
            }
        }
        Ok(Status::SUCCESS)
    };
    finish(&kernel, query())
}

/// `WdfRegistryQueryValue`. STATUS_BUFFER_OVERFLOW if the buffer is too small.
pub extern "win64" fn WdfRegistryQueryValue(
    DriverGlobals: Address,
    Key: Address,
    ValueName: Address,
    ValueLength: u32,
    Value: Address,
    ValueLengthQueried: Address,
    ValueType: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRegistryQueryValue);
    let _ = DriverGlobals;
    let query = || {
        let found = match value(&kernel, Key, ValueName)? {
            Ok(found) => found,
            Err(status) => return Ok(status),
        };
        for (out, number) in [(ValueLengthQueried, found.data.len() as u32), (ValueType, found.kind)] {
            if out != 0 {
                foreign::write(out, &number)?;
            }
        }
        if Value == 0 || (ValueLength as usize) < found.data.len() {
            return Ok(Status::BUFFER_OVERFLOW);
        }
        foreign::write_bytes(Value, &found.data)?;
        Ok(Status::SUCCESS)
    };
    finish(&kernel, query())
}

/// `WdfRegistryQueryMemory`, into a new memory object.
pub extern "win64" fn WdfRegistryQueryMemory(
    DriverGlobals: Address,
    Key: Address,
    ValueName: Address,
    PoolType: i32,
    MemoryAttributes: Address,
    Memory: Address,
    ValueType: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRegistryQueryMemory);
    let _ = DriverGlobals;
    let query = || {
        not_null("Memory", Memory)?;
        let found = match value(&kernel, Key, ValueName)? {
            Ok(found) => found,
            Err(status) => return Ok(status),
        };
        if ValueType != 0 {
            foreign::write(ValueType, &found.kind)?;
        }
        let size = found.data.len().max(1);
        let made = buffers::create_memory(&kernel, MemoryAttributes, PoolType & 1 != 0, 0, size)?;
        if let Ok(memory) = made {
            let address = buffers::address(&kernel, memory)?;
            foreign::write_bytes(address, &found.data)?;
        }
        object::give(made, Memory)
    };
    finish(&kernel, query())
}

fn assign(kernel: &Kernel, key: Address, name: Address, value: RegistryValue) -> Result<Status, Trouble> {
    let name = string(not_null("ValueName", name)?)?;
    match path(kernel, key)? {
        Ok(path) => {
            kernel.set_value(&path, &name, value);
            Ok(Status::SUCCESS)
        }
        Err(status) => Ok(status),
    }
}

/// `WdfRegistryAssignULong`.
pub extern "win64" fn WdfRegistryAssignULong(
    DriverGlobals: Address,
    Key: Address,
    ValueName: Address,
    Value: u32,
) -> NTSTATUS {
    let kernel = enter!(WdfRegistryAssignULong);
    let _ = DriverGlobals;
    finish(&kernel, assign(&kernel, Key, ValueName, RegistryValue::dword(Value)))
}

/// `WdfRegistryAssignValue`.
pub extern "win64" fn WdfRegistryAssignValue(
    DriverGlobals: Address,
    Key: Address,
    ValueName: Address,
    ValueType: u32,
    ValueLength: u32,
    Value: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRegistryAssignValue);
    let _ = DriverGlobals;
    let set = || {
        let data = foreign::read_bytes(Value, ValueLength as usize)?;
        assign(&kernel, Key, ValueName, RegistryValue { kind: ValueType, data })
    };
    finish(&kernel, set())
}

/// `WdfRegistryAssignUnicodeString`.
pub extern "win64" fn WdfRegistryAssignUnicodeString(
    DriverGlobals: Address,
    Key: Address,
    ValueName: Address,
    Value: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRegistryAssignUnicodeString);
    let _ = DriverGlobals;
    let set = || assign(&kernel, Key, ValueName, RegistryValue::sz(&string(not_null("Value", Value)?)?));
    finish(&kernel, set())
}

/// `WdfRegistryRemoveValue`.
pub extern "win64" fn WdfRegistryRemoveValue(
    DriverGlobals: Address,
    Key: Address,
    ValueName: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfRegistryRemoveValue);
    let _ = DriverGlobals;
    let remove = || {
        let name = string(not_null("ValueName", ValueName)?)?;
        match path(&kernel, Key)? {
            Ok(path) if kernel.registry().value(&path, &name).is_some() => {
                kernel.delete_value(&path, &name);
                Ok(Status::SUCCESS)
            }
            Ok(_) => Ok(Status::OBJECT_NAME_NOT_FOUND),
            Err(status) => Ok(status),
        }
    };
    finish(&kernel, remove())
}
