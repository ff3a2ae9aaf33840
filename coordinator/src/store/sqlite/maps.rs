//! The map log, and what a device is told out of it.

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rusqlite::{Connection, Row, params};
use weft_wire::id::{DeviceId, Epoch, NetworkId, PublicKey, Revision};

use crate::domain::census::{Census, Class};
use crate::domain::device::{Backend, Device, Kind};
use crate::domain::netmap::{
    MapDelta, MapOp, MapSettings, Newest, OwnKeys, PeerChange, PeerEntry, View, peer_changes,
};
use crate::domain::network::Network;
use crate::domain::policy::{Compiled, Masks};
use crate::domain::relay::{Relay, region, stun_told, told_to};
use crate::domain::tags::TagSet;
use crate::store::{Answer, Holder, Maps, StoreError, What};

use super::census::{self, member_tags};
use super::row::{
    all, backend_from_word, bytes, damaged, get, number, number_or_none, one, run, signed, tags,
};
use super::writer::Unit;
use super::{Cache, SqliteStore, devices, networks, policies, relays, rotation};

/// Revisions that the log reaches back at least; an older device gets a
/// snapshot.
pub(super) const LOG_LEN: u64 = 16_384;
/// The log is cut at multiples of this.
pub(super) const LOG_CUT: u64 = 1_024;

/// Newest revision of a network's map.
pub(super) fn revision(conn: &Connection, network: NetworkId) -> Result<Revision, StoreError> {
    one(conn, "SELECT revision FROM network WHERE id = ?1", [network.0], |row| {
        number(row, "revision").map(Revision)
    })?
    .ok_or(StoreError::NotFound(What::Network))
}

/// Logs that a device changed; `before` = its tags if it was a member.
pub(super) fn log_device(
    unit: &mut Unit<'_>,
    network: NetworkId,
    device: DeviceId,
    before: Option<&TagSet>,
) -> Result<Revision, StoreError> {
    log(unit, network, "device", device.0, before)
}

/// Logs that the policy changed.
pub(super) fn log_policy(unit: &mut Unit<'_>, network: NetworkId) -> Result<Revision, StoreError> {
    log(unit, network, "policy", 0, None)
}

/// Logs that something changed that every device is told.
pub(super) fn log_network(unit: &mut Unit<'_>, network: NetworkId) -> Result<Revision, StoreError> {
    log(unit, network, "network", 0, None)
}

fn log(
    unit: &mut Unit<'_>,
    network: NetworkId,
    kind: &str,
    subject: u32,
    before: Option<&TagSet>,
) -> Result<Revision, StoreError> {
    // What is committed has to be known while nothing else is there yet.
    unit.base(network)?;
    let conn = unit.conn;
    run(conn, "UPDATE network SET revision = revision + 1 WHERE id = ?1", [network.0])?;
    let revision = revision(conn, network)?;
    run(
        conn,
        "INSERT INTO map_log (network, revision, kind, subject, before) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![network.0, signed(revision.0), kind, subject, before.map(ToString::to_string)],
    )?;
    if revision.0.is_multiple_of(LOG_CUT) {
        let floor = signed(revision.0.saturating_sub(LOG_LEN).max(1));
        run(
            conn,
            "DELETE FROM map_log WHERE network = ?1 AND revision <= ?2",
            params![network.0, floor],
        )?;
        run(
            conn,
            "UPDATE network SET log_floor = max(log_floor, ?2) WHERE id = ?1",
            params![network.0, floor],
        )?;
    }
    Ok(revision)
}

fn device_id(row: &Row<'_>) -> Result<DeviceId, StoreError> {
    number(row, "id").map(DeviceId)
}

/// Every active agent of a network.
pub(super) fn member_agents(
    conn: &Connection,
    network: NetworkId,
) -> Result<Vec<DeviceId>, StoreError> {
    let sql = "SELECT d.id FROM device d JOIN agent a ON a.device = d.id
        WHERE d.network = ?1 AND d.standing = 'active' ORDER BY d.id";
    all(conn, sql, [network.0], device_id)
}

/// The active agents of a network whose tags have this text.
pub(super) fn member_agents_with(
    conn: &Connection,
    network: NetworkId,
    tags: &str,
) -> Result<Vec<DeviceId>, StoreError> {
    let sql = "SELECT d.id FROM device d JOIN agent a ON a.device = d.id
        WHERE d.network = ?1 AND d.standing = 'active' AND d.tags = ?2";
    all(conn, sql, params![network.0, tags], device_id)
}

/// Whether a device is an active agent.
pub(super) fn is_member_agent(conn: &Connection, device: DeviceId) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM device d JOIN agent a ON a.device = d.id
        WHERE d.id = ?1 AND d.standing = 'active'";
    Ok(one(conn, sql, [device.0], |_| Ok(()))?.is_some())
}

fn members_with(
    conn: &Connection,
    network: NetworkId,
    tags: &str,
) -> Result<Vec<DeviceId>, StoreError> {
    let sql = "SELECT id FROM device WHERE network = ?1 AND standing = 'active' AND tags = ?2";
    all(conn, sql, params![network.0, tags], device_id)
}

/// The members of sets of tags, by their ids.
fn members_of(
    conn: &Connection,
    network: NetworkId,
    classes: Vec<Arc<Class>>,
) -> Result<BTreeMap<DeviceId, Arc<Class>>, StoreError> {
    let mut members = BTreeMap::new();
    for class in classes {
        let devices = members_with(conn, network, &class.text)?;
        members.extend(devices.into_iter().map(|device| (device, Arc::clone(&class))));
    }
    Ok(members)
}

/// Where one map is worked out: a state of the store, and whose map it is.
struct Ground<'a> {
    conn: &'a Connection,
    cache: &'a Cache,
    network: Network,
    device: &'a Device,
}

impl Ground<'_> {
    fn census<T>(&self, work: impl FnOnce(&mut Census) -> T) -> Result<T, StoreError> {
        census::with(self.conn, self.cache, self.network.id, self.network.revision, work)
    }

    fn policy(&self) -> Result<Arc<Compiled>, StoreError> {
        policies::current(self.conn, self.cache, self.network.id).map(|policy| policy.compiled)
    }

    fn map_since(&self, from: Revision) -> Result<MapDelta, StoreError> {
        let Self { conn, network, device, .. } = self;
        let to = network.revision;
        let log_floor =
            one(conn, "SELECT log_floor FROM network WHERE id = ?1", [network.id.0], |row| {
                number(row, "log_floor").map(Revision)
            })?;
        let (floor, own) =
            self.census(|census| (census.floor(), census.own(device.id, from, to)))?;
        let reaches = from.0 != 0
            && log_floor.is_some_and(|log_floor| from >= log_floor.max(floor))
            && from <= to;
        // Who was out for a while may have dropped everything meanwhile.
        let whole = !reaches || device.is_active() && own.was_out;
        let (from, ops) = if whole {
            (Revision(0), self.snapshot()?)
        } else {
            (from, self.delta(from, own.before)?)
        };
        Ok(MapDelta { epoch: epoch(conn)?, from, to, ops })
    }

    fn snapshot(&self) -> Result<Vec<MapOp>, StoreError> {
        let Self { conn, network, device, .. } = self;
        let Some(settings) = settings(network, device) else { return Ok(Vec::new()) };
        let policy = self.policy()?;
        let own = View::new(&policy, Some(&device.tags));
        let classes = self.census(|census| census.peers(&policy, &device.tags))?;
        let mut members = members_of(conn, network.id, classes)?;
        members.remove(&device.id);
        let nobody = View::new(&policy, None);
        let members = members.iter().map(|(id, class)| (*id, &class.tags));
        let changes = peer_changes(nobody, own, &BTreeMap::new(), members);
        let mut ops =
            vec![settings, own_keys(device), budget(device), MapOp::Lease(network.lease_s)];
        ops.extend(relays(conn, device)?);
        ops.push(MapOp::Rules(own.rules()));
        self.extend_with_peers(changes, &mut ops)?;
        Ok(ops)
    }

    /// `own_before`: what the device itself was, if it was touched.
    fn delta(
        &self,
        from: Revision,
        own_before: Option<Option<TagSet>>,
    ) -> Result<Vec<MapOp>, StoreError> {
        let Self { conn, cache, network, device } = self;
        let span = (from, network.revision);
        let now = self.policy()?;
        let (other_policy, other_network) = self.census(|census| {
            (census.has_other_policy(span.0, span.1), census.has_other_network(span.0, span.1))
        })?;
        let then = if other_policy {
            policies::at(conn, cache, network.id, from)?.compiled
        } else {
            Arc::clone(&now)
        };
        let own_touched = own_before.is_some();
        let own_now = device.is_active().then(|| device.tags.clone());
        let own_then = own_before.unwrap_or_else(|| own_now.clone());
        let views = [(&then, &own_then), (&now, &own_now)];
        let (mut touched, classes) = self.census(|census| {
            let (mut touched, mut classes) = (BTreeMap::new(), Vec::new());
            for (policy, own) in views {
                let Some(own) = own else { continue };
                census.touched(policy, own, span, &mut touched);
                // Whom nothing touched may be seen otherwise all the same.
                if other_policy || own_then != own_now {
                    classes.extend(census.peers(policy, own));
                }
            }
            (touched, classes)
        })?;
        touched.remove(&device.id);
        let mut members = BTreeMap::new();
        for (id, class) in members_of(conn, network.id, classes)? {
            members.insert(id, class.tags.clone());
        }
        for id in touched.keys() {
            if let Some(tags) = member_tags(conn, network.id, *id)? {
                members.insert(*id, tags);
            }
        }
        members.remove(&device.id);
        let view_then = View::new(&then, own_then.as_ref());
        let view_now = View::new(&now, own_now.as_ref());
        let members = members.iter().map(|(id, tags)| (*id, tags));
        let changes = peer_changes(view_then, view_now, &touched, members);
        let mut ops = Vec::new();
        if own_now.is_some() {
            if own_touched || other_network {
                ops.extend(settings(network, device));
            }
            if own_touched {
                ops.push(own_keys(device));
                ops.push(budget(device));
            }
            if other_network {
                ops.push(MapOp::Lease(network.lease_s));
            }
            // In which order they are tried and asked hangs on the device's region.
            let region = |own: &Option<TagSet>| own.as_ref().and_then(region).map(str::to_owned);
            if other_network || region(&own_then) != region(&own_now) {
                ops.extend(relays(conn, device)?);
            }
            let rules = view_now.rules();
            if rules != view_then.rules() {
                ops.push(MapOp::Rules(rules));
            }
        }
        self.extend_with_peers(changes, &mut ops)?;
        Ok(ops)
    }

    /// Puts removals first and the other peers last.
    fn extend_with_peers(
        &self,
        changes: Vec<(DeviceId, PeerChange)>,
        ops: &mut Vec<MapOp>,
    ) -> Result<(), StoreError> {
        let mut removes = Vec::new();
        for (device, change) in changes {
            match change {
                PeerChange::Remove => removes.push(MapOp::PeerRemove(device)),
                PeerChange::Upsert(masks) => {
                    let entry = entry(self.conn, &self.network, self.device, device, masks)?;
                    ops.push(MapOp::PeerUpsert(Box::new(entry)));
                }
            }
        }
        ops.splice(0..0, removes);
        Ok(())
    }
}

fn settings(network: &Network, device: &Device) -> Option<MapOp> {
    let host = device.host.filter(|_| device.is_active())?;
    Some(MapOp::Settings(MapSettings {
        overlay: network.overlay,
        host,
        name: device.name.clone(),
        mtu: network.mtu,
        next_pin: network.next_pin,
    }))
}

/// The STUN servers and relays that a device is told of, and relays' names.
fn relays(conn: &Connection, device: &Device) -> Result<[MapOp; 3], StoreError> {
    let relays = told_to(relays::load(conn)?, &device.tags);
    let servers = stun_told(networks::servers(conn)?, &relays);
    let wire = relays.iter().map(Relay::to_wire).collect();
    let names = relays.into_iter().map(|relay| (relay.number, relay.is.name)).collect();
    Ok([MapOp::Servers(servers), MapOp::Relays(wire), MapOp::RelayNames(names)])
}

fn own_keys(device: &Device) -> MapOp {
    MapOp::OwnKeys(OwnKeys {
        active: device.wg_key,
        second: device.rotation.second,
        asked: device.rotation.asked(),
    })
}

fn budget(device: &Device) -> MapOp {
    MapOp::DataBudget(device.agent().and_then(|agent| agent.data_budget))
}

fn epoch(conn: &Connection) -> Result<Epoch, StoreError> {
    one(conn, "SELECT epoch FROM installation", [], |row| number(row, "epoch").map(Epoch))?
        .ok_or_else(|| damaged("installation", "no row"))
}

/// What `viewer` is told of a member.
fn entry(
    conn: &Connection,
    network: &Network,
    viewer: &Device,
    device: DeviceId,
    masks: Masks,
) -> Result<PeerEntry, StoreError> {
    let viewer_has_psk = !matches!(viewer.kind, Kind::WireGuard { psk: false, .. });
    let read = |row: &Row<'_>| {
        let backend: Option<String> = get(row, "backend")?;
        let backend = backend
            .map(|word| backend_from_word(&word).ok_or_else(|| damaged("backend", word)))
            .transpose()?;
        let endpoint: Option<String> = get(row, "endpoint")?;
        let endpoint = endpoint
            .map(|text| text.parse::<SocketAddr>().map_err(|_| damaged("endpoint", text)))
            .transpose()?;
        let has_psk = get::<Option<bool>>(row, "psk")?.unwrap_or(true);
        Ok(PeerEntry {
            device,
            name: get(row, "name")?,
            key: PublicKey(bytes(row, "wg_key")?),
            second: rotation::second(row)?,
            psk: (has_psk && viewer_has_psk).then_some(network.psk_generation),
            host: number(row, "host")?,
            mtu: number_or_none(row, "mtu")?.unwrap_or(network.mtu),
            on_demand: backend == Some(Backend::Chip),
            wireguard_only: backend.is_none(),
            masks,
            keep_warm: get(row, "keep_warm")?,
            endpoint,
        })
    };
    one(
        conn,
        "SELECT d.name, d.wg_key, d.second_key, d.second_kind, d.second_since, d.second_until,
            address.host, a.mtu, a.backend, w.endpoint, w.psk,
            EXISTS (SELECT 1 FROM warm_pair p
                WHERE p.low = min(?1, ?2) AND p.high = max(?1, ?2)) AS keep_warm
         FROM device d
         JOIN address ON address.device = d.id
         LEFT JOIN agent a ON a.device = d.id
         LEFT JOIN wireguard w ON w.device = d.id
         WHERE d.id = ?1",
        [device.0, viewer.id.0],
        read,
    )?
    .ok_or_else(|| damaged("address", format_args!("nothing for the member {device}")))
}

/// The masks of an edge between two members of one network.
fn edge(
    conn: &Connection,
    cache: &Cache,
    viewer: &Device,
    subject: &Device,
) -> Result<Option<Masks>, StoreError> {
    let members = viewer.is_active() && subject.is_active();
    if !members || viewer.network != subject.network || viewer.id == subject.id {
        return Ok(None);
    }
    let policy = policies::current(conn, cache, viewer.network)?.compiled;
    let masks = policy.masks(&policy.profile(&viewer.tags), &policy.profile(&subject.tags));
    Ok(masks.is_edge().then_some(masks))
}

fn holder(conn: &Connection, cache: &Cache, device: Device) -> Result<Holder, StoreError> {
    if !device.is_active() {
        return Ok(Holder { device, newest: None });
    }
    let network = revision(conn, device.network)?;
    let policy = policies::current(conn, cache, device.network)?.compiled;
    let text = device.tags.to_string();
    let own = census::with(conn, cache, device.network, network, |census| {
        census.newest(&policy, device.id, (&text, &device.tags))
    })?;
    Ok(Holder { device, newest: Some(Newest { own, network }) })
}

/// Members that a rule of `policy` joins to devices with one of these sets of
/// tags, counted by their tags.
fn joined(
    conn: &Connection,
    cache: &Cache,
    network: NetworkId,
    policy: &Arc<Compiled>,
    own: &BTreeSet<TagSet>,
) -> Result<Vec<(TagSet, u32)>, StoreError> {
    let to = revision(conn, network)?;
    let classes = census::with(conn, cache, network, to, |census| census.joined(policy, own))?;
    let sql = "SELECT count(*) AS members FROM device
        WHERE network = ?1 AND standing = 'active' AND tags = ?2";
    let mut members = Vec::with_capacity(classes.len());
    for class in classes {
        let count = one(conn, sql, params![network.0, class.text], |row| number(row, "members"))?;
        // A set of tags outlives its last member.
        members.extend(count.filter(|count| *count > 0).map(|count| (class.tags.clone(), count)));
    }
    Ok(members)
}

impl Maps for SqliteStore {
    fn holder(&self, device: DeviceId) -> Answer<'_, Option<Holder>> {
        self.read(move |conn, cache| {
            let device = devices::find(conn, device)?;
            device.map(|device| holder(conn, cache, device)).transpose()
        })
    }

    fn holder_by_identity(&self, identity: PublicKey) -> Answer<'_, Option<Holder>> {
        self.read(move |conn, cache| {
            let device = devices::by_identity(conn, &identity)?;
            device.map(|device| holder(conn, cache, device)).transpose()
        })
    }

    fn map_since(&self, device: DeviceId, from: Revision) -> Answer<'_, Option<MapDelta>> {
        self.read(move |conn, cache| {
            let Some(device) = devices::find(conn, device)? else { return Ok(None) };
            let network = networks::load(conn, device.network)?;
            Ground { conn, cache, network, device: &device }.map_since(from).map(Some)
        })
    }

    fn peer_entry(&self, viewer: DeviceId, subject: DeviceId) -> Answer<'_, Option<PeerEntry>> {
        self.read(move |conn, cache| {
            let (Some(viewer), Some(subject)) =
                (devices::find(conn, viewer)?, devices::find(conn, subject)?)
            else {
                return Ok(None);
            };
            let Some(masks) = edge(conn, cache, &viewer, &subject)? else { return Ok(None) };
            let network = networks::load(conn, viewer.network)?;
            entry(conn, &network, &viewer, subject.id, masks).map(Some)
        })
    }

    fn members_by_tags(&self, network: NetworkId) -> Answer<'_, Vec<(TagSet, u32)>> {
        self.read(move |conn, _| {
            let sql = "SELECT tags, count(*) AS members FROM device
                WHERE network = ?1 AND standing = 'active' GROUP BY tags";
            all(conn, sql, [network.0], |row| {
                let text: String = get(row, "tags")?;
                Ok((tags(&text)?, number(row, "members")?))
            })
        })
    }

    fn members_joined(
        &self,
        network: NetworkId,
        policy: Arc<Compiled>,
        own: BTreeSet<TagSet>,
    ) -> Answer<'_, Vec<(TagSet, u32)>> {
        self.read(move |conn, cache| joined(conn, cache, network, &policy, &own))
    }

    fn edge(&self, a: DeviceId, b: DeviceId) -> Answer<'_, bool> {
        self.read(move |conn, cache| {
            let (Some(a), Some(b)) = (devices::find(conn, a)?, devices::find(conn, b)?) else {
                return Ok(false);
            };
            Ok(edge(conn, cache, &a, &b)?.is_some())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::domain::network::NewNetwork;
    use crate::domain::policy::{Policy, count::PROFILES, parse_traffic};
    use crate::domain::time::UnixMs;
    use crate::store::sqlite::writer::{Touch, affected};
    use crate::store::sqlite::{NewInstallation, migrate};

    const NETWORK: NetworkId = NetworkId(1);
    /// Devices of a site; the first of each is its gateway.
    const SITE: u32 = 10;

    /// A network of so many sites, in memory. Each device came at a revision of
    /// its own.
    fn sites(count: u32) -> Connection {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate::migrate(&mut conn, UnixMs(1)).unwrap();
        let overlay = crate::domain::network::random_overlay([1; 6]);
        let network = NewNetwork { name: "home".to_owned(), overlay, mtu: 1_280, lease_s: 3_600 };
        let coordinator = PublicKey([9; 32]);
        let new = NewInstallation { epoch: Epoch(7), coordinator, network };
        networks::install(&conn, &new, UnixMs(1)).unwrap();
        let rules = (0..count).map(|site| crate::domain::policy::Rule {
            name: String::new(),
            from: vec![format!("site={site}").parse().unwrap()],
            to: vec![format!("role=gateway site={site}").parse().unwrap()],
            allow: parse_traffic("any").unwrap(),
        });
        conn.execute_batch("DELETE FROM policy_rule; DELETE FROM policy").unwrap();
        let policy = Policy { rules: rules.collect() };
        policies::insert(&conn, NETWORK, &policy, Revision(1), UnixMs(1)).unwrap();
        let devices = count * SITE;
        conn.execute_batch(&format!(
            "CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS
                (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {devices}) SELECT i FROM n;
             INSERT INTO device (id, organisation, network, name, wg_key, standing,
                standing_since, tags, created)
             SELECT i, 1, 1, 'd' || i, CAST(printf('%032d', i) AS BLOB), 'active', 1,
                iif(i % {SITE} = 1, 'role=gateway ', '') || 'site=' || ((i - 1) / {SITE}), 1 FROM n;
             INSERT INTO agent (device, identity, print, fingerprint, inbox, families, carriers,
                mtu, backend, peer_slots, peer_routes, rules, agent, platform, endpoints, key,
                key_name, master)
             SELECT i, CAST(printf('%032d', i) AS BLOB), zeroblob(10), zeroblob(32),
                CAST(printf('%016d', i) AS BLOB), 3, 1, 1280, 'user', 8, 4, 32, '', '', '', 1, '', 1
             FROM n;
             INSERT INTO address (network, host, device) SELECT 1, i + 1, i FROM n;
             INSERT INTO map_log (network, revision, kind, subject) SELECT 1, i + 1, 'device', i
             FROM n;
             UPDATE network SET revision = {devices} + 1;
             DROP TABLE n;"
        ))
        .unwrap();
        conn
    }

    /// Steps of SQLite's machine and profiles that `work` costs.
    fn cost<T>(conn: &mut Connection, work: impl FnOnce(&Connection) -> T) -> ((u64, u64), T) {
        let steps = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&steps);
        let count = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            false
        };
        conn.progress_handler(1, Some(count)).unwrap();
        let before = PROFILES.get();
        let value = work(conn);
        conn.progress_handler(0, None::<fn() -> bool>).unwrap();
        ((steps.load(Ordering::Relaxed), PROFILES.get() - before), value)
    }

    #[test]
    fn a_map_costs_its_edges_and_not_the_network() {
        let costs = [20, 200].map(|count| {
            let mut conn = sites(count);
            let cache = Cache::default();
            let (device, gateway) = (DeviceId(SITE + 2), DeviceId(SITE + 1));
            let whole = |conn: &Connection, id, from| {
                let device = devices::find(conn, id).unwrap().unwrap();
                let network = networks::load(conn, device.network).unwrap();
                let ground = Ground { conn, cache: &cache, network, device: &device };
                ground.map_since(from).unwrap()
            };
            // The first one counts everybody, and compiles the policy.
            whole(&conn, DeviceId(1), Revision(0));
            let newest = revision(&conn, NETWORK).unwrap();
            let policy = policies::current(&conn, &cache, NETWORK).unwrap().compiled;
            let mut peers = Vec::new();
            let mut costs = Vec::new();
            // Behind the others of its site, and behind everybody.
            let behind = Revision(u64::from(SITE + 5));
            for (id, from) in
                [(device, Revision(0)), (gateway, Revision(0)), (gateway, behind), (device, behind)]
            {
                let (spent, delta) = cost(&mut conn, |conn| whole(conn, id, from));
                let upserts = delta.ops.iter().filter(|op| matches!(op, MapOp::PeerUpsert(_)));
                peers.push(upserts.count());
                costs.push(spent);
            }
            let tags = Some("site=1".parse().unwrap());
            let touch =
                Touch::Device { network: NETWORK, device, before: tags.clone(), after: tags };
            let (spent, told) = cost(&mut conn, |conn| {
                affected(conn, &cache, (NETWORK, newest), &policy, &[touch]).unwrap()
            });
            costs.push(spent);
            let (spent, held) = cost(&mut conn, |conn| {
                let device = devices::find(conn, gateway).unwrap().unwrap();
                holder(conn, &cache, device).unwrap()
            });
            costs.push(spent);
            let own = BTreeSet::from(["site=1".parse().unwrap()]);
            let (spent, seen) =
                cost(&mut conn, |conn| joined(conn, &cache, NETWORK, &policy, &own).unwrap());
            costs.push(spent);
            assert_eq!(seen, [("role=gateway site=1".parse().unwrap(), 1)]);
            let own = Revision(u64::from(2 * SITE + 1));
            assert_eq!(held.newest, Some(Newest { own, network: newest }));
            assert_eq!(told, [gateway, device]);
            assert_eq!(peers, [1, 9, 6, 0]);
            costs
        });
        assert_eq!(costs[0], costs[1], "ten times the network, the same edges");
        assert!(costs[0].iter().all(|(steps, profiles)| *steps < 5_000 && *profiles < 10));
    }
}
