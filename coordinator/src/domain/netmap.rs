//! Who sees whom, and what changed since a device last asked.
//!
//! A network has one counter (the revision) and a log of which device changed
//! at which revision, with the tags it had before. Nothing is computed when a
//! change is written; a device's delta is worked out when the device asks, from
//! what it could see then and what it may see now. One change is one row, for
//! any number of devices on its edges.

use core::net::SocketAddr;
use std::collections::{BTreeMap, HashMap};

use weft_wire::id::{DeviceId, Epoch, PublicKey, Revision};
use weft_wire::map::{Overlay, Rule};
use weft_wire::relay::Relay;

use super::policy::{Compiled, Masks, Profile};
use super::rotation::SecondKey;
use super::tags::TagSet;

/// A peer as one device sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEntry {
    /// Who.
    pub device: DeviceId,
    /// Its name.
    pub name: String,
    /// Its WireGuard key.
    pub key: PublicKey,
    /// A second key while it rotates.
    pub second: Option<SecondKey>,
    /// Generation of the pair's secret; `None` = the pair uses no PSK. The
    /// secret itself is derived on delivery.
    pub psk: Option<u32>,
    /// Host number.
    pub host: u32,
    /// Largest packet it takes through the tunnel, in bytes.
    pub mtu: u16,
    /// Whether it holds its tunnels on demand.
    pub on_demand: bool,
    /// Whether it speaks plain WireGuard only.
    pub wireguard_only: bool,
    /// What may pass.
    pub masks: Masks,
    /// Whether the way to it is to be kept open while nobody talks.
    pub keep_warm: bool,
    /// Where a WireGuard-only peer listens, if it has a fixed place.
    pub endpoint: Option<SocketAddr>,
}

/// What a device knows of its network and itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapSettings {
    /// Addresses.
    pub overlay: Overlay,
    /// Its own host number.
    pub host: u32,
    /// Its own name.
    pub name: String,
    /// MTU of mesh interfaces, in bytes.
    pub mtu: u16,
    /// The coordinator's next key while a change is announced.
    pub next_pin: Option<PublicKey>,
}

/// What peers know of a device's own keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnKeys {
    /// The key that they use.
    pub active: PublicKey,
    /// The other one that they accept.
    pub second: Option<SecondKey>,
    /// Number of the rotation that the next key is asked for; 0 = none.
    pub asked: u32,
}

/// One op of a map page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Forget this peer.
    PeerRemove(DeviceId),
    /// The network's settings.
    Settings(MapSettings),
    /// The device's own keys.
    OwnKeys(OwnKeys),
    /// Bytes a day that the device may spend on all but payload.
    DataBudget(Option<u64>),
    /// Seconds that the map holds without word from here.
    Lease(u32),
    /// STUN servers, best first.
    Servers(Vec<SocketAddr>),
    /// Relays, those to be tried first come first.
    Relays(Vec<Relay>),
    /// What people call them, by number.
    RelayNames(Vec<(u16, String)>),
    /// The complete rules.
    Rules(Vec<Rule>),
    /// This peer is as follows.
    PeerUpsert(Box<PeerEntry>),
}

/// What brings a device from one revision to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDelta {
    /// The map's life.
    pub epoch: Epoch,
    /// What the ops build on; 0 = a snapshot: what it does not name is gone.
    pub from: Revision,
    /// What holds afterwards.
    pub to: Revision,
    /// Removals first.
    pub ops: Vec<MapOp>,
}

/// How new one member's map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    /// The newest revision that changed its map.
    pub own: Revision,
    /// The newest revision of its network.
    pub network: Revision,
}

impl Newest {
    /// The revision that a device which holds `held` of this life is to be told
    /// of: the one it holds while nothing of its map came since, else the newest
    /// there is. So who was away asks only if it missed something.
    pub fn for_holder(self, held: Revision) -> Revision {
        if (self.own..=self.network).contains(&held) { held } else { self.network }
    }
}

/// What one device may see at one revision.
#[derive(Clone, Copy)]
pub struct View<'a> {
    policy: &'a Compiled,
    own: Option<&'a TagSet>,
}

impl<'a> View<'a> {
    /// The view of a device with tags `own`; `None` = not a member, sees nobody.
    pub const fn new(policy: &'a Compiled, own: Option<&'a TagSet>) -> Self {
        Self { policy, own }
    }

    /// The rules that the device holds in this view.
    pub fn rules(&self) -> Vec<Rule> {
        self.own.map_or_else(Vec::new, |own| self.policy.rules(&self.policy.profile(own)))
    }

    fn is_like(&self, other: &Self) -> bool {
        self.own == other.own && core::ptr::eq(self.policy, other.policy)
    }
}

/// Answers mask questions of one view, remembering each set of tags.
struct Seer<'a> {
    view: View<'a>,
    own: Option<Profile>,
    known: HashMap<TagSet, Masks>,
}

impl<'a> Seer<'a> {
    fn new(view: View<'a>) -> Self {
        let own = view.own.map(|own| view.policy.profile(own));
        Self { view, own, known: HashMap::new() }
    }

    /// The masks towards a peer with these tags; `None` = it is not seen.
    fn sees(&mut self, peer: Option<&TagSet>) -> Option<Masks> {
        let (own, peer) = (self.own.as_ref()?, peer?);
        let masks = if let Some(masks) = self.known.get(peer) {
            *masks
        } else {
            let masks = self.view.policy.masks(own, &self.view.policy.profile(peer));
            self.known.insert(peer.clone(), masks);
            masks
        };
        masks.is_edge().then_some(masks)
    }
}

/// What happened to one peer between two views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerChange {
    /// No longer seen.
    Remove,
    /// Seen anew, or seen with something different.
    Upsert(Masks),
}

/// Which peers a device has to be told of.
///
/// `touched` names every device that changed since, with the tags it had then
/// (`None` = it was no member). `members` gives every active device with its
/// tags now; of those that are not touched it is only asked when the views
/// differ, so a caller whose views are alike may give the touched ones alone.
/// The device itself must be in neither.
pub fn peer_changes<'a>(
    then: View<'a>,
    now: View<'a>,
    touched: &BTreeMap<DeviceId, Option<TagSet>>,
    members: impl IntoIterator<Item = (DeviceId, &'a TagSet)>,
) -> Vec<(DeviceId, PeerChange)> {
    let alike = then.is_like(&now);
    let (mut then, mut now) = (Seer::new(then), Seer::new(now));
    let mut upserts = Vec::new();
    let mut gone = touched.clone();
    for (device, tags) in members {
        let before = touched.get(&device);
        if alike && before.is_none() {
            continue;
        }
        let seen_then = then.sees(before.map_or(Some(tags), Option::as_ref));
        match (seen_then, now.sees(Some(tags))) {
            (_, None) => {
                // Still a member; whether it was seen decides below.
                gone.insert(device, before.map_or_else(|| Some(tags.clone()), Clone::clone));
                continue;
            }
            (seen_then, Some(masks)) if before.is_some() || seen_then != Some(masks) => {
                upserts.push((device, PeerChange::Upsert(masks)));
            }
            (Some(_) | None, Some(_)) => {}
        }
        gone.remove(&device);
    }
    let removes = gone
        .iter()
        .filter(|(_, before)| then.sees(before.as_ref()).is_some())
        .map(|(device, _)| (*device, PeerChange::Remove));
    removes.chain(upserts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_what_concerns_it_is_told_of_nothing_newer() {
        let newest = Newest { own: Revision(5), network: Revision(9) };
        // 12 is a revision of a database that was lost.
        for (held, told) in [(0, 9), (4, 9), (5, 5), (7, 7), (9, 9), (12, 9)] {
            assert_eq!(newest.for_holder(Revision(held)), Revision(told), "{held}");
        }
    }
}
