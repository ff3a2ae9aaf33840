//! One request, how often it is repeated, and what became of it.

use core::net::SocketAddr;

use weft_wire::stun::{
    BINDING_REQUEST, CHANGE_REQUEST, MessageWriter, RESPONSE_PORT, StunError, TransactionId,
};

use super::{ASKER, MAIN, RESTING, change, may_be_asked};
use crate::event::SocketId;
use crate::time::{Duration, Instant};

/// Requests of one ask.
const SENDS: usize = 3;

/// When requests go, and when the last is given up, from the first.
#[derive(Debug)]
pub(super) struct Schedule {
    sends: [Duration; SENDS],
    give_up: Duration,
}

impl Schedule {
    /// For what a server that is there answers.
    pub(super) const ANSWERED: Self = Self {
        sends: [Duration::ZERO, Duration::from_millis(250), Duration::from_millis(750)],
        give_up: Duration::from_millis(1_750),
    };
    /// For what mostly does not arrive: people wait for all of this.
    pub(super) const DOUBTFUL: Self = Self {
        sends: [Duration::ZERO, Duration::from_millis(200), Duration::from_millis(500)],
        give_up: Duration::from_millis(1_250),
    };
}

/// What an ask is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Where a server sees [`MAIN`].
    Server,
    /// Opens the NAT towards one server.
    Filter,
    /// That one answers from another address and port.
    FilterBoth,
    /// That one answers from another port.
    FilterPort,
    /// A request to ourselves.
    Hairpin,
    /// The binding of this life is made.
    Made(u8),
    /// It is used again.
    Used(u8),
    /// Something comes to it, at this public port.
    Looked(u8, u16),
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Answered {
        mapped: SocketAddr,
        /// OTHER-ADDRESS.
        other: Option<SocketAddr>,
        at: Instant,
    },
    /// The server cannot do it.
    Refused,
    Silent,
}

#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) purpose: Purpose,
    pub(super) socket: SocketId,
    pub(super) to: SocketAddr,
    schedule: &'static Schedule,
    began: Instant,
    /// Requests sent.
    pub(super) sends: usize,
    sent_at: [Instant; SENDS],
    pub(super) end: Option<End>,
    /// Which request was answered.
    pub(super) answered_send: usize,
}

impl Ask {
    pub(super) const fn new(
        purpose: Purpose,
        socket: SocketId,
        to: SocketAddr,
        now: Instant,
        schedule: &'static Schedule,
    ) -> Self {
        Self {
            purpose,
            socket,
            to,
            schedule,
            began: now,
            sends: 0,
            sent_at: [now; SENDS],
            end: None,
            answered_send: 0,
        }
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        if self.end.is_some() {
            return None;
        }
        let after = self.schedule.sends.get(self.sends).copied();
        Some(self.began + after.unwrap_or(self.schedule.give_up))
    }

    /// Whether a request is to be sent.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.sends < SENDS && self.due_at().is_some_and(|at| at <= now)
    }

    /// Whether it was asked often and long enough.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.sends >= SENDS && self.due_at().is_some_and(|at| at <= now)
    }

    pub(super) fn handle_sent(&mut self, now: Instant) {
        if let Some(sent) = self.sent_at.get_mut(self.sends) {
            *sent = now;
        }
        self.sends += 1;
    }

    /// Where the server saw us.
    pub(super) const fn mapped(&self) -> Option<SocketAddr> {
        match self.end {
            Some(End::Answered { mapped, .. }) => Some(mapped),
            _ => None,
        }
    }

    /// The server's other address and port.
    pub(super) fn other(&self) -> Option<SocketAddr> {
        match self.end {
            Some(End::Answered { other, .. }) => {
                other.filter(|other| may_be_asked(*other, self.to))
            }
            _ => None,
        }
    }

    /// From the request that was answered to its answer.
    pub(super) fn rtt(&self) -> Option<Duration> {
        let Some(End::Answered { at, .. }) = self.end else { return None };
        Some(at - *self.sent_at.get(self.answered_send)?)
    }

    /// Whether a message of this kind, of this ask, may come there from there.
    pub(super) fn fits(&self, socket: SocketId, source: SocketAddr, kind: u16) -> bool {
        if (kind == BINDING_REQUEST) != (self.purpose == Purpose::Hairpin) {
            return false;
        }
        match self.purpose {
            Purpose::Server | Purpose::Filter | Purpose::Made(_) | Purpose::Used(_) => {
                (socket, source) == (self.socket, self.to)
            }
            // From elsewhere, or a refusal.
            Purpose::FilterBoth | Purpose::FilterPort => socket == self.socket,
            Purpose::Hairpin => socket == MAIN,
            Purpose::Looked(number, _) => {
                source == self.to && (socket == SocketId(RESTING + number) || socket == ASKER)
            }
        }
    }

    /// Writes its request.
    pub(super) fn write(&self, id: TransactionId, out: &mut [u8]) -> Result<usize, StunError> {
        let mut writer = MessageWriter::new(BINDING_REQUEST, id, out)?;
        if let Some(change) = change(self.purpose) {
            let bits = u8::from(change.address) << 2 | u8::from(change.port) << 1;
            writer.attribute(CHANGE_REQUEST, &[0, 0, 0, bits])?;
        }
        if let Purpose::Looked(_, port) = self.purpose {
            let [high, low] = port.to_be_bytes();
            writer.attribute(RESPONSE_PORT, &[high, low, 0, 0])?;
        }
        writer.finish()
    }
}
