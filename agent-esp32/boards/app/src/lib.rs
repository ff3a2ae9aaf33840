//! What all boards run: a member of the mesh with a UDP echo (port 7), a status page (port
//! 80) and a console that says what happens. A board brings a network card, flash memory
//! and randomness.
#![no_std]
#![deny(unsafe_code)]

mod console;
pub mod mqtt;
mod page;
pub mod provision;
mod services;
pub mod stack;

use core::pin::pin;

use embassy_futures::join::{join, join3, join4};
use embassy_net::driver::Driver;
use embassy_net::{Config, DhcpConfig, StackResources};
use embedded_storage_async::nor_flash::NorFlash;
use weft_agent_esp32::flash::Flash;
use weft_agent_esp32::status::Event;
use weft_agent_esp32::storage::Wrapped;
use weft_agent_esp32::{Entropy, Mesh, PORT, Resources, Runner, Settings};

pub use console::Console;
use page::{LocalReport, MeshReport};
pub use provision::PAGE;
use services::Services;
use stack::StackUse;

/// Sockets in the local network: the tunnel's, the line's, DHCP's, the resolver's.
const LAN_SOCKETS: usize = 5;
/// Sockets on the mesh: echo, the page's, the resolver's, one more.
const MESH_SOCKETS: usize = 4;

/// What a board brings.
pub struct Board<D, F, E> {
    /// The network card.
    pub card: D,
    /// Flash memory: its first block is what the device was provisioned with
    /// ([`PAGE`]), the rest is the agent's.
    pub flash: F,
    /// Random bytes.
    pub entropy: E,
    /// What tells this chip from others of its kind.
    pub serial: [u8; 8],
    /// Chip and board.
    pub platform: &'static str,
    /// What records are wrapped with, of a key outside of the flash memory; `None`: this
    /// board has none.
    pub secret: Option<[u8; 32]>,
    /// How much of the stack was ever used.
    pub stack: fn() -> StackUse,
}

/// All memory of the application, for a `static`.
pub struct Memory<E: 'static> {
    lan: StackResources<LAN_SOCKETS>,
    agent: Resources<E, 8, 16, MESH_SOCKETS>,
    services: Services,
}

impl<E: 'static> Memory<E> {
    /// Memory that nobody uses yet.
    pub const fn new() -> Self {
        Self { lan: StackResources::new(), agent: Resources::new(), services: Services::new() }
    }
}

impl<E: 'static> Default for Memory<E> {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs the application. Comes back only if it cannot begin, with the reason on the
/// console.
pub fn run<D: Driver + 'static, F: NorFlash, E: Entropy + 'static>(
    board: Board<D, F, E>,
    memory: &'static mut Memory<E>,
    console: &'static impl Console,
) -> impl Future<Output = ()> {
    // Not awaited here: a future within a future is moved once more on the stack.
    run_with(board, memory, console, async |_| {})
}

/// The same with something more on the mesh; there is one socket for it.
pub async fn run_with<D: Driver + 'static, F: NorFlash, E: Entropy + 'static>(
    board: Board<D, F, E>,
    memory: &'static mut Memory<E>,
    console: &impl Console,
    more: impl AsyncFnOnce(Mesh<'static>),
) {
    let Board { card, mut flash, mut entropy, serial, platform, secret, stack } = board;
    let mut text = [0; PAGE];
    let provisioned = match provision::read(&mut flash, &mut text).await {
        Ok(provisioned) => provisioned,
        Err(problem) => return console.line(format_args!("error: {problem}")),
    };
    let mut seed = [0; 8];
    entropy.fill(&mut seed);
    let config = Config::dhcpv4(DhcpConfig::default());
    let Memory { lan, agent, services } = memory;
    let (lan, mut lan_runner) = embassy_net::new(card, config, lan, u64::from_le_bytes(seed));
    let settings = Settings {
        join: provisioned.join,
        name: provisioned.name,
        serial: &serial,
        platform,
        port: PORT,
    };
    let end = u32::try_from(flash.capacity()).unwrap_or(u32::MAX);
    let first = u32::try_from(F::ERASE_SIZE).unwrap_or(u32::MAX);
    let storage = match Flash::new(flash, first..end - end % first) {
        Ok(storage) => storage,
        Err(problem) => return console.line(format_args!("error: {problem}")),
    };
    if secret.is_none() {
        console.line(format_args!("warning: keys lie in flash memory as plain text: no fuse key"));
    }
    let storage = Wrapped::new(storage, secret.as_ref());
    let made = {
        let made = pin!(weft_agent_esp32::new(&settings, storage, entropy, lan, agent));
        made.await
    };
    let (mesh, mut runner) = match made {
        Ok(made) => made,
        Err(problem) => return console.line(format_args!("error: {problem}")),
    };
    console.line(format_args!("start {}", provisioned.name));
    let report = MeshReport { mesh, stack };
    let told = join(say_lan(lan, console), say_mesh(mesh, stack, console));
    let served = services.run(mesh.stack(), &report);
    let served = join(served, more(mesh));
    join4(lan_runner.run(), drive(&mut runner), served, told).await;
}

/// Memory of the same without an agent.
pub struct LocalMemory {
    lan: StackResources<LAN_SOCKETS>,
    services: Services,
}

impl LocalMemory {
    /// Memory that nobody uses yet.
    pub const fn new() -> Self {
        Self { lan: StackResources::new(), services: Services::new() }
    }
}

impl Default for LocalMemory {
    fn default() -> Self {
        Self::new()
    }
}

/// The same services in the local network, without an agent: what firmware costs anyway.
pub async fn run_local<D: Driver + 'static>(
    card: D,
    (seed, stack): (u64, fn() -> StackUse),
    memory: &'static mut LocalMemory,
    console: &impl Console,
) {
    let config = Config::dhcpv4(DhcpConfig::default());
    let (local, mut runner) = embassy_net::new(card, config, &mut memory.lan, seed);
    let report = LocalReport { local, stack };
    let served = memory.services.run(local, &report);
    join3(runner.run(), served, say_lan(local, console)).await;
}

async fn drive<E: Entropy, F: NorFlash>(runner: &mut Runner<'_, E, Wrapped<Flash<F>>>) {
    runner.run().await;
}

/// The local network, as it comes up.
async fn say_lan(lan: embassy_net::Stack<'_>, console: &impl Console) {
    lan.wait_link_up().await;
    console.line(format_args!("link"));
    lan.wait_config_up().await;
    if let Some(config) = lan.config_v4() {
        console.line(format_args!("lan {}", config.address));
    }
}

/// What happens on the mesh, line by line.
async fn say_mesh(mesh: Mesh<'_>, stack: fn() -> StackUse, console: &impl Console) {
    loop {
        let event = mesh.event().await;
        console.event(&event);
        if matches!(event, Event::Peer(..)) {
            // A handshake is behind it, which goes deepest.
            let StackUse { used, size } = stack();
            console.line(format_args!("stack {used} of {size}"));
        }
    }
}
