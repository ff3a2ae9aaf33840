//! Binding, and where its answer comes from and goes to (RFC 5780).

use core::net::SocketAddr;

use weft_wire::stun::{
    CHANGE_REQUEST, ChangeRequest, Class, FINGERPRINT, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256,
    NONCE, OTHER_ADDRESS, PADDING, REALM, RESPONSE_ORIGIN, RESPONSE_PORT, USERNAME, code,
};

use super::settings::Alternates;
use super::{Asked, Turn, Via};

/// Credentials are not looked at: nothing here is worth them.
const KNOWN: &[u16] = &[
    USERNAME,
    REALM,
    NONCE,
    MESSAGE_INTEGRITY,
    MESSAGE_INTEGRITY_SHA256,
    CHANGE_REQUEST,
    RESPONSE_PORT,
    PADDING,
];

impl Turn {
    /// Answers a Binding request of `received` bytes.
    pub(super) fn binding(&mut self, asked: &mut Asked<'_, '_>, received: usize) {
        let source = asked.client.address;
        let ip = source.ip();
        if source.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
            self.counters.malformed += 1;
            return;
        }
        if !self.may_answer(asked, 0, 0) {
            return;
        }
        let (listener, alternates) = match asked.client.via {
            Via::Udp { listener, .. } => {
                let place = usize::from(listener);
                (Some(listener), self.settings.alternates.get(place).copied().unwrap_or_default())
            }
            Via::Stream(_) => (None, Alternates::default()),
        };
        let has_others = alternates != Alternates::default();
        // Without another socket these cannot be served (RFC 5780 section 6.1).
        let known = if has_others { KNOWN } else { &KNOWN[..5] };
        let before = self.counters.refused;
        if self.unknown(asked, known, None) {
            self.counters.refused = before;
            self.counters.bindings_refused += 1;
            return;
        }
        let change = asked.message.change_request().unwrap_or_default();
        let from = match change {
            ChangeRequest { address: false, port: false } => listener,
            ChangeRequest { address: false, port: true } => alternates.port,
            ChangeRequest { address: true, port: false } => alternates.address,
            ChangeRequest { address: true, port: true } => alternates.both,
        };
        let port = asked.message.get(RESPONSE_PORT).map(|_| asked.message.response_port());
        let padding = asked.message.get(PADDING).map(<[u8]>::len);
        let wrong = matches!(port, Some(None | Some(0))) || (port.is_some() && padding.is_some());
        let changed = change != ChangeRequest::default();
        if wrong || (changed && from.is_none()) {
            let number = if wrong { code::BAD_REQUEST } else { code::UNKNOWN_ATTRIBUTE };
            self.counters.bindings_refused += 1;
            Self::reply(asked, Class::Error, None, |writer| writer.error(number));
            return;
        }
        if let (Via::Udp { listener, local }, Some(from)) = (&mut asked.client.via, from)
            && *listener != from
        {
            *listener = from;
            // A socket of another address has that one.
            let bound = self.settings.listeners.get(usize::from(from)).map(SocketAddr::ip);
            *local = bound.filter(|ip| !ip.is_unspecified()).unwrap_or(*local);
        }
        if let Some(Some(port)) = port {
            asked.client.address.set_port(port);
        }
        self.counters.bindings += 1;
        let origin = self.origin(asked.client.via);
        let other = self.other(asked.client.via, listener, alternates);
        let fixed = if asked.message.get(FINGERPRINT).is_some() { 20 + 72 + 8 } else { 20 + 72 };
        Self::reply(asked, Class::Success, None, |writer| {
            writer.xor_mapped_address(source)?;
            if let (Some(origin), Some(other)) = (origin, other) {
                writer.address(RESPONSE_ORIGIN, origin)?;
                writer.address(OTHER_ADDRESS, other)?;
            }
            // As long as what was sent and no longer.
            let room = received.saturating_sub(fixed + 4).min(padding.unwrap_or(0)).min(256);
            if room > 0 { writer.attribute(PADDING, &[0; 256][..room]) } else { Ok(()) }
        });
    }

    /// The address that an answer over this socket comes from.
    fn origin(&self, via: Via) -> Option<SocketAddr> {
        let Via::Udp { listener, local } = via else { return None };
        let bound = self.settings.listeners.get(usize::from(listener))?;
        Some(SocketAddr::new(local, bound.port()))
    }

    /// The address that differs from the one that was asked in all that this
    /// server can change.
    fn other(&self, via: Via, listener: Option<u8>, alternates: Alternates) -> Option<SocketAddr> {
        let Via::Udp { local, .. } = via else { return None };
        listener?;
        let place = alternates.both.or(alternates.port).or(alternates.address)?;
        let bound = self.settings.listeners.get(usize::from(place))?;
        let ip = if bound.ip().is_unspecified() { local } else { bound.ip() };
        Some(SocketAddr::new(ip, bound.port()))
    }
}
