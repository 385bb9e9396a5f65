//! Runs a driver's routines, and checks the state in which they return.
#![expect(unsafe_code, reason = "calls the driver")]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::cpu::{self, Acting, Irql, Stay, ThreadState};
use super::super::drivers::Service;
use super::super::fwp::prepared;
use super::super::guest::Stop;
use super::super::ke;
use super::super::locks::{self, Kind};
use super::super::objects::Event;
use super::super::ps;
use super::super::types::Address;
use super::super::wdf;
use super::super::work::{self, Job};
use super::Kernel;
use crate::driver::DriverId;
use crate::schedule::Joined;
use crate::verifier::{Violation, rules};

/// The routines whose return the system may not await when the driver unregisters them.
const CALLBACKS: [&str; 5] =
    ["classifyFn", "flowDeleteFn", "enable callback", "processor callback", "BFE callback"];

/// What the routines are called that answer requests.
const DISPATCH_ROUTINE: &str = "dispatch routine";

/// The routines that Windows runs on threads of the system process.
const SYSTEM_THREADS: [&str; 4] = ["DriverEntry", "DriverUnload", SYSTEM_THREAD_ROUTINE, "worker routine"];

/// Whether a routine runs on a stack that others have used before: not on one that Windows
/// keeps for it ("Using the Kernel Stack"; a processor has a stack for DPCs).
fn shares_stack(what: &str) -> bool {
    what != "DPC routine" && !SYSTEM_THREADS.contains(&what)
}

/// A call of one of [`CALLBACKS`], of a driver.
struct Callback<'a>(&'a Service);

impl<'a> Callback<'a> {
    fn begin(service: &'a Service) -> Self {
        service.callbacks.fetch_add(1, Ordering::SeqCst);
        Self(service)
    }
}

impl Drop for Callback<'_> {
    fn drop(&mut self) {
        self.0.callbacks.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Name of the host threads that run a driver's system threads.
pub const SYSTEM_THREAD: &str = "lab-thread";

/// What the start routine of a driver's thread is called.
const SYSTEM_THREAD_ROUTINE: &str = "system thread";

impl Kernel {
    /// Runs a driver's code on the thread's processor, at `irql` or at the thread's
    /// IRQL if that is higher. A thread from outside the machine runs on processor
    /// 0. Checks the state in which the driver returns. A bugcheck or fault stops
    /// the machine; a stopped machine runs no driver code.
    pub(crate) fn call_driver(
        &self,
        entry: Address,
        arguments: &[u64],
        irql: Irql,
        what: &'static str,
    ) -> Result<u64, Stop> {
        let inside = std::ptr::eq(cpu::kernel(), self);
        let irql = if inside { irql.max(cpu::irql()) } else { irql };
        self.call_driver_to(entry, arguments, irql, irql, what)
    }

    /// As [`Self::call_driver`], for a routine that returns at another level than it
    /// is called at.
    pub(crate) fn call_driver_to(
        &self,
        entry: Address,
        arguments: &[u64],
        irql: Irql,
        returns_at: Irql,
        what: &'static str,
    ) -> Result<u64, Stop> {
        if let Some(stop) = self.stopped() {
            return Err(stop.clone());
        }
        let inside = std::ptr::eq(cpu::kernel(), self);
        let processor = if inside { cpu::processor() } else { self.processor_of_call(0) };
        let stay = Stay::begin(self, processor, irql);
        let held = locks::held();
        let before = cpu::thread_state();
        let driver = self.driver_of(entry);
        let service = self.drivers.service_of(driver);
        let callback = CALLBACKS.contains(&what).then(|| Callback::begin(service));
        let outermost = !self.guest.in_call();
        if outermost {
            self.guest.leave_stack(self.options.stack_left.filter(|_| shares_stack(what)));
            if what != prepared::LOOP {
                self.guest.watch(self.options.dispatch_allotment, irql >= Irql::DISPATCH);
            }
        }
        let began_raised = cpu::set_began_raised(irql >= Irql::DISPATCH);
        let every = self.options.measure_every_call;
        let measured = service.stack_marks.is_due(what, every) && self.guest.measure_stack();
        let acting = Acting::begin(driver, false);
        let outer = ps::entered(what == SYSTEM_THREAD_ROUTINE);
        let of_system = cpu::is_system_thread() || SYSTEM_THREADS.contains(&what);
        let outer_is_of_system = cpu::set_system_thread(of_system);
        // SAFETY: `entry` comes from the loader or from the driver. The driver gave
        // it as a routine with the prototype that is called here.
        let outcome = unsafe { self.guest.call(entry, arguments) };
        let outcome = if ps::left(outer) { Ok(0) } else { outcome };
        let (left_at, locks) = (cpu::irql(), locks::held_since(held));
        locks::forget_since(held);
        let after = cpu::thread_state();
        cpu::restore(before);
        drop(stay);
        drop(callback);
        drop(acting);
        // What follows is still about this driver.
        let _for_it = self.act_for(driver);
        if measured {
            service.stack_marks.note(what, self.guest.stack_used());
        }
        let outcome = outcome.map_err(|stop| self.driver_stopped(stop, left_at, driver));
        cpu::set_began_raised(began_raised);
        if outermost {
            self.guest.end_watch();
            self.guest.leave_stack(None);
        }
        cpu::set_system_thread(outer_is_of_system);
        let value = outcome?;
        if let Err(violation) = ke::instead_of_wait("the return") {
            self.condemn(violation);
        }
        if let Some(kind) = locks.last() {
            let text = format!("{what} returned with {} held", locks.len());
            self.condemn(self.lock_held(what, *kind, locks.len(), text));
        }
        if left_at != returns_at {
            let [before, after] = [irql, left_at].map(|irql| irql.0.into());
            // A WORK_QUEUE_ITEM's routine gets only its parameter; an IO_WORKITEM's gets the
            // device first.
            let parameter = arguments.get(1).or(arguments.first()).copied().unwrap_or(0);
            let text = format!("{what} was called at {irql} and returned at {left_at}");
            let compliance = &rules::DDI_IRQL_RETURN;
            self.condemn(match what {
                "worker routine" => {
                    Violation::new(&rules::WORKER_IRQL, [entry as u64, after, parameter], text)
                        .with_fourth(work::current_item() as u64)
                }
                DISPATCH_ROUTINE if self.verifier.checks(compliance) => Violation::of_ddi(compliance, text),
                DISPATCH_ROUTINE => {
                    Violation::new(&rules::DISPATCH_IRQL_CHANGED, [entry as u64, before, after], text)
                }
                _ if what.starts_with("Evt") => {
                    Violation::new(&rules::WDF_IRQL_CHANGED, [before, after, 0], text)
                }
                _ => Violation::new(&rules::IRQL_CHANGED, [entry as u64, before, after], text),
            });
        }
        self.check_restored(entry, what, [before, after]);
        match self.stopped() {
            Some(stop) => Err(stop.clone()),
            None => Ok(value),
        }
    }

    /// The breach when a routine returns with locks, the last of which has this kind.
    pub(in crate::nt) fn lock_held(&self, what: &str, kind: Kind, count: usize, text: String) -> Violation {
        let compliance = match kind {
            Kind::Spin => Some(&rules::DDI_SPIN_LOCK),
            Kind::Queued => Some(&rules::DDI_QUEUED_SPIN_LOCK),
            _ => None,
        };
        let checked = compliance.filter(|rule| self.verifier.checks(rule));
        match (what, checked) {
            (SYSTEM_THREAD_ROUTINE, _) => {
                let thread = self.thread_object() as u64;
                Violation::new(&rules::LOCK_THREAD_ENDED, [thread, 0, 0], text)
            }
            (DISPATCH_ROUTINE | "cancel routine", Some(rule)) => Violation::of_ddi(rule, text),
            _ => Violation::new(&rules::SPIN_LOCK_HELD, [count as u64, 0, 0], text),
        }
    }

    /// Checks that a routine restored the thread state that it changed.
    fn check_restored(&self, entry: Address, what: &str, [before, after]: [ThreadState; 2]) {
        if before.affinity != after.affinity {
            let parameters = [entry as u64, before.affinity, after.affinity];
            let text = format!(
                "{what} was called with affinity {:#b} and returned with affinity {:#b}",
                before.affinity, after.affinity
            );
            self.condemn(Violation::new(&rules::AFFINITY_CHANGED, parameters, text));
        }
        if before.priority != after.priority {
            let text = format!(
                "{what} was called with priority {} and returned with {}",
                before.priority, after.priority
            );
            self.condemn(Violation::new(&rules::PRIORITY_CHANGED, [entry as u64, 0, 0], text));
        }
        if before.guarded_regions != after.guarded_regions {
            let [before, after] = [before.guarded_regions, after.guarded_regions];
            let text = format!("{what} was called in {before} guarded regions and returned in {after}");
            self.condemn(match what {
                "worker routine" => {
                    // SpecialApcDisable is in the upper half.
                    let disabled = u64::from(before.wrapping_sub(after) as u16) << 16;
                    let parameters = [entry as u64, 0, disabled];
                    Violation::new(&rules::WORKER_APCS_DISABLED, parameters, text).with_fourth(1)
                }
                _ => Violation::of_ddi(&rules::DDI_GUARDED_REGIONS, text),
            });
        }
        if before.critical_regions != after.critical_regions {
            let [before, after] = [before, after].map(|thread_state| thread_state.critical_regions);
            let text = format!("{what} was called in {before} critical regions and returned in {after}");
            // KernelApcDisable is decremented. The last parameter marks a worker
            // routine.
            let disabled = u64::from(before.wrapping_sub(after) as u16);
            let counts = [after, before].map(|regions| u64::from(0u16.wrapping_sub(regions as u16)));
            let compliance = &rules::DDI_CRITICAL_REGIONS;
            self.condemn(match what {
                "worker routine" => {
                    let parameters = [entry as u64, 0, disabled];
                    Violation::new(&rules::WORKER_APCS_DISABLED, parameters, text).with_fourth(1)
                }
                DISPATCH_ROUTINE if self.verifier.checks(compliance) => Violation::of_ddi(compliance, text),
                DISPATCH_ROUTINE => {
                    let parameters = [entry as u64, counts[0], counts[1]];
                    Violation::new(&rules::DISPATCH_APCS_DISABLED, parameters, text)
                }
                "DPC routine" => {
                    let parameters = [entry as u64, counts[1], counts[0]];
                    Violation::new(&rules::DPC_APCS_CHANGED, parameters, text)
                }
                _ if what.starts_with("Evt") => {
                    Violation::new(&rules::WDF_CRITICAL_REGION, [entry as u64, 0, 0], text)
                }
                _ => Violation::new(&rules::APCS_DISABLED, [entry as u64, before.into(), after.into()], text),
            });
        }
    }

    /// Runs a job of the work queue on a worker's thread.
    pub(in crate::nt) fn run_job(&self, job: Job, driver: DriverId, worker: usize) {
        let _for_it = self.act_for(driver);
        let processor = self.processor_for(worker);
        let (routine, arguments) = match job {
            Job::IoWorkItem { item, routine, object, context, extended } => {
                if let Some(entry) = self.objects().work_items.get_mut(&item) {
                    entry.queued = false;
                }
                let third = extended.then_some(item as u64);
                let arguments = [object as u64, context as u64].into_iter().chain(third);
                (routine, arguments.collect::<Vec<_>>())
            }
            Job::WorkQueueItem { routine, parameter, .. } => (routine, vec![parameter as u64]),
            Job::FrameworkWorkItem { handle } => {
                return self
                    .on_processor(processor, Irql::PASSIVE, |kernel| wdf::run_work_item(kernel, handle));
            }
            Job::DeleteObject { handle } => {
                return self
                    .on_processor(processor, Irql::PASSIVE, |kernel| wdf::delete_object(kernel, handle));
            }
            Job::Injected { handle, list, function, context, status } => {
                return self.on_processor(processor, Irql::PASSIVE, |kernel| {
                    kernel.complete_injection((handle, list), (function, context), status);
                });
            }
        };
        work::set_current_item(match job {
            Job::IoWorkItem { item, .. } | Job::WorkQueueItem { item, .. } => item,
            _ => 0,
        });
        // If the call failed, it has already stopped the machine.
        let _ = self.on_processor(processor, Irql::PASSIVE, |kernel| {
            kernel.call_driver(routine, &arguments, Irql::PASSIVE, "worker routine")
        });
        if let Job::IoWorkItem { object, .. } = job {
            self.objects().release_device(object);
        }
    }

    /// The processor for a worker thread. They prefer the machine's last processors.
    fn processor_for(&self, worker: usize) -> u32 {
        let processors = self.options.processors;
        let preferred = processors - 1 - worker as u32 % processors;
        // NT would use an idle processor rather than leave the thread on one where
        // another thread is at DISPATCH_LEVEL.
        let mut nearby = (0..processors).map(|step| (preferred + step) % processors);
        let free = nearby.find(|processor| !self.processor(*processor).is_raised());
        free.unwrap_or(preferred)
    }

    /// Runs a driver's routine on a new thread. The returned event is set when the
    /// thread has ended. `None` if the host cannot create a thread.
    pub(in crate::nt) fn start_thread(&self, routine: Address, context: Address) -> Option<Arc<Event>> {
        let ended = Arc::new(Event::of_thread());
        let end = Arc::clone(&ended);
        let driver = self.caller();
        {
            let mut objects = self.objects();
            objects.threads.push((routine, driver));
            objects.running.insert(ended.address(), Arc::clone(&ended));
        }
        let address = ended.address();
        let started = self.start_system_thread(move |kernel| {
            cpu::thread_object(|| end.address());
            // If the call failed, it has already stopped the machine.
            let _ = kernel.on_processor(kernel.options.processors - 1, Irql::PASSIVE, |kernel| {
                let call =
                    || kernel.call_driver(routine, &[context as u64], Irql::PASSIVE, SYSTEM_THREAD_ROUTINE);
                kernel.run_stepped(driver, call)
            });
            let mut objects = kernel.objects();
            if let Some(at) = objects.threads.iter().position(|thread| *thread == (routine, driver)) {
                objects.threads.swap_remove(at);
            }
            objects.running.remove(&end.address());
            drop(objects);
            end.set(true);
        });
        if !started {
            let mut objects = self.objects();
            objects.threads.pop();
            objects.running.remove(&address);
        }
        started.then_some(ended)
    }

    /// Runs `body` on a new thread of the system process. `false` if the host cannot
    /// create a thread.
    pub(in crate::nt) fn start_system_thread(&self, body: impl FnOnce(&Kernel) + Send + 'static) -> bool {
        let Some(kernel) = self.me.upgrade() else { return false };
        let seat = self.session().as_ref().map(|session| session.join("system thread"));
        let run = move || {
            let seated = seat.map(Joined::sit);
            body(&kernel);
            kernel.bell.ring();
            kernel.sleepers.ended();
            drop(seated);
        };
        std::thread::Builder::new().name(SYSTEM_THREAD.into()).spawn(run).is_ok()
    }
}
