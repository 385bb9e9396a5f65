//! Requests and replies, as JSON.

use machine::nt::Stop;
use machine::nt::irp::Device;
use machine::status::Status;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Most bytes of a buffer, and of memory that a program allocates at once.
pub const MOST_BYTES: usize = 1 << 20;
/// Most bytes of a line: two buffers in hexadecimal digits, and the rest.
pub const LONGEST_LINE: usize = (4 << 20) + (64 << 10);

/// A request with its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Names the request in its reply, and in `cancel`: a number or a string.
    pub id: Value,
    /// What is asked.
    pub request: Request,
}

/// What a program asks.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs, reason = "docs/DRIVERS.md describes the fields")]
pub enum Request {
    /// Opens a device by the name of a link.
    Open {
        path: String,
        #[serde(default)]
        access: Access,
    },
    /// Closes a handle.
    Close { handle: u32 },
    /// Sends an I/O control request.
    Ioctl {
        handle: u32,
        code: u32,
        #[serde(default)]
        input: Bytes,
        #[serde(default)]
        output: Output,
    },
    /// Reads.
    Read { handle: u32, length: usize },
    /// Writes.
    Write { handle: u32, data: Bytes },
    /// Cancels a request of this program.
    Cancel { request: Value },
    /// Allocates memory of the process, for requests that hold addresses.
    Allocate { size: usize },
    /// Frees it.
    Free { address: u64 },
    /// Reads it.
    Peek { address: u64, length: usize },
    /// Writes it.
    Poke { address: u64, data: Bytes },
    /// Lists devices and their links.
    Devices,
    /// Ends the run, as Ctrl-C does.
    Stop,
}

/// The rights with which a device is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Access {
    None,
    Read,
    Write,
    #[default]
    ReadWrite,
}

/// Bytes, as hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Bytes(pub Vec<u8>);

impl TryFrom<String> for Bytes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let expected = "expected an even number of hexadecimal digits";
        if !text.len().is_multiple_of(2) {
            return Err(format!("{} digits: {expected}", text.len()));
        }
        if text.len() / 2 > MOST_BYTES {
            return Err(format!("{} bytes: expected at most {MOST_BYTES}", text.len() / 2));
        }
        let digit = |at: usize| {
            let value = char::from(text.as_bytes()[at]).to_digit(16);
            value.ok_or_else(|| format!("character {} is no hexadecimal digit: {expected}", at + 1))
        };
        let byte = |at| Ok((digit(at)? << 4 | digit(at + 1)?) as u8);
        Ok(Self((0..text.len()).step_by(2).map(byte).collect::<Result<_, String>>()?))
    }
}

/// The second buffer of an I/O control request: its size in bytes, or its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Output {
    /// Zeros.
    Size(usize),
    /// These bytes.
    Filled(Bytes),
}

impl Default for Output {
    fn default() -> Self {
        Self::Size(0)
    }
}

impl Asked {
    /// Reads a line.
    ///
    /// # Errors
    /// The reply that says what is wrong and what is expected.
    pub fn read(line: &str) -> Result<Self, Reply> {
        let mut object: Map<String, Value> = match serde_json::from_str(line) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(Reply::error(Value::Null, "expected a JSON object")),
            Err(error) => {
                return Err(Reply::error(
                    Value::Null,
                    format!("expected a line of JSON, an object: {error}"),
                ));
            }
        };
        let id = object.remove("id").unwrap_or(Value::Null);
        if !id.is_u64() && id.as_str().is_none_or(|text| text.len() > 64) {
            let expected = "id: expected a whole number from 0, or a string of at most 64 bytes";
            return Err(Reply::error(Value::Null, expected));
        }
        if !object.get("op").is_some_and(Value::is_string) {
            return Err(Reply::error(id, format!("op: expected one of {}", OPERATIONS.join(", "))));
        }
        match serde_json::from_value::<Request>(Value::Object(object)) {
            Ok(request) => {
                request.check().map_err(|text| Reply::error(id.clone(), text)).map(|()| Self { id, request })
            }
            Err(error) => Err(Reply::error(id, error.to_string())),
        }
    }
}

/// The names of the operations.
pub const OPERATIONS: [&str; 12] = [
    "open", "close", "ioctl", "read", "write", "cancel", "allocate", "free", "peek", "poke", "devices",
    "stop",
];

impl Request {
    /// The most bytes that it and its outcome hold.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Ioctl { input, output, .. } => input.0.len() + output.size(),
            Self::Read { length, .. } => *length,
            Self::Write { data, .. } => data.0.len(),
            _ => 0,
        }
    }

    fn check(&self) -> Result<(), String> {
        let (name, size) = match self {
            Self::Ioctl { output, .. } => ("output", output.size()),
            Self::Read { length, .. } | Self::Peek { length, .. } => ("length", *length),
            Self::Allocate { size } => ("size", *size),
            _ => return Ok(()),
        };
        match size > MOST_BYTES {
            true => Err(format!("{name}: {size} bytes: expected at most {MOST_BYTES}")),
            false => Ok(()),
        }
    }
}

impl Output {
    /// Its size in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Size(size) => *size,
            Self::Filled(bytes) => bytes.0.len(),
        }
    }

    /// Its bytes before the request.
    pub fn bytes(self) -> Vec<u8> {
        match self {
            Self::Size(size) => vec![0; size],
            Self::Filled(bytes) => bytes.0,
        }
    }
}

/// A reply, or an event that no request asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply(Value);

impl Reply {
    /// A request that is over.
    pub fn status(id: Value, status: Status) -> Self {
        Self(json!({ "id": id, "status": status.0 as u32, "name": status.to_string() }))
    }

    /// Adds a member.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        if let Value::Object(object) = &mut self.0 {
            object.insert(name.to_owned(), value.into());
        }
        self
    }

    /// A request that could not be made.
    pub fn error(id: Value, text: impl Into<String>) -> Self {
        Self(json!({ "id": id, "error": text.into() }))
    }

    /// What the I/O manager or the driver made of a request.
    pub fn completed(id: Value, reply: &machine::nt::irp::Reply) -> Self {
        Self::status(id, reply.status)
            .with("information", reply.information)
            .with("output", hex(&reply.output))
    }

    /// A request that ended with the machine.
    pub fn stopped(id: Value, stop: &Stop) -> Self {
        Self::error(id, format!("the machine has stopped: {stop}"))
    }

    /// The devices of the machine.
    pub fn devices(id: Value, devices: &[Device]) -> Self {
        let list: Vec<_> =
            devices.iter().map(|device| json!({ "name": device.name, "links": device.links })).collect();
        Self::status(id, Status::SUCCESS).with("devices", list)
    }

    /// The line, without its end.
    pub fn json(&self) -> String {
        self.0.to_string()
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let read = |line: &str| Asked::read(line).unwrap_or_else(|reply| panic!("{line}: {}", reply.json()));
        let open = read(r#"{"id":1,"op":"open","path":"\\\\.\\Sample"}"#);
        assert_eq!(open.request, Request::Open { path: r"\\.\Sample".into(), access: Access::ReadWrite });
        let ioctl = read(r#"{"id":"a","op":"ioctl","handle":4,"code":2236416,"input":"0aFF","output":8}"#);
        assert_eq!(
            ioctl.request,
            Request::Ioctl {
                handle: 4,
                code: 2_236_416,
                input: Bytes(vec![10, 255]),
                output: Output::Size(8)
            }
        );
        let filled = read(r#"{"id":2,"op":"ioctl","handle":4,"code":0,"output":"01"}"#).request;
        assert_eq!(filled.bytes(), 1);
        assert_eq!(
            read(r#"{"id":3,"op":"cancel","request":"a"}"#).request,
            Request::Cancel { request: "a".into() }
        );
        assert_eq!(read(r#"{"id":3,"op":"stop"}"#).request, Request::Stop);
    }

    #[test]
    fn wrong_requests_say_what_is_expected() {
        let long = format!(r#"{{"id":1,"op":"write","handle":4,"data":"{}"}}"#, "00".repeat(MOST_BYTES + 1));
        for (line, expected) in [
            ("nonsense", "a line of JSON"),
            ("[]", "a JSON object"),
            (r#"{"op":"stop"}"#, "id: expected"),
            (r#"{"id":-1,"op":"stop"}"#, "id: expected"),
            (r#"{"id":{},"op":"stop"}"#, "id: expected"),
            (r#"{"id":1}"#, "op: expected one of open"),
            (r#"{"id":1,"op":"destroy"}"#, "unknown variant `destroy`"),
            (r#"{"id":1,"op":"open"}"#, "missing field `path`"),
            (r#"{"id":1,"op":"open","path":"a","more":1}"#, "unknown field `more`"),
            (r#"{"id":1,"op":"close","handle":-4}"#, "invalid value"),
            (r#"{"id":1,"op":"write","handle":4,"data":"abc"}"#, "even number"),
            (r#"{"id":1,"op":"write","handle":4,"data":"xy"}"#, "character 1 is no hexadecimal digit"),
            (r#"{"id":1,"op":"read","handle":4,"length":1048577}"#, "at most 1048576"),
            (r#"{"id":1,"op":"ioctl","handle":4,"code":1,"output":99999999999}"#, "at most 1048576"),
            (r#"{"id":1,"op":"allocate","size":99999999999}"#, "at most 1048576"),
            (&long, "at most 1048576"),
        ] {
            let reply = Asked::read(line).unwrap_err().json();
            assert!(reply.contains(expected), "{expected}: {reply}");
        }
    }

    #[test]
    fn the_names_of_the_operations_are_those_that_are_read() {
        for name in OPERATIONS {
            let line = format!(r#"{{"id":1,"op":"{name}"}}"#);
            let known = match Asked::read(&line) {
                Ok(_) => true,
                Err(reply) => reply.json().contains("missing field"),
            };
            assert!(known, "{name}");
        }
    }
}
