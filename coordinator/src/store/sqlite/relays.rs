//! Relays that devices may use: those of the configuration, and those that joined
//! by a string of their own.

use core::net::IpAddr;

use rusqlite::{Connection, Row, params};
use weft_wire::id::PublicKey;

use crate::domain::audit::{Action, Actor};
use crate::domain::enrolment::Refused;
use crate::domain::relay::{
    Joined, Joining, NewRegistration, NewRelay, Registration, Relay, numbered,
};
use crate::domain::time::UnixMs;
use crate::store::{Answer, By, Relays, StoreError, What};

use super::row::{
    all, bytes, damaged, get, key_id, key_number, number, number_or_none, one, run, signed, time,
    to_words, words,
};
use super::writer::{Touch, Unit};
use super::{SqliteStore, audit, maps, networks};

/// Relays that joined stand behind those of the configuration.
const BEHIND: u32 = 1_000;

const RELAY: &str = "
    SELECT number, name, region, addresses, udp, tcp, tls, told, key, key_expires, master, created,
        identity, joined, version, draining
    FROM relay ";

fn read(row: &Row<'_>) -> Result<Relay, StoreError> {
    let (mut v4, mut v6) = (None, None);
    for address in words::<IpAddr>(row, "addresses")? {
        match address {
            IpAddr::V4(address) => v4 = Some(address),
            IpAddr::V6(address) => v6 = Some(address),
        }
    }
    let udp = words::<u16>(row, "udp")?;
    let udp = udp.try_into().map_err(|udp: Vec<u16>| damaged("udp", to_words(udp)))?;
    Ok(Relay {
        number: number(row, "number")?,
        is: NewRelay {
            name: get(row, "name")?,
            region: get(row, "region")?,
            v4,
            v6,
            udp,
            tcp: number(row, "tcp")?,
            tls: number(row, "tls")?,
        },
        told: get(row, "told")?,
        registration: registration(row)?,
    })
}

fn registration(row: &Row<'_>) -> Result<Option<Registration>, StoreError> {
    if get::<Option<i64>>(row, "key")?.is_none() {
        return Ok(None);
    }
    let joined = match number_or_none::<u64>(row, "joined")? {
        None => None,
        Some(at) => Some(Joined {
            identity: PublicKey(bytes(row, "identity")?),
            at: UnixMs(at),
            version: get(row, "version")?,
        }),
    };
    Ok(Some(Registration {
        key: key_id(row, "key")?,
        key_expires: number_or_none(row, "key_expires")?.map(UnixMs),
        master: number(row, "master")?,
        created: time(row, "created")?,
        draining: get(row, "draining")?,
        joined,
    }))
}

/// All of them, in the order in which they are to be tried.
pub(super) fn load(conn: &Connection) -> Result<Vec<Relay>, StoreError> {
    all(conn, &format!("{RELAY} ORDER BY position, number"), [], read)
}

fn find(conn: &Connection, number: u16) -> Result<Relay, StoreError> {
    one(conn, &format!("{RELAY} WHERE number = ?1"), [number], read)?
        .ok_or(StoreError::NotFound(What::Relay))
}

fn set(unit: &mut Unit<'_>, wanted: Vec<NewRelay>, by: &By) -> Result<Vec<Relay>, StoreError> {
    let (joined, before): (Vec<_>, Vec<_>) =
        load(unit.conn)?.into_iter().partition(|relay| relay.registration.is_some());
    let taken = |new: &&NewRelay| joined.iter().any(|relay| relay.is.name == new.name);
    if let Some(taken) = wanted.iter().find(taken) {
        return Err(StoreError::NameTaken { what: What::Relay, name: taken.name.clone() });
    }
    let known: Vec<_> = before.iter().chain(&joined).cloned().collect();
    let after = numbered(&known, wanted);
    if before == after {
        return Ok(after);
    }
    run(unit.conn, "DELETE FROM relay WHERE key IS NULL", [])?;
    for (position, Relay { number, is, told, .. }) in after.iter().enumerate() {
        run(
            unit.conn,
            "INSERT INTO relay (number, name, region, position, addresses, udp, tcp, tls, told)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                number,
                is.name,
                is.region,
                u32::try_from(position).unwrap_or(u32::MAX),
                to_words(is.addresses()),
                to_words(is.udp),
                is.tcp,
                is.tls,
                told,
            ],
        )?;
    }
    let text = |relays: &[Relay]| {
        relays.iter().map(|relay| relay.is.to_string()).collect::<Vec<_>>().join(", ")
    };
    for network in networks::load_all(unit.conn)? {
        let action = Action {
            action: "network.relays",
            subject: network.id.to_string(),
            detail: vec![("before", text(&before)), ("after", text(&after))],
        };
        audit::append(unit.conn, network.organisation, &action, by)?;
    }
    announce(unit)?;
    Ok(after)
}

/// Every map changes.
fn announce(unit: &mut Unit<'_>) -> Result<(), StoreError> {
    for network in networks::load_all(unit.conn)? {
        maps::log_network(unit, network.id)?;
        unit.touch(Touch::Network(network.id));
    }
    Ok(())
}

/// A row for each organisation: relays are everybody's.
fn record(
    unit: &Unit<'_>,
    action: &'static str,
    relay: &NewRelay,
    detail: &[(&'static str, String)],
    by: &By,
) -> Result<(), StoreError> {
    let mut organisations: Vec<_> =
        networks::load_all(unit.conn)?.iter().map(|network| network.organisation).collect();
    organisations.sort();
    organisations.dedup();
    let action = Action { action, subject: relay.name.clone(), detail: detail.to_vec() };
    organisations.iter().try_for_each(|one| audit::append(unit.conn, *one, &action, by))
}

fn add(unit: &Unit<'_>, new: &NewRegistration, by: &By) -> Result<Relay, StoreError> {
    let known = load(unit.conn)?;
    if known.iter().any(|relay| relay.is.name == new.name) {
        return Err(StoreError::NameTaken { what: What::Relay, name: new.name.clone() });
    }
    let last = known.iter().map(|relay| relay.number).max().unwrap_or(0);
    let number = last.checked_add(1).ok_or_else(|| damaged("number", last))?;
    run(
        unit.conn,
        "INSERT INTO relay (number, name, region, position, addresses, udp, tcp, tls, told, key,
            key_expires, master, created)
         VALUES (?1, ?2, ?3, ?4, '', '0 0', 0, 0, 0, ?5, ?6, ?7, ?8)",
        params![
            number,
            new.name,
            new.region,
            BEHIND + u32::from(number),
            key_number(new.key),
            new.key_expires.map(|at| signed(at.0)),
            new.master,
            signed(by.at.0),
        ],
    )?;
    let relay = find(unit.conn, number)?;
    let expires = new.key_expires.map_or_else(|| "none".to_owned(), |at| at.to_string());
    let detail = [("region", new.region.clone()), ("expires", expires)];
    record(unit, "relay.add", &relay.is, &detail, by)?;
    Ok(relay)
}

fn join(
    unit: &Unit<'_>,
    joining: &Joining,
    now: UnixMs,
) -> Result<Result<Relay, Refused>, StoreError> {
    let known = load(unit.conn)?;
    let by_key =
        |relay: &&Relay| relay.registration.as_ref().is_some_and(|one| one.key == joining.key);
    let Some(relay) = known.iter().find(by_key) else { return Ok(Err(Refused::KeyUnknown)) };
    let owner = known
        .iter()
        .find(|relay| relay.identity().is_some_and(|(identity, _)| identity == joining.identity));
    match owner {
        Some(owner) if owner.number == relay.number => return Ok(Ok(relay.clone())),
        // It is another relay already.
        Some(_) => return Ok(Err(Refused::Malformed)),
        None => {}
    }
    let key = relay.is.name.clone();
    let registration = relay.registration.as_ref();
    if registration.is_some_and(|one| one.joined.is_some()) {
        return Ok(Err(Refused::KeyUsedUp { key, uses: 1, max_uses: 1 }));
    }
    let expires = registration.and_then(|one| one.key_expires);
    // While the clock is not set nobody knows whether it has ended.
    if let Some(at) = expires.filter(|at| *at <= now || now.0 == 0) {
        return Ok(Err(Refused::KeyExpired { key, at }));
    }
    run(
        unit.conn,
        "UPDATE relay SET identity = ?2, joined = ?3, version = ?4 WHERE number = ?1",
        params![relay.number, joining.identity.0, signed(now.0), joining.version],
    )?;
    let by = By { actor: actor(&relay.is), at: now };
    let print = weft_noise::mac::fingerprint(&joining.identity).to_string();
    record(unit, "relay.join", &relay.is, &[("identity", print)], &by)?;
    find(unit.conn, relay.number).map(Ok)
}

/// A relay, through its sealed session.
fn actor(relay: &NewRelay) -> Actor {
    Actor::device(format_args!("relay {}", relay.name))
}

fn place(
    unit: &mut Unit<'_>,
    number: u16,
    (place, version): (NewRelay, String),
    by: &By,
) -> Result<(), StoreError> {
    let before = find(unit.conn, number)?;
    let is = NewRelay { name: before.is.name.clone(), region: before.is.region.clone(), ..place };
    let joined = before.registration.as_ref().and_then(|one| one.joined.as_ref());
    if before.is == is && joined.is_none_or(|joined| joined.version == version) {
        return Ok(());
    }
    run(
        unit.conn,
        "UPDATE relay SET addresses = ?2, udp = ?3, tcp = ?4, tls = ?5, version = ?6
         WHERE number = ?1",
        params![number, to_words(is.addresses()), to_words(is.udp), is.tcp, is.tls, version,],
    )?;
    let by = By { actor: actor(&before.is), at: by.at };
    let detail =
        [("before", before.is.to_string()), ("after", is.to_string()), ("version", version)];
    record(unit, "relay.place", &is, &detail, &by)?;
    if before.told && before.is != is {
        announce(unit)?;
    }
    Ok(())
}

fn tell(
    unit: &mut Unit<'_>,
    number: u16,
    (told, why): (bool, &'static str),
    by: &By,
) -> Result<(), StoreError> {
    let relay = find(unit.conn, number)?;
    if relay.told == told {
        return Ok(());
    }
    run(unit.conn, "UPDATE relay SET told = ?2 WHERE number = ?1", params![number, told])?;
    let action = if told { "relay.list" } else { "relay.unlist" };
    record(unit, action, &relay.is, &[("why", why.to_owned())], by)?;
    announce(unit)
}

fn drain(unit: &Unit<'_>, number: u16, draining: bool, by: &By) -> Result<Relay, StoreError> {
    let relay = find(unit.conn, number)?;
    let registration = relay.registration.as_ref().ok_or(StoreError::NotFound(What::Relay))?;
    if registration.draining != draining {
        let sql = "UPDATE relay SET draining = ?2 WHERE number = ?1";
        run(unit.conn, sql, params![number, draining])?;
        let action = if draining { "relay.drain" } else { "relay.undrain" };
        record(unit, action, &relay.is, &[], by)?;
    }
    find(unit.conn, number)
}

fn remove(unit: &mut Unit<'_>, number: u16, by: &By) -> Result<Relay, StoreError> {
    let relay = find(unit.conn, number)?;
    if relay.registration.is_none() {
        return Err(StoreError::NotFound(What::Relay));
    }
    run(unit.conn, "DELETE FROM relay WHERE number = ?1", [number])?;
    record(unit, "relay.remove", &relay.is, &[("was", relay.is.to_string())], by)?;
    if relay.told {
        announce(unit)?;
    }
    Ok(relay)
}

/// A string that is about to be used up: see [`super::backup`].
pub(super) fn end_strings(conn: &Connection, now: UnixMs) -> rusqlite::Result<()> {
    let sql = "UPDATE relay SET key_expires = ?1
        WHERE key IS NOT NULL AND joined IS NULL AND (key_expires IS NULL OR key_expires > ?1)";
    conn.execute(sql, [signed(now.0)]).map(drop)
}

impl Relays for SqliteStore {
    fn relays(&self) -> Answer<'_, Vec<Relay>> {
        self.read(|conn, _| load(conn))
    }

    fn set_relays(&self, relays: Vec<NewRelay>, by: By) -> Answer<'_, Vec<Relay>> {
        Box::pin(self.write(move |unit| set(unit, relays, &by)))
    }

    fn add_relay(&self, new: NewRegistration, by: By) -> Answer<'_, Relay> {
        Box::pin(self.write(move |unit| add(unit, &new, &by)))
    }

    fn join_relay(&self, joining: Joining, now: UnixMs) -> Answer<'_, Result<Relay, Refused>> {
        Box::pin(self.write(move |unit| join(unit, &joining, now)))
    }

    fn place_relay(&self, number: u16, at: NewRelay, version: String, by: By) -> Answer<'_, ()> {
        Box::pin(self.write(move |unit| place(unit, number, (at, version), &by)))
    }

    fn tell_relay(&self, number: u16, told: bool, why: &'static str, by: By) -> Answer<'_, ()> {
        Box::pin(self.write(move |unit| tell(unit, number, (told, why), &by)))
    }

    fn drain_relay(&self, number: u16, draining: bool, by: By) -> Answer<'_, Relay> {
        Box::pin(self.write(move |unit| drain(unit, number, draining, &by)))
    }

    fn remove_relay(&self, number: u16, by: By) -> Answer<'_, Relay> {
        Box::pin(self.write(move |unit| remove(unit, number, &by)))
    }
}
