//! Programs that reach a driver's devices over a Unix socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::programs::protocol::LONGEST_LINE;
use lab::setup;
use serde_json::{Value, json};

use super::{Outcome, lab, wdm};

/// A run that serves a socket.
struct Served {
    child: Child,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

impl Served {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.sock");
        let mut command = lab(&["run"]);
        command.arg(wdm()).arg("--without-box").arg("--socket").arg(&path).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut ready = false;
        let mut byte = [0];
        let mut line = Vec::new();
        // Byte by byte, so that the rest stays for the end.
        let stdout = child.stdout.as_mut().unwrap();
        while !ready && stdout.read(&mut byte).unwrap() == 1 {
            line.push(byte[0]);
            ready = line.ends_with(b"Ctrl-C ends it.\n");
        }
        assert!(ready, "{}", String::from_utf8_lossy(&line));
        Self { child, path, _folder: folder }
    }

    fn program(&self) -> Program {
        Program::new(&self.path)
    }

    /// Waits for the end.
    fn end(mut self) -> Outcome {
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "the run does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        let output = self.child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Outcome { succeeded: output.status.success(), text }
    }
}

/// A program with a connection.
struct Program {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    last: u64,
}

impl Program {
    fn new(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { lines: BufReader::new(stream.try_clone().unwrap()), stream, last: 0 }
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    fn begin(&mut self, mut request: Value) -> u64 {
        self.last += 1;
        request["id"] = self.last.into();
        writeln!(self.stream, "{request}").unwrap();
        self.last
    }

    /// The reply to a request, if no other one is pending.
    fn ask(&mut self, request: Value) -> Value {
        let id = self.begin(request);
        let reply = self.line();
        assert_eq!(reply["id"], id, "{reply}");
        reply
    }

    fn open(&mut self) -> Value {
        self.ask(json!({ "op": "open", "path": r"\\.\wdm-1" }))
    }
}

/// The code of a function of the driver, METHOD_BUFFERED.
fn code(function: u32) -> u32 {
    0x22 << 16 | function << 2
}

/// The blocks of a language in docs/DRIVERS.md.
fn blocks(language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(setup::root().join("docs/DRIVERS.md")).unwrap();
    let begin = format!("```{language}\n");
    text.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_documents_client_opens_asks_cancels_and_reads() {
    let served = Served::start(&[]);
    let script = served.path.with_file_name("client.py");
    let [client, program] = &blocks("python")[..] else { panic!("two blocks of Python") };
    std::fs::write(&script, format!("{client}\n\n{program}\nprogram.ask(\"stop\")\n")).unwrap();
    let mut python = Command::new("python3");
    let output = python.arg(&script).arg(&served.path).arg(r"\\.\wdm-1").output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let expected = "STATUS_SUCCESS 0600000000000000\nSTATUS_CANCELLED\n00010203\n";
    assert_eq!(printed, expected, "{}", String::from_utf8_lossy(&output.stderr));
    served.end().expect("well");
}

#[test]
fn a_connection_is_a_process_whose_end_closes_its_handles() {
    let served = Served::start(&[]);
    let (mut one, mut other) = (served.program(), served.program());
    let opened = one.open();
    assert_eq!(opened["name"], "STATUS_SUCCESS", "{opened}");
    // The driver sees the id of the process.
    let ids =
        one.ask(json!({ "op": "ioctl", "handle": opened["handle"], "code": code(0x802), "output": 32 }));
    let process = opened["process"].as_u64().unwrap().to_le_bytes();
    let process: String = process.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(ids["output"].as_str().unwrap()[..32], process.repeat(2), "{ids}");
    // The device is exclusive, and handles are a process's own.
    assert_eq!(other.open()["name"], "STATUS_ACCESS_DENIED");
    let stolen = other.ask(json!({ "op": "read", "handle": opened["handle"], "length": 1 }));
    assert_eq!(stolen["name"], "STATUS_INVALID_HANDLE");
    // The end of the program cancels what is pending, and closes the handle.
    one.begin(json!({ "op": "ioctl", "handle": opened["handle"], "code": code(0x801) }));
    one.ask_later_and_leave();
    let end = Instant::now() + PATIENCE;
    while other.open()["name"] != "STATUS_SUCCESS" {
        assert!(Instant::now() < end, "the handle stays open");
        std::thread::sleep(Duration::from_millis(5));
    }
    other.ask(json!({ "op": "stop" }));
    served.end().expect("well").contains(&["left behind: none"]);
}

impl Program {
    /// Disconnects in the middle of a line.
    fn ask_later_and_leave(mut self) {
        self.stream.write_all(br#"{"id":99,"op":"re"#).unwrap();
    }
}

#[test]
fn memory_of_the_process_can_be_used_by_address() {
    let served = Served::start(&[]);
    let mut program = served.program();
    let address = program.ask(json!({ "op": "allocate", "size": 20 }))["address"].as_u64().unwrap();
    let poked = program.ask(json!({ "op": "poke", "address": address + 4, "data": "0a0b" }));
    assert_eq!(poked["name"], "STATUS_SUCCESS");
    let peeked = program.ask(json!({ "op": "peek", "address": address, "length": 8 }));
    assert_eq!(peeked["data"], "000000000a0b0000");
    for (at, length) in [(address, 21), (address - 1, 4), (address + 20, 1), (u64::MAX, 4), (0, 1)] {
        let refused = program.ask(json!({ "op": "peek", "address": at, "length": length }));
        assert!(refused["error"].as_str().unwrap().contains("has allocated"), "{at:#x}: {refused}");
    }
    // The driver may still use it.
    let handle = program.open()["handle"].clone();
    let waiting = program.begin(json!({ "op": "ioctl", "handle": handle, "code": code(0x801) }));
    let refused = program.ask(json!({ "op": "free", "address": address }));
    assert!(refused["error"].as_str().unwrap().contains("pending"), "{refused}");
    program.begin(json!({ "op": "close", "handle": handle }));
    let mut replies = [program.line(), program.line()];
    replies.sort_by_key(|reply| reply["id"].as_u64());
    assert_eq!((replies[0]["id"].as_u64(), &replies[0]["name"]), (Some(waiting), &json!("STATUS_CANCELLED")));
    assert_eq!(replies[1]["name"], "STATUS_SUCCESS");
    assert_eq!(program.ask(json!({ "op": "free", "address": address }))["name"], "STATUS_SUCCESS");
    let again = program.ask(json!({ "op": "free", "address": address }));
    assert!(again["error"].is_string(), "{again}");
    program.ask(json!({ "op": "stop" }));
    served.end().expect("well");
}

#[test]
fn hostile_programs_get_errors_and_hang_nothing() {
    let served = Served::start(&[]);
    let mut good = served.program();
    let handle = good.open()["handle"].clone();
    for (line, expected) in [
        (&b"garbage\n"[..], "a line of JSON"),
        (b"\xFF\xFE\n", "not UTF-8"),
        (b"{}\n", "id: expected"),
        (b"[[[[[[\n", "a line of JSON"),
        (b"{\"id\":1,\"op\":\"format\"}\n", "unknown variant"),
        (b"{\"id\":1,\"op\":\"read\",\"handle\":4,\"length\":18446744073709551615}\n", "at most 1048576"),
        (b"{\"id\":1,\"op\":\"read\",\"handle\":4,\"length\":1e99}\n", "invalid type"),
    ] {
        let mut program = served.program();
        program.stream.write_all(line).unwrap();
        let reply = program.line();
        assert!(reply["error"].as_str().unwrap().contains(expected), "{expected}: {reply}");
        // The connection goes on.
        assert_eq!(program.ask(json!({ "op": "devices" }))["devices"][0]["links"], json!(["wdm-1"]));
    }
    // A line without an end.
    let mut endless = served.program();
    endless.stream.write_all(&vec![b'x'; LONGEST_LINE + 1]).unwrap();
    assert!(endless.line()["error"].as_str().unwrap().contains("a line of more than"));
    let mut rest = String::new();
    assert_eq!(endless.lines.read_to_string(&mut rest).unwrap(), 0, "{rest}");
    // A program that asks and never reads: its requests wait in the socket.
    let mut deaf = served.program();
    deaf.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let flood = b"{\"id\":1,\"op\":\"devices\"}\n".repeat(20_000);
    let _written_in_part = deaf.stream.write_all(&flood);
    // Two requests with one id.
    good.begin(json!({ "op": "ioctl", "handle": handle, "code": code(0x801) }));
    good.last -= 1;
    good.begin(json!({ "op": "ioctl", "handle": handle, "code": code(0x801) }));
    assert!(good.line()["error"].as_str().unwrap().contains("another id"));
    assert_eq!(good.ask(json!({ "op": "cancel", "request": "unknown" }))["name"], "STATUS_NOT_FOUND");
    // Too many connections.
    let many: Vec<_> = (0..40).map(|_| served.program()).collect();
    let refused = many.into_iter().filter_map(|mut program| {
        program.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut line = String::new();
        program.lines.read_line(&mut line).ok()?;
        Some(line)
    });
    let refused: Vec<_> = refused.collect();
    assert!(
        !refused.is_empty() && refused.iter().all(|line| line.contains("expected no more")),
        "{refused:?}"
    );
    good.begin(json!({ "op": "stop" }));
    served.end().expect("well");
}

#[test]
fn a_rule_that_a_request_breaks_ends_the_run() {
    let served = Served::start(&[]);
    let mut program = served.program();
    let handle = program.open()["handle"].clone();
    let reply = program.ask(json!({ "op": "ioctl", "handle": handle, "code": code(0x901) }));
    assert!(reply["error"].as_str().unwrap().contains("the machine has stopped"), "{reply}");
    let outcome = served.end();
    outcome.expect("rule broken: IRP_COMPLETED_TWICE, bugcheck 0x44 MULTIPLE_IRP_COMPLETE_REQUESTS");
    outcome.contains(&["wdm.rs:"]);
}
