//! Allocations, their permissions and channels, in flat tables.
//!
//! An allocation costs its row here (about 200 bytes), one in the map of
//! five-tuples, one in the heap of deadlines, and 64 to 72 bytes for each
//! permission and channel; nothing is boxed. Permissions and channels hang on
//! their allocation as lists whose last used entry moves to the front: the one
//! that carries traffic is found at once, and a long list costs its owner.
//!
//! What has expired is gone, whether or not it was cleared away yet: every
//! look-up compares the time.

use core::cmp::Reverse;
use core::net::{IpAddr, SocketAddr};
use std::collections::{BinaryHeap, HashMap};

use weft_wire::stun::{Family, TransactionId};

use super::output::{Client, Relay, Via};
use super::users::UserId;

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

/// A five-tuple as the map holds it.
type Key = [u8; 37];

fn key_of(client: &Client) -> Key {
    let mut key = [0; 37];
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    key[..16].copy_from_slice(&octets(client.address.ip()));
    key[16..18].copy_from_slice(&client.address.port().to_be_bytes());
    match client.via {
        Via::Udp { listener, local } => {
            key[18] = 1;
            key[19] = listener;
            key[20..36].copy_from_slice(&octets(local));
        }
        Via::Stream(number) => {
            key[18] = 2;
            key[20..24].copy_from_slice(&number.to_be_bytes());
        }
    }
    key
}

/// Rows with numbers that stay.
struct Slab<T> {
    rows: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    const fn new() -> Self {
        Self { rows: Vec::new(), free: Vec::new() }
    }

    fn insert(&mut self, row: T) -> u32 {
        if let Some(place) = self.free.pop() {
            self.rows[place as usize] = Some(row);
            return place;
        }
        self.rows.push(Some(row));
        self.rows.len() as u32 - 1
    }

    fn remove(&mut self, place: u32) -> Option<T> {
        let row = self.rows.get_mut(place as usize)?.take();
        if row.is_some() {
            self.free.push(place);
        }
        row
    }

    fn get(&self, place: u32) -> Option<&T> {
        self.rows.get(place as usize)?.as_ref()
    }

    fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.rows.get_mut(place as usize)?.as_mut()
    }
}

/// A token bucket in bytes.
#[derive(Clone, Copy, Default)]
pub(super) struct Bucket {
    tokens: u64,
    filled_ms: u64,
}

impl Bucket {
    /// Full: one second's worth.
    pub(super) const fn full(rate: u64, now_ms: u64) -> Self {
        Self { tokens: rate, filled_ms: now_ms }
    }

    /// How many packets of `len` bytes may pass, at most `count`.
    pub(super) fn take(&mut self, rate: u64, len: u64, count: u16, now_ms: u64) -> u16 {
        let gained = now_ms.saturating_sub(self.filled_ms).min(1_000) * rate / 1_000;
        if gained > 0 {
            self.tokens = (self.tokens + gained).min(rate);
            self.filled_ms = now_ms;
        }
        let fit = self.tokens.checked_div(len).unwrap_or(u64::MAX).min(u64::from(count));
        self.tokens -= fit * len;
        fit as u16
    }
}

/// One allocation.
pub(super) struct Allocation {
    pub(super) client: Client,
    pub(super) user: UserId,
    pub(super) expires_ms: u64,
    /// When the timer looks at it next.
    scheduled_ms: u64,
    /// Ports of IPv4 and IPv6; 0 for none.
    pub(super) ports: [u16; 2],
    /// Sockets that are not open yet.
    pub(super) opening: u8,
    pub(super) transaction: TransactionId,
    pub(super) bucket: Bucket,
    permissions: u32,
    channels: u32,
    pub(super) permission_count: u16,
    pub(super) channel_count: u16,
}

impl Allocation {
    /// The port of a family; 0 for none.
    pub(super) const fn port(&self, family: Family) -> u16 {
        self.ports[family as usize]
    }
}

struct Permission {
    ip: IpAddr,
    next: u32,
    expires_ms: u64,
}

/// A bound channel.
#[derive(Clone, Copy)]
pub(super) struct Channel {
    pub(super) peer: SocketAddr,
    pub(super) number: u16,
    next: u32,
    expires_ms: u64,
}

/// All of them.
pub(super) struct Table {
    allocations: Slab<Allocation>,
    permissions: Slab<Permission>,
    channels: Slab<Channel>,
    by_client: HashMap<Key, u32>,
    /// By family and port.
    by_port: HashMap<(u8, u16), u32>,
    timers: BinaryHeap<Reverse<(u64, u32)>>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            allocations: Slab::new(),
            permissions: Slab::new(),
            channels: Slab::new(),
            by_client: HashMap::new(),
            by_port: HashMap::new(),
            timers: BinaryHeap::new(),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> u32 {
        self.by_client.len() as u32
    }

    pub(super) fn insert(
        &mut self,
        client: Client,
        user: UserId,
        transaction: TransactionId,
        expires_ms: u64,
        bucket: Bucket,
    ) -> u32 {
        let place = self.allocations.insert(Allocation {
            client,
            user,
            expires_ms,
            scheduled_ms: expires_ms,
            ports: [0; 2],
            opening: 0,
            transaction,
            bucket,
            permissions: NONE,
            channels: NONE,
            permission_count: 0,
            channel_count: 0,
        });
        self.by_client.insert(key_of(&client), place);
        self.timers.push(Reverse((expires_ms, place)));
        place
    }

    /// Gives an allocation a port.
    pub(super) fn set_port(&mut self, place: u32, family: Family, port: u16) {
        let Some(allocation) = self.allocations.get_mut(place) else { return };
        let old = core::mem::replace(&mut allocation.ports[family as usize], port);
        self.by_port.remove(&(family as u8, old));
        if port != 0 {
            self.by_port.insert((family as u8, port), place);
        }
    }

    /// The client's allocation, if it has not expired.
    pub(super) fn of_client(&self, client: &Client, now_ms: u64) -> Option<u32> {
        let place = *self.by_client.get(&key_of(client))?;
        self.live(place, now_ms).map(|_| place)
    }

    /// The client's allocation, expired or not.
    pub(super) fn any_of_client(&self, client: &Client) -> Option<u32> {
        self.by_client.get(&key_of(client)).copied()
    }

    /// The allocation that has this port.
    pub(super) fn of_port(&self, family: Family, port: u16) -> Option<u32> {
        self.by_port.get(&(family as u8, port)).copied()
    }

    pub(super) fn live(&self, place: u32, now_ms: u64) -> Option<&Allocation> {
        self.allocations.get(place).filter(|allocation| allocation.expires_ms > now_ms)
    }

    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut Allocation> {
        self.allocations.get_mut(place)
    }

    /// Places of all allocations of a user.
    pub(super) fn of_user(&self, user: UserId) -> Vec<u32> {
        let rows = self.allocations.rows.iter().zip(0..);
        rows.filter(|(row, _)| row.as_ref().is_some_and(|row| row.user == user))
            .map(|(_, place)| place)
            .collect()
    }

    /// Sets the time at which it ends.
    pub(super) fn refresh(&mut self, place: u32, expires_ms: u64) {
        if let Some(allocation) = self.allocations.get_mut(place) {
            allocation.expires_ms = expires_ms;
        }
        self.schedule(place, expires_ms);
    }

    /// An earlier look at it than planned; a later one comes by itself.
    fn schedule(&mut self, place: u32, at_ms: u64) {
        let Some(allocation) = self.allocations.get_mut(place) else { return };
        if at_ms < allocation.scheduled_ms {
            allocation.scheduled_ms = at_ms;
            self.timers.push(Reverse((at_ms, place)));
        }
    }

    /// When to look next.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.timers.peek().map(|Reverse((at_ms, _))| *at_ms)
    }

    /// Clears expired permissions and channels away; returns an allocation that
    /// has expired, to be removed, until there is none.
    pub(super) fn expired(&mut self, now_ms: u64) -> Option<u32> {
        while let Some(Reverse((at_ms, place))) = self.timers.peek().copied() {
            if at_ms > now_ms {
                return None;
            }
            self.timers.pop();
            // The place may have another tenant, with a timer of its own.
            let Some(allocation) =
                self.allocations.get(place).filter(|row| row.scheduled_ms == at_ms)
            else {
                continue;
            };
            if allocation.expires_ms <= now_ms {
                return Some(place);
            }
            let next = self.sweep(place, now_ms);
            if let Some(allocation) = self.allocations.get_mut(place) {
                allocation.scheduled_ms = next;
                self.timers.push(Reverse((next, place)));
            }
        }
        None
    }

    /// Drops what expired; returns when the next of it does.
    fn sweep(&mut self, place: u32, now_ms: u64) -> u64 {
        let Some(allocation) = self.allocations.get_mut(place) else { return u64::MAX };
        let mut next = allocation.expires_ms;
        let mut at = core::mem::replace(&mut allocation.permissions, NONE);
        while let Some(row) = self.permissions.get_mut(at) {
            let (this, after) = (at, row.next);
            if row.expires_ms > now_ms {
                next = next.min(row.expires_ms);
                row.next = core::mem::replace(&mut allocation.permissions, this);
            } else {
                self.permissions.remove(this);
                allocation.permission_count -= 1;
            }
            at = after;
        }
        let mut at = core::mem::replace(&mut allocation.channels, NONE);
        while let Some(row) = self.channels.get_mut(at) {
            let (this, after) = (at, row.next);
            if row.expires_ms > now_ms {
                next = next.min(row.expires_ms);
                row.next = core::mem::replace(&mut allocation.channels, this);
            } else {
                self.channels.remove(this);
                allocation.channel_count -= 1;
            }
            at = after;
        }
        next
    }

    /// Takes an allocation away, with all that hangs on it.
    pub(super) fn remove(&mut self, place: u32) -> Option<Allocation> {
        let allocation = self.allocations.remove(place)?;
        self.by_client.remove(&key_of(&allocation.client));
        for family in [Family::V4, Family::V6] {
            self.by_port.remove(&(family as u8, allocation.port(family)));
        }
        let mut at = allocation.permissions;
        while let Some(row) = self.permissions.remove(at) {
            at = row.next;
        }
        let mut at = allocation.channels;
        while let Some(row) = self.channels.remove(at) {
            at = row.next;
        }
        Some(allocation)
    }

    /// Sockets that an allocation has.
    pub(super) fn relays(
        place: u32,
        allocation: &Allocation,
    ) -> impl Iterator<Item = Relay> + use<> {
        let ports = allocation.ports;
        [Family::V4, Family::V6]
            .into_iter()
            .filter(move |family| ports[*family as usize] != 0)
            .map(move |family| Relay { allocation: place, family })
    }

    /// Whether packets may go to, and come from, this address.
    pub(super) fn permits(&mut self, place: u32, ip: IpAddr, now_ms: u64) -> bool {
        self.find_permission(place, ip)
            .and_then(|at| self.permissions.get(at))
            .is_some_and(|row| row.expires_ms > now_ms)
    }

    fn find_permission(&mut self, place: u32, ip: IpAddr) -> Option<u32> {
        let allocation = self.allocations.get_mut(place)?;
        let (mut before, mut at) = (NONE, allocation.permissions);
        loop {
            let row = self.permissions.get(at)?;
            if row.ip == ip {
                break;
            }
            (before, at) = (at, row.next);
        }
        if before != NONE {
            let next = self.permissions.get(at)?.next;
            self.permissions.get_mut(before)?.next = next;
            self.permissions.get_mut(at)?.next =
                core::mem::replace(&mut allocation.permissions, at);
        }
        Some(at)
    }

    /// Makes or renews a permission; `false` if there are `most` already.
    pub(super) fn permit(&mut self, place: u32, ip: IpAddr, until_ms: u64, most: u16) -> bool {
        if let Some(at) = self.find_permission(place, ip) {
            if let Some(row) = self.permissions.get_mut(at) {
                row.expires_ms = until_ms;
            }
            return true;
        }
        let Some(allocation) = self.allocations.get_mut(place) else { return false };
        if allocation.permission_count >= most {
            return false;
        }
        allocation.permission_count += 1;
        let row = Permission { ip, next: allocation.permissions, expires_ms: until_ms };
        allocation.permissions = self.permissions.insert(row);
        self.schedule(place, until_ms);
        true
    }

    fn find_channel(&mut self, place: u32, wanted: impl Fn(&Channel) -> bool) -> Option<u32> {
        let allocation = self.allocations.get_mut(place)?;
        let (mut before, mut at) = (NONE, allocation.channels);
        loop {
            let row = self.channels.get(at)?;
            if wanted(row) {
                break;
            }
            (before, at) = (at, row.next);
        }
        if before != NONE {
            let next = self.channels.get(at)?.next;
            self.channels.get_mut(before)?.next = next;
            self.channels.get_mut(at)?.next = core::mem::replace(&mut allocation.channels, at);
        }
        Some(at)
    }

    fn live_channel(&self, at: Option<u32>, now_ms: u64) -> Option<Channel> {
        self.channels.get(at?).filter(|row| row.expires_ms > now_ms).copied()
    }

    /// The channel of this number.
    pub(super) fn channel(&mut self, place: u32, number: u16, now_ms: u64) -> Option<Channel> {
        let at = self.find_channel(place, |row| row.number == number);
        self.live_channel(at, now_ms)
    }

    /// The channel to this peer.
    pub(super) fn channel_to(
        &mut self,
        place: u32,
        peer: SocketAddr,
        now_ms: u64,
    ) -> Option<Channel> {
        let at = self.find_channel(place, |row| row.peer == peer);
        self.live_channel(at, now_ms)
    }

    /// Binds or renews a channel whose number and peer nobody else has; `false`
    /// if there are `most` already.
    pub(super) fn bind(
        &mut self,
        place: u32,
        number: u16,
        peer: SocketAddr,
        until_ms: u64,
        most: u16,
    ) -> bool {
        // One that expired and was not cleared away yet is taken over.
        let same = |row: &Channel| row.number == number || row.peer == peer;
        let mut known = 0;
        while let Some(at) = self.find_channel(place, same) {
            known += 1;
            let Some(row) = self.channels.remove(at) else { break };
            let Some(allocation) = self.allocations.get_mut(place) else { break };
            // It was moved to the front.
            allocation.channels = row.next;
            allocation.channel_count -= 1;
        }
        let Some(allocation) = self.allocations.get_mut(place) else { return false };
        if known == 0 && allocation.channel_count >= most {
            return false;
        }
        allocation.channel_count += 1;
        let row = Channel { peer, number, next: allocation.channels, expires_ms: until_ms };
        allocation.channels = self.channels.insert(row);
        self.schedule(place, until_ms);
        true
    }
}
