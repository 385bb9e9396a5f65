//! The socket, in the outer process. It passes lines on, and limits what they take.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::stat::{Mode, umask};
use serde_json::Value;

use super::protocol::{LONGEST_LINE, Reply};
use super::stream::{self, Message, Packed};
use crate::mutex::lock;
use crate::remote_registry::short;

/// Most connections at a time.
const MOST_CONNECTIONS: usize = 32;
/// Most requests of a connection without a reply. More wait in the socket.
const MOST_UNANSWERED: usize = 1024;
/// Most bytes of replies that a program has not read. Then it is disconnected.
const MOST_UNREAD: usize = 64 << 20;

/// A socket that programs connect to, until this is dropped.
pub struct Server {
    path: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    /// To the driver's process.
    requests: Mutex<UnixStream>,
    clients: Mutex<BTreeMap<u64, Client>>,
    over: AtomicBool,
}

/// A connection.
struct Client {
    stream: UnixStream,
    replies: Sender<Vec<u8>>,
    unread: Arc<AtomicUsize>,
    unanswered: Arc<AtomicUsize>,
}

impl Server {
    /// Makes the socket. Returns the end of the stream for the driver's process, too.
    ///
    /// # Errors
    /// If the path is taken, or cannot be made.
    pub fn start(path: &Path) -> Result<(Self, OwnedFd)> {
        let path = std::path::absolute(path)?;
        let listener = listen(&path).with_context(|| format!("--socket {}", path.display()))?;
        let (ours, theirs) = UnixStream::pair()?;
        let replies = ours.try_clone()?;
        let shared = Arc::new(Shared {
            requests: Mutex::new(ours),
            clients: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let (accepting, routing) = (Arc::clone(&shared), Arc::clone(&shared));
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        named("socket").spawn(move || accept(&listener, &accepting))?;
        named("replies").spawn(move || route(replies, &routing))?;
        Ok((Self { path, shared }, theirs.into()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // The thread that accepts looks at `over` when somebody connects.
        let _woken = short(&self.path).and_then(|(_folder, short)| UnixStream::connect(short));
        let _gone = std::fs::remove_file(&self.path);
        self.shared.disconnect_all();
        // The thread that passes replies on ends with the stream.
        let _closed = lock(&self.shared.requests).shutdown(Shutdown::Both);
    }
}

/// Makes a socket that only this user can connect to.
fn listen(path: &Path) -> Result<UnixListener> {
    let (_folder, short) = short(path).context("its folder cannot be opened")?;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
        Ok(there) if !there.file_type().is_socket() => bail!("there is a file: expected a free path"),
        Ok(_) if UnixStream::connect(&short).is_ok() => bail!("another run serves this socket"),
        // An earlier run that was killed has left it.
        Ok(_) => std::fs::remove_file(path)?,
    }
    let others = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let listener = UnixListener::bind(&short);
    umask(others);
    Ok(listener?)
}

impl Shared {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Sends bytes to the driver's process.
    fn pass(&self, bytes: &[u8]) -> io::Result<()> {
        lock(&self.requests).write_all(bytes)
    }

    fn disconnect_all(&self) {
        for client in lock(&self.clients).values() {
            // Its threads end with it.
            let _closed = client.stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    let mut last = 0;
    for stream in listener.incoming() {
        if shared.is_over() {
            return;
        }
        let Ok(mut stream) = stream else {
            // No descriptors are left, for a while.
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        if lock(&shared.clients).len() >= MOST_CONNECTIONS {
            let text = format!("{MOST_CONNECTIONS} programs are connected: expected no more");
            let _told = writeln!(stream, "{}", Reply::error(Value::Null, text).json());
            continue;
        }
        last += 1;
        // A connection without threads is closed.
        let _served = connect(last, stream, shared);
    }
}

fn connect(number: u64, stream: UnixStream, shared: &Arc<Shared>) -> io::Result<()> {
    let (replies, outgoing) = mpsc::channel();
    let (unread, unanswered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let client = Client {
        stream: stream.try_clone()?,
        replies,
        unread: Arc::clone(&unread),
        unanswered: Arc::clone(&unanswered),
    };
    let writer = stream.try_clone()?;
    let shared = Arc::clone(shared);
    let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
    named("program, replies").spawn(move || write(writer, &outgoing, &unread))?;
    lock(&shared.clients).insert(number, client);
    named("program").spawn(move || {
        // The end of the stream is the end of the process, whatever the reason.
        let _over = shared
            .pass(&Packed::change(number, true))
            .and_then(|()| read(number, &stream, &shared, &unanswered));
        lock(&shared.clients).remove(&number);
        let _told = shared.pass(&Packed::change(number, false));
    })?;
    Ok(())
}

/// Passes lines of a program on until it disconnects.
fn read(number: u64, stream: &UnixStream, shared: &Shared, unanswered: &AtomicUsize) -> io::Result<()> {
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    let refuse = |text: String| {
        let reply = Reply::error(Value::Null, text);
        reply_to(number, shared, format!("{}\n", reply.json()).into_bytes());
    };
    loop {
        line.clear();
        lines.by_ref().take(LONGEST_LINE as u64 + 1).read_until(b'\n', &mut line)?;
        if line.is_empty() || shared.is_over() {
            return Ok(());
        }
        if line.len() > LONGEST_LINE {
            refuse(format!(
                "a line of more than {LONGEST_LINE} bytes: expected at most that; the connection ends"
            ));
            // The reply is written before the connection is closed.
            std::thread::sleep(Duration::from_millis(100));
            let _closed = stream.shutdown(Shutdown::Both);
            return Ok(());
        }
        while unanswered.load(Ordering::SeqCst) >= MOST_UNANSWERED && !shared.is_over() {
            std::thread::sleep(Duration::from_millis(1));
        }
        match std::str::from_utf8(&line) {
            Ok(text) if text.trim().is_empty() => {}
            Ok(text) => {
                unanswered.fetch_add(1, Ordering::SeqCst);
                shared.pass(&Packed::line(number, text.trim_end_matches(['\r', '\n'])))?;
            }
            Err(_) => refuse("a line that is not UTF-8: expected a line of JSON".to_owned()),
        }
    }
}

/// Queues a reply. A program that does not read its replies is disconnected.
fn reply_to(number: u64, shared: &Shared, line: Vec<u8>) {
    let clients = lock(&shared.clients);
    let Some(client) = clients.get(&number) else { return };
    let unread = client.unread.fetch_add(line.len(), Ordering::SeqCst) + line.len();
    // If its thread has ended, so has the connection.
    let sent = client.replies.send(line);
    if unread > MOST_UNREAD || sent.is_err() {
        let _closed = client.stream.shutdown(Shutdown::Both);
    }
}

fn write(mut stream: UnixStream, replies: &Receiver<Vec<u8>>, unread: &AtomicUsize) {
    for reply in replies {
        if stream.write_all(&reply).is_err() {
            let _closed = stream.shutdown(Shutdown::Both);
            return;
        }
        unread.fetch_sub(reply.len(), Ordering::SeqCst);
    }
}

/// Passes replies to the programs, until the driver's process ends. What that process
/// says is passed on as it is: a program must not trust it more than the driver.
fn route(replies: UnixStream, shared: &Shared) {
    let mut lines = BufReader::new(replies);
    while let Ok(Some(Packed { client, message: Message::Text(text) })) = stream::read(&mut lines) {
        if let Some(known) = lock(&shared.clients).get(&client) {
            // Nothing forces the other process to reply once to each request.
            let less = |count: usize| Some(count.saturating_sub(1));
            let _was = known.unanswered.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        }
        reply_to(client, shared, format!("{text}\n").into_bytes());
    }
    shared.over.store(true, Ordering::SeqCst);
    shared.disconnect_all();
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// Answers each line with itself, as the driver's process would with a reply.
    fn echo(stream: OwnedFd) {
        let mut file = File::from(stream);
        let mut lines = BufReader::new(file.try_clone().unwrap());
        while let Ok(Some(packed)) = stream::read(&mut lines) {
            if let Message::Text(text) = packed.message {
                file.write_all(&Packed::line(packed.client, &text)).unwrap();
            }
        }
    }

    #[test]
    fn lines_reach_the_right_program_and_wrong_ones_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.sock");
        let (server, stream) = Server::start(&path).unwrap();
        let echo = std::thread::spawn(move || echo(stream));
        assert!(
            Server::start(&path).err().unwrap().chain().any(|why| why.to_string().contains("another run"))
        );
        let mut programs: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
        for (number, program) in programs.iter_mut().enumerate() {
            write!(program, "line {number}\n\n").unwrap();
        }
        let next = |program: &UnixStream| {
            program.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut line = String::new();
            BufReader::new(program).read_line(&mut line).unwrap();
            line
        };
        for (number, program) in programs.iter().enumerate().rev() {
            assert_eq!(next(program), format!("line {number}\n"));
        }
        programs[0].write_all(b"\xFF\n").unwrap();
        assert!(next(&programs[0]).contains("not UTF-8"));
        programs[1].write_all(&vec![b'a'; LONGEST_LINE + 1]).unwrap();
        assert!(next(&programs[1]).contains("a line of more than"));
        assert_eq!(next(&programs[1]), "", "it is disconnected");
        drop(server);
        assert_eq!(next(&programs[2]), "");
        assert!(!path.exists());
        echo.join().unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(Server::start(&path).err().unwrap().chain().any(|why| why.to_string().contains("free path")));
    }
}
