//! Events, commands for connections, and what is due next.

use super::ladder::Way;
use super::race::{LineState, TryState};
use super::state::Core;
use super::wanted::Standing;
use super::{RelayEvent, Rung, StreamCommand};
use crate::time::Instant;
use crate::timer::Reason;

impl<const PEERS: usize> Core<PEERS> {
    pub(super) fn poll_event(&mut self) -> Option<RelayEvent> {
        if let Some((relay, why)) = self.news.lost.take() {
            return Some(RelayEvent::Lost { relay, why });
        }
        if core::mem::take(&mut self.news.wants_grant) {
            return Some(RelayEvent::GrantWanted);
        }
        if let Some(why) = self.news.failed.take() {
            return Some(RelayEvent::Failed { why });
        }
        let (live, relay) = (self.live.as_ref()?, self.current?);
        if core::mem::take(&mut self.news.is_allocated) {
            let rung = Rung { relay: relay.number, way: live.way };
            let (v4, v6, mapped) = (live.v4, live.v6, live.mapped);
            return Some(RelayEvent::Allocated { rung, v4, v6, mapped });
        }
        for known in self.peers.iter_mut().filter(|known| known.is_news) {
            known.is_news = false;
            let peer = known.address();
            match known.standing {
                Standing::Ready => return Some(RelayEvent::Ready { peer }),
                Standing::Refused(why) => return Some(RelayEvent::Refused { peer, why }),
                Standing::Asked | Standing::Dormant => {}
            }
        }
        None
    }

    pub(super) fn poll_stream(&mut self) -> Option<StreamCommand> {
        for line in &mut self.lines {
            if let Some(stream) = line.closing.take() {
                return Some(StreamCommand::Close { stream });
            }
        }
        let relay = self.current?;
        for way in [Way::Tcp, Way::Tls] {
            let line = way.slot().and_then(|slot| self.lines.get_mut(slot))?;
            if line.state == LineState::Wanted
                && let Some(address) = way.server(&relay, self.sockets)
            {
                line.state = LineState::Opening;
                let (stream, tls) = (line.id, way == Way::Tls);
                return Some(StreamCommand::Open { stream, relay: relay.number, tls, address });
            }
        }
        None
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let tries = self.tries.iter().filter(|one| one.state != TryState::Off);
        let tries = tries.map(|one| (one.exchange.due, Reason::new("relay: race the ways to it")));
        let live = self.live.iter().flat_map(|live| {
            let judged = live.judge_at().unwrap_or(Instant::FAR_FUTURE);
            [
                (judged, Reason::new("relay: judge a relay that was suspected too soon")),
                (live.refresh.due, Reason::new("relay: refresh the allocation")),
                (live.expires, Reason::new("relay: the allocation expires")),
            ]
        });
        let peers = self.peers.iter().filter(|_| self.live.is_some());
        let peers = peers.map(|peer| {
            (peer.exchange.due, Reason::new("relay: renew a permission and its channel"))
        });
        let grant = (self.ask_at, Reason::new("relay: ask for credentials"));
        let rest = (self.rest_until, Reason::new("relay: try again after a failure"));
        let rests = self.may_race(self.rest_until);
        let grant = Some(grant).filter(|_| self.is_wanted);
        let rest = Some(rest).filter(|_| rests);
        tries
            .chain(live)
            .chain(peers)
            .chain(grant)
            .chain(rest)
            .filter(|&(at, _)| at != Instant::FAR_FUTURE)
            .min_by_key(|&(at, _)| at)
    }
}
