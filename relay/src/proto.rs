//! What is answered, and to whom: no socket and no clock. [`turn`] is the whole
//! relay, [`denied`] what it is told of users, [`link`] its session with the
//! coordinator; here stands the Binding responder
//! alone, as the coordinator has it.
//!
//! Deviations from RFC 8489: no authentication (nothing here is worth it), no
//! SOFTWARE and no reason phrase (both only make answers longer), no answer to
//! a request of another method, no RFC 3489 clients.

mod limit;

pub mod denied;
pub mod link;
pub mod turn;

use core::net::SocketAddr;
use core::time::Duration;

use weft_wire::stun::{
    BINDING_ERROR, BINDING_REQUEST, BINDING_SUCCESS, ERROR_CODE, Message, MessageWriter, StunError,
    UNKNOWN_ATTRIBUTES,
};

use limit::SourceLimit;

/// The longest answer in bytes: header 20, ERROR-CODE 8, UNKNOWN-ATTRIBUTES
/// with [`MAX_UNKNOWN`] entries 20, FINGERPRINT 8.
pub const MAX_ANSWER: usize = 56;

/// How many unknown attributes an error names.
pub const MAX_UNKNOWN: usize = 8;

/// Answers per second to one source, and the burst before the limit bites.
pub const RATE: (u32, u32) = (50, 100);

/// The longest request that is looked at; a Binding request needs far less.
const MAX_REQUEST: usize = 548;

/// First value of the comprehension-optional attributes (RFC 8489 section 14).
const OPTIONAL: u16 = 0x8000;

/// Why a datagram got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Silence {
    /// Not STUN, or STUN that does not hold together.
    Malformed,
    /// Longer than any Binding request that we know a use for.
    TooLong,
    /// A response, an indication, or another method. Never answered, so that
    /// two servers can not be made to talk to each other.
    NotARequest,
    /// The source got its share.
    RateLimited,
    /// A source that nobody can be asked from: port 0, multicast, unspecified.
    ForgedSource,
}

/// How many datagrams ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Binding success responses.
    pub answered: u64,
    /// Error responses.
    pub refused: u64,
    /// [`Silence::RateLimited`].
    pub limited: u64,
    /// Every other silence.
    pub ignored: u64,
}

/// The Binding responder.
pub struct Responder {
    limit: SourceLimit,
    counters: Counters,
}

impl Responder {
    /// Makes one; `seed` keeps outsiders from choosing which sources share a
    /// place in the table of limits.
    pub fn new(seed: u64) -> Self {
        Self { limit: SourceLimit::new(seed), counters: Counters::default() }
    }

    /// What happened so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Decides about one datagram; `now` is the time since any fixed start.
    /// Returns the length of the answer in `out`.
    ///
    /// # Errors
    ///
    /// [`Silence`] says why there is no answer.
    pub fn handle_datagram(
        &mut self,
        source: SocketAddr,
        datagram: &[u8],
        now: Duration,
        out: &mut [u8; MAX_ANSWER],
    ) -> Result<usize, Silence> {
        let result = self.decide(canonical(source), datagram, now, out);
        match result {
            Ok((len, kind)) => {
                if kind == BINDING_SUCCESS {
                    self.counters.answered += 1;
                } else {
                    self.counters.refused += 1;
                }
                Ok(len)
            }
            Err(reason) => {
                if reason == Silence::RateLimited {
                    self.counters.limited += 1;
                } else {
                    self.counters.ignored += 1;
                }
                Err(reason)
            }
        }
    }

    fn decide(
        &mut self,
        source: SocketAddr,
        datagram: &[u8],
        now: Duration,
        out: &mut [u8; MAX_ANSWER],
    ) -> Result<(usize, u16), Silence> {
        if datagram.len() > MAX_REQUEST {
            return Err(Silence::TooLong);
        }
        let ip = source.ip();
        if source.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
            return Err(Silence::ForgedSource);
        }
        let request = Message::parse(datagram).map_err(|_| Silence::Malformed)?;
        if request.kind() != BINDING_REQUEST {
            return Err(Silence::NotARequest);
        }
        // Behind the cheap checks: only what would be answered costs a share.
        if !self.limit.take(ip, now) {
            return Err(Silence::RateLimited);
        }
        answer(&request, source, out).map_err(|_| Silence::Malformed)
    }
}

/// IPv4 over an IPv6 socket is IPv4.
fn canonical(source: SocketAddr) -> SocketAddr {
    SocketAddr::new(source.ip().to_canonical(), source.port())
}

fn answer(
    request: &Message<'_>,
    source: SocketAddr,
    out: &mut [u8; MAX_ANSWER],
) -> Result<(usize, u16), StunError> {
    let mut unknown = [0; 2 * MAX_UNKNOWN];
    let len = list_unknown(request, &mut unknown);
    let kind = if len == 0 { BINDING_SUCCESS } else { BINDING_ERROR };
    let mut writer = MessageWriter::new(kind, request.transaction(), out)?;
    if len == 0 {
        writer.xor_mapped_address(source)?;
    } else {
        // Class 4, number 20 (RFC 8489 section 14.8).
        writer.attribute(ERROR_CODE, &[0, 0, 4, 20])?;
        writer.attribute(UNKNOWN_ATTRIBUTES, &unknown[..len])?;
    }
    Ok((writer.finish()?, kind))
}

/// Writes the types that must be understood and are not; returns their bytes.
fn list_unknown(request: &Message<'_>, types: &mut [u8; 2 * MAX_UNKNOWN]) -> usize {
    let unknown = request.attributes().map(|(kind, _)| kind).filter(|kind| *kind < OPTIONAL);
    let mut len = 0;
    for (kind, place) in unknown.zip(types.chunks_exact_mut(2)) {
        place.copy_from_slice(&kind.to_be_bytes());
        len += 2;
    }
    len
}
