//! `serve`: builds the parts, joins them, and ends them in order.

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::format::{count, span};
use crate::cli::ui;
use crate::config::Config;
use crate::config::public::Public;
use crate::domain::audit::Actor;
use crate::domain::time::UnixMs;
use crate::failure::{Code, Failure, Label};
use crate::service::bus::{Bus, Inbound};
use crate::service::channel::{Channel, Parts};
use crate::service::clock::Clock;
use crate::service::operator::Operator;
use crate::service::seams::Refusals;
use crate::service::secrets::Secrets;
use crate::store::sqlite::{SCHEMA, SqliteStore};
use crate::store::{By, SharedStore, StoreError};
use crate::transport::http::unix::Socket;
use crate::transport::listen::{Behind, Front, Limits, Listener, Places, Stats};
use crate::transport::mqtt::hub::Hub;
use crate::transport::mqtt::{Broker, Embedded};
use crate::transport::{http, post};

use super::clock::{RANDOM, SystemClock, monotonic};
use super::holder;
use super::place::{Place, VERSION, fingerprint};

/// Threads that may block: readers of the database, and name look-ups.
const BLOCKING_THREADS: usize = 6;
/// Stack of every thread; handlers keep their state on the heap.
const STACK: usize = 1 << 20;
/// How long open requests and connections have at the end.
const GRACE: Duration = Duration::from_secs(5);
/// How long the own name may take to resolve.
const RESOLVE: Duration = Duration::from_secs(5);

/// Runs the coordinator until it is told to stop; gives the exit status.
///
/// # Errors
///
/// `serve.…`.
pub(crate) fn serve(config: &Config) -> Result<u8, Failure> {
    let started = monotonic();
    let now = UnixMs(SystemClock.unix_ms());
    if now.0 == 0 {
        tracing::warn!(fix = "timedatectl set-ntp true", "serve.clock");
    }
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
    let ended = runtime.block_on(run(config, public, &place, shared, &secrets, started));
    runtime.shutdown_timeout(GRACE);
    // The last one: the writer ends what waits and closes the database.
    drop(store);
    ended
}

fn open(place: &Place, secrets: &Secrets, now: UnixMs) -> Result<Arc<SqliteStore>, Failure> {
    if let Some((owner, _)) = place.key_of_database()
        && owner != secrets.public()
    {
        let (own, owner) = (fingerprint(secrets), weft_noise::mac::fingerprint(&owner));
        let message = format!(
            "the key file is {own}, the database belongs to {owner}: one of them is from another installation"
        );
        return Err(Failure::new(Code::ServeKeyMismatch, message));
    }
    let store = SqliteStore::open(&place.database, now);
    store.map(Arc::new).map_err(|error| place.database_failure(&error))
}

/// Everything that faces the network, bound but not served yet.
struct Doors {
    listeners: Vec<(Listener, SocketAddr)>,
    stun: Vec<weft_relay::io::Server>,
    socket: Socket,
}

fn bind(config: &Config) -> Result<Doors, Failure> {
    let mut listeners = Vec::new();
    let mut stun = Vec::new();
    for wanted in &config.listen {
        let listener = bind_either(*wanted, Listener::bind)
            .map_err(|error| port_failure("TCP", *wanted, &error))?;
        let address = listener.local_addr().unwrap_or(*wanted);
        // The same number, also where the system chose it.
        let server = bind_either(
            SocketAddr::new(wanted.ip(), address.port()),
            weft_relay::io::Server::start,
        );
        stun.push(server.map_err(|error| port_failure("UDP", address, &error))?);
        listeners.push((listener, address));
    }
    let socket = Socket::bind(&config.socket).map_err(|error| {
        let path = config.socket.display();
        let code = if error.kind() == io::ErrorKind::AddrInUse {
            Code::ServePortInUse
        } else {
            Code::ServeSocket
        };
        let message = format!("the socket {path} cannot be made");
        Failure::new(code, message)
            .with(Label::Cause, error.to_string())
            .attempt("weft-coordinator serve --socket PATH")
    })?;
    Ok(Doors { listeners, stun, socket })
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
            Failure::new(Code::ServePortDenied, format!("port {port} needs CAP_NET_BIND_SERVICE"))
                .attempt("use the packaged weft-coordinator.service")
        }
        _ => Failure::new(Code::ServeListen, format!("{protocol} {address} cannot be listened on"))
            .with(Label::Cause, error.to_string()),
    }
}

async fn run(
    config: &Config,
    public: &Public,
    place: &Place,
    store: SharedStore,
    secrets: &Arc<Secrets>,
    started: Instant,
) -> Result<u8, Failure> {
    let mut signals = Signals::new()?;
    let Doors { listeners, stun, socket } = bind(config)?;
    announce_stun(&store, public).await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let hub = Arc::new(Hub::default());
    let bus: Arc<dyn Bus> = Arc::new(Embedded::new(Arc::clone(&hub)));
    let refusals = Arc::new(Refusals::default());
    let parts = Parts {
        store: Arc::clone(&store),
        secrets: Arc::clone(secrets),
        bus,
        clock: Arc::clone(&clock),
        refusals: Arc::clone(&refusals),
        random: RANDOM,
        handshakes: config.threads,
    };
    let channel =
        Channel::new(parts, monotonic()).await.map_err(|error| unreadable(place, &error))?;
    let channel = Arc::new(channel);
    let operator = Arc::new(Operator {
        store: Arc::clone(&store),
        secrets: Arc::clone(secrets),
        presence: Arc::clone(channel.presence()) as _,
        commands: Arc::new(channel.commands().clone()),
        refusals,
        clock: Arc::clone(&clock),
        authorities: vec![public.authority()],
        random: RANDOM,
    });
    let inbound: Arc<dyn Inbound> = Arc::clone(&channel) as _;
    let posts = post::Posts::new(Arc::clone(&inbound), Arc::clone(&hub));
    let routes = http::router(operator, post::declare(), posts);
    let broker = Arc::new(Broker::new(hub, inbound, Arc::clone(secrets) as _, clock));
    let behind = Arc::new(Behind {
        broker: Arc::clone(&broker),
        front: Front::new(routes.clone()),
        places: Places::new(Limits::default()),
        stats: Stats::default(),
    });

    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let changes = store.changes();
    tasks.spawn(async move { match channel.run(changes).await {} });
    say_where(config, place, secrets, &listeners);
    for (listener, _) in listeners {
        let behind = Arc::clone(&behind);
        tasks.spawn(async move { match listener.run(behind).await {} });
    }
    tasks.spawn(socket.serve(routes, stopped(stopping)));
    say_ready(&store, place, started).await?;

    let status = tokio::select! {
        status = signals.next() => status,
        Some(ended) = tasks.join_next() => {
            let cause = match ended {
                Ok(Ok(())) => "a part ended".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            return Err(Failure::new(Code::ServeStopped, "the coordinator stopped by itself").with(Label::Cause, cause));
        }
    };
    // Nobody listens any more is no error here.
    let _ = stop.send(true);
    broker.stop();
    drop(stun);
    ui::note("stopping: connections closed, database closed");
    Ok(status)
}

fn unreadable(place: &Place, error: &StoreError) -> Failure {
    let message = format!("{} cannot be read", place.database.display());
    Failure::new(Code::ServeDbCorrupt, message).with(Label::Cause, error.to_string())
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // A sender that is gone says the same.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Tells every map where STUN is. A name that does not resolve now leaves what
/// was told before.
async fn announce_stun(store: &SharedStore, public: &Public) {
    let look_up = tokio::net::lookup_host((public.host.clone(), public.port));
    let found: io::Result<Vec<SocketAddr>> = match tokio::time::timeout(RESOLVE, look_up).await {
        Ok(found) => found.map(|addresses| addresses.take(weft_wire::map::SERVERS).collect()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let mut servers = match found {
        Ok(servers) => servers,
        Err(error) => {
            tracing::warn!(name = public.host, %error, "serve.own-name");
            return;
        }
    };
    servers.sort();
    servers.dedup();
    let by = By { actor: Actor::coordinator(), at: UnixMs(SystemClock.unix_ms()) };
    if let Err(error) = store.set_servers(servers, by).await {
        tracing::warn!(%error, "serve.servers");
    }
}

fn say_where(
    config: &Config,
    place: &Place,
    secrets: &Secrets,
    listeners: &[(Listener, SocketAddr)],
) {
    ui::note(format!(
        "weft-coordinator {VERSION}, key {}, data {} (schema {SCHEMA})",
        fingerprint(secrets),
        place.data.display()
    ));
    for (_, address) in listeners {
        ui::note(format!("  devices   mqtt and http {address} tcp   stun {} udp", address.port()));
    }
    ui::note(format!("  commands  {}", config.socket.display()));
}

async fn say_ready(store: &SharedStore, place: &Place, started: Instant) -> Result<(), Failure> {
    let unreadable = |error: StoreError| unreadable(place, &error);
    let networks = store.networks().await.map_err(unreadable)?;
    let devices = store.devices().await.map_err(unreadable)?.len();
    let took = span(monotonic().saturating_duration_since(started));
    let networks = count(networks.len(), "network");
    ui::note(format!("ready in {took}: {}, {networks}", count(devices, "device")));
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
