//! A system thread of our own, and the event that wakes it.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use super::irql::Passive;
use super::pool::{PoolArc, PoolBox, tag};
use super::status::{Result, to_result};
use super::waiting::waiting;
use crate::ffi;
use crate::logic::waiting::Awaited;

/// What a thread does.
pub trait ThreadBody: Send {
    /// Runs on the thread. Returns after [`Signal::is_ending`] returns `true`.
    fn run(&mut self, signal: &Signal, irql: &Passive);
}

/// A system thread at PASSIVE_LEVEL, which no user can suspend. Dropping it ends the
/// thread and waits until the thread object is signaled, so that the thread no longer runs
/// any code of the image. Then the body is dropped.
#[expect(dead_code, reason = "dropping the fields ends the thread, and then its body")]
pub struct Thread<R: ThreadBody> {
    running: Running,
    /// The thread alone uses it until it has ended.
    body: PoolBox<ThreadState<R>>,
}

/// A thread, whatever it runs.
struct Running {
    handle: KernelHandle,
    signal: PoolArc<Signal>,
}

struct ThreadState<R> {
    signal: PoolArc<Signal>,
    run: R,
}

/// What a thread waits for: an event, which others can also set, and its end.
pub struct Signal {
    event: KernelHandle,
    ending: AtomicBool,
}

/// A kernel handle.
struct KernelHandle(ffi::HANDLE);

// SAFETY: nothing refers to the state but the thread, until it has ended.
unsafe impl<R: ThreadBody> Sync for ThreadState<R> {}
// SAFETY: a kernel handle is the same in every thread and process.
unsafe impl Send for KernelHandle {}
// SAFETY: as above; the system locks for itself.
unsafe impl Sync for KernelHandle {}

impl<R: ThreadBody> Thread<R> {
    /// Starts the thread, which waits for this signal. No other thread does.
    pub fn new(run: R, signal: PoolArc<Signal>, irql: &Passive) -> Result<Self> {
        let body = PoolBox::new(tag::THREAD, ThreadState { signal: signal.clone(), run })?;
        // SAFETY: the body is of this type, and lives until the thread has ended: fields
        // are dropped in their order.
        let running = unsafe { Running::start(routine::<R>, body.as_ptr().cast(), signal, irql) }?;
        Ok(Self { running, body })
    }
}

impl Running {
    /// # Safety
    /// The routine may be called with the context until the result is dropped.
    unsafe fn start(
        routine: unsafe extern "C" fn(*mut c_void),
        context: *mut c_void,
        signal: PoolArc<Signal>,
        _: &Passive,
    ) -> Result<Self> {
        let attributes = kernel_handle();
        let mut handle = ptr::null_mut();
        // SAFETY: handle and attributes are locals, NULL means the system
        // process, the context is by this function's contract, and
        // the call is made at PASSIVE_LEVEL.
        to_result(unsafe {
            ffi::PsCreateSystemThread(
                &mut handle,
                ffi::SYNCHRONIZE,
                ptr::from_ref(&attributes).cast_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
                Some(routine),
                context,
            )
        })?;
        Ok(Self { handle: KernelHandle(handle), signal })
    }
}

/// KSTART_ROUTINE. It must end the thread itself (PsCreateSystemThread, remarks).
unsafe extern "C" fn routine<R: ThreadBody>(context: *mut c_void) {
    // SAFETY: the context is the body, which outlives the thread. Nothing else has a
    // reference to it meanwhile.
    let body = unsafe { &mut *context.cast::<ThreadState<R>>() };
    // SAFETY: a system thread starts at PASSIVE_LEVEL (PsCreateSystemThread).
    let irql = unsafe { Passive::assume() };
    body.run.run(&body.signal, &irql);
    // SAFETY: this is a system thread of the driver's, at PASSIVE_LEVEL. Its frames own
    // nothing.
    let failed = unsafe { ffi::PsTerminateSystemThread(ffi::STATUS_SUCCESS) };
    debug_assert!(to_result(failed).is_ok(), "a system thread can end itself");
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal.ending.store(true, Ordering::Release);
        self.signal.set();
        waiting(Awaited::Thread, || wait(&self.handle, ptr::null_mut()));
    }
}

impl Signal {
    /// A signal that is not set.
    pub fn new(_: &Passive) -> Result<Self> {
        let attributes = kernel_handle();
        let mut event = ptr::null_mut();
        // SAFETY: event and attributes are locals, and the call is made at
        // PASSIVE_LEVEL.
        to_result(unsafe {
            ffi::ZwCreateEvent(
                &mut event,
                ffi::SYNCHRONIZE | ffi::EVENT_MODIFY_STATE,
                ptr::from_ref(&attributes).cast_mut(),
                ffi::_EVENT_TYPE::SynchronizationEvent,
                0,
            )
        })?;
        let event = KernelHandle(event);
        Ok(Self { event, ending: AtomicBool::new(false) })
    }

    /// Ends the wait of the thread early. Without a thread it has no effect.
    pub fn wake(&self, _: &Passive) {
        self.set();
    }

    /// Called at PASSIVE_LEVEL only.
    fn set(&self) {
        // SAFETY: the event is open, and callers are at PASSIVE_LEVEL.
        let set = unsafe { ffi::ZwSetEvent(self.event.0, ptr::null_mut()) };
        debug_assert!(to_result(set).is_ok(), "setting an open event succeeds");
    }

    /// Whether the thread must end. To be asked after any wait: the end is noted
    /// before the event is set.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Waits until the event is set, at most for this many milliseconds. Returns
    /// whether it was set.
    pub fn wait(&self, milliseconds: u32, _: &Passive) -> bool {
        // Relative, in units of 100 ns.
        let mut interval = ffi::LARGE_INTEGER { QuadPart: i64::from(milliseconds) * -10_000 };
        wait(&self.event, &mut interval)
    }
}

/// Waits until the object is signaled or the time is over. Returns whether it was
/// signaled.
fn wait(handle: &KernelHandle, interval: ffi::PLARGE_INTEGER) -> bool {
    // SAFETY: the handle is open, the interval NULL or a caller's local;
    // callers are at PASSIVE_LEVEL.
    let waited = unsafe { ffi::ZwWaitForSingleObject(handle.0, 0, interval) };
    debug_assert!(to_result(waited).is_ok(), "waiting for an open handle succeeds");
    waited != ffi::STATUS_TIMEOUT
}

/// Attributes of a handle that is valid in every process but not for user mode.
fn kernel_handle() -> ffi::OBJECT_ATTRIBUTES {
    ffi::OBJECT_ATTRIBUTES {
        Length: size_of::<ffi::OBJECT_ATTRIBUTES>() as ffi::ULONG,
        RootDirectory: ptr::null_mut(),
        ObjectName: ptr::null_mut(),
        Attributes: ffi::OBJ_KERNEL_HANDLE,
        SecurityDescriptor: ptr::null_mut(),
        SecurityQualityOfService: ptr::null_mut(),
    }
}

impl Drop for KernelHandle {
    fn drop(&mut self) {
        // SAFETY: the handle is open and closed once, here. Its owners are dropped
        // at PASSIVE_LEVEL.
        let closed = unsafe { ffi::ZwClose(self.0) };
        debug_assert!(to_result(closed).is_ok(), "closing an open handle succeeds");
    }
}
