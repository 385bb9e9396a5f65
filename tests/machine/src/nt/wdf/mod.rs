//! The Kernel-Mode Driver Framework (KMDF), as Wdf01000.sys and wdfldr.sys offer it.
//!
//! | module | content |
//! |---|---|
//! | `bind` | binds a driver to the table of functions of its version |
//! | `object` | objects: parents, references, contexts, deletion |
//! | `driver`, `device`, `queue`, `request` | how requests reach a driver's callbacks |
//! | `buffers` | a request's buffers and memory objects |
//! | `work`, `timer`, `locks`, `strings`, `registry` | the other objects |
//!
//! Sources are the reference pages of the functions and the public headers. A handle
//! is an address that faults. The driver reaches only contexts and buffers.
#![expect(non_snake_case, reason = "the names are the framework's own")]

mod bind;
mod buffers;
mod device;
mod dispatch;
mod driver;
mod locks;
mod object;
mod queue;
mod registry;
mod request;
mod scope;
mod strings;
mod timer;
mod work;

use std::collections::BTreeMap;

use super::memory::Guarded;
use super::types::{Address, BOOLEAN, HANDLE, NTSTATUS};
use super::{Kernel, Trouble};
use crate::driver::DriverId;
use crate::status::Status;
use crate::verifier::{Violation, rules};

pub use bind::*;
pub use buffers::*;
pub use device::*;
pub(super) use dispatch::{cancel, dispatch};
pub use driver::*;
pub use locks::*;
pub(super) use object::delete_here as delete_object;
pub use object::*;
pub use queue::*;
pub use registry::*;
pub use request::*;
pub use strings::*;
pub use timer::*;
pub(super) use work::run as run_work_item;
pub use work::*;

/// Status codes of the framework (`wdfstatus.h`).
mod status {
    use crate::status::Status;

    pub(super) const INCOMPATIBLE_EXECUTION_LEVEL: Status = Status(0xC020_020C_u32 as i32);
    pub(super) const PAUSED: Status = Status(0xC020_0203_u32 as i32);
    pub(super) const BUSY: Status = Status(0xC020_0204_u32 as i32);
    pub(super) const REQUEST_INVALID_STATE: Status = Status(0xC020_0208_u32 as i32);
    pub(super) const OBJECT_ATTRIBUTES_INVALID: Status = Status(0xC020_0209_u32 as i32);
    pub(super) const PARENT_NOT_SPECIFIED: Status = Status(0xC020_0212_u32 as i32);
    pub(super) const NO_CALLBACK: Status = Status(0xC020_020B_u32 as i32);
}

/// The kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Driver,
    Device,
    Queue,
    Request,
    File,
    WorkItem,
    Timer,
    Memory,
    SpinLock,
    WaitLock,
    Key,
    String,
    Collection,
    General,
}

/// Every kind, with the name of its handle's type.
const KINDS: [(Kind, &str); 14] = [
    (Kind::Driver, "WDFDRIVER"),
    (Kind::Device, "WDFDEVICE"),
    (Kind::Queue, "WDFQUEUE"),
    (Kind::Request, "WDFREQUEST"),
    (Kind::File, "WDFFILEOBJECT"),
    (Kind::WorkItem, "WDFWORKITEM"),
    (Kind::Timer, "WDFTIMER"),
    (Kind::Memory, "WDFMEMORY"),
    (Kind::SpinLock, "WDFSPINLOCK"),
    (Kind::WaitLock, "WDFWAITLOCK"),
    (Kind::Key, "WDFKEY"),
    (Kind::String, "WDFSTRING"),
    (Kind::Collection, "WDFCOLLECTION"),
    (Kind::General, "WDFOBJECT"),
];

impl Kind {
    fn name(self) -> &'static str {
        KINDS[self as usize].1
    }
}

/// What an object is besides an object.
#[derive(Debug)]
enum Data {
    Driver,
    Device(device::Data),
    Queue(queue::Data),
    Request(request::Data),
    File(device::FileData),
    WorkItem(work::Data),
    Timer(timer::Data),
    /// Address and size. `tag`: of a block of pool that belongs to the object, or 0.
    Memory {
        address: Address,
        size: usize,
        tag: u32,
    },
    Lock(locks::Data),
    Key(HANDLE),
    /// The pages that hold a `UNICODE_STRING` and its text.
    String(Guarded),
    Collection(Vec<Address>),
    General,
}

/// The framework's state in one machine.
#[derive(Debug, Default)]
pub(super) struct Framework {
    /// The drivers that are bound.
    clients: BTreeMap<DriverId, bind::Client>,
    objects: BTreeMap<Address, object::Object>,
    /// Locks of synchronization scopes, by device or queue.
    scopes: BTreeMap<Address, scope::Lock>,
    /// What `WdfControlDeviceInitAllocate` made and no device has taken.
    inits: BTreeMap<Address, device::Init>,
    /// The number of handles so far.
    handles: usize,
}

/// The first address of handles, in the kernel's half of the address space.
const HANDLES: Address = 0xFFFF_A000_0000_0000;
/// The distance between handles. The kind of the object is in the bits below it.
const HANDLE_STEP: usize = 0x100;

impl Framework {
    /// A new handle for an object of this kind.
    fn new_handle(&mut self, kind: Kind) -> Address {
        self.handles += 1;
        HANDLES + self.handles * HANDLE_STEP + kind as usize * 8
    }

    /// Describes a handle that leads to no object, or to one of another kind.
    fn describe(&self, handle: Address) -> String {
        let distance = handle.wrapping_sub(HANDLES);
        let kind = KINDS.get(distance % HANDLE_STEP / 8);
        match kind {
            _ if self.objects.contains_key(&handle) => {
                format!("{} {handle:#x}", self.objects[&handle].kind.name())
            }
            Some((_, name)) if (HANDLE_STEP..=self.handles * HANDLE_STEP + 0xFF).contains(&distance) => {
                format!("{name} {handle:#x}, which was deleted")
            }
            _ if handle == 0 => "a NULL handle".to_owned(),
            _ => format!("{handle:#x}, which is no handle"),
        }
    }

    /// The object of a handle, of any kind.
    fn object(&mut self, handle: Address) -> Result<&mut object::Object, Violation> {
        if !self.objects.contains_key(&handle) {
            return Err(bad_handle(handle, self.describe(handle)));
        }
        Ok(self.objects.get_mut(&handle).expect("as just checked"))
    }

    /// The object of a handle, which must be of this kind.
    fn object_of(&mut self, handle: Address, kind: Kind) -> Result<&mut object::Object, Violation> {
        let text = match self.objects.get(&handle) {
            Some(object) if object.kind == kind => None,
            _ => Some(format!("{} in place of a {}", self.describe(handle), kind.name())),
        };
        match text {
            None => self.object(handle),
            Some(text) => Err(bad_handle(handle, text)),
        }
    }
}

/// The accessors of an object's own part.
macro_rules! parts {
    ($($function:ident: $kind:ident => $type:ty;)*) => {
        impl Framework {
            $(fn $function(&mut self, handle: Address) -> Result<&mut $type, Violation> {
                match &mut self.object_of(handle, Kind::$kind)?.data {
                    Data::$kind(data) => Ok(data),
                    other => unreachable!("a {} with {other:?}", stringify!($kind)),
                }
            })*
        }
    };
}
parts! {
    device: Device => device::Data;
    queue: Queue => queue::Data;
    request: Request => request::Data;
    file: File => device::FileData;
    work_item: WorkItem => work::Data;
    timer: Timer => timer::Data;
    key: Key => HANDLE;
    string: String => Guarded;
    collection: Collection => Vec<Address>;
}

fn bad_handle(handle: Address, text: String) -> Violation {
    Violation::new(&rules::WDF_BAD_HANDLE, [handle as u64, 0, 0], text)
}

/// A parameter that must not be NULL.
fn not_null(name: &str, value: Address) -> Result<Address, Trouble> {
    match value {
        0 => {
            // The caller's address is the third parameter.
            let parameters = [0, Kernel::current().call_site(), 0];
            Err(Violation::new(&rules::WDF_NULL_PARAMETER, parameters, name.to_owned()).into())
        }
        value => Ok(value),
    }
}

/// What a function with a status returns after a tolerated breach.
const REFUSED: Status = Status::UNSUCCESSFUL;

/// Ends a call with a status.
fn finish(kernel: &Kernel, outcome: Result<Status, Trouble>) -> NTSTATUS {
    let status = kernel.settle(outcome, REFUSED).0;
    // A callback may have stopped the machine.
    kernel.leave_if_stopped();
    status
}

/// Ends a call without a result.
fn finish_void(kernel: &Kernel, outcome: Result<(), Trouble>) {
    kernel.settle(outcome, ());
    kernel.leave_if_stopped();
}

/// Ends a call that returns an address, a handle or a number.
fn finish_value<T: Copy + Default>(kernel: &Kernel, outcome: Result<T, Trouble>) -> T {
    let value = kernel.settle(outcome, T::default());
    kernel.leave_if_stopped();
    value
}

/// TRUE or FALSE.
fn boolean(value: bool) -> BOOLEAN {
    BOOLEAN::from(value)
}
