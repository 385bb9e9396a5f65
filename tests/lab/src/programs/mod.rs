//! Programs outside that open devices of a loaded driver, over a Unix socket.
//!
//! docs/DRIVERS.md has the protocol: JSON, one object a line. Each connection is a
//! process of its own in the machine. The outer process accepts connections and limits
//! what they send; one stream carries the lines of all of them to the driver's process
//! and back.
//!
//! | module | content |
//! |---|---|
//! | [`protocol`] | requests and replies; wrong ones give errors |
//! | [`process`] | a connection's process: its handles, its requests, its memory |
//! | [`stream`] | the lines of all connections on one stream |
//! | [`server`] | the socket, in the outer process |
//! | this one | the driver's process: the processes of all connections |

pub mod process;
pub mod protocol;
pub mod server;
pub mod stream;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use machine::nt::Kernel;

use crate::anydriver::host::{Companion, Ended};
use crate::mutex::lock;
use process::{Process, Shared};
use protocol::{Asked, Reply};
use stream::{Message, Packed};

/// Most bytes of all requests that are pending.
pub(crate) const MOST_PENDING_BYTES: usize = 256 << 20;
/// The first id of a process; ids are multiples of four, as on Windows.
const FIRST_PROCESS: u32 = 4096;

/// The processes of all connections.
pub struct Programs {
    shared: Arc<Shared>,
    processes: Arc<Mutex<BTreeMap<u64, Arc<Process>>>>,
    /// Processes that end.
    ending: Arc<Mutex<Vec<JoinHandle<()>>>>,
    over: Arc<AtomicBool>,
    completions: JoinHandle<()>,
}

impl Programs {
    /// Serves the connections whose lines come over `stream`.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(kernel: Arc<Kernel>, stream: File) -> Result<Self> {
        // The sandbox lets the first descriptor be written, and any be read.
        let reader = stream.try_clone()?;
        let writer = Mutex::new(stream);
        let send = move |client: u64, reply: &Reply| {
            let line = Packed::line(client, &reply.json());
            // If the outer process is gone, this one ends.
            let _sent = lock(&writer).write_all(&line);
        };
        let shared = Arc::new(Shared::new(kernel, Box::new(send)));
        let processes = Arc::new(Mutex::new(BTreeMap::new()));
        let ending = Arc::new(Mutex::new(Vec::new()));
        let over = Arc::new(AtomicBool::new(false));
        let completions = {
            let (shared, processes, over) = (Arc::clone(&shared), Arc::clone(&processes), Arc::clone(&over));
            let name = std::thread::Builder::new().name("completions".to_owned());
            name.spawn(move || complete(&shared, &processes, &over))?
        };
        let programs = Self { shared, processes, ending, over, completions };
        programs.listen(reader)?;
        Ok(programs)
    }

    /// Reads the lines of all connections. Nothing here waits for a driver.
    fn listen(&self, reader: File) -> Result<()> {
        let (shared, processes) = (Arc::clone(&self.shared), Arc::clone(&self.processes));
        let (ending, over) = (Arc::clone(&self.ending), Arc::clone(&self.over));
        let mut last = FIRST_PROCESS;
        let listen = move || {
            let mut lines = BufReader::new(reader);
            while let Ok(Some(Packed { client, message })) = stream::read(&mut lines) {
                if over.load(Ordering::SeqCst) {
                    continue;
                }
                match message {
                    Message::Opened => {
                        last += 4;
                        let process = Process::new(client, last, Arc::clone(&shared));
                        lock(&processes).insert(client, Arc::new(process));
                    }
                    Message::Closed => {
                        let process = lock(&processes).remove(&client);
                        ending_of(process, &ending);
                    }
                    Message::Text(text) => {
                        let process = lock(&processes).get(&client).cloned();
                        if let Some(process) = process {
                            match Asked::read(&text) {
                                Ok(asked) => process.ask(asked),
                                Err(reply) => process.tell(&reply),
                            }
                        }
                    }
                }
            }
        };
        std::thread::Builder::new().name("programs".to_owned()).spawn(listen)?;
        Ok(())
    }
}

impl Companion for Programs {
    fn wants_the_end(&self) -> bool {
        self.shared.is_over.load(Ordering::SeqCst)
    }

    fn end(self: Box<Self>, patience: Duration) -> Ended {
        Ended { held: self.end_all(patience), ..Ended::default() }
    }
}

impl Programs {
    /// Ends every process. Returns what does not end in time.
    fn end_all(self, patience: Duration) -> Option<String> {
        self.over.store(true, Ordering::SeqCst);
        let all = std::mem::take(&mut *lock(&self.processes));
        let named: Vec<_> = all.values().map(Arc::clone).collect();
        all.into_values().for_each(|process| ending_of(Some(process), &self.ending));
        let end = Instant::now() + patience;
        let threads = std::mem::take(&mut *lock(&self.ending));
        while threads.iter().any(|thread| !thread.is_finished()) {
            if Instant::now() > end {
                let busy: Vec<_> = named.iter().filter_map(|process| process.busy()).collect();
                let what =
                    if busy.is_empty() { "a handle does not close".to_owned() } else { busy.join("; ") };
                return Some(format!("after {} s: {what}", patience.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ended = self.completions.join();
        let left = self.shared.kernel.all_open_files();
        (left > 0).then(|| format!("{left} files of its devices are open"))
    }
}

/// Ends a process on a thread of its own, because a driver may keep it.
fn ending_of(process: Option<Arc<Process>>, ending: &Mutex<Vec<JoinHandle<()>>>) {
    let Some(process) = process else { return };
    let mut ending = lock(ending);
    ending.retain(|thread| !thread.is_finished());
    let thread = std::thread::Builder::new().name("process ends".to_owned());
    // Without a thread, the end comes with the whole run.
    ending.extend(thread.spawn(move || process.end()));
}

/// Replies to requests as they are completed.
fn complete(shared: &Shared, processes: &Mutex<BTreeMap<u64, Arc<Process>>>, over: &AtomicBool) {
    const LOOK_AGAIN: Duration = Duration::from_millis(50);
    while !over.load(Ordering::SeqCst) {
        let all: Vec<_> = lock(processes).values().map(Arc::clone).collect();
        let due = || all.iter().any(|process| process.is_due()) || over.load(Ordering::SeqCst);
        if shared.kernel.wait_for_requests(LOOK_AGAIN, due) {
            all.iter().for_each(|process| process.complete());
        }
        if shared.kernel.stopped().is_some() {
            // Nothing is completed any more.
            all.iter().for_each(|process| process.stopped());
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}
