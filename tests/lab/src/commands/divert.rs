//! `cargo lab divert`: a handle of WinDivert from the shell.

use std::path::PathBuf;

use anyhow::Result;

use super::run::{self, fetched};
use super::{as_root, driver};
use crate::anydriver::Verdict;
use crate::anydriver::host::{self, Question};
use crate::divert::filter::{Direction, Protocol};
use crate::divert::{Diverting, Layer, Plan as DivertPlan, Wanted};
use crate::sandbox::{self, Job, inner};
use crate::setup::{self, Need};
use crate::world::apart::Apart;
use crate::world::{Plan, Service};

/// What the handle shows, and what becomes of it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// WinDivert64.sys 2.2 [default: that of PyPI's package pydivert, by its hash]
    #[arg(long, value_name = "WinDivert64.sys")]
    driver: Option<PathBuf>,
    /// The layer
    #[arg(long, value_enum, default_value_t)]
    layer: Layer,
    /// Only what arrives
    #[arg(long, conflicts_with = "outbound")]
    inbound: bool,
    /// Only what leaves
    #[arg(long)]
    outbound: bool,
    /// Only this protocol
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// Only from or to this port
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Drop what comes from or goes to this port, and send the rest back; may be repeated
    #[arg(long, value_name = "PORT", conflicts_with = "sniff")]
    drop_port: Vec<u16>,
    /// Show copies, and let the packets go on
    #[arg(long)]
    sniff: bool,
    /// The priority of the handle, -30000 to 30000
    #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true)]
    priority: i16,
    /// Fetch a page with curl over IPv4 and IPv6, and end
    #[arg(long)]
    traffic: bool,
    #[command(flatten)]
    limits: driver::Limits,
}

impl Arguments {
    fn plan(&self) -> DivertPlan {
        let direction = match (self.inbound, self.outbound) {
            (true, _) => Some(Direction::Inbound),
            (_, true) => Some(Direction::Outbound),
            _ => None,
        };
        let wanted = Wanted { layer: self.layer, direction, protocol: self.protocol, port: self.port };
        let dropped = self.drop_port.iter().copied().collect();
        DivertPlan { wanted, priority: self.priority, sniff: self.sniff, dropped }
    }
}

/// The service that WinDivert's library installs.
const SERVICE: &str = "WinDivert";

/// Runs the handle until Ctrl-C. Returns whether nothing was wrong.
///
/// # Errors
/// If there is no driver, or something is missing on this machine.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let plan = Plan { service: Service(SERVICE), ..run::served() };
    if let Some(sys) = inner::driver() {
        let divert = arguments.plan();
        let companion =
            |kernel| Ok(Some(Box::new(Diverting::start(kernel, divert)?) as Box<dyn host::Companion>));
        return host::run(&Plan { driver: Some(sys), ..plan }, companion);
    }
    setup::ensure(&[Need::IP])?;
    if arguments.traffic {
        setup::ensure(&[Need::CURL])?;
    }
    // A wrong choice is told before the driver runs.
    arguments.plan().wanted.compile()?;
    let sys = match &arguments.driver {
        Some(driver) => driver.clone(),
        None => {
            setup::ensure(&[Need::PYTHON])?;
            setup::windivert()?
        }
    };
    let job = driver::Arguments::of(sys, arguments.limits.clone().into()).job()?;
    as_root()?;
    sandbox::drop_privileges()?;
    let verdict = on_a_host(arguments, job)?;
    println!("\nverdict: {verdict}");
    Ok(verdict == Verdict::Well.to_string())
}

/// Returns the verdict in words.
fn on_a_host(arguments: &Arguments, job: Job) -> Result<String> {
    let mut world = Apart::start(job, 0)?;
    let played = play(arguments, &mut world);
    run::judged(world, played).map(|(verdict, _)| verdict)
}

fn play(arguments: &Arguments, world: &mut Apart) -> Result<Verdict> {
    let verdict = run::told(world, &Question::Shown, false)?;
    if verdict != Verdict::Well {
        return Ok(verdict);
    }
    let named = run::announce(world);
    if arguments.traffic {
        for family in machine::wire::Family::BOTH {
            println!("{family}: curl: {}", sandbox::shown(&fetched(world, family)?));
        }
    } else {
        run::until_the_end(world)?;
    }
    drop(named);
    run::told(world, &Question::Unload, true)
}
