//! What is known of relays from one moment to the next, in memory only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use crate::domain::relay::{NewRelay, Relay};
use crate::domain::relay_health::{Check, Health};
use crate::domain::time::UnixMs;
use crate::service::seams::{RelayLive, RelayLoad};

/// One relay.
#[derive(Default)]
struct Life {
    health: Health,
    checked: Option<UnixMs>,
    next: Option<Instant>,
    load: Option<RelayLoad>,
    reported: Option<UnixMs>,
    seen: Option<IpAddr>,
    /// Posts that wait here.
    posts: u32,
    /// What the store knows of its place, so that a report that says the same
    /// writes nothing.
    placed: Option<(NewRelay, String)>,
}

/// Whether devices are to be told, and why.
pub(super) struct Verdict {
    pub(super) told: bool,
    pub(super) why: &'static str,
}

/// All of them.
#[derive(Default)]
pub(super) struct Lives(BTreeMap<u16, Life>);

impl Lives {
    fn of(&mut self, number: u16) -> &mut Life {
        self.0.entry(number).or_default()
    }

    pub(super) fn keep(&mut self, wanted: impl Fn(u16) -> bool) {
        self.0.retain(|number, _| wanted(*number));
    }

    pub(super) fn is_due(&self, number: u16, now: Instant) -> bool {
        self.0.get(&number).and_then(|life| life.next).is_none_or(|next| next <= now)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.values().filter_map(|life| life.next).min()
    }

    pub(super) fn checked(&mut self, number: u16, check: Check, at: UnixMs, now: Instant) {
        let life = self.of(number);
        life.health.handle(check, at);
        life.checked = Some(at);
        life.next = Some(now + life.health.pause());
    }

    /// A report came, with what is known of its sender then.
    pub(super) fn reported(
        &mut self,
        number: u16,
        load: RelayLoad,
        seen: Option<IpAddr>,
        at: UnixMs,
    ) {
        let life = self.of(number);
        life.load = Some(load);
        life.reported = Some(at);
        life.seen = seen;
    }

    /// Whether the store may know another place of it.
    pub(super) fn is_placed(&self, number: u16, place: &(NewRelay, String)) -> bool {
        self.0.get(&number).is_some_and(|life| life.placed.as_ref() == Some(place))
    }

    pub(super) fn place(&mut self, number: u16, place: (NewRelay, String)) {
        let life = self.of(number);
        life.placed = Some(place);
        // What answered there says nothing of here.
        life.next = None;
    }

    pub(super) fn began_to_wait(&mut self, number: u16) {
        self.of(number).posts += 1;
    }

    /// A post waits no more. If it was cut off, whether the relay still lives is
    /// a question of now.
    pub(super) fn waits_no_more(&mut self, number: u16, was_cut_off: bool) {
        if let Some(life) = self.0.get_mut(&number) {
            life.posts = life.posts.saturating_sub(1);
            if was_cut_off {
                life.next = None;
            }
        }
    }

    pub(super) fn live(&self, number: u16) -> RelayLive {
        let Some(life) = self.0.get(&number) else { return RelayLive::default() };
        RelayLive {
            health: life.health,
            checked: life.checked,
            load: life.load,
            reported: life.reported,
            seen: life.seen,
            is_connected: life.posts > 0,
            is_inside: false,
        }
    }

    pub(super) fn verdict(&self, relay: &Relay) -> Verdict {
        let live = self.live(relay.number);
        let registration = relay.registration.as_ref();
        let wants_none = registration.is_some_and(|one| one.draining)
            || registration.is_some() && live.load.is_some_and(|load| load.is_draining);
        if wants_none {
            return Verdict { told: false, why: "it drains" };
        }
        if !relay.is.has_place() {
            return Verdict { told: false, why: "it has no address" };
        }
        let answers = relay.is.stun().next().is_some();
        let told = if answers {
            live.health.wants_told(relay.told, registration.is_none())
        } else {
            // Without UDP nothing can be asked.
            relay.told || live.load.is_some()
        };
        Verdict { told, why: if told { "it answers" } else { "it does not answer" } }
    }
}
