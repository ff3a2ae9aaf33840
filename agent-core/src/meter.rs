//! What this device's bytes are for, per day, and what is left of a budget.
//!
//! Counted are bytes of IP packets, both directions. What is around a packet is
//! reckoned: 28 bytes of IPv4 and UDP, 48 of IPv6 and UDP, 52 of IPv4 and TCP in a
//! connection to a relay, whose acknowledgements and TLS records are not known here.
//! The shell counts its line to the coordinator and tells
//! ([`handle_line_traffic`](crate::agent::Agent::handle_line_traffic)).
//!
//! | cause | what |
//! |---|---|
//! | control | the line to the coordinator |
//! | keepalive | probes on a way that is kept open while nobody talks |
//! | probe | every other probe, and what STUN servers are asked |
//! | relay overhead | what a relay is asked, and what it puts around a peer's packets |
//! | payload | WireGuard: data, handshakes, its own keepalives |
//!
//! What is not authentic counts as payload, whatever it claims to be: nobody uses
//! up another's budget by sending to it.
//!
//! A budget is for the first four causes. It binds where bytes cost money, and there
//! it ends what only might help; payload, calls and the line go on and are counted.
//! The day is the coordinator's, in UTC. Before the time is known it is as long as it
//! takes, and what an earlier run of the same day has used counts already.

use core::net::SocketAddr;

use crate::event::Via;
use crate::time::{Duration, Instant};

/// Bytes that looking for a way once may take: ten addresses with seven pings each,
/// predicted ports, the call. With less left of a budget nothing is looked for.
pub const ROUND: u64 = 10_000;

const DAY: Duration = Duration::from_secs(86_400);
const DAY_MS: u64 = 86_400_000;
/// A report is worth its bytes this long after the one before, and in the last part
/// of a day with every heartbeat.
const REPORT_EVERY: Duration = Duration::from_secs(3_600);
/// TCP's header with timestamps, and IPv4's.
const STREAM_HEADER: u64 = 52;

/// What bytes are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The line to the coordinator.
    Control,
    /// Ways that are kept open.
    Keepalive,
    /// Looking for ways, asking whether they stand.
    Probe,
    /// Around what a relay passes on.
    RelayOverhead,
    /// What the mesh is there for.
    Payload,
}

/// How many causes there are.
pub const CAUSES: usize = 5;

/// Bytes by [`Cause`], in its order.
pub type Bytes = [u64; CAUSES];

/// What of it a budget is for.
pub fn overhead(bytes: &Bytes) -> u64 {
    let [causes @ .., _] = bytes;
    causes.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes))
}

/// What is around a datagram to or from this address, in bytes.
pub const fn datagram_header(address: SocketAddr) -> u64 {
    let is_v4 = match address {
        SocketAddr::V4(_) => true,
        // A socket of both families.
        SocketAddr::V6(address) => address.ip().to_ipv4_mapped().is_some(),
    };
    if is_v4 { 28 } else { 48 }
}

/// What is around bytes that leave this way, or came it.
pub const fn header(via: Via) -> u64 {
    match via {
        Via::Udp { to, .. } => datagram_header(to),
        Via::Stream(_) => STREAM_HEADER,
    }
}

/// What the shell says of its network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Bytes cost money here.
    pub is_metered: bool,
    /// Bytes per day for everything but payload.
    pub bytes: Option<u64>,
}

/// A day's bytes, as people are shown them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Days since 1970-01-01; `None` before the time is known.
    pub day: Option<u32>,
    /// By cause.
    pub bytes: Bytes,
    /// The tighter one of the shell's budget and the coordinator's.
    pub budget: Option<u64>,
    /// What counts against it: before the time is known, what an earlier run of what
    /// may be the same day has used is in it too.
    pub used: u64,
    /// Whether the budget binds.
    pub is_metered: bool,
    /// Nothing is sent any more that only might help.
    pub is_used_up: bool,
}

/// What may still be sent that only might help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes.
    pub left: u64,
    /// Until the day ends; `FAR_FUTURE` before the time is known.
    pub until: Instant,
}

impl Allowance {
    /// As much as anybody likes.
    pub const UNLIMITED: Self = Self { left: u64::MAX, until: Instant::FAR_FUTURE };

    /// Whether another look for a way is affordable.
    pub const fn allows_round(self) -> bool {
        self.left >= ROUND
    }
}

/// The counters of one device.
#[derive(Clone, Debug)]
pub struct Meter {
    today: Bytes,
    /// What a run before has counted, and on which day: it is added once the time
    /// says that this is that day.
    earlier: Option<(u32, Bytes)>,
    day: Option<u32>,
    /// Of the day.
    ends_at: Instant,
    budget: Budget,
    /// The coordinator's.
    told_budget: Option<u64>,
    /// The owner knows that the budget is used up.
    was_used_up: bool,
    /// When the coordinator was told last, and whether the budget was used up.
    reported: Option<(Instant, bool)>,
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

impl Meter {
    /// Nothing yet, and no budget.
    pub const fn new() -> Self {
        Self {
            today: [0; CAUSES],
            earlier: None,
            day: None,
            ends_at: Instant::FAR_FUTURE,
            budget: Budget { is_metered: false, bytes: None },
            told_budget: None,
            was_used_up: false,
            reported: None,
        }
    }

    /// Counts; most bytes are payload's, so this is little more than a sum.
    pub fn add(&mut self, cause: Cause, bytes: u64, now: Instant) {
        self.roll(now);
        if let Some(sum) = self.today.get_mut(cause as usize) {
            *sum = sum.saturating_add(bytes);
        }
    }

    /// The coordinator says what time it is, in milliseconds since 1970.
    pub fn set_clock(&mut self, unix_ms: u64, now: Instant) {
        let day = u32::try_from(unix_ms / DAY_MS).unwrap_or(u32::MAX);
        match (self.day, self.earlier.take()) {
            (None, Some((earlier, bytes))) if earlier == day => {
                for (sum, more) in self.today.iter_mut().zip(bytes) {
                    *sum = sum.saturating_add(more);
                }
            }
            (Some(before), _) if before != day => self.today = [0; CAUSES],
            _ => {}
        }
        self.day = Some(day);
        self.ends_at = now + Duration::from_millis(DAY_MS - unix_ms % DAY_MS);
    }

    /// Takes back what [`Meter::kept`] gave.
    pub const fn restore(&mut self, day: u32, bytes: Bytes) {
        self.earlier = Some((day, bytes));
    }

    /// What is to survive a restart. Before the time is known, what did survive.
    pub fn kept(&self) -> Option<(u32, Bytes)> {
        self.day.map(|day| (day, self.today)).or(self.earlier)
    }

    /// What the shell says.
    pub const fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
    }

    /// What the coordinator says.
    pub const fn set_told_budget(&mut self, bytes: Option<u64>) {
        self.told_budget = bytes;
    }

    fn budget(&self) -> Option<u64> {
        [self.budget.bytes, self.told_budget].into_iter().flatten().min()
    }

    /// Time passes without a packet too.
    fn roll(&mut self, now: Instant) {
        while now >= self.ends_at && self.ends_at != Instant::FAR_FUTURE {
            self.ends_at += DAY;
            self.day = self.day.map(|day| day.saturating_add(1));
            self.today = [0; CAUSES];
        }
    }

    /// Whether a budget binds at all.
    pub fn is_limited(&self) -> bool {
        self.budget.is_metered && self.budget().is_some()
    }

    /// What is left for what only might help.
    pub fn allowance(&mut self, now: Instant) -> Allowance {
        self.roll(now);
        let Some(budget) = self.budget().filter(|_| self.budget.is_metered) else {
            return Allowance::UNLIMITED;
        };
        Allowance { left: budget.saturating_sub(self.used()), until: self.ends_at }
    }

    fn used(&self) -> u64 {
        // A restart is no new day, as far as anybody knows.
        let earlier = self.earlier.map_or(0, |(_, bytes)| overhead(&bytes));
        overhead(&self.today).saturating_add(earlier)
    }

    /// Whether the budget is used up, if that is otherwise than when last asked.
    pub fn poll_change(&mut self, now: Instant) -> Option<bool> {
        let is_used_up = !self.allowance(now).allows_round();
        let was = core::mem::replace(&mut self.was_used_up, is_used_up);
        (was != is_used_up).then_some(is_used_up)
    }

    /// Whether it was, when last asked.
    pub const fn is_used_up(&self) -> bool {
        self.was_used_up
    }

    /// When what was ended may go on.
    pub fn due_at(&self) -> Option<Instant> {
        (self.was_used_up && self.ends_at != Instant::FAR_FUTURE).then_some(self.ends_at)
    }

    /// The day so far.
    pub fn usage(&self, now: Instant) -> Usage {
        let mut meter = self.clone();
        let is_used_up = !meter.allowance(now).allows_round();
        Usage {
            day: meter.day,
            bytes: meter.today,
            budget: meter.budget(),
            used: meter.used(),
            is_metered: meter.budget.is_metered,
            is_used_up,
        }
    }

    /// The same if it is worth being told to the coordinator with a heartbeat.
    pub fn due_report(&self, now: Instant) -> Option<Usage> {
        let usage = self.usage(now);
        usage.day?;
        // A clock that has passed the end of the day begins the next one.
        let is_last = now < self.ends_at && self.ends_at - now < REPORT_EVERY;
        let is_due = self.reported.is_none_or(|(at, was_used_up)| {
            is_last || was_used_up != usage.is_used_up || now - at >= REPORT_EVERY
        });
        is_due.then_some(usage)
    }

    /// The coordinator is being told.
    pub const fn handle_reported(&mut self, usage: &Usage, now: Instant) {
        self.reported = Some((now, usage.is_used_up));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{SocketId, StreamId};

    /// 2026-11-27, 23:00.
    const EVENING: u64 = 20_784 * DAY_MS + 23 * 3_600_000;

    fn at(secs: u64) -> Instant {
        Instant::from_secs(secs)
    }

    fn sum(meter: &Meter, now: Instant) -> u64 {
        meter.usage(now).bytes.iter().sum()
    }

    #[test]
    fn a_day_ends_at_the_coordinators_midnight() {
        let mut meter = Meter::new();
        meter.add(Cause::Control, 100, at(1));
        meter.set_clock(EVENING, at(2));
        meter.add(Cause::Probe, 10, at(3_601));
        let usage = meter.usage(at(3_601));
        assert_eq!((usage.day, usage.bytes), (Some(20_784), [100, 0, 10, 0, 0]));
        // Without a packet, and after several days.
        assert_eq!(meter.usage(at(3_602)).day, Some(20_785));
        assert_eq!(sum(&meter, at(3_602)), 0);
        meter.add(Cause::Payload, 7, at(3_602 + 3 * 86_400));
        let usage = meter.usage(at(3_602 + 3 * 86_400));
        assert_eq!((usage.day, usage.bytes), (Some(20_788), [0, 0, 0, 0, 7]));
        // A clock that was a little fast: the same day goes on.
        meter.set_clock((20_788 * DAY_MS) + 5_000, at(3_602 + 3 * 86_400));
        assert_eq!(sum(&meter, at(3_603 + 3 * 86_400)), 7);
    }

    #[test]
    fn a_restart_goes_on_with_the_day() {
        let mut meter = Meter::new();
        meter.set_clock(EVENING, at(0));
        meter.add(Cause::Control, 5, at(1));
        let (day, bytes) = meter.kept().unwrap();
        for (unix_ms, expected) in [(EVENING + 60_000, 8), (EVENING + 2 * 3_600_000, 3)] {
            let mut again = Meter::new();
            again.restore(day, bytes);
            again.add(Cause::Probe, 3, at(1));
            assert_eq!(sum(&again, at(1)), 3);
            assert_eq!(again.kept(), Some((day, bytes)), "until the time is known");
            again.set_clock(unix_ms, at(2));
            assert_eq!(sum(&again, at(2)), expected);
            again.set_clock(unix_ms + 1, at(3));
            assert_eq!(sum(&again, at(3)), expected, "once");
        }
    }

    #[test]
    fn a_budget_binds_where_bytes_cost_money_and_until_midnight() {
        let mut meter = Meter::new();
        meter.set_clock(EVENING, at(0));
        meter.set_budget(Budget { is_metered: false, bytes: Some(30_000) });
        meter.add(Cause::Control, 25_000, at(1));
        assert_eq!((meter.poll_change(at(1)), meter.is_limited()), (None, false));
        meter.set_budget(Budget { is_metered: true, bytes: Some(30_000) });
        assert_eq!(meter.allowance(at(1)), Allowance { left: 5_000, until: at(3_600) });
        assert_eq!((meter.poll_change(at(1)), meter.poll_change(at(1))), (Some(true), None));
        assert_eq!(meter.due_at(), Some(at(3_600)));
        // The new day.
        assert_eq!(meter.poll_change(at(3_600)), Some(false));
        assert_eq!(meter.due_at(), None);
        assert!(meter.allowance(at(3_600)).allows_round());
    }

    #[test]
    fn the_tighter_budget_counts_and_payload_does_not() {
        let mut meter = Meter::new();
        meter.set_budget(Budget { is_metered: true, bytes: None });
        meter.add(Cause::Payload, u64::MAX, at(1));
        meter.add(Cause::Payload, 1, at(1));
        assert_eq!(meter.allowance(at(1)), Allowance::UNLIMITED);
        meter.set_told_budget(Some(100_000));
        assert_eq!(meter.allowance(at(1)).left, 100_000);
        meter.set_budget(Budget { is_metered: true, bytes: Some(40_000) });
        meter.add(Cause::RelayOverhead, 500, at(1));
        assert_eq!(meter.allowance(at(1)).left, 39_500);
        // What a run before has used, whatever the day.
        meter.restore(1, [0, 30_000, 0, 0, 9]);
        assert_eq!(meter.allowance(at(1)).left, 9_500);
        assert!(!meter.allowance(at(1)).allows_round());
        assert_eq!(meter.usage(at(1)).used, 30_500);
        meter.set_told_budget(None);
        assert_eq!(meter.usage(at(1)).budget, Some(40_000));
    }

    #[test]
    fn reports_are_rare() {
        let mut meter = Meter::new();
        assert_eq!(meter.due_report(at(1)), None, "of which day?");
        meter.set_clock(EVENING - 5 * 3_600_000, at(0));
        let mut told = 0;
        for heartbeat in 0..24 {
            let now = at(heartbeat * 900);
            if let Some(usage) = meter.due_report(now) {
                meter.handle_reported(&usage, now);
                told += 1;
            }
        }
        // Once an hour, and in the last one with each heartbeat.
        assert_eq!(told, 5 + 4);
        meter.set_budget(Budget { is_metered: true, bytes: Some(1) });
        let now = at(23 * 900 + 1);
        assert!(meter.due_report(now).is_some_and(|usage| usage.is_used_up));
    }

    #[test]
    fn what_is_around_a_packet_is_counted() {
        let v4: SocketAddr = "198.51.100.7:1".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:198.51.100.7]:1".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::7]:1".parse().unwrap();
        assert_eq!([v4, mapped, v6].map(datagram_header), [28, 28, 48]);
        assert_eq!(header(Via::Udp { socket: SocketId(0), to: v6 }), 48);
        assert_eq!(header(Via::Stream(StreamId(1))), 52);
    }
}
