//! What a person asks of a chip that does not do well: the last things that happened, from
//! a ring in its memory, and everything that is counted.

use core::cell::{Cell, RefCell};

use heapless::HistoryBuf;
use weft_agent_core::control::ControlCounters;
use weft_agent_core::event::PeerSlot;
pub use weft_agent_core::event::{Counters as Data, DropCounters, DropReason};
use weft_wire::item::Standing;

use crate::clock;
use crate::status::Event;

/// Things that are remembered; of more the oldest go.
pub const LOGGED: usize = 64;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum Code {
            $($(#[$doc])* $name,)+
        }

        impl Code {
            /// As people are shown it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

codes! {
    /// The agent was made; number: starts of the device.
    Start = "start",
    /// The device was taken in; number: its id.
    Enrolled = "enrolled",
    /// It has an address on the mesh; number: the IPv4 one.
    Joined = "joined",
    /// The coordinator did not take it in; number: the code that it gave.
    Refused = "refused",
    /// It stands otherwise; number: 0 active, 1 pending, 2 blocked, 3 quarantined, 4
    /// rejected.
    Standing = "standing",
    /// Another machine uses its identity.
    Duplicate = "duplicate",
    /// A session with the coordinator is up.
    Online = "online",
    /// It was lost.
    Offline = "offline",
    /// The line is in trouble; number: the place of [`crate::status::LineTrouble`].
    Line = "line trouble",
    /// A packet wants a peer; number: its id, as of the next ones.
    PeerCalling = "peer calling",
    /// Data goes to and fro with it.
    PeerUp = "peer up",
    /// No more, or no way was found.
    PeerDown = "peer down",
    /// There are no peers any more.
    MapDropped = "map dropped",
    /// Peers use another key of the device.
    KeyRotated = "key rotated",
    /// Something could not be written to storage.
    Storage = "storage failed",
    /// The day's budget is used up.
    BudgetUsed = "budget used up",
    /// There is a new one.
    BudgetNew = "budget new",
    /// An operator wants a restart.
    Restart = "restart wanted",
    /// The device has left its network.
    Left = "left",
}

/// Something that happened, in 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Seconds after the chip was started.
    pub at_s: u32,
    /// What the code says of it, otherwise 0.
    pub number: u32,
    /// What it was.
    pub code: Code,
    slot: u8,
}

impl Logged {
    /// The place of the peer, if it was about one.
    pub fn slot(&self) -> Option<u8> {
        (self.slot != u8::MAX).then_some(self.slot)
    }
}

/// The ring, and what the agent itself does not count.
pub(crate) struct Log {
    ring: RefCell<HistoryBuf<Logged, LOGGED>>,
    written: Cell<u32>,
}

const _: () = assert!(size_of::<Log>() <= 1_024 && size_of::<Logged>() == 12);

impl Log {
    pub(crate) const fn new() -> Self {
        Self { ring: RefCell::new(HistoryBuf::new()), written: Cell::new(0) }
    }

    /// It happens now.
    pub(crate) fn put(&self, code: Code, number: u32, slot: Option<PeerSlot>) {
        let at_s = u32::try_from(clock::now().as_millis() / 1_000).unwrap_or(u32::MAX);
        let slot = slot.and_then(|slot| u8::try_from(slot.0).ok()).unwrap_or(u8::MAX);
        self.ring.borrow_mut().write(Logged { at_s, number, code, slot });
    }

    pub(crate) fn event(&self, event: &Event) {
        let (code, number) = match event {
            Event::Joined(v4, _) => (Code::Joined, u32::from(*v4)),
            Event::Refused(code) => (Code::Refused, u32::from(*code)),
            Event::Standing(standing) => (Code::Standing, standing_number(*standing)),
            Event::Online(true) => (Code::Online, 0),
            Event::Online(false) => (Code::Offline, 0),
            Event::Line(trouble) => (Code::Line, *trouble as u32),
            // They come with their places, see the keeper.
            Event::Peer(..) => return,
            Event::MapDropped => (Code::MapDropped, 0),
            Event::KeyRotated => (Code::KeyRotated, 0),
            Event::Storage => (Code::Storage, 0),
            Event::Budget(true) => (Code::BudgetUsed, 0),
            Event::Budget(false) => (Code::BudgetNew, 0),
            Event::Restart => (Code::Restart, 0),
            Event::Left => (Code::Left, 0),
        };
        self.put(code, number, None);
    }

    /// The one that so many others have followed.
    pub(crate) fn get(&self, since: usize) -> Option<Logged> {
        let ring = self.ring.borrow();
        let oldest = ring.len().checked_sub(since)?.checked_sub(1)?;
        ring.oldest_ordered().nth(oldest).copied()
    }

    /// Records in flash memory since the start.
    pub(crate) const fn written(&self) -> &Cell<u32> {
        &self.written
    }
}

const fn standing_number(standing: Standing) -> u32 {
    match standing {
        Standing::Active => 0,
        Standing::Pending => 1,
        Standing::Blocked => 2,
        Standing::Quarantined => 3,
        Standing::Rejected => 4,
    }
}

/// Everything that is counted, since the start.
#[derive(Clone, Debug)]
pub struct Counters {
    /// What went to peers and came from them.
    pub data: Data,
    /// What was dropped, by reason.
    pub drops: DropCounters,
    /// What the coordinator said without effect, and handshakes with it.
    pub control: ControlCounters,
    /// Records written to storage.
    pub written: u32,
}

impl Counters {
    /// All but the drops ([`DropCounters::iter`]), with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let Self { data, control, written, .. } = self;
        [
            ("sent_packets", data.sent_packets),
            ("sent_bytes", data.sent_bytes),
            ("received_packets", data.received_packets),
            ("received_bytes", data.received_bytes),
            ("storage_writes", u64::from(*written)),
            ("control_handshakes", u64::from(control.handshakes)),
            ("control_unknown_items", u64::from(control.unknown_items)),
            ("control_bad_items", u64::from(control.bad_items)),
            ("control_unsupported", u64::from(control.unsupported)),
            ("control_stale_pages", u64::from(control.stale_pages)),
        ]
        .into_iter()
    }
}

#[cfg(test)]
mod tests {
    use weft_wire::id::DeviceId;

    use super::*;
    use crate::status::LineTrouble;

    #[test]
    fn the_last_ones_are_kept_and_the_newest_comes_first() {
        let log = Log::new();
        assert_eq!(log.get(0), None);
        for number in 0..100 {
            log.put(Code::PeerUp, number, Some(PeerSlot(number as u16 % 8)));
        }
        let all: Vec<Logged> = (0..).map_while(|since| log.get(since)).collect();
        assert_eq!(all.len(), LOGGED);
        assert!(all.iter().map(|logged| logged.number).eq((36..100).rev()));
        assert_eq!((all[0].code.as_str(), all[0].slot()), ("peer up", Some(99 % 8)));
    }

    #[test]
    fn what_happens_is_one_entry_with_its_number() {
        let log = Log::new();
        let last = |event| {
            log.event(&event);
            log.get(0).map(|logged| (logged.code, logged.number, logged.slot()))
        };
        let joined = Event::Joined([100, 80, 0, 7].into(), [0; 16].into());
        assert_eq!(last(joined), Some((Code::Joined, 0x6450_0007, None)));
        assert_eq!(last(Event::Refused(404)), Some((Code::Refused, 404, None)));
        assert_eq!(last(Event::Standing(Standing::Blocked)), Some((Code::Standing, 2, None)));
        assert_eq!(last(Event::Line(LineTrouble::Silent)), Some((Code::Line, 2, None)));
        assert_eq!(last(Event::Online(false)), Some((Code::Offline, 0, None)));
        let before = log.get(0);
        log.event(&Event::Peer(DeviceId(7), true));
        assert_eq!(log.get(0), before, "the keeper knows its place");
    }
}
