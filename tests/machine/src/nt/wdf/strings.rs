//! Strings and collections of the framework (`wdfstring.h`, `wdfcollection.h`).

use super::super::enter::enter;
use super::super::memory::Guarded;
use super::super::types::{Address, NTSTATUS, UNICODE_STRING};
use super::super::{Kernel, Trouble, foreign};
use super::object::{self, Parent};
use super::{Data, Kind, finish, finish_value, finish_void, not_null};
use crate::status::Status;

/// Pages that hold a `UNICODE_STRING` and its text with a terminator.
fn pages(text: &str) -> Guarded {
    let bytes: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let header = size_of::<UNICODE_STRING>();
    let pages = Guarded::new(header + bytes.len());
    let buffer = pages.start() + header;
    pages.put_bytes(buffer, &bytes);
    let string = UNICODE_STRING {
        Length: (bytes.len() - 2) as u16,
        MaximumLength: bytes.len() as u16,
        Buffer: buffer,
    };
    pages.put(pages.start(), &string);
    pages
}

/// Replaces the text of a string object.
pub(super) fn set(kernel: &Kernel, string: Address, text: &str) -> Result<Status, Trouble> {
    *kernel.framework().string(string)? = pages(text);
    Ok(Status::SUCCESS)
}

/// Creates a string object.
pub(super) fn create(
    kernel: &Kernel,
    text: &str,
    attributes: Address,
) -> Result<Result<Address, Status>, Trouble> {
    let parent = Parent::Default(kernel.wdf_driver());
    object::create(kernel, Kind::String, attributes, parent, Data::String(pages(text)))
}

/// `WdfStringCreate`. Without a string, it is empty.
pub extern "win64" fn WdfStringCreate(
    DriverGlobals: Address,
    UnicodeString: Address,
    StringAttributes: Address,
    String: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfStringCreate);
    let _ = DriverGlobals;
    let make = || {
        not_null("String", String)?;
        let text = match UnicodeString {
            0 => std::string::String::new(),
            at => foreign::read_unicode_string(at).map_err(|bad| Trouble::String(at, bad))?,
        };
        object::give(create(&kernel, &text, StringAttributes)?, String)
    };
    finish(&kernel, make())
}

/// `WdfStringGetUnicodeString`. The buffer is the object's.
pub extern "win64" fn WdfStringGetUnicodeString(
    DriverGlobals: Address,
    String: Address,
    UnicodeString: Address,
) {
    let kernel = enter!(WdfStringGetUnicodeString);
    let _ = DriverGlobals;
    let get = || {
        let string: UNICODE_STRING = {
            let mut framework = kernel.framework();
            let pages = framework.string(String)?;
            pages.get(pages.start())
        };
        Ok(foreign::write(not_null("UnicodeString", UnicodeString)?, &string)?)
    };
    finish_void(&kernel, get());
}

/// `WdfCollectionCreate`.
pub extern "win64" fn WdfCollectionCreate(
    DriverGlobals: Address,
    CollectionAttributes: Address,
    Collection: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfCollectionCreate);
    let _ = DriverGlobals;
    let create = || {
        not_null("Collection", Collection)?;
        let parent = Parent::Default(kernel.wdf_driver());
        let data = Data::Collection(Vec::new());
        object::give(
            object::create(&kernel, Kind::Collection, CollectionAttributes, parent, data)?,
            Collection,
        )
    };
    finish(&kernel, create())
}

/// `WdfCollectionGetCount`.
pub extern "win64" fn WdfCollectionGetCount(DriverGlobals: Address, Collection: Address) -> u32 {
    let kernel = enter!(WdfCollectionGetCount);
    let _ = DriverGlobals;
    let get = || Ok(kernel.framework().collection(Collection)?.len() as u32);
    finish_value(&kernel, get())
}

/// `WdfCollectionAdd`. The collection references the object.
pub extern "win64" fn WdfCollectionAdd(
    DriverGlobals: Address,
    Collection: Address,
    Object: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfCollectionAdd);
    let _ = DriverGlobals;
    finish(&kernel, add(&kernel, Collection, Object))
}

/// Adds an object to a collection.
pub(super) fn add(kernel: &Kernel, collection: Address, object: Address) -> Result<Status, Trouble> {
    let mut framework = kernel.framework();
    framework.collection(collection)?;
    framework.object(object)?.references += 1;
    framework.collection(collection)?.push(object);
    Ok(Status::SUCCESS)
}

/// Removes what `which` finds, and releases the reference.
fn remove(
    kernel: &Kernel,
    collection: Address,
    which: impl FnOnce(&[Address]) -> Option<usize>,
) -> Result<(), Trouble> {
    let removed = {
        let mut framework = kernel.framework();
        let items = framework.collection(collection)?;
        which(items).map(|at| items.remove(at))
    };
    if let Some(object) = removed {
        object::release(kernel, object);
    }
    Ok(())
}

/// `WdfCollectionRemove`.
pub extern "win64" fn WdfCollectionRemove(DriverGlobals: Address, Collection: Address, Item: Address) {
    let kernel = enter!(WdfCollectionRemove);
    let _ = DriverGlobals;
    let find = |items: &[Address]| items.iter().position(|item| *item == Item);
    finish_void(&kernel, remove(&kernel, Collection, find));
}

/// `WdfCollectionRemoveItem`.
pub extern "win64" fn WdfCollectionRemoveItem(DriverGlobals: Address, Collection: Address, Index: u32) {
    let kernel = enter!(WdfCollectionRemoveItem);
    let _ = DriverGlobals;
    let find = |items: &[Address]| Some(Index as usize).filter(|at| *at < items.len());
    finish_void(&kernel, remove(&kernel, Collection, find));
}

fn item(kernel: &Kernel, collection: Address, at: impl FnOnce(&[Address]) -> Option<&Address>) -> Address {
    let found = kernel.framework().collection(collection).map(|items| at(items).copied().unwrap_or(0));
    finish_value(kernel, found.map_err(Into::into))
}

/// `WdfCollectionGetItem`. NULL if there is none.
pub extern "win64" fn WdfCollectionGetItem(
    DriverGlobals: Address,
    Collection: Address,
    Index: u32,
) -> Address {
    let kernel = enter!(WdfCollectionGetItem);
    let _ = DriverGlobals;
    item(&kernel, Collection, |items| items.get(Index as usize))
}

/// `WdfCollectionGetFirstItem`. NULL if there is none.
pub extern "win64" fn WdfCollectionGetFirstItem(DriverGlobals: Address, Collection: Address) -> Address {
    let kernel = enter!(WdfCollectionGetFirstItem);
    let _ = DriverGlobals;
    item(&kernel, Collection, |items| items.first())
}

/// `WdfCollectionGetLastItem`. NULL if there is none.
pub extern "win64" fn WdfCollectionGetLastItem(DriverGlobals: Address, Collection: Address) -> Address {
    let kernel = enter!(WdfCollectionGetLastItem);
    let _ = DriverGlobals;
    item(&kernel, Collection, |items| items.last())
}
