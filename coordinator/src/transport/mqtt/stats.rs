//! What happened to connections and frames, counted by reason.

use super::connect::Refusal;
use super::session::Close;
use crate::service::count::{Counter, Counts, word};

/// Why a connection ended before it was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Early {
    /// No whole CONNECT in time.
    Deadline,
    /// Its place was needed: it was the one that waited longest.
    Crowded,
    /// It ended by itself.
    Lost,
    /// The first packet is no CONNECT, or longer than one may be.
    NotConnect,
    /// A protocol level that is not spoken here.
    Level,
    /// The CONNECT does not decode.
    Malformed,
    /// Decoded and not admitted.
    Refused(Refusal),
    /// Too many enrolling clients with this key.
    EnrolmentFull,
    /// Too many clients in all.
    Full,
    /// An enrolling client that chose another's inbox.
    InboxTaken,
}

impl Early {
    /// How many reasons there are.
    pub const COUNT: usize = Self::REFUSED + Refusal::COUNT;
    const REFUSED: usize = 9;

    /// All, in order.
    pub const ALL: [Self; Self::COUNT] = {
        let mut all = [Self::Deadline; Self::COUNT];
        let first = [
            Self::Deadline,
            Self::Crowded,
            Self::Lost,
            Self::NotConnect,
            Self::Level,
            Self::Malformed,
            Self::EnrolmentFull,
            Self::Full,
            Self::InboxTaken,
        ];
        let mut index = 0;
        while index < Self::COUNT {
            all[index] = if index < Self::REFUSED {
                first[index]
            } else {
                Self::Refused(Refusal::ALL[index - Self::REFUSED])
            };
            index += 1;
        }
        all
    };

    /// One word for a reader of counters.
    pub fn word(self) -> String {
        match self {
            Self::Refused(refusal) => format!("refused_{}", word(&refusal)),
            other => word(&other),
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Deadline => 0,
            Self::Crowded => 1,
            Self::Lost => 2,
            Self::NotConnect => 3,
            Self::Level => 4,
            Self::Malformed => 5,
            Self::EnrolmentFull => 6,
            Self::Full => 7,
            Self::InboxTaken => 8,
            Self::Refused(refusal) => Self::REFUSED + refusal as usize,
        }
    }
}

/// The MQTT endpoint's counters.
#[derive(Debug, Default)]
pub struct Stats {
    early: Counts<{ Early::COUNT }>,
    closed: Counts<{ Close::COUNT }>,
    /// Clients admitted.
    pub admitted: Counter,
    /// Frames from clients.
    pub up: Counter,
    /// Frames to clients.
    pub down: Counter,
    /// Frames that were too long for the client.
    pub undeliverable: Counter,
    /// Connections whose task panicked.
    pub panics: Counter,
}

impl Stats {
    /// Counter of connections that ended before they were admitted.
    pub const fn early(&self, why: Early) -> &Counter {
        self.early.get(why.index())
    }

    /// Counter of admitted connections that ended.
    pub const fn closed(&self, why: Close) -> &Counter {
        self.closed.get(why as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_counter_and_its_word() {
        let stats = Stats::default();
        let mut words: Vec<String> = Early::ALL.iter().map(|why| why.word()).collect();
        for (index, why) in Early::ALL.iter().enumerate() {
            assert_eq!(why.index(), index);
            stats.early(*why).add();
            assert_eq!(stats.early(*why).get(), 1);
        }
        assert!(words.contains(&"refused_password".to_owned()));
        words.sort();
        words.dedup();
        assert_eq!(words.len(), Early::COUNT);
    }
}
