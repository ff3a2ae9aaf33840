//! Who is there: in memory only, gone with the process.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_wire::id::{DeviceId, Instance};
use weft_wire::telemetry::Heartbeat;

use super::bus::{Carrier, Uplink};
use super::channel::sessions::Sessions;
use super::clock::Clock;
use super::seams::{Presence, PresenceView, Report};
use crate::domain::time::UnixMs;

/// A device over a carrier whose end nobody tells (posts, foreign brokers) is
/// there this long after its last word: two heartbeats and a little.
const SILENCE_MS: u64 = 2 * 900_000 + 60_000;

#[derive(Clone, Debug)]
struct Heard {
    at: UnixMs,
    address: Option<IpAddr>,
    carrier: Carrier,
    instance: Instance,
    report: Option<Report>,
}

/// The table of devices that were heard since the start.
pub struct PresenceTable {
    sessions: Arc<Sessions>,
    clock: Arc<dyn Clock>,
    heard: Mutex<HashMap<DeviceId, Heard>>,
}

impl PresenceTable {
    /// Nobody was heard yet.
    pub fn new(sessions: Arc<Sessions>, clock: Arc<dyn Clock>) -> Self {
        Self { sessions, clock, heard: Mutex::default() }
    }

    fn heard_table(&self) -> MutexGuard<'_, HashMap<DeviceId, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An authentic record came.
    pub fn heard(&self, device: DeviceId, uplink: &Uplink<'_>, instance: Instance) {
        let at = UnixMs(self.clock.unix_ms());
        let mut heard = self.heard_table();
        let report = heard
            .remove(&device)
            .filter(|before| before.instance == instance)
            .and_then(|before| before.report);
        let (address, carrier) = (uplink.address, uplink.carrier);
        heard.insert(device, Heard { at, address, carrier, instance, report });
    }

    /// A heartbeat came, in a record that was noted already.
    pub fn report(&self, device: DeviceId, heartbeat: &Heartbeat) {
        if let Some(heard) = self.heard_table().get_mut(&device) {
            heard.report = Some(Report {
                at: heard.at,
                boot_count: heartbeat.boot_count,
                uptime_s: heartbeat.uptime_s,
                active_peers: heartbeat.active_peers,
                direct_peers: heartbeat.direct_peers,
                tx_bytes: heartbeat.tx_bytes,
                rx_bytes: heartbeat.rx_bytes,
                tx_packets: heartbeat.tx_packets,
                rx_packets: heartbeat.rx_packets,
                handshakes: heartbeat.handshakes,
                handshake_failures: heartbeat.handshake_failures,
                drops: heartbeat.drops.to_vec(),
            });
        }
    }

    /// The device is gone for good.
    pub fn forget(&self, device: DeviceId) {
        self.heard_table().remove(&device);
    }
}

impl PresenceView for PresenceTable {
    fn presence(&self, device: DeviceId) -> Option<Presence> {
        let heard = self.heard_table().get(&device).cloned()?;
        let now = self.clock.unix_ms();
        let told = heard.carrier == Carrier::Mqtt || now.saturating_sub(heard.at.0) < SILENCE_MS;
        Some(Presence {
            online: told && self.sessions.is_online(device),
            last_seen: heard.at,
            address: heard.address,
            report: heard.report,
        })
    }
}
