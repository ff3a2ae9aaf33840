//! What a device reports about itself.

use crate::id::{Epoch, Instance, Revision};
use crate::item::{RequestId, item};

item!(
    /// Sign of life with counters since the last one; also the answer to
    /// `POST /api/v1/device/metrics`. Sent every `heartbeat_s` and on change.
    80 Heartbeat {
        /// Answered with [`crate::item::Done`].
        request: RequestId,
        /// This start of the agent.
        instance: Instance,
        /// Starts of the device since it was made.
        boot_count: u32,
        /// Seconds since the agent started.
        uptime_s: u32,
        /// Epoch of the map in force.
        epoch: Epoch,
        /// Revision of the map in force.
        revision: Revision,
        /// Bytes of inner packets sent since the last heartbeat.
        tx_bytes: u64,
        /// Bytes of inner packets received since the last heartbeat.
        rx_bytes: u64,
        /// Inner packets sent since the last heartbeat.
        tx_packets: u32,
        /// Inner packets received since the last heartbeat.
        rx_packets: u32,
        /// Handshakes completed since the last heartbeat.
        handshakes: u32,
        /// Handshake attempts that ended without an answer since then.
        handshake_failures: u32,
        /// Packets and datagrams dropped since then, by reason; the order is
        /// that of the agent's drop reasons, see [`DROP_REASONS`].
        drops: heapless::Vec<u32, DROP_REASONS>,
        /// Peers with a session now.
        active_peers: u16,
        /// Of these, on a direct path.
        direct_peers: u16,
    }
);

/// The most drop reasons in one heartbeat.
pub const DROP_REASONS: usize = 24;
