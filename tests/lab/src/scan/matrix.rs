//! Scans every world with every nmap technique and checks the results.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use comfy_table::{ContentArrangement, Table};
use machine::host::{self, Application};
use machine::nt::registry::RegistryValue;
use machine::wfp::SilentDrop;
use machine::wire::Family;

use crate::explain::Firewall;
use crate::scan::scanned::Scanned;
use crate::scan::{self, States, Technique};
use crate::variants::Variant;
use crate::world::{Near, Plan};

const HTTP: u16 = 80;
const ECHO: u16 = 7;
/// Closed ports that are exempt in some cases, one of TCP and one of UDP.
const EXEMPT: [u16; 2] = [113, 9999];
const BODY: usize = 20_000;

/// A world to scan, and the scans.
#[derive(Clone, Debug)]
pub struct Case {
    /// `Mode` of the driver's policy.
    pub mode: u32,
    /// `SilenceEcho`.
    pub silence_echo: bool,
    /// Whether `ExemptPorts` has some of the closed ports.
    pub exempt: bool,
    /// Windows Firewall, if it is there.
    pub firewall: Option<Firewall>,
    /// The variants of the world.
    pub variants: Vec<&'static Variant>,
    /// The techniques.
    pub techniques: Vec<Technique>,
    /// The address families.
    pub families: Vec<Family>,
}

impl Case {
    /// The base world, scanned with everything but `-O`.
    pub fn base(mode: u32) -> Self {
        let techniques = Technique::ALL.into_iter().filter(|technique| *technique != Technique::Os).collect();
        let families = Family::BOTH.to_vec();
        Self {
            mode,
            silence_echo: false,
            exempt: false,
            firewall: None,
            variants: Vec::new(),
            techniques,
            families,
        }
    }

    /// The base world with variants. Those of Windows Firewall's callout show only beside
    /// Windows Firewall.
    pub fn of(mode: u32, variants: Vec<&'static Variant>) -> Self {
        let case = Self { variants, ..Self::base(mode) };
        let has_firewall = case.silent_drop() != SilentDrop::default();
        Self { firewall: has_firewall.then(Firewall::on), ..case }
    }

    fn silent_drop(&self) -> SilentDrop {
        let mut plan = Plan::default();
        self.variants.iter().for_each(|variant| variant.turn(&mut plan));
        plan.engine.silent_drop
    }

    /// The world with this driver.
    pub fn plan<'a>(&self, sys: &'a Path) -> Plan<'a> {
        let values = [("Mode", self.mode), ("SilenceEcho", self.silence_echo.into())];
        let values = values.map(|(name, number)| (name.to_owned(), RegistryValue::dword(number)));
        let mut values = values.to_vec();
        if self.exempt {
            let ports = EXEMPT.map(|port| port.to_string());
            values.push(("ExemptPorts".into(), RegistryValue::multi_sz(ports)));
        }
        let listen = vec![(HTTP, Application::Http)];
        let firewall = self.firewall.clone();
        let mut plan =
            Plan { driver: Some(sys), values, listen, datagrams: vec![ECHO], firewall, ..Plan::default() };
        for variant in &self.variants {
            variant.turn(&mut plan);
        }
        plan
    }

    /// The name in the matrix.
    pub fn name(&self) -> String {
        let mut name = format!("Mode {}", self.mode);
        if self.silence_echo {
            name += ", SilenceEcho 1";
        }
        if self.exempt {
            let [tcp, udp] = EXEMPT;
            name = format!("{name}, exempt {tcp}, {udp}");
        }
        if self.firewall.is_some() {
            let stealth = if self.firewall_is_stealthy() { "on" } else { "off" };
            name = format!("{name}, Windows Firewall's stealth {stealth}");
        }
        for variant in &self.variants {
            name = format!("{name}, {}", variant.name);
        }
        name
    }

    /// Whether the driver suppresses RSTs and whether it suppresses ICMP errors.
    fn driver_silences(&self) -> [bool; 2] {
        let enforced = self.mode == 2;
        [
            enforced && !self.overrules_tcp(),
            enforced && self.variants.iter().all(|variant| variant.icmp_can_be_silent),
        ]
    }

    /// Whether another filter lets RSTs be sent, whatever the driver decides.
    fn overrules_tcp(&self) -> bool {
        self.variants.iter().any(|variant| !variant.tcp_can_be_silent)
    }

    fn firewall_is_stealthy(&self) -> bool {
        let public = host::Options::default().profile;
        self.firewall.as_ref().is_some_and(|firewall| firewall.is_stealthy(public))
    }

    /// Whether nothing answers for a port or protocol: no RST, no ICMP error.
    fn silent(&self, number: u16) -> [bool; 2] {
        let is_exempt = self.exempt && EXEMPT.contains(&number);
        let driver = self.driver_silences().map(|silences| silences && !is_exempt);
        // By default Windows' callout drops what found no endpoint, not what a listener
        // refuses.
        let stealth = self.firewall_is_stealthy();
        let everything = self.silent_drop() == SilentDrop::Everything;
        [driver[0] || stealth && (number != HTTP || everything), driver[1] || stealth]
    }
}

/// The ports or protocols to scan: one that answers under any policy, and some
/// without an endpoint.
fn numbers(technique: Technique, family: Family) -> &'static [u16] {
    match (technique, family) {
        (Technique::Udp, _) => &[ECHO, 53, 9999],
        (Technique::Protocol, Family::V4) => &[1, 17, 47, 253],
        (Technique::Protocol, Family::V6) => &[17, 47, 58, 253],
        (Technique::Ping, _) => &[0],
        _ => &[22, HTTP, 113],
    }
}

/// The expected state of a port or protocol.
///
/// If the host answers, Windows' RST means `closed`. For an ACK it means
/// `unfiltered`, which shows nothing more, and a listener's port sends it, too, for
/// any flags that do not open a connection (RFC 9293, 3.10.7.2; NULL, FIN and Xmas
/// as Windows answers them). If the host is silent, nmap reports `filtered` if
/// every host must answer, otherwise `open|filtered`.
fn expected(technique: Technique, number: u16, case: &Case) -> &'static str {
    let [tcp, icmp] = case.silent(number);
    match technique {
        Technique::Syn | Technique::Connect if number == HTTP => "open",
        Technique::Udp if number == ECHO => "open",
        // The stock rules of Windows Firewall block echo requests. nmap takes any ICMP
        // error over IPv4 as a sign of ICMP.
        Technique::Ping if case.firewall.is_some() => "down",
        Technique::Protocol if number == 58 && case.firewall.is_some() => "open|filtered",
        Technique::Protocol if number == 1 && case.firewall.is_some() && icmp => "open|filtered",
        Technique::Protocol if [1, 58].contains(&number) => "open",
        Technique::Syn | Technique::Connect | Technique::Ack | Technique::Window if tcp => "filtered",
        Technique::Maimon | Technique::Null | Technique::Fin | Technique::Xmas if tcp => "open|filtered",
        Technique::Ack => "unfiltered",
        Technique::Syn
        | Technique::Connect
        | Technique::Window
        | Technique::Maimon
        | Technique::Null
        | Technique::Fin
        | Technique::Xmas => "closed",
        Technique::Udp | Technique::Protocol if icmp => "open|filtered",
        // UDP itself sends port unreachable.
        Technique::Protocol if number == 17 => "open",
        Technique::Udp | Technique::Protocol => "closed",
        Technique::Ping if case.silence_echo && case.mode == 2 => "down",
        Technique::Ping => "up",
        Technique::Os if tcp => "none",
        Technique::Os => "closed",
    }
}

/// One scan.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Cell {
    pub technique: Technique,
    pub family: Family,
    pub seen: States,
    pub expected: States,
    /// RSTs on the wire during the scan.
    pub resets: usize,
    pub unreachables: usize,
    /// Whether RSTs and whether ICMP errors may be on the wire.
    may_answer: [bool; 2],
}

impl Cell {
    /// Whether the states and the packets on the wire are as expected.
    pub fn holds(&self) -> bool {
        let [tcp, icmp] = self.may_answer;
        self.seen == self.expected && (tcp || self.resets == 0) && (icmp || self.unreachables == 0)
    }

    fn text(&self) -> String {
        let mut text = summary(&self.seen);
        if self.resets > 0 {
            text = format!("{text}; {} RST", self.resets);
        }
        if self.unreachables > 0 {
            text = format!("{text}; {} ICMP", self.unreachables);
        }
        if !self.holds() {
            text = format!("{text} DIFFERS, expected {}", summary(&self.expected));
        }
        text
    }
}

/// A summary such as `open 80, closed 22 113`.
fn summary(states: &States) -> String {
    let mut numbers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (number, state) in states {
        let known = numbers.entry(state).or_default();
        known.extend((*number != 0).then(|| number.to_string()));
    }
    let parts = numbers.iter().rev().map(|(state, numbers)| format!("{state} {}", numbers.join(" ")));
    parts.map(|part| part.trim_end().to_owned()).collect::<Vec<_>>().join(", ")
}

/// A case with its scans and other faults.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The case.
    pub case: Case,
    /// The scans.
    pub cells: Vec<Cell>,
    /// Faults besides the scans.
    pub faults: Vec<String>,
    /// The number of answers that each layer's callout suppressed, from the
    /// driver's counters; layers are named without family.
    pub silenced: BTreeMap<&'static str, u64>,
}

impl Outcome {
    /// Whether everything is as expected.
    pub fn holds(&self) -> bool {
        self.faults.is_empty() && self.cells.iter().all(Cell::holds)
    }

    /// A table with one line for each technique.
    pub fn table(&self, preset: &str) -> String {
        let mut table = Table::new();
        table.load_preset(preset).set_content_arrangement(ContentArrangement::Disabled);
        let families = &self.case.families;
        table.set_header(["nmap".to_owned()].into_iter().chain(families.iter().map(ToString::to_string)));
        for technique in &self.case.techniques {
            let cell = |family: &Family| {
                let mut cells = self.cells.iter();
                let cell = cells.find(|cell| cell.technique == *technique && cell.family == *family);
                cell.map_or_else(String::new, |cell| cell.text().replace('|', "/"))
            };
            table.add_row([technique.option().to_owned()].into_iter().chain(families.iter().map(cell)));
        }
        let lines = table.to_string();
        lines.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// Runs cases, some at a time, because nmap mostly waits. `start` makes the world of the
/// case with a number. The results are in order.
pub fn run<W: Scanned>(
    cases: &[Case],
    workers: usize,
    start: impl Fn(usize, &Case) -> Result<W> + Sync,
) -> Vec<Result<Outcome>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((index, case)) = Some(next.fetch_add(1, Ordering::SeqCst))
                    .and_then(|index| Some((index, cases.get(index)?)))
                {
                    let outcome = start(index, case).and_then(|world| play(world, case));
                    let outcome = outcome.with_context(|| case.name());
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(index, outcome);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_values().collect()
}

/// Scans a case's world, fetches a page, and unloads the driver.
fn play(mut world: impl Scanned, case: &Case) -> Result<Outcome> {
    let (mut cells, mut faults) = (Vec::new(), Vec::new());
    for &family in &case.families {
        for &technique in &case.techniques {
            let numbers = numbers(technique, family);
            let list: Vec<_> = numbers.iter().map(ToString::to_string).collect();
            let before = [world.resets(family)?, world.unreachables(family)?];
            let seen = scan::states_by(&world, family, technique, &list.join(","))?;
            let states = match technique {
                Technique::Os => &[0],
                _ => numbers,
            };
            cells.push(Cell {
                technique,
                family,
                seen,
                expected: states.iter().map(|n| (*n, expected(technique, *n, case).to_owned())).collect(),
                resets: world.resets(family)?.saturating_sub(before[0]),
                unreachables: world.unreachables(family)?.saturating_sub(before[1]),
                may_answer: [0, 1].map(|kind| states.iter().any(|number| !case.silent(*number)[kind])),
            });
        }
    }
    // Read before the exchange through the open port: on a busy machine a
    // retransmitted FIN may come after the connection is gone, and is then rightly
    // silenced.
    let silenced = world.counted("Silenced")?;
    // The driver must count Overruled in worlds that overrule it, and only there. Mode 1
    // counts what Mode 2 would.
    let overruled: u64 = world.counted("Overruled")?.values().sum();
    if (case.mode != 0 && case.overrules_tcp()) != (overruled > 0) {
        faults.push(format!("the driver counts Overruled {overruled} times"));
    }
    for &family in &case.families {
        let fetched = fetch(&world, family)?;
        if fetched != BODY {
            faults.push(format!("{family}: {fetched} of {BODY} bytes through port {HTTP}"));
        }
    }
    faults.extend(world.end()?);
    Ok(Outcome { case: case.clone(), cells, faults, silenced })
}

/// Fetches a page through the open port. Returns the number of bytes.
fn fetch(world: &impl Near, family: Family) -> Result<usize> {
    let mut curl = Command::new("curl");
    let address = SocketAddr::new(world.network().host_address(family), HTTP);
    let url = format!("http://{address}/bytes/{BODY}");
    curl.args(["--silent", "--max-time", "10", &url]);
    Ok(world.namespace().output(curl)?.stdout.len())
}
