//! Functions that the driver and its bugs use.

use core::hint::black_box;
use core::sync::atomic::Ordering::SeqCst;

use super::bugs::{nothing, slow};
use super::imports::*;
use super::*;

/// An MDL of bytes of the image.
pub unsafe fn nonpaged_mdl() -> Ptr {
    unsafe {
        let mdl = IoAllocateMdl(DATA.at(), 20, 0, 0, 0);
        MmBuildMdlForNonPagedPool(mdl);
        mdl
    }
}

/// An MDL of bytes of the image, whose pages are locked for reading.
pub unsafe fn locked_mdl() -> Ptr {
    unsafe {
        let mdl = IoAllocateMdl(DATA.at(), 20, 0, 0, 0);
        MmProbeAndLockPages(mdl, 0, 0);
        mdl
    }
}

/// Maps an MDL for the kernel.
pub unsafe fn map(mdl: Ptr) -> Ptr {
    unsafe { MmMapLockedPagesSpecifyCache(mdl, 0, 1, 0, 0, 0x4000_0010) }
}

/// A UNICODE_STRING with its text.
#[repr(C)]
pub struct Text {
    lengths: [u16; 2],
    buffer: Ptr,
    pub units: [u16; 32],
}

impl Text {
    /// Its address, once it is where it stays.
    pub fn at(&mut self) -> Ptr {
        self.buffer = self.units.as_ptr() as Ptr;
        &raw mut *self as Ptr
    }
}

pub fn string(text: &str) -> Text {
    let mut units = [0; 32];
    let count = text.encode_utf16().zip(&mut units).map(|(unit, place)| *place = unit).count();
    Text { lengths: [2 * count as u16; 2], buffer: 0, units }
}

/// Answers the current request in place of the dispatch routine, which returns `status`.
pub unsafe fn answer_request(completed: Option<u32>, status: u32) {
    ANSWERED.store(true, SeqCst);
    ANSWER.store(status, SeqCst);
    if let Some(completed) = completed {
        complete(REQUEST.load(SeqCst), completed, 0);
    }
}

/// The current request, noted.
pub fn request() -> Ptr {
    note(0, REQUEST.load(SeqCst))
}

/// The stack location of the current request.
pub unsafe fn location() -> Ptr {
    location_of(REQUEST.load(SeqCst))
}

/// IoMarkIrpPending.
pub unsafe fn mark_pending() {
    // IO_STACK_LOCATION.Control: SL_PENDING_RETURNED.
    unsafe { poke(location() + 3, 1) };
}

/// A request to the driver's own device, built with this input buffer of 16 bytes, or none.
pub unsafe fn control_irp(input: Ptr) -> Ptr {
    let length = if input == 0 { 0 } else { 16 };
    let (event, block) = (EVENT.at(), STATUS_BLOCK.at());
    unsafe {
        let device = DEVICE_OBJECT.load(SeqCst);
        IoBuildDeviceIoControlRequest(0x12_2000, device, input, length, 0, 0, 0, event, block)
    }
}

/// Sends a request to the driver's own device: IRP_MJ_CLEANUP, with a completion routine or none.
pub unsafe fn send_irp(irp: Ptr, routine: Ptr) {
    unsafe {
        // The next stack location, with SL_INVOKE_ON_SUCCESS and ON_ERROR.
        let next = location_of(irp) - LOCATION;
        poke(next, 18);
        if routine != 0 {
            poke(next + 3, 0xC0);
            ((next + 56) as *mut Ptr).write(routine);
        }
        IofCallDriver(DEVICE_OBJECT.load(SeqCst), irp);
    }
}

/// A completion routine that keeps the request.
pub extern "system" fn kept(_: Ptr, _: Ptr, _: Ptr) -> i32 {
    MORE_PROCESSING_REQUIRED
}

/// A request that the driver's own device has, and does not complete.
pub unsafe fn irp_in_use() -> Ptr {
    unsafe {
        let irp = IoAllocateIrp(1, 0);
        answer_request(None, 0x103);
        send_irp(irp, kept as *const () as Ptr);
        irp
    }
}

/// Keeps all workers of the lab's kernel busy for a while.
pub unsafe fn occupy_workers() {
    const WORKERS: usize = 4;
    unsafe {
        let device = DEVICE_OBJECT.load(SeqCst);
        for _ in 0..WORKERS {
            IoQueueWorkItem(IoAllocateWorkItem(device), slow as *const () as Ptr, 1, 0);
        }
    }
}

/// Runs `f` in a critical region.
pub unsafe fn critical<R>(f: impl FnOnce() -> R) -> R {
    unsafe {
        KeEnterCriticalRegion();
        let result = f();
        KeLeaveCriticalRegion();
        result
    }
}

/// A handle for every kind of injection.
pub unsafe fn injection_handle() -> Ptr {
    const AF_INET: u16 = 2;
    // FWPS_INJECTION_TYPE_STREAM, TRANSPORT, NETWORK and FORWARD.
    const ALL: u32 = 15;
    let mut handle: Ptr = 0;
    check(unsafe { FwpsInjectionHandleCreate0(AF_INET, ALL, &raw mut handle as Ptr) });
    handle
}

/// A pool of NET_BUFFER_LISTs with a NET_BUFFER each.
pub unsafe fn packet_pool() -> Ptr {
    // NET_BUFFER_LIST_POOL_PARAMETERS, revision 1: header (NDIS_OBJECT_TYPE_DEFAULT,
    // revision, size), ProtocolId, fAllocateNetBuffer, ContextSize, PoolTag, DataSize.
    let parameters = [0x0010_0180u32, 0x0000_0100, TAG, 0, 0];
    unsafe { NdisAllocateNetBufferListPool(0, parameters.as_ptr() as Ptr) }
}

/// An ANSI string as a Unicode string with a buffer of its own.
pub unsafe fn translated() -> [u64; 2] {
    let mut ansi = [0u64; 2];
    let mut unicode = [0u64; 2];
    unsafe {
        RtlInitAnsiString(ansi.as_mut_ptr() as Ptr, b"planted\0".as_ptr() as Ptr);
        check(RtlAnsiStringToUnicodeString(unicode.as_mut_ptr() as Ptr, ansi.as_ptr() as Ptr, 1));
    }
    unicode
}

/// Is told of processes: it keeps the id of the last one.
pub extern "system" fn told_of_process(_: Ptr, process: Ptr, _: Ptr) {
    PROCESS.store(process, SeqCst);
}

pub extern "system" fn removes_itself(_: Ptr, _: Ptr, _: Ptr) {
    unsafe { PsSetCreateProcessNotifyRoutineEx(removes_itself as *const () as Ptr, 1) };
}

/// A lookaside list of nonpaged pool with blocks of this size.
pub unsafe fn lookaside(list: Ptr, size: usize) -> i32 {
    const NON_PAGED_POOL_NX: i32 = 512;
    unsafe { ExInitializeLookasideListEx(list, 0, 0, NON_PAGED_POOL_NX, 0, size, TAG, 0) }
}

/// Registers a routine with a callback object of the system.
pub unsafe fn callback() -> Ptr {
    let name: [u16; 20] = core::array::from_fn(|at| u16::from(b"\\Callback\\PowerState"[at]));
    let string = [40 | 40 << 16, name.as_ptr() as u64];
    // OBJECT_ATTRIBUTES: length, root, name, attributes.
    let attributes = [48, 0, &raw const string as u64, 0, 0, 0];
    let mut object: Ptr = 0;
    unsafe {
        check(ExCreateCallback(&raw mut object as Ptr, &raw const attributes as Ptr, 0, 0));
        let handle = ExRegisterCallback(object, nothing as *const () as Ptr, 0);
        ObfDereferenceObject(object);
        handle
    }
}

/// A list without data.
pub unsafe fn bare_list(pool: Ptr) -> Ptr {
    unsafe { list_over(pool, 0, 0) }
}

/// A list over bytes of the image.
pub unsafe fn list(pool: Ptr) -> Ptr {
    unsafe {
        list_over(pool, nonpaged_mdl(), 20)
    }
}

unsafe fn list_over(pool: Ptr, mdl: Ptr, length: usize) -> Ptr {
    let mut list: Ptr = 0;
    let out = &raw mut list as Ptr;
    check(unsafe { FwpsAllocateNetBufferAndNetBufferList0(pool, 0, 0, mdl, 0, length, out) });
    list
}

/// Injects a list into the send path.
pub unsafe fn send(list: Ptr) {
    let handle = INJECTION.load(SeqCst);
    unsafe { FwpsInjectNetworkSendAsync0(handle, 0, 0, 1, list, completed(), 0) };
}

/// Injects a packet into the receive path of an interface, and frees its list only if it
/// has arrived there. The pool is freed when the driver is unloaded.
pub unsafe fn receive() {
    extern "system" fn received(_: Ptr, list: Ptr, _: u8) {
        unsafe {
            // NET_BUFFER.MdlChain, and NET_BUFFER_LIST.Status.
            let mdl = ((first_buffer(list) + 32) as *const Ptr).read();
            if ((list + 140) as *const i32).read() >= 0 {
                FwpsFreeNetBufferList0(list);
            }
            IoFreeMdl(mdl);
        }
    }
    const INTERFACE: u32 = 9;
    unsafe {
        // An IPv4 header of 20 bytes without anything behind it.
        poke(DATA.at(), 0x45);
        poke(DATA.at() + 3, 20);
        let (handle, received) = (INJECTION.load(SeqCst), received as *const () as Ptr);
        RECEIVED_POOL.store(packet_pool(), SeqCst);
        let list = list(RECEIVED_POOL.load(SeqCst));
        check(FwpsInjectNetworkReceiveAsync0(handle, 0, 0, 1, INTERFACE, 0, list, received, 0));
    }
}

/// A clone of the current classify's list.
pub unsafe fn clone_list() -> Ptr {
    let mut clone: Ptr = 0;
    let list = LIST.load(SeqCst) as Ptr;
    check(unsafe { FwpsAllocateCloneNetBufferList0(list, 0, 0, 0, &raw mut clone as Ptr) });
    clone
}

/// Pends the operation of the current classify. Returns its completion context.
pub unsafe fn pend_operation() -> Ptr {
    let mut context: Ptr = 0;
    unsafe {
        // FWPS_INCOMING_METADATA_VALUES0.completionHandle.
        let handle = ((META.load(SeqCst) + COMPLETION_HANDLE) as *const Ptr).read();
        check(FwpsPendOperation0(handle, &raw mut context as Ptr));
    }
    context
}

/// A reference to this thread's object.
pub unsafe fn this_thread() -> Ptr {
    let mut object: Ptr = 0;
    // The handle is NtCurrentThread().
    check(unsafe { ObReferenceObjectByHandle(Ptr::MAX - 1, 0, 0, 0, &raw mut object as Ptr, 0) });
    object
}

pub extern "system" fn processor_added(_: Ptr, _: Ptr, _: Ptr) {}

/// Binds this thread to the machine's second processor. Returns the previous
/// GROUP_AFFINITY.
pub unsafe fn on_the_second_processor() -> [u64; 2] {
    let (mut there, mut before) = ([0b10u64, 0], [0; 2]);
    unsafe { KeSetSystemGroupAffinityThread(there.as_mut_ptr() as Ptr, before.as_mut_ptr() as Ptr) };
    before
}

pub unsafe fn allocate(size: usize) -> Ptr {
    unsafe { ExAllocatePool2(NON_PAGED, size, TAG) }
}

pub unsafe fn free(block: Ptr) {
    unsafe { ExFreePoolWithTag(block, TAG) };
}

/// The function that a leak's report must name.
#[inline(never)]
pub unsafe fn leak() -> Ptr {
    // `black_box` prevents a tail call, which would leave no frame.
    black_box(unsafe { ExAllocatePool2(NON_PAGED, 48, TAG) })
}

/// Links to a device that need not exist.
pub unsafe fn link() {
    let names = [r"\??\planted", r"\Device\planted"].map(|name| {
        let mut units = [0u16; 16];
        let count = name.encode_utf16().zip(&mut units).map(|(unit, place)| *place = unit).count();
        (units, 2 * count as u16)
    });
    // UNICODE_STRING: both lengths, and the buffer.
    let strings = names.each_ref().map(|(units, length)| {
        let length = u64::from(*length);
        [length | length << 16, units.as_ptr() as u64]
    });
    unsafe { check(IoCreateSymbolicLink(&raw const strings[0] as Ptr, &raw const strings[1] as Ptr)) };
}

pub unsafe fn at<R>(level: u8, f: impl FnOnce() -> R) -> R {
    unsafe {
        let old = KfRaiseIrql(level);
        let result = f();
        KeLowerIrql(old);
        result
    }
}

pub unsafe fn peek(address: Ptr) -> u8 {
    unsafe { (black_box(address) as *const u8).read_volatile() }
}

pub unsafe fn poke(address: Ptr, byte: u8) {
    unsafe { (black_box(address) as *mut u8).write_volatile(byte) };
}

pub unsafe fn run(address: Ptr) {
    let routine: extern "system" fn() = unsafe { core::mem::transmute(black_box(address)) };
    routine();
}

/// A spin lock in pool.
pub unsafe fn spin_lock() -> Ptr {
    unsafe {
        let lock = allocate(8);
        KeInitializeSpinLock(lock);
        lock
    }
}

/// Takes two locks, the second inside the first.
pub unsafe fn nest(outer: Ptr, inner: Ptr) {
    unsafe {
        let old = KeAcquireSpinLockRaiseToDpc(outer);
        KeAcquireSpinLockAtDpcLevel(inner);
        KeReleaseSpinLockFromDpcLevel(inner);
        KeReleaseSpinLock(outer, old);
    }
}

pub unsafe fn wait(timeout: Option<i64>) -> i32 {
    let at = timeout.as_ref().map_or(0, |timeout| timeout as *const i64 as Ptr);
    unsafe { KeWaitForSingleObject(EVENT.at(), 0, 0, 0, at) }
}

/// Reads the REG_DWORD `Bug` by a name with these lengths. 0 if it is absent.
pub unsafe fn query(key: Ptr, lengths: &[u16; 2]) -> u32 {
    let name = ['B' as u16, 'u' as u16, 'g' as u16];
    let [length, maximum] = *lengths;
    let string = UnicodeString { length, maximum, buffer: name.as_ptr() as Ptr };
    // KEY_VALUE_PARTIAL_INFORMATION: index, type, length, data.
    let mut information = [0u32; 4];
    let mut length = 0u32;
    let status = unsafe {
        ZwQueryValueKey(
            key,
            &raw const string as Ptr,
            2,
            &raw mut information as Ptr,
            16,
            &raw mut length as Ptr,
        )
    };
    if status == 0 { information[3] } else { 0 }
}

/// Queues the driver's work item. Allocates it on first use.
pub unsafe fn queue(routine: Ptr) {
    unsafe {
        let mut item = WORK_ITEM.load(SeqCst);
        if item == 0 {
            item = IoAllocateWorkItem(DEVICE_OBJECT.load(SeqCst));
            WORK_ITEM.store(item, SeqCst);
        }
        IoQueueWorkItem(item, routine, 1, 0);
    }
}

/// A queued work item that cannot run for a while.
pub unsafe fn behind_a_slow_one() -> Ptr {
    unsafe {
        occupy_workers();
        let item = IoAllocateWorkItem(DEVICE_OBJECT.load(SeqCst));
        IoQueueWorkItem(item, nothing as *const () as Ptr, 1, 0);
        note(0, item)
    }
}

/// Opens the driver's key. Changes of it queue `routine`.
pub unsafe fn watch(routine: Ptr) -> Ptr {
    unsafe {
        let mut key: Ptr = 0;
        check(IoOpenDriverRegistryKey(DRIVER.load(SeqCst), 0, 0x20019, 0, &raw mut key as Ptr));
        // WORK_QUEUE_ITEM: list entry, routine, parameter.
        ((NOTICE.at() + 16) as *mut Ptr).write(routine);
        let status = ZwNotifyChangeKey(key, 0, NOTICE.at(), 1, STATUS_BLOCK.at(), 4, 0, 0, 0, 1);
        check(status);
        key
    }
}

/// Writes an event with one field of 1 byte. More than one byte in `values` makes the
/// event malformed.
pub unsafe fn write_event(handle: u64, values: &[u8]) -> i32 {
    #[repr(C)]
    struct Descriptor {
        id: u16,
        version: u8,
        channel: u8,
        level: u8,
        opcode: u8,
        task: u16,
        keyword: u64,
    }
    #[repr(C)]
    struct Part(Ptr, u32, u32);
    // Lengths, the event's tag, names with NUL, TlgInUINT8.
    static TRAITS: [u8; 10] = *b"\x0a\x00Planted\0";
    static EVENT: [u8; 9] = *b"\x09\x00\x00Ev\0N\0\x04";
    let event = Descriptor { id: 0, version: 0, channel: 11, level: 4, opcode: 0, task: 0, keyword: 1 };
    let part = |bytes: &[u8], kind| Part(bytes.as_ptr() as Ptr, bytes.len() as u32, kind);
    let parts = [part(&TRAITS, 2), part(&EVENT, 1), part(values, 0)];
    unsafe { EtwWriteTransfer(handle, &raw const event as Ptr, 0, 0, 3, &raw const parts as Ptr) }
}

/// Writes FWPS_CLASSIFY_OUT0 of the current classify.
pub unsafe fn answer(rights: u32, action: u32, flags: u32) {
    // FWPS_CLASSIFY_OUT0: actionType, outContext, filterId, rights, flags.
    let out = OUT.load(SeqCst) as Ptr;
    unsafe {
        (out as *mut u32).write(action);
        ((out + 24) as *mut u32).write(rights);
        ((out + 28) as *mut u32).write(flags);
    }
}

/// Injects data into the received stream.
pub unsafe fn inject_stream() {
    let (callout, layer) = (CALLOUT_ID.load(SeqCst), LAYER.load(SeqCst) as u16);
    let handle = INJECTION.load(SeqCst);
    unsafe {
        let list = list(packet_pool());
        check(FwpsStreamInjectAsync0(handle, 0, 0, 1, callout, layer, 1, list, 20, completed(), 0));
    }
}

/// FWPS_INJECT_COMPLETE0. Frees the list and its MDL.
pub fn completed() -> Ptr {
    extern "system" fn completed(_: Ptr, list: Ptr, _: u8) {
        unsafe {
            // NET_BUFFER.MdlChain.
            let mdl = ((first_buffer(list) + 32) as *const Ptr).read();
            FwpsFreeNetBufferList0(list);
            IoFreeMdl(mdl);
        }
    }
    completed as *const () as Ptr
}

/// A handle of the current classify.
pub unsafe fn classify_handle() -> u64 {
    let mut handle = 0u64;
    check(unsafe { FwpsAcquireClassifyHandle0(CONTEXT.load(SeqCst) as Ptr, 0, &raw mut handle as Ptr) });
    handle
}

pub unsafe fn redirect_handle() -> Ptr {
    let mut handle: Ptr = 0;
    let provider = b"planted provider".as_ptr() as Ptr;
    check(unsafe { FwpsRedirectHandleCreate0(provider, 0, &raw mut handle as Ptr) });
    handle
}

/// The NET_BUFFER of the current classify.
pub unsafe fn net_buffer() -> Ptr {
    unsafe { first_buffer(LIST.load(SeqCst) as Ptr) }
}

/// The first NET_BUFFER of a list.
pub unsafe fn first_buffer(list: Ptr) -> Ptr {
    // NET_BUFFER_LIST: Next, FirstNetBuffer.
    unsafe { ((list + 8) as *const Ptr).read() }
}

#[inline(never)]
pub unsafe fn recurse(depth: u64) -> u64 {
    let mut frame = [depth; 32];
    black_box(&mut frame);
    if depth == 0 { frame[0] } else { unsafe { recurse(depth - 1) + frame[31] } }
}
