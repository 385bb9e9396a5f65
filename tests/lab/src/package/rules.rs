//! The rules that the INF of a primitive callout driver must keep.
//!
//! Sources, all Microsoft Learn: "Creating a Primitive Driver", "Using a Universal
//! INF File", "Driver Package Isolation", "INF Version Section", "INF AddService
//! Directive", "INF AddReg Directive". Only sections and directives that such an
//! INF needs are allowed. So everything that a declarative INF forbids is refused
//! (ClassInstall32, co-installers, DelReg, DelFiles, DelService, BitReg, …), and
//! everything unknown, too.

use std::collections::BTreeSet;
use std::fmt;

use super::inf::{Inf, Line, Section, Token};

/// The class of callout drivers (SETUP_CLASS_WFPCALLOUTS).
pub const CLASS: (&str, &str) = ("WFPCALLOUTS", "{57465043-616C-6C6F-7574-5F636C617373}");

/// DIRID 13, the folder of the package in the driver store. The files of an
/// isolated package run only from there.
const DRIVER_STORE: u32 = 13;

/// FLG_ADDREG_NOCLOBBER: an existing value is kept.
const NO_CLOBBER: u32 = 2;
/// FLG_ADDREG_TYPE_DWORD and FLG_ADDREG_TYPE_MULTI_SZ (setupapi.h).
const DWORD: u32 = 0x0001_0001;
const MULTI_SZ: u32 = 0x0001_0000;
/// FLG_ADDREG_TYPE_EXPAND_SZ.
const EXPAND_SZ: u32 = 0x0002_0000;

/// The values of an event source, with their flags.
const EVENT_SOURCE: [(&str, u32); 4] = [
    ("EventMessageFile", EXPAND_SZ),
    ("CategoryMessageFile", EXPAND_SZ),
    ("CategoryCount", DWORD),
    ("TypesSupported", DWORD),
];
/// EVENTLOG_ERROR_TYPE, _WARNING_TYPE and _INFORMATION_TYPE (winnt.h).
const ALL_TYPES: u32 = 7;

/// The rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// `[Version]` has each of its lines once, with the required value.
    Version,
    /// DriverVer is a date and a version of four numbers, each at most 65535.
    DriverVer,
    /// No `[Manufacturer]`, because a primitive driver has no devices.
    NoDevices,
    /// DefaultInstall and its Services, once each, decorated with the
    /// architecture; no DefaultUninstall.
    Decoration,
    /// Only sections and directives that such an INF needs.
    Declarative,
    /// Every section that is referenced exists, and every section that exists is
    /// referenced.
    Reference,
    /// Every string token is defined, and every string is used.
    Token,
    /// Every file is copied from the media to DIRID 13 only.
    File,
    /// The service is a kernel driver that is started from DIRID 13.
    Service,
    /// The event source: message files from DIRID 13, a number of categories, and all
    /// types of entries.
    EventSource,
    /// AddReg: HKR, below Parameters, typed, never overwrites an administrator's
    /// value.
    Registry,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 11] = [
        Self::Version,
        Self::DriverVer,
        Self::NoDevices,
        Self::Decoration,
        Self::Declarative,
        Self::Reference,
        Self::Token,
        Self::File,
        Self::Service,
        Self::Registry,
        Self::EventSource,
    ];
}

/// A violation of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The rule.
    pub rule: Rule,
    /// The line; 0 for the whole file.
    pub line: usize,
    /// The reason.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {:?}: {}", self.line, self.rule, self.what)
    }
}

/// Every violation in a stamped INF for one architecture (`amd64`, `arm64`).
pub fn check(inf: &Inf, architecture: &str) -> Vec<Fault> {
    let install = format!("DefaultInstall.NT{architecture}");
    let services = format!("{install}.Services");
    let mut check = Check { inf, install, services, named: BTreeSet::new(), faults: Vec::new() };
    check.version();
    check.driver_ver();
    check.sections();
    check.files();
    check.services();
    check.orphans();
    check.tokens();
    check.faults
}

struct Check<'a> {
    inf: &'a Inf,
    install: String,
    services: String,
    /// Sections that are referenced, in lower case.
    named: BTreeSet<String>,
    faults: Vec<Fault>,
}

impl<'a> Check<'a> {
    fn fault(&mut self, rule: Rule, line: usize, what: impl Into<String>) {
        self.faults.push(Fault { rule, line, what: what.into() });
    }

    fn version(&mut self) {
        let expected = [
            ("Signature", Some("$WINDOWS NT$")),
            ("Class", Some(CLASS.0)),
            ("ClassGuid", Some(CLASS.1)),
            ("Provider", None),
            ("CatalogFile", None),
            ("DriverVer", None),
            ("PnpLockdown", Some("1")),
        ];
        self.directives("Version", &expected.map(|(key, _)| key), Rule::Version);
        for (key, value) in expected {
            let lines: Vec<&Line> =
                self.inf.section("Version").into_iter().flat_map(|section| section.entries(key)).collect();
            match lines[..] {
                [line] => {
                    let text = self.inf.expand(line.field(0)).unwrap_or_default();
                    let wanted = value.is_none_or(|value| text.eq_ignore_ascii_case(value));
                    if text.is_empty() || !wanted {
                        self.fault(Rule::Version, line.line, format!("{key} = {text}"));
                    }
                    if key == "CatalogFile" && !text.to_ascii_lowercase().ends_with(".cat") {
                        self.fault(Rule::Version, line.line, format!("{text} is not a catalog"));
                    }
                }
                _ => {
                    self.fault(Rule::Version, 0, format!("{key} occurs {} times, expected once", lines.len()))
                }
            }
        }
    }

    fn driver_ver(&mut self) {
        let Some(line) = self.inf.section("Version").and_then(|section| section.entries("DriverVer").next())
        else {
            return;
        };
        let date: Vec<Option<u16>> = line.field(0).split('/').map(|part| part.parse().ok()).collect();
        let date = match date[..] {
            [Some(month), Some(day), Some(year)] => der::DateTime::new(
                year,
                u8::try_from(month).unwrap_or(0),
                u8::try_from(day).unwrap_or(0),
                0,
                0,
                0,
            )
            .is_ok(),
            _ => false,
        };
        let parts: Vec<&str> = line.field(1).split('.').collect();
        if !date || line.fields.len() != 2 {
            self.fault(Rule::DriverVer, line.line, format!("{}: expected a date mm/dd/yyyy", line.field(0)));
        }
        if parts.len() != 4 || parts.iter().any(|part| part.parse::<u16>().is_err()) {
            self.fault(Rule::DriverVer, line.line, format!("{}: expected a version w.x.y.z", line.field(1)));
        }
    }

    /// The sections that no other section references.
    fn sections(&mut self) {
        for name in ["Version", "SourceDisksNames", "SourceDisksFiles", "DestinationDirs", "Strings"] {
            self.names(name, 0);
        }
        for name in [self.install.clone(), self.services.clone()] {
            if self.inf.section(&name).is_none() {
                self.fault(Rule::Decoration, 0, format!("expected a section [{name}]"));
            }
            self.named.insert(name.to_ascii_lowercase());
        }
        for section in &self.inf.sections {
            let name = section.name.to_ascii_lowercase();
            let root = name.split('.').next().unwrap_or_default();
            if root == "manufacturer" {
                self.fault(Rule::NoDevices, section.line, "a primitive driver has no [Manufacturer]");
            }
            if ["defaultinstall", "defaultuninstall"].contains(&root) && !self.named.contains(&name) {
                self.fault(Rule::Decoration, section.line, format!("[{}]", section.name));
            }
        }
        self.directives(&self.install.clone(), &["CopyFiles"], Rule::Declarative);
        self.directives(&self.services.clone(), &["AddService"], Rule::Declarative);
    }

    /// Checks that every line of a section has one of these keys.
    fn directives(&mut self, section: &str, known: &[&str], rule: Rule) {
        for line in self.inf.section(section).into_iter().flat_map(|section| &section.lines) {
            let key = line.key.as_deref().unwrap_or_default();
            if !known.iter().any(|known| known.eq_ignore_ascii_case(key)) {
                self.fault(rule, line.line, format!("[{section}] must not have {key}"));
            }
        }
    }

    /// A section that a line references.
    fn names(&mut self, name: &str, line: usize) -> Option<&'a Section> {
        self.named.insert(name.to_ascii_lowercase());
        let section = self.inf.section(name);
        if section.is_none() {
            self.fault(Rule::Reference, line, format!("the section [{name}] does not exist"));
        }
        section
    }

    fn files(&mut self) {
        let inf = self.inf;
        let lists: Vec<(usize, &str)> = inf
            .section(&self.install)
            .into_iter()
            .flat_map(|section| section.entries("CopyFiles"))
            .flat_map(|line| line.fields.iter().map(|field| (line.line, field.as_str())))
            .collect();
        let mut copied = BTreeSet::new();
        for (line, list) in lists {
            let destination =
                inf.value("DestinationDirs", list).or(inf.value("DestinationDirs", "DefaultDestDir"));
            if destination.and_then(|text| text.parse().ok()) != Some(DRIVER_STORE) {
                self.fault(
                    Rule::File,
                    line,
                    format!("{list} goes to {destination:?}, expected {DRIVER_STORE}"),
                );
            }
            for entry in self.names(list, line).into_iter().flat_map(|section| &section.lines) {
                let file = entry.field(0);
                copied.insert(file.to_ascii_lowercase());
                if entry.key.is_some() || entry.fields.len() != 1 {
                    self.fault(Rule::File, entry.line, "expected only the name of a file");
                }
                match inf.value("SourceDisksFiles", file) {
                    Some(disk) if inf.value("SourceDisksNames", disk).is_some() => {}
                    disk => self.fault(Rule::File, entry.line, format!("{file} comes from disk {disk:?}")),
                }
            }
        }
        for line in inf.section("SourceDisksFiles").into_iter().flat_map(|section| &section.lines) {
            let file = line.key.as_deref().unwrap_or_default();
            if !copied.contains(&file.to_ascii_lowercase()) {
                self.fault(Rule::File, line.line, format!("{file} is never copied"));
            }
        }
    }

    fn services(&mut self) {
        let lines: Vec<&Line> =
            self.inf.section(&self.services).into_iter().flat_map(|s| s.entries("AddService")).collect();
        if lines.len() != 1 {
            self.fault(Rule::Service, 0, format!("{} services", lines.len()));
        }
        for line in lines {
            // SPSVCINST_ASSOCSERVICE (2) is for a device's function driver.
            if !line.field(1).is_empty() || line.fields.len() != 4 {
                self.fault(Rule::Service, line.line, "expected name,, section, section of the event log");
            }
            self.event_source(line);
            let Some(service) = self.names(line.field(2), line.line) else { continue };
            self.service(service);
            for entry in service.entries("AddReg") {
                for name in &entry.fields {
                    for value in self.names(name, entry.line).into_iter().flat_map(|section| &section.lines) {
                        self.registry(value);
                    }
                    self.twice(name);
                }
            }
        }
    }

    fn service(&mut self, service: &Section) {
        let name = service.name.as_str();
        let known = [
            "DisplayName",
            "Description",
            "ServiceType",
            "StartType",
            "ErrorControl",
            "ServiceBinary",
            "AddReg",
        ];
        self.directives(name, &known, Rule::Declarative);
        // SERVICE_KERNEL_DRIVER, any start type but SERVICE_DISABLED, and no error
        // control that keeps the machine from starting.
        for (key, allowed) in [("ServiceType", 1..=1), ("StartType", 0..=3), ("ErrorControl", 0..=1)] {
            match self.inf.value(name, key).map(number) {
                Some(Some(number)) if allowed.contains(&number) => {}
                value => self.fault(Rule::Service, service.line, format!("{key} is {value:?}")),
            }
        }
        for key in ["DisplayName", "Description"] {
            if self
                .inf
                .value(name, key)
                .and_then(|text| self.inf.expand(text))
                .is_none_or(|text| text.is_empty())
            {
                self.fault(Rule::Service, service.line, format!("no {key}"));
            }
        }
        let binary = self.inf.value(name, "ServiceBinary").unwrap_or_default();
        if self.stored_file(binary).is_none() {
            self.fault(Rule::Service, service.line, format!("ServiceBinary = {binary}"));
        }
    }

    /// The path of a file that is copied to the driver store, in a field.
    fn stored_file<'t>(&self, field: &'t str) -> Option<&'t str> {
        let file = match Token::split(field)[..] {
            [Token::Directory(DRIVER_STORE), Token::Text(path)] => path.strip_prefix('\\'),
            _ => None,
        };
        file.filter(|file| self.inf.value("SourceDisksFiles", file).is_some())
    }

    /// The section of the event log that AddService names ("Registering for Event
    /// Logging" on the page of AddService).
    fn event_source(&mut self, service: &Line) {
        let Some(section) = self.names(service.field(3), service.line) else { return };
        self.directives(&section.name, &["AddReg"], Rule::Declarative);
        for name in section.entries("AddReg").flat_map(|entry| &entry.fields) {
            let Some(values) = self.names(name, section.line) else { continue };
            self.twice(name);
            for (value, flags) in EVENT_SOURCE {
                let of_name = |line: &&Line| line.field(2).eq_ignore_ascii_case(value);
                let Some(line) = values.lines.iter().find(of_name) else {
                    self.fault(Rule::EventSource, values.line, format!("no {value}"));
                    continue;
                };
                let has_type = line.key.is_none()
                    && line.field(0).eq_ignore_ascii_case("HKR")
                    && line.field(1).is_empty()
                    && line.fields.len() == 5
                    && number(line.field(3)) == Some(flags);
                let is_right = match flags {
                    EXPAND_SZ => self.stored_file(line.field(4)).is_some(),
                    _ if value == "TypesSupported" => number(line.field(4)) == Some(ALL_TYPES),
                    _ => number(line.field(4)).is_some_and(|number| number > 0),
                };
                if !has_type || !is_right {
                    self.fault(Rule::EventSource, line.line, format!("{value}: flags or value"));
                }
            }
            for line in &values.lines {
                if !EVENT_SOURCE.iter().any(|(value, _)| line.field(2).eq_ignore_ascii_case(value)) {
                    self.fault(Rule::EventSource, line.line, format!("{} is unknown", line.field(2)));
                }
            }
        }
    }

    fn registry(&mut self, line: &Line) {
        if line.key.is_some() || !line.field(0).eq_ignore_ascii_case("HKR") {
            self.fault(Rule::Registry, line.line, "expected HKR");
        }
        if line.field(1) != "Parameters" || line.field(2).is_empty() {
            self.fault(Rule::Registry, line.line, "expected a value below Parameters");
        }
        let flags = number(line.field(3)).unwrap_or(0);
        let typed = match flags & !NO_CLOBBER {
            DWORD => line.fields.len() == 5 && number(line.field(4)).is_some(),
            MULTI_SZ => true,
            _ => false,
        };
        if !typed || flags & NO_CLOBBER == 0 {
            self.fault(Rule::Registry, line.line, format!("{}: flags {flags:#x} or value", line.field(2)));
        }
    }

    fn twice(&mut self, section: &str) {
        let mut names = BTreeSet::new();
        for line in self.inf.section(section).into_iter().flat_map(|section| &section.lines) {
            if !names.insert(line.field(2).to_ascii_lowercase()) {
                self.fault(Rule::Registry, line.line, format!("{} occurs twice", line.field(2)));
            }
        }
    }

    /// Sections that nothing references: misspelled, or not allowed here.
    fn orphans(&mut self) {
        for section in &self.inf.sections {
            if !self.named.contains(&section.name.to_ascii_lowercase()) {
                self.fault(Rule::Declarative, section.line, format!("nothing references [{}]", section.name));
            }
        }
    }

    fn tokens(&mut self) {
        let mut used = BTreeSet::new();
        let sections =
            self.inf.sections.iter().filter(|section| !section.name.eq_ignore_ascii_case("Strings"));
        for line in sections.flat_map(|section| &section.lines) {
            for token in line.key.iter().chain(&line.fields).flat_map(|field| Token::split(field)) {
                match token {
                    Token::Name(name) if self.inf.string(name).is_none() => {
                        self.fault(Rule::Token, line.line, format!("%{name}% is not defined"));
                    }
                    Token::Name(name) => _ = used.insert(name.to_ascii_lowercase()),
                    Token::Text("%") => self.fault(Rule::Token, line.line, "a % without a closing one"),
                    _ => {}
                }
            }
        }
        for line in self.inf.section("Strings").into_iter().flat_map(|section| &section.lines) {
            let name = line.key.clone().unwrap_or_default();
            if !used.contains(&name.to_ascii_lowercase()) || line.fields.len() != 1 {
                self.fault(Rule::Token, line.line, format!("the string {name:?} is not used"));
            }
        }
    }
}

/// A number in an INF: decimal, or hexadecimal after 0x.
pub fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
