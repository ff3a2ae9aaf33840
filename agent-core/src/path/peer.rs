//! One peer's path: its route, its candidates, and the call that looks for
//! them.

use core::net::SocketAddr;

use weft_wire::probe::ProbeHead;
use weft_wire::signal::Mapping;
use weft_wire::verdict::CallFailure;

use super::check::Checks;
use super::history::History;
use super::ladder::Prediction;
use super::line::Known;
use super::relayed::Ways;
use super::route::Packed;
use super::silence::Listening;
use super::upgrade::Choice;
use super::warm::Warm;
use super::{NoPath, PathEvent, PeerKind, RelaySuspicion, Route, Selected, Why};
use crate::entropy::Entropy;
use crate::event::{DropReason, PeerSlot};
use crate::meter::Allowance;
use crate::time::{Duration, Instant};

/// A call is repeated after these times without an answer: a lost record costs
/// little. The coordinator forwards one call four times within 30 s.
const CALL_WAITS: [Duration; 3] =
    [Duration::from_millis(1_500), Duration::from_millis(4_500), Duration::from_secs(5)];
/// Two different calls to the same peer are at least this far apart.
const CALL_INTERVAL: Duration = Duration::from_secs(5);
/// An endpoint that carried authenticated data this recently is tried alone
/// first.
const TRUSTED_FOR: Duration = Duration::from_secs(180);
/// An initiation that is not answered for this long causes a call.
const DOUBT_AFTER: Duration = Duration::from_secs(1);
/// The same for what the peer named a moment ago, when it was never reached.
const SECOND_DOUBT_AFTER: Duration = Duration::from_secs(5);
/// A round that nothing has answered for this long ends the waiting: initiations
/// go to every address, for a peer whose probes fail and whose tunnel does not
/// (its key has just changed and ours has not heard).
const BLIND_AFTER: Duration = Duration::from_millis(400);
/// A round of probes, and what comes of them.
const ROUND: Duration = Duration::from_secs(2);
/// A peer that named no address of its own comes to ours within this time.
const COMES_WITHIN: Duration = Duration::from_secs(5);
/// A peer that cannot be called (no coordinator) is given up after this long,
/// as WireGuard gives up a handshake.
const GIVE_UP_AFTER: Duration = Duration::from_secs(90);

/// A call to a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calling {
    id: u32,
    sent: u8,
    /// How often it is repeated.
    repeats: u8,
    /// Not before this instant.
    due_at: Instant,
    /// Due, and waiting for a session with the coordinator.
    due: bool,
    give_up_at: Instant,
    /// A way over a relay is no answer to it: there was, or may be, a better one.
    insists: bool,
    /// What is said if nobody comes.
    why: NoPath,
}

impl Calling {
    /// Whether it was sent as often as it may be.
    const fn is_spent(&self) -> bool {
        self.sent > self.repeats
    }
}

/// What a peer said of itself in a call or its answer.
pub(super) struct Named {
    /// Where it says that it is.
    pub(super) routes: Ways,
    /// What our probes to it carry.
    pub(super) handle: u32,
    /// Of our first ping.
    pub(super) transaction: u64,
    /// What it says of its NAT.
    pub(super) mapping: Mapping,
    /// Where servers see it.
    pub(super) seen: Option<SocketAddr>,
}

impl Named {
    /// Nothing named yet.
    pub(super) fn drawn(handle: u32, mapping: Mapping, entropy: &mut dyn Entropy) -> Self {
        let mut transaction = [0; 8];
        entropy.fill(&mut transaction);
        Self {
            routes: Ways::new(),
            handle,
            transaction: u64::from_le_bytes(transaction),
            mapping,
            seen: None,
        }
    }
}

/// One peer.
pub(super) struct PeerPath {
    pub(super) kind: PeerKind,
    pub(super) selected: Option<Selected>,
    /// When authenticated data last confirmed the selected route.
    pub(super) confirmed_at: Option<Instant>,
    /// Our device id is the lower one.
    pub(super) leads: bool,
    /// Reached, or to be reached, through an allocation of ours.
    pub(super) leans: bool,
    /// What we last told named what a relay keeps for us.
    pub(super) told_relay: bool,
    /// What we last told went before a server had said where it sees us.
    pub(super) told_early: bool,
    /// The way that was last found to lead over a relay of the map.
    pub(super) kept: Option<Packed>,
    pub(super) choice: Choice,
    pub(super) warm: Warm,
    /// Who wants the way kept open: bits of [`Wish`](super::Wish).
    pub(super) wishes: u8,
    pub(super) history: History,
    pub(super) known: Known,
    /// Where servers see the peer.
    pub(super) seen: Option<SocketAddr>,
    pub(super) prediction: Option<Prediction>,
    /// Pings of searches since the last round began.
    pub(super) searched: u16,
    /// A round begins, and has not been looked at by the ladder.
    pub(super) starts_at: Option<Instant>,
    /// No run with any port before this.
    pub(super) long_run_at: Instant,
    /// Nothing comes back on the way in use, not even an answer to pings.
    pub(super) in_doubt: bool,
    /// The way of the data turns around at the router that both sides are behind.
    pub(super) turns: bool,
    /// The way in use is not among those that the peer named last.
    pub(super) disowned: bool,
    /// Data has moved away from a silent way, and nothing has come back yet.
    pub(super) unproven: bool,
    /// The peer is to hear from us on the way that is new.
    pub(super) greets: bool,
    /// Nobody talked for so long that the way is given up.
    pub(super) is_idle: bool,
    /// The peer's call is answered with relays alone.
    pub(super) declines: bool,
    /// Our relay may be what is silent, or our allocation is gone.
    pub(super) suspects: Option<RelaySuspicion>,
    calling: Option<Calling>,
    /// A packet waits for a session.
    is_wanted: bool,
    /// The peer called, and nobody here wants it.
    obliges: bool,
    /// When the last round began, if nothing authentic has come since.
    tried_at: Option<Instant>,
    /// The last call that was sent, and when.
    called: Option<(u32, Instant)>,
    /// The peer's call that is to be answered.
    pub(super) ack_due: Option<u32>,
    /// Of both to the coordinator, when the peer called.
    round_trips: Duration,
    pub(super) checks: Checks,
    /// An address that answers is to be initiated to at once; otherwise the peer
    /// does that.
    initiates: bool,
    /// When initiations go to every address.
    blind_at: Option<Instant>,
    pub(super) listening: Listening,
    pub(super) ready: bool,
    /// Even if there is a session: it is in doubt.
    pub(super) renews: bool,
    pub(super) failed: Option<NoPath>,
    /// The owner was told of the selected route.
    told: Option<Packed>,
}

impl PeerPath {
    pub(super) const fn new(kind: PeerKind) -> Self {
        Self {
            kind,
            selected: None,
            confirmed_at: None,
            leads: false,
            leans: false,
            told_relay: false,
            told_early: false,
            kept: None,
            choice: Choice::new(),
            warm: Warm::new(),
            wishes: 0,
            history: History::new(),
            known: Known::new(),
            seen: None,
            prediction: None,
            searched: 0,
            starts_at: None,
            long_run_at: Instant::ZERO,
            in_doubt: false,
            turns: false,
            disowned: false,
            unproven: false,
            greets: false,
            is_idle: false,
            declines: false,
            suspects: None,
            calling: None,
            is_wanted: false,
            obliges: false,
            tried_at: None,
            called: None,
            ack_due: None,
            round_trips: Duration::ZERO,
            checks: Checks::new(),
            initiates: false,
            blind_at: None,
            listening: Listening::new(),
            ready: false,
            renews: false,
            failed: None,
            told: None,
        }
    }

    pub(super) fn handle_wanted(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        self.is_wanted = true;
        self.obliges = false;
        self.ready |= self.selected.is_some() || self.checks.is_open();
        let trusted = self.confirmed_at.is_some_and(|at| now - at < TRUSTED_FOR);
        if !trusted {
            self.call_at(now, entropy, now);
        }
    }

    pub(super) fn handle_initiation(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        self.history.handle_initiation();
        // Whoever answers a call leaves calling to the caller, or two that cannot
        // reach each other would call for ever.
        if !self.kind.wireguard_only && !self.obliges {
            let fresh = self.checks.is_open() && self.confirmed_at.is_none();
            let doubt = if fresh { SECOND_DOUBT_AFTER } else { DOUBT_AFTER };
            self.call_at(now + doubt, entropy, now);
        }
    }

    /// Returns whether the route is another one than before. One that `turns` around at
    /// the router that both sides are behind is a way, and not the shortest.
    pub(super) fn handle_authenticated(&mut self, route: Route, turns: bool, now: Instant) -> bool {
        if self.strays(route, now) {
            return false;
        }
        let relayed = self.is_relayed(route);
        // A way that is kept open will be asked, and for that the peer has to be called.
        let is_named = self.wishes == 0 || !self.checks.knows_handle(0);
        self.calling = self.calling.filter(|call| !is_named || (relayed && call.insists));
        self.blind_at = None;
        self.initiates = false;
        self.in_doubt = false;
        self.history.set_reached(true);
        self.is_wanted = false;
        self.obliges = false;
        self.tried_at = None;
        if !relayed {
            self.end_found(route, now);
            if turns {
                self.checks.end_but_near();
            } else {
                self.checks.end();
            }
            self.prediction = None;
        }
        self.turns = turns;
        // What has answered until now could not be chosen when it did.
        let is_first = self.selected.is_none() || self.confirmed_at.is_none();
        self.confirmed_at = Some(now);
        let before = self.selected.map(|selected| (selected.route, selected.why));
        if before == Some((route, Why::Authenticated)) {
            self.let_go(now);
        } else {
            self.select(route, Why::Authenticated, now);
            let is_met = self.checks.best(now).is_some_and(|(_, relayed)| !relayed);
            if is_met && (relayed || turns) && is_first {
                self.choose(now);
            }
        }
        before.is_none_or(|(before, _)| before != route)
    }

    pub(super) fn handle_failed(&mut self) {
        self.confirmed_at = None;
        self.checks.end();
        self.history.abandon();
        self.prediction = None;
        self.listening.end();
        self.rest();
        self.calling = None;
        self.blind_at = None;
        self.initiates = false;
        self.in_doubt = false;
        self.is_wanted = false;
        self.tried_at = None;
        self.leans = false;
    }

    pub(super) fn handle_call(&mut self, call: u32, named: Named, round_trips: Duration) {
        self.ack_due = Some(call);
        if named.routes.is_empty() {
            return;
        }
        self.accept(call, named);
        self.round_trips = round_trips;
    }

    /// The peer's call is what both go by.
    pub(super) fn accept(&mut self, call: u32, named: Named) {
        let crossed = self.calling.take().is_some();
        self.obliges |= !crossed && !self.is_wanted && self.confirmed_at.is_none();
        self.initiates |= crossed && self.leads;
        self.begin(call, named);
    }

    /// Whether this call of ours is under way.
    pub(super) fn calls(&self, call: u32) -> bool {
        self.calling.is_some_and(|calling| calling.id == call)
    }

    /// Whether a call is to be sent now.
    pub(super) fn has_call(&self, now: Instant) -> bool {
        let call = self.calling.filter(|calling| !calling.is_spent());
        call.is_some_and(|call| call.due || call.due_at <= now)
    }

    pub(super) const fn is_calling(&self) -> bool {
        self.calling.is_some()
    }

    fn begin(&mut self, call: u32, named: Named) {
        let Named { routes, handle, transaction, mapping, seen } = named;
        let names = |way: Selected| routes.iter().any(|(route, _)| *route == way.route);
        self.disowned = self.selected.is_some_and(|way| !names(way));
        self.seen = seen;
        self.searched = 0;
        self.prediction = Prediction::new(mapping).filter(|_| seen.is_some());
        self.checks.set_call(call, handle);
        self.checks.begin(routes.into_iter(), transaction);
    }

    /// Our answer to the peer's call, if it is due. It is with the peer half of
    /// both round trips from now, and then both begin.
    pub(super) fn take_ack(&mut self, now: Instant) -> Option<u32> {
        let call = self.ack_due.take()?;
        if self.checks.is_open() {
            self.start(now + self.round_trips / 2);
        } else {
            self.history.handle_round(now);
        }
        Some(call)
    }

    /// What the peer named is tried from `at` on.
    pub(super) fn start(&mut self, at: Instant) {
        self.checks.start(at);
        self.history.handle_round(at);
        self.starts_at = Some(at);
        self.tried_at = Some(at);
        if let Some(prediction) = &mut self.prediction {
            prediction.start(at);
        }
        self.blind_at = Some(at + BLIND_AFTER);
    }

    /// The peer's probe came this way; `delay_ms` of a pong.
    pub(super) fn handle_probe(
        &mut self,
        route: Route,
        head: &ProbeHead,
        delay_ms: Option<u16>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let Some(delay_ms) = delay_ms else {
            let relayed = self.is_relayed(route);
            let is_used = self.selected.is_some_and(|selected| selected.route == route);
            let proven = is_used && self.confirmed_at.is_some();
            self.checks.handle_ping(route, relayed, proven, head, now)?;
            if is_used {
                self.warm.handle_ping(self.leads, now);
            }
            return Ok(());
        };
        let pong = self.checks.handle_pong(route, head, delay_ms, now);
        let first = pong.ok_or(DropReason::Unsolicited)?;
        if first && self.initiates {
            self.initiates = false;
            self.ready = true;
        }
        self.choose(now);
        Ok(())
    }

    /// What it named is tried from `at` on.
    pub(super) fn handle_call_ack(&mut self, call: u32, named: Named, at: Instant, now: Instant) {
        let is_declined = self.is_declined(&named.routes);
        let Some(calling) = self.calling.as_mut().filter(|calling| calling.id == call) else {
            return self.handle_late_ack(call, named, at);
        };
        if is_declined {
            self.handle_declined(now);
            if named.routes.is_empty() {
                self.calling = None;
                return self.end_call(NoPath::NoCandidate, now);
            }
        } else if named.routes.is_empty() {
            // It knows ours now: it comes to us, or nobody can.
            calling.sent = u8::MAX;
            calling.due = false;
            calling.due_at = now + COMES_WITHIN;
            calling.why = NoPath::NoCandidate;
            return;
        }
        self.calling = None;
        self.initiates = true;
        self.begin(call, named);
        self.start(at);
    }

    /// Data may find its way before the answer to our last call comes, which ends the
    /// call. The answer still says what our probes are to carry, and a peer that has
    /// started anew knows them by nothing else.
    fn handle_late_ack(&mut self, call: u32, named: Named, at: Instant) {
        let is_ours = self.called.is_some_and(|(called, _)| called == call);
        if !is_ours || self.checks.knows_handle(named.handle) {
            return;
        }
        if self.confirmed_at.is_some() && !self.in_doubt {
            self.checks.set_call(call, named.handle);
        } else if !named.routes.is_empty() {
            self.begin(call, named);
            self.start(at);
        }
    }

    pub(super) fn handle_call_failed(&mut self, call: u32, why: Option<CallFailure>, now: Instant) {
        let Some(calling) = self.calling.as_mut().filter(|calling| calling.id == call) else {
            return;
        };
        if why == Some(CallFailure::TooMany) {
            calling.due_at = now + CALL_INTERVAL;
            calling.due = false;
            return;
        }
        self.calling = None;
        let why = why.map_or(NoPath::NoAnswer, NoPath::Call);
        self.end_call(why, now);
        if self.selected.is_none() && !self.checks.is_open() {
            self.failed = Some(why);
        }
    }

    pub(super) fn handle_timeout(
        &mut self,
        allowance: Allowance,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        self.handle_choice_timeout(allowance, entropy, now);
        self.handle_warm_timeout(allowance, entropy, now);
        self.judge_round(now);
        if self.blind_at.is_some_and(|at| at <= now) {
            self.blind_at = None;
            self.ready = true;
            if self.in_doubt {
                self.doubt_session(now);
            }
        }
        let Some(calling) = &mut self.calling else {
            return;
        };
        let unanswered = calling.is_spent() && calling.due_at <= now;
        if unanswered || calling.give_up_at <= now {
            let why = calling.why;
            self.calling = None;
            self.end_call(why, now);
            if self.selected.is_none() && !self.checks.is_open() {
                self.failed = Some(why);
            }
        } else if calling.due_at <= now {
            calling.due = true;
        }
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        let call = self.calling.map(|calling| {
            if calling.due { calling.give_up_at } else { calling.due_at.min(calling.give_up_at) }
        });
        let times = [
            self.blind_at,
            self.listening.due_at(),
            self.choice.due_at(),
            self.warm.due_at(),
            self.history.due_at(),
            self.known.due_at(),
        ];
        times.into_iter().chain([call]).flatten().min()
    }

    /// Whether the peer is to be told something now.
    pub(super) fn has_signal(&self, now: Instant) -> bool {
        self.ack_due.is_some() || self.has_call(now)
    }

    /// Whether the peer is called though it has named addresses before.
    pub(super) fn calls_again(&self) -> bool {
        self.calling.is_some() && self.checks.is_open()
    }

    /// Whether what both have named was tried for as long as a round takes, and led
    /// nowhere.
    pub(super) fn has_tried(&self, now: Instant) -> bool {
        self.tried_at.is_some_and(|at| now - at >= ROUND)
    }

    /// The same, and one of us has wanted the other ever since.
    pub(super) fn is_missed(&self, now: Instant) -> bool {
        (self.is_wanted || self.obliges) && self.has_tried(now)
    }

    /// Whether what servers said a moment ago may be wrong: the way to the peer has
    /// broken, as either of us knows, or what was named last did not lead to it.
    pub(super) fn doubts_reflexive(&self, now: Instant) -> bool {
        let failed = self.selected.is_some() || self.has_tried(now);
        self.in_doubt || self.calls_again() || (self.ack_due.is_some() && failed)
    }

    /// The id of the call that is to be sent now.
    pub(super) fn take_call(&mut self, now: Instant) -> Option<u32> {
        self.take_call_repeated(&CALL_WAITS, now)
    }

    /// The same for a call that is repeated after other times.
    pub(super) fn take_call_repeated(&mut self, waits: &[Duration], now: Instant) -> Option<u32> {
        let calling = self.calling.as_mut().filter(|calling| !calling.is_spent())?;
        if !calling.due && calling.due_at > now {
            return None;
        }
        let wait = waits.get(usize::from(calling.sent)).or_else(|| waits.last())?;
        calling.sent = calling.sent.saturating_add(1);
        calling.repeats = waits.len() as u8;
        calling.due = false;
        calling.due_at = now + *wait;
        self.called = Some((calling.id, now));
        Some(calling.id)
    }

    pub(super) fn poll_event(&mut self, slot: PeerSlot, now: Instant) -> Option<PathEvent> {
        if self.listening.is_due(now) {
            return Some(PathEvent::Listen { slot });
        }
        if let Some(selected) = self.selected
            && self.told != Some(selected.route.into())
        {
            self.told = Some(selected.route.into());
            return Some(PathEvent::Selected { slot, selected });
        }
        if self.history.poll_new() {
            return Some(PathEvent::Changed);
        }
        let take = core::mem::take::<bool>;
        if take(&mut self.is_idle) {
            self.told = None;
            return Some(PathEvent::Idle { slot });
        }
        if let Some(why) = self.suspects.take() {
            return Some(PathEvent::RelaySuspected(why));
        }
        if take(&mut self.greets) {
            return Some(PathEvent::Greet { slot });
        }
        if take(&mut self.ready) {
            return Some(PathEvent::Ready { slot, renew: take(&mut self.renews) });
        }
        let why = self.failed.take()?;
        // What waited is thrown away.
        self.is_wanted = false;
        Some(PathEvent::Failed { slot, why })
    }

    /// The handle that the peer's probes will carry is drawn before the peer is
    /// told.
    pub(super) fn draw_handle(&mut self, entropy: &mut dyn Entropy) {
        if self.checks.own_handle == 0 {
            self.checks.own_handle = entropy.number().max(1);
        }
    }

    /// A call is wanted at `at`, or earlier if one is on its way already.
    pub(super) fn call_at(&mut self, at: Instant, entropy: &mut dyn Entropy, now: Instant) {
        let least = self.called.map_or(at, |(_, called)| at.max(called + CALL_INTERVAL));
        match &mut self.calling {
            Some(calling) if calling.sent == 0 => calling.due_at = calling.due_at.min(least),
            Some(_) => {}
            None => {
                self.calling = Some(Calling {
                    id: entropy.number(),
                    sent: 0,
                    repeats: CALL_WAITS.len() as u8,
                    due_at: least,
                    due: false,
                    give_up_at: now + GIVE_UP_AFTER,
                    insists: false,
                    why: NoPath::NoAnswer,
                });
            }
        }
    }

    /// The same, whatever is found over a relay meanwhile.
    pub(super) fn call_insisting(&mut self, at: Instant, entropy: &mut dyn Entropy, now: Instant) {
        self.call_at(at, entropy, now);
        if let Some(calling) = &mut self.calling {
            calling.insists = true;
        }
    }

    /// The same at once. A call so soon after another one is that one again: who
    /// forwards it counts calls and not how often each is repeated.
    pub(super) fn call_now(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        self.call_insisting(now, entropy, now);
        let last = self.called.filter(|(_, called)| now - *called < CALL_INTERVAL);
        if let (Some(calling), Some((id, _))) = (&mut self.calling, last) {
            calling.id = id;
            calling.due_at = now;
        }
    }

    /// The call under way is made once more, if it was made.
    pub(super) fn repeat_call(&mut self, now: Instant) {
        let made = |calling: &&mut Calling| calling.sent > 0 && !calling.is_spent();
        if let Some(calling) = self.calling.as_mut().filter(made) {
            calling.due_at = now;
        }
    }

    /// The peer is told anew what it was told in the call that is under way, or
    /// was the last.
    pub(super) fn call_again(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        match &mut self.calling {
            Some(calling) => {
                calling.sent = calling.sent.min(1);
                calling.due_at = now;
            }
            None => self.call_now(entropy, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_wire::id::DeviceId;

    use super::*;
    use crate::event::SocketId;

    struct Fixed;

    impl Entropy for Fixed {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(7);
        }
    }

    const NOW: Instant = Instant::from_secs(100);

    fn peer() -> PeerPath {
        PeerPath::new(PeerKind {
            device: DeviceId(9),
            wireguard_only: false,
            endpoint: None,
            hints: [0; 2],
        })
    }

    fn named() -> Named {
        let address = SocketAddr::from(([198, 51, 100, 9], 51_820));
        let route = Route::Direct { socket: SocketId(0), address };
        let routes = core::iter::once((route, false)).collect();
        Named { routes, handle: 1, transaction: 1, mapping: Mapping::Unknown, seen: None }
    }

    fn after(millis: u64) -> Instant {
        NOW + Duration::from_millis(millis)
    }

    #[test]
    fn whoever_wants_a_peer_goes_on_calling_though_it_is_called() {
        for is_wanted in [true, false] {
            let mut peer = peer();
            if is_wanted {
                peer.handle_wanted(&mut Fixed, NOW);
                let call = peer.take_call(NOW).expect("it is called");
                peer.handle_call_ack(call, named(), after(50), after(50));
            }
            // It has something to add, or wants us itself.
            peer.handle_call(5, named(), Duration::ZERO);
            assert_eq!(peer.take_ack(after(60)), Some(5));
            peer.handle_initiation(&mut Fixed, after(500));
            assert_eq!(peer.is_calling(), is_wanted);
        }
    }

    #[test]
    fn of_two_behind_one_router_the_shorter_way_is_taken_though_it_answers_later() {
        let route = |ip: [u8; 4]| Route::Direct {
            socket: SocketId(0),
            address: SocketAddr::from((ip, 51_820)),
        };
        let (around, straight) = (route([198, 51, 100, 9]), route([192, 168, 1, 9]));
        for turns in [true, false] {
            let mut peer = peer();
            peer.leads = true;
            peer.handle_wanted(&mut Fixed, NOW);
            let call = peer.take_call(NOW).expect("it is called");
            let routes = [(around, false), (straight, false)].into_iter().collect();
            peer.handle_call_ack(call, Named { routes, ..named() }, after(50), after(50));
            let mut pings = heapless::Vec::<_, 8>::new();
            while let Some(ping) = peer.checks.poll(after(60)) {
                let _ = pings.push(ping);
            }
            let ping = |way| pings.iter().find(|ping| ping.route == way).expect("both are tried");
            peer.handle_probe(around, &ping(around).head, Some(0), after(61)).unwrap();
            peer.handle_authenticated(around, turns, after(62));
            let late = peer.checks.poll(after(80)).map(|ping| ping.head);
            assert_eq!(late.is_some(), turns, "the neighbour's address is tried on");
            let head = late.unwrap_or_else(|| ping(straight).head);
            peer.handle_probe(straight, &head, Some(0), after(81)).unwrap();
            let selected = peer.selected.map(|selected| selected.route);
            assert_eq!(selected, Some(if turns { straight } else { around }));
        }
    }

    #[test]
    fn a_peer_is_missed_when_a_round_was_in_vain() {
        let mut peer = peer();
        peer.handle_wanted(&mut Fixed, NOW);
        let call = peer.take_call(NOW).expect("it is called");
        peer.handle_call_ack(call, named(), after(50), after(50));
        assert!(!peer.is_missed(after(2_049)) && peer.is_missed(after(2_050)));
        peer.handle_call(5, named(), Duration::ZERO);
        assert!(peer.doubts_reflexive(after(2_050)), "it calls, for it has not come here");
        let route = named().routes.first().expect("one is named").0;
        peer.handle_authenticated(route, false, after(2_100));
        assert!(!peer.is_missed(after(9_000)));
    }
}
