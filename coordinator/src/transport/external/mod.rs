//! The way to devices over a broker that is not ours: Mosquitto, EMQX, any.
//!
//! The broker is trusted with nothing. What it hands over is sorted before
//! anything is kept of it (`inlet`), what goes out waits in one bounded queue
//! (`outbox`), and nothing is torn down for what it says or leaves out.
//!
//! MQTT 3.1.1 by rumqttc, although agents speak 5: the older version has no
//! topic aliases (a table that the other side fills) and its decoder is the one
//! that random packets did not bring down. QoS 0, clean sessions, nothing
//! retained.
//!
//! Brokers tell little about their access lists: Mosquitto grants every
//! subscription and then delivers nothing, EMQX drops what may not be published.
//! So each new connection first sends a frame to an inbox of its own over every
//! kind of topic, and counts as open when all of them came back.

mod inlet;
mod joined;
mod line;
mod outbox;
mod trouble;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use weft_wire::id::Inbox;
use zeroize::Zeroizing;

pub use self::inlet::{BURST, DropReason, OF_INBOX};
pub use self::joined::Joined;
pub use self::outbox::{FRAMES, OF_ONE};
pub use self::trouble::Trouble;

use self::inlet::Inlet;
use self::outbox::Outbox;
use super::mqtt::hub::Hub;
use crate::service::bus::{Bus, Delivery, Inbound};
use crate::service::count::{Counter, Counts};
use crate::service::random::Random;

/// The first pause after a connection that was lost or not made.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A connection that stood this long begins with the first pause again.
const STOOD: Duration = Duration::from_secs(30);

/// Where the broker is, and the coordinator's own account there.
pub struct Account {
    /// Its host, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User name.
    pub user: String,
    /// Password. A secret.
    pub password: Zeroizing<String>,
}

impl Account {
    /// `host:port`; an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.bracketed(), self.port)
    }

    fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

/// What is counted.
#[derive(Debug, Default)]
pub struct Stats {
    drops: Counts<{ DropReason::COUNT }>,
    /// Connections that were proved to carry.
    pub opened: Counter,
    /// Connections that ended, or were not made.
    pub failed: Counter,
    /// Frames from devices that were queued for the service.
    pub up: Counter,
    /// Frames to devices.
    pub down: Counter,
    /// Frames to devices that found no room.
    pub full: Counter,
    /// Frames whose handling panicked.
    pub panics: Counter,
}

impl Stats {
    /// Counter of frames from the broker that were dropped for this reason.
    pub const fn dropped(&self, why: DropReason) -> &Counter {
        self.drops.get(why as usize)
    }
}

/// Whether there is a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// None, and why the last one ended or was not made.
    Closed(Option<Trouble>),
    /// It was proved to carry in both directions.
    Open,
}

/// What the parts share.
struct Shared {
    account: Account,
    /// The client id of this process. Nobody can guess it: whoever connects
    /// with another's id ends that one's connection.
    client: String,
    random: Random,
    outbox: Outbox,
    standing: watch::Sender<Standing>,
    stats: Stats,
}

/// The bus whose broker is another program. Clones are the same one.
#[derive(Clone)]
pub struct External(Arc<Shared>);

impl External {
    /// Nothing is connected before [`External::run`].
    pub fn new(account: Account, random: Random) -> Self {
        // What every broker must take: letters and digits, at most 23 (MQTT
        // 3.1.1, 3.1.3.1).
        let client = format!("weft{:016x}", u64::from_le_bytes(random.bytes()));
        Self(Arc::new(Shared {
            account,
            client,
            random,
            outbox: Outbox::default(),
            standing: watch::Sender::new(Standing::Closed(None)),
            stats: Stats::default(),
        }))
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.0.stats
    }

    /// Frames to devices that wait for the connection.
    pub fn waiting(&self) -> usize {
        self.0.outbox.waiting()
    }

    /// Whether the connection carries, now and whenever it changes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.0.standing.subscribe()
    }

    /// Whether the connection carries now.
    pub fn is_open(&self) -> bool {
        *self.0.standing.borrow() == Standing::Open
    }

    /// Keeps a connection to the broker for ever and hands on what it brings.
    /// Drop the future to stop.
    pub async fn run(self, inbound: Arc<dyn Inbound>, hub: Arc<Hub>) -> Infallible {
        let mut workers = JoinSet::new();
        let inlet = Inlet::start(&self.0, &inbound, &hub, &mut workers);
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let trouble = self.connect(&inlet, &inbound).await;
            self.0.outbox.close();
            self.0.stats.failed.add();
            let stood = self.0.standing.send_replace(Standing::Closed(Some(trouble.clone())));
            let stood = stood == Standing::Open;
            if stood && began.elapsed() >= STOOD {
                failures = 0;
            }
            let pause = pause(failures, self.0.random);
            failures = failures.saturating_add(1);
            trouble.log(&self.0.account, stood, pause);
            tokio::time::sleep(pause).await;
        }
    }

    /// One connection from its beginning to its end, in a task of its own: a
    /// packet that the decoder panics on ends the connection and not this.
    async fn connect(&self, inlet: &Arc<Inlet>, inbound: &Arc<dyn Inbound>) -> Trouble {
        let (shared, inlet, inbound) =
            (Arc::clone(&self.0), Arc::clone(inlet), Arc::clone(inbound));
        let mut task = JoinSet::new();
        task.spawn(async move { line::run(&shared, &inlet, &*inbound).await });
        match task.join_next().await {
            Some(Ok(trouble)) => trouble,
            _ => Trouble::Malformed,
        }
    }
}

/// Twice as long after each failure, and up to half of it longer, so that what
/// restarts together does not come back together.
fn pause(failures: u32, random: Random) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << failures.min(6)).min(LONGEST_PAUSE);
    let [share] = random.bytes();
    whole + whole * u32::from(share) / 512
}

impl Bus for External {
    fn send(&self, inbox: Inbox, frame: Bytes) -> Delivery {
        let delivery = self.0.outbox.push(inbox, frame);
        if delivery == Delivery::Full {
            self.0.stats.full.add();
        }
        delivery
    }

    fn disconnect(&self, _inbox: Inbox) {
        // Its connection is the broker's. Without a session it is of no use.
    }

    fn reachable(&self, _inbox: Inbox) -> bool {
        self.is_open()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_spread() {
        let least = Random(|out| out.fill(0));
        let most = Random(|out| out.fill(0xFF));
        let pauses: Vec<_> = (0..9).map(|failures| pause(failures, least).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(pause(0, most) > Duration::from_millis(1_490));
        assert!(pause(u32::MAX, most) < Duration::from_secs(90));
    }

    #[test]
    fn addresses_are_written_as_people_do() {
        let account = |host: &str| Account {
            host: host.to_owned(),
            port: 1883,
            user: String::new(),
            password: Zeroizing::default(),
        };
        assert_eq!(account("broker.lan").authority(), "broker.lan:1883");
        assert_eq!(account("2001:db8::1").authority(), "[2001:db8::1]:1883");
    }
}
