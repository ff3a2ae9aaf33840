//! The daemon: the only event loop. It waits, reads what is ready, feeds the
//! agent, and does what the agent says. It decides nothing about peers, keys or
//! paths.

mod asks;
mod data;
mod echo;
mod end;
mod events;
mod looking;
mod networks;
mod overlay;
mod pauses;
mod setup;
mod standing;
pub(crate) mod texts;
mod translator;
pub(crate) mod view;
mod ways_in;
mod why;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::SyncSender;

use weft_agent_core::agent::{GatewayAgent, Persist};
use weft_agent_core::event::SocketId;
use weft_agent_core::time::Instant;
use weft_wire::id::{DeviceId, PublicKey};

use crate::config::Config;
use crate::control::line::Line;
use crate::failure::{Failure, Result};
use crate::ipc::protocol::{Answer, Progress};
use crate::ipc::server::{ClientId, Server};
use crate::log::Log;
use crate::net::monitor::Monitor;
use crate::net::udp::UdpPair;
use crate::os::entropy::Kernel;
use crate::os::poll::{Interest, Place, PollSet};
use crate::os::signal::{Signal, Signals};
use crate::os::timer::Alarm;
use crate::os::{clock, process};
use crate::relay::Relays;
use crate::store::folder::{Folder, Lock};
use crate::store::identity::Home;

use data::Buffers;
use echo::Echoes;
use end::{End, Keeper};
use looking::Looking;
use networks::Networks;
use overlay::Mesh;
use pauses::KnownPauses;
use translator::Translator;
use ways_in::WayIn;

/// The coordinator may take this long to let this device go, in microseconds.
const LEAVE_US: u64 = 15_000_000;
/// What could not be written is tried again after this, in microseconds: it is
/// written soon after a disk takes it again.
const RETRY_US: u64 = 5_000_000;

/// How the daemon was started.
pub(crate) enum Mode {
    /// By systemd, a container or a person: the log goes to the error stream.
    Foreground,
    /// By another `weft`, which reads one word on the standard output.
    Background,
    /// Inside `weft join --foreground`: tells when the socket can be used.
    Joining(SyncSender<()>),
}

/// How the daemon ended, for its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// As somebody asked.
    Asked,
    /// By Ctrl-C.
    Interrupted,
}

impl Ended {
    /// The exit status.
    pub(crate) const fn exit(self) -> u8 {
        match self {
            Self::Asked => 0,
            Self::Interrupted => 130,
        }
    }
}

/// Everything that the loop owns.
struct Daemon {
    agent: Box<GatewayAgent<Kernel>>,
    home: Home,
    folder: Folder,
    /// No other daemon uses the folder meanwhile.
    lock: Lock,
    /// Starts of the agent, this one counted.
    starts: u32,
    line: Line,
    mesh: Mesh,
    udp: UdpPair,
    relays: Relays,
    monitor: Monitor,
    way_in: WayIn,
    /// To IPv4, where this host has none.
    translator: Translator,
    /// A look at the network that an operator asked for.
    looking: Option<Looking>,
    /// Bytes cost money here.
    metered: bool,
    server: Server,
    signals: Signals,
    alarm: Alarm,
    log: Log,
    buffers: Buffers,
    echoes: Echoes,
    progress: Progress,
    progress_changed: bool,
    /// Who hears of progress.
    watchers: Vec<ClientId>,
    /// Who hears of log lines, and the next line of each.
    log_readers: Vec<(ClientId, u64)>,
    /// Who asked for the end, and waits for the answer.
    ender: Option<ClientId>,
    end: Option<End>,
    /// Until when the coordinator may answer to a leave, and who waits.
    leaving: Option<(u64, ClientId)>,
    /// When the cache was written last.
    cache_at: Option<u64>,
    /// Files that could not be written when that was last tried.
    failing: Vec<&'static str>,
    /// Writes that failed or were put off, and when they are tried again.
    unwritten: Vec<Persist>,
    retry_at: Option<u64>,
    /// When the interface is tried again that could not be set.
    mesh_retry_at: Option<u64>,
    lease_ended: bool,
    /// An operator's sentence on how this device stands, and since when.
    told: Option<(String, u64)>,
    /// Revision of the map in force.
    committed: u64,
    line_cause: Option<String>,
    /// The coordinator's key as it was when it last proved itself.
    pinned: PublicKey,
    /// When peers began to use another key of this device.
    key_changed_at: Option<Instant>,
    /// Which relays answered where.
    networks: Networks,
    /// What ways that are kept open outlive where, and when that is looked at again.
    pauses: KnownPauses,
    pauses_at: u64,
    /// The relays that a map named last, as people call them.
    relays_before: Vec<String>,
    /// Addresses that an operator announces.
    configured: Vec<SocketAddr>,
    /// Peers to which a way is kept open.
    keep_warm: Vec<String>,
    /// Round trips of peers by the last echo of ours, in microseconds.
    rtts: BTreeMap<DeviceId, (u64, Instant)>,
    /// Was not a member at the start.
    joining: bool,
    started_us: u64,
}

/// Places of the descriptors in one wait.
struct Places {
    signals: Place,
    monitor: Place,
    tun: Option<Place>,
    udp_v4: Place,
    udp_v6: Option<Place>,
    extra: Vec<(SocketId, Place)>,
}

/// The agent's clock.
fn now() -> Instant {
    Instant::from_micros(clock::boot_micros())
}

/// Tells the `weft` that started this daemon how it went, once.
pub(crate) fn say_to_parent(text: &str) {
    let mut stdout = io::stdout();
    // A parent that went away needs no word.
    drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
}

/// Runs the daemon until it is told to end. `listener` is the socket of the
/// daemon that this one takes the place of.
///
/// # Errors
///
/// Why it could not start. What goes wrong later is logged, not returned.
pub(crate) fn run(config: &Config, mode: Mode, listener: Option<UnixListener>) -> Result<Ended> {
    let in_background = matches!(mode, Mode::Background);
    let mut daemon = setup::open(config, in_background, listener)?;
    let mut keeper = Keeper::Nobody;
    match mode {
        // Who asked to be told and cannot be reached starts nothing again.
        Mode::Foreground => {
            if process::notify_ready().unwrap_or(false) {
                keeper = Keeper::ServiceManager;
            }
        }
        Mode::Background => {
            say_to_parent(crate::cli::READY);
            process::close_stdout().map_err(Failure::internal)?;
            keeper = Keeper::Background;
        }
        // The story's thread may be gone already; the daemon stays.
        Mode::Joining(ready) => drop(ready.send(())),
    }
    let end = daemon.run()?;
    let listener = daemon.close(end)?;
    match end {
        End::Restart => end::restart(config, keeper, listener),
        End::Interrupt => Ok(Ended::Interrupted),
        End::Stop | End::Erase => Ok(Ended::Asked),
    }
}

impl Daemon {
    fn run(&mut self) -> Result<End> {
        let mut set = PollSet::default();
        self.drain();
        self.send();
        loop {
            self.tell();
            if let Some(end) = self.end {
                return Ok(end);
            }
            set.clear();
            let places = self.register(&mut set);
            let deadline = self.deadline();
            let overdue = deadline.is_some_and(|at| at <= clock::boot_micros());
            if !overdue {
                self.alarm.set(deadline).map_err(Failure::internal)?;
            }
            set.wait(overdue.then_some(0)).map_err(Failure::internal)?;
            self.handle(&set, &places);
        }
    }

    fn register(&mut self, set: &mut PollSet) -> Places {
        self.line.register(set);
        self.relays.register(set);
        self.server.register(set);
        self.way_in.register(set);
        self.translator.register(set);
        if let Some(looking) = &mut self.looking {
            looking.register(set);
        }
        set.add(self.alarm.as_fd(), Interest::READ);
        Places {
            signals: set.add(self.signals.as_fd(), Interest::READ),
            monitor: set.add(self.monitor.as_fd(), Interest::READ),
            tun: self.mesh.tun().map(|tun| set.add(tun.as_fd(), Interest::READ)),
            udp_v4: set.add(self.udp.v4.as_fd(), Interest::READ),
            udp_v6: self.udp.v6.as_ref().map(|v6| set.add(v6.as_fd(), Interest::READ)),
            extra: self.udp.register_extra(set),
        }
    }

    /// The next moment at which something is due, in microseconds since boot.
    fn deadline(&self) -> Option<u64> {
        let agent = self.agent.poll_timeout().map(|(at, _)| at.as_micros());
        [
            agent,
            self.line.deadline(),
            self.monitor.deadline(),
            self.way_in.deadline(),
            self.translator.deadline(),
            self.echoes.deadline(),
            self.leaving.map(|(until, _)| until),
            self.retry_at,
            self.mesh_retry_at,
            self.server.is_pressed().then_some(0),
            self.relays.is_pressed().then_some(0),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Data first, then everything else, then what time has made due.
    fn handle(&mut self, set: &PollSet, places: &Places) {
        if set.is_ready(places.udp_v4) || places.udp_v6.is_some_and(|place| set.is_ready(place)) {
            self.receive_datagrams();
        }
        self.receive_extra(set, &places.extra);
        self.relays.begin(set);
        self.receive_relayed();
        if places.tun.is_some_and(|place| set.is_ready(place)) {
            self.read_packets();
        }
        let now_us = clock::boot_micros();
        if self.line.is_due(set, now_us) {
            self.drive_line();
        }
        for (client, request) in self.server.poll(set) {
            self.answer(client, request);
        }
        if set.is_ready(places.monitor) {
            self.monitor.handle_readable(now_us);
        }
        if self.monitor.is_due(now_us) {
            self.handle_network_change();
        }
        if set.is_ready(places.signals) {
            let asked = self.signals.next().map(|signal| match signal {
                Signal::Interrupt => End::Interrupt,
                Signal::Terminate => End::Stop,
            });
            self.end = self.end.or(asked);
        }
        self.drive_way_in(set);
        self.drive_translator(set, now_us);
        self.drive_look(set);
        self.handle_deadlines(now_us);
        self.drain();
        self.send();
        self.note_relay();
    }

    fn handle_deadlines(&mut self, now_us: u64) {
        let due = self.agent.poll_timeout().is_some_and(|(at, _)| at.as_micros() <= now_us);
        if due {
            self.agent.handle_timeout(now());
            self.note_pauses(now_us);
        }
        for (client, to) in self.echoes.expire(now_us) {
            self.server.answer(client, Answer::Echo(to, None));
        }
        if let Some((until, client)) = self.leaving
            && until <= now_us
        {
            self.leaving = None;
            self.server.refuse(client, asks::leave_unconfirmed(self.home.host()));
        }
        if self.retry_at.is_some_and(|at| at <= now_us) {
            self.retry_writes();
        }
        if self.mesh_retry_at.is_some_and(|at| at <= now_us) {
            self.handle_network_change();
        }
    }
}
