//! gotatun.

use std::net::SocketAddr;
use std::sync::Arc;

use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::noise::{Tunn, TunnResult};
use gotatun::packet::{Packet, WgKind};
use gotatun::tun::MtuWatcher;
use gotatun::x25519::{PublicKey, StaticSecret};

use crate::{Oracle, Output, Setup};

/// gotatun's `Tunn` with the steps that its device does around it.
pub struct Gotatun {
    tunnel: Tunn,
    limiter: Arc<RateLimiter>,
    mtu: MtuWatcher,
}

fn bytes(message: WgKind) -> Vec<u8> {
    Packet::from(message).to_vec()
}

impl From<TunnResult> for Output {
    fn from(result: TunnResult) -> Self {
        match result {
            TunnResult::Done => Self::Nothing,
            TunnResult::Err(error) => Self::Refused(format!("{error:?}")),
            TunnResult::WriteToNetwork(message) => Self::Datagram(bytes(message)),
            TunnResult::WriteToTunnel(packet) if packet.is_empty() => Self::Packet(Vec::new()),
            TunnResult::WriteToTunnel(packet) => match packet.try_into_ipvx() {
                Err(error) => Self::Refused(format!("{error:?}")),
                Ok(packet) => Self::Packet(
                    packet.either(|v4| v4.into_bytes().to_vec(), |v6| v6.into_bytes().to_vec()),
                ),
            },
        }
    }
}

impl Oracle for Gotatun {
    fn new(setup: &Setup) -> Self {
        let secret = StaticSecret::from(setup.secret);
        let limiter = RateLimiter::new(&PublicKey::from(&secret), setup.load_limit);
        let limiter = Arc::new(limiter);
        let peer = PublicKey::from(setup.peer);
        let indices = IndexTable::from_os_rng();
        let tunnel = Tunn::new(secret, peer, setup.psk, None, indices, Arc::clone(&limiter));
        Self { tunnel, limiter, mtu: MtuWatcher::new(1280) }
    }

    fn initiate(&mut self) -> Vec<u8> {
        match self.tunnel.format_handshake_initiation(true) {
            Some(message) => message.into_bytes().to_vec(),
            None => panic!("gotatun does not initiate"),
        }
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Output {
        let packet = Packet::copy_from(packet);
        self.tunnel
            .handle_outgoing_packet(packet, Some(&mut self.mtu))
            .map_or(Output::Nothing, |message| Output::Datagram(bytes(message)))
    }

    fn handle_datagram(&mut self, source: SocketAddr, datagram: &[u8]) -> Output {
        match self.limiter.verify_packet(source, Packet::copy_from(datagram)) {
            Ok(message) => self.tunnel.handle_incoming_packet(message).into(),
            Err(result) => result.into(),
        }
    }

    fn poll_queued(&mut self) -> Output {
        let queued = self.tunnel.get_queued_packets(&mut self.mtu).next();
        queued.map_or(Output::Nothing, |message| Output::Datagram(bytes(message)))
    }

    fn handle_tick(&mut self) -> Output {
        match self.tunnel.update_timers() {
            Ok(message) => message.map_or(Output::Nothing, |it| Output::Datagram(bytes(it))),
            Err(error) => Output::Refused(format!("{error:?}")),
        }
    }
}
