//! The driver's time is the capture's: it reports scans as it would have.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lab::hushport::{self, EVENT_PROVIDER};
use lab::report::{Page, trace_text};
use lab::setup::{self, Target};
use lab::trace::{self, Entry, Lines, Moment, Played, Replay, Scan, Survey, Witness, feed};
use machine::Machine;
use machine::etw::{Enable, Event, Filter, ZeroKeyword};
use machine::host::{Ends, OpenPoints, Record};
use machine::nt;
use machine::wfp::Engine;

use super::captures::*;

/// Packets with the time since the beginning.
type Timed = Vec<(Duration, Vec<u8>)>;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

/// nmap-like probes: `count` ports from 1000 on, from one remote.
#[derive(Clone, Copy)]
struct Probes {
    from: IpAddr,
    udp: bool,
    begin: Duration,
    apart: Duration,
    count: u16,
}

impl Probes {
    /// A fast SYN scan of the first family's host.
    fn fast() -> Self {
        Self { from: PEER[0], udp: false, begin: Duration::ZERO, apart: ms(1), count: 100 }
    }

    fn packets(&self) -> Timed {
        let host = HOST[usize::from(self.from.is_ipv6())];
        let source = at(self.from, 40_000);
        let probe = |number: u16| {
            let target = at(host, 1000 + number);
            let packet =
                if self.udp { udp(source, target, b"") } else { tcp(source, target, "S", (1, 0), b"") };
            (self.begin + self.apart * number.into(), packet)
        };
        (0..self.count).map(probe).collect()
    }
}

fn capture(scans: &[Probes]) -> Timed {
    ordered(scans.iter().flat_map(Probes::packets).collect())
}

fn ordered(mut packets: Timed) -> Timed {
    packets.sort_by_key(|(at, _)| *at);
    packets
}

/// A plan that names the host: a capture of probes alone does not show it.
fn plan_of_host() -> trace::Plan {
    trace::Plan { local: HOST.map(|host| host.to_string().parse().unwrap()).into(), ..plan() }
}

fn scans_of(file: &[u8], values: &[(&str, u32)]) -> (Vec<Scan>, Played) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture");
    std::fs::write(&path, file).unwrap();
    let mut machine = machine(values);
    let heard = Mutex::new(Vec::new());
    let listener = Box::new(|entry: &Entry<'_>| {
        if let Entry::Scan(scan) = entry {
            heard.lock().unwrap().push(Scan::clone(scan));
        }
        Ok(true)
    });
    let played = trace::play(&path, &plan_of_host(), machine.kernel(), Arc::new(|_| ()), listener).unwrap();
    let findings = machine.kernel().verifier().findings();
    assert!(findings.is_empty(), "{findings:?}");
    assert!(machine.stop().unwrap().is_empty());
    (heard.into_inner().unwrap(), played)
}

fn scans(packets: &Timed, values: &[(&str, u32)]) -> Vec<Scan> {
    scans_of(&timed(packets), values).0
}

/// Remote and techniques.
fn who(scans: &[Scan]) -> Vec<(IpAddr, String)> {
    scans.iter().map(|scan| (scan.remote, scan.technique_names())).collect()
}

#[test]
fn a_fast_scan_is_reported_at_the_next_sweep() {
    for (from, udp, technique) in
        [(PEER[0], false, "Syn"), (PEER[1], false, "Syn"), (PEER[0], true, "Udp"), (PEER[1], true, "Udp")]
    {
        let found = scans(&capture(&[Probes { from, udp, ..Probes::fast() }]), &[]);
        assert_eq!(who(&found), [(from, technique.to_owned())]);
        let Scan { at, ref time, ports, window_ms, dropped, .. } = found[0];
        // An eighth of the window of 10 s after the driver started, which was when the
        // capture began, and the millisecond for which the driver waits because its key
        // has just been written.
        assert_eq!((at, window_ms, dropped), (ms(1_251), 10_000, 0));
        assert_eq!(time, "2023-11-14T22:13:21.2510000Z");
        assert!((50..=200).contains(&ports), "{ports}");
    }
}

/// docs/CONFIGURATION.md: `ScanPorts` within `ScanWindowMs`, at most within one and a
/// half windows.
#[test]
fn a_slow_scan_is_reported_if_it_meets_enough_ports_within_the_window() {
    for (apart, count, reported) in [(300, 60, true), (1_050, 200, false), (3_600, 100, false)] {
        let slow = Probes { apart: ms(apart), count, ..Probes::fast() };
        let found = scans(&capture(&[slow]), &[]);
        assert_eq!(!found.is_empty(), reported, "{apart} ms apart: {found:?}");
        assert!(who(&found).iter().all(|who| *who == (PEER[0], "Syn".to_owned())));
    }
    // With a window of ten minutes it is a scan.
    let slow = Probes { apart: ms(3_600), count: 100, ..Probes::fast() };
    let found = scans(&capture(&[slow]), &[("ScanWindowMs", 600_000)]);
    assert_eq!(who(&found[..1]), [(PEER[0], "Syn".to_owned())]);
    assert!((ms(60_000)..=ms(130_000)).contains(&found[0].at), "{:?}", found[0]);
    // More ports than it meets.
    let found = scans(&capture(&[Probes { count: 20, ..Probes::fast() }]), &[("ScanPorts", 21)]);
    assert_eq!(found, []);
}

/// While it lasts, a scan is reported again every one and a half windows.
#[test]
fn a_long_scan_is_reported_again() {
    let long = Probes { apart: ms(100), count: 6_000, ..Probes::fast() };
    let found = scans(&capture(&[long]), &[]);
    assert!((38..=42).contains(&found.len()), "{} reports in 600 s", found.len());
    for pair in found.windows(2) {
        let apart = pair[1].at - pair[0].at;
        // A report holds for four spans of 3/8 of the window, and it may come late in one.
        assert!((ms(12_500)..=ms(17_500)).contains(&apart), "{apart:?}");
    }
}

/// A day of ordinary traffic: one exchange in a minute, and a datagram with its answer.
fn day() -> Timed {
    let minute = |number: u64| {
        let client = at(PEER[0], 20_000 + number as u16);
        let begin = Duration::from_secs(60 * number);
        let web = exchange(at(HOST[0], 80), client);
        let name = [udp(client, at(HOST[0], 53), b"question"), udp(at(HOST[0], 53), client, b"answer")];
        let packets = web.into_iter().chain(name);
        packets
            .enumerate()
            .map(move |(index, packet)| (begin + ms(20 * index as u64), packet))
            .collect::<Vec<_>>()
    };
    (0..24 * 60).flat_map(minute).collect()
}

#[test]
fn a_scan_spread_over_hours_is_found_in_a_day_of_traffic_if_the_window_is_long() {
    let other: IpAddr = Ipv4Addr::new(198, 51, 100, 7).into();
    let slow =
        Probes { from: other, udp: false, begin: hours(2), apart: Duration::from_secs(300), count: 96 };
    let fast = Probes { from: PEER[1], begin: hours(13), ..Probes::fast() };
    let packets = ordered([day(), slow.packets(), fast.packets()].concat());
    let began = Instant::now();
    let found = scans(&packets, &[]);
    assert_eq!(who(&found), [(PEER[1], "Syn".to_owned())]);
    assert!((hours(13)..=hours(13) + ms(1_251)).contains(&found[0].at), "{:?}", found[0]);
    let found = scans(&packets, &[("ScanWindowMs", 3_600_000), ("ScanPorts", 8)]);
    let remotes: BTreeSet<_> = found.iter().map(|scan| scan.remote).collect();
    assert_eq!(remotes, [other, PEER[1]].into());
    let first = found.iter().find(|scan| scan.remote == other).unwrap();
    assert!((hours(2)..hours(4)).contains(&first.at), "{first:?}");
    // It takes seconds; the machine may be busy.
    assert!(began.elapsed() < Duration::from_secs(300), "{:?}", began.elapsed());
}

/// Sleeps until a packet's time, as a live machine would get it.
struct RealTime(Instant);

impl Witness for RealTime {
    fn record(&mut self, _: &Record) -> anyhow::Result<()> {
        Ok(())
    }

    fn suppressed(&mut self, _: Duration, _: Ends) -> anyhow::Result<()> {
        Ok(())
    }

    fn time(&mut self, moment: Moment) -> anyhow::Result<()> {
        std::thread::sleep((self.0 + moment.at).saturating_duration_since(Instant::now()));
        Ok(())
    }
}

const SCANS: u64 = 0x8;

/// The scans that a driver on a machine with the host's time reports.
fn live(packets: &Timed, values: &[(&str, u32)]) -> Vec<(SocketAddr, String)> {
    let mut machine = hushport::machine(nt::Options::default());
    values.iter().for_each(|(name, value)| machine.set(name, *value));
    machine.start(&setup::build(Target::X64).unwrap().sys).unwrap();
    let filter = Filter { level: 0, any: SCANS, all: 0 };
    let enable = Enable { provider: EVENT_PROVIDER, filter, zero: ZeroKeyword::default() };
    let session = machine.kernel().trace(enable, None);
    let file = timed(packets);
    let mut survey = Survey::default();
    feed(&file[..], true, &mut survey).unwrap();
    let roles = survey.roles_given(plan_of_host().local);
    let engine = Arc::<Engine>::clone(machine.engine());
    let mut replay = Replay::new(engine, OpenPoints::default(), &survey, &roles, RealTime(Instant::now()));
    feed(&file[..], true, &mut replay).unwrap();
    let _ = replay.finish();
    std::thread::sleep(ms(500));
    let found = session.events().iter().map(remote_and_techniques).collect();
    drop(session);
    assert!(machine.stop().unwrap().is_empty());
    found
}

fn remote_and_techniques(event: &Event) -> (SocketAddr, String) {
    let Some(machine::etw::Value::Socket(remote)) = event.field("Remote") else { panic!("{event:?}") };
    (*remote, event.text("Techniques").replace(',', ", "))
}

/// The same packets, played and live. A remote is far from the limits in each case, so
/// that the moment at which the live driver looks does not matter.
#[test]
fn a_live_driver_reports_the_same() {
    let values = [("ScanWindowMs", 800)];
    let remote = |last: u8| IpAddr::from(Ipv4Addr::new(198, 51, 100, last));
    let packets = capture(&[
        Probes { from: remote(1), ..Probes::fast() },
        Probes { from: remote(2), udp: true, begin: ms(300), ..Probes::fast() },
        Probes { from: remote(3), apart: ms(15), count: 160, ..Probes::fast() },
        Probes { from: remote(4), apart: ms(160), count: 16, ..Probes::fast() },
        Probes { from: PEER[1], apart: ms(2), count: 60, begin: ms(1_000), ..Probes::fast() },
    ]);
    let of = |found: Vec<(IpAddr, String)>| found.into_iter().collect::<BTreeSet<_>>();
    let played = scans(&packets, &values);
    let live = live(&packets, &values);
    assert_eq!(of(who(&played)), of(live.iter().map(|(remote, text)| (remote.ip(), text.clone())).collect()));
    assert_eq!(of(who(&played)).len(), 4, "{played:?}");
    // The long scan is reported again.
    let again = |count: usize| (2..=3).contains(&count);
    assert!(again(played.iter().filter(|scan| scan.remote == remote(3)).count()), "{played:?}");
    assert!(again(live.iter().filter(|(from, _)| from.ip() == remote(3)).count()), "{live:?}");
}

/// What is left out in a gap changes nothing: packets for others fill it, which the
/// driver does not get.
#[test]
fn gaps_are_skipped_without_a_trace() {
    let foreign =
        udp(at(Ipv4Addr::new(203, 0, 113, 1).into(), 1), at(Ipv4Addr::new(203, 0, 113, 2).into(), 2), b"");
    let remote = |last: u8| IpAddr::from(Ipv4Addr::new(198, 51, 100, last));
    // The seed decides which ports share a bit of a remote (`logic::scan`). At each sweep
    // there are far fewer ports than a report needs, or far more.
    for gap in [ms(7), ms(1_249), ms(16_001), ms(41_277), ms(123_456), ms(777_077)] {
        let begin = ms(30) + gap;
        let packets = capture(&[
            Probes { from: remote(1), count: 10, ..Probes::fast() },
            // Ten old and thirty new ports.
            Probes { from: remote(1), begin, count: 40, ..Probes::fast() },
            Probes { from: remote(2), begin, apart: ms(40), count: 600, ..Probes::fast() },
        ]);
        let filled = (1..gap.as_secs()).map(|second| (Duration::from_secs(second), foreign.clone()));
        let filled = ordered(packets.iter().cloned().chain(filled).collect());
        let [skipped, filled] = [&packets, &filled].map(|packets| {
            let all = scans(packets, &[]);
            let mut all: Vec<_> = all.into_iter().map(|scan| (scan.at, scan.remote)).collect();
            // The seed decides the order of reports at one time.
            all.sort();
            all
        });
        assert_eq!(skipped, filled, "a gap of {gap:?}");
        assert!(skipped.iter().any(|(_, from)| *from == remote(2)), "{skipped:?}");
    }
}

/// Timestamps that no clock has: the scan is found, at the right time.
#[test]
fn strange_timestamps_do_not_hide_a_scan() {
    const DAY: u64 = 86_400;
    let probes = capture(&[Probes { apart: ms(100), count: 100, ..Probes::fast() }]);
    let plain = |at: Duration| Duration::from_secs(BEGIN) + at;
    let odd = |number: usize, at: Duration| if number % 7 == 3 { Duration::ZERO } else { plain(at) };
    let cases: [(&str, Vec<Duration>); 6] = [
        ("plain", probes.iter().map(|(at, _)| plain(*at)).collect()),
        ("all zero", vec![Duration::ZERO; 100]),
        ("from zero", probes.iter().map(|(at, _)| *at).collect()),
        ("some zero", probes.iter().enumerate().map(|(number, (at, _))| odd(number, *at)).collect()),
        (
            "years ahead in between",
            probes
                .iter()
                .enumerate()
                .map(|(number, (at, _))| {
                    let years = if (40..45).contains(&number) { 70 * 365 * DAY } else { 0 };
                    plain(*at) + Duration::from_secs(years)
                })
                .collect(),
        ),
        (
            "two captures in the wrong order",
            probes
                .iter()
                .enumerate()
                .map(
                    |(number, (at, _))| {
                        if number < 50 { plain(*at) + Duration::from_secs(DAY) } else { plain(*at) }
                    },
                )
                .collect(),
        ),
    ];
    for (what, stamps) in cases {
        let packets: Vec<_> =
            stamps.into_iter().zip(&probes).map(|(at, (_, packet))| (at, packet.clone())).collect();
        let (found, played) = scans_of(&stamped_pcap(&packets), &[]);
        assert_eq!(who(&found[..1]), [(PEER[0], "Syn".to_owned())], "{what}");
        assert!(found[0].at < ms(5_000), "{what}: {:?}", found[0]);
        assert!(played.tally.length() < ms(10_000), "{what}: {:?}", played.tally.length());
    }
}

/// Rate limits count the capture's seconds.
#[test]
fn rate_limits_follow_the_captures_time() {
    const MOST: u64 = 1000;
    const VERDICTS: u64 = 0x4;
    let in_a_second = Probes { apart: Duration::from_micros(300), count: 3_000, ..Probes::fast() };
    let spread = Probes { begin: Duration::from_secs(20), apart: ms(2), count: 3_000, ..Probes::fast() };
    for (probes, written) in [(in_a_second, MOST), (spread, 3_000)] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("capture");
        std::fs::write(&path, timed(&probes.packets())).unwrap();
        let mut machine = machine(&[]);
        let filter = Filter { level: 0, any: VERDICTS, all: 0 };
        let enable = Enable { provider: EVENT_PROVIDER, filter, zero: ZeroKeyword::default() };
        let session = machine.kernel().trace(enable, None);
        let listener = Box::new(|_: &Entry<'_>| Ok(true));
        trace::play(&path, &plan_of_host(), machine.kernel(), Arc::new(|_| ()), listener).unwrap();
        let events = session.events();
        let silenced = events.iter().filter(|event| event.name == "Silenced").count();
        assert_eq!(silenced as u64, written);
        drop(session);
        assert!(machine.stop().unwrap().is_empty());
    }
}

/// The waits of a machine with a time of its own, counted over a year.
#[test]
fn a_quiet_year_costs_nothing() {
    let mut machine: Machine = machine(&[]);
    let kernel = Arc::clone(machine.kernel());
    let waits = || kernel.call_count("ZwWaitForSingleObject");
    kernel.run_until(ms(10_000), ms(20_000));
    let before = waits();
    kernel.run_until(ms(20_000), ms(20_000));
    assert_eq!(waits() - before, 8 + 2, "every 1.25 s; the watchdog every 5 s");
    let before = waits();
    kernel.run_until(hours(365 * 24), ms(20_000));
    assert!((20..=23).contains(&(waits() - before)), "{}", waits() - before);
    assert_eq!(kernel.clock().since_start(), hours(365 * 24));
    assert!(machine.stop().unwrap().is_empty());
}

#[test]
fn text_json_and_page_show_scans() {
    let packets = capture(&[Probes { apart: ms(10), count: 3_000, ..Probes::fast() }]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture");
    std::fs::write(&path, timed(&packets)).unwrap();
    let mut machine = machine(&[]);
    let mut bytes = Vec::new();
    let mut lines = Lines::new(&mut bytes);
    let listener = Box::new(|entry: &Entry<'_>| lines.write(entry).map(|()| true));
    let played = trace::play(&path, &plan_of_host(), machine.kernel(), Arc::new(|_| ()), listener).unwrap();
    lines.finish(&played).unwrap();
    assert!(machine.stop().unwrap().is_empty());
    let json: Vec<serde_json::Value> =
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let reports: Vec<_> = json.iter().filter(|line| line["type"] == "scan").collect();
    assert!((2..=3).contains(&reports.len()), "{reports:?}");
    let first = reports[0];
    assert_eq!((&first["at"], &first["remote"]), (&1.251.into(), &PEER[0].to_string().into()));
    assert_eq!(first["time"], "2023-11-14T22:13:21.2510000Z");
    assert_eq!(first["techniques"], serde_json::json!(["Syn"]));
    assert!(first["ports"].as_u64().unwrap() >= 50, "{first}");
    let scans = &json.last().unwrap()["scans"];
    assert_eq!((&scans["known"], &scans["reports"]), (&true.into(), &reports.len().into()));
    assert_eq!(
        (&scans["scanners"][0]["remote"], &scans["scanners"][0]["reports"]),
        (&first["remote"], &scans["reports"])
    );
    let mut text = Vec::new();
    trace_text(&mut text, &played, &[]).unwrap();
    let text = String::from_utf8(text).unwrap();
    let line = text.lines().find(|line| line.contains("2023-11-14T22:13:21")).expect("the scan has a line");
    for part in ["1.251 to ", &PEER[0].to_string(), "Syn", "ports within 10 s"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let page = Page::of_capture("a capture", &played, &[]).html();
    let (_, section) = page.split_once("Scans that the driver reports").expect("the page has a section");
    assert!(section.contains(&format!("<th scope=\"row\">{}</th><td>2023-11-14T22:13:21", PEER[0])));
    assert!(section.contains("<td>Syn</td>"));
    // Without events nobody knows.
    let (found, played) = scans_of(&timed(&packets[..100]), &[("Trace", 0)]);
    assert_eq!((found, played.account.scans.known), (vec![], false));
    let mut text = Vec::new();
    trace_text(&mut text, &played, &[]).unwrap();
    assert!(String::from_utf8(text).unwrap().contains("unknown: the driver writes no events"));
}
