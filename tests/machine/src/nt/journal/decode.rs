//! Decodes registers and memory into named values, from the fact tables.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value as Json;

use super::super::Kernel;
use super::super::foreign;
use super::super::guest::Place;
use super::super::types::GUID;
use super::{Argument, Value};
use crate::exports;

/// Structures that callers fill in. Their fields are recorded as arguments. Other
/// pointers lead to objects of the system, or to memory that the call writes.
const FILLED_IN: [&str; 16] = [
    "EVENT_DATA_DESCRIPTOR",
    "EVENT_DESCRIPTOR",
    "FWPM_CALLOUT0",
    "FWPM_FILTER0",
    "FWPM_FILTER_CONDITION0",
    "FWPM_PROVIDER0",
    "FWPM_SESSION0",
    "FWPM_SUBLAYER0",
    "FWPS_CALLOUT0",
    "FWPS_CALLOUT1",
    "FWPS_CALLOUT2",
    "FWPS_CALLOUT3",
    "GROUP_AFFINITY",
    "LARGE_INTEGER",
    "OBJECT_ATTRIBUTES",
    "UNICODE_STRING",
];

/// Prefixes of the names of pointer types (`PCEVENT_DESCRIPTOR`).
const POINTER_PREFIXES: [&str; 4] = ["LPC", "PC", "LP", "P"];

/// Most elements that are read of an array.
const MOST_ELEMENTS: u64 = 64;

/// A declared parameter or field.
#[derive(Debug)]
struct Declared {
    name: String,
    /// Its type, as in the headers.
    kind: String,
    offset: usize,
    size: usize,
}

/// A type of the headers.
#[derive(Debug)]
struct Type {
    size: usize,
    /// The type for which it is another name.
    alias: Option<String>,
    /// Empty if it is not a structure.
    fields: Vec<Declared>,
}

static FUNCTIONS: LazyLock<HashMap<String, Vec<Declared>>> = LazyLock::new(|| {
    let functions = exports::FUNCTIONS.as_object().into_iter().flatten();
    functions.map(|(name, fact)| (name.clone(), parameters(fact))).collect()
});

static TYPES: LazyLock<HashMap<String, Type>> = LazyLock::new(|| {
    let facts: Json = parse(include_str!("../../../facts/layouts.x64.json"));
    let types = facts.as_object().into_iter().flatten();
    let read = |fact: &Json| Type {
        size: fact["size"].as_u64().unwrap_or(0) as usize,
        alias: fact["type"].as_str().map(str::to_owned),
        fields: if fact["kind"] == "struct" { fields(fact) } else { Vec::new() },
    };
    types.map(|(name, fact)| (name.clone(), read(fact))).collect()
});

fn parse(text: &str) -> Json {
    serde_json::from_str(text).expect("the fact tables are JSON")
}

fn parameters(fact: &Json) -> Vec<Declared> {
    let parameters = fact["params"].as_array().into_iter().flatten();
    let classes = fact["abi"].as_array().into_iter().flatten();
    let declared = parameters.zip(classes).map(|(parameter, class)| Declared {
        name: text(&parameter[0]),
        kind: text(&parameter[1]),
        offset: 0,
        size: match class.as_str() {
            Some("u8" | "i8") => 1,
            Some("u16" | "i16") => 2,
            Some("u32" | "i32") => 4,
            _ => 8,
        },
    });
    declared.collect()
}

/// Fields of a structure. Unnamed unions are read as a whole, so their members are
/// left out.
fn fields(fact: &Json) -> Vec<Declared> {
    let fields = fact["fields"].as_array().into_iter().flatten();
    let declared = fields.map(|field| Declared {
        name: text(&field[0]),
        kind: text(&field[3]),
        offset: field[1].as_u64().unwrap_or(0) as usize,
        size: field[2].as_u64().unwrap_or(0) as usize,
    });
    declared.filter(|field| !field.name.contains('.')).collect()
}

fn text(fact: &Json) -> String {
    fact.as_str().unwrap_or_default().to_owned()
}

/// The arguments of the export that the driver is calling on this thread.
pub(super) fn arguments(kernel: &Kernel, export: &str) -> Option<Vec<Argument>> {
    let parameters = FUNCTIONS.get(export)?;
    let passed = kernel.guest().arguments(export, parameters.len())?;
    // The bytes above a parameter's own size are undefined.
    let passed: Vec<(&Declared, Vec<u8>)> = parameters
        .iter()
        .zip(passed)
        .map(|(parameter, raw)| (parameter, raw.to_le_bytes()[..parameter.size].to_vec()))
        .collect();
    let mut reader = Reader { kernel, arguments: Vec::new() };
    for (parameter, bytes) in &passed {
        // The parameter "<name>Count" gives the number of elements of an array.
        let count = passed.iter().find(|(other, _)| other.name == format!("{}Count", parameter.name));
        let count = count.map(|(_, bytes)| number(bytes));
        reader.value(&parameter.name, &parameter.kind, bytes, count);
    }
    Some(reader.arguments)
}

struct Reader<'a> {
    kernel: &'a Kernel,
    arguments: Vec<Argument>,
}

impl Reader<'_> {
    fn put(&mut self, path: &str, value: Value) {
        self.arguments.push(Argument { path: path.to_owned(), value });
    }

    /// Records a value of type `kind`, given its bytes.
    fn value(&mut self, path: &str, kind: &str, bytes: &[u8], count: Option<u64>) {
        if kind == "GUID" {
            return self.put(path, guid(bytes));
        }
        if let Some(structure) = structure(kind) {
            return self.fields(path, &structure.fields, bytes);
        }
        if bytes.len() == 8 && is_address(kind) {
            return self.pointer(path, kind, number(bytes), count);
        }
        let value = match bytes.len() {
            ..=8 => Value::Number(number(bytes)),
            // Unions of 16 bytes hold the key of an object.
            16 if kind == "union" => guid(bytes),
            _ => Value::Bytes(bytes.to_vec()),
        };
        self.put(path, value);
    }

    fn fields(&mut self, path: &str, fields: &[Declared], bytes: &[u8]) {
        for field in fields {
            let path = format!("{path}.{}", field.name);
            match bytes.get(field.offset..field.offset + field.size) {
                Some(bytes) => self.value(&path, &field.kind, bytes, None),
                None => self.put(&path, Value::Bytes(Vec::new())),
            }
        }
    }

    fn pointer(&mut self, path: &str, kind: &str, address: u64, count: Option<u64>) {
        let place = self.place(address);
        let Some(pointee) = pointee(kind).filter(|_| place != Place::Null) else {
            return self.put(path, Value::Pointer(place, address));
        };
        match pointee {
            "wchar_t" | "WCH" => match foreign::read_wide(address as usize) {
                Ok(text) => self.put(path, Value::Text(text.unwrap_or_default())),
                Err(_) => self.put(path, Value::Unreadable(address)),
            },
            "GUID" => match foreign::read_bytes(address as usize, size_of::<GUID>()) {
                Ok(bytes) => self.put(path, guid(&bytes)),
                Err(_) => self.put(path, Value::Unreadable(address)),
            },
            // The text of a UNICODE_STRING is counted, not terminated.
            "UNICODE_STRING" => match foreign::read_unicode_string(address as usize) {
                Ok(text) => self.put(path, Value::Text(text)),
                Err(_) => self.put(path, Value::Unreadable(address)),
            },
            "LARGE_INTEGER" => match foreign::read_bytes(address as usize, 8) {
                Ok(bytes) => self.put(path, Value::Number(number(&bytes))),
                Err(_) => self.put(path, Value::Unreadable(address)),
            },
            name if FILLED_IN.contains(&name) => {
                self.put(path, Value::Pointer(place, address));
                self.structures(path, name, address as usize, count);
            }
            _ => self.put(path, Value::Pointer(place, address)),
        }
    }

    /// Records a structure, or `count` contiguous ones.
    fn structures(&mut self, path: &str, name: &str, address: usize, count: Option<u64>) {
        let Some(Type { size, fields, .. }) = structure(name) else { return };
        for index in 0..count.unwrap_or(1).min(MOST_ELEMENTS) {
            let path = if count.is_some() { format!("{path}[{index}]") } else { path.to_owned() };
            match foreign::read_bytes(address + index as usize * size, *size) {
                Ok(bytes) => self.fields(&path, fields, &bytes),
                Err(bad) => self.put(&path, Value::Unreadable(bad.address as u64)),
            }
        }
    }

    fn place(&self, address: u64) -> Place {
        if address == 0 {
            return Place::Null;
        }
        self.kernel.guest().place(address).unwrap_or_else(|| {
            match self.kernel.pool().describe(address as usize) {
                Some(_) => Place::Pool,
                None => Place::System,
            }
        })
    }
}

fn structure(name: &str) -> Option<&'static Type> {
    TYPES.get(name).filter(|it| !it.fields.is_empty())
}

/// Whether an 8-byte type is an address or a handle. A type that is not in the
/// tables is a pointer or function type, unless it is one of these integers.
fn is_address(kind: &str) -> bool {
    const INTEGERS: [&str; 5] = ["ULONG64", "size_t", "LONG_PTR", "union", "struct"];
    match TYPES.get(kind).and_then(|it| it.alias.as_deref()) {
        Some(alias) => is_address(alias),
        None => !INTEGERS.contains(&kind) && !kind.ends_with("long"),
    }
}

/// The type that a pointer type points to, if its name tells.
fn pointee(kind: &str) -> Option<&str> {
    let kind = kind.strip_prefix("const ").unwrap_or(kind).trim();
    if let Some(pointee) = kind.strip_suffix('*') {
        return Some(pointee.trim());
    }
    let known = |name: &&str| FILLED_IN.contains(name) || ["GUID", "WCH", "WSTR"].contains(name);
    let names = POINTER_PREFIXES.iter().filter_map(|prefix| kind.strip_prefix(prefix));
    names.into_iter().find(known).map(|name| if name == "WSTR" { "wchar_t" } else { name })
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn guid(bytes: &[u8]) -> Value {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes else { return Value::Bytes(bytes.to_vec()) };
    match rest.try_into() {
        Ok(data4) => Value::Guid(
            GUID {
                Data1: u32::from_le_bytes([*a, *b, *c, *d]),
                Data2: u16::from_le_bytes([*e, *f]),
                Data3: u16::from_le_bytes([*g, *h]),
                Data4: data4,
            }
            .to_guid(),
        ),
        Err(_) => Value::Bytes(bytes.to_vec()),
    }
}
