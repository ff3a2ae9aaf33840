//! A peer that behaves, in this process: it shakes hands again and again, as
//! WireGuard says, and notes how long each took.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use weft_noise::entropy::Entropy;
use weft_noise::key::StaticSecret;
use weft_noise::wg::cookie::Jar;
use weft_noise::wg::{
    self, INITIATION_LEN, InitiationSent, KEEPALIVE_LEN, Kind, LocalKey, Opener, RemoteKey, Sealer,
    Tai64n,
};
use weft_wire::id::{PublicKey, Secret};

use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::net::namespace::Namespace;

/// An initiation without an answer is repeated after this long (section 6.4 of
/// the paper). A cookie does not shorten it.
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// A handshake is given up after this long.
const GIVE_UP: Duration = Duration::from_secs(90);
/// Words of a replay window that nobody reads.
const WORDS: usize = 8;

/// The kernel's random numbers.
pub(super) struct Random;

impl Entropy for Random {
    fn fill(&mut self, out: &mut [u8]) {
        let read = std::fs::File::open("/dev/urandom")
            .and_then(|mut file| io::Read::read_exact(&mut file, out));
        assert!(read.is_ok(), "this system has no /dev/urandom");
    }
}

/// The peer.
pub(super) struct Peer {
    own: LocalKey,
    gateway: RemoteKey,
    socket: UdpSocket,
    jar: Jar,
    /// Steps of the last stamp, and the last index.
    stamp: u64,
    began: Instant,
}

impl Peer {
    /// New keys: the coordinator must know the public one first.
    pub(super) fn keys() -> StaticSecret {
        StaticSecret::generate(&mut Random)
    }

    /// The peer on its host, once the gateway's key is known.
    pub(super) fn new(
        namespace: &Namespace,
        secret: StaticSecret,
        gateway: &PublicKey,
        to: SocketAddr,
    ) -> Result<Self> {
        let own = LocalKey::new(secret);
        let gateway = own
            .remote(gateway)
            .map_err(|_| Failure::expectation("the gateway's key has low order"))?;
        let socket = open(namespace, to)?;
        // Only has to rise.
        let stamp = 1 << 36;
        Ok(Self { own, gateway, socket, jar: Jar::new(), stamp, began: clock::now() })
    }

    /// From now on from another port: nobody knows it there.
    pub(super) fn move_away(&mut self, namespace: &Namespace, to: SocketAddr) -> Result<()> {
        self.socket = open(namespace, to)?;
        self.jar = Jar::new();
        Ok(())
    }

    /// The gateway's address.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }

    /// A whole handshake, from the first initiation that is sent to the response
    /// that completes it; then a keepalive, which confirms it to the gateway.
    pub(super) fn shake_hands(&mut self) -> Result<Duration> {
        let began = clock::now();
        while began.elapsed() < GIVE_UP {
            let (mut sent, message) = self.initiation();
            self.socket.send(&message).during("send an initiation")?;
            if let Some(mut sealer) = self.answer(&mut sent)? {
                let took = began.elapsed();
                let mut keepalive = [0; KEEPALIVE_LEN];
                sealer
                    .seal(&mut keepalive, 0, usize::from(u16::MAX))
                    .map_err(|_| Failure::new("lab.internal", "a new session seals nothing"))?;
                self.socket.send(&keepalive).during("confirm a session")?;
                return Ok(took);
            }
        }
        Err(Failure::expectation("the honest peer got no session within 90 s"))
    }

    fn initiation(&mut self) -> (InitiationSent, [u8; INITIATION_LEN]) {
        self.stamp += 1;
        let stamp = Tai64n::from_steps(self.stamp);
        let mut message = [0; INITIATION_LEN];
        let index = self.stamp as u32;
        let sent = self.own.initiate(&self.gateway, index, stamp, &mut Random, &mut message);
        self.jar.attach(&mut message, self.micros());
        (sent, message)
    }

    fn micros(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// Waits for the answer to an initiation, until it is to be repeated.
    fn answer(&mut self, sent: &mut InitiationSent) -> Result<Option<Sealer>> {
        let until = clock::now() + REKEY_TIMEOUT;
        let mut buffer = [0; 2_048];
        loop {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left)).during("wait for an answer")?;
            let len = match self.socket.recv(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error).during("receive an answer"),
            };
            let datagram = &buffer[..len];
            match wg::kind(datagram) {
                Ok(Kind::Response) => {
                    let psk = Secret([0; 32]);
                    let Ok(checked) = self.own.check_mac1(datagram) else { continue };
                    if let Ok(answered) = sent.receive_response(&self.own, &checked, &[&psk]) {
                        let (sealer, _): (Sealer, Opener<WORDS>) = answered.keys.split();
                        return Ok(Some(sealer));
                    }
                }
                // For the next initiation.
                Ok(Kind::CookieReply) => {
                    let _stale = self.jar.receive(&self.gateway, datagram, self.micros());
                }
                _ => {}
            }
        }
    }
}

fn open(namespace: &Namespace, to: SocketAddr) -> Result<UdpSocket> {
    let socket = namespace
        .within(|| {
            UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect(to).map(|()| socket))
        })
        .during("enter the honest peer's host")?;
    socket.during("open the honest peer's socket")
}

/// Datagrams of a flood: every second an initiation by a key that nobody knows
/// with a right mac1, the others malformed in one way each.
pub(super) fn hostile(gateway: &PublicKey, count: usize) -> Result<Vec<Vec<u8>>> {
    let mut datagrams = Vec::with_capacity(count);
    for number in 0..count {
        let mut bytes = vec![0; INITIATION_LEN];
        Random.fill(&mut bytes);
        match number % 10 {
            0 => bytes.truncate(1 + number % 31),
            // Initiation, response, cookie reply without a right mac; data of
            // no session.
            2 => bytes[..4].copy_from_slice(&[1, 0, 0, 0]),
            4 => {
                bytes.truncate(wg::RESPONSE_LEN);
                bytes[..4].copy_from_slice(&[2, 0, 0, 0]);
            }
            6 => bytes[..4].copy_from_slice(&[4, 0, 0, 0]),
            8 => {
                bytes.truncate(wg::COOKIE_REPLY_LEN);
                bytes[..4].copy_from_slice(&[3, 0, 0, 0]);
            }
            _ => bytes = forged(gateway, number)?,
        }
        datagrams.push(bytes);
    }
    Ok(datagrams)
}

/// An initiation by a key that nobody knows, with a right mac1.
pub(super) fn forged(receiver: &PublicKey, number: usize) -> Result<Vec<u8>> {
    let own = LocalKey::new(StaticSecret::generate(&mut Random));
    let remote = own
        .remote(receiver)
        .map_err(|_| Failure::expectation("the receiver's key has low order"))?;
    let mut message = [0; INITIATION_LEN];
    let stamp = Tai64n::from_steps(number as u64);
    own.initiate(&remote, number as u32, stamp, &mut Random, &mut message);
    Ok(message.to_vec())
}
