//! Suggests what to write in place of a form that other tools accept.
//!
//! The driver is small: it reports only the reason for a refusal and the position
//! in the list. docs/CONFIGURATION.md explains the reasons. This module infers from
//! the text of an entry what was probably meant.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Subnets};

use super::table::{self, Known};

/// The limits of a number and its meaning.
pub fn number(known: &Known) -> String {
    format!("{} ({})", known.allowed, known.meaning)
}

/// The entries that a value accepts.
pub fn accepted(name: &str) -> String {
    match table::find(name) {
        Ok(known) if known.is_list => format!("{} takes entries such as {}", known.name, known.examples),
        Ok(known) => format!("{} takes a number, {}", known.name, number(known)),
        Err(error) => error,
    }
}

/// What to write in place of a refused entry, if its text allows to infer it.
pub fn instead(name: &str, entry: &str) -> Option<String> {
    let entry = entry.trim().trim_matches(['"', '\'']);
    if let Some(entries) = apart(entry) {
        return Some(format!("one entry for each: {entries}"));
    }
    match name {
        "ExemptPorts" => ports(entry),
        "ExemptPrefixes" => prefix(entry),
        "ExemptInterfaces" => interface(entry),
        "ExemptProfiles" => profile(entry),
        _ => None,
    }
}

/// Entries that are separated by another character than a comma.
fn apart(entry: &str) -> Option<String> {
    let parts: Vec<_> = entry.split([';', '|', '+']).map(str::trim).filter(|part| !part.is_empty()).collect();
    let plain = |part: &&str| part.starts_with(|first: char| first.is_ascii_hexdigit() || first == ':');
    (parts.len() > 1 && parts.iter().all(plain)).then(|| parts.join(","))
}

/// Words that mean everything.
fn is_everything(entry: &str) -> bool {
    ["*", "any", "all", "any/any", "*/*"].iter().any(|word| entry.eq_ignore_ascii_case(word))
}

/// Names of services, with port and protocol.
const SERVICES: [(&str, &str); 23] = [
    ("ftp", "21/tcp"),
    ("ssh", "22/tcp"),
    ("telnet", "23/tcp"),
    ("smtp", "25/tcp"),
    ("dns", "53"),
    ("domain", "53"),
    ("http", "80/tcp"),
    ("kerberos", "88"),
    ("pop3", "110/tcp"),
    ("auth", "113/tcp"),
    ("ident", "113/tcp"),
    ("ntp", "123/udp"),
    ("netbios-ssn", "139/tcp"),
    ("imap", "143/tcp"),
    ("snmp", "161/udp"),
    ("ldap", "389"),
    ("https", "443/tcp"),
    ("smb", "445/tcp"),
    ("microsoft-ds", "445/tcp"),
    ("ldaps", "636/tcp"),
    ("rdp", "3389/tcp"),
    ("winrm", "5985/tcp"),
    ("traceroute", "33434-33534/udp"),
];

fn ports(entry: &str) -> Option<String> {
    let lower = entry.to_ascii_lowercase();
    if is_everything(entry) {
        return Some("0-65535".to_owned());
    }
    if let Some((_, port)) = SERVICES.iter().find(|(name, _)| *name == lower) {
        return Some(format!("the port number, {port}"));
    }
    let words: Vec<_> = entry.split_whitespace().collect();
    if words.len() > 1 && words.iter().all(|word| word.parse::<u16>().is_ok()) {
        return Some(format!("one entry for each: {}", words.join(",")));
    }
    // The protocol may come first, as a number, or as a word for both.
    let (range, protocol) = match lower.split_once(['/', ':', ' ']) {
        Some((before, range)) if protocol(before).is_some() => (range.trim().to_owned(), protocol(before)?),
        Some((range, behind)) if protocol(behind).is_some() => (range.trim().to_owned(), protocol(behind)?),
        _ => (lower.clone(), ""),
    };
    let range = spans(&range)?;
    let written = format!("{range}{protocol}");
    (written != lower).then_some(written)
}

/// The suffix of a protocol.
fn protocol(text: &str) -> Option<&'static str> {
    match text.trim() {
        "tcp" | "6" | "t" => Some("/tcp"),
        "udp" | "17" | "u" => Some("/udp"),
        "" | "any" | "*" | "both" | "all" | "tcp+udp" | "tcp/udp" | "udp/tcp" => Some(""),
        _ => None,
    }
}

/// A port, or two ports with one of the signs for a range.
fn spans(text: &str) -> Option<String> {
    const LAST: u16 = u16::MAX;
    let port = |text: &str| -> Option<u16> {
        let text = text.trim();
        match text.strip_prefix("0x") {
            Some(digits) => u16::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    };
    if let Some(port) = port(text) {
        return Some(port.to_string());
    }
    for (sign, off) in [(">=", 0), (">", 1), ("gt ", 1)] {
        if let Some(first) = text.strip_prefix(sign).and_then(port) {
            return Some(format!("{}-{LAST}", first.saturating_add(off)));
        }
    }
    for (sign, off) in [("<=", 0), ("<", 1), ("lt ", 1)] {
        if let Some(last) = text.strip_prefix(sign).and_then(port) {
            return Some(format!("0-{}", last.saturating_sub(off)));
        }
    }
    for sign in ["..", ":", "-", "~", "\u{2013}", "\u{2014}", " to "] {
        let Some((first, last)) = text.split_once(sign) else { continue };
        let first = if first.trim().is_empty() { 0 } else { port(first)? };
        let last = if last.trim().is_empty() { LAST } else { port(last)? };
        return Some(format!("{}-{}", first.min(last), first.max(last)));
    }
    None
}

/// Windows Firewall's words for addresses.
const SCOPES: [&str; 11] = [
    "localsubnet",
    "localsubnet4",
    "localsubnet6",
    "dns",
    "dhcp",
    "wins",
    "defaultgateway",
    "internet",
    "intranet",
    "intranetremoteaccess",
    "playtodevice",
];

fn prefix(entry: &str) -> Option<String> {
    let lower = entry.to_ascii_lowercase();
    if is_everything(entry) {
        return Some("0.0.0.0/0,::/0".to_owned());
    }
    if SCOPES.contains(&lower.as_str()) {
        return Some("the prefix itself, such as 192.168.1.0/24 or fe80::/10".to_owned());
    }
    if lower == "localhost" {
        return Some("127.0.0.0/8,::1; and ExemptLoopback exempts this machine's own traffic".to_owned());
    }
    if let Some((address, _)) = lower.split_once('%')
        && address.parse::<IpAddr>().is_ok()
    {
        return Some(format!("{address}, without the zone; ExemptInterfaces exempts interfaces"));
    }
    masked(&lower)
        .or_else(|| shortened(&lower))
        .or_else(|| span(&lower))
        .or_else(|| special(&lower))
        .or_else(|| endpoint(&lower))
        .or_else(|| name(&lower))
}

/// An address with a netmask or a Cisco wildcard, or a prefix with host bits set.
fn masked(entry: &str) -> Option<String> {
    let (address, mask) = entry.split_once(['/', ' ', '\\'])?;
    let mask = mask.trim().trim_start_matches("mask").trim();
    let address: IpAddr = plain(address)?;
    let length = match (mask.parse::<u8>(), mask.parse::<Ipv4Addr>()) {
        (Ok(length), _) => length,
        (_, Ok(mask)) => {
            let mask = IpAddr::V4(mask);
            let wildcard = |mask: IpAddr| match mask {
                IpAddr::V4(mask) => IpAddr::V4(Ipv4Addr::from(!mask.to_bits())),
                other => other,
            };
            ipnet::ip_mask_to_prefix(mask).or_else(|_| ipnet::ip_mask_to_prefix(wildcard(mask))).ok()?
        }
        _ => return None,
    };
    let net = IpNet::new(address, length).ok()?.trunc();
    Some(match net.addr() == address {
        true => net.to_string(),
        false => format!("{net} for the network, and {address} for one address"),
    })
}

/// An address, possibly with leading zeros in its numbers.
fn plain(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches(['[', ']']);
    text.parse().ok().or_else(|| {
        let octets: Option<Vec<u8>> = text.split('.').map(|octet| octet.parse().ok()).collect();
        <[u8; 4]>::try_from(octets?).ok().map(|octets| IpAddr::V4(octets.into()))
    })
}

/// `10/8`, `10.0.0.*`, `192.168.`, `010.0.0.1`, `[fd00::1]`.
fn shortened(entry: &str) -> Option<String> {
    if let Some(address) = plain(entry)
        && (address.is_ipv4() || entry.starts_with('['))
        && address.to_string() != entry
    {
        return Some(address.to_string());
    }
    let (numbers, length) = match entry.split_once('/') {
        Some((numbers, length)) => (numbers, Some(length.parse::<u8>().ok()?)),
        None => (entry, None),
    };
    let known = numbers.trim_end_matches(['*', '.', 'x']);
    let octets: Option<Vec<u8>> = known.split('.').map(|octet| octet.parse().ok()).collect();
    let octets =
        octets.filter(|octets| (1..4).contains(&octets.len()) && (length.is_some() || known != entry))?;
    let mut address = [0; 4];
    address[..octets.len()].copy_from_slice(&octets);
    let length = length.unwrap_or(octets.len() as u8 * 8);
    Some(Ipv4Net::new(address.into(), length).ok()?.trunc().to_string())
}

/// A range of addresses, as prefixes.
fn span(entry: &str) -> Option<String> {
    /// The maximum number of prefixes that are shown.
    const MOST: usize = 8;
    let (first, last) = entry.split_once("..").or_else(|| entry.split_once('-'))?;
    let nets: Vec<String> = match (plain(first)?, plain(last)?) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Ipv4Subnets::new(first, last, 0).map(|net| net.to_string()).take(MOST + 1).collect()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Ipv6Subnets::new(first, last, 0).map(|net| net.to_string()).take(MOST + 1).collect()
        }
        _ => return None,
    };
    match nets.len() {
        0 => None,
        1..=MOST => Some(format!("the prefixes of that range, {}", nets.join(","))),
        _ => Some(format!("the prefixes of that range; it begins with {}", nets[..3].join(","))),
    }
}

/// Addresses that no packet comes from; another one was meant.
fn special(entry: &str) -> Option<String> {
    match entry.parse::<IpAddr>().ok()? {
        address if address.is_unspecified() => Some(format!("{address}/0 for every address of that family")),
        IpAddr::V6(address) if address.to_bits() >> 32 == 0 => {
            let address = Ipv4Addr::from_bits(address.to_bits() as u32);
            Some(format!("{address}, the IPv4 address"))
        }
        _ => None,
    }
}

/// An address with a port.
fn endpoint(entry: &str) -> Option<String> {
    let (address, port) = entry.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let address = plain(address)?;
    Some(format!("{address} here, for all ports; ExemptPorts exempts ports of this machine, for all remotes"))
}

/// A host name or a link-layer address.
fn name(entry: &str) -> Option<String> {
    let name = entry.contains('.') || !entry.contains([':', '/']);
    let letters = entry.chars().any(|letter| letter.is_ascii_alphabetic());
    (name && letters).then(|| "the host's addresses; names are not resolved".to_owned())
}

fn interface(entry: &str) -> Option<String> {
    /// Interface indexes are smaller than this.
    const INDEX: u64 = 1 << 24;
    let what = match entry.parse::<u64>() {
        Ok(0) => return None,
        Ok(index) if index < INDEX => "an interface's index",
        Ok(_) => return None,
        Err(_) if entry.starts_with("0x") => return None,
        Err(_) if entry.starts_with('{') || entry.split('-').count() == 5 => "an interface's GUID",
        Err(_) if [':', '-'].iter().any(|sign| entry.split(*sign).count() == 6) => "a MAC address",
        Err(_) if entry.parse::<IpAddr>().is_ok() => "an address",
        Err(_) if entry.chars().any(char::is_alphabetic) => "an interface's name",
        Err(_) => return None,
    };
    Some(format!("the LUID, not {what}. Get-NetAdapter shows it as NetLuid"))
}

/// Names and numbers that Windows' tools have for profiles.
fn profile(entry: &str) -> Option<String> {
    if is_everything(entry) {
        return Some("domain,private,public".to_owned());
    }
    let written = match entry.to_ascii_lowercase().as_str() {
        "1" => "public",
        "2" | "work" | "home" | "standard" | "trusted" => "private",
        "3" | "domainauthenticated" => "domain",
        _ => return None,
    };
    Some(written.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/CONFIGURATION.md lists the forms for readers.
    #[test]
    fn the_documents_forms_are_known() {
        let document = include_str!("../../../../docs/CONFIGURATION.md");
        let (_, rows) = document.split_once("| you may know | write |\n|---|---|\n").unwrap();
        let codes = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let mut seen = 0;
        for row in rows.lines().take_while(|line| line.starts_with('|')) {
            let (known, write) = row.trim_matches(['|', ' ']).split_once(" | ").unwrap();
            for form in codes(known) {
                let lists = ["ExemptPorts", "ExemptPrefixes"];
                let advice: Vec<_> = lists.iter().filter_map(|list| instead(list, &form)).collect();
                let written = codes(write);
                let agrees =
                    |advice: &String| written.is_empty() || written.iter().any(|one| advice.contains(one));
                assert!(advice.iter().any(agrees), "{form}: {advice:?}, {written:?}");
                seen += 1;
            }
        }
        assert!(seen > 12, "{seen}");
    }
}
