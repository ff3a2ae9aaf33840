//! Rows to values and back. Everything a row holds is checked when it is read:
//! a database may have been edited by hand.

use core::fmt::Display;
use core::str::FromStr;

use rusqlite::types::FromSql;
use rusqlite::{Connection, Params, Row};
use weft_wire::id::{
    DeviceId, Inbox, Instance, KeyId, NetworkId, OrganisationId, PublicKey, Revision,
};

use crate::domain::device::{Abilities, Agent, Backend, Device, Kind, standing_from_word};
use crate::domain::key::EnrolmentKey;
use crate::domain::tags::TagSet;
use crate::domain::time::UnixMs;
use crate::store::StoreError;

/// The first row, if there is one.
pub(super) fn one<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

/// All rows.
pub(super) fn all<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut values = Vec::new();
    while let Some(row) = rows.next()? {
        values.push(read(row)?);
    }
    Ok(values)
}

/// Runs a writing statement and gives the number of rows it changed.
pub(super) fn run(conn: &Connection, sql: &str, params: impl Params) -> Result<usize, StoreError> {
    Ok(conn.prepare_cached(sql)?.execute(params)?)
}

/// One value of a row.
pub(super) fn get<T: FromSql>(row: &Row<'_>, name: &str) -> Result<T, StoreError> {
    Ok(row.get(name)?)
}

/// A number that the database keeps signed.
pub(super) fn number<T: TryFrom<i64>>(row: &Row<'_>, name: &str) -> Result<T, StoreError> {
    let value: i64 = get(row, name)?;
    T::try_from(value).map_err(|_| damaged(name, value))
}

/// A number that may be missing.
pub(super) fn number_or_none<T: TryFrom<i64>>(
    row: &Row<'_>,
    name: &str,
) -> Result<Option<T>, StoreError> {
    let value: Option<i64> = get(row, name)?;
    value.map(|value| T::try_from(value).map_err(|_| damaged(name, value))).transpose()
}

/// A point in time.
pub(super) fn time(row: &Row<'_>, name: &str) -> Result<UnixMs, StoreError> {
    number(row, name).map(UnixMs)
}

/// Bytes of a fixed length.
pub(super) fn bytes<const N: usize>(row: &Row<'_>, name: &str) -> Result<[u8; N], StoreError> {
    let blob: Vec<u8> = get(row, name)?;
    blob.try_into().map_err(|blob: Vec<u8>| damaged(name, format_args!("{} bytes", blob.len())))
}

/// A text that is read as a value.
pub(super) fn text<T: FromStr>(row: &Row<'_>, name: &str) -> Result<T, StoreError> {
    let text: String = get(row, name)?;
    text.parse().map_err(|_| damaged(name, text))
}

/// A set of tags.
pub(super) fn tags(text: &str) -> Result<TagSet, StoreError> {
    text.parse().map_err(|_| damaged("tags", text))
}

/// Values written with a space between.
pub(super) fn words<T: FromStr>(row: &Row<'_>, name: &str) -> Result<Vec<T>, StoreError> {
    let text: String = get(row, name)?;
    text.split_whitespace().map(|word| word.parse().map_err(|_| damaged(name, word))).collect()
}

/// Writes values with a space between.
pub(super) fn to_words(values: impl IntoIterator<Item: Display>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(" ")
}

pub(super) fn damaged(name: &str, value: impl Display) -> StoreError {
    StoreError::Fault(format!("{name} holds {value}"))
}

/// Signed form of a number that never reaches 2^63 (times, revisions, versions).
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The 60 bits of a key id as the database keeps them.
pub(super) const fn key_number(id: KeyId) -> i64 {
    i64::from_be_bytes(id.to_bytes())
}

pub(super) fn key_id(row: &Row<'_>, name: &str) -> Result<KeyId, StoreError> {
    let value: i64 = get(row, name)?;
    KeyId::from_bytes(value.to_be_bytes()).map_err(|_| damaged(name, value))
}

/// Columns of [`device`]; add `WHERE …`.
pub(super) const DEVICE: &str = "
    SELECT d.id, d.organisation, d.network, d.name, d.wg_key, d.standing, d.standing_since,
        d.standing_reason, d.tags, d.created, d.version, address.host,
        d.key_since, d.key_number, d.key_wanted, d.second_key, d.second_kind, d.second_since,
        d.second_until, d.key_revision,
        a.identity, a.fingerprint, a.inbox, a.families, a.carriers, a.mtu, a.backend,
        a.peer_slots, a.peer_routes, a.rules, a.agent, a.platform, a.endpoints, a.key, a.key_name,
        a.master, a.enrolled_from, a.applied, a.instance, a.duplicates,
        a.data_budget,
        EXISTS (SELECT 1 FROM quarantine q WHERE q.device = d.id) AS has_copies,
        w.endpoint, w.psk
    FROM device d
    LEFT JOIN agent a ON a.device = d.id
    LEFT JOIN wireguard w ON w.device = d.id
    LEFT JOIN address ON address.device = d.id ";

/// Reads a row of [`DEVICE`].
pub(super) fn device(row: &Row<'_>) -> Result<Device, StoreError> {
    let identity: Option<Vec<u8>> = get(row, "identity")?;
    let kind =
        if identity.is_some() { Kind::Agent(Box::new(agent(row)?)) } else { wireguard(row)? };
    let standing: String = get(row, "standing")?;
    let tag_text: String = get(row, "tags")?;
    Ok(Device {
        id: DeviceId(number(row, "id")?),
        organisation: OrganisationId(number(row, "organisation")?),
        network: NetworkId(number(row, "network")?),
        name: get(row, "name")?,
        wg_key: PublicKey(bytes(row, "wg_key")?),
        rotation: super::rotation::rotation(row)?,
        host: number_or_none(row, "host")?,
        standing: standing_from_word(&standing).ok_or_else(|| damaged("standing", &standing))?,
        standing_since: time(row, "standing_since")?,
        standing_reason: get(row, "standing_reason")?,
        tags: tags(&tag_text)?,
        created: time(row, "created")?,
        version: number(row, "version")?,
        kind,
    })
}

fn agent(row: &Row<'_>) -> Result<Agent, StoreError> {
    let backend: String = get(row, "backend")?;
    let instance: Option<Vec<u8>> = get(row, "instance")?;
    Ok(Agent {
        identity: PublicKey(bytes(row, "identity")?),
        fingerprint: bytes(row, "fingerprint")?,
        inbox: Inbox(bytes(row, "inbox")?),
        abilities: Abilities {
            families: number(row, "families")?,
            carriers: number(row, "carriers")?,
            mtu: number(row, "mtu")?,
            backend: backend_from_word(&backend).ok_or_else(|| damaged("backend", &backend))?,
            peer_slots: number(row, "peer_slots")?,
            peer_routes: number(row, "peer_routes")?,
            rules: number(row, "rules")?,
            agent: get(row, "agent")?,
            platform: get(row, "platform")?,
            endpoints: words(row, "endpoints")?,
        },
        key: (key_id(row, "key")?, get(row, "key_name")?),
        master: number(row, "master")?,
        enrolled_from: get(row, "enrolled_from")?,
        applied: Revision(number(row, "applied")?),
        instance: instance.map(|_| bytes(row, "instance").map(Instance)).transpose()?,
        duplicates: number(row, "duplicates")?,
        has_copies: get(row, "has_copies")?,
        data_budget: number_or_none(row, "data_budget")?,
    })
}

fn wireguard(row: &Row<'_>) -> Result<Kind, StoreError> {
    let endpoint: Option<String> = get(row, "endpoint")?;
    let endpoint =
        endpoint.map(|text| text.parse().map_err(|_| damaged("endpoint", text))).transpose()?;
    Ok(Kind::WireGuard { endpoint, psk: get(row, "psk")? })
}

/// The word for a backend.
pub(super) const fn backend_word(backend: Backend) -> &'static str {
    match backend {
        Backend::User => "user",
        Backend::Kernel => "kernel",
        Backend::Chip => "chip",
    }
}

/// Reads what [`backend_word`] writes.
pub(super) fn backend_from_word(word: &str) -> Option<Backend> {
    Some(match word {
        "user" => Backend::User,
        "kernel" => Backend::Kernel,
        "chip" => Backend::Chip,
        _ => return None,
    })
}

/// Columns of [`key`]; add `WHERE …`.
pub(super) const KEY: &str = "
    SELECT id, organisation, network, name, master, uses, max_uses, expires, tags,
        needs_approval, created, revoked,
        generation < (SELECT generation FROM installation) AS outdated
    FROM enrolment_key ";

/// Reads a row of [`KEY`].
pub(super) fn key(row: &Row<'_>) -> Result<EnrolmentKey, StoreError> {
    let tag_text: String = get(row, "tags")?;
    Ok(EnrolmentKey {
        id: key_id(row, "id")?,
        organisation: OrganisationId(number(row, "organisation")?),
        network: NetworkId(number(row, "network")?),
        name: get(row, "name")?,
        master: number(row, "master")?,
        uses: number(row, "uses")?,
        max_uses: number_or_none(row, "max_uses")?,
        expires: number_or_none(row, "expires")?.map(UnixMs),
        tags: tags(&tag_text)?,
        needs_approval: get(row, "needs_approval")?,
        created: time(row, "created")?,
        revoked: number_or_none(row, "revoked")?.map(UnixMs),
        outdated: get(row, "outdated")?,
    })
}
