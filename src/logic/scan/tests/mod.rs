//! Simulated scans, floods and slow remotes.

mod estimates;
mod floods;
mod reports;

use core::net::{Ipv4Addr, Ipv6Addr};

use super::*;

const WINDOW: u32 = 10_000;
/// The interval between sweeps.
const TICK: u64 = WINDOW as u64 / 8;
const SETTINGS: Settings = Settings { ports: 16, seed: Seed::new(mix(0x5eed, 0)) };

/// The tables of several processors, and what was reported.
struct World<const SETS: usize, const CELLS: usize> {
    tables: Vec<Box<Table<SETS, CELLS>>>,
    window_ms: u32,
    settings: Settings,
    spans: Spans,
    next_sweep: u64,
    scans: Vec<(u64, Scan)>,
}

/// At most as many remotes as in the driver's table.
type Small = World<16, 256>;

impl<const SETS: usize, const CELLS: usize> World<SETS, CELLS> {
    fn new(processors: usize, settings: Settings) -> Self {
        Self {
            tables: (0..processors).map(|_| Box::new(Table::empty())).collect(),
            window_ms: WINDOW,
            settings,
            spans: Spans::new(0, WINDOW),
            next_sweep: 0,
            scans: Vec::new(),
        }
    }

    fn starting(mut self, span: u32, now: u64) -> Self {
        self.next_sweep = now;
        self.spans = Spans { number: span.into(), window_ms: WINDOW.into(), began_ms: now.into() };
        self
    }

    /// Sweeps when a sweep is due.
    fn pass(&mut self, now: u64) {
        while self.next_sweep <= now {
            let (at, mut found) = (self.next_sweep, Vec::new());
            let span = self.spans.advance_to(at, self.window_ms);
            let table = |number: usize| Some(&**self.tables.get(number)?);
            sweep(table, span, &self.settings, |scan| found.push((at, scan)));
            self.scans.extend(found);
            self.next_sweep += TICK;
        }
    }

    fn meet(&mut self, processor: usize, remote: Remote, port: u16, now: u64) {
        self.pass(now);
        let span = self.spans.current();
        let met = Encounter { remote, port, technique: Technique::Syn };
        self.tables[processor].meet(&met, span, self.settings.seed);
    }

    fn prove(&mut self, processor: usize, remote: Remote, now: u64) {
        self.pass(now);
        self.tables[processor].prove(remote, self.spans.current(), self.settings.seed);
    }

    fn reports_of(&self, remote: Remote) -> usize {
        self.scans.iter().filter(|(_, scan)| scan.remote == remote).count()
    }
}

fn v4(number: u32) -> Remote {
    Ipv4Addr::from_bits(number).into()
}

const SCANNER: Remote = Remote(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).to_bits());

/// nmap shuffles the ports (`--randomize-ports` is the default).
fn shuffled(count: u16, seed: u64) -> Vec<u16> {
    let mut ports: Vec<u16> = (1..=count).collect();
    // Not with the key of the tables' hash.
    ports.sort_by_key(|port| mix((*port).into(), seed + (1 << 40)));
    ports
}
