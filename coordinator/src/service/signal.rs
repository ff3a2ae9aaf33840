//! Calls between devices: the coordinator forwards `call`, `call_ack` and `go`,
//! turns `peer` from the callee into the caller, and lets nobody call whom no
//! rule joins it with.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_wire::id::DeviceId;
use weft_wire::item::ItemError;
use weft_wire::signal::{Call, CallAck, CallFailed, Go};
use weft_wire::verdict::CallFailure;

use super::channel::replies::Replies;
use super::channel::sessions::{Pushed, Sessions};
use super::channel::table::Who;
use super::maps::wire_peer;
use super::quiet::Quiet;
use super::secrets::Secrets;
use crate::store::{SharedStore, StoreError};

/// A pair may call anew after this long.
pub const CALL_INTERVAL: Duration = Duration::from_secs(5);
/// How often one call is forwarded: its sender repeats what is not answered.
pub const REPEATS: u8 = 4;
/// How long answers to a call are forwarded.
pub const CALL_LIFE: Duration = Duration::from_secs(30);
/// Calls that are remembered; the oldest go first.
pub const CALLS: usize = 16_384;
/// Calls of one device that are remembered; beyond it may place no other.
pub const CALLS_OF_CALLER: usize = 512;

/// What a device sends to another.
pub enum Message {
    /// "Here I am."
    Call(Call),
    /// "I heard you; here I am."
    CallAck(CallAck),
    /// "Start now."
    Go(Go),
}

impl Message {
    const fn call(&self) -> u32 {
        match self {
            Self::Call(call) => call.call,
            Self::CallAck(ack) => ack.call,
            Self::Go(go) => go.call,
        }
    }

    const fn peer(&self) -> DeviceId {
        match self {
            Self::Call(call) => call.peer,
            Self::CallAck(ack) => ack.peer,
            Self::Go(go) => go.peer,
        }
    }

    /// Up it names the receiver, down the sender.
    const fn set_peer(&mut self, sender: DeviceId) {
        match self {
            Self::Call(call) => call.peer = sender,
            Self::CallAck(ack) => ack.peer = sender,
            Self::Go(go) => go.peer = sender,
        }
    }

    fn put(&self, replies: &mut Replies) -> Result<(), ItemError> {
        match self {
            Self::Call(call) => replies.put(call),
            Self::CallAck(ack) => replies.put(ack),
            Self::Go(go) => replies.put(go),
        }
    }
}

/// The last call from one device to another.
#[derive(Clone, Copy, Debug)]
struct Placed {
    call: u32,
    at: Instant,
    times: u8,
    /// Its place in the order of time.
    turn: u64,
}

/// Which calls there are. Time is an argument.
#[derive(Default)]
struct Calls {
    placed: HashMap<(DeviceId, DeviceId), Placed>,
    /// The same calls, oldest first.
    order: BTreeMap<u64, (DeviceId, DeviceId)>,
    of_caller: HashMap<DeviceId, usize>,
    turn: u64,
}

impl Calls {
    /// Whether a call may be forwarded now.
    fn place(&mut self, caller: DeviceId, callee: DeviceId, call: u32, now: Instant) -> bool {
        if let Some(placed) = self.placed.get_mut(&(caller, callee)) {
            let age = now.saturating_duration_since(placed.at);
            if placed.call == call && age < CALL_LIFE {
                placed.times = placed.times.saturating_add(1);
                return placed.times <= REPEATS;
            }
            if age < CALL_INTERVAL {
                return false;
            }
            self.forget((caller, callee));
        }
        self.expire(now);
        if self.of_caller.get(&caller).is_some_and(|calls| *calls >= CALLS_OF_CALLER) {
            return false;
        }
        if self.placed.len() >= CALLS
            && let Some(oldest) = self.order.first_key_value().map(|(_, pair)| *pair)
        {
            self.forget(oldest);
        }
        let turn = self.turn;
        self.turn += 1;
        self.placed.insert((caller, callee), Placed { call, at: now, times: 1, turn });
        self.order.insert(turn, (caller, callee));
        *self.of_caller.entry(caller).or_default() += 1;
        true
    }

    /// Forgets calls whose answers come too late.
    fn expire(&mut self, now: Instant) {
        while let Some(pair) = self.order.first_key_value().map(|(_, pair)| *pair) {
            let is_over = self
                .placed
                .get(&pair)
                .is_none_or(|placed| now.saturating_duration_since(placed.at) >= CALL_LIFE);
            if !is_over {
                break;
            }
            self.forget(pair);
        }
    }

    fn forget(&mut self, pair: (DeviceId, DeviceId)) {
        let Some(placed) = self.placed.remove(&pair) else { return };
        self.order.remove(&placed.turn);
        if let Some(calls) = self.of_caller.get_mut(&pair.0) {
            *calls -= 1;
            if *calls == 0 {
                self.of_caller.remove(&pair.0);
            }
        }
    }

    /// Whether there is such a call between the two, whoever placed it.
    fn is_placed(&self, a: DeviceId, b: DeviceId, call: u32, now: Instant) -> bool {
        [(a, b), (b, a)].iter().any(|pair| {
            self.placed.get(pair).is_some_and(|placed| {
                placed.call == call && now.saturating_duration_since(placed.at) < CALL_LIFE
            })
        })
    }
}

/// The use case.
pub struct Signal {
    store: SharedStore,
    secrets: Arc<Secrets>,
    sessions: Arc<Sessions>,
    quiet: Arc<Quiet>,
    calls: Mutex<Calls>,
}

impl Signal {
    /// Forwards between these sessions.
    pub fn new(
        store: SharedStore,
        secrets: Arc<Secrets>,
        sessions: Arc<Sessions>,
        quiet: Arc<Quiet>,
    ) -> Self {
        Self { store, secrets, sessions, quiet, calls: Mutex::default() }
    }

    /// Forwards a message. Returns what the sender of a call is told when it
    /// could not be; answers to a call that is not known are dropped.
    pub async fn forward(
        &self,
        sender: DeviceId,
        mut message: Message,
        now: Instant,
    ) -> Option<CallFailed> {
        let (call, receiver) = (message.call(), message.peer());
        let is_call = matches!(message, Message::Call(_));
        let failed = |why: CallFailure| {
            is_call.then_some(CallFailed { call, peer: receiver, code: why as u16 })
        };
        // Nothing is remembered of a call that no rule allows, and nothing is
        // looked up for an answer to none.
        let calls = || self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_call && !calls().is_placed(sender, receiver, call, now) {
            return None;
        }
        match self.store.edge(sender, receiver).await {
            Ok(true) if sender != receiver => {}
            Ok(_) => return failed(CallFailure::Denied),
            Err(error) => {
                self.quiet.store_failed("edge", &error);
                // The sender repeats the call.
                return None;
            }
        }
        if is_call && !calls().place(sender, receiver, call, now) {
            return failed(CallFailure::TooMany);
        }
        message.set_peer(sender);
        let pushed = match self.introduce(sender, receiver, is_call).await {
            Ok(introduction) => self.sessions.push(receiver, |_, replies| {
                if let Some(entry) = &introduction {
                    replies.put(entry)?;
                }
                message.put(replies)
            }),
            Err(error) => {
                self.quiet.store_failed("peer", &error);
                return None;
            }
        };
        match pushed {
            Pushed::Sent | Pushed::Full => None,
            Pushed::Absent => failed(CallFailure::Offline),
        }
    }

    /// The caller's whole entry for a callee that holds its peers on demand, so
    /// that it knows the caller before the first initiation comes.
    async fn introduce(
        &self,
        caller: DeviceId,
        callee: DeviceId,
        is_call: bool,
    ) -> Result<Option<weft_wire::map::PeerUpsert>, StoreError> {
        let Some(session) = self.sessions.current(callee) else { return Ok(None) };
        let Who::Device { network, .. } = session.agreed.who else { return Ok(None) };
        if !is_call || session.agreed.on_demand == 0 {
            return Ok(None);
        }
        let (Some(entry), Some(device)) =
            (self.store.peer_entry(callee, caller).await?, self.store.device(callee).await?)
        else {
            return Ok(None);
        };
        Ok(Some(wire_peer(&entry, network, device.id, &self.secrets)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: DeviceId = DeviceId(1);
    const B: DeviceId = DeviceId(2);

    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
    fn origin() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_pair_calls_once_in_five_seconds_and_repeats_a_little() {
        let (mut calls, start) = (Calls::default(), origin());
        assert!(calls.place(A, B, 1, start));
        assert!(!calls.place(A, B, 2, start + Duration::from_millis(4_999)));
        for _ in 1..REPEATS {
            assert!(calls.place(A, B, 1, start + Duration::from_secs(1)));
        }
        assert!(!calls.place(A, B, 1, start + Duration::from_secs(1)));
        assert!(calls.place(B, A, 7, start), "the other direction is another call");
        assert!(calls.place(A, B, 2, start + CALL_INTERVAL));
    }

    #[test]
    fn answers_belong_to_a_call_between_the_two() {
        let (mut calls, start) = (Calls::default(), origin());
        assert!(calls.place(A, B, 1, start));
        assert!(calls.is_placed(B, A, 1, start));
        assert!(calls.is_placed(A, B, 1, start));
        assert!(!calls.is_placed(B, A, 2, start));
        assert!(!calls.is_placed(B, DeviceId(3), 1, start));
        assert!(!calls.is_placed(B, A, 1, start + CALL_LIFE));
    }

    #[test]
    fn calls_are_bounded_and_the_oldest_go() {
        let (mut calls, start) = (Calls::default(), origin());
        for n in 0..=CALLS as u32 {
            let at = start + Duration::from_millis(u64::from(n) / 8);
            assert!(calls.place(DeviceId(n), A, 1, at));
        }
        assert_eq!(
            (calls.placed.len(), calls.order.len(), calls.of_caller.len()),
            (CALLS, CALLS, CALLS)
        );
        assert!(!calls.is_placed(DeviceId(0), A, 1, start));
        assert!(calls.is_placed(DeviceId(1), A, 1, start));
        assert!(calls.place(A, B, 1, start + CALL_LIFE + Duration::from_secs(9)));
        assert_eq!((calls.placed.len(), calls.order.len(), calls.of_caller.len()), (1, 1, 1));
    }

    #[test]
    fn one_caller_displaces_nobody() {
        let (mut calls, start) = (Calls::default(), origin());
        assert!(calls.place(B, A, 1, start));
        let placed = (0..2 * CALLS as u32).filter(|n| calls.place(A, DeviceId(*n), 1, start));
        assert_eq!(placed.count(), CALLS_OF_CALLER);
        assert!(calls.is_placed(A, B, 1, start));
        assert!(calls.place(A, DeviceId(u32::MAX), 1, start + CALL_LIFE), "they end by themselves");
    }
}
