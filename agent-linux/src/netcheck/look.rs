//! The sockets of a look at both families, in one loop.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use weft_agent_core::event::SocketId;
use weft_agent_core::stun::DISCOVERY_REQUEST_LEN;
use weft_agent_core::stun::discovery::{Discovery, Tests};
use weft_agent_core::time::Instant;

use super::{Look, Plan, Unlooked};
use crate::net::socket;
use crate::os::clock;
use crate::os::entropy::Kernel;
use crate::os::poll::{Interest, PollSet};
use crate::os::would_block;

/// Answers are far shorter.
const LONGEST: usize = 1_500;

/// A look, and the sockets that it numbers.
struct Looking {
    look: Discovery,
    sockets: Vec<UdpSocket>,
}

/// Looks at both families; returns when both are done.
pub(super) fn both(v4: Vec<SocketAddr>, v6: Vec<SocketAddr>, plan: &Plan) -> io::Result<[Look; 2]> {
    // Both families have the same NAT box, if they have one: lives are looked at
    // where paths mostly go.
    let lives = plan.lives_s.iter().copied().collect();
    let first = Tests { filtering: !plan.metered, lives_s: lives };
    let alone = v4.is_empty();
    let second = if alone { first.clone() } else { Tests { lives_s: <_>::default(), ..first } };
    let mut looks = [open(v4, first)?, open(v6, second)?];
    let mut set = PollSet::default();
    while looks.iter().flatten().any(|looking| !looking.look.is_done()) {
        let now = Instant::from_micros(clock::boot_micros());
        for looking in looks.iter_mut().flatten() {
            looking.advance(now);
        }
        let timeouts = looks.iter().flatten().filter_map(|looking| looking.look.poll_timeout());
        let Some(due) = timeouts.map(|(at, _)| at).min() else { break };
        set.clear();
        for socket in looks.iter().flatten().flat_map(|looking| &looking.sockets) {
            set.add(socket.as_fd(), Interest::READ);
        }
        set.wait(Some(due.since(now).as_micros()))?;
    }
    Ok(looks.map(|looking| looking.map(|looking| looking.look)))
}

fn open(targets: Vec<SocketAddr>, tests: Tests) -> io::Result<Result<Looking, Unlooked>> {
    let Some(&first) = targets.first() else {
        return Ok(Err(Unlooked::NobodyToAsk));
    };
    if !has_route(first) {
        return Ok(Err(Unlooked::NoRoute));
    }
    let now = Instant::from_micros(clock::boot_micros());
    let look = Discovery::new(&targets, tests, &mut Kernel, now);
    let sockets = (0..look.sockets()).map(|_| bind(first)).collect::<io::Result<_>>()?;
    Ok(Ok(Looking { look, sockets }))
}

/// Nothing is sent: the kernel looks its tables up.
fn has_route(to: SocketAddr) -> bool {
    bind(to).and_then(|socket| socket.connect(to)).is_ok()
}

fn bind(like: SocketAddr) -> io::Result<UdpSocket> {
    let any = match like {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let fd = socket::open(&any, libc::SOCK_DGRAM, 0)?;
    socket::mark(fd.as_fd());
    socket::bind(fd.as_fd(), any)?;
    Ok(fd.into())
}

impl Looking {
    /// Reads what is there, then does what is due.
    fn advance(&mut self, now: Instant) {
        let mut buffer = [0; LONGEST];
        for (socket, number) in self.sockets.iter().zip(0..) {
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok((len, source)) => {
                        let datagram = buffer.get(..len).unwrap_or_default();
                        // A stranger's datagram, or one that came twice, is nobody's
                        // mistake here.
                        let _ignored =
                            self.look.handle_datagram(SocketId(number), source, datagram, now);
                    }
                    Err(error) if would_block(&error) => break,
                    // An ICMP message on something sent before: it is silence.
                    Err(_) => {}
                }
            }
        }
        self.look.handle_timeout(now);
        let mut out = [0; DISCOVERY_REQUEST_LEN];
        while let Some(transmit) = self.look.poll_transmit(&mut out, now) {
            let socket = self.sockets.get(usize::from(transmit.socket.0));
            if let (Some(socket), Some(request)) = (socket, out.get(..transmit.len)) {
                // What cannot be sent is not answered, and found out by that.
                drop(socket.send_to(request, transmit.to));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::stun::{BINDING_SUCCESS, Message, MessageWriter};

    /// A server that answers one request.
    fn server() -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut request, mut out) = ([0; 64], [0; 64]);
            let (len, from) = socket.recv_from(&mut request).unwrap();
            let id = Message::parse(&request[..len]).unwrap().transaction();
            let mut writer = MessageWriter::new(BINDING_SUCCESS, id, &mut out).unwrap();
            writer.xor_mapped_address(from).unwrap();
            let len = writer.finish().unwrap();
            socket.send_to(&out[..len], from).unwrap();
        });
        address
    }

    #[test]
    fn a_look_over_loopback_ends_with_an_answer() {
        let targets = vec![server(), server()];
        let [v4, v6] = both(targets, Vec::new(), &Plan::default()).unwrap();
        let look = v4.ok().unwrap();
        assert_eq!(v6.err(), Some(Unlooked::NobodyToAsk));
        let seen: Vec<_> = look.seen().filter_map(|seen| seen.answer).collect();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].0, seen[1].0);
        assert!(look.mapping().is_some());
    }
}
