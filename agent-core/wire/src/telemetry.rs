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

item!(
    /// What the day's bytes were for, so far: IP packets of both directions. Beside
    /// a [`Heartbeat`], now and then; a later one of the same day takes its place.
    82 DataUsage {
        /// Days since 1970-01-01, by the coordinator's clock.
        day: u32,
        /// The line to the coordinator.
        control: u64,
        /// Ways that are kept open while nobody talks.
        keepalive: u64,
        /// Looking for ways, asking whether they stand.
        probe: u64,
        /// What relays are asked, and put around packets.
        relay_overhead: u64,
        /// Tunnels.
        payload: u64,
        /// The device's budget of the day for all but payload.
        budget: Option<u64>,
        /// Bytes cost money where the device is, so that the budget binds.
        metered: bool,
        /// It is used up: the device looks for no better way until midnight.
        used_up: bool,
    }
);

/// The most drop reasons in one heartbeat.
pub const DROP_REASONS: usize = 24;
