//! Network maps on their way: pages pulled by devices, revisions announced.
//!
//! A map is worked out when a device asks for its first page. If it is longer
//! than one page it is kept until the device has it, so that all pages are of
//! one map; what is kept holds no PSK, those are derived page by page.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_wire::id::{DeviceId, Epoch, NetworkId, Revision, Secret};
use weft_wire::item::{ItemError, ItemWriter};
use weft_wire::map::{
    self as wire, DataBudget, Lease, MapApplied, MapNext, MapReady, OwnSecond, Page, PeerRemove,
    PeerUpsert, Rule, Rules, SecondKey, Servers, Settings, peer_flags,
};
use weft_wire::relay::{RELAYS, Relay, RelayName, RelayNames, Relays};

use super::channel::replies::Replies;
use super::channel::sentence;
use super::channel::sessions::{Pushed, Sessions};
use super::channel::table::{Entry, Who};
use super::limit::{Limiter, Rate};
use super::quiet::Quiet;
use super::secrets::Secrets;
use crate::domain::netmap::{MapOp, MapSettings, OwnKeys, PeerEntry};
use crate::store::{SharedStore, StoreError};

/// Bytes of a page that are not ops: tag and length of the item, and the page's
/// own fields at their longest.
const PAGE_HEAD: usize = 1 + 3 + 5 + 10 + 10 + 3 + 3;
/// Bytes of an announcement at its longest.
const READY: usize = 1 + 1 + 5 + 10;
/// Ops that are kept for devices that pull more than one page, in all; the
/// transfer that was used longest ago goes first.
pub const KEPT_OPS: usize = 200_000;

/// Whose map: what turns an entry into what the device is sent.
#[derive(Clone, Copy, Debug)]
struct Viewer {
    network: NetworkId,
    device: DeviceId,
}

/// A map on its way to a device.
struct Transfer {
    epoch: Epoch,
    asked_from: Revision,
    from: Revision,
    to: Revision,
    viewer: Viewer,
    ops: Vec<MapOp>,
    /// Where each page's ops are.
    pages: Vec<Range<usize>>,
    layout: Layout,
}

/// What a map is laid out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    /// Bytes of a page's ops.
    capacity: usize,
    /// The device holds its peers on demand.
    on_demand: bool,
}

struct Kept {
    transfer: Arc<Transfer>,
    used: u64,
}

#[derive(Default)]
struct State {
    kept: HashMap<DeviceId, Kept>,
    kept_ops: usize,
    uses: u64,
    /// The newest revision that each device was told of and has not applied.
    told: HashMap<DeviceId, Revision>,
    /// What devices with a session hold, as far as is known: a push builds on
    /// it. One that holds something else asks, as if it was told and no more.
    held: HashMap<DeviceId, (Epoch, Revision)>,
}

impl State {
    fn forget(&mut self, device: DeviceId) {
        if let Some(kept) = self.kept.remove(&device) {
            self.kept_ops -= kept.transfer.ops.len();
        }
    }

    fn keep(&mut self, device: DeviceId, transfer: Arc<Transfer>) {
        self.forget(device);
        while self.kept_ops + transfer.ops.len() > KEPT_OPS {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used);
            let Some(oldest) = oldest.map(|(device, _)| *device) else { break };
            self.forget(oldest);
        }
        self.uses += 1;
        self.kept_ops += transfer.ops.len();
        self.kept.insert(device, Kept { transfer, used: self.uses });
    }

    fn find(&mut self, device: DeviceId, next: &MapNext, layout: Layout) -> Option<Arc<Transfer>> {
        self.uses += 1;
        let uses = self.uses;
        let kept = self.kept.get_mut(&device)?;
        let transfer = &kept.transfer;
        let same = transfer.epoch == next.epoch
            && transfer.asked_from == next.from
            && transfer.layout == layout;
        kept.used = uses;
        same.then(|| Arc::clone(transfer))
    }
}

/// One page, ready to be put into a record.
pub struct ReadyPage {
    transfer: Arc<Transfer>,
    epoch: Epoch,
    page: usize,
    secrets: Arc<Secrets>,
}

impl ReadyPage {
    /// Puts the page into a record.
    ///
    /// # Errors
    ///
    /// [`ItemError`] when it does not fit, which its layout rules out.
    pub fn put(&self, replies: &mut Replies) -> Result<(), ItemError> {
        let Transfer { from, to, viewer, ops, pages, .. } = &*self.transfer;
        let head = Page {
            epoch: self.epoch,
            from: *from,
            to: *to,
            page: self.page as u16,
            of: pages.len() as u16,
        };
        let range = pages.get(self.page).cloned().unwrap_or_default();
        let ops = ops.get(range).unwrap_or_default();
        replies.write(|writer| {
            writer.put_nested(&head, |inner| {
                ops.iter().try_for_each(|op| put_op(inner, op, *viewer, &self.secrets))
            })
        })
    }
}

/// The use case.
pub struct Maps {
    store: SharedStore,
    secrets: Arc<Secrets>,
    sessions: Arc<Sessions>,
    quiet: Arc<Quiet>,
    state: Mutex<State>,
    budget: Limiter,
}

/// Maps that a device may have worked out: one unit each, and one more for so
/// many ops.
const BUDGET: Rate = Rate::per_second(40, 256);
const OPS_PER_UNIT: usize = 64;
/// Cells of the limiter.
const CELLS: usize = 16_384;

impl Maps {
    /// Serves the maps of this store.
    pub fn new(
        store: SharedStore,
        secrets: Arc<Secrets>,
        sessions: Arc<Sessions>,
        quiet: Arc<Quiet>,
    ) -> Self {
        let budget = Limiter::new(BUDGET, CELLS);
        Self { store, secrets, sessions, quiet, state: Mutex::default(), budget }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page that a device asks for. One that there is not (the map changed
    /// and got shorter meanwhile) is answered by the first: the device sees that
    /// it is of another map and begins anew. `None` = the device had more maps
    /// worked out than it may.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn page(
        &self,
        entry: &Entry,
        next: &MapNext,
        epoch: Epoch,
    ) -> Result<Option<ReadyPage>, StoreError> {
        let Who::Device { id, network, .. } = entry.agreed.who else {
            return Err(StoreError::NotFound(crate::store::What::Device));
        };
        let capacity = Replies::new(entry.agreed.max_rx).capacity().saturating_sub(PAGE_HEAD);
        let layout = Layout { capacity, on_demand: entry.agreed.on_demand > 0 };
        let mut kept = self.state().find(id, next, layout);
        if next.page == 0 && kept.is_some() {
            // Whoever begins is to get the newest.
            let newest = self.store.holder(id).await?.and_then(|holder| holder.newest);
            kept = kept.filter(|kept| newest.is_some_and(|newest| newest.own <= kept.to));
        }
        let transfer = match kept {
            Some(transfer) => transfer,
            None => {
                let now = tokio::time::Instant::now().into_std();
                if !self.budget.try_take(&id, now) {
                    return Ok(None);
                }
                let transfer = self.transfer(id, network, next, epoch, layout).await?;
                let transfer = Arc::new(transfer);
                let units = transfer.ops.len() / OPS_PER_UNIT;
                self.budget.charge(&id, u32::try_from(units).unwrap_or(u32::MAX), now);
                if transfer.pages.len() > 1 {
                    self.state().keep(id, Arc::clone(&transfer));
                }
                transfer
            }
        };
        let page = usize::from(next.page);
        let page = if page < transfer.pages.len() { page } else { 0 };
        Ok(Some(ReadyPage { transfer, epoch, page, secrets: Arc::clone(&self.secrets) }))
    }

    async fn transfer(
        &self,
        id: DeviceId,
        network: NetworkId,
        next: &MapNext,
        epoch: Epoch,
        layout: Layout,
    ) -> Result<Transfer, StoreError> {
        let missing = StoreError::NotFound(crate::store::What::Device);
        let from = if next.epoch == epoch { next.from } else { Revision(0) };
        let delta = self.store.map_since(id, from).await?.ok_or(missing)?;
        let viewer = Viewer { network, device: id };
        let mut ops = delta.ops;
        if layout.on_demand {
            // A device with few slots asks for peers or is called by them.
            // Nobody asks it what relays are called.
            ops.retain(|op| !matches!(op, MapOp::PeerUpsert(_) | MapOp::RelayNames(_)));
        }
        let pages =
            lay_out(&ops, layout.capacity, |writer, op| put_op(writer, op, viewer, &self.secrets));
        Ok(Transfer {
            epoch: next.epoch,
            asked_from: next.from,
            from: delta.from,
            to: delta.to,
            viewer,
            ops,
            pages,
            layout,
        })
    }

    /// Announces a revision to a device.
    pub fn tell(&self, device: DeviceId, epoch: Epoch, revision: Revision) {
        if self.sessions.current(device).is_none() {
            // Its next handshake tells it.
            return;
        }
        let ready = self.told(device, epoch, revision);
        self.sessions.push(device, |_, replies| replies.put(&ready));
    }

    /// Announces a revision to a device and sends the change along, if it is known
    /// what the device holds and both fit one record: it need not ask.
    pub async fn push(&self, device: DeviceId, epoch: Epoch, revision: Revision) {
        let Some(entry) = self.sessions.current(device) else { return };
        let held = self.state().held.get(&device).copied();
        let page = match held {
            Some((life, held)) if life == epoch => self.change(&entry, epoch, held).await,
            _ => None,
        };
        let Some(page) = page else { return self.tell(device, epoch, revision) };
        let to = page.transfer.to;
        let ready = self.told(device, epoch, to.max(revision));
        let pushed = self.sessions.push(device, |_, replies| {
            replies.put(&ready)?;
            page.put(replies)
        });
        // What is lost shows in what the device asks for.
        let mut state = self.state();
        match pushed {
            Pushed::Sent => state.held.insert(device, (epoch, to)),
            Pushed::Absent | Pushed::Full => state.held.remove(&device),
        };
    }

    /// What brings a device from what it holds to the newest, if that is one page
    /// with room for its announcement.
    async fn change(&self, entry: &Entry, epoch: Epoch, held: Revision) -> Option<ReadyPage> {
        let Who::Device { id, network, .. } = entry.agreed.who else { return None };
        let capacity =
            Replies::new(entry.agreed.max_rx).capacity().checked_sub(PAGE_HEAD + READY)?;
        let layout = Layout { capacity, on_demand: entry.agreed.on_demand > 0 };
        let next = MapNext { epoch, from: held, page: 0 };
        match self.transfer(id, network, &next, epoch, layout).await {
            Ok(transfer) if transfer.from == held && transfer.pages.len() == 1 => {
                let (transfer, secrets) = (Arc::new(transfer), Arc::clone(&self.secrets));
                Some(ReadyPage { transfer, epoch, page: 0, secrets })
            }
            Ok(_) | Err(StoreError::NotFound(_)) => None,
            Err(error) => {
                self.quiet.store_failed("map", &error);
                None
            }
        }
    }

    /// A device has said what it holds; `None` = that is of no use.
    pub fn set_held(&self, device: DeviceId, held: Option<(Epoch, Revision)>) {
        let mut state = self.state();
        match held.filter(|(_, revision)| *revision > Revision(0)) {
            Some(held) => state.held.insert(device, held),
            None => state.held.remove(&device),
        };
    }

    /// A device is about to be told of a revision: in these words.
    pub fn told(&self, device: DeviceId, epoch: Epoch, revision: Revision) -> MapReady {
        self.state()
            .told
            .entry(device)
            .and_modify(|told| *told = revision.max(*told))
            .or_insert(revision);
        MapReady { epoch, revision }
    }

    /// Announces once more what was announced and not yet applied: the frames
    /// may be lost.
    pub fn tell_again(&self, epoch: Epoch) {
        let told: Vec<_> =
            self.state().told.iter().map(|(device, revision)| (*device, *revision)).collect();
        for (device, revision) in told {
            let ready = MapReady { epoch, revision };
            self.sessions.push(device, |_, replies| replies.put(&ready));
        }
    }

    /// What a device has to be told whose heartbeat names an older revision than
    /// the one it was told of: the announcement was lost.
    pub fn behind(
        &self,
        device: DeviceId,
        held: (Epoch, Revision),
        epoch: Epoch,
    ) -> Option<MapReady> {
        let told = self.state().told.get(&device).copied()?;
        let behind = held.0 != epoch || held.1 < told;
        behind.then_some(MapReady { epoch, revision: told })
    }

    /// A device has applied and kept a revision.
    pub async fn applied(&self, device: DeviceId, applied: &MapApplied, epoch: Epoch) {
        {
            let mut state = self.state();
            state.forget(device);
            if applied.epoch == epoch {
                let now = (epoch, applied.revision);
                let held = state.held.entry(device).or_insert(now);
                // A newer one may be on its way already.
                if held.0 != epoch || held.1 < applied.revision {
                    *held = now;
                }
            }
            if applied.epoch == epoch
                && state.told.get(&device).is_some_and(|told| *told <= applied.revision)
            {
                state.told.remove(&device);
            }
        }
        if applied.epoch != epoch {
            return;
        }
        if let Err(error) = self.store.set_applied(device, applied.revision).await {
            self.quiet.store_failed("applied", &error);
        }
    }

    /// Nothing is kept for this device any more.
    pub fn forget(&self, device: DeviceId) {
        let mut state = self.state();
        state.forget(device);
        state.told.remove(&device);
        state.held.remove(&device);
    }
}

/// Divides ops into pages of at most `capacity` bytes, in order. An op that is
/// longer than a page alone is left out and said: no device is to be stuck over
/// one peer.
fn lay_out<T>(
    ops: &[T],
    capacity: usize,
    put: impl Fn(&mut ItemWriter<'_>, &T) -> Result<(), ItemError>,
) -> Vec<Range<usize>> {
    let mut scratch = zeroize::Zeroizing::new(vec![0; capacity]);
    let mut pages = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (at, op) in ops.iter().enumerate() {
        let mut writer = ItemWriter::new(&mut scratch);
        let len = match put(&mut writer, op) {
            Ok(()) => writer.len(),
            Err(_) => usize::MAX,
        };
        if used > 0 && len > capacity - used {
            pages.push(start..at);
            (start, used) = (at, 0);
        }
        if len > capacity {
            tracing::error!(op = at, capacity, "map.op-too-long");
            start = at + 1;
        } else {
            used += len;
        }
    }
    if start < ops.len() || pages.is_empty() {
        pages.push(start..ops.len());
    }
    pages.truncate(usize::from(u16::MAX));
    pages
}

fn put_op(
    writer: &mut ItemWriter<'_>,
    op: &MapOp,
    viewer: Viewer,
    secrets: &Secrets,
) -> Result<(), ItemError> {
    match op {
        MapOp::PeerRemove(device) => writer.put(&PeerRemove { device: *device }),
        MapOp::Settings(settings) => writer.put(&wire_settings(settings)),
        MapOp::OwnKeys(keys) => writer.put(&wire_own_keys(keys)),
        MapOp::DataBudget(bytes) => writer.put(&DataBudget { bytes: *bytes }),
        MapOp::Lease(lease_s) => writer.put(&Lease { lease_s: *lease_s }),
        MapOp::Servers(servers) => writer.put(&wire_servers(servers)),
        MapOp::Relays(relays) => writer.put(&wire_relays(relays)),
        MapOp::RelayNames(names) => writer.put(&wire_relay_names(names)),
        MapOp::Rules(rules) => writer.put(&wire_rules(rules)),
        MapOp::PeerUpsert(entry) => {
            writer.put(&wire_peer(entry, viewer.network, viewer.device, secrets))
        }
    }
}

fn wire_settings(settings: &MapSettings) -> Settings {
    Settings {
        overlay: settings.overlay,
        host: settings.host,
        name: sentence(&settings.name),
        mtu: settings.mtu,
        next_pin: settings.next_pin,
    }
}

fn wire_servers(servers: &[SocketAddr]) -> Servers {
    Servers { stun: servers.iter().copied().take(weft_wire::map::SERVERS).collect() }
}

fn wire_relays(relays: &[Relay]) -> Relays {
    Relays { relays: relays.iter().copied().take(RELAYS).collect() }
}

fn wire_relay_names(names: &[(u16, String)]) -> RelayNames {
    let name = |(relay, name): &(u16, String)| RelayName { relay: *relay, name: sentence(name) };
    RelayNames { names: names.iter().take(RELAYS).map(name).collect() }
}

fn wire_rules(rules: &[Rule]) -> Rules {
    Rules { rules: rules.iter().copied().take(weft_wire::map::RULES).collect() }
}

const fn wire_own_keys(keys: &OwnKeys) -> wire::OwnKeys {
    let second = match keys.second {
        Some(second) => Some(OwnSecond { key: second.key, kind: second.kind }),
        None => None,
    };
    wire::OwnKeys { active: keys.active, second, wanted: keys.asked }
}

/// A peer as it is sent to `viewer`, with the pair's secret.
pub(super) fn wire_peer(
    entry: &PeerEntry,
    network: NetworkId,
    viewer: DeviceId,
    secrets: &Secrets,
) -> PeerUpsert {
    let psk = || {
        entry.psk.map_or(Secret([0; 32]), |generation| {
            secrets.pair_secret(network, viewer, entry.device, generation)
        })
    };
    let second = entry.second.map(|second| SecondKey {
        key: second.key,
        psk: psk(),
        kind: second.kind,
        until_ms: second.until.map_or(0, |until| until.0),
    });
    let mut flags = 0;
    if entry.on_demand {
        flags |= peer_flags::ON_DEMAND;
    }
    if entry.wireguard_only {
        flags |= peer_flags::WIREGUARD_ONLY;
    }
    if entry.keep_warm {
        flags |= peer_flags::KEEP_WARM;
    }
    PeerUpsert {
        device: entry.device,
        name: sentence(&entry.name),
        key: entry.key,
        psk: psk(),
        second,
        host: entry.host,
        mtu: entry.mtu,
        flags,
        rules_in: entry.masks.rules_in,
        rules_out: entry.masks.rules_out,
        routes: heapless::Vec::new(),
        endpoint: entry.endpoint,
        attestation: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::item::Ping;

    fn pages(requests: &[u32], capacity: usize) -> Vec<(usize, usize)> {
        let put =
            |writer: &mut ItemWriter<'_>, request: &u32| writer.put(&Ping { request: *request });
        lay_out(requests, capacity, put).into_iter().map(|page| (page.start, page.end)).collect()
    }

    #[test]
    fn pages_hold_what_fits_and_every_op_once() {
        // A Ping of a small request takes 3 bytes, of a large one 7.
        assert_eq!(pages(&[], 9), [(0, 0)]);
        assert_eq!(pages(&[1, 2, 3], 9), [(0, 3)]);
        assert_eq!(pages(&[1, 2, 3, 4], 9), [(0, 3), (3, 4)]);
        assert_eq!(pages(&[u32::MAX, 1, u32::MAX, 1, 2], 9), [(0, 1), (1, 2), (2, 3), (3, 5)]);
        for capacity in 7..40 {
            let requests: Vec<u32> =
                (0..100).map(|n| if n % 7 == 0 { u32::MAX } else { n }).collect();
            let pages = pages(&requests, capacity);
            let together: Vec<_> = pages.iter().flat_map(|(start, end)| *start..*end).collect();
            assert_eq!(together, (0..100).collect::<Vec<_>>());
            for (start, end) in pages {
                let len: usize =
                    requests[start..end].iter().map(|r| if *r == u32::MAX { 7 } else { 3 }).sum();
                assert!(len <= capacity);
            }
        }
    }

    #[test]
    fn an_op_that_fits_no_page_is_left_out_alone() {
        assert_eq!(pages(&[1, u32::MAX, 2], 6), [(0, 1), (2, 3)]);
        assert_eq!(pages(&[u32::MAX], 6), [(1, 1)]);
    }
}
