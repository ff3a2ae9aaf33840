//! Starting the relay, and talking to it while it runs.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use crate::proto::turn::{Alternates, Counters, Settings, SharedSecret, Turn};

use super::health::Health;
use super::net::{Datagrams, Waker};
use super::stream::Door;
use super::tls::{self, Certificate};
use super::worker::Worker;

/// Buffers of the sockets that clients speak to, in bytes.
const BUFFER: i32 = 4 << 20;

/// An address that allocations have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    /// What sockets are bound to.
    pub bind: IpAddr,
    /// What peers see; another one behind a NAT that maps every port to itself.
    pub public: IpAddr,
}

impl RelayAddress {
    /// The address that somebody outside sees: this machine's own, or behind a NAT
    /// that maps every port to itself whichever it has.
    pub fn seen(public: IpAddr) -> Self {
        let is_own = std::net::UdpSocket::bind((public, 0)).is_ok();
        let any = match public {
            IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        Self { bind: if is_own { public } else { any }, public }
    }
}

/// What to start.
#[derive(Default)]
pub struct Config {
    /// UDP addresses for clients; port 0 lets the system choose.
    pub listen: Vec<SocketAddr>,
    /// TCP addresses for clients.
    pub tcp: Vec<SocketAddr>,
    /// TLS addresses for clients.
    pub tls: Vec<SocketAddr>,
    /// What they show; one that is made at the start if there is none.
    pub certificate: Option<Certificate>,
    /// Another port of the same addresses, for NAT discovery (RFC 5780).
    pub other_port: Option<u16>,
    /// Another address of this machine, for NAT discovery.
    pub other_address: Option<IpAddr>,
    /// Addresses of allocations, at most one of each family.
    pub relay: Vec<RelayAddress>,
    /// Where metrics and health are asked for, over HTTP.
    pub metrics: Option<SocketAddr>,
    /// Everything else.
    pub turn: Settings,
}

/// Why the relay did not start.
#[derive(Debug)]
pub struct StartError {
    /// What failed, as `listen on UDP`.
    pub what: &'static str,
    /// Where.
    pub address: Option<SocketAddr>,
    /// The system's word.
    pub cause: io::Error,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "cannot {} {address}: {}", self.what, self.cause),
            None => write!(f, "cannot {}: {}", self.what, self.cause),
        }
    }
}

impl std::error::Error for StartError {}

/// What the running relay is told.
pub(super) enum Order {
    Deny(String),
    Allow(String),
    Secrets(Vec<SharedSecret>),
    Drain(bool),
}

/// What the thread shows of itself.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) stop: AtomicBool,
    pub(super) draining: AtomicBool,
    pub(super) failed: AtomicBool,
    pub(super) allocations: AtomicU64,
    pub(super) users: AtomicU64,
    /// Packets that the system did not take.
    pub(super) lost: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) connections_made: AtomicU64,
    pub(super) connections_dropped: AtomicU64,
    pub(super) values: Values,
    /// Whether the thread has ended, for who waits.
    ended: (Mutex<bool>, Condvar),
}

/// The counters' last values.
pub(super) struct Values([AtomicU64; Counters::COUNT]);

impl Default for Values {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Counters::COUNT])
    }
}

impl Values {
    pub(super) fn store(&self, counters: &Counters) {
        for (place, value) in self.0.iter().zip(counters.values()) {
            place.store(value, Ordering::Relaxed);
        }
    }

    fn load(&self) -> Counters {
        Counters::from_values(self.0.each_ref().map(|value| value.load(Ordering::Relaxed)))
    }
}

/// How the relay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Allocations at this moment.
    pub allocations: u64,
    /// Users who have one.
    pub users: u64,
    /// Packets that the system did not take, since the start.
    pub lost: u64,
    /// TCP and TLS connections at this moment.
    pub connections: u64,
    /// Connections taken since the start.
    pub connections_made: u64,
    /// Connections turned away, or ended for being idle or too slow.
    pub connections_dropped: u64,
    /// Whether new allocations are refused.
    pub is_draining: bool,
    /// Whether its thread ended by itself.
    pub has_failed: bool,
}

impl Shared {
    pub(super) fn status(&self) -> Status {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        Status {
            allocations: load(&self.allocations),
            users: load(&self.users),
            lost: load(&self.lost),
            connections: load(&self.connections),
            connections_made: load(&self.connections_made),
            connections_dropped: load(&self.connections_dropped),
            is_draining: self.draining.load(Ordering::Relaxed),
            has_failed: self.failed.load(Ordering::Acquire),
        }
    }

    pub(super) fn counters(&self) -> Counters {
        self.values.load()
    }
}

/// A running relay; dropping it ends its threads and all allocations.
pub struct Server {
    addresses: Vec<SocketAddr>,
    doors: Vec<SocketAddr>,
    metrics: Option<SocketAddr>,
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
    _health: Option<Health>,
}

impl Server {
    /// Binds everything and relays until the server is dropped.
    ///
    /// # Errors
    ///
    /// [`StartError`] says what could not be bound or made.
    pub fn start(mut config: Config) -> Result<Self, StartError> {
        let failed = |what, address| move |cause| StartError { what, address, cause };
        let (sockets, alternates) = bind(&config)?;
        let addresses = sockets
            .iter()
            .map(Datagrams::address)
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed("read the address of a socket", None))?;
        config.turn.alternates = alternates;
        config.turn.listeners.clone_from(&addresses);
        let own = addresses.iter().map(SocketAddr::ip).chain(config.relay.iter().map(|a| a.bind));
        config.turn.own.extend(own.filter(|ip| !ip.is_unspecified()));
        let mut bind = [None; 2];
        for address in &config.relay {
            match address.public {
                IpAddr::V4(ip) => config.turn.relay_v4 = Some(ip),
                IpAddr::V6(ip) => config.turn.relay_v6 = Some(ip),
            }
            bind[usize::from(address.public.is_ipv6())] = Some(address.bind);
        }
        let doors = open_doors(&config)?;
        let door_addresses = doors
            .iter()
            .map(Door::address)
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed("read the address of a socket", None))?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|error| failed("draw random numbers", None)(io::Error::other(error)))?;
        let turn = Turn::new(config.turn, &seed);
        let shared = Arc::new(Shared::default());
        let waker = Arc::new(Waker::new().map_err(failed("make an event descriptor", None))?);
        let (orders, heard) = mpsc::channel();
        let health = match config.metrics {
            None => None,
            Some(address) => {
                let health = Health::start(address, Arc::clone(&shared));
                Some(health.map_err(failed("listen on TCP", Some(address)))?)
            }
        };
        let for_thread = (Arc::clone(&shared), Arc::clone(&waker));
        let thread = std::thread::Builder::new().name("weft-relay".to_owned()).spawn(move || {
            let (shared, waker) = for_thread;
            let _watch = Watch(Arc::clone(&shared));
            // Its boxes hold pointers to one another, so it is made where it runs.
            if let Ok(mut worker) = Worker::new(turn, sockets, doors, bind, &waker, heard, &shared)
            {
                worker.run();
            }
        });
        Ok(Self {
            addresses,
            doors: door_addresses,
            metrics: health.as_ref().map(Health::address),
            shared,
            orders,
            waker,
            thread: Some(thread.map_err(failed("start a thread", None))?),
            _health: health,
        })
    }

    /// Where it listens over UDP, in the order of the settings; those for NAT
    /// discovery behind them.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it listens over TCP, and behind these over TLS, in the order of the
    /// settings.
    pub fn stream_addresses(&self) -> &[SocketAddr] {
        &self.doors
    }

    /// Where metrics and health are asked for.
    pub const fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Ends this user's allocations now and refuses the user until
    /// [`Server::allow`]. `name` is what stands behind the expiry.
    pub fn deny(&self, name: &str) {
        self.order(Order::Deny(name.to_owned()));
    }

    /// Takes a denied user back.
    pub fn allow(&self, name: &str) {
        self.order(Order::Allow(name.to_owned()));
    }

    /// Takes other secrets from now on; allocations stay.
    pub fn set_secrets(&self, secrets: Vec<SharedSecret>) {
        self.order(Order::Secrets(secrets));
    }

    /// Refuses new allocations, or takes them again. When [`Status::allocations`]
    /// is 0 the server can be dropped without cutting anybody off.
    pub fn drain(&self, draining: bool) {
        self.shared.draining.store(draining, Ordering::Relaxed);
        self.order(Order::Drain(draining));
    }

    /// Waits until the relay's thread ends by itself, which it does when its
    /// sockets fail and at no other time.
    pub fn wait(&self) {
        let mut ended = self.shared.ended.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended {
            ended = self.shared.ended.1.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// How it is.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    fn order(&self, order: Order) {
        // A thread that has ended relays nothing that could be denied; `status`
        // tells of it.
        let _ = self.orders.send(order);
        self.waker.wake();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by the panic hook.
            let _ended = thread.join();
        }
    }
}

/// Tells of a thread that ends by itself, also when it panics.
struct Watch(Arc<Shared>);

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.0.stop.load(Ordering::Acquire) {
            self.0.failed.store(true, Ordering::Release);
        }
        *self.0.ended.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.ended.1.notify_all();
    }
}

/// All ports for connections.
fn open_doors(config: &Config) -> Result<Vec<Door>, StartError> {
    let bind = |what, address: SocketAddr, tls| {
        Door::bind(address, tls).map_err(|cause| StartError { what, address: Some(address), cause })
    };
    let mut doors = Vec::new();
    for address in &config.tcp {
        doors.push(bind("listen on TCP", *address, None)?);
    }
    if config.tls.is_empty() {
        return Ok(doors);
    }
    let what = "use the certificate for TLS";
    let shown = tls::server(config.certificate.as_ref()).map_err(|cause| StartError {
        what,
        address: None,
        cause,
    })?;
    for address in &config.tls {
        doors.push(bind("listen on TLS", *address, Some(Arc::clone(&shown)))?);
    }
    Ok(doors)
}

/// All UDP sockets, and for each the other ones of NAT discovery.
fn bind(config: &Config) -> Result<(Vec<Datagrams>, Vec<Alternates>), StartError> {
    let open = |address: SocketAddr| {
        let what = "listen on UDP";
        Datagrams::bind(address, Some(BUFFER)).map_err(|cause| StartError {
            what,
            address: Some(address),
            cause,
        })
    };
    let mut sockets = Vec::new();
    for address in &config.listen {
        sockets.push(open(*address)?);
    }
    let mut alternates = vec![Alternates::default(); sockets.len()];
    if config.other_port.is_none() && config.other_address.is_none() {
        return Ok((sockets, alternates));
    }
    for base in 0..config.listen.len() {
        let asked = config.listen[base];
        let first = sockets[base].address().unwrap_or(asked);
        let other_ip = config.other_address.filter(|ip| ip.is_ipv4() == first.is_ipv4());
        // [base, other port, other address, both]
        let mut places = [Some(base), None, None, None];
        let wanted = [
            None,
            config.other_port.map(|port| SocketAddr::new(first.ip(), port)),
            other_ip.map(|ip| SocketAddr::new(ip, first.port())),
            config.other_port.and_then(|port| Some(SocketAddr::new(other_ip?, port))),
        ];
        for (place, address) in places.iter_mut().zip(wanted) {
            if let Some(address) = address {
                *place = Some(sockets.len());
                sockets.push(open(address)?);
            }
        }
        alternates.resize(sockets.len(), Alternates::default());
        // Bit 0 is the port, bit 1 the address.
        for (bits, place) in places.iter().enumerate() {
            let other = |change: usize| places[bits ^ change].and_then(|at| u8::try_from(at).ok());
            if let Some(place) = place {
                alternates[*place] =
                    Alternates { port: other(1), address: other(2), both: other(3) };
            }
        }
    }
    Ok((sockets, alternates))
}
