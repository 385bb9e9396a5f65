//! `cargo lab reg`: reads and changes the driver's values, as regedit does.

use anyhow::{Result, anyhow, bail};
use machine::nt::registry::RegistryValue;

use crate::policy::{Assignment, Refusal, table};
use crate::remote_registry::{self, Policy, Reply, Request};

/// What to read or change.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
ExemptPorts, ExemptPrefixes, ExemptInterfaces and ExemptProfiles are REG_MULTI_SZ, every other value is REG_DWORD. \
NAME:dword=, NAME:sz= and NAME:multi_sz= set another type. \
The command waits until the driver has read a change. If the driver refuses it, the exit status is 1.")]
pub struct Arguments {
    /// NAME prints a value, NAME=VALUE sets it: a number, or strings separated by
    /// commas. Without items, all values are printed
    #[arg(value_name = "NAME[=VALUE]", value_parser = item)]
    items: Vec<Item>,
    /// Delete the named values
    #[arg(long)]
    delete: bool,
}

#[derive(Clone, Debug)]
enum Item {
    Name(String),
    Assignment(Assignment),
}

/// Reads or changes the values. Returns whether every named value exists and is in
/// force.
pub fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.delete && arguments.items.is_empty() {
        bail!("--delete: expected the name of a value");
    }
    // All names and types are checked first, so that an error changes nothing.
    let (mut shown, mut changes) = (Vec::new(), Vec::new());
    for item in &arguments.items {
        match item {
            Item::Assignment(one) if arguments.delete => bail!("--delete {one}: expected a name alone"),
            Item::Assignment(one) => changes.push(one.resolve().map(|(name, value)| (name, Some(value)))?),
            Item::Name(name) => {
                let known = table::find(name).map_err(|error| anyhow!(error))?;
                match arguments.delete {
                    true => changes.push((known.name.to_owned(), None)),
                    false => shown.push(known.name),
                }
            }
        }
    }
    let mut well = true;
    if !changes.is_empty() {
        let reply = remote_registry::ask(&Request::Change(changes.clone()))?;
        for (name, value) in &changes {
            well &= report(name, value.as_ref(), &reply);
        }
    }
    if changes.is_empty() || !shown.is_empty() {
        well &= show(&shown, &remote_registry::ask(&Request::List)?);
    }
    Ok(well)
}

/// Prints these values, or all of them. Returns whether all exist.
fn show(names: &[&str], reply: &Reply) -> bool {
    let mut found = true;
    let all = reply.values.iter().map(|(name, _)| name.as_str());
    let names: Vec<&str> = if names.is_empty() { all.collect() } else { names.to_vec() };
    for name in names {
        let Some(value) = reply.value(name) else {
            eprintln!("{name} is not set");
            found = false;
            continue;
        };
        println!("{name} = {}", remote_registry::text(value));
        if let Some(policy) = &reply.policy
            && let Some(refusal) = refusal(policy, name)
        {
            println!("  refused: {}; {}", refusal.text(&reply.values), in_force(policy, name));
        }
    }
    found
}

/// Prints the result of a change. Returns whether it is in force.
fn report(name: &str, value: Option<&RegistryValue>, reply: &Reply) -> bool {
    if reply.missing.iter().any(|missing| missing == name) {
        eprintln!("{name} is not set");
        return false;
    }
    let what = match value {
        Some(value) => format!("{name} = {}", remote_registry::text(value)),
        None => format!("{name} deleted"),
    };
    let policy = match (&reply.policy, &reply.failure) {
        (_, Some(failure)) => {
            eprintln!("{what}; whether the driver accepts it is unknown: {failure}");
            return false;
        }
        (None, None) => {
            println!("{what}; no driver reports whether it accepts it");
            return true;
        }
        (Some(policy), None) => policy,
    };
    if let Some(refusal) = refusal(policy, name) {
        eprintln!("{what} is refused: {}", refusal.text(&reply.values));
        eprintln!("{}", in_force(policy, name));
        return false;
    }
    let default = table::find(name).ok().map(remote_registry::default);
    let meant = value.cloned().or(default);
    if policy.in_force.get(name) != meant.as_ref() {
        eprintln!("{what} takes no effect while the driver refuses another value:");
        for refusal in &policy.refused {
            eprintln!("  {}: {}", refusal.value, refusal.text(&reply.values));
        }
        eprintln!("{}", in_force(policy, name));
        return false;
    }
    match table::find(name).is_ok_and(|known| known.at_start) {
        true => println!("{what}; accepted, and in force from the next start of the driver"),
        false => println!("{what}; in force"),
    }
    for refusal in &policy.refused {
        println!("  still refused: {}: {}", refusal.value, refusal.text(&reply.values));
    }
    true
}

fn refusal<'a>(policy: &'a Policy, name: &str) -> Option<&'a Refusal> {
    policy.refused.iter().find(|refusal| refusal.value.eq_ignore_ascii_case(name))
}

fn in_force(policy: &Policy, name: &str) -> String {
    let text = policy.in_force.get(name).map_or_else(|| "?".to_owned(), remote_registry::text);
    format!("in force is {name} = {}", if text.starts_with(' ') { format!("nothing{text}") } else { text })
}

fn item(text: &str) -> Result<Item, String> {
    match text.contains('=') {
        true => text.parse().map(Item::Assignment),
        false => Ok(Item::Name(text.to_owned())),
    }
}
