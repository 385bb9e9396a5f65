//! The process of a connection: its handles, its requests, its memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use machine::nt::irp::{Access, File, OpenError, Request as Irp};
use machine::nt::memory::Guarded;
use machine::nt::{Irql, Kernel, Stop, foreign};
use machine::status::Status;
use serde_json::Value;

use super::protocol::{self, Asked, Reply, Request, hex};
use super::{MOST_PENDING_BYTES, lock};

/// Most open handles of a process; each has a thread.
const MOST_HANDLES: usize = 32;
/// Most blocks of memory of a process.
const MOST_BLOCKS: usize = 256;

/// Sends a reply to a connection.
type Send = Box<dyn Fn(u64, &Reply) + std::marker::Send + Sync>;

/// What all processes share.
pub struct Shared {
    pub(super) kernel: Arc<Kernel>,
    send: Send,
    /// Bytes of buffers and of memory, of all processes.
    bytes: AtomicUsize,
    /// Whether a program asked for the end of the run.
    pub(super) is_over: AtomicBool,
}

impl Shared {
    pub(super) fn new(kernel: Arc<Kernel>, send: Send) -> Self {
        Self { kernel, send, bytes: AtomicUsize::new(0), is_over: AtomicBool::new(false) }
    }

    /// Takes bytes of what all processes may hold. `false` if they do not fit.
    fn take(&self, bytes: usize) -> bool {
        let fits = self.bytes.fetch_add(bytes, Ordering::SeqCst) + bytes <= MOST_PENDING_BYTES;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
    }
}

/// A process in the machine.
pub struct Process {
    client: u64,
    id: u32,
    shared: Arc<Shared>,
    handles: Mutex<BTreeMap<u32, Handle>>,
    last_handle: AtomicUsize,
    /// By the JSON of their ids.
    pending: Mutex<BTreeMap<String, Pending>>,
    memory: Mutex<BTreeMap<u64, Block>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// What each thread does, by its handle.
    doing: Mutex<BTreeMap<u32, String>>,
}

/// A handle. Its thread makes its requests in order, so a driver that does not return
/// keeps no other handle.
struct Handle {
    jobs: Sender<Job>,
}

enum Job {
    Send(Asked),
    Close(Value),
    End,
}

/// A request that is not over.
struct Pending {
    id: Value,
    bytes: usize,
    /// Whether the program has cancelled it.
    is_cancelled: bool,
    /// Set when the driver has it.
    irp: Option<Arc<Irp>>,
}

/// Memory of the process. It ends at a guard page.
struct Block {
    pages: Guarded,
    size: usize,
}

impl Process {
    pub(super) fn new(client: u64, id: u32, shared: Arc<Shared>) -> Self {
        Self {
            client,
            id,
            shared,
            handles: Mutex::default(),
            last_handle: AtomicUsize::new(0),
            pending: Mutex::default(),
            memory: Mutex::default(),
            threads: Mutex::default(),
            doing: Mutex::default(),
        }
    }

    /// Sends a reply to the program.
    pub fn tell(&self, reply: &Reply) {
        (self.shared.send)(self.client, reply);
    }

    /// Begins what a program asks. Waits for no driver.
    pub fn ask(self: &Arc<Self>, asked: Asked) {
        if let Err(reply) = self.begin(asked) {
            self.tell(&reply);
        }
    }

    /// `Err`: the reply.
    fn begin(self: &Arc<Self>, asked: Asked) -> Result<(), Reply> {
        let Asked { id, request } = asked;
        if let Some(stop) = self.shared.kernel.stopped() {
            return Err(Reply::stopped(id, stop));
        }
        let done = |id| Reply::status(id, Status::SUCCESS);
        match request {
            Request::Open { path, access } => self.open(id, path, access),
            Request::Ioctl { handle, .. } | Request::Read { handle, .. } | Request::Write { handle, .. } => {
                self.queue(handle, Asked { id, request })
            }
            Request::Close { handle } => match lock(&self.handles).remove(&handle) {
                Some(open) => open.pass(Job::Close(id)),
                None => Err(Reply::status(id, Status::INVALID_HANDLE)),
            },
            Request::Cancel { request } => self.cancel(id, &request),
            Request::Allocate { size } => self.allocate(id, size),
            Request::Free { address } => self.free(id, address),
            Request::Peek { address, length } => {
                let memory = lock(&self.memory);
                let at = find(&memory, address, length).ok_or_else(|| not_mine(id.clone(), address))?;
                let bytes = foreign::read_bytes(at, length).map_err(|_| not_mine(id.clone(), address))?;
                Err(done(id).with("data", hex(&bytes)))
            }
            Request::Poke { address, data } => {
                let memory = lock(&self.memory);
                let at = find(&memory, address, data.0.len()).ok_or_else(|| not_mine(id.clone(), address))?;
                foreign::write_bytes(at, &data.0).map_err(|_| not_mine(id.clone(), address))?;
                Err(done(id))
            }
            Request::Devices => Err(Reply::devices(id, &self.shared.kernel.devices())),
            Request::Stop => {
                self.shared.is_over.store(true, Ordering::SeqCst);
                Err(done(id))
            }
        }
    }

    fn open(self: &Arc<Self>, id: Value, path: String, access: protocol::Access) -> Result<(), Reply> {
        let mut handles = lock(&self.handles);
        if lock(&self.doing).len() >= MOST_HANDLES {
            return Err(Reply::error(id, format!("{MOST_HANDLES} handles are open: expected no more")));
        }
        // Handles are multiples of four, as on Windows.
        let number = 4 * (self.last_handle.fetch_add(1, Ordering::SeqCst) as u32 + 1);
        let (jobs, receiver) = mpsc::channel();
        let process = Arc::clone(self);
        let begun = id.clone();
        lock(&self.doing).insert(number, format!("opening {path}"));
        let run = move || process.serve(number, &path, access, id, &receiver);
        match std::thread::Builder::new().name(format!("handle {number}")).spawn(run) {
            Ok(thread) => {
                let mut threads = lock(&self.threads);
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
                handles.insert(number, Handle { jobs });
                Ok(())
            }
            Err(error) => {
                lock(&self.doing).remove(&number);
                Err(Reply::error(begun, format!("no thread for the handle: {error}")))
            }
        }
    }

    /// The thread of a handle.
    fn serve(&self, number: u32, path: &str, access: protocol::Access, id: Value, jobs: &Receiver<Job>) {
        let access = match access {
            protocol::Access::None => Access { read: false, write: false },
            protocol::Access::Read => Access { read: true, write: false },
            protocol::Access::Write => Access { read: false, write: true },
            protocol::Access::ReadWrite => Access::FULL,
        };
        let kernel = &self.shared.kernel;
        match self.on_its_processor(|| kernel.open(path, self.id, access)) {
            Ok(file) => {
                let opened =
                    Reply::status(id, Status::SUCCESS).with("handle", number).with("process", self.id);
                self.tell(&opened);
                let close = self.serve_open(number, &file, jobs);
                lock(&self.doing).insert(number, "closing its handle".to_owned());
                let closed = self.on_its_processor(|| file.close());
                lock(&self.doing).remove(&number);
                match (close, closed) {
                    (Some(id), Ok(())) => self.tell(&Reply::status(id, Status::SUCCESS)),
                    (Some(id), Err(stop)) => self.tell(&Reply::stopped(id, &stop)),
                    (None, _) => {}
                }
            }
            Err(error) => {
                lock(&self.handles).remove(&number);
                lock(&self.doing).remove(&number);
                self.tell(&match error {
                    OpenError::Refused(status) => Reply::status(id, status),
                    OpenError::Stopped(stop) => Reply::stopped(id, &stop),
                });
                // What was asked of the handle before the reply.
                while let Ok(job) = jobs.try_recv() {
                    self.refuse(job);
                }
            }
        }
    }

    fn refuse(&self, job: Job) {
        match job {
            Job::Send(asked) => self.finish(&asked.id, |id| Reply::status(id, Status::INVALID_HANDLE)),
            Job::Close(id) => self.tell(&Reply::status(id, Status::INVALID_HANDLE)),
            Job::End => {}
        }
    }

    /// Makes the requests of an open handle until it is closed. Returns the id of the
    /// request that closes it.
    fn serve_open(&self, number: u32, file: &File, jobs: &Receiver<Job>) -> Option<Value> {
        loop {
            lock(&self.doing).insert(number, String::new());
            match jobs.recv() {
                Ok(Job::Send(asked)) => {
                    lock(&self.doing).insert(number, describe(&asked.request));
                    self.send(file, asked);
                }
                Ok(Job::Close(id)) => return Some(id),
                Ok(Job::End) | Err(_) => return None,
            }
        }
    }

    fn send(&self, file: &File, asked: Asked) {
        let Asked { id, request } = asked;
        let key = id.to_string();
        if lock(&self.pending).get(&key).is_some_and(|pending| pending.is_cancelled) {
            return self.finish(&id, |id| Reply::status(id, Status::CANCELLED));
        }
        let sent: Result<Irp, Stop> = self.on_its_processor(|| match request {
            Request::Ioctl { code, input, output, .. } => file.control(code, &input.0, &output.bytes()),
            Request::Read { length, .. } => file.read(length),
            Request::Write { data, .. } => file.write(&data.0),
            _ => unreachable!("only these are queued"),
        });
        let irp = match sent {
            Ok(irp) => irp,
            Err(stop) => return self.finish(&id, |id| Reply::stopped(id, &stop)),
        };
        if let Some(reply) = irp.reply() {
            return self.finish(&id, |id| Reply::completed(id, &reply));
        }
        let irp = Arc::new(irp);
        let is_cancelled = match lock(&self.pending).get_mut(&key) {
            Some(pending) => {
                pending.irp = Some(Arc::clone(&irp));
                pending.is_cancelled
            }
            None => false,
        };
        if is_cancelled {
            // What stopped the machine is told by whoever waits for the request.
            let _cancelled = self.on_its_processor(|| irp.cancel());
        }
    }

    fn queue(&self, handle: u32, asked: Asked) -> Result<(), Reply> {
        let (id, bytes) = (asked.id.clone(), asked.request.bytes());
        let handles = lock(&self.handles);
        let Some(open) = handles.get(&handle) else {
            return Err(Reply::status(id, Status::INVALID_HANDLE));
        };
        let mut pending = lock(&self.pending);
        let key = id.to_string();
        if pending.contains_key(&key) {
            return Err(Reply::error(id, "a request with this id is pending: expected another id"));
        }
        if !self.shared.take(bytes) {
            let expected =
                format!("the requests of all programs hold {MOST_PENDING_BYTES} bytes: expected no more");
            return Err(Reply::error(id, expected));
        }
        pending.insert(key.clone(), Pending { id, bytes, is_cancelled: false, irp: None });
        drop(pending);
        open.pass(Job::Send(asked)).inspect_err(|_| {
            // Whoever is told the error is told nothing more of this request.
            lock(&self.pending).remove(&key);
            self.shared.give_back(bytes);
        })
    }

    /// Cancels a request on a thread of its own, because it calls the driver.
    fn cancel(self: &Arc<Self>, id: Value, request: &Value) -> Result<(), Reply> {
        let irp = match lock(&self.pending).get_mut(&request.to_string()) {
            Some(pending) => {
                pending.is_cancelled = true;
                pending.irp.clone()
            }
            None => return Err(Reply::status(id, Status::NOT_FOUND)),
        };
        // A request that the driver does not have yet is cancelled by its handle.
        let Some(irp) = irp else { return Err(Reply::status(id, Status::SUCCESS)) };
        let process = Arc::clone(self);
        let again = id.clone();
        let cancel = move || {
            let reply = match process.on_its_processor(|| irp.cancel()) {
                Ok(()) => Reply::status(id, Status::SUCCESS),
                Err(stop) => Reply::stopped(id, &stop),
            };
            process.tell(&reply);
        };
        let spawned = std::thread::Builder::new().name("cancel".to_owned()).spawn(cancel);
        let thread = spawned.map_err(|error| Reply::error(again, format!("no thread: {error}")))?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    fn allocate(&self, id: Value, size: usize) -> Result<(), Reply> {
        let mut memory = lock(&self.memory);
        if size == 0 || memory.len() >= MOST_BLOCKS {
            let expected = format!(
                "size {size}, block {}: expected at least a byte, at most {MOST_BLOCKS} blocks",
                memory.len() + 1
            );
            return Err(Reply::error(id, expected));
        }
        if !self.shared.take(size) {
            return Err(Reply::error(
                id,
                format!("expected at most {MOST_PENDING_BYTES} bytes of all programs"),
            ));
        }
        let pages = Guarded::new(size);
        let address = (pages.end() - size) as u64;
        memory.insert(address, Block { pages, size });
        Err(Reply::status(id, Status::SUCCESS).with("address", address))
    }

    /// Memory that a request may use stays.
    fn free(&self, id: Value, address: u64) -> Result<(), Reply> {
        if !lock(&self.pending).is_empty() {
            return Err(Reply::error(id, "requests are pending, which may use the memory: expected none"));
        }
        match lock(&self.memory).remove(&address) {
            Some(block) => {
                self.shared.give_back(block.size);
                Err(Reply::status(id, Status::SUCCESS))
            }
            None => Err(not_mine(id, address)),
        }
    }

    /// Runs what a thread of this process does. Processes are on different processors.
    fn on_its_processor<R>(&self, run: impl FnOnce() -> R) -> R {
        let kernel = &self.shared.kernel;
        let processor = self.client as u32 % kernel.options().processors;
        kernel.on_processor(processor, Irql::PASSIVE, |_| run())
    }

    /// Ends a request with its reply, once.
    fn finish(&self, id: &Value, reply: impl FnOnce(Value) -> Reply) {
        let removed = lock(&self.pending).remove(&id.to_string());
        if let Some(Pending { id, bytes, .. }) = removed {
            self.shared.give_back(bytes);
            self.tell(&reply(id));
        }
    }

    /// Whether a request is completed whose reply was not sent.
    pub(super) fn is_due(&self) -> bool {
        lock(&self.pending).values().any(Pending::is_due)
    }

    /// Replies to the requests that are completed.
    pub(super) fn complete(&self) {
        let due: Vec<_> = {
            let pending = lock(&self.pending);
            let due = pending.values().filter_map(|one| Some((one.id.clone(), one.irp.as_ref()?.reply()?)));
            due.collect()
        };
        for (id, reply) in due {
            self.finish(&id, |id| Reply::completed(id, &reply));
        }
    }

    /// Replies to every request of a machine that has stopped.
    pub(super) fn stopped(&self) {
        let Some(stop) = self.shared.kernel.stopped() else { return };
        let ids: Vec<_> = lock(&self.pending).values().map(|pending| pending.id.clone()).collect();
        for id in ids {
            self.finish(&id, |id| Reply::stopped(id, stop));
        }
    }

    /// Ends the process: closes its handles, and frees its memory.
    pub(super) fn end(&self) {
        let handles = std::mem::take(&mut *lock(&self.handles));
        for handle in handles.into_values() {
            // A thread that has ended has closed its handle.
            let _gone = handle.jobs.send(Job::End);
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            // A thread that panicked has told so.
            let _ended = thread.join();
        }
        self.shared.kernel.end_process(self.id);
        let pending = std::mem::take(&mut *lock(&self.pending));
        pending.values().for_each(|pending| self.shared.give_back(pending.bytes));
        let memory = std::mem::take(&mut *lock(&self.memory));
        memory.values().for_each(|block| self.shared.give_back(block.size));
    }

    /// What a thread of the process does in the driver.
    pub(super) fn busy(&self) -> Option<String> {
        let doing = lock(&self.doing);
        let (handle, what) = doing.iter().find(|(_, what)| !what.is_empty())?;
        Some(format!("process {}: {what} does not end (handle {handle})", self.id))
    }
}

impl Handle {
    fn pass(&self, job: Job) -> Result<(), Reply> {
        self.jobs.send(job).map_err(|mpsc::SendError(job)| match job {
            Job::Send(Asked { id, .. }) | Job::Close(id) => Reply::status(id, Status::INVALID_HANDLE),
            Job::End => Reply::status(Value::Null, Status::INVALID_HANDLE),
        })
    }
}

impl Pending {
    fn is_due(&self) -> bool {
        self.irp.as_ref().is_some_and(|irp| irp.reply().is_some())
    }
}

/// The address in this process's memory, if all of `length` bytes are in one block.
fn find(memory: &BTreeMap<u64, Block>, address: u64, length: usize) -> Option<usize> {
    let (start, block) = memory.range(..=address).next_back()?;
    let end = address.checked_add(length as u64)?;
    (end <= start + block.size as u64 && block.pages.contains(address as usize)).then_some(address as usize)
}

fn not_mine(id: Value, address: u64) -> Reply {
    Reply::error(id, format!("{address:#x}: expected memory that this program has allocated"))
}

fn describe(request: &Request) -> String {
    match request {
        Request::Ioctl { code, .. } => format!("I/O control request {code:#x}"),
        Request::Read { length, .. } => format!("a read of {length} bytes"),
        Request::Write { data, .. } => format!("a write of {} bytes", data.0.len()),
        _ => String::new(),
    }
}
