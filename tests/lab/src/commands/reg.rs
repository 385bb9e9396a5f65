//! `cargo lab reg`: the driver's values, as regedit shows and changes them.

use anyhow::{Result, bail};

use crate::nt::registry::RegistryValue;
use crate::registry::{self, Reply, Request};

/// What to read or change.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
ExemptPorts, ExemptPrefixes and ExemptInterfaces are REG_MULTI_SZ, everything else is REG_DWORD; \
NAME:dword=, NAME:sz= and NAME:multi_sz= say otherwise.")]
pub struct Arguments {
    /// NAME shows a value, NAME=VALUE sets it: a number, or strings with commas
    /// between them; nothing shows all
    #[arg(value_name = "NAME[=VALUE]", value_parser = item)]
    items: Vec<Item>,
    /// Delete the values named
    #[arg(long)]
    delete: bool,
}

#[derive(Clone, Debug)]
enum Item {
    Name(String),
    Assignment(String, RegistryValue),
}

/// Does it; whether every value named was there.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let mut found = true;
    if arguments.delete && arguments.items.is_empty() {
        bail!("--delete: which value?");
    }
    if arguments.items.is_empty() {
        for (name, value) in registry::ask(&Request::List)?.values {
            println!("{name} = {}", registry::text(&value));
        }
    }
    for item in &arguments.items {
        let (name, request) = match item {
            Item::Assignment(name, _) if arguments.delete => bail!("--delete {name}: a name alone is wanted"),
            Item::Assignment(name, value) => (name, Request::Set(name.clone(), value.clone())),
            Item::Name(name) if arguments.delete => (name, Request::Delete(name.clone())),
            Item::Name(name) => (name, Request::List),
        };
        let reply = registry::ask(&request)?;
        match (&request, reply.value(name)) {
            (Request::Delete(_), _) if reply.found => println!("{name} deleted{}", told(&reply)),
            (Request::Set(..), Some(value)) => {
                println!("{name} = {}{}", registry::text(value), told(&reply));
            }
            (Request::List, Some(value)) => println!("{name} = {}", registry::text(value)),
            _ => {
                eprintln!("{name} is not set");
                found = false;
            }
        }
    }
    Ok(found)
}

/// Whether the driver hears of a change.
fn told(reply: &Reply) -> String {
    match reply.told {
        0 => "; nobody watches the key".to_owned(),
        _ => "; the driver was told".to_owned(),
    }
}

fn item(text: &str) -> Result<Item, String> {
    match text.contains('=') {
        true => registry::assignment(text).map(|(name, value)| Item::Assignment(name, value)),
        false => Ok(Item::Name(text.to_owned())),
    }
}
