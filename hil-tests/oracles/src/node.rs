//! An oracle as a node of the simulated network.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use weft_agent_core::time::Instant;
use weft_sim::Node;

use crate::{Oracle, Output, Setup, TICK, set_time};

/// One oracle with the loop that its device runs around it. The peer is at a
/// fixed endpoint.
pub struct OracleNode<O> {
    oracle: O,
    endpoint: SocketAddr,
    tick_at: Instant,
    out: VecDeque<(SocketAddr, Vec<u8>)>,
    delivered: VecDeque<Vec<u8>>,
}

/// The oracles' clocks belong to the thread, so each input sets them.
fn set_clock(now: Instant) {
    set_time(Duration::from_micros(now.as_micros()));
}

impl<O: Oracle> OracleNode<O> {
    /// Starts the oracle at `now`.
    pub fn new(setup: &Setup, endpoint: SocketAddr, now: Instant) -> Self {
        set_clock(now);
        Self {
            oracle: O::new(setup),
            endpoint,
            tick_at: now + TICK,
            out: VecDeque::new(),
            delivered: VecDeque::new(),
        }
    }

    /// Takes what the oracle made of an input; whether it was a datagram.
    fn take(&mut self, output: Output) -> bool {
        match output {
            Output::Datagram(datagram) => {
                self.out.push_back((self.endpoint, datagram));
                return true;
            }
            Output::Packet(packet) if !packet.is_empty() => self.delivered.push_back(packet),
            Output::Packet(_) | Output::Nothing | Output::Refused(_) => {}
        }
        false
    }
}

impl<O: Oracle> Node for OracleNode<O> {
    fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        set_clock(now);
        let output = self.oracle.handle_datagram(from, datagram);
        if self.take(output) {
            // A handshake may have ended: what waited for it goes now.
            loop {
                let queued = self.oracle.poll_queued();
                if !self.take(queued) {
                    break;
                }
            }
        }
    }

    fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        set_clock(now);
        let output = self.oracle.handle_packet(packet);
        self.take(output);
    }

    fn handle_timeout(&mut self, now: Instant) {
        set_clock(now);
        self.tick_at = now + TICK;
        let output = self.oracle.handle_tick();
        self.take(output);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(self.tick_at)
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.out.pop_front()
    }

    fn poll_packet(&mut self) -> Option<Vec<u8>> {
        self.delivered.pop_front()
    }
}
