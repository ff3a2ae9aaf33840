//! `serve`: builds the parts, joins them, and ends them in order.

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use crate::cli::format::{count, span};
use crate::cli::ui;
use crate::config::Config;
use crate::config::public::{Offer, Public};
use crate::domain::audit::Actor;
use crate::domain::relay::Relay;
use crate::domain::time::UnixMs;
use crate::failure::{Code, Failure, Label};
use crate::service::bus::{Bus, Inbound};
use crate::service::channel::{Channel, Parts};
use crate::service::clock::Clock;
use crate::service::operator::Operator;
use crate::service::relay_link::{self, RelayLink};
use crate::service::relays::RelaySecrets;
use crate::service::rotation::Rotations;
use crate::service::seams::Refusals;
use crate::service::secrets::Secrets;
use crate::store::sqlite::{SCHEMA, SqliteStore};
use crate::store::{By, SharedStore, StoreError};
use crate::transport::external::{External, Joined};
use crate::transport::http::metrics::{self, Meters};
use crate::transport::http::unix::Socket;
use crate::transport::listen::{Behind, Front, Limits, Listener, Places, Stats};
use crate::transport::mqtt::hub::Hub;
use crate::transport::mqtt::{Broker, Embedded};
use crate::transport::{http, post, relay_check, relay_post};

use super::clock::{RANDOM, SystemClock, monotonic};
use super::place::{Place, VERSION, by_whom, fingerprint};
use super::relays::Shared;
use super::with_relay::{self, Wanted};
use super::{broker, files, holder, key_change, relays, stun, tls};

/// Threads that may block: readers of the database, and name look-ups.
const BLOCKING_THREADS: usize = 6;
/// Stack of every thread; handlers keep their state on the heap.
const STACK: usize = 1 << 20;
/// How long open requests and connections have at the end.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the coordinator until it is told to stop; gives the exit status.
///
/// # Errors
///
/// `serve.…`.
pub(crate) fn serve(config: &Config, with_relay: Option<Option<u16>>) -> Result<u8, Failure> {
    let started = monotonic();
    let now = UnixMs(SystemClock.unix_ms());
    if now.0 == 0 {
        let sentence = format!(
            "this machine's clock says {}; devices are not given time until it is set",
            SystemClock.date()
        );
        ui::warning("serve.clock", &sentence, "timedatectl set-ntp true");
    }
    let files = files::raise();
    let place = Place::new(&config.data);
    let secrets = Arc::new(place.secrets()?);
    let public = config.public.as_ref().ok_or_else(|| {
        Failure::new(
            Code::ConfigMissing,
            "server.public is needed: the name or address that devices use",
        )
        .attempt("weft-coordinator serve --public mesh.example.net")
    })?;
    let _lock = place.lock(now)?;
    let store = open(&place, &secrets, now)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.threads)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(STACK)
        .thread_name("weft")
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new(Code::ServeListen, "the threads cannot be started")
                .with(Label::Cause, error.to_string())
        })?;
    let shared: SharedStore = Arc::clone(&store) as _;
    let site =
        Site { config, public, place: &place, secrets: &secrets, with_relay, files, started };
    let ended = runtime.block_on(run(&site, shared));
    runtime.shutdown_timeout(GRACE);
    // The last one: the writer ends what waits and closes the database.
    let last = Arc::into_inner(store);
    let closed = if last.is_some() { "closed" } else { "still in use, left as it is" };
    drop(last);
    let Ended { status, told } = ended?;
    ui::note(format!("stopping: {} told to come back, database {closed}", count(told, "device")));
    Ok(status)
}

/// Where and as what the coordinator runs.
struct Site<'a> {
    config: &'a Config,
    public: &'a Public,
    place: &'a Place,
    secrets: &'a Arc<Secrets>,
    /// Relay here too, and on this port as well.
    with_relay: Option<Option<u16>>,
    /// Files that may be open; `None` = any number.
    files: Option<u64>,
    started: Instant,
}

impl Site<'_> {
    async fn with_relay(&self) -> Result<Option<Wanted>, Failure> {
        match self.with_relay {
            None => Ok(None),
            Some(port) => Wanted::new(self.public, port, self.secrets).await.map(Some),
        }
    }
}

/// How it ended.
struct Ended {
    status: u8,
    /// Devices that were connected.
    told: usize,
}

fn open(place: &Place, secrets: &Secrets, now: UnixMs) -> Result<Arc<SqliteStore>, Failure> {
    if let Some((owner, _)) = place.key_of_database() {
        key_change::check(place, secrets, &owner)?;
    }
    let store = SqliteStore::open(&place.database, now);
    store.map(Arc::new).map_err(|error| place.database_failure(&error))
}

/// Everything that faces the network, bound but not served yet.
struct Doors {
    listeners: Vec<(Listener, SocketAddr)>,
    answering: Answering,
    socket: Socket,
}

/// What answers on UDP.
enum Answering {
    Stun(Vec<weft_relay::io::StunServer>),
    /// The relay answers STUN too.
    Relay(Arc<weft_relay::Server>, Box<Shared>),
}

/// Which STUN threads ended by themselves.
type Failed = mpsc::UnboundedSender<SocketAddr>;

fn bind(config: &Config, relay: Option<&Wanted>, failed: &Failed) -> Result<Doors, Failure> {
    let mut listeners = Vec::new();
    for wanted in &config.listen {
        let listener = bind_either(*wanted, Listener::bind)
            .map_err(|error| port_failure("TCP", *wanted, &error))?;
        let address = listener.local_addr().unwrap_or(*wanted);
        listeners.push((listener, address));
    }
    // The same numbers, also where the system chose them.
    let addresses: Vec<_> = listeners.iter().map(|(_, address)| *address).collect();
    let answering = match relay {
        None => answer_stun(&addresses, failed)?,
        Some(relay) => relay_too(relay, &addresses, failed)?,
    };
    let socket = Socket::bind(&config.socket).map_err(|error| {
        let path = config.socket.display();
        let (code, whom) = match error.kind() {
            io::ErrorKind::AddrInUse => (Code::ServePortInUse, String::new()),
            io::ErrorKind::PermissionDenied => (Code::ServeSocketDenied, by_whom()),
            _ => (Code::ServeSocket, String::new()),
        };
        let message = format!("the socket {path} cannot be made{whom}");
        Failure::new(code, message)
            .with(Label::Cause, error.to_string())
            .attempt("weft-coordinator serve --socket PATH")
    })?;
    Ok(Doors { listeners, answering, socket })
}

fn answer_stun(addresses: &[SocketAddr], failed: &Failed) -> Result<Answering, Failure> {
    let start = |address: &SocketAddr| {
        let failed = failed.clone();
        // At the end nobody listens any more.
        let tell = move |address: SocketAddr| {
            let _ = failed.send(address);
        };
        weft_relay::io::StunServer::start_watched(*address, tell)
            .map_err(|error| port_failure("UDP", *address, &error))
    };
    addresses.iter().map(start).collect::<Result<_, _>>().map(Answering::Stun)
}

fn relay_too(
    wanted: &Wanted,
    addresses: &[SocketAddr],
    failed: &Failed,
) -> Result<Answering, Failure> {
    let (server, shared) = wanted.start(addresses).map_err(|error| {
        let address = error.address.or_else(|| addresses.first().copied());
        match address {
            Some(address) => port_failure("UDP", address, &error.cause),
            None => Failure::new(Code::ServeListen, "the relay cannot be started")
                .with(Label::Cause, error.to_string()),
        }
    })?;
    let (waited, failed) = (Arc::clone(&server), failed.clone());
    let address = server.addresses().first().copied();
    // Ends with the relay's own thread, or with the process.
    std::thread::spawn(move || {
        waited.wait();
        // At the end nobody listens any more.
        address.map(|address| failed.send(address))
    });
    Ok(Answering::Relay(server, Box::new(shared)))
}

/// Binds; where the system has no IPv6, its wildcard means IPv4's.
fn bind_either<T>(
    address: SocketAddr,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    const NO_FAMILY: i32 = 97; // EAFNOSUPPORT
    let bound = bind(address);
    let no_ipv6 = |error: &io::Error| {
        error.raw_os_error() == Some(NO_FAMILY) || error.kind() == io::ErrorKind::AddrNotAvailable
    };
    match bound {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&error) => {
            bind(SocketAddr::from(([0, 0, 0, 0], address.port())))
        }
        other => other,
    }
}

fn port_failure(protocol: &str, address: SocketAddr, error: &io::Error) -> Failure {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let holder = holder::of_tcp_port(address).filter(|_| protocol == "TCP");
            let holder = holder.unwrap_or_else(|| "another process".to_owned());
            Failure::new(Code::ServePortInUse, format!("{protocol} {port} is taken by {holder}"))
                .param("port", port)
                .attempt("weft-coordinator serve --listen ADDR:PORT")
        }
        io::ErrorKind::PermissionDenied => {
            let message = format!("port {port} needs CAP_NET_BIND_SERVICE{}", by_whom());
            Failure::new(Code::ServePortDenied, message)
                .attempt("use the packaged weft-coordinator.service")
        }
        _ => Failure::new(Code::ServeListen, format!("{protocol} {address} cannot be listened on"))
            .with(Label::Cause, error.to_string()),
    }
}

async fn run(site: &Site<'_>, store: SharedStore) -> Result<Ended, Failure> {
    let Site { config, public, place, secrets, .. } = *site;
    let mut signals = Signals::new()?;
    // Read anew: before it was opened the database may not have been readable.
    let owner = store.installation().await.map_err(|error| unreadable(place, &error))?.coordinator;
    let behind = key_change::check(place, secrets, &owner)?;
    if behind {
        let by = By { actor: Actor::coordinator(), at: UnixMs(SystemClock.unix_ms()) };
        let followed = store.key_switched(secrets.public(), secrets.generation, by);
        followed.await.map_err(|error| unreadable(place, &error))?;
        tracing::warn!(generation = secrets.generation, "serve.key-followed");
    }
    let (failed, mut failures) = mpsc::unbounded_channel();
    let mut relays = relays::read(&config.relays)?;
    let own = site.with_relay().await?;
    let Doors { listeners, answering, socket } = bind(config, own.as_ref(), &failed)?;
    let mut tasks = JoinSet::new();
    let stun = match answering {
        Answering::Stun(stun) => stun,
        Answering::Relay(server, shared) => {
            with_relay::join(&mut relays, *shared)?;
            let watched = with_relay::watch(server, Arc::clone(&store), store.changes());
            tasks.spawn(async move { match watched.await {} });
            Vec::new()
        }
    };
    let secrets_of_relays =
        relays::announce(&store, relays, |error| unreadable(place, error)).await?;
    let limits = site.files.map_or_else(Limits::default, Limits::within);
    let Works { channel, link, rotations, routes, behind, external } =
        works(site, &store, limits, secrets_of_relays).await?;

    let (stop, stopping) = watch::channel(false);
    let (changes, applied) = (store.changes(), store.applied());
    tasks.spawn(async move { match rotations.run(changes, applied).await {} });
    let changes = store.changes();
    let told = Arc::clone(&channel);
    tasks.spawn(async move { match told.run(changes).await {} });
    let announced = stun::run(Arc::clone(&store), public.clone());
    tasks.spawn(async move { match announced.await {} });
    look_after_relays(&mut tasks, link, &store);
    if let Some(external) = external {
        let inbound: Arc<dyn Inbound> = Arc::clone(&channel) as _;
        let hub = Arc::clone(behind.broker.hub());
        tasks.spawn(async move { match external.run(inbound, hub).await {} });
    }
    let known = store.relays().await.map_err(|error| unreadable(place, &error))?;
    say_where(config, place, secrets, &listeners, &known);
    for (listener, _) in listeners {
        let behind = Arc::clone(&behind);
        tasks.spawn(async move { match listener.run(behind).await {} });
    }
    let mut commands = tokio::spawn(socket.serve(routes, stopped(stopping)));
    say_ready(&store, site, &limits).await?;

    let status = tokio::select! {
        status = signals.next() => status,
        Some(ended) = tasks.join_next() => return Err(ended_by_itself(ended)),
        ended = &mut commands => return Err(ended_by_itself(ended)),
        Some(address) = failures.recv() => {
            let cause = format!("the socket of UDP {address} failed");
            return Err(ended_by_itself(Ok(Err(io::Error::other(cause)))));
        }
    };
    // Nobody new comes, and whoever is here is told and may end.
    tasks.abort_all();
    let told = behind.broker.hub().len();
    // Nobody who listens any more is no error here.
    let _ = stop.send(true);
    behind.broker.stop();
    drop(stun);
    let over = async { tokio::join!(behind.broker.hub().emptied(), &mut commands) };
    match tokio::time::timeout(GRACE, over).await {
        Ok(((), Ok(Ok(())))) => {}
        Ok(((), Ok(Err(error)))) => tracing::warn!(%error, "serve.socket"),
        Ok(((), Err(error))) => tracing::warn!(%error, "serve.socket"),
        Err(_) => {
            let left = behind.broker.hub().len();
            tracing::warn!(left, seconds = GRACE.as_secs(), "serve.cut-off");
            commands.abort();
        }
    }
    Ok(Ended { status, told })
}

/// Checks relays, and tells them what is decided.
fn look_after_relays(
    tasks: &mut JoinSet<io::Result<()>>,
    link: Arc<RelayLink>,
    store: &SharedStore,
) {
    let checks = relay_check::run(Arc::clone(&link), RANDOM);
    tasks.spawn(async move { match checks.await {} });
    let changes = store.changes();
    tasks.spawn(async move { match link.run(changes).await {} });
}

fn ended_by_itself(ended: Result<io::Result<()>, JoinError>) -> Failure {
    let cause = match ended {
        Ok(Ok(())) => "a part ended".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    Failure::new(Code::ServeStopped, "the coordinator stopped by itself").with(Label::Cause, cause)
}

/// The parts that serve, joined.
struct Works {
    channel: Arc<Channel>,
    link: Arc<RelayLink>,
    rotations: Rotations,
    routes: Router,
    behind: Arc<Behind>,
    external: Option<External>,
}

async fn works(
    site: &Site<'_>,
    store: &SharedStore,
    limits: Limits,
    relays: RelaySecrets,
) -> Result<Works, Failure> {
    let Site { config, public, place, secrets, .. } = *site;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let hub = Arc::new(Hub::default());
    let foreign = config.broker.as_ref().map(broker::parts).transpose()?;
    let (external, foreign) = foreign.map(|parts| (parts.external, parts.devices)).unzip();
    let bus: Arc<dyn Bus> = match &external {
        Some(external) => Arc::new(Joined::new(Arc::clone(&hub), external.clone())),
        None => Arc::new(Embedded::new(Arc::clone(&hub))),
    };
    let refusals = Arc::new(Refusals::default());
    let parts = Parts {
        store: Arc::clone(store),
        secrets: Arc::clone(secrets),
        bus,
        clock: Arc::clone(&clock),
        refusals: Arc::clone(&refusals),
        random: RANDOM,
        relays,
        handshakes: config.threads,
        heartbeat_s: config.heartbeat_s,
    };
    let channel =
        Channel::new(parts, monotonic()).await.map_err(|error| unreadable(place, &error))?;
    let channel = Arc::new(channel);
    let (tls, pinned) = tls::open(&config.tls, place, &public.host)?;
    let link = Arc::new(RelayLink::new(relay_link::Parts {
        store: Arc::clone(store),
        secrets: Arc::clone(secrets),
        clock: Arc::clone(&clock),
        random: RANDOM,
        inside: site.with_relay.is_some().then_some(with_relay::NAME),
    }));
    let operator = Arc::new(Operator {
        store: Arc::clone(store),
        secrets: Arc::clone(secrets),
        presence: Arc::clone(channel.presence()) as _,
        commands: Arc::new(channel.commands().clone()),
        refusals,
        clock: Arc::clone(&clock),
        addresses: config.offers(public).iter().filter_map(Offer::address).collect(),
        spki: pinned.then(|| tls.spki()),
        account: foreign,
        relays: Arc::clone(&link) as _,
        posts: config.posts(public).iter().filter_map(Offer::address).collect(),
        random: RANDOM,
    });
    let inbound: Arc<dyn Inbound> = Arc::clone(&channel) as _;
    let posts = post::Posts::new(Arc::clone(&inbound), Arc::clone(&hub));
    let broker = Broker::new(hub, inbound, Arc::clone(secrets) as _, clock);
    let broker = Arc::new(broker.with_ping(config.ping_s));
    let meters = Meters {
        channel: Arc::clone(&channel),
        broker: Arc::clone(&broker),
        listen: Arc::new(Stats::default()),
        places: Places::new(limits),
        posts: posts.dropped(),
        external: external.clone(),
    };
    let (stats, places) = (Arc::clone(&meters.listen), Arc::clone(&meters.places));
    let pages = metrics::routes(meters).merge(relay_post::routes(Arc::clone(&link)));
    let routes = http::router(operator, pages, post::declare(), posts);
    let front = Front::new(routes.clone());
    let behind = Arc::new(Behind { broker, front, tls, places, stats });
    let age = Duration::from_secs(u64::from(config.key_days) * 86_400);
    let age = (age > Duration::ZERO).then_some(age);
    let presence = Arc::clone(channel.presence()) as _;
    let rotations = Rotations::new(Arc::clone(store), presence, Arc::new(SystemClock), age);
    Ok(Works { channel, link, rotations, routes, behind, external })
}

fn unreadable(place: &Place, error: &StoreError) -> Failure {
    let message = format!("{} cannot be read", place.database.display());
    Failure::new(Code::ServeDbCorrupt, message).with(Label::Cause, error.to_string())
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // A sender that is gone says the same.
    let _ = stopping.wait_for(|stop| *stop).await;
}

fn say_where(
    config: &Config,
    place: &Place,
    secrets: &Secrets,
    listeners: &[(Listener, SocketAddr)],
    relays: &[Relay],
) {
    ui::note(format!(
        "weft-coordinator {VERSION}, key {}, data {} (schema {SCHEMA})",
        fingerprint(secrets),
        place.data.display()
    ));
    for (_, address) in listeners {
        ui::note(format!(
            "  devices   mqtt and http, plain or in TLS, {address} tcp   stun {} udp",
            address.port()
        ));
    }
    if let Some(broker) = &config.broker {
        let (address, user) = (broker.address.authority(), &broker.own.user);
        ui::note(format!("  broker    mqtt {address} as {user}"));
    }
    for relay in relays.iter().filter(|relay| relay.is.has_place()) {
        ui::note(format!("  relay     {}", relay.is));
    }
    ui::note(format!("  commands  {}", config.socket.display()));
}

async fn say_ready(store: &SharedStore, site: &Site<'_>, limits: &Limits) -> Result<(), Failure> {
    let unreadable = |error: StoreError| unreadable(site.place, &error);
    let networks = store.networks().await.map_err(unreadable)?;
    let devices = store.devices().await.map_err(unreadable)?;
    // A plain WireGuard peer holds no connection here.
    let agents = devices.iter().filter(|device| device.agent().is_some()).count();
    files::warn(site.files, limits, agents);
    let took = span(monotonic().saturating_duration_since(site.started));
    let networks = count(networks.len(), "network");
    ui::note(format!("ready in {took}: {}, {networks}", count(devices.len(), "device")));
    Ok(())
}

/// What ends a server: systemd's SIGTERM, or Ctrl-C.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Code::ServeListen, "signals cannot be caught")
                    .with(Label::Cause, error.to_string())
            })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// The exit status that the signal stands for.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.terminate.recv() => 0,
            _ = self.interrupt.recv() => 130,
        }
    }
}
