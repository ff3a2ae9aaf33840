//! Every number that the tunnel and the data path obey, those of the WireGuard
//! paper apart from ours.

use crate::time::Duration;

/// Constants of the WireGuard paper, section 6.1 (and 6.6 for keepalives). Two
/// implementations that differ in one of these misunderstand each other. Those
/// that count messages, and the life of a cookie, stand in `weft_noise::wg`.
pub mod specification {
    use crate::time::Duration;

    /// The initiator of a session replaces it after this long, when it sends.
    pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
    /// No packet is sent or accepted in a session after this long.
    pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
    /// A handshake is given up after this long without an answer.
    pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
    /// An unanswered initiation is repeated after this long.
    pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
    /// Who has received data and sent nothing for this long sends a keepalive.
    pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

    /// A new handshake is due this long after the first unanswered data packet.
    pub const NO_ANSWER_TIME: Duration =
        Duration::from_secs(KEEPALIVE_TIMEOUT.as_secs() + REKEY_TIMEOUT.as_secs());
    /// The initiator of a session replaces it after this long, when it receives.
    pub const REKEY_ON_RECEIVE_TIME: Duration =
        Duration::from_secs(REJECT_AFTER_TIME.as_secs() - NO_ANSWER_TIME.as_secs());
    /// All keys of a peer are erased this long after its last handshake.
    pub const ERASE_AFTER_TIME: Duration = Duration::from_secs(3 * REJECT_AFTER_TIME.as_secs());
}

/// Numbers of our own. Another implementation never notices them.
pub mod implementation {
    use crate::time::Duration;

    /// Free bytes before a packet: the header of transport data.
    pub const HEADROOM: usize = 16;
    /// Free bytes after a packet: up to 15 of padding and the tag of 16.
    pub const TAILROOM: usize = 31;

    /// A repeated initiation waits up to this much longer, at random (the
    /// kernel's jitter), so that two sides do not stay in step.
    pub const REKEY_TIMEOUT_JITTER: Duration = Duration::from_millis(333);
    /// A shorter persistent keepalive is taken for this one.
    pub const KEEPALIVE_LEAST: Duration = Duration::from_secs(1);
    /// Nothing is sent in a session during the last part of
    /// `REJECT_AFTER_TIME`, so that what was sent in time also arrives in time.
    pub const SEND_MARGIN: Duration = Duration::from_secs(5);
    /// Of one peer, no two initiations are answered closer than this (the
    /// kernel's 50 a second).
    pub const INITIATION_INTERVAL: Duration = Duration::from_millis(20);
    /// An initiation is repeated on a newly opened path, but not sooner than
    /// this after the last one.
    pub const PATH_RETRY_INTERVAL: Duration = Duration::from_millis(250);
    /// After this many invalid responses to one initiation, further ones need
    /// a cookie.
    pub const INVALID_RESPONSES: u8 = 4;

    /// Smallest `rekey_after`, for tests.
    pub const REKEY_AFTER_MIN: Duration = Duration::from_secs(10);

    /// Between two answers to initiations of others, on average: a flood takes
    /// at most 25 handshakes a second of a chip's time.
    pub const HANDSHAKE_INTERVAL: Duration = Duration::from_millis(40);

    /// Initiations per second that one source address may have answered while
    /// under load, after a burst of [`SOURCE_BURST`].
    pub const SOURCE_RATE: u32 = 20;
    /// See [`SOURCE_RATE`].
    pub const SOURCE_BURST: u32 = 5;

    /// A flow-table entry lives this long after the last packet that we sent.
    pub const FLOW_TIME: Duration = Duration::from_secs(60);
    /// Flow-table entries of a chip.
    pub const FLOWS_CHIP: usize = 32;
    /// Handshakes that a chip begins, or is to answer, at once; a peer more waits its turn.
    pub const HANDSHAKES_CHIP: usize = 4;
    /// Packets that wait for a session on a chip, of all peers.
    pub const STAGED_CHIP: usize = 2;
    /// Flow-table entries on Linux.
    pub const FLOWS_LINUX: usize = 4096;

    /// The smallest MTU that IPv6 allows, and the default of mesh interfaces.
    pub const MTU_DEFAULT: u16 = 1280;
    /// The largest MTU of mesh interfaces.
    pub const MTU_MAX: u16 = 1420;
}

/// What may be set about the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelConfig {
    rekey_after: Duration,
    handshake_interval: Duration,
}

impl TunnelConfig {
    /// As in the paper.
    pub const fn new() -> Self {
        Self {
            rekey_after: specification::REKEY_AFTER_TIME,
            handshake_interval: implementation::HANDSHAKE_INTERVAL,
        }
    }

    /// For tests: replaces sessions after another time than 120 s, brought into
    /// the range of 10 to 120 s. All other times stay.
    #[must_use]
    pub fn with_rekey_after(self, rekey_after: Duration) -> Self {
        Self {
            rekey_after: rekey_after
                .clamp(implementation::REKEY_AFTER_MIN, specification::REKEY_AFTER_TIME),
            ..self
        }
    }

    /// How many initiations of others are answered per second; 1 at least. The
    /// default is for a chip; a gateway takes 1,000.
    #[must_use]
    pub fn with_handshakes_per_second(self, rate: u32) -> Self {
        self.with_handshake_interval(Duration::from_secs(1) / rate.max(1))
    }

    /// The same as the least time between two answers, on average.
    #[must_use]
    pub const fn with_handshake_interval(self, handshake_interval: Duration) -> Self {
        Self { handshake_interval, ..self }
    }

    /// The least time between two answers, on average.
    pub const fn handshake_interval(&self) -> Duration {
        self.handshake_interval
    }

    /// How long the initiator of a session sends in it before it is replaced.
    pub const fn rekey_after(&self) -> Duration {
        self.rekey_after
    }
}

impl Default for TunnelConfig {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_times_are_those_of_the_paper() {
        assert_eq!(specification::NO_ANSWER_TIME, Duration::from_secs(15));
        assert_eq!(specification::REKEY_ON_RECEIVE_TIME, Duration::from_secs(165));
        assert_eq!(specification::ERASE_AFTER_TIME, Duration::from_secs(540));
    }

    #[test]
    fn rekey_after_stays_in_its_range() {
        for (asked, got) in [(0, 10), (10, 10), (60, 60), (120, 120), (600, 120)] {
            let config = TunnelConfig::new().with_rekey_after(Duration::from_secs(asked));
            assert_eq!(config.rekey_after(), Duration::from_secs(got));
        }
    }
}
