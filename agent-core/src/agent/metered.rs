//! What is counted for whom, and what a budget ends.

use weft_wire::telemetry::DataUsage;

use super::trace::{Entry, Trace};
use super::{Agent, Transmit};
use crate::entropy::Entropy;
use crate::meter::{self, Budget, Cause, Usage};
use crate::time::Instant;

impl<
    E: Entropy,
    T: Trace,
    const PEERS: usize,
    const HANDSHAKES: usize,
    const ROUTES: usize,
    const FLOWS: usize,
    const WORDS: usize,
    const STAGED: usize,
    const FRAME: usize,
    const STREAM: usize,
> Agent<E, T, PEERS, HANDSHAKES, ROUTES, FLOWS, WORDS, STAGED, FRAME, STREAM>
{
    /// The line to the coordinator has taken so many bytes more, of IP packets of
    /// both directions.
    pub fn handle_line_traffic(&mut self, bytes: u64, now: Instant) {
        self.now = now;
        self.meter.add(Cause::Control, bytes, now);
        self.recorder.put(now, &Entry::LineTraffic(bytes));
        self.pump();
    }

    /// Whether bytes cost money here, and how many a day may cost but for payload.
    /// The coordinator may have set a tighter budget. It binds on metered networks.
    pub fn set_budget(&mut self, budget: Budget, now: Instant) {
        self.now = now;
        self.meter.set_budget(budget);
        self.recorder.put(now, &Entry::Budget(budget.is_metered, budget.bytes));
        self.pump();
    }

    /// What the day's bytes were for.
    pub fn usage(&self, now: Instant) -> Usage {
        self.meter.usage(now)
    }

    /// What a budget ends or lets go on. Nearly always there is none.
    pub(super) fn judge_budget(&mut self) {
        if !self.meter.is_limited() && !self.meter.is_used_up() {
            return;
        }
        let now = self.now;
        self.paths.set_allowance(self.meter.allowance(now), now);
        if let Some(is_used_up) = self.meter.poll_change(now) {
            self.outbox.budget = Some(is_used_up);
            self.control.handle_change(now);
        }
    }

    /// A message of `len` bytes goes out like this: the rest is a relay's.
    pub(super) fn count_sent(&mut self, cause: Cause, len: usize, transmit: &Transmit) {
        let channel = transmit.channel.map_or(0, |channel| channel.len());
        let around = (transmit.len + channel + transmit.padding()).saturating_sub(len);
        let inner = len as u64 + meter::header(transmit.via);
        self.meter.add(cause, inner, self.now);
        if around > 0 {
            self.meter.add(Cause::RelayOverhead, around as u64, self.now);
        }
    }

    /// What the coordinator is told with the next heartbeat, if that is worth it.
    pub(super) fn usage_report(&self) -> Option<(Usage, DataUsage)> {
        let usage = self.meter.due_report(self.now)?;
        let [control, keepalive, probe, relay_overhead, payload] = usage.bytes;
        let report = DataUsage {
            day: usage.day?,
            control,
            keepalive,
            probe,
            relay_overhead,
            payload,
            budget: usage.budget,
            metered: usage.is_metered,
            used_up: usage.is_used_up,
        };
        Some((usage, report))
    }
}
