//! Signs of life: when one is due and what it counts.

use weft_wire::id::Instance;
use weft_wire::item::RequestId;
use weft_wire::telemetry::{DROP_REASONS, Heartbeat};

use super::map::Held;
use crate::entropy::Entropy;
use crate::time::{Duration, Instant};

/// Two heartbeats that a change asked for are at least this far apart.
const CHANGE_INTERVAL: Duration = Duration::from_secs(5);

/// What an agent has counted since it started. Gauges at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Seconds since the agent started.
    pub uptime_s: u32,
    /// Bytes of inner packets sent.
    pub tx_bytes: u64,
    /// Bytes of inner packets received.
    pub rx_bytes: u64,
    /// Inner packets sent.
    pub tx_packets: u64,
    /// Inner packets received.
    pub rx_packets: u64,
    /// Handshakes completed.
    pub handshakes: u32,
    /// Handshake attempts that ended without an answer.
    pub handshake_failures: u32,
    /// Packets and datagrams dropped, by reason.
    pub drops: [u32; DROP_REASONS],
    /// Peers with a session now.
    pub active_peers: u16,
    /// Of these, on a direct path.
    pub direct_peers: u16,
}

/// The schedule, and the report that waits for its answer.
#[derive(Debug)]
pub(super) struct Heartbeats {
    interval: Duration,
    due_at: Instant,
    sent_at: Option<Instant>,
    /// The owner was asked for a report.
    asked: bool,
    /// The coordinator of this session does not know what a day's bytes are.
    usage_unknown: bool,
    /// What the coordinator has counted.
    known: Report,
    open: Option<Report>,
}

/// 95 to 98 % of an interval. A shell's MQTT client asks after 295 s of silence
/// whether its line stands: a heartbeat that comes a little before 900 s takes the
/// place of every third question, and one that comes after it does not.
fn early(interval: Duration, entropy: &mut dyn Entropy) -> Duration {
    let hundredth = interval / 100;
    let spread = hundredth * 3 * (entropy.number() >> 16) / (1 << 16);
    hundredth * 98 - spread
}

fn delta(now: u64, before: u64) -> u32 {
    u32::try_from(now.saturating_sub(before)).unwrap_or(u32::MAX)
}

impl Heartbeats {
    pub(super) fn new() -> Self {
        Self {
            interval: Duration::from_secs(900),
            due_at: Instant::ZERO,
            sent_at: None,
            asked: false,
            usage_unknown: false,
            known: Report::default(),
            open: None,
        }
    }

    /// A session began: one is due at once.
    pub(super) fn handle_session(&mut self, interval_s: u16) {
        self.interval = Duration::from_secs(u64::from(interval_s.max(1)));
        self.due_at = Instant::ZERO;
        self.asked = false;
        self.usage_unknown = false;
    }

    /// Whether the day's bytes are worth telling.
    pub(super) const fn tells_usage(&self) -> bool {
        !self.usage_unknown
    }

    /// They are not, in this session.
    pub(super) const fn handle_usage_unknown(&mut self) {
        self.usage_unknown = true;
    }

    /// Something changed that people look at.
    pub(super) fn handle_change(&mut self, now: Instant) {
        let earliest = self.sent_at.map_or(now, |at| (at + CHANGE_INTERVAL).max(now));
        self.due_at = self.due_at.min(earliest);
    }

    /// Whether the owner has to give a report now; `true` once.
    pub(super) fn poll_due(&mut self, now: Instant) -> bool {
        let due = self.due_at <= now && !self.asked && self.open.is_none();
        self.asked |= due;
        due
    }

    /// When a report will be due.
    pub(super) fn due_at(&self) -> Option<Instant> {
        (!self.asked && self.open.is_none()).then_some(self.due_at)
    }

    /// The report that was asked for.
    pub(super) fn handle_report(
        &mut self,
        report: Report,
        now: Instant,
        entropy: &mut dyn Entropy,
    ) {
        self.asked = false;
        self.open = Some(report);
        self.sent_at = Some(now);
        self.due_at = now + early(self.interval, entropy);
    }

    /// The coordinator has counted the open report.
    pub(super) const fn handle_done(&mut self) {
        if let Some(report) = self.open.take() {
            self.known = report;
        }
    }

    /// The open report as what has been added since the last counted one.
    pub(super) fn item(
        &self,
        request: RequestId,
        instance: Instance,
        boot_count: u32,
        held: Held,
    ) -> Option<Heartbeat> {
        let report = self.open.as_ref()?;
        let known = &self.known;
        let mut drops: heapless::Vec<u32, DROP_REASONS> = report
            .drops
            .iter()
            .zip(known.drops)
            .map(|(&now, before)| now.saturating_sub(before))
            .collect();
        while drops.last() == Some(&0) {
            drops.pop();
        }
        Some(Heartbeat {
            request,
            instance,
            boot_count,
            uptime_s: report.uptime_s,
            epoch: held.epoch,
            revision: held.revision,
            tx_bytes: report.tx_bytes.saturating_sub(known.tx_bytes),
            rx_bytes: report.rx_bytes.saturating_sub(known.rx_bytes),
            tx_packets: delta(report.tx_packets, known.tx_packets),
            rx_packets: delta(report.rx_packets, known.rx_packets),
            handshakes: report.handshakes.saturating_sub(known.handshakes),
            handshake_failures: report.handshake_failures.saturating_sub(known.handshake_failures),
            drops,
            active_peers: report.active_peers,
            direct_peers: report.direct_peers,
        })
    }
}
