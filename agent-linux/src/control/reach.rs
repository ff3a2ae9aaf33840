//! One way to the coordinator, from its name to the end of its connection:
//! resolve, connect, wrap, then what is spoken inside.

use core::cell::{Cell, OnceCell};
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

use embassy_time::{Duration, Timer, with_timeout};
use weft_wire::join::Carrier;

use crate::control::failure::{self, Attempt, Reason};
use crate::control::line::{Lane, Login, Shared};
use crate::control::mqtt;
use crate::control::post;
use crate::control::stream::Stream;
use crate::control::tls::Tls;
use crate::control::traffic::Traffic;
use crate::control::wait::Waiting;
use crate::control::way::Way;
use crate::net::nat64::Prefix;
use crate::net::resolver::{self, Resolved};
use crate::net::tcp::{Race, Standing};
use crate::os::clock;

/// How long all addresses of one name may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the TLS handshake may take, and the answer to WebSocket's request.
const WRAP_TIMEOUT: Duration = Duration::from_secs(10);

/// TLS of all ways, made when the first one wants it.
pub(super) struct TlsSource {
    pin: Option<[u8; 32]>,
    made: OnceCell<Tls>,
}

impl TlsSource {
    /// With the pinned key's SHA-256, if there is one.
    pub(super) const fn new(pin: Option<[u8; 32]>) -> Self {
        Self { pin, made: OnceCell::new() }
    }

    fn get(&self) -> Result<&Tls, rustls::Error> {
        if let Some(tls) = self.made.get() {
            return Ok(tls);
        }
        let tls = Tls::new(self.pin)?;
        Ok(self.made.get_or_init(|| tls))
    }
}

/// Where IPv4 addresses lie for a host that has none.
#[derive(Default)]
pub(super) struct Translation {
    pub(super) prefix: Cell<Option<Prefix>>,
    /// The network's name server has not answered yet.
    pub(super) is_asked: Cell<bool>,
}

/// What every connection of a way needs.
pub(super) struct Reach {
    pub(super) shared: Rc<Shared>,
    pub(super) way: Way,
    pub(super) tls: Rc<TlsSource>,
    pub(super) translation: Rc<Translation>,
    pub(super) traffic: Rc<Traffic>,
    /// What the line promises over MQTT: something within so many seconds.
    pub(super) keepalive_s: u16,
}

/// Runs until the line is closed (`Ok`), lost, or the way leads nowhere.
pub(super) async fn run(reach: Reach, login: Login) -> Result<(), Attempt> {
    let mut resolved = None;
    let served = serve(&reach, &login, &mut resolved).await;
    reach.shared.local.set(None);
    served.map_err(|reason| Attempt {
        way: reach.way,
        resolved: resolved.map(|address| address.ip().to_string()),
        reason,
    })
}

async fn serve(
    reach: &Reach,
    login: &Login,
    resolved: &mut Option<SocketAddr>,
) -> Result<(), Reason> {
    let stream = reach.open(Lane::Speak, resolved).await?;
    match reach.way.carrier {
        Carrier::Mqtt | Carrier::Mqtts | Carrier::Wss => {
            mqtt::serve(&reach.shared, stream, login, reach.keepalive_s).await
        }
        Carrier::Https => post::serve(reach, stream, login).await,
    }
}

impl Reach {
    /// Opens a connection, wrapped as the carrier wants it.
    pub(super) async fn open(
        &self,
        lane: Lane,
        resolved: &mut Option<SocketAddr>,
    ) -> Result<Stream, Reason> {
        let addresses = self.resolve(lane).await?;
        *resolved = addresses.first().copied();
        let addresses = self.translate(addresses).await;
        let (address, tcp) = self.connect(lane, addresses).await?;
        *resolved = Some(address);
        // A connection whose own end is not known is only lost later.
        self.shared.local.set(tcp.local_addr().ok());
        let waiting = Rc::clone(self.shared.waiting(lane));
        let traffic = Rc::clone(&self.traffic);
        let mut stream = Stream::new(tcp, waiting, traffic, Rc::clone(&self.shared.first));
        if self.way.is_tls() {
            let wrapped = with_timeout(WRAP_TIMEOUT, self.wrap(&mut stream)).await;
            let slow = || Reason::Lost("the TLS handshake took longer than 10 s".to_owned());
            wrapped.unwrap_or_else(|_| Err(slow()))?;
        }
        Ok(stream)
    }

    async fn wrap(&self, stream: &mut Stream) -> Result<(), Reason> {
        let http = matches!(self.way.carrier, Carrier::Wss | Carrier::Https);
        let tls = self.tls.get().and_then(|tls| tls.connect(self.way.host(), http));
        let tls = tls.map_err(|error| Reason::Lost(format!("TLS cannot be used: {error}")))?;
        stream.shake(tls).await?;
        if self.way.carrier == Carrier::Wss {
            stream.upgrade(&self.way.authority).await?;
        }
        Ok(())
    }

    async fn resolve(&self, lane: Lane) -> Result<Vec<SocketAddr>, Reason> {
        let authority = &self.way.authority;
        if let Ok(address) = authority.parse() {
            return Ok(vec![address]);
        }
        let told = |error: &io::Error| Reason::Name(Some(failure::words(error)));
        let lookup = resolver::resolve(authority.to_owned()).map_err(|error| told(&error))?;
        let waiting = self.shared.waiting(lane);
        waiting.replace(Waiting::Name(lookup));
        let answer = poll_fn(|_| match &*waiting.borrow() {
            Waiting::Name(lookup) => match lookup.take() {
                Resolved::Waiting => Poll::Pending,
                Resolved::Addresses(addresses) => Poll::Ready(Ok(addresses)),
                Resolved::Failed(error) => Poll::Ready(Err(told(&error))),
            },
            _ => Poll::Ready(Err(Reason::Name(None))),
        });
        let answer = with_timeout(Duration::from_micros(resolver::TIMEOUT_US), answer).await;
        waiting.take();
        answer.unwrap_or(Err(Reason::Name(None)))
    }

    /// As this host reaches them.
    async fn translate(&self, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let Translation { prefix, is_asked } = &*self.translation;
        if addresses.iter().all(SocketAddr::is_ipv4) {
            let told = poll_fn(|_| if is_asked.get() { Poll::Pending } else { Poll::Ready(()) });
            // Without an answer they are tried as they are.
            let _late = with_timeout(Duration::from_micros(resolver::TIMEOUT_US), told).await;
        }
        let there = |address| prefix.get().map_or(address, |prefix| prefix.outwards(address));
        addresses.into_iter().map(there).collect()
    }

    async fn connect(
        &self,
        lane: Lane,
        addresses: Vec<SocketAddr>,
    ) -> Result<(SocketAddr, TcpStream), Reason> {
        let race = Race::new(addresses, clock::boot_micros());
        let waiting = self.shared.waiting(lane);
        waiting.replace(Waiting::Connect(race));
        let mut stagger = None;
        let winner = poll_fn(|context| {
            let Waiting::Connect(race) = &mut *waiting.borrow_mut() else {
                return Poll::Ready(Err(Reason::Silent(None)));
            };
            match race.advance(clock::boot_micros()) {
                Standing::Won(address, stream) => Poll::Ready(Ok((address, stream))),
                Standing::Lost(error) => Poll::Ready(Err(failure::connect_reason(&error))),
                Standing::Running => {
                    // The timer only makes the loop come back when the next is due.
                    stagger = race.deadline().map(|at| {
                        let at = embassy_time::Instant::from_micros(at);
                        Timer::at(at)
                    });
                    if let Some(timer) = &mut stagger {
                        let _ = pin!(timer).poll(context);
                    }
                    Poll::Pending
                }
            }
        });
        let winner = with_timeout(CONNECT_TIMEOUT, winner).await;
        waiting.take();
        winner.unwrap_or(Err(Reason::Silent(None)))
    }
}
