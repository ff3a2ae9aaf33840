//! The relays of the map, and this device's credentials at them.
//!
//! They are asked for as soon as the map names a relay, once more whenever the
//! list changes, and at half of their life. They survive a restart in the cache,
//! so that a device whose coordinator is away still gets through; the first
//! session after it tells by the coordinator's clock how old they are.

use weft_wire::relay::{Relay, RelayGrant, Relays};

use super::Control;
use super::inbound::Notice;
use super::request::Ask;
use crate::entropy::Entropy;
use crate::time::{Duration, Instant};

/// The next request comes this long after the last at the earliest, whatever the
/// coordinator said of lifetimes or of reasons.
const SHORTEST: Duration = Duration::from_secs(60);
/// When a coordinator that did not want to is asked again.
const LATER: Duration = Duration::from_secs(3_600);

/// The credentials, and when to ask for others.
pub(super) struct RelayLogins {
    grant: Option<RelayGrant>,
    /// They come from the cache, and how old they are is not known.
    restored: bool,
    /// When to ask.
    ask_at: Instant,
    /// When that was done last.
    asked_at: Instant,
}

impl RelayLogins {
    pub(super) const fn new() -> Self {
        Self { grant: None, restored: false, ask_at: Instant::ZERO, asked_at: Instant::ZERO }
    }
}

pub(super) fn copy_relays(from: &Relays) -> Relays {
    Relays { relays: from.relays.clone() }
}

impl<const FRAME: usize> Control<FRAME> {
    /// This device's credentials at relays, as far as it has some.
    pub const fn relay_grant(&self) -> Option<&RelayGrant> {
        self.relay_logins.grant.as_ref()
    }

    /// The map names these relays.
    pub(super) fn set_relays(&mut self, relays: &Relays) {
        let before = self.settings.relays();
        if self.settings.has_relays() && before == &relays.relays[..] {
            return;
        }
        self.settings.set_relays(relays);
        if relays.relays.is_empty() {
            self.forget_relay_logins();
        } else {
            self.relay_logins.ask_at = Instant::ZERO;
        }
    }

    /// There is no relay that they could be used at.
    pub(super) fn forget_relay_logins(&mut self) {
        self.requests.abandon(Ask::Relays);
        self.relay_logins.restored = false;
        if self.relay_logins.grant.take().is_some() {
            self.notify(Notice::RelayLogins);
        }
    }

    /// Takes credentials back from the cache.
    pub(super) fn restore_relay_logins(&mut self, grant: RelayGrant) {
        self.relay_logins =
            RelayLogins { grant: Some(grant), restored: true, ..RelayLogins::new() };
        self.notify(Notice::RelayLogins);
    }

    /// A session began: credentials from the cache are as old as its clock says.
    pub(super) fn judge_relay_logins(&mut self, now: Instant) {
        let unix_ms = self.unix_ms(now);
        let is_of = |relay: &Relay, grant: &RelayGrant| {
            grant.logins.iter().any(|login| login.relay == relay.number)
        };
        let logins = &mut self.relay_logins;
        let (Some(grant), Some(unix_ms), true) = (&logins.grant, unix_ms, logins.restored) else {
            return;
        };
        logins.restored = false;
        let relays = self.settings.relays();
        let half_s = u64::from(grant.lifetime_s / 2);
        let until_half = grant
            .expiry_s()
            .and_then(|end| end.checked_sub(unix_ms / 1_000))
            .and_then(|left| left.checked_sub(half_s));
        if let Some(left) = until_half
            && relays.iter().all(|relay| is_of(relay, grant))
        {
            // Whoever put a long life into them meant no longer than that.
            logins.ask_at = now + Duration::from_secs(left.min(half_s));
        }
    }

    /// A relay takes those that are held no more, or they are half used up.
    pub fn want_relay_logins(&mut self, now: Instant) {
        let logins = &mut self.relay_logins;
        if logins.ask_at != Instant::FAR_FUTURE {
            logins.ask_at = logins.ask_at.min(now.max(logins.asked_at + SHORTEST));
        }
    }

    /// When credentials are to be asked for; `None` = they are not wanted, or
    /// asked for already.
    pub(super) fn relay_logins_due_at(&self) -> Option<Instant> {
        let wanted = self.has_map && !self.settings.relays().is_empty();
        (wanted && !self.requests.is_open(Ask::Relays)).then_some(self.relay_logins.ask_at)
    }

    pub(super) fn work_on_relay_logins(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        if self.relay_logins_due_at().is_some_and(|at| at <= now) {
            self.relay_logins.asked_at = now;
            self.requests.open(Ask::Relays, entropy);
        }
    }

    pub(super) fn handle_relay_grant(&mut self, grant: RelayGrant) {
        if self.requests.kind(grant.request) != Some(Ask::Relays) {
            return;
        }
        self.requests.abandon(Ask::Relays);
        let half = Duration::from_secs(u64::from(grant.lifetime_s / 2));
        let ask_at = self.now + half.max(SHORTEST);
        let asked_at = self.relay_logins.asked_at;
        self.relay_logins = RelayLogins { grant: Some(grant), restored: false, ask_at, asked_at };
        self.notify(Notice::RelayLogins);
        self.notify(Notice::CacheAged);
    }

    /// The coordinator gives none: what is held may be good still.
    pub(super) fn handle_relays_refused(&mut self) {
        self.relay_logins.ask_at = self.now + LATER;
    }

    /// The coordinator does not know the request.
    pub(super) fn handle_relays_unsupported(&mut self) {
        self.requests.abandon(Ask::Relays);
        self.relay_logins.ask_at = Instant::FAR_FUTURE;
    }
}
