//! `weft-fleet`: thousands of simulated devices in one process against a real
//! coordinator, over real MQTT on loopback.
//!
//! Each device is the agent's own control session ([`device`]) on the agents'
//! own MQTT client ([`line`]), a task of one thread. There is no tunnel: what is
//! measured is the coordinator. Tunnels have the members of [`peers`], which the
//! laboratory plays against one device.

mod board;
mod clock;
mod coordinator;
mod crash;
mod device;
mod driver;
mod entropy;
mod failure;
mod fleet;
mod line;
mod peers;
mod plan;
mod proc;
mod report;
mod rest;
mod samples;
mod ui;

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use weft_agent_core::entropy::Entropy as _;

use coordinator::Started;
use crash::Trial;
use device::World;
use entropy::Kernel;
use failure::{During, Failure, Result, status};
use fleet::{Course, Fleet, Host, Keys, Office};
use plan::{DEVICES_MAX, Layout, Pace};
use report::Report;
use rest::Operator;

/// Open files that are no line.
const OTHER_FILES: u64 = 64;
/// Members with tunnels in one process.
const PEERS_MAX: u64 = 1_000;

/// Thousands of simulated devices against a real coordinator, on loopback
#[derive(Parser)]
#[command(name = "weft-fleet", version)]
#[command(after_help = "\
Examples:
  weft-fleet --devices 1000
  weft-fleet --devices 10000 --rate 400 --json
  weft-fleet crash --devices 100 --kills 15")]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=DEVICES_MAX as u64))]
    devices: u64,
    /// Enrolments per second
    #[arg(long, value_name = "N", default_value_t = 300)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Seconds in which nothing happens
    #[arg(long, value_name = "S", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=3_600))]
    steady: u64,
    /// Seconds between the MQTT pings of a line
    #[arg(long, value_name = "S", default_value_t = 300)]
    #[arg(value_parser = clap::value_parser!(u16).range(5..=3_600))]
    keepalive: u16,
    /// Changes of one device each, one after the other
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=10_000))]
    singles: u32,
    /// How often all lines are cut at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=3))]
    storms: u8,
    /// How often the coordinator is restarted
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=3))]
    restarts: u8,
    /// Seconds in which devices come, go and are changed
    #[arg(long, value_name = "S", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=3_600))]
    churn: u64,
    /// Changes per second of the churn
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000))]
    changes: u32,
    /// Chooses the changes
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Seconds after which the run ends, whatever it is doing
    #[arg(long, value_name = "S", default_value_t = 600)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=7_200))]
    limit: u64,
    /// A coordinator that runs already, on loopback [default: one of its own]
    #[arg(long, value_name = "WEFT1…")]
    join: Option<String>,
    /// That coordinator's process, whose CPU and memory are to be measured
    #[arg(long, value_name = "PID", requires = "join")]
    pid: Option<u32>,
    /// The coordinator's program [default: weft-coordinator beside this one]
    #[arg(long, value_name = "FILE", conflicts_with = "join")]
    coordinator: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What is done instead of the phases.
#[derive(Subcommand)]
enum Other {
    /// Kill the coordinator while devices enrol, and check what it answered
    Crash(CrashArguments),
    /// Be members of a mesh, with tunnels, that talk to one device when told on standard input
    Peers(PeersArguments),
}

#[derive(Args)]
struct PeersArguments {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 200)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=PEERS_MAX))]
    devices: u64,
    /// Lets that many in; the policy may show each of them eight peers at most
    #[arg(long, value_name = "WEFT1…")]
    join: String,
    /// Where their sockets are
    #[arg(long, value_name = "ADDRESS")]
    address: std::net::IpAddr,
    /// Seconds after which the run ends, whatever it is doing
    #[arg(long, value_name = "S", default_value_t = 600)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=7_200))]
    limit: u64,
}

#[derive(Args)]
struct CrashArguments {
    /// How many are to be taken in
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=DEVICES_MAX as u64 / 2))]
    devices: u64,
    /// How often the coordinator is killed
    #[arg(long, value_name = "N", default_value_t = 500)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=10_000))]
    kills: u16,
    /// How often 64 devices want a key's one use
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=20))]
    contests: u8,
    /// Chooses the moments of the kills [default: a new one, which is printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Seconds after which the run ends, whatever it is doing
    #[arg(long, value_name = "S", default_value_t = 1_500)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=7_200))]
    limit: u64,
    /// The coordinator's program [default: weft-coordinator beside this one]
    #[arg(long, value_name = "FILE")]
    coordinator: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl CrashArguments {
    fn trial(&self) -> Trial {
        let drawn = || {
            let mut seed = [0; 4];
            Kernel.fill(&mut seed);
            u64::from(u32::from_le_bytes(seed))
        };
        Trial {
            devices: usize::try_from(self.devices).unwrap_or(DEVICES_MAX),
            kills: usize::from(self.kills),
            contests: usize::from(self.contests),
            seed: self.seed.unwrap_or_else(drawn),
            json: self.json,
        }
    }
}

impl Arguments {
    fn course(&self) -> Course {
        Course {
            layout: Layout { devices: usize::try_from(self.devices).unwrap_or(DEVICES_MAX) },
            ramp: Pace { per_second: self.rate },
            steady: Duration::from_secs(self.steady),
            singles: self.singles,
            storms: usize::from(self.storms),
            restarts: usize::from(self.restarts),
            churn: Duration::from_secs(self.churn),
            changes: Pace { per_second: self.changes },
            seed: self.seed,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Other::Crash(arguments)) = &arguments.other {
        let result = start_crash(arguments);
        if arguments.json {
            let failed = |failure: &Failure| json!({"error": failure.json()});
            ui::document(&result.as_ref().map_or_else(failed, Value::clone));
        }
        return end(result.map(drop));
    }
    if let Some(Other::Peers(arguments)) = &arguments.other {
        return end(start_peers(arguments));
    }
    let mut report = Report::new(arguments.course().layout, arguments.json);
    let result = start(&arguments, &mut report);
    if arguments.json {
        ui::document(&report.json(result.as_ref().err()));
    }
    end(result)
}

/// Says how it ended.
fn end(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_stop() => {
            ui::note("stopped; nothing left behind");
            ExitCode::from(status::STOPPED)
        }
        Err(failure) => {
            ui::error(&failure);
            ExitCode::from(failure.status())
        }
    }
}

fn start(arguments: &Arguments, report: &mut Report) -> Result<()> {
    raise_files(arguments.devices)?;
    block_on(until_stopped(arguments.limit, run(arguments, report)))
}

fn start_crash(arguments: &CrashArguments) -> Result<Value> {
    raise_files(arguments.devices)?;
    let program = match &arguments.coordinator {
        Some(program) => program.clone(),
        None => beside()?,
    };
    block_on(until_stopped(arguments.limit, crash::run(arguments.trial(), &program)))
}

fn start_peers(arguments: &PeersArguments) -> Result<()> {
    // A socket and a line each.
    raise_files(2 * arguments.devices)?;
    let count = usize::try_from(arguments.devices).unwrap_or(DEVICES_MAX);
    let work = peers::run(&arguments.join, count, arguments.address);
    block_on(until_stopped(arguments.limit, work))
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .during("start the runtime")?;
    let local = LocalSet::new();
    // The runtime and with it every line is gone before the process says so.
    local.block_on(&runtime, work)
}

/// Raises the limit of open files, and refuses what does not fit.
fn raise_files(devices: u64) -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let files = if raised.is_ok() { maximum } else { current };
    match files {
        Some(files) if files < devices + OTHER_FILES => {
            let sentence = format!("open files are limited to {files}; {devices} lines need more");
            let attempt = format!("weft-fleet --devices {}", files.saturating_sub(OTHER_FILES));
            Err(Failure::new("fleet.files", sentence).line("try", attempt).exit(status::USAGE))
        }
        _ => Ok(()),
    }
}

async fn until_stopped<T>(limit_s: u64, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut interrupt = signal(SignalKind::interrupt()).during("listen to Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).during("listen to SIGTERM")?;
    let limit = Duration::from_secs(limit_s);
    tokio::select! {
        ended = tokio::time::timeout(limit, work) => ended.unwrap_or_else(|_| {
            let sentence = format!("the run did not end within {limit_s} s");
            Err(Failure::expectation(sentence))
        }),
        _ = interrupt.recv() => Err(Failure::stopped()),
        _ = terminate.recv() => Err(Failure::stopped()),
    }
}

async fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let course = arguments.course();
    let devices = course.layout.devices;
    if let Some(text) = &arguments.join {
        let join = coordinator::parse_join(text)?;
        let address = coordinator::loopback(&join.addresses)?;
        reach(address).await?;
        let keys = Keys::One(Rc::new(join));
        let world = World::new(devices, address, arguments.keepalive);
        return Fleet::new(course, world, keys, Host::Other(arguments.pid)).run(report).await;
    }
    let program = match &arguments.coordinator {
        Some(program) => program.clone(),
        None => beside()?,
    };
    let started = Started::new(&program).await?;
    let operator = Operator::new(started.socket());
    let (office, keys) = Office::open(operator, course.layout).await?;
    let world = World::new(devices, started.address(), arguments.keepalive);
    let host = Host::Own { started: Box::new(started), office };
    Fleet::new(course, world, keys, host).run(report).await
}

/// Whether anybody listens, before a thousand devices wait for him.
async fn reach(address: std::net::SocketAddr) -> Result<()> {
    tokio::net::TcpStream::connect(address).await.map(drop).map_err(|error| {
        Failure::new("fleet.unreachable", format!("nobody answers on {address}"))
            .line("cause", error.to_string())
            .exit(status::UNREACHABLE)
    })
}

fn beside() -> Result<PathBuf> {
    let own = std::env::current_exe().during("find this program")?;
    Ok(own.with_file_name("weft-coordinator"))
}
