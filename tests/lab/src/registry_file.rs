//! Reads what `reg export` and regedit write, and applies a service's keys.
//!
//! The format: a line that names the version, then keys in brackets and their values,
//! one a line (*How to add, modify, or delete registry subkeys and values by using a
//! .reg file*, Microsoft support). Version 5 is UTF-16LE with a byte order mark; files
//! that people write are often UTF-8. REGEDIT4 has strings of bytes.

mod parse;

use anyhow::Result;
use machine::nt::registry::RegistryValue;
use machine::nt::{Kernel, service_key};

pub use parse::parse;

/// A change that a file asks for. Keys are those of the file, such as
/// `HKEY_LOCAL_MACHINE\SYSTEM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The line, from 1.
    pub line: usize,
    /// The key.
    pub key: String,
    /// What happens to it.
    pub action: Action,
}

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The key is created.
    Create,
    /// The key and its subkeys are deleted.
    Delete,
    /// A value is set; the default value has no name.
    Set(String, RegistryValue),
    /// A value is deleted.
    Unset(String),
}

/// The changes of a service's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys are paths of the kernel.
    entries: Vec<Entry>,
    /// Keys of the file that are not the service's, each with its line.
    pub others: Vec<(usize, String)>,
}

/// The keys of services, without the root. A machine has one control set.
const SERVICES: [&str; 2] = [r"SYSTEM\CurrentControlSet\Services\", r"SYSTEM\ControlSet001\Services\"];
/// The root of these keys, and its short name.
const ROOTS: [&str; 2] = [r"HKEY_LOCAL_MACHINE\", r"HKLM\"];

impl Changes {
    /// The changes that a file asks for, of the keys of a service.
    ///
    /// # Errors
    /// If the file is not as `reg export` writes it: the line, and what is expected.
    pub fn of_service(file: &[u8], service: &str) -> Result<Self> {
        let mut changes = Self::default();
        for entry in parse(file)? {
            match below_service(&entry.key, service) {
                Some(rest) => {
                    let key = format!("{}{rest}", service_key(service));
                    changes.entries.push(Entry { key, ..entry });
                }
                None if matches!(entry.action, Action::Create | Action::Delete) => {
                    changes.others.push((entry.line, entry.key));
                }
                None => {}
            }
        }
        Ok(changes)
    }

    /// Makes the changes, in the order of the file.
    pub fn apply(&self, kernel: &Kernel) {
        for Entry { key, action, .. } in &self.entries {
            match action {
                Action::Create => kernel.create_key(key),
                Action::Delete => kernel.delete_key(key),
                Action::Set(name, value) => drop(kernel.set_value(key, name, value.clone())),
                Action::Unset(name) => drop(kernel.delete_value(key, name)),
            }
        }
    }

    /// Whether no key is the service's.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// What follows the key of a service: empty, or it begins with `\`.
fn below_service<'a>(key: &'a str, service: &str) -> Option<&'a str> {
    let below = ROOTS.iter().find_map(|root| without_prefix(key, root))?;
    let below = SERVICES.iter().find_map(|services| without_prefix(below, services))?;
    let rest = without_prefix(below, service)?;
    (rest.is_empty() || rest.starts_with('\\')).then_some(rest)
}

/// The rest of a text after a prefix; case is ignored.
fn without_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

#[cfg(test)]
mod tests {
    use machine::Machine;
    use machine::nt::{Options, parameters_key};

    use super::*;

    #[test]
    fn keys_of_the_service_apply_and_others_are_told() {
        let file = br#"Windows Registry Editor Version 5.00

[HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\Other]
"Start"=dword:00000003
"Gone"="x"
"Gone"=-

[HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\other\Parameters\Deep]
"Name"="a\\b \"c\""

[HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\Other2]
"Start"=dword:00000001

[-HKEY_LOCAL_MACHINE\SYSTEM\ControlSet001\Services\Other\Old]
[HKEY_CURRENT_USER\Software]
"#;
        let changes = Changes::of_service(file, "other").unwrap();
        let others: Vec<_> = changes.others.iter().map(|(line, key)| (*line, key.as_str())).collect();
        assert_eq!(
            others,
            [
                (11, r"HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\Other2"),
                (15, r"HKEY_CURRENT_USER\Software")
            ]
        );
        let machine = Machine::new("other", Options::default());
        let kernel = machine.kernel();
        let old = format!(r"{}\Old", service_key("other"));
        kernel.create_key(&old);
        changes.apply(kernel);
        let registry = kernel.registry();
        assert_eq!(registry.value(&service_key("other"), "start"), Some(RegistryValue::dword(3)));
        assert_eq!(registry.value(&service_key("other"), "Gone"), None);
        let deep = format!(r"{}\Deep", parameters_key("other"));
        assert_eq!(registry.value(&deep, "Name"), Some(RegistryValue::sz(r#"a\b "c""#)));
        assert!(!registry.has_key(&old));
        assert!(!registry.has_key(&service_key("other2")));
    }
}
