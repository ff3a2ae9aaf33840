//! The client's state, and what the agent asks of it.

use core::net::{IpAddr, SocketAddr};

use heapless::Vec;
use weft_wire::relay::{RELAYS, Relay, RelayLogin};
use weft_wire::stun::CHANNELS;

use super::credentials::{Challenge, Grant};
use super::exchange::Exchange;
use super::ladder::{Rung, WAYS, Way};
use super::latency::Latency;
use super::race::{Line, REST, Try, TryState};
use super::wanted::{ASK_AGAIN_AFTER, Standing, Wanted};
use super::{Full, Why};
use crate::event::Sockets;
use crate::time::{Duration, Instant};

/// Until credentials are asked for again.
const ASK_FOR_GRANT_AFTER: Duration = Duration::from_secs(60);
/// A relay in doubt that says nothing for this long is given up: three requests
/// went by then.
const ANSWERS_WITHIN: Duration = Duration::from_millis(900);
/// A relay over which a peer was silent is asked last for this long.
const SHUNNED_FOR: Duration = Duration::from_secs(60);
/// An allocation over which nothing came is given up when it was there for this long:
/// a round with every peer is over by then.
const TRIED_AFTER: Duration = Duration::from_millis(2_500);
/// A relay that has passed something on is not given up for a peer that says nothing.
const PASSES_FOR: Duration = Duration::from_secs(2);
/// Unanswered refreshes after which an allocation counts as gone: half a minute.
const SILENT_REFRESHES: u8 = 3;

/// An allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub(super) way: Way,
    pub(super) refresh: Exchange,
    /// Unanswered ones in a row.
    pub(super) silent: u8,
    /// Since when the relay is asked whether it is there, and says nothing.
    pub(super) doubted_at: Option<Instant>,
    /// Nothing has come over it though all was tried, which was too soon to say.
    pub(super) is_suspected: bool,
    pub(super) since: Instant,
    /// When a peer's packet last came through.
    pub(super) passed_at: Option<Instant>,
    pub(super) expires: Instant,
    pub(super) v4: Option<SocketAddr>,
    pub(super) v6: Option<SocketAddr>,
    pub(super) mapped: SocketAddr,
}

impl Live {
    /// The relay has said something.
    pub(super) const fn is_heard(&mut self) {
        self.silent = 0;
        self.doubted_at = None;
    }

    /// When it is judged, if it was suspected too soon and nothing has come since.
    pub(super) fn judge_at(&self) -> Option<Instant> {
        let judged = self.is_suspected && self.passed_at.is_none();
        judged.then(|| self.since + TRIED_AFTER)
    }
}

/// What has not been told yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct News {
    pub(super) lost: Option<(u16, Why)>,
    pub(super) failed: Option<Why>,
    pub(super) is_allocated: bool,
    pub(super) wants_grant: bool,
}

pub(super) struct Core<const PEERS: usize> {
    pub(super) has_streams: bool,
    pub(super) relays: Vec<Relay, RELAYS>,
    pub(super) sockets: Sockets,
    pub(super) grant: Option<Grant>,
    /// When the next grant is asked for, if anybody wants a relay.
    pub(super) ask_at: Instant,
    pub(super) challenge: Option<Challenge>,
    /// The beginning of every transaction id; drawn for each race.
    pub(super) seed: Option<[u8; 8]>,
    /// The end of the last one.
    pub(super) counter: u32,
    pub(super) prefer: Option<Rung>,
    pub(super) latency: Latency,
    pub(super) is_wanted: bool,
    pub(super) is_racing: bool,
    /// That which is asked or used.
    pub(super) current: Option<Relay>,
    pub(super) tries: [Try; WAYS],
    pub(super) live: Option<Live>,
    /// The last allocation was forgotten as soon as it was given.
    pub(super) is_fleeting: bool,
    /// Those that were tried in this round, by their place.
    pub(super) tried: u8,
    /// Rounds without success.
    pub(super) rounds: u32,
    pub(super) rest_until: Instant,
    /// When the last round ended, if nobody answered.
    pub(super) silent_at: Option<Instant>,
    /// Asked after all others until then.
    pub(super) shunned: Option<(Relay, Instant)>,
    pub(super) peers: Vec<Wanted, PEERS>,
    pub(super) next_channel: u16,
    pub(super) lines: [Line; 2],
    pub(super) last_stream: u16,
    pub(super) news: News,
    /// The relay that was asked last and gave nothing, and why.
    pub(super) failure: Option<(u16, Why)>,
}

impl<const PEERS: usize> Core<PEERS> {
    pub(super) const fn new(has_streams: bool) -> Self {
        Self {
            has_streams,
            relays: Vec::new(),
            sockets: Sockets { v4: None, v6: None },
            grant: None,
            ask_at: Instant::ZERO,
            challenge: None,
            seed: None,
            counter: 0,
            prefer: None,
            latency: Latency::NONE,
            is_wanted: false,
            is_racing: false,
            current: None,
            tries: [Try::OFF; WAYS],
            live: None,
            is_fleeting: false,
            tried: 0,
            rounds: 0,
            rest_until: Instant::ZERO,
            silent_at: None,
            shunned: None,
            peers: Vec::new(),
            next_channel: *CHANNELS.start(),
            lines: [Line::CLOSED; 2],
            last_stream: 0,
            news: News { lost: None, failed: None, is_allocated: false, wants_grant: false },
            failure: None,
        }
    }

    pub(super) fn set_relays(&mut self, relays: &[Relay], now: Instant) {
        let place = |relay| self.relays.iter().position(|before| before == relay);
        self.latency.reorder(relays.iter().take(RELAYS).map(place));
        self.relays = relays.iter().copied().take(RELAYS).collect();
        self.failure = None;
        let is_listed = self.current.is_none_or(|current| self.relays.contains(&current));
        if !is_listed {
            self.forget(Why::Removed);
        }
        self.hurry(now);
    }

    pub(super) fn set_grant(
        &mut self,
        user: &str,
        lifetime: Duration,
        logins: &[RelayLogin],
        now: Instant,
    ) {
        self.grant = Grant::new(user, lifetime, logins, now);
        self.ask_at = self.grant.as_ref().map_or(now, |grant| grant.renew_at);
        self.news.wants_grant = false;
        let open = self.tries.iter_mut().map(|one| &mut one.exchange);
        let open = open.chain(self.peers.iter_mut().map(|peer| &mut peer.exchange));
        open.chain(self.live.as_mut().map(|live| &mut live.refresh)).for_each(Exchange::forgive);
        if let Some(live) = self.live.as_mut().filter(|live| live.silent > 0) {
            // The last refresh was refused or lost: these may do.
            live.refresh = Exchange::at(now);
        }
        self.hurry(now);
    }

    pub(super) fn set_sockets(&mut self, sockets: Sockets, now: Instant) {
        if sockets != self.sockets {
            self.forget(Why::NetworkChanged);
            self.sockets = sockets;
            self.hurry(now);
        }
    }

    pub(super) fn handle_network_change(&mut self, now: Instant) {
        self.prefer = None;
        self.latency = Latency::NONE;
        self.forget(Why::NetworkChanged);
        self.hurry(now);
    }

    pub(super) fn acquire(&mut self, now: Instant) {
        self.is_wanted = true;
        self.advance(now);
    }

    pub(super) fn want(&mut self, peer: SocketAddr, now: Instant) -> Result<(), Full> {
        self.is_wanted = true;
        let known = self.peers.iter_mut().find(|known| known.address() == peer);
        match known {
            Some(known) if known.is_wanted() => {}
            Some(known) => known.wake(now),
            None => {
                if self.peers.is_full()
                    && let Some(dormant) = self.peers.iter().position(|known| !known.is_wanted())
                {
                    self.peers.swap_remove(dormant);
                }
                self.peers.push(Wanted::new(peer, now)).map_err(|_| Full)?;
            }
        }
        self.advance(now);
        Ok(())
    }

    pub(super) fn unwant(&mut self, peer: SocketAddr) {
        let Some(place) = self.peers.iter().position(|known| known.address() == peer) else {
            return;
        };
        let is_bound = self.live.is_some() && self.peers[place].channel().is_some();
        if is_bound {
            self.peers[place].sleep();
        } else {
            self.peers.swap_remove(place);
        }
    }

    pub(super) fn retain(&mut self, mut is_wanted: impl FnMut(SocketAddr) -> bool) {
        // An address that goes is replaced by the last one, which is looked at next.
        let mut at = 0;
        while let Some(known) = self.peers.get(at).copied() {
            let peer = known.address();
            if known.is_wanted() && !is_wanted(peer) {
                self.unwant(peer);
            }
            if self.peers.get(at).is_some_and(|now| now.address() == peer) {
                at += 1;
            }
        }
    }

    pub(super) fn release(&mut self, now: Instant) {
        self.is_wanted = false;
        self.peers.clear();
        self.news = News::default();
        if self.is_racing {
            self.is_racing = false;
            self.stop_tries(now);
        }
        if let Some(live) = self.live.take() {
            match live.way.slot() {
                // The relay ends what it had for a connection with it.
                Some(_) => self.close_line(live.way),
                None => {
                    let free = Try { state: TryState::Freeing, ..Try::at(now) };
                    self.tries[live.way as usize] = free;
                }
            }
        }
    }

    pub(super) fn suspect(&mut self, now: Instant) {
        // While there is a doubt the next request is near.
        if let Some(live) = &mut self.live
            && !live.refresh.is_open()
            && live.silent == 0
        {
            live.refresh = Exchange::at(now);
        }
        // Somebody waits: a relay that was silent may be there again.
        if let Some(at) = self.silent_at {
            self.rest_until = self.rest_until.min(at + REST);
            self.advance(now);
        }
    }

    /// Ends allocation and race without a word to the relay: it cannot be
    /// reached from here, or is none of ours.
    fn forget(&mut self, why: Why) {
        if let (Some(_), Some(relay)) = (self.live.take(), self.current) {
            self.tell_lost(relay.number, why);
        }
        self.is_racing = false;
        self.tries = [Try::OFF; WAYS];
        self.close_lines();
        self.current = None;
    }

    pub(super) fn tell_lost(&mut self, relay: u16, why: Why) {
        // What was not told of is not lost.
        if !core::mem::take(&mut self.news.is_allocated) {
            self.news.lost = Some((relay, why));
        }
        self.peers.retain(Wanted::is_wanted);
        for peer in &mut self.peers {
            peer.start_over(Instant::FAR_FUTURE);
        }
    }

    /// Something is other than when it last failed.
    fn hurry(&mut self, now: Instant) {
        self.rest_until = now;
        self.rounds = 0;
        self.advance(now);
    }

    /// Does what may be begun.
    pub(super) fn advance(&mut self, now: Instant) {
        if !self.is_wanted {
            return;
        }
        if self.ask_at <= now {
            self.ask_at = now + ASK_FOR_GRANT_AFTER;
            self.news.wants_grant = true;
        }
        if self.may_race(now) && self.rest_until <= now {
            self.start_round(now);
        }
    }

    pub(super) fn may_race(&self, now: Instant) -> bool {
        let is_idle = !self.is_racing && self.live.is_none();
        is_idle && self.is_wanted && self.grant.as_ref().is_some_and(|grant| grant.is_good(now))
    }

    /// The allocation is gone.
    pub(super) fn lose(&mut self, why: Why, now: Instant) {
        let (Some(live), Some(relay)) = (self.live.take(), self.current) else { return };
        self.tell_lost(relay.number, why);
        self.close_lines();
        // A relay that starts anew forgets what it has just given. One that gives and
        // takes at once is not asked again at once.
        let is_young = now - live.since < ASK_AGAIN_AFTER;
        let was_fleeting = core::mem::replace(&mut self.is_fleeting, is_young);
        let is_known = is_young && (was_fleeting || why != Why::Forgotten);
        if is_known || matches!(why, Why::Denied | Why::Credentials) {
            self.tried = 0;
            self.fail_relay(why, now);
        } else {
            self.start_round(now);
        }
    }

    pub(super) fn handle_silence(&mut self, now: Instant) {
        let Some(live) = &mut self.live else { return };
        match live.doubted_at {
            Some(at) if now - at >= ANSWERS_WITHIN => self.give_up(now),
            Some(_) => {}
            None => {
                live.doubted_at = Some(now);
                if !live.refresh.is_open() {
                    live.refresh = Exchange::at(now);
                }
            }
        }
    }

    pub(super) fn handle_round_trip(&mut self, ip: IpAddr, round_trip: Duration, now: Instant) {
        for (place, relay) in self.relays.iter().enumerate() {
            if is_at(relay, ip) {
                self.latency.measure(place, round_trip, now);
            }
        }
    }

    pub(super) fn round_trip(&self, number: u16) -> Option<u16> {
        let place = self.relays.iter().position(|relay| relay.number == number)?;
        self.latency.round_trip(place)
    }

    /// The place in the map of the relay that is asked or used.
    pub(super) fn current_place(&self) -> Option<usize> {
        self.relays.iter().position(|relay| Some(*relay) == self.current)
    }

    pub(super) fn shun(&mut self, ip: IpAddr, now: Instant) {
        let is_it = |relay: &&Relay| is_at(relay, ip);
        let Some(relay) = self.relays.iter().find(is_it).copied() else { return };
        self.shunned = Some((relay, now + SHUNNED_FOR));
        if self.current == Some(relay) {
            self.abandon(now);
        }
    }

    pub(super) fn abandon(&mut self, now: Instant) {
        let Some(live) = &mut self.live else { return };
        // What passes something on for others is not at fault, and what is that young was
        // not tried enough: it is judged when it was.
        if live.passed_at.is_some_and(|at| now - at < PASSES_FOR) {
            return;
        }
        if now - live.since >= TRIED_AFTER {
            self.give_up(now);
        } else {
            live.is_suspected = true;
        }
    }

    fn give_up(&mut self, now: Instant) {
        let (Some(_), Some(relay)) = (self.live.take(), self.current) else { return };
        self.tell_lost(relay.number, Why::NoAnswer);
        self.close_lines();
        self.start_round_without(relay, now);
    }

    /// A refresh came to nothing. One that is lost is not a lost allocation.
    pub(super) fn fail_refresh(&mut self, why: Why, now: Instant) {
        let Some(live) = &mut self.live else { return };
        live.silent += 1;
        live.refresh = Exchange::at(now + ASK_AGAIN_AFTER);
        if live.silent >= SILENT_REFRESHES {
            self.lose(why, now);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some(live) = self.live {
            if live.expires <= now {
                self.lose(Why::Expired, now);
            } else if live.judge_at().is_some_and(|at| at <= now) {
                self.give_up(now);
            } else if live.refresh.is_given_up(now) {
                self.fail_refresh(Why::NoAnswer, now);
            }
        }
        if self.live.is_some() {
            self.check_peers(now);
        }
        self.check_tries(now);
        self.advance(now);
    }

    fn check_peers(&mut self, now: Instant) {
        let mut is_silent = false;
        for peer in self.peers.iter_mut().filter(|peer| peer.exchange.is_given_up(now)) {
            peer.exchange = Exchange::at(now + ASK_AGAIN_AFTER);
            is_silent = true;
        }
        if is_silent {
            self.suspect(now);
        }
    }

    /// The place of a confirmed address.
    pub(super) fn ready(&self, peer: SocketAddr) -> Option<&Wanted> {
        let is_it = |known: &&Wanted| known.address() == peer && known.standing == Standing::Ready;
        self.peers.iter().find(is_it)
    }
}

/// Whether this is an address of the relay.
fn is_at(relay: &Relay, ip: IpAddr) -> bool {
    relay.v4.map(IpAddr::V4) == Some(ip) || relay.v6.map(IpAddr::V6) == Some(ip)
}
