//! Opening everything, in an order in which a failure leaves nothing behind.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;

use weft_agent_core::agent::{AgentConfig, GatewayAgent};
use weft_agent_core::config::TunnelConfig;
use weft_agent_core::config::implementation::MTU_MAX;
use weft_agent_core::control::Identity;
use weft_agent_core::event::Sockets;
use weft_agent_core::meter::Budget;
use weft_agent_core::time::Duration;
use weft_wire::id::Name;
use weft_wire::item::{Abilities, Backend, family};
use weft_wire::map::{PEER_ROUTES, RULES};

use crate::config::Config;
use crate::control::line::Line;
use crate::daemon::data::Buffers;
use crate::daemon::echo::Echoes;
use crate::daemon::networks::Networks;
use crate::daemon::overlay::Mesh;
use crate::daemon::pauses::KnownPauses;
use crate::daemon::translator::Translator;
use crate::daemon::ways_in::WayIn;
use crate::daemon::{Daemon, now, texts};
use crate::failure::{Code, Failure, Result};
use crate::ipc::client::Client;
use crate::ipc::protocol::Progress;
use crate::ipc::server::{Access, Server};
use crate::log::{Event, Log};
use crate::net::host::HostView;
use crate::net::monitor::Monitor;
use crate::net::udp::{EXTRA_SOCKETS, SOCKET_V4, SOCKET_V6, UdpPair};
use crate::os::entropy::Kernel;
use crate::os::signal::Signals;
use crate::os::timer::Alarm;
use crate::os::{clock, entropy, privilege, process};
use crate::output::units;
use crate::relay::Relays;
use crate::store::STATE;
use crate::store::cache;
use crate::store::envelope::ReadError;
use crate::store::folder::Folder;
use crate::store::identity::{self, Home};
use crate::store::stamp::{self, Stamp};
use crate::store::ways;

/// Map pages asked for at once.
const PAGE_WINDOW: u8 = 4;
/// Packets of one peer that wait for a session.
const STAGED_PER_PEER: usize = 8;
/// Initiations of others that are answered per second. The core's own limit is
/// for a chip; a gateway whose peers all come back at once needs more.
const HANDSHAKES_PER_SECOND: u32 = 1_000;
/// Addresses that the registration carries.
type Endpoints = heapless::Vec<SocketAddr, 4>;
/// Bytes of stack to build the agent on; only what is used becomes memory.
const BUILD_STACK: usize = 64 * 1024 * 1024;
/// Bits of the carriers that this build speaks: all four.
const CARRIERS: u8 = 0b1111;

/// Opens everything that the daemon needs, and gives away the rights that it
/// needs no more.
///
/// # Errors
///
/// What is missing, in one sentence.
pub(super) fn open(
    config: &Config,
    in_background: bool,
    listener: Option<UnixListener>,
) -> Result<Daemon> {
    let started_us = clock::boot_micros();
    let signals = Signals::block().map_err(Failure::internal)?;
    let mut log = Log::new(config.log_level, config.log_format, !in_background);
    if config.log_addresses {
        log.show_addresses();
    }
    let mut folder = Folder::new(&config.state);
    let (identity, home) =
        identity::read(&folder).map_err(|error| texts::identity(&folder, error))?;
    let lock = texts::lock_state(&folder, "up")?;
    let server = listen(config, listener)?;
    sweep(&mut folder, &mut log);
    let stamp = stamp::read(&folder)
        .map_err(|error| texts::state_read(&folder, stamp::NAME, "up", &error))?;
    let mut mesh = Mesh::create(&config.interface)?;
    let udp = bind(config)?;
    let endpoints = endpoints(config, &mut mesh, &udp, &mut log);
    let monitor = Monitor::open().map_err(Failure::internal)?;
    if let Err(error) = privilege::drop_to_net_admin() {
        log.write(Event::RightsKept, &[("cause", error.to_string().into())]);
    }
    let way_in = WayIn::open(config, &identity.identity_key.0, udp.port);
    let line = Line::new(home.ways(), home.spki);
    let pinned = identity.coordinator;
    let joining = identity.member().is_none();
    let starts = stamp.starts.saturating_add(1);
    let agent = agent(config, identity, &home, abilities(&udp, endpoints), stamp)?;
    let mut daemon = Daemon {
        agent,
        home,
        folder,
        lock,
        starts,
        line,
        mesh,
        udp,
        relays: Relays::new(),
        monitor,
        way_in,
        translator: Translator::new(config.translator),
        looking: None,
        metered: config.metered,
        server,
        signals,
        alarm: Alarm::new().map_err(Failure::internal)?,
        log,
        buffers: Buffers::new(),
        echoes: Echoes::new((entropy::below(0xFFFF) + 1) as u16),
        progress: Progress { pid: std::process::id(), ..Progress::default() },
        progress_changed: false,
        watchers: Vec::new(),
        log_readers: Vec::new(),
        ender: None,
        end: None,
        leaving: None,
        cache_at: None,
        failing: Vec::new(),
        unwritten: Vec::new(),
        retry_at: None,
        mesh_retry_at: None,
        lease_ended: false,
        committed: 0,
        line_cause: None,
        pinned,
        key_changed_at: None,
        told: None,
        networks: Networks::default(),
        pauses: KnownPauses::default(),
        pauses_at: 0,
        relays_before: Vec::new(),
        configured: config.endpoints.clone(),
        keep_warm: config.keep_warm.clone(),
        rtts: std::collections::BTreeMap::new(),
        joining,
        started_us,
    };
    daemon.restore_all();
    daemon.handle_network_change();
    daemon.log_start();
    Ok(daemon)
}

fn listen(config: &Config, listener: Option<UnixListener>) -> Result<Server> {
    if let Some(listener) = listener {
        return Server::adopt(listener, &config.socket).map_err(|error| {
            let path = config.socket.display();
            Failure::new(Code::UpSocket, format!("cannot go on listening at {path}")).cause(error)
        });
    }
    let group = process::group_id(&config.socket_group);
    if group.is_none() && config.socket_group_wanted {
        let name = &config.socket_group;
        return Err(Failure::new(
            Code::UpSocket,
            format!("there is no group {name} for the socket"),
        )
        .try_command(format!("groupadd --system {name}")));
    }
    let path = config.socket.display();
    Server::bind(&config.socket, &Access { group }).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => running(config),
        io::ErrorKind::AlreadyExists => {
            Failure::new(Code::UpSocket, format!("{path} exists and is no socket"))
        }
        _ => Failure::new(Code::UpSocket, format!("cannot listen at {path}")).cause(error),
    })
}

fn running(config: &Config) -> Failure {
    let status = Client::connect(&config.socket, "up").and_then(|mut client| client.status());
    let whose = status.map_or_else(
        |_| String::new(),
        |status| format!(" (pid {}, up {})", status.pid, units::span_s(status.up_s)),
    );
    Failure::new(Code::UpRunning, format!("the daemon is running{whose}"))
        .try_command("weft status")
}

/// Half-written files of a killed run. Its interface, addresses and routes went
/// with its process; its socket was replaced.
fn sweep(folder: &mut Folder, log: &mut Log) {
    let swept = folder.sweep(&STATE);
    if swept > 0 {
        log.write(Event::AgentSwept, &[("files", (swept as u64).into())]);
    }
}

fn bind(config: &Config) -> Result<UdpPair> {
    let failed =
        |error: io::Error| Failure::new(Code::UpStart, "cannot open the UDP sockets").cause(error);
    match &config.listen_port {
        None => UdpPair::bind_from(weft_wire::WIREGUARD_PORT).map_err(failed),
        Some(wanted) => UdpPair::bind_exactly(wanted.port).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => texts::port_in_use(wanted.port, &wanted.source),
            _ => failed(error),
        }),
    }
}

/// Where a peer without an agent may be told to send to: what an operator
/// announces, then the addresses of this host.
fn endpoints(config: &Config, mesh: &mut Mesh, udp: &UdpPair, log: &mut Log) -> Endpoints {
    let view = mesh.view().unwrap_or_else(|error| {
        log.write(Event::InterfaceFailed, &[("cause", error.to_string().into())]);
        HostView::default()
    });
    let v6 = udp.v6.is_some();
    let own = view.candidates(mesh.name()).into_iter();
    let own = own.filter(|address| v6 || address.is_ipv4());
    let own = own.map(|address| SocketAddr::new(address, udp.port));
    told(&config.endpoints, own)
}

fn told(configured: &[SocketAddr], own: impl Iterator<Item = SocketAddr>) -> Endpoints {
    let mut endpoints = Endpoints::new();
    for endpoint in configured.iter().copied().chain(own) {
        if endpoints.contains(&endpoint) {
            continue;
        }
        if endpoints.push(endpoint).is_err() {
            break;
        }
    }
    endpoints
}

fn abilities(udp: &UdpPair, endpoints: Endpoints) -> Abilities {
    let text = |text: &str| text.chars().take(16).collect::<heapless::String<16>>();
    let mut platform = heapless::String::new();
    // Cannot fail for any target of this crate; an empty platform is honest.
    drop(platform.push_str(env!("WEFT_PLATFORM")));
    Abilities {
        families: family::IPV4 | if udp.v6.is_some() { family::IPV6 } else { 0 },
        carriers: CARRIERS,
        mtu: MTU_MAX,
        backend: Backend::User,
        // The agent fills in how many it has.
        peer_slots: 0,
        peer_routes: PEER_ROUTES as u8,
        rules: RULES as u8,
        agent: text(env!("CARGO_PKG_VERSION")),
        platform,
        endpoints,
    }
}

/// Without them no port is predicted or searched.
const fn extra_sockets(config: &Config) -> u8 {
    if config.metered || !config.port_search { 0 } else { EXTRA_SOCKETS }
}

fn agent(
    config: &Config,
    identity: Identity,
    home: &Home,
    abilities: Abilities,
    stamp: Stamp,
) -> Result<Box<GatewayAgent<Kernel>>> {
    let tunnel = TunnelConfig::new().with_handshakes_per_second(HANDSHAKES_PER_SECOND);
    let tunnel = match config.rekey_after_s {
        Some(seconds) => tunnel.with_rekey_after(Duration::from_secs(seconds.into())),
        None => tunnel,
    };
    let name = Name::try_from(home.wanted_name.as_str());
    let agent_config = AgentConfig {
        boot_count: stamp.starts.saturating_add(1),
        on_demand: false,
        page_window: PAGE_WINDOW,
        staged_per_peer: STAGED_PER_PEER,
        // A machine without an id is a minimal container.
        fingerprint: identity
            .fingerprint(std::fs::read("/etc/machine-id").unwrap_or_default().trim_ascii()),
        name: name.map_err(|_| Failure::internal("the stored name is too long"))?,
        sockets: Sockets {
            v4: Some(SOCKET_V4),
            v6: (abilities.families & family::IPV6 != 0).then_some(SOCKET_V6),
        },
        abilities,
        extra_sockets: extra_sockets(config),
        tunnel,
        stamp_floor: stamp.floor,
    };
    let budget = Budget { is_metered: config.metered, bytes: config.data_budget };
    on_a_large_stack(move || {
        let agent = GatewayAgent::new(agent_config, identity, Kernel, now());
        let agent = agent.map(|mut agent| {
            agent.set_budget(budget, now());
            Box::new(agent)
        });
        agent.map_err(|_| {
            let message = "the coordinator's key in the identity is a weak key";
            Failure::new(Code::UpStateRead, message)
        })
    })
}

/// The agent is one value of some megabytes that is built on the stack before
/// it is boxed. On a thread of its own that stack is given back afterwards.
fn on_a_large_stack<T: Send + 'static>(
    make: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let thread = std::thread::Builder::new().stack_size(BUILD_STACK).spawn(make);
    let made = thread.map_err(Failure::internal)?.join();
    made.map_err(|_| Failure::internal("the agent could not be built"))?
}

impl Daemon {
    fn log_start(&mut self) {
        let fields = [
            ("version", env!("CARGO_PKG_VERSION").into()),
            ("port", u64::from(self.udp.port).into()),
            ("start", u64::from(self.starts).into()),
        ];
        self.log.write(Event::AgentStarted, &fields);
    }

    fn restore_all(&mut self) {
        self.restore();
        self.restore_ways();
    }

    /// Gives the agent the map of the last run.
    fn restore(&mut self) {
        let cached = match cache::read(&self.folder) {
            Ok(Some(items)) => items,
            Ok(None) => return,
            Err(error) => return self.report(cache::KIND.name, &error),
        };
        if self.agent.restore(&cached, now()).is_err() {
            let len = cached.len();
            self.report(cache::KIND.name, &ReadError::Corrupt { found: len, expected: len });
        }
    }

    /// Which way to the coordinator stood before, and which relay answered.
    fn restore_ways(&mut self) {
        match ways::read(&self.folder) {
            Ok(stood) => {
                self.line.restore(&stood);
                self.networks.restore(&stood);
                self.pauses.restore(&stood);
            }
            Err(error) => self.report(ways::KIND.name, &error),
        }
    }

    fn report(&mut self, file: &'static str, error: &ReadError) {
        let cause = texts::cache_words(error);
        self.log.write(Event::StateFailed, &[("file", file.into()), ("cause", cause.into())]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_searched_unless_somebody_says_otherwise() {
        let sockets = |text: &str| {
            let path = std::path::Path::new("/etc/weft/weft.toml");
            extra_sockets(&Config::parse(path, text.as_bytes()).unwrap())
        };
        assert_eq!(sockets(""), EXTRA_SOCKETS);
        assert_eq!(sockets("[network]\nport_search = true\n"), EXTRA_SOCKETS);
        assert_eq!(sockets("[network]\nport_search = false\n"), 0);
        assert_eq!(sockets("[network]\nmetered = true\n"), 0);
        assert_eq!(sockets("[network]\nmetered = true\nport_search = true\n"), 0);
    }

    #[test]
    fn what_an_operator_announces_is_told_first() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let own = ["192.168.7.2:51871", "203.0.113.22:51871", "10.0.0.2:51871", "10.0.0.3:51871"];
        let own = || own.iter().map(|text| at(text));
        assert_eq!(
            told(&[at("203.0.113.22:51871")], own()).as_slice(),
            [
                at("203.0.113.22:51871"),
                at("192.168.7.2:51871"),
                at("10.0.0.2:51871"),
                at("10.0.0.3:51871")
            ]
        );
        let many: Vec<SocketAddr> = (1..=4).map(|n| at(&format!("198.51.100.{n}:1"))).collect();
        assert_eq!(told(&many, own()).as_slice(), many);
    }
}
