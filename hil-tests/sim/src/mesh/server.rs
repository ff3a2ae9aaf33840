//! STUN servers and relays of a mesh.

use std::net::{Ipv4Addr, SocketAddr};

use weft_agent_core::agent::trace::Trace;
use weft_wire::relay::Relay;
use weft_wire::stun::{BINDING_REQUEST, BINDING_SUCCESS, Message, MessageWriter};

use super::Mesh;
use super::coordinator::{RELAY_SECRET, UNIX_MS};
use crate::net::{Datagram, HostId};
use crate::relay::{PORT, Server};

/// One server.
pub(super) struct StunServer {
    pub(super) host: HostId,
    pub(super) address: SocketAddr,
}

/// Two hosts with two ports each: enough to tell how a NAT maps (RFC 5780).
const STUN_SERVERS: [([u8; 4], u16); 4] = [
    ([203, 0, 113, 10], 3_478),
    ([203, 0, 113, 10], 3_479),
    ([203, 0, 113, 11], 3_478),
    ([203, 0, 113, 11], 3_479),
];

impl<T, const PEERS: usize, const ROUTES: usize> Mesh<T, PEERS, ROUTES>
where
    T: Trace + Default + Clone,
{
    /// Adds two STUN servers with two ports each.
    pub fn add_stun_servers(&mut self) {
        for server in STUN_SERVERS {
            self.add_stun(server.into());
        }
    }

    /// Adds a STUN server, and names it in the map of devices that join later.
    pub fn add_stun(&mut self, address: SocketAddr) {
        let same = self.servers.iter().find(|server| server.address.ip() == address.ip());
        let host = same.map(|server| server.host);
        let host = host.unwrap_or_else(|| self.network.add_host([address.ip()], None, self.link));
        self.servers.push(StunServer { host, address });
        self.coordinator.stun.push(address);
    }

    /// No STUN server answers any more.
    pub fn stop_stun(&mut self) {
        self.servers.clear();
    }

    /// Adds a relay, and names it in the map of devices that join later.
    pub fn add_relay(&mut self, ip: Ipv4Addr) {
        let host = self.network.add_host([ip.into()], None, self.link);
        let number = self.relays.len() as u16 + 1;
        let unix_s = UNIX_MS / 1_000;
        self.relays.push(Server::new(host, ip, RELAY_SECRET, unix_s, number as u8));
        let relay = Relay { number, v4: Some(ip), v6: None, udp: [PORT, 0], tcp: 0, tls: 0 };
        self.coordinator.relays.push(relay);
    }

    /// Answers if the datagram was for a server.
    pub(super) fn serve(&mut self, host: HostId, datagram: &Datagram) -> bool {
        if let Some(relay) = self.relays.iter_mut().find(|relay| relay.host == host) {
            relay.handle(datagram, self.now, &mut self.network);
            return true;
        }
        let at =
            |server: &&StunServer| server.host == host && server.address == datagram.destination;
        let Some(server) = self.servers.iter().find(at) else { return false };
        if let Some(bytes) = answer(datagram) {
            let (source, destination) = (server.address, datagram.source);
            self.network.send(host, Datagram { source, destination, bytes }, self.now);
        }
        true
    }
}

fn answer(request: &Datagram) -> Option<Vec<u8>> {
    let message = Message::parse(&request.bytes).ok()?;
    let mut out = vec![0; 64];
    let mut writer = MessageWriter::new(BINDING_SUCCESS, message.transaction(), &mut out).ok()?;
    writer.xor_mapped_address(request.source).ok()?;
    let len = writer.finish().ok().filter(|_| message.kind() == BINDING_REQUEST)?;
    out.truncate(len);
    Some(out)
}
