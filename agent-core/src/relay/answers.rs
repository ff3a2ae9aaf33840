//! What comes from relays: whose it is, whether it is believed, and what follows.

use core::net::{IpAddr, SocketAddr};

use weft_wire::stun::{
    ALLOCATE, BINDING, CHANNEL_BIND, CREATE_PERMISSION, Class, DATA, DATA_ATTRIBUTE, Frame,
    Message, REFRESH, StunError, XOR_PEER_ADDRESS, XOR_RELAYED_ADDRESS, code,
};

use super::credentials::Challenge;
use super::exchange::Exchange;
use super::ladder::Way;
use super::race::{Given, LIFETIME_S, Try, TryState, refresh_after};
use super::state::Core;
use super::wanted::{ASK_AGAIN_AFTER, canonical};
use super::{Received, Why};
use crate::event::{DropReason, Source};
use crate::time::{Duration, Instant};

/// Which request an answer is for.
#[derive(Clone, Copy)]
enum Asked {
    Try(Way),
    Refresh,
    Peer(usize),
}

/// What an error means.
enum Said {
    /// Ask again with what came along.
    Again { is_stale: bool },
    /// No.
    No(Why),
}

impl<const PEERS: usize> Core<PEERS> {
    pub(super) fn handle_datagram(
        &mut self,
        source: Source,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Received, DropReason> {
        let Some(relay) = self.current else { return Ok(Received::NotMine) };
        let way = Way::ALL.into_iter().find(|way| {
            way.socket(self.sockets) == Some(source.socket)
                && way.server(&relay, self.sockets) == Some(source.address)
        });
        match way {
            Some(way) => self.handle_frame(way, datagram, now),
            None => Ok(Received::NotMine),
        }
    }

    /// Bytes that came by one of the ways.
    pub(super) fn handle_frame(
        &mut self,
        way: Way,
        bytes: &[u8],
        now: Instant,
    ) -> Result<Received, DropReason> {
        let frame = match Frame::parse(bytes) {
            Ok(frame) => frame,
            Err(StunError::NotStun) => return Ok(Received::NotMine),
            Err(_) => return Err(DropReason::Malformed),
        };
        let is_live = self.live.is_some_and(|live| live.way == way);
        let message = match frame {
            Frame::Message(message) if message.method() == BINDING => {
                return Ok(Received::NotMine);
            }
            Frame::Message(message) => message,
            Frame::Channel(frame) => {
                let bound = self.peers.iter().find(|peer| peer.channel() == Some(frame.channel));
                // Another port of an address that is wanted: as without a channel.
                let peer = bound.filter(|peer| is_live && self.admits(peer.ip()));
                let peer = peer.ok_or(DropReason::Unsolicited)?.address();
                return Ok(self.data(peer, bytes, frame.data, now));
            }
        };
        match message.class() {
            Class::Indication if message.method() == DATA && is_live => {
                let peer = message.xor_address(XOR_PEER_ADDRESS).ok_or(DropReason::Malformed)?;
                let peer = canonical(peer);
                let data = message.get(DATA_ATTRIBUTE).ok_or(DropReason::Malformed)?;
                if !self.admits(peer.ip()) {
                    return Err(DropReason::Unsolicited);
                }
                Ok(self.data(peer, bytes, data, now))
            }
            Class::Indication | Class::Request => Err(DropReason::Unsolicited),
            Class::Success | Class::Error => self.handle_answer(way, &message, now),
        }
    }

    /// A peer's packet, and with it a sign of the relay's life.
    fn data(&mut self, peer: SocketAddr, bytes: &[u8], data: &[u8], now: Instant) -> Received {
        if let Some(live) = &mut self.live {
            live.is_heard();
            live.passed_at = Some(now);
        }
        let start = data.as_ptr() as usize - bytes.as_ptr() as usize;
        Received::Data { peer, at: start..start + data.len() }
    }

    /// Whether an address is wanted, with whichever port: a NAT may choose any.
    fn admits(&self, ip: IpAddr) -> bool {
        self.peers.iter().any(|known| known.is_wanted() && known.ip() == ip)
    }

    fn handle_answer(
        &mut self,
        way: Way,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<Received, DropReason> {
        let (asked, method) = self.asked(way, message).ok_or(DropReason::Unsolicited)?;
        if message.method() != method {
            return Err(DropReason::Malformed);
        }
        let is_success = message.class() == Class::Success;
        let verdict = match (&self.grant, &self.challenge) {
            (Some(grant), Some(challenge)) => grant.verify(challenge, message),
            _ => None,
        };
        if verdict != Some(true) && (is_success || verdict.is_some()) {
            return Err(DropReason::Unauthentic);
        }
        match asked {
            Asked::Try(way) => self.answer_try(way, message, now)?,
            Asked::Refresh => self.answer_refresh(message, now),
            Asked::Peer(place) => self.answer_peer(place, message, now),
        }
        Ok(Received::Consumed)
    }

    /// The request that was asked this way in this transaction, and its method.
    fn asked(&self, way: Way, message: &Message<'_>) -> Option<(Asked, u16)> {
        let (seed, counter) =
            message.transaction().split_first_chunk::<8>().map(|(seed, rest)| {
                (*seed, rest.iter().fold(0, |counter, &byte| counter << 8 | u32::from(byte)))
            })?;
        if self.seed != Some(seed) {
            return None;
        }
        let one = &self.tries[way as usize];
        if one.state != TryState::Off && one.exchange.is_answered_by(counter) {
            let method = match one.state {
                TryState::Clearing | TryState::Freeing => REFRESH,
                _ => ALLOCATE,
            };
            return Some((Asked::Try(way), method));
        }
        let live = self.live.as_ref().filter(|live| live.way == way)?;
        if live.refresh.is_answered_by(counter) {
            return Some((Asked::Refresh, REFRESH));
        }
        let place = self.peers.iter().position(|peer| peer.exchange.is_answered_by(counter))?;
        let binds = self.peers[place].asks_for_channel();
        let method = if binds { CHANNEL_BIND } else { CREATE_PERMISSION };
        Some((Asked::Peer(place), method))
    }

    /// What an error says; a challenge is remembered.
    fn read_error(&mut self, message: &Message<'_>) -> Said {
        let number = message.error().map_or(0, |(number, _)| number);
        let relay = self.current.map(|relay| relay.number);
        match number {
            code::UNAUTHENTICATED | code::STALE_NONCE => {
                let Some(challenge) = relay.and_then(|relay| Challenge::read(relay, message))
                else {
                    return Said::No(match number {
                        code::UNAUTHENTICATED => Why::Credentials,
                        _ => Why::Unexpected,
                    });
                };
                self.challenge = Some(challenge);
                Said::Again { is_stale: number == code::STALE_NONCE }
            }
            code::TRY_ALTERNATE => Said::No(Why::Draining),
            code::FORBIDDEN => Said::No(Why::Denied),
            code::ALLOCATION_MISMATCH => Said::No(Why::Forgotten),
            code::ADDRESS_FAMILY_NOT_SUPPORTED | code::PEER_FAMILY_MISMATCH => {
                Said::No(Why::Family)
            }
            code::WRONG_CREDENTIALS => Said::No(Why::OtherUser),
            code::QUOTA_REACHED => Said::No(Why::Quota),
            code::INSUFFICIENT_CAPACITY => Said::No(Why::Capacity),
            _ => Said::No(Why::Unexpected),
        }
    }

    fn answer_try(
        &mut self,
        way: Way,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let Try { state, exchange, .. } = self.tries[way as usize];
        if state == TryState::Asking
            && let (Some(place), Some(round_trip)) =
                (self.current_place(), exchange.round_trip(now))
        {
            self.latency.measure(place, round_trip, now);
        }
        if message.class() == Class::Success {
            match state {
                TryState::Asking => {
                    let given = read_given(message).ok_or(DropReason::Malformed)?;
                    self.win(way, given, now);
                }
                TryState::Clearing => self.ask_after_clearing(way, now),
                TryState::Losing => {
                    let free = Try { state: TryState::Freeing, ..Try::at(now) };
                    self.tries[way as usize] = free;
                }
                _ => self.tries[way as usize] = Try::OFF,
            }
            return Ok(());
        }
        let said = self.read_error(message);
        if state == TryState::Losing {
            // There is nothing to be given back.
            self.tries[way as usize] = Try::OFF;
            return Ok(());
        }
        if matches!(state, TryState::Asking | TryState::Clearing) {
            self.hold(way);
        }
        let one = &mut self.tries[way as usize];
        let why = match said {
            Said::Again { is_stale } if one.exchange.follow(is_stale, now) => return Ok(()),
            Said::Again { .. } => Why::Credentials,
            Said::No(why) => why,
        };
        match state {
            TryState::Freeing => *one = Try::OFF,
            TryState::Clearing if why == Why::Forgotten => self.ask_after_clearing(way, now),
            TryState::Asking if why == Why::Forgotten && !one.is_cleared => {
                one.state = TryState::Clearing;
                one.is_cleared = true;
                one.exchange = Exchange::at(now);
            }
            // Another way is another five-tuple.
            _ if matches!(why, Why::Forgotten | Why::OtherUser | Why::Unexpected) => {
                self.fail_try(way, why, now);
            }
            _ => {
                *one = Try::OFF;
                self.close_line(way);
                self.fail_relay(why, now);
            }
        }
        Ok(())
    }

    fn ask_after_clearing(&mut self, way: Way, now: Instant) {
        let one = &mut self.tries[way as usize];
        one.state = TryState::Asking;
        one.exchange = Exchange::at(now);
    }

    fn answer_refresh(&mut self, message: &Message<'_>, now: Instant) {
        let is_success = message.class() == Class::Success;
        let said = if is_success { None } else { Some(self.read_error(message)) };
        let Some(live) = &mut self.live else { return };
        let why = match said {
            None => {
                let lifetime_s = message.lifetime().unwrap_or(LIFETIME_S);
                live.is_heard();
                live.refresh = Exchange::at(now + refresh_after(lifetime_s));
                live.expires = now + Duration::from_secs(lifetime_s.into());
                return;
            }
            Some(Said::Again { is_stale }) if live.refresh.follow(is_stale, now) => return,
            Some(Said::Again { .. }) => Why::Credentials,
            Some(Said::No(why)) => why,
        };
        match why {
            Why::Forgotten | Why::OtherUser | Why::Denied => self.lose(why, now),
            _ => {
                if why == Why::Credentials {
                    self.ask_at = self.ask_at.min(now);
                }
                self.fail_refresh(why, now);
            }
        }
        self.advance(now);
    }

    fn answer_peer(&mut self, place: usize, message: &Message<'_>, now: Instant) {
        let is_success = message.class() == Class::Success;
        let said = if is_success { None } else { Some(self.read_error(message)) };
        let Some(peer) = self.peers.get_mut(place) else { return };
        let why = match said {
            None => return peer.confirm(now),
            Some(Said::Again { is_stale }) if peer.exchange.follow(is_stale, now) => return,
            Some(Said::Again { .. }) => Why::Credentials,
            Some(Said::No(why)) => why,
        };
        match why {
            Why::Forgotten | Why::OtherUser => self.lose(why, now),
            Why::Credentials => {
                peer.exchange = Exchange::at(now + ASK_AGAIN_AFTER);
                self.suspect(now);
            }
            _ => peer.refuse(why, now),
        }
        self.advance(now);
    }
}

fn read_given(message: &Message<'_>) -> Option<Given> {
    let mut relayed = message.xor_addresses(XOR_RELAYED_ADDRESS).flatten();
    let relayed = [Some(relayed.next()?), relayed.next()];
    let lifetime_s = message.lifetime().filter(|&lifetime_s| lifetime_s > 0)?;
    Some(Given { relayed, mapped: message.mapped_address()?, lifetime_s })
}
