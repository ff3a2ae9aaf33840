//! A router's words about a mapping of ours, for the fuzzer.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::portmap::http::{self, Progress};
use crate::portmap::mapper::{Gateway, Mapper, Output};

/// The router.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// Names the mapping.
pub const NONCE: [u8; 12] = [7; 12];
/// The tunnel's port.
pub const PORT: u16 = 51_871;

/// A client of a router that is the fuzzer's.
pub struct Client {
    mapper: Mapper,
    /// What it asks in connections and waits for.
    requests: usize,
}

impl Client {
    /// One that has just found its router.
    #[must_use]
    pub fn new(now_us: u64) -> Self {
        let mut mapper = Mapper::new(NONCE, PORT);
        let local = Ipv4Addr::new(192, 168, 1, 20);
        mapper.set_gateway(Some(Gateway { router: ROUTER, local }), now_us);
        Self { mapper, requests: 0 }
    }

    /// The router sends from this port of its own.
    pub fn datagram(&mut self, port: u16, bytes: &[u8], now_us: u64) {
        self.mapper.handle_datagram(SocketAddrV4::new(ROUTER, port), bytes, now_us);
    }

    /// The router answers in the connection, if there is one: so much of it, then
    /// it hangs up.
    pub fn answer(&mut self, bytes: &[u8], now_us: u64) {
        if self.requests == 0 {
            return;
        }
        self.requests = 0;
        // What was whole before more came stays what it was.
        let early = http::read(bytes, false);
        let response = match http::read(bytes, true) {
            Progress::Whole(response) => Some(response),
            _ => None,
        };
        if let Progress::Whole(early) = early {
            assert_eq!(Some(early), response);
        }
        self.mapper.handle_response(response.as_ref(), now_us);
    }

    /// Time has passed.
    pub fn pass(&mut self, now_us: u64) {
        self.mapper.handle_timeout(now_us);
    }

    /// When something is due.
    #[must_use]
    pub fn due_us(&self) -> Option<u64> {
        self.mapper.poll_timeout()
    }

    /// Takes what it sends: how many times. Everything goes to the router.
    pub fn drain(&mut self) -> usize {
        let mut sent = 0;
        while let Some(output) = self.mapper.poll_output() {
            let (Output::Datagram { to, .. } | Output::Request { to, .. }) = &output;
            assert_eq!(*to.ip(), ROUTER, "it goes to the router alone");
            self.requests += usize::from(matches!(output, Output::Request { .. }));
            sent += 1;
        }
        sent
    }

    /// Where packets come in, as far as it knows.
    #[must_use]
    pub fn external(&self) -> Option<SocketAddrV4> {
        self.mapper.mapping().map(|mapping| mapping.external)
    }

    /// Ends it: with how many requests.
    pub fn release(&mut self) -> usize {
        self.mapper.release().len()
    }
}
