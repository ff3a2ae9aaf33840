//! The map log, and what a device is told out of it.

use core::net::SocketAddr;
use std::collections::BTreeMap;

use rusqlite::{Connection, Row, params};
use weft_wire::id::{DeviceId, Epoch, NetworkId, PublicKey, Revision};

use crate::domain::device::{Backend, Device, Kind};
use crate::domain::netmap::{
    MapDelta, MapOp, MapSettings, PeerChange, PeerEntry, View, peer_changes,
};
use crate::domain::network::Network;
use crate::domain::policy::Masks;
use crate::domain::tags::TagSet;
use crate::store::{Answer, Maps, StoreError, What};

use super::policies::{self, PolicyCache};
use super::row::{
    all, backend_from_word, bytes, damaged, get, number, number_or_none, one, run, signed, tags,
};
use super::writer::Unit;
use super::{SqliteStore, devices, networks};

/// Revisions that the log reaches back at least; an older device gets a
/// snapshot.
const LOG_LEN: u64 = 16_384;
/// The log is cut at multiples of this.
const LOG_CUT: u64 = 1_024;

/// Newest revision of a network's map.
pub(super) fn revision(conn: &Connection, network: NetworkId) -> Result<Revision, StoreError> {
    one(conn, "SELECT revision FROM network WHERE id = ?1", [network.0], |row| {
        number(row, "revision").map(Revision)
    })?
    .ok_or(StoreError::NotFound(What::Network))
}

/// Logs that a device changed; `before` = its tags if it was a member.
pub(super) fn log_device(
    unit: &Unit<'_>,
    network: NetworkId,
    device: DeviceId,
    before: Option<&TagSet>,
) -> Result<Revision, StoreError> {
    log(unit.conn, network, "device", device.0, before)
}

/// Logs that the policy changed.
pub(super) fn log_policy(unit: &Unit<'_>, network: NetworkId) -> Result<Revision, StoreError> {
    log(unit.conn, network, "policy", 0, None)
}

/// Logs that something changed that every device is told.
pub(super) fn log_network(unit: &Unit<'_>, network: NetworkId) -> Result<Revision, StoreError> {
    log(unit.conn, network, "network", 0, None)
}

fn log(
    conn: &Connection,
    network: NetworkId,
    kind: &str,
    subject: u32,
    before: Option<&TagSet>,
) -> Result<Revision, StoreError> {
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

/// Calls `each` with every active agent of a network and the text of its tags.
pub(super) fn each_member_agent(
    conn: &Connection,
    network: NetworkId,
    mut each: impl FnMut(DeviceId, &str) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT d.id, d.tags FROM device d JOIN agent a ON a.device = d.id
         WHERE d.network = ?1 AND d.standing = 'active'",
    )?;
    let mut rows = statement.query([network.0])?;
    while let Some(row) = rows.next()? {
        let tags = row.get_ref("tags")?;
        let tags = tags.as_str().map_err(|error| damaged("tags", error))?;
        each(DeviceId(number(row, "id")?), tags)?;
    }
    Ok(())
}

/// What changed in a network's map after a revision.
#[derive(Default)]
struct Since {
    /// Devices, with their tags at that revision if they were members.
    touched: BTreeMap<DeviceId, Option<TagSet>>,
    /// Devices that were no members at some time since.
    outside: Vec<DeviceId>,
    /// Whether what every device is told changed.
    network: bool,
    /// Whether the policy changed.
    policy: bool,
}

fn since(conn: &Connection, network: NetworkId, from: Revision) -> Result<Since, StoreError> {
    let mut since = Since::default();
    let rows = all(
        conn,
        "SELECT kind, subject, before FROM map_log WHERE network = ?1 AND revision > ?2
         ORDER BY revision",
        params![network.0, signed(from.0)],
        |row| {
            let before: Option<String> = get(row, "before")?;
            let kind: String = get(row, "kind")?;
            Ok((kind, DeviceId(number(row, "subject")?), before))
        },
    )?;
    for (kind, subject, before) in rows {
        match kind.as_str() {
            "device" => {
                let before = before.as_deref().map(tags).transpose()?;
                if before.is_none() {
                    since.outside.push(subject);
                }
                since.touched.entry(subject).or_insert(before);
            }
            "policy" => since.policy = true,
            _ => since.network = true,
        }
    }
    Ok(since)
}

fn member_tags(
    conn: &Connection,
    network: NetworkId,
    device: DeviceId,
) -> Result<Option<TagSet>, StoreError> {
    let sql = "SELECT tags FROM device WHERE id = ?1 AND network = ?2 AND standing = 'active'";
    let text = one(conn, sql, params![device.0, network.0], |row| get::<String>(row, "tags"))?;
    text.as_deref().map(tags).transpose()
}

fn all_members(
    conn: &Connection,
    network: NetworkId,
) -> Result<Vec<(DeviceId, TagSet)>, StoreError> {
    let sql = "SELECT id, tags FROM device WHERE network = ?1 AND standing = 'active' ORDER BY id";
    all(conn, sql, [network.0], |row| {
        let text: String = get(row, "tags")?;
        Ok((DeviceId(number(row, "id")?), tags(&text)?))
    })
}

fn map_since(
    conn: &Connection,
    cache: &PolicyCache,
    device: &Device,
    from: Revision,
) -> Result<MapDelta, StoreError> {
    let network = networks::load(conn, device.network)?;
    let log_floor =
        one(conn, "SELECT log_floor FROM network WHERE id = ?1", [network.id.0], |row| {
            number(row, "log_floor").map(Revision)
        })?;
    let epoch = epoch(conn)?;
    let reaches =
        from.0 != 0 && log_floor.is_some_and(|floor| from >= floor) && from <= network.revision;
    let changed = if reaches { since(conn, network.id, from)? } else { Since::default() };
    let own = device.is_active().then_some(&device.tags);
    // Who was out for a while may have dropped everything meanwhile.
    if !reaches || own.is_some() && changed.outside.contains(&device.id) {
        let ops = snapshot(conn, cache, &network, device)?;
        return Ok(MapDelta { epoch, from: Revision(0), to: network.revision, ops });
    }
    let ops = delta(conn, cache, &network, device, from, changed)?;
    Ok(MapDelta { epoch, from, to: network.revision, ops })
}

fn snapshot(
    conn: &Connection,
    cache: &PolicyCache,
    network: &Network,
    device: &Device,
) -> Result<Vec<MapOp>, StoreError> {
    let Some(settings) = settings(network, device) else { return Ok(Vec::new()) };
    let policy = policies::current(conn, cache, network.id)?.compiled;
    let own = View::new(&policy, Some(&device.tags));
    let members = all_members(conn, network.id)?;
    let members = members.iter().filter(|(id, _)| *id != device.id);
    let changes = peer_changes(
        View::new(&policy, None),
        own,
        &BTreeMap::new(),
        members.map(|(id, tags)| (*id, tags)),
    );
    let mut ops = vec![
        settings,
        MapOp::Lease(network.lease_s),
        MapOp::Servers(networks::servers(conn)?),
        MapOp::Rules(own.rules()),
    ];
    extend_with_peers(conn, network, device, changes, &mut ops)?;
    Ok(ops)
}

fn delta(
    conn: &Connection,
    cache: &PolicyCache,
    network: &Network,
    device: &Device,
    from: Revision,
    mut changed: Since,
) -> Result<Vec<MapOp>, StoreError> {
    let now = policies::current(conn, cache, network.id)?.compiled;
    let then = if changed.policy {
        policies::at(conn, cache, network.id, from)?.compiled
    } else {
        now.clone()
    };
    let own_touched = changed.touched.remove(&device.id);
    let own_now = device.is_active().then(|| device.tags.clone());
    let own_then = own_touched.clone().unwrap_or_else(|| own_now.clone());
    let view_then = View::new(&then, own_then.as_ref());
    let view_now = View::new(&now, own_now.as_ref());
    let members = if changed.policy || own_then != own_now {
        all_members(conn, network.id)?
    } else {
        let mut members = Vec::with_capacity(changed.touched.len());
        for id in changed.touched.keys() {
            members.extend(member_tags(conn, network.id, *id)?.map(|tags| (*id, tags)));
        }
        members
    };
    let members = members.iter().filter(|(id, _)| *id != device.id);
    let changes =
        peer_changes(view_then, view_now, &changed.touched, members.map(|(id, tags)| (*id, tags)));
    let mut ops = Vec::new();
    if own_now.is_some() {
        if own_touched.is_some() || changed.network {
            ops.extend(settings(network, device));
        }
        if changed.network {
            ops.push(MapOp::Lease(network.lease_s));
            ops.push(MapOp::Servers(networks::servers(conn)?));
        }
        let rules = view_now.rules();
        if rules != view_then.rules() {
            ops.push(MapOp::Rules(rules));
        }
    }
    extend_with_peers(conn, network, device, changes, &mut ops)?;
    Ok(ops)
}

/// Puts removals first and the other peers last.
fn extend_with_peers(
    conn: &Connection,
    network: &Network,
    viewer: &Device,
    changes: Vec<(DeviceId, PeerChange)>,
    ops: &mut Vec<MapOp>,
) -> Result<(), StoreError> {
    let mut removes = Vec::new();
    for (device, change) in changes {
        match change {
            PeerChange::Remove => removes.push(MapOp::PeerRemove(device)),
            PeerChange::Upsert(masks) => {
                let entry = entry(conn, network, viewer, device, masks)?;
                ops.push(MapOp::PeerUpsert(Box::new(entry)));
            }
        }
    }
    ops.splice(0..0, removes);
    Ok(())
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
            psk: (has_psk && viewer_has_psk).then_some(network.psk_generation),
            host: number(row, "host")?,
            mtu: number_or_none(row, "mtu")?.unwrap_or(network.mtu),
            on_demand: backend == Some(Backend::Chip),
            wireguard_only: backend.is_none(),
            masks,
            endpoint,
        })
    };
    one(
        conn,
        "SELECT d.name, d.wg_key, address.host, a.mtu, a.backend, w.endpoint, w.psk
         FROM device d
         JOIN address ON address.device = d.id
         LEFT JOIN agent a ON a.device = d.id
         LEFT JOIN wireguard w ON w.device = d.id
         WHERE d.id = ?1",
        [device.0],
        read,
    )?
    .ok_or_else(|| damaged("address", format_args!("nothing for the member {device}")))
}

/// The masks of an edge between two members of one network.
fn edge(
    conn: &Connection,
    cache: &PolicyCache,
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

impl Maps for SqliteStore {
    fn map_since(&self, device: DeviceId, from: Revision) -> Answer<'_, Option<MapDelta>> {
        self.read(move |conn, cache| {
            let device = devices::find(conn, device)?;
            device.map(|device| map_since(conn, cache, &device, from)).transpose()
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

    fn edge(&self, a: DeviceId, b: DeviceId) -> Answer<'_, bool> {
        self.read(move |conn, cache| {
            let (Some(a), Some(b)) = (devices::find(conn, a)?, devices::find(conn, b)?) else {
                return Ok(false);
            };
            Ok(edge(conn, cache, &a, &b)?.is_some())
        })
    }
}
