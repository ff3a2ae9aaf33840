//! Two machines with one identity: which is the device, and which a copy.
//!
//! Both hold the same keys, inbox and password. So the one that was there first
//! is given another inbox, and what comes to the old one afterwards is a copy,
//! however often it starts anew.

use core::net::IpAddr;

use weft_wire::id::{DeviceId, Inbox, Instance};

use super::time::UnixMs;

/// Superseded processes that are remembered per device. Two machines need two;
/// the rest is for one that starts again and again while the other is away.
pub const PROCESSES: u32 = 32;

/// An inbox that two machines know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// Whose it was.
    pub device: DeviceId,
    /// The inbox.
    pub inbox: Inbox,
    /// The process that was there first: it was given another inbox.
    pub kept: Instance,
    /// The process that came later.
    pub instance: Instance,
    /// Since when both are known to live.
    pub since: UnixMs,
    /// From where the copy was heard last.
    pub address: Option<IpAddr>,
    /// When the copy was heard last.
    pub heard: UnixMs,
    /// The kept one has come to its new inbox: whoever comes to this one is the
    /// copy. Before, the kept one may start anew and know only this one.
    pub settled: bool,
    /// When the copy was first told.
    pub told: Option<UnixMs>,
}

/// What a process that shakes hands is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The device; receives here.
    Member(Inbox),
    /// A copy of it.
    Quarantined(Box<Quarantine>),
}

/// Judges a process of a device that comes to the inbox `at`, while the device
/// itself receives at `own`.
pub fn place(known: &[Quarantine], own: Inbox, at: Inbox, instance: Instance) -> Place {
    if at == own {
        return Place::Member(own);
    }
    match known.iter().find(|one| one.inbox == at) {
        Some(one) if one.settled || one.instance == instance => {
            Place::Quarantined(Box::new(one.clone()))
        }
        Some(one) if one.kept == instance => Place::Member(own),
        // Which of the two started anew cannot be told yet: neither learns of
        // the new inbox by that.
        Some(_) => Place::Member(at),
        // An inbox of a quarantine that is over, or one that nobody was given, by
        // a carrier that asks for no password.
        None => {
            let judged = |one: &&Quarantine| one.settled || one.instance == instance;
            match known.iter().filter(judged).max_by_key(|one| one.since) {
                Some(newest) => Place::Quarantined(Box::new(newest.clone())),
                None => Place::Member(if known.is_empty() { own } else { at }),
            }
        }
    }
}

/// How far ahead of real time a device's handshake stamps have to be, in
/// seconds, after its identity changed hands so often.
///
/// A copy starts from a stored floor that is written up to a day ahead of time,
/// and every start of it uses up 18 minutes more; so the one that is to be heard
/// by peers has to be beyond all that the other may have used.
pub const fn stamps_ahead_s(duplicates: u32) -> u32 {
    const DAY: u32 = 24 * 3_600;
    const EACH: u32 = 5 * 3_600;
    DAY.saturating_add(duplicates.saturating_mul(EACH))
}

/// A record confirmed a session of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The process.
    pub instance: Instance,
    /// The inbox of its session.
    pub inbox: Inbox,
    /// From where, if the carrier knows.
    pub address: Option<IpAddr>,
    /// When.
    pub at: UnixMs,
    /// A random inbox, for the case that two machines live.
    pub fresh: Inbox,
}

/// What a process is, once it was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heeded {
    /// How often the device's identity changed hands.
    pub duplicates: u32,
    /// What it is.
    pub verdict: Verdict,
}

/// See [`Heeded`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The device, with the newest copy of it that knows that it is one.
    Member(Option<Box<Quarantine>>),
    /// The device, which has to go to another inbox.
    Kept {
        /// The inbox that it leaves.
        left: Box<Quarantine>,
        /// Where it goes.
        inbox: Inbox,
        /// That two machines live was found out by this very record.
        new: bool,
    },
    /// A copy.
    Quarantined(Box<Quarantine>),
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn inbox(n: u8) -> Inbox {
        Inbox([n; 16])
    }

    const fn instance(n: u8) -> Instance {
        Instance([n; 8])
    }

    /// Inbox 1 was the device's; process 1 is kept, process 2 came later.
    fn quarantine(settled: bool) -> Quarantine {
        Quarantine {
            device: DeviceId(9),
            inbox: inbox(1),
            kept: instance(1),
            instance: instance(2),
            since: UnixMs(5),
            address: None,
            heard: UnixMs(4),
            settled,
            told: None,
        }
    }

    fn is_quarantined(place: &Place) -> bool {
        matches!(place, Place::Quarantined(_))
    }

    #[test]
    fn a_device_without_a_copy_is_a_member_wherever_it_comes() {
        for at in [1, 7] {
            assert_eq!(place(&[], inbox(1), inbox(at), instance(3)), Place::Member(inbox(1)));
        }
    }

    #[test]
    fn until_the_kept_one_has_moved_only_the_known_processes_are_judged() {
        let known = [quarantine(false)];
        let own = inbox(2);
        assert_eq!(place(&known, own, inbox(1), instance(1)), Place::Member(own));
        assert!(is_quarantined(&place(&known, own, inbox(1), instance(2))));
        // Either of them, started anew: it stays where both can come.
        assert_eq!(place(&known, own, inbox(1), instance(3)), Place::Member(inbox(1)));
        assert_eq!(place(&known, own, inbox(7), instance(3)), Place::Member(inbox(7)));
        assert_eq!(place(&known, own, inbox(7), instance(1)), Place::Member(inbox(7)));
        assert!(is_quarantined(&place(&known, own, inbox(7), instance(2))), "wherever it comes");
        // Who knows the new inbox is the kept one, started anew or not.
        assert_eq!(place(&known, own, own, instance(3)), Place::Member(own));
    }

    #[test]
    fn afterwards_whoever_comes_to_the_old_inbox_is_the_copy() {
        let known = [quarantine(true)];
        for process in 1..5 {
            assert!(is_quarantined(&place(&known, inbox(2), inbox(1), instance(process))));
            assert!(is_quarantined(&place(&known, inbox(2), inbox(7), instance(process))));
            assert_eq!(
                place(&known, inbox(2), inbox(2), instance(process)),
                Place::Member(inbox(2))
            );
        }
    }

    #[test]
    fn a_second_copy_is_judged_by_the_inbox_that_it_knows() {
        // Copied again after it had moved from 1 to 2; now it goes to 3.
        let second = Quarantine { inbox: inbox(2), instance: instance(4), ..quarantine(false) };
        let known = [quarantine(true), second];
        assert_eq!(place(&known, inbox(3), inbox(2), instance(1)), Place::Member(inbox(3)));
        assert!(is_quarantined(&place(&known, inbox(3), inbox(2), instance(4))));
        assert!(is_quarantined(&place(&known, inbox(3), inbox(1), instance(2))));
    }

    #[test]
    fn stamps_rise_with_every_change_of_hands() {
        assert_eq!(stamps_ahead_s(1), 29 * 3_600);
        assert!(stamps_ahead_s(2) > stamps_ahead_s(1));
        assert_eq!(stamps_ahead_s(u32::MAX), u32::MAX);
    }
}
