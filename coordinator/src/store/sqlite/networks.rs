//! Networks and the installation.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

use rusqlite::{Connection, Row, params};
use weft_wire::id::{DeviceId, Epoch, NetworkId, OrganisationId, PublicKey, Revision};
use weft_wire::map::Overlay;

use crate::domain::audit::{Action, Actor};
use crate::domain::network::{Network, NewNetwork};
use crate::domain::policy::Policy;
use crate::domain::time::UnixMs;
use crate::store::{Answer, By, Installation, Networks, StoreError, What};

use super::row::{
    all, bytes, damaged, get, number, number_or_none, one, run, signed, time, to_words, words,
};
use super::writer::{Touch, Unit};
use super::{NewInstallation, SqliteStore, audit, backup, devices, maps, policies};

/// A device's claim draws a new epoch this often at most.
const EPOCH_LASTS: Duration = Duration::from_hours(24);

const NETWORK: &str = "
    SELECT id, organisation, name, ipv4, ipv4_len, ipv6, mtu, lease_s, revision, psk_generation,
        next_pin, created
    FROM network ";

fn read(row: &Row<'_>) -> Result<Network, StoreError> {
    let next_pin: Option<Vec<u8>> = get(row, "next_pin")?;
    let next_pin = next_pin
        .map(|pin| pin.try_into().map(PublicKey).map_err(|_| damaged("next_pin", "no key")))
        .transpose()?;
    Ok(Network {
        id: NetworkId(number(row, "id")?),
        organisation: OrganisationId(number(row, "organisation")?),
        name: get(row, "name")?,
        overlay: Overlay {
            ipv4: Ipv4Addr::from_bits(number(row, "ipv4")?),
            ipv4_len: number(row, "ipv4_len")?,
            ipv6: bytes(row, "ipv6")?,
        },
        mtu: number(row, "mtu")?,
        lease_s: number(row, "lease_s")?,
        revision: Revision(number(row, "revision")?),
        psk_generation: number(row, "psk_generation")?,
        next_pin,
        created: time(row, "created")?,
    })
}

pub(super) fn find(conn: &Connection, id: NetworkId) -> Result<Option<Network>, StoreError> {
    one(conn, &format!("{NETWORK} WHERE id = ?1"), [id.0], read)
}

pub(super) fn load(conn: &Connection, id: NetworkId) -> Result<Network, StoreError> {
    find(conn, id)?.ok_or(StoreError::NotFound(What::Network))
}

pub(super) fn load_all(conn: &Connection) -> Result<Vec<Network>, StoreError> {
    all(conn, NETWORK, [], read)
}

/// The coordinator's own STUN servers, best first.
pub(super) fn servers(conn: &Connection) -> Result<Vec<SocketAddr>, StoreError> {
    let servers = one(conn, "SELECT stun FROM installation", [], |row| words(row, "stun"))?;
    Ok(servers.unwrap_or_default())
}

/// Fills an empty database.
pub(super) fn install(
    conn: &Connection,
    new: &NewInstallation,
    now: UnixMs,
) -> rusqlite::Result<()> {
    conn.execute(
        "INSERT INTO installation (only, epoch, coordinator, created) VALUES (1, ?1, ?2, ?3)",
        params![new.epoch.0, new.coordinator.0, signed(now.0)],
    )?;
    conn.execute(
        "INSERT INTO organisation (id, name, created) VALUES (1, 'default', ?1)",
        [signed(now.0)],
    )?;
    let by = By { actor: Actor { who: "coordinator".to_owned(), via: "init" }, at: now };
    insert(conn, OrganisationId(1), &new.network, &by)
        .map(|_| ())
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn insert(
    conn: &Connection,
    organisation: OrganisationId,
    new: &NewNetwork,
    by: &By,
) -> Result<NetworkId, StoreError> {
    let taken = "SELECT 1 FROM network WHERE organisation = ?1 AND name = ?2";
    if one(conn, taken, params![organisation.0, new.name], |_| Ok(()))?.is_some() {
        return Err(StoreError::NameTaken { what: What::Network, name: new.name.clone() });
    }
    run(
        conn,
        "INSERT INTO network (organisation, name, ipv4, ipv4_len, ipv6, mtu, lease_s, revision,
            log_floor, psk_generation, next_pin, next_pin_revision, created)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, 1, 1,
            (SELECT next_pin FROM network WHERE next_pin IS NOT NULL LIMIT 1), 1, ?8)",
        params![
            organisation.0,
            new.name,
            new.overlay.ipv4.to_bits(),
            new.overlay.ipv4_len,
            new.overlay.ipv6,
            new.mtu,
            new.lease_s,
            signed(by.at.0),
        ],
    )?;
    let id =
        NetworkId(u32::try_from(conn.last_insert_rowid()).map_err(|_| damaged("id", "too much"))?);
    policies::insert(conn, id, &Policy::default(), Revision(1), by.at)?;
    let overlay = format!("{}/{}", new.overlay.ipv4, new.overlay.ipv4_len);
    audit::append(
        conn,
        organisation,
        &Action {
            action: "network.create",
            subject: id.to_string(),
            detail: vec![("name", new.name.clone()), ("ipv4", overlay)],
        },
        by,
    )?;
    Ok(id)
}

fn set_servers(unit: &mut Unit<'_>, stun: &[SocketAddr], by: &By) -> Result<(), StoreError> {
    let before = servers(unit.conn)?;
    if before == stun {
        return Ok(());
    }
    run(unit.conn, "UPDATE installation SET stun = ?1", [to_words(stun)])?;
    for network in load_all(unit.conn)? {
        maps::log_network(unit, network.id)?;
        unit.touch(Touch::Network(network.id));
        let action = Action {
            action: "network.servers",
            subject: network.id.to_string(),
            detail: vec![("before", to_words(&before)), ("after", to_words(stun))],
        };
        audit::append(unit.conn, network.organisation, &action, by)?;
    }
    Ok(())
}

/// See [`Networks::renew_epoch`].
fn renew_epoch(
    unit: &Unit<'_>,
    device: DeviceId,
    held: Revision,
    by: &By,
) -> Result<Option<Epoch>, StoreError> {
    let device = devices::load(unit.conn, device)?;
    let network = load(unit.conn, device.network)?;
    if !device.is_active() || held <= network.revision {
        return Ok(None);
    }
    let last = one(
        unit.conn,
        "SELECT at FROM audit WHERE organisation = ?1 AND action = 'installation.epoch'
         ORDER BY seq DESC LIMIT 1",
        [network.organisation.0],
        |row| time(row, "at"),
    )?;
    if last.is_some_and(|last| by.at.since(last) < EPOCH_LASTS) {
        return Ok(None);
    }
    let epoch = backup::new_epoch(unit.conn)?;
    let detail = vec![
        ("name", device.name.clone()),
        ("held", held.0.to_string()),
        ("known", network.revision.0.to_string()),
    ];
    let subject = "installation".to_owned();
    let action = Action { action: "installation.epoch", subject, detail };
    audit::append(unit.conn, network.organisation, &action, by)?;
    Ok(Some(epoch))
}

impl Networks for SqliteStore {
    fn installation(&self) -> Answer<'_, Installation> {
        self.read(|conn, _| {
            let read = |row: &Row<'_>| {
                Ok(Installation {
                    epoch: Epoch(number(row, "epoch")?),
                    coordinator: PublicKey(bytes(row, "coordinator")?),
                    generation: number(row, "generation")?,
                    announced: number_or_none(row, "announced")?.map(UnixMs),
                })
            };
            let sql = "SELECT epoch, coordinator, generation, announced FROM installation";
            one(conn, sql, [], read)?.ok_or_else(|| damaged("installation", "no row"))
        })
    }

    fn networks(&self) -> Answer<'_, Vec<Network>> {
        self.read(|conn, _| all(conn, &format!("{NETWORK} ORDER BY name, id"), [], read))
    }

    fn network(&self, id: NetworkId) -> Answer<'_, Option<Network>> {
        self.read(move |conn, _| find(conn, id))
    }

    fn create_network(
        &self,
        organisation: OrganisationId,
        new: NewNetwork,
        by: By,
    ) -> Answer<'_, Network> {
        Box::pin(self.write(move |unit| {
            let id = insert(unit.conn, organisation, &new, &by)?;
            load(unit.conn, id)
        }))
    }

    fn set_servers(&self, stun: Vec<SocketAddr>, by: By) -> Answer<'_, ()> {
        Box::pin(self.write(move |unit| set_servers(unit, &stun, &by)))
    }

    fn renew_epoch(&self, device: DeviceId, held: Revision, by: By) -> Answer<'_, Option<Epoch>> {
        Box::pin(self.write(move |unit| renew_epoch(unit, device, held, &by)))
    }
}
