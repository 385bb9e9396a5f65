//! Objects of the framework: parents, references, contexts and deletion.
//!
//! "The framework calls the child objects' EvtCleanupCallback callback functions
//! before calling the parent object's […]. Next, if the child's reference count is
//! zero, the framework calls the child object's EvtDestroyCallback […]. Finally, if
//! the parent's reference count is zero, the framework calls the parent object's"
//! (EVT_WDF_OBJECT_CONTEXT_DESTROY).

use std::collections::BTreeMap;

use super::super::cpu::{self, Irql};
use super::super::enter::enter;
use super::super::pool::Wanted;
use super::super::types::{Address, NTSTATUS, WDF_OBJECT_ATTRIBUTES, WDF_OBJECT_CONTEXT_TYPE_INFO};
use super::super::work::Job;
use super::super::{Kernel, Trouble, foreign};
use super::{
    Data, Framework, Kind, buffers, device, finish, finish_value, finish_void, not_null, queue, scope,
    status, timer, work,
};
use crate::driver::DriverId;
use crate::status::Status;
use crate::verifier::{Violation, rules};

/// How far an object's deletion has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Live,
    /// Its cleanup callbacks have been called, or are about to be.
    Deleted,
}

/// An object.
#[derive(Debug)]
pub(super) struct Object {
    /// Its driver.
    pub owner: DriverId,
    pub kind: Kind,
    /// Its parent, or 0.
    pub parent: Address,
    pub children: Vec<Address>,
    /// One for its existence, and those of the driver.
    pub references: u32,
    pub state: State,
    contexts: Vec<Context>,
    pub data: Data,
    /// Execution level and synchronization scope of its callbacks.
    pub wanted: scope::Wanted,
}

/// A context of an object, with the callbacks that came with it. A context without
/// a type has only callbacks.
#[derive(Clone, Debug)]
struct Context {
    /// The address of the type's information.
    kind: Address,
    name: String,
    /// Its memory, or 0, and the memory's tag.
    memory: Address,
    tag: u32,
    cleanup: Address,
    destroy: Address,
}

/// Which parents an object may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    /// The given one; the driver cannot choose.
    Fixed(Address),
    /// The driver's choice, or the given one.
    Default(Address),
    /// The driver must choose.
    Required,
}

impl Framework {
    /// The WDFDRIVER of a driver, or 0.
    pub fn driver_handle(&self, driver: DriverId) -> Address {
        self.clients.get(&driver).map_or(0, |client| client.driver)
    }

    /// The driver of an object; the system if there is no such object.
    pub fn owner(&self, handle: Address) -> DriverId {
        self.objects.get(&handle).map_or(DriverId::SYSTEM, |object| object.owner)
    }
}

impl Kernel {
    /// The WDFDRIVER of the calling driver, or 0.
    pub(super) fn wdf_driver(&self) -> Address {
        self.framework().driver_handle(self.caller())
    }

    /// The tag of memory that the framework allocates for the calling driver.
    pub(super) fn wdf_tag(&self) -> u32 {
        self.framework().clients.get(&self.caller()).map_or(0, super::bind::Client::tag)
    }
}

/// Creates an object. `Err` in the result is a status for the driver.
pub(super) fn create(
    kernel: &Kernel,
    kind: Kind,
    attributes: Address,
    parent: Parent,
    data: Data,
) -> Result<Result<Address, Status>, Trouble> {
    let given = match attributes {
        0 => None,
        at => {
            let given: WDF_OBJECT_ATTRIBUTES = foreign::read_sized(at)?;
            if given.Size as usize != size_of::<WDF_OBJECT_ATTRIBUTES>() {
                return Ok(Err(Status::INFO_LENGTH_MISMATCH));
            }
            Some(given)
        }
    };
    let wanted = given.map_or(0, |given| given.ParentObject);
    let parent = match (parent, wanted) {
        (Parent::Fixed(parent), 0) => parent,
        // STATUS_WDF_PARENT_ASSIGNMENT_NOT_ALLOWED.
        (Parent::Fixed(_), _) => return Ok(Err(Status(0xC020_020F_u32 as i32))),
        (Parent::Required, 0) => return Ok(Err(status::PARENT_NOT_SPECIFIED)),
        (Parent::Default(parent), 0) => parent,
        (Parent::Default(_) | Parent::Required, chosen) => chosen,
    };
    let context = match given {
        None => None,
        Some(given) => match context(kernel, &given)? {
            Ok(context) => Some(context),
            Err(status) => return Ok(Err(status)),
        },
    };
    let owner = kernel.caller();
    let wanted = scope::Wanted::of(given.as_ref());
    let mut framework = kernel.framework();
    if parent != 0 {
        framework.object(parent)?;
    }
    let handle = framework.new_handle(kind);
    let contexts = context.into_iter().collect();
    let object = Object {
        owner,
        kind,
        parent,
        children: Vec::new(),
        references: 1,
        state: State::Live,
        contexts,
        data,
        wanted,
    };
    framework.objects.insert(handle, object);
    if parent != 0 {
        framework.object(parent)?.children.push(handle);
    }
    Ok(Ok(handle))
}

/// Makes the context that attributes ask for.
fn context(kernel: &Kernel, given: &WDF_OBJECT_ATTRIBUTES) -> Result<Result<Context, Status>, Trouble> {
    let mut context = Context {
        kind: 0,
        name: String::new(),
        memory: 0,
        tag: kernel.wdf_tag(),
        cleanup: given.EvtCleanupCallback,
        destroy: given.EvtDestroyCallback,
    };
    if given.ContextTypeInfo == 0 {
        return Ok(Ok(context));
    }
    let info: WDF_OBJECT_CONTEXT_TYPE_INFO = foreign::read(given.ContextTypeInfo)?;
    context.kind = unique_type(kernel, given.ContextTypeInfo, &info)?;
    context.name = foreign::read_text(info.ContextName)?;
    let size = match given.ContextSizeOverride {
        0 => info.ContextSize,
        size if size < info.ContextSize => return Ok(Err(status::OBJECT_ATTRIBUTES_INVALID)),
        size => size,
    };
    context.memory = kernel.pool().allocate(Wanted {
        size: size.max(1),
        tag: context.tag,
        paged: false,
        zeroed: true,
        cache_aligned: false,
        origin: kernel.origin(),
    });
    match context.memory {
        0 => Ok(Err(Status::INSUFFICIENT_RESOURCES)),
        _ => Ok(Ok(context)),
    }
}

/// The address that identifies a context type.
fn unique_type(
    kernel: &Kernel,
    address: Address,
    info: &WDF_OBJECT_CONTEXT_TYPE_INFO,
) -> Result<Address, Trouble> {
    if info.EvtDriverGetUniqueContextType != 0 {
        let routine = info.EvtDriverGetUniqueContextType;
        let found = kernel.call_driver(routine, &[], Irql::PASSIVE, "EvtDriverGetUniqueContextType");
        return Ok(found.map_or(0, |found| found as Address));
    }
    Ok(if info.UniqueType == 0 { address } else { info.UniqueType })
}

/// `WdfObjectGetTypedContextWorker`. NULL if the object has no context of this type.
pub extern "win64" fn WdfObjectGetTypedContextWorker(
    DriverGlobals: Address,
    Handle: Address,
    TypeInfo: Address,
) -> Address {
    let kernel = enter!(WdfObjectGetTypedContextWorker);
    let _ = DriverGlobals;
    let find = || {
        let info: WDF_OBJECT_CONTEXT_TYPE_INFO = foreign::read(not_null("TypeInfo", TypeInfo)?)?;
        let kind = unique_type(&kernel, TypeInfo, &info)?;
        let (found, text) = {
            let mut framework = kernel.framework();
            let object = framework.object(Handle)?;
            let found = object.contexts.iter().find(|context| context.kind == kind && context.memory != 0);
            let names: Vec<_> = object.contexts.iter().map(|context| context.name.clone()).collect();
            (found.map(|context| context.memory), (object.kind.name(), names))
        };
        if let Some(found) = found {
            return Ok(found);
        }
        let (kind, names) = text;
        let wanted = foreign::read_text(info.ContextName)?;
        let text = format!("{kind} {Handle:#x} has no context {wanted}; it has {names:?}");
        Err(Violation::new(&rules::WDF_CONTEXT_TYPE, [Handle as u64, TypeInfo as u64, 0], text).into())
    };
    finish_value(&kernel, find())
}

/// `WdfObjectAllocateContext`. An object has one context of each type.
pub extern "win64" fn WdfObjectAllocateContext(
    DriverGlobals: Address,
    Handle: Address,
    ContextAttributes: Address,
    Context: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfObjectAllocateContext);
    let _ = DriverGlobals;
    let allocate = || {
        let given: WDF_OBJECT_ATTRIBUTES =
            foreign::read_sized(not_null("ContextAttributes", ContextAttributes)?)?;
        kernel.framework().object(Handle)?;
        if given.ContextTypeInfo == 0 {
            return Ok(status::OBJECT_ATTRIBUTES_INVALID);
        }
        let context = match context(&kernel, &given)? {
            Ok(context) => context,
            Err(status) => return Ok(status),
        };
        let mut framework = kernel.framework();
        let object = framework.object(Handle)?;
        let there = object.contexts.iter().find(|other| other.kind == context.kind && other.memory != 0);
        let (memory, status) = match (there, object.state) {
            (Some(there), _) => (there.memory, Status::OBJECT_NAME_EXISTS),
            (None, State::Deleted) => (0, Status::DELETE_PENDING),
            (None, State::Live) => (context.memory, Status::SUCCESS),
        };
        match status {
            Status::SUCCESS => object.contexts.push(context),
            _ => free_block(&kernel, context.memory, context.tag),
        }
        drop(framework);
        if Context != 0 {
            foreign::write(Context, &memory)?;
        }
        Ok(status)
    };
    finish(&kernel, allocate())
}

/// `WdfObjectContextGetObject`. The object of a context.
pub extern "win64" fn WdfObjectContextGetObject(DriverGlobals: Address, ContextPointer: Address) -> Address {
    let kernel = enter!(WdfObjectContextGetObject);
    let _ = DriverGlobals;
    let found = {
        let framework = kernel.framework();
        let has = |object: &Object| object.contexts.iter().any(|context| context.memory == ContextPointer);
        framework.objects.iter().find(|(_, object)| has(object)).map(|(handle, _)| *handle)
    };
    let text = format!("{ContextPointer:#x} is no context of an object");
    let found = found.ok_or_else(|| super::bad_handle(ContextPointer, text).into());
    finish_value(&kernel, found)
}

/// `WdfObjectCreate`.
pub extern "win64" fn WdfObjectCreate(
    DriverGlobals: Address,
    Attributes: Address,
    Object: Address,
) -> NTSTATUS {
    let kernel = enter!(WdfObjectCreate);
    let _ = DriverGlobals;
    let create = || {
        let parent = Parent::Default(kernel.wdf_driver());
        give(create(&kernel, Kind::General, Attributes, parent, Data::General)?, Object)
    };
    finish(&kernel, create())
}

/// Writes a new handle to the driver.
pub(super) fn give(handle: Result<Address, Status>, out: Address) -> Result<Status, Trouble> {
    match handle {
        Ok(handle) => {
            foreign::write(out, &handle)?;
            Ok(Status::SUCCESS)
        }
        Err(status) => Ok(status),
    }
}

/// `WdfObjectReferenceActual`.
pub extern "win64" fn WdfObjectReferenceActual(
    DriverGlobals: Address,
    Handle: Address,
    Tag: Address,
    Line: i32,
    File: Address,
) {
    let kernel = enter!(WdfObjectReferenceActual);
    let _ = (DriverGlobals, Tag, Line, File);
    let reference = || {
        kernel.framework().object(Handle)?.references += 1;
        Ok(())
    };
    finish_void(&kernel, reference());
}

/// `WdfObjectDereferenceActual`.
pub extern "win64" fn WdfObjectDereferenceActual(
    DriverGlobals: Address,
    Handle: Address,
    Tag: Address,
    Line: i32,
    File: Address,
) {
    let kernel = enter!(WdfObjectDereferenceActual);
    let _ = (DriverGlobals, Tag, Line, File);
    let dereference = || {
        {
            let mut framework = kernel.framework();
            let object = framework.object(Handle)?;
            if object.references == 1 && object.state == State::Live {
                let text = format!("WdfObjectDereference of {} {Handle:#x}", object.kind.name());
                return Err(object_error(Handle, text));
            }
        }
        release(&kernel, Handle);
        Ok(())
    };
    finish_void(&kernel, dereference());
}

fn object_error(handle: Address, text: String) -> Trouble {
    Violation::new(&rules::WDF_OBJECT_ERROR, [handle as u64, 0, 0], text).into()
}

/// `WdfObjectDelete`.
pub extern "win64" fn WdfObjectDelete(DriverGlobals: Address, Object: Address) {
    let kernel = enter!(WdfObjectDelete);
    let _ = DriverGlobals;
    let delete = || {
        let (kind, state, is_default) = {
            let mut framework = kernel.framework();
            let object = framework.object(Object)?;
            let is_default = matches!(&object.data, Data::Queue(queue) if queue.is_default);
            (object.kind, object.state, is_default)
        };
        let is_systems = matches!(kind, Kind::Driver | Kind::File | Kind::Request) || is_default;
        if is_systems || state == State::Deleted {
            let text = format!("WdfObjectDelete of {} {Object:#x}", kind.name());
            return Err(object_error(Object, text));
        }
        delete(&kernel, Object)
    };
    finish_void(&kernel, delete());
}

/// Deletes an object and its children. If one of them needs PASSIVE_LEVEL, a worker
/// does it.
pub(super) fn delete(kernel: &Kernel, handle: Address) -> Result<(), Trouble> {
    let tree = {
        let mut framework = kernel.framework();
        framework.object(handle)?;
        framework.tree(handle)
    };
    let passive = || tree.iter().any(|(_, kind)| needs_passive(*kind));
    if cpu::irql() > Irql::PASSIVE && passive() {
        let driver = kernel.framework().owner(handle);
        kernel.work().push(Job::DeleteObject { handle }, driver);
        return Ok(());
    }
    delete_here(kernel, handle);
    Ok(())
}

/// "The framework calls the callback function at IRQL = PASSIVE_LEVEL" for these
/// (EVT_WDF_OBJECT_CONTEXT_CLEANUP, EVT_WDF_OBJECT_CONTEXT_DESTROY).
fn needs_passive(kind: Kind) -> bool {
    use Kind::{Device, Driver, Queue, String, Timer, WorkItem};
    matches!(kind, Device | Driver | Queue | String | Timer | WorkItem)
}

/// Deletes an object and its children on this thread.
pub(in crate::nt) fn delete_here(kernel: &Kernel, handle: Address) {
    let tree = kernel.framework().tree(handle);
    for (handle, kind) in &tree {
        if kernel.framework().objects.get(handle).is_some_and(|object| object.state == State::Live) {
            dispose(kernel, *handle, *kind);
        }
    }
    for (handle, _) in &tree {
        release(kernel, *handle);
    }
}

/// Calls the cleanup callbacks of a request and its children, and destroys the
/// children, before its IRP is completed.
pub(super) fn dispose_early(kernel: &Kernel, handle: Address) {
    let tree = kernel.framework().tree(handle);
    for (handle, kind) in &tree {
        if kernel.framework().objects.get(handle).is_some_and(|object| object.state == State::Live) {
            dispose(kernel, *handle, *kind);
        }
    }
    for (child, _) in tree.iter().filter(|(child, _)| *child != handle) {
        release(kernel, *child);
    }
}

impl Framework {
    /// An object with all below it, children first.
    fn tree(&self, handle: Address) -> Vec<(Address, Kind)> {
        let Some(object) = self.objects.get(&handle) else { return Vec::new() };
        // Children are deleted in the reverse order of their creation.
        let below = object.children.iter().rev().flat_map(|child| self.tree(*child));
        below.chain([(handle, object.kind)]).collect()
    }
}

/// Stops what an object does, and calls its cleanup callbacks.
fn dispose(kernel: &Kernel, handle: Address, kind: Kind) {
    match kind {
        Kind::Queue => queue::close(kernel, handle),
        Kind::WorkItem => work::flush(kernel, handle),
        Kind::Timer => timer::close(kernel, handle),
        _ => {}
    }
    let callbacks = {
        let mut framework = kernel.framework();
        let Some(object) = framework.objects.get_mut(&handle) else { return };
        object.state = State::Deleted;
        object.contexts.iter().map(|context| context.cleanup).filter(|at| *at != 0).collect::<Vec<_>>()
    };
    for callback in callbacks {
        // A failed call has stopped the machine.
        let _ = kernel.call_driver(callback, &[handle as u64], Irql::PASSIVE, "EvtCleanupCallback");
    }
    if kind == Kind::Device {
        device::remove(kernel, handle);
    }
}

/// Releases a reference. With the last one, the object is destroyed.
pub(super) fn release(kernel: &Kernel, handle: Address) {
    let callbacks = {
        let mut framework = kernel.framework();
        let Some(object) = framework.objects.get_mut(&handle) else { return };
        object.references -= 1;
        if object.references > 0 {
            return;
        }
        object.contexts.iter().map(|context| context.destroy).filter(|at| *at != 0).collect::<Vec<_>>()
    };
    for callback in callbacks {
        let _ = kernel.call_driver(callback, &[handle as u64], Irql::PASSIVE, "EvtDestroyCallback");
    }
    let object = {
        let mut framework = kernel.framework();
        let Some(object) = framework.objects.remove(&handle) else { return };
        if let Some(parent) = framework.objects.get_mut(&object.parent) {
            parent.children.retain(|child| *child != handle);
        }
        object
    };
    for context in object.contexts.iter().filter(|context| context.memory != 0) {
        free_block(kernel, context.memory, context.tag);
    }
    match object.data {
        Data::Memory { address, tag, .. } if tag != 0 => free_block(kernel, address, tag),
        Data::Key(key) => drop(kernel.objects().close(key)),
        Data::Request(request) => buffers::release(kernel, request.mdls),
        _ => {}
    }
}

/// Frees memory that the framework allocated for the driver.
pub(super) fn free_block(kernel: &Kernel, address: Address, tag: u32) {
    let freed = kernel.pool().free(address, tag, cpu::irql(), kernel.guest().frames());
    if let Err(violation) = freed {
        kernel.condemn(violation);
    }
}

/// Reports the objects that a driver still references when it is unbound.
pub(super) fn report_left(kernel: &Kernel, driver: DriverId) {
    let left: Vec<String> = {
        let mut framework = kernel.framework();
        let left: BTreeMap<_, _> =
            framework.objects.extract_if(.., |_, object| object.owner == driver).collect();
        framework.inits.retain(|_, init| init.owner != driver);
        for context in left.values().flat_map(|object| &object.contexts) {
            if context.memory != 0 {
                free_block(kernel, context.memory, context.tag);
            }
        }
        let describe = |(handle, object): (&Address, &Object)| {
            format!("{} {handle:#x} with {} references", object.kind.name(), object.references)
        };
        left.iter().map(describe).collect()
    };
    if !left.is_empty() {
        let parameters = [left.len() as u64, 0, 0];
        let violation = Violation::new(&rules::WDF_OBJECT_LEFT, parameters, left.join("; "));
        kernel.condemn_driver(driver, violation);
    }
}
