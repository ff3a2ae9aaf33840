//! The boards' application on a PC: a chip whose network card is a TAP interface, whose
//! flash memory is a file, and whose randomness is the operating system's. What works here
//! is what a board runs, and a debugger is at hand.

mod arguments;
mod flash;
mod stack;

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::process::exit;

use embassy_executor::Spawner;
use embassy_net_tuntap::TunTapDevice;
use embassy_time::{Duration, Instant, Timer};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use static_cell::ConstStaticCell;
use weft_agent_esp32::{Entropy, Mesh};
use weft_board_app::mqtt::{self, Sensor};
use weft_board_app::{Board, Memory};

use arguments::{Arguments, USAGE};
use flash::FileFlash;

/// How long an interface may take until it carries something, and how often we look.
const PATIENCE: Duration = Duration::from_secs(5);
const PACE: Duration = Duration::from_millis(2);

static MEMORY: ConstStaticCell<Memory<Dice>> = ConstStaticCell::new(Memory::new());

#[embassy_executor::main]
async fn main(_spawner: Spawner) {
    let arguments = Arguments::parse(std::env::args().skip(1)).unwrap_or_else(|mistake| {
        eprintln!("error: {mistake}\n{USAGE}");
        exit(2)
    });
    let (card, flash, serial) = open(&arguments).unwrap_or_else(|problem| {
        eprintln!("error: {problem}");
        exit(3)
    });
    let (entropy, platform, stack) = (Dice, "host", stack::used);
    if let Err(problem) = running(&arguments.tap).await {
        eprintln!("error: {problem}");
        exit(3)
    }
    let board = Board { card, flash, entropy, serial, platform, secret: None, stack };
    let sensor = async |mesh: Mesh<'static>| {
        if let Some(broker) = arguments.broker {
            publish(mesh, broker).await;
        }
    };
    weft_board_app::run_with(board, MEMORY.take(), &Lines, sensor).await;
    exit(3)
}

/// Until the interface carries something. The system takes up to a second for that once
/// somebody holds its other end, and drops what is sent to it before: the first answer of
/// DHCP would be lost, and asked for again after ten seconds.
async fn running(tap: &str) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let all = getifaddrs().map_err(|error| format!("{tap}: {error}"))?;
        let is_running = |interface: &InterfaceAddress| {
            interface.interface_name == tap && interface.flags.contains(InterfaceFlags::IFF_RUNNING)
        };
        if all.into_iter().any(|interface| is_running(&interface)) {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("{tap} is not up; try  sudo ip link set {tap} up"));
        }
        Timer::after(PACE).await;
    }
}

/// Seconds since the start, as a reading; the name is what the mesh's address is.
async fn publish(mesh: Mesh<'static>, broker: SocketAddr) {
    mesh.joined().await;
    let name = mesh.status().addresses.map(|(v4, _)| v4.to_string()).unwrap_or_default();
    let sensor = Sensor { broker, name: &name, every: Duration::from_secs(10) };
    let uptime = || u32::try_from(Instant::now().as_secs()).unwrap_or(u32::MAX);
    let ended = |why| println!("broker {why:?}");
    mqtt::run(mesh.stack(), &sensor, uptime, ended).await;
}

/// Card and flash memory, and what tells this chip from others.
fn open(arguments: &Arguments) -> Result<(TunTapDevice, FileFlash, [u8; 8]), String> {
    let Arguments { tap, mac, flash: path, join, name, .. } = arguments;
    let flash = FileFlash::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if let Some(join) = join {
        let name = name.as_deref().unwrap_or("sensor");
        let text = format!("join={join}\nname={name}\n");
        flash.provision(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let mut card = TunTapDevice::new(tap).map_err(|error| {
        format!("{tap}: {error}; try  sudo ip tuntap add {tap} mode tap user $USER")
    })?;
    let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
    let address = mac.unwrap_or_else(|| address(&path));
    card.set_hardware_address(address);
    let [a, b, c, d, e, f] = address;
    Ok((card, flash, [a, b, c, d, e, f, 0, 0]))
}

/// The card's address, the same for the same flash memory: a locally administered one of a
/// single card.
fn address(of: &impl Hash) -> [u8; 6] {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    let [a, b, c, d, e, ..] = hasher.finish().to_be_bytes();
    [2, a, b, c, d, e]
}

/// The operating system's randomness.
struct Dice;

impl Entropy for Dice {
    fn fill(&mut self, out: &mut [u8]) {
        if let Err(error) = getrandom::fill(out) {
            // Keys of a broken source would be no keys.
            eprintln!("error: the operating system gives no randomness: {error}");
            exit(4)
        }
    }
}

/// The console.
struct Lines;

impl weft_board_app::Console for Lines {
    fn line(&self, words: fmt::Arguments<'_>) {
        println!("{words}");
    }
}
