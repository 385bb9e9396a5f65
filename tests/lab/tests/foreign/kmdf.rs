//! A driver of the framework, and what it is asked to do.

use std::collections::HashMap;
use std::sync::LazyLock;

use machine::nt::irp::{Access, File, Reply, Request};
use machine::nt::{Options, Stop};
use machine::status::Status;
use machine::{Driver, Machine};

use super::{driver, text};

/// The id of the process that asks.
pub const PROCESS: u32 = 1234;

const CALL: u32 = 0x22_2000;
const ADDRESSES: u32 = 0x22_2004;
const CALLS: u32 = 0x22_2008;
/// Calls a function twice in one callback.
pub const CALL_TWICE: u32 = 0x22_200C;
/// Bugs: the callback raises the level, or enters a critical region.
pub const RAISE: u32 = 0x22_2010;
pub const ENTER_REGION: u32 = 0x22_2014;

/// Places of functions in the framework's table.
static PLACES: LazyLock<HashMap<String, u64>> = LazyLock::new(|| {
    let facts = include_str!("../../../machine/facts/kmdf.json");
    let facts: serde_json::Value = serde_json::from_str(facts).unwrap();
    let functions = facts["functions"].as_object().unwrap();
    functions.iter().filter_map(|(name, fact)| Some((name.clone(), fact["place"].as_u64()?))).collect()
});

/// The driver in its machine, and an open handle of its device.
pub struct Client {
    // Dropped first: a driver with open files cannot be unloaded.
    pub file: Option<File>,
    pub machine: Driver,
    pub driver: u64,
    pub device: u64,
    pub queue: u64,
    /// Addresses of the driver's callbacks, which record their calls.
    pub callbacks: [u64; 6],
    /// One that takes 20 ms, and one that records its IRQL.
    pub slow: u64,
    pub with_level: u64,
}

/// A recorded call of a callback: its number and its first arguments.
pub type Call = (u64, [u64; 4]);

impl Client {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_in(&Machine::new("nobody", Options::default()), "sample", arguments)
    }

    /// Starts the driver of a service: `sample`, or `second` with its own name.
    pub fn start_in(machine: &Machine, service: &str, arguments: &[&str]) -> Self {
        let mut machine = machine.driver(service);
        machine.start(&driver("kmdf.rs", arguments)).expect("the driver starts");
        let path = format!(r"\\.\{service}");
        let file = machine.kernel().open(&path, PROCESS, Access::FULL).expect("the device opens");
        let words = words(&done(file.control(ADDRESSES, &[], &[0; 88]).unwrap()));
        let [driver, device, queue] = words[..3].try_into().unwrap();
        let callbacks = words[3..9].try_into().unwrap();
        let [slow, with_level] = words[9..11].try_into().unwrap();
        Self { file: Some(file), machine, driver, device, queue, callbacks, slow, with_level }
    }

    pub fn file(&self) -> &File {
        self.file.as_ref().expect("the file is open")
    }

    /// Calls a function of the framework in the driver.
    pub fn call<const N: usize>(&self, function: &str, arguments: [u64; N]) -> u64 {
        self.try_call(function, arguments).unwrap_or_else(|stop| panic!("{function}: {}", text(&stop)))
    }

    pub fn try_call<const N: usize>(&self, function: &str, arguments: [u64; N]) -> Result<u64, Stop> {
        self.try_code(CALL, function, arguments)
    }

    /// As [`Self::try_call`], with the code of a request that calls functions.
    pub fn try_code<const N: usize>(
        &self,
        code: u32,
        function: &str,
        arguments: [u64; N],
    ) -> Result<u64, Stop> {
        let input: Vec<u8> =
            [PLACES[function]].iter().chain(&arguments).flat_map(|word| word.to_le_bytes()).collect();
        Ok(words(&done(self.file().control(code, &input, &[0; 8])?))[0])
    }

    /// As [`Self::call`], of a function with a status.
    pub fn status<const N: usize>(&self, function: &str, arguments: [u64; N]) -> Status {
        Status(self.call(function, arguments) as u32 as i32)
    }

    /// The calls of callbacks since the last question.
    pub fn calls(&self) -> Vec<Call> {
        let reply = done(self.file().control(CALLS, &[], &[0; 5 * 8 * 256]).unwrap());
        let words = words(&reply);
        let calls = words[..reply.information as usize / 8].chunks_exact(5);
        calls.map(|call| (call[0], call[1..].try_into().unwrap())).collect()
    }

    /// The numbers of the callbacks that were called since the last question.
    pub fn called(&self) -> Vec<u64> {
        self.calls().into_iter().map(|(number, _)| number).collect()
    }

    /// Sends a request that the driver keeps. Returns the framework's handle, too.
    pub fn pend(&self, code: u32, input: &[u8], output: &[u8]) -> (Request, u64) {
        let request = self.file().control(code, input, output).unwrap();
        let (number, [_, handle, ..]) = *self.calls().last().expect("a callback was called");
        assert!([94, 95].contains(&number), "callback {number}");
        (request, handle)
    }

    /// Closes the file, and unloads the driver, which must have left nothing.
    pub fn stop(mut self) {
        self.file.take().unwrap().close().unwrap_or_else(|stop| panic!("{}", text(&stop)));
        let left = self.machine.stop().unwrap_or_else(|stop| panic!("{}", text(&stop)));
        assert!(left.is_empty(), "{left}");
    }
}

/// The reply of a request that is completed at once, with success.
pub fn done(request: Request) -> Reply {
    let reply = request.wait(None).unwrap_or_else(|stop| panic!("{}", text(&stop))).unwrap();
    assert_eq!(reply.status, Status::SUCCESS);
    reply
}

fn words(reply: &Reply) -> Vec<u64> {
    reply.output.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

/// The address of memory that the driver gets.
pub fn at<T: ?Sized>(memory: &T) -> u64 {
    std::ptr::from_ref(memory).cast::<u8>().expose_provenance() as u64
}

/// Attributes of an object.
pub fn attributes(parent: u64, cleanup: u64, destroy: u64, context: u64) -> [u64; 7] {
    // Size; the callbacks; inherited execution level and scope; parent; context.
    [56, cleanup, destroy, 1 | 1 << 32, parent, 0, context]
}

/// The information of a context type with this size; its address identifies it.
pub fn context_type(size: u64) -> Box<[u64; 5]> {
    let mut info = Box::new([40, at(b"SAMPLE_CONTEXT\0"), size, 0, 0]);
    info[3] = at(&*info);
    info
}

/// Reads a word that the driver has written.
pub fn peek(address: u64) -> u64 {
    // SAFETY: an address that the framework gave for the driver's memory.
    unsafe { std::ptr::with_exposed_provenance::<u64>(address as usize).read_volatile() }
}

#[test]
fn each_way_to_pass_the_table_binds_and_unloads() {
    for version in [&[][..], &["--cfg", "minor33"]] {
        let client = Client::start(version);
        assert_eq!(client.call("WdfDeviceGetDriver", [client.device]), client.driver);
        let devices = client.machine.kernel().devices();
        assert_eq!(
            (devices[0].name.as_str(), &*devices[0].links),
            (r"\Device\Sample", &["sample".to_owned()][..])
        );
        client.stop();
    }
}

#[test]
fn a_table_of_no_version_is_refused() {
    let mut machine = Machine::new("sample", Options::default());
    let error = machine.start(&driver("kmdf.rs", &["--cfg", "wrong_count"])).expect_err("400 functions");
    assert_eq!(error.to_string(), "DriverEntry returned STATUS_INVALID_PARAMETER");
    let log = machine.kernel().log_lines();
    assert!(log.iter().any(|line| line.contains("KmdfLibrary 1.9 with 400 functions")), "{log:?}");
}

#[test]
fn loads_again_and_again_leave_memory_flat() {
    if !alone("kmdf::loads_again_and_again_leave_memory_flat") {
        return;
    }
    let mut after_warm_up = 0;
    for round in 0..60 {
        Client::start(&[]).stop();
        if round == 20 {
            after_warm_up = resident();
        }
    }
    let now = resident();
    assert!(now < after_warm_up + (4 << 20), "{after_warm_up} bytes after 20 rounds, {now} after 60");
}

/// Whether this process runs one test only. If not, runs the test in such a process.
pub fn alone(test: &str) -> bool {
    const ALONE: &str = "HUSHPORT_LAB_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
    let output = alone.args(["--exact", test]).env(ALONE, "1").output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("1 passed"), "{output:?}");
    false
}

/// Bytes of memory that this process has.
pub fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_function_that_is_not_modelled_is_named_with_the_line_of_its_call() {
    let client = Client::start(&[]);
    let stop = client.try_call("WdfUsbTargetDeviceCreate", [client.device]).unwrap_err();
    let text = text(&stop);
    assert!(text.contains("the driver called Wdf01000.sys!WdfUsbTargetDeviceCreate"), "{text}");
    assert!(text.contains("kmdf::call at ") && text.contains("kmdf.rs:"), "{text}");
}
