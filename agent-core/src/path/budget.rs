//! What a budget ends. Where bytes cost money and the day's are used up, no better
//! way is looked for, no way is kept open, and who calls a peer with a way over a
//! relay that works is told of relays alone; a way that data goes and nothing comes is asked more rarely
//! whether it stands, and no line is held at a relay. All of that comes back with the next
//! day, or with a larger budget; not at once, since a whole fleet's day begins
//! together. A peer that is wanted and has no way is called as ever.

use super::peer::PeerPath;
use super::{Paths, Route};
use crate::meter::Allowance;
use crate::time::{Duration, Instant};

/// Whoever was told of relays alone asks again after this long.
const DECLINED_FOR: Duration = Duration::from_secs(3_600);
/// What was ended goes on within this time.
const RESUMES_WITHIN_S: u32 = 600;

impl<const PEERS: usize> Paths<PEERS> {
    /// What may still be sent that only might help.
    pub fn set_allowance(&mut self, allowance: Allowance, now: Instant) {
        let before = core::mem::replace(&mut self.allowance, allowance);
        self.handle_allowance(now);
        if allowance.allows_round() && !before.allows_round() {
            self.peers.iter_mut().flatten().for_each(|peer| peer.resume(now));
            self.stir();
        }
    }
}

impl PeerPath {
    /// The peer calls. Whether all that it can want is a better way, which we do not
    /// look for now.
    pub(super) fn declines(&mut self, allowance: Allowance) -> bool {
        self.declines = self.is_on_relay() && !self.is_calling() && !allowance.allows_round();
        self.declines
    }

    /// Whether the peer, which was asked for a better way, looks for none now: it
    /// has named nothing that no relay keeps.
    pub(super) fn is_declined(&self, named: &[(Route, bool)]) -> bool {
        self.is_on_relay() && named.iter().all(|(_, relayed)| *relayed)
    }

    /// It is asked again later.
    pub(super) fn handle_declined(&mut self, now: Instant) {
        self.look_at(now + DECLINED_FOR);
    }

    fn resume(&mut self, now: Instant) {
        let spread = self.checks.own_handle % RESUMES_WITHIN_S;
        let at = now + Duration::from_secs(spread.into());
        self.look_at(at);
        self.resume_warm(at);
    }
}
