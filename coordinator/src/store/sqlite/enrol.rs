//! Taking devices in, each in one transaction.

use rusqlite::params;
use weft_noise::mac;
use weft_wire::id::{DeviceId, KeyId, NetworkId, PublicKey};

use crate::domain::audit::{Action, Actor};
use crate::domain::device::{
    Abilities, Device, NewWireGuard, Standing, numbered_name, standing_word,
};
use crate::domain::enrolment::{Enrolled, Enrolment, Refused};
use crate::domain::key::EnrolmentKey;
use crate::domain::network::Network;
use crate::domain::tags::TagSet;
use crate::domain::time::UnixMs;
use crate::store::{By, StoreError, What};

use super::row::{backend_word, damaged, key_number, one, run, signed, time, to_words};
use super::writer::{Touch, Unit};
use super::{audit, devices, keys, maps, networks, policies, rotation};

/// Names tried one by one before the number in them is searched for.
const NAME_TRIES: u32 = 8;

/// Why a device was not taken in.
pub(super) enum NotEnrolled {
    /// It is told this.
    Refused(Refused),
    /// The store could not.
    Store(StoreError),
}

impl From<Refused> for NotEnrolled {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<StoreError> for NotEnrolled {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What the device is told apart from what the store says.
pub(super) fn told<T>(result: Result<T, NotEnrolled>) -> Result<Result<T, Refused>, StoreError> {
    match result {
        Ok(done) => Ok(Ok(done)),
        Err(NotEnrolled::Refused(refused)) => Ok(Err(refused)),
        Err(NotEnrolled::Store(error)) => Err(error),
    }
}

/// Takes a device in. Every check is made here, inside the transaction that
/// counts the use: two devices never share the last use of a key.
pub(super) fn enrol(
    unit: &mut Unit<'_>,
    enrolment: &Enrolment,
    now: UnixMs,
) -> Result<Enrolled, NotEnrolled> {
    enrolment.check()?;
    let key = keys::find(unit.conn, enrolment.key)?.ok_or(Refused::KeyUnknown)?;
    let network = networks::load(unit.conn, key.network)?;
    if let Some(device) = devices::by_identity(unit.conn, &enrolment.identity)? {
        return again(unit, enrolment, device, key, network, now);
    }
    if let Some(at) = tombstone(unit, &enrolment.identity)? {
        return Err(Refused::Tombstoned { at }.into());
    }
    key.admits(now)?;
    if devices::key_is_anothers(unit.conn, &enrolment.wg_key, None)? {
        return Err(Refused::KeyInUse.into());
    }
    let standing = if key.needs_approval { Standing::Pending } else { Standing::Active };
    if standing == Standing::Active {
        check_rules(unit, network.id, &key.tags, &enrolment.abilities)?;
    }
    let name = free_name(unit, &network, &enrolment.name)?;
    let newcomer =
        Newcomer { enrolment, name: &name, standing, tags: &key.tags, key: (key.id, &key.name) };
    let id = insert(unit, &network, &newcomer, now)?;
    if standing == Standing::Active {
        let given = devices::give_address(unit.conn, &network, id, enrolment.host_hint, now);
        given.map_err(|error| full(error, &network))?;
        maps::log_device(unit, network.id, id, None)?;
        let after = Some(key.tags.clone());
        unit.touch(Touch::Device { network: network.id, device: id, before: None, after });
    }
    let sql = "UPDATE enrolment_key SET uses = uses + 1 WHERE id = ?1";
    run(unit.conn, sql, [key_number(key.id)])?;
    let from = enrolment.from.clone().unwrap_or_else(|| "unknown".to_owned());
    let detail = vec![
        ("name", name),
        ("key", key.id.to_string()),
        ("standing", standing_word(standing).to_owned()),
        ("identity", mac::fingerprint(&enrolment.identity).to_string()),
        ("from", from),
    ];
    let action = Action { action: "device.enrol", subject: id.to_string(), detail };
    let by = By { actor: Actor::device(id), at: now };
    audit::append(unit.conn, network.organisation, &action, &by)?;
    answer(unit, id, network, key, true)
}

/// The same device again: the same answer, no use counted. A new WireGuard key
/// and what its machine can do now are taken over, since its identity was proved;
/// with an enrolment key that ended the one is refused and the other left.
fn again(
    unit: &mut Unit<'_>,
    enrolment: &Enrolment,
    device: Device,
    key: EnrolmentKey,
    network: Network,
    now: UnixMs,
) -> Result<Enrolled, NotEnrolled> {
    match device.standing {
        Standing::Rejected => {
            return Err(Refused::Rejected { reason: device.standing_reason }.into());
        }
        Standing::Blocked => {
            let (at, reason) = (device.standing_since, device.standing_reason);
            return Err(Refused::Blocked { at, reason }.into());
        }
        Standing::Active | Standing::Pending | Standing::Quarantined => {}
    }
    // The one that is kept has a place of its own and does not ask again.
    if device.agent().is_some_and(|agent| agent.has_copies) {
        return Err(Refused::Cloned.into());
    }
    if device.network != network.id {
        // It is a member elsewhere: the key it came with is not its own.
        key.admits(now)?;
        return Err(Refused::KeyInUse.into());
    }
    let admitted = match key.admits(now) {
        // Its own use is one of them.
        Err(Refused::KeyUsedUp { .. }) if device.agent().is_some_and(|a| a.key.0 == key.id) => {
            Ok(())
        }
        admitted => admitted,
    };
    if device.wg_key != enrolment.wg_key {
        admitted?;
        renew(unit, &device, enrolment, now)?;
    } else if enrolment.differs(&device) && admitted.is_ok() {
        renew(unit, &device, enrolment, now)?;
    }
    answer(unit, device.id, network, key, false)
}

fn renew(
    unit: &mut Unit<'_>,
    device: &Device,
    enrolment: &Enrolment,
    now: UnixMs,
) -> Result<(), NotEnrolled> {
    if device.is_active() {
        check_rules(unit, device.network, &device.tags, &enrolment.abilities)?;
    }
    let rekeyed = device.wg_key != enrolment.wg_key;
    if rekeyed && devices::key_is_anothers(unit.conn, &enrolment.wg_key, Some(device.id))? {
        return Err(Refused::KeyInUse.into());
    }
    let sql = "UPDATE device SET wg_key = ?2, version = version + 1 WHERE id = ?1";
    run(unit.conn, sql, params![device.id.0, enrolment.wg_key.0])?;
    if rekeyed {
        rotation::begin_anew(unit, device.id, now)?;
    }
    set_abilities(unit, device.id, &enrolment.abilities)?;
    if device.is_active() {
        let tags = Some(device.tags.clone());
        maps::log_device(unit, device.network, device.id, tags.as_ref())?;
        let (network, device, before, after) = (device.network, device.id, tags.clone(), tags);
        unit.touch(Touch::Device { network, device, before, after });
    }
    let detail = vec![("name", device.name.clone()), ("agent", enrolment.abilities.agent.clone())];
    let action = if rekeyed { "device.rekey" } else { "device.renew" };
    let action = Action { action, subject: device.id.to_string(), detail };
    let by = By { actor: Actor::device(device.id), at: now };
    audit::append(unit.conn, device.organisation, &action, &by)?;
    Ok(())
}

/// A member holds the rules that it is given.
fn check_rules(
    unit: &Unit<'_>,
    network: NetworkId,
    tags: &TagSet,
    abilities: &Abilities,
) -> Result<(), NotEnrolled> {
    let needs = policies::needs(&*unit.policy(network)?, tags);
    let holds = u32::from(abilities.rules);
    if needs > holds { Err(Refused::TooManyRules { holds, needs }.into()) } else { Ok(()) }
}

fn set_abilities(
    unit: &Unit<'_>,
    device: DeviceId,
    abilities: &Abilities,
) -> Result<(), StoreError> {
    run(
        unit.conn,
        "UPDATE agent SET families = ?2, carriers = ?3, mtu = ?4, backend = ?5, peer_slots = ?6,
            peer_routes = ?7, rules = ?8, agent = ?9, platform = ?10, endpoints = ?11
         WHERE device = ?1",
        params![
            device.0,
            abilities.families,
            abilities.carriers,
            abilities.mtu,
            backend_word(abilities.backend),
            abilities.peer_slots,
            abilities.peer_routes,
            abilities.rules,
            abilities.agent,
            abilities.platform,
            to_words(&abilities.endpoints),
        ],
    )?;
    Ok(())
}

/// A device names the key that let it in; one that was taken back after a backup
/// was restored has none, and names the one that it came with this time.
fn answer(
    unit: &Unit<'_>,
    id: DeviceId,
    network: Network,
    key: EnrolmentKey,
    new: bool,
) -> Result<Enrolled, NotEnrolled> {
    let device = devices::load(unit.conn, id)?;
    let (own, _) = device.agent().ok_or_else(|| damaged("agent", id))?.key.clone();
    let key = keys::find(unit.conn, own)?.unwrap_or(key);
    Ok(Enrolled { device, network, key, new })
}

fn full(error: StoreError, network: &Network) -> NotEnrolled {
    match error {
        StoreError::NetworkFull(used, capacity) => {
            Refused::NetworkFull { network: network.name.clone(), used, capacity }.into()
        }
        other => other.into(),
    }
}

pub(super) fn tombstone(
    unit: &Unit<'_>,
    identity: &PublicKey,
) -> Result<Option<UnixMs>, StoreError> {
    one(unit.conn, "SELECT at FROM tombstone WHERE identity = ?1", [identity.0], |row| {
        time(row, "at")
    })
}

/// The wanted name, or the first free one after it of those with a number. Few
/// are tried one by one; where more are taken, a free one is found by doubling
/// and the first of them by halving, so that ten thousand devices of one name
/// cost two dozen look-ups and not ten thousand.
pub(super) fn free_name(
    unit: &Unit<'_>,
    network: &Network,
    wanted: &str,
) -> Result<String, StoreError> {
    let taken = |n| devices::name_is_taken(unit.conn, network.id, &numbered_name(wanted, n));
    for n in 1..=NAME_TRIES {
        if !taken(n)? {
            return Ok(numbered_name(wanted, n));
        }
    }
    let (mut low, mut high) = (NAME_TRIES, NAME_TRIES * 2);
    while taken(high)? {
        let all_taken = || StoreError::NameTaken { what: What::Device, name: wanted.to_owned() };
        low = high;
        high = high.checked_mul(2).ok_or_else(all_taken)?;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if taken(middle)? { low = middle } else { high = middle }
    }
    Ok(numbered_name(wanted, high))
}

fn insert_device(
    unit: &Unit<'_>,
    network: &Network,
    name: &str,
    wg_key: &PublicKey,
    tags: &str,
    standing: Standing,
    now: UnixMs,
) -> Result<DeviceId, StoreError> {
    run(
        unit.conn,
        "INSERT INTO device (organisation, network, name, wg_key, standing, standing_since, tags,
            created, key_since)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?6, ?6)",
        params![
            network.organisation.0,
            network.id.0,
            name,
            wg_key.0,
            standing_word(standing),
            signed(now.0),
            tags,
        ],
    )?;
    let id = unit.conn.last_insert_rowid();
    u32::try_from(id).map(DeviceId).map_err(|_| damaged("device", id))
}

/// A device with an agent that gets a row.
pub(super) struct Newcomer<'a> {
    pub(super) enrolment: &'a Enrolment,
    /// A free one.
    pub(super) name: &'a str,
    pub(super) standing: Standing,
    pub(super) tags: &'a TagSet,
    /// The key that let it in, and its name.
    pub(super) key: (KeyId, &'a str),
}

pub(super) fn insert(
    unit: &Unit<'_>,
    network: &Network,
    newcomer: &Newcomer<'_>,
    now: UnixMs,
) -> Result<DeviceId, StoreError> {
    let Newcomer { enrolment, name, standing, tags, key } = newcomer;
    let tags = tags.to_string();
    let id = insert_device(unit, network, name, &enrolment.wg_key, &tags, *standing, now)?;
    let abilities = &enrolment.abilities;
    run(
        unit.conn,
        "INSERT INTO agent (device, identity, print, fingerprint, inbox, families, carriers, mtu,
            backend, peer_slots, peer_routes, rules, agent, platform, endpoints, key, key_name,
            master, enrolled_from)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
            ?19)",
        params![
            id.0,
            enrolment.identity.0,
            mac::fingerprint(&enrolment.identity).0,
            enrolment.fingerprint,
            enrolment.inbox.0,
            abilities.families,
            abilities.carriers,
            abilities.mtu,
            backend_word(abilities.backend),
            abilities.peer_slots,
            abilities.peer_routes,
            abilities.rules,
            abilities.agent,
            abilities.platform,
            to_words(&abilities.endpoints),
            key_number(key.0),
            key.1,
            enrolment.master,
            enrolment.from,
        ],
    )?;
    Ok(id)
}

/// Adds a peer without an agent.
pub(super) fn add_wireguard(
    unit: &mut Unit<'_>,
    new: &NewWireGuard,
    by: &By,
) -> Result<Device, StoreError> {
    let network = networks::load(unit.conn, new.network)?;
    if devices::name_is_taken(unit.conn, network.id, &new.name)? {
        return Err(StoreError::NameTaken { what: What::Device, name: new.name.clone() });
    }
    if devices::key_is_anothers(unit.conn, &new.wg_key, None)? {
        return Err(StoreError::KeyInUse);
    }
    let tags = new.tags.to_string();
    let active = Standing::Active;
    let id = insert_device(unit, &network, &new.name, &new.wg_key, &tags, active, by.at)?;
    let endpoint = new.endpoint.map(|endpoint| endpoint.to_string());
    run(
        unit.conn,
        "INSERT INTO wireguard (device, endpoint, psk) VALUES (?1, ?2, ?3)",
        params![id.0, endpoint, new.psk],
    )?;
    devices::give_address(unit.conn, &network, id, 0, by.at)?;
    maps::log_device(unit, network.id, id, None)?;
    let after = Some(new.tags.clone());
    unit.touch(Touch::Device { network: network.id, device: id, before: None, after });
    let detail = vec![
        ("name", new.name.clone()),
        ("psk", new.psk.to_string()),
        ("endpoint", endpoint.unwrap_or_else(|| "none".to_owned())),
    ];
    let action = Action { action: "device.add-wireguard", subject: id.to_string(), detail };
    audit::append(unit.conn, network.organisation, &action, by)?;
    devices::load(unit.conn, id)
}
