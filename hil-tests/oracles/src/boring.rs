//! boringtun.

use std::net::SocketAddr;
use std::sync::Arc;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use crate::{Oracle, Output, Setup};

/// Longer than any datagram that it writes.
const BUFFER_LEN: usize = 65_535 + 148;

/// boringtun's `Tunn`.
pub struct Boringtun {
    tunnel: Tunn,
    buffer: Vec<u8>,
}

impl From<TunnResult<'_>> for Output {
    fn from(result: TunnResult<'_>) -> Self {
        match result {
            TunnResult::Done => Self::Nothing,
            TunnResult::Err(error) => Self::Refused(format!("{error:?}")),
            TunnResult::WriteToNetwork(datagram) => Self::Datagram(datagram.to_vec()),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Self::Packet(packet.to_vec())
            }
        }
    }
}

impl Oracle for Boringtun {
    fn new(setup: &Setup) -> Self {
        let secret = StaticSecret::from(setup.secret);
        let limiter = RateLimiter::new(&PublicKey::from(&secret), setup.load_limit);
        let peer = PublicKey::from(setup.peer);
        let tunnel = Tunn::new(secret, peer, setup.psk, None, 7, Some(Arc::new(limiter)));
        Self { tunnel, buffer: vec![0; BUFFER_LEN] }
    }

    fn initiate(&mut self) -> Vec<u8> {
        match self.tunnel.format_handshake_initiation(&mut self.buffer, true) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("boringtun does not initiate: {other:?}"),
        }
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Output {
        self.tunnel.encapsulate(packet, &mut self.buffer).into()
    }

    fn handle_datagram(&mut self, source: SocketAddr, datagram: &[u8]) -> Output {
        self.tunnel.decapsulate(Some(source.ip()), datagram, &mut self.buffer).into()
    }

    fn poll_queued(&mut self) -> Output {
        self.tunnel.decapsulate(None, &[], &mut self.buffer).into()
    }

    fn handle_tick(&mut self) -> Output {
        self.tunnel.update_timers(&mut self.buffer).into()
    }
}
