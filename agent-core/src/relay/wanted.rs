//! Addresses that are to be reached through the relay.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::Why;
use super::exchange::Exchange;
use crate::time::{Duration, Instant};

/// A permission lives for 300 s (RFC 8656 section 9), a channel for 600.
pub(super) const RENEW_AFTER: Duration = Duration::from_secs(240);
/// After an unanswered request.
pub(super) const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// After a refusal: policies change seldom.
const REFUSED_FOR: Duration = Duration::from_secs(300);

/// The address as it is compared: IPv4 as IPv4, and nothing of an interface.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// How far it is with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The relay has not answered yet.
    Asked,
    /// Packets go both ways.
    Ready,
    /// The relay says no.
    Refused(Why),
    /// Nobody wants it any more; its channel is remembered, since the relay
    /// binds the address to no other for ten minutes.
    Dormant,
}

/// 40 bytes for each address: IPv4 in IPv6's clothes, a port, a channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    ip: [u8; 16],
    /// 0 = not known.
    port: u16,
    /// 0 = only a permission.
    channel: u16,
    pub(super) exchange: Exchange,
    pub(super) standing: Standing,
    /// The relay would not bind the channel.
    is_unbound: bool,
    /// [`Standing`] has changed since it was told.
    pub(super) is_news: bool,
}

impl Wanted {
    pub(super) const fn new(peer: SocketAddr, now: Instant) -> Self {
        let ip = match peer.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self {
            ip: ip.octets(),
            port: peer.port(),
            channel: 0,
            exchange: Exchange::at(now),
            standing: Standing::Asked,
            is_unbound: false,
            is_news: false,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), self.port)
    }

    pub(super) fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.ip).to_canonical()
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.standing != Standing::Dormant
    }

    /// Whether a channel is asked for, and not the permission alone.
    pub(super) const fn asks_for_channel(&self) -> bool {
        self.port != 0 && !self.is_unbound
    }

    /// The number of its channel, whether it is confirmed or not.
    pub(super) fn channel(&self) -> Option<u16> {
        Some(self.channel).filter(|_| self.channel != 0 && self.asks_for_channel())
    }

    pub(super) const fn set_channel(&mut self, channel: u16) {
        self.channel = channel;
    }

    /// A new allocation knows nothing of it.
    pub(super) fn start_over(&mut self, at: Instant) {
        if self.is_wanted() {
            *self = Self::new(self.address(), at);
        }
    }

    /// Wanted again on the same allocation.
    pub(super) const fn wake(&mut self, now: Instant) {
        self.standing = Standing::Asked;
        self.exchange = Exchange::at(now);
    }

    pub(super) const fn sleep(&mut self) {
        self.standing = Standing::Dormant;
        self.exchange = Exchange::NONE;
        self.is_news = false;
    }

    /// The relay says yes.
    pub(super) fn confirm(&mut self, now: Instant) {
        self.is_news |= self.standing != Standing::Ready;
        self.standing = Standing::Ready;
        self.exchange = Exchange::at(now + RENEW_AFTER);
    }

    /// The relay says no. If that was for the channel, the permission alone is
    /// asked for.
    pub(super) fn refuse(&mut self, why: Why, now: Instant) {
        let is_of_peer = matches!(why, Why::Denied | Why::Family);
        if self.asks_for_channel() && !is_of_peer {
            self.is_unbound = true;
            self.exchange = Exchange::at(now);
            self.standing = Standing::Asked;
            return;
        }
        self.is_news |= self.standing != Standing::Refused(why);
        self.standing = Standing::Refused(why);
        self.is_unbound = false;
        self.exchange = Exchange::at(now + REFUSED_FOR);
    }
}
