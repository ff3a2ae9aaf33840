//! Relays that devices may use.

use core::net::IpAddr;

use rusqlite::{Connection, Row, params};

use crate::domain::audit::Action;
use crate::domain::relay::{NewRelay, Relay, numbered};
use crate::store::{Answer, By, Relays, StoreError};

use super::row::{all, damaged, get, number, run, to_words, words};
use super::writer::{Touch, Unit};
use super::{SqliteStore, audit, maps, networks};

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
    })
}

/// All of them, in the order in which they are to be tried.
pub(super) fn load(conn: &Connection) -> Result<Vec<Relay>, StoreError> {
    let sql = "SELECT number, name, region, addresses, udp, tcp, tls FROM relay ORDER BY position";
    all(conn, sql, [], read)
}

fn set(unit: &mut Unit<'_>, wanted: Vec<NewRelay>, by: &By) -> Result<Vec<Relay>, StoreError> {
    let before = load(unit.conn)?;
    let after = numbered(&before, wanted);
    if before == after {
        return Ok(after);
    }
    run(unit.conn, "DELETE FROM relay", [])?;
    for (position, Relay { number, is }) in after.iter().enumerate() {
        run(
            unit.conn,
            "INSERT INTO relay (number, name, region, position, addresses, udp, tcp, tls)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                number,
                is.name,
                is.region,
                u32::try_from(position).unwrap_or(u32::MAX),
                to_words(is.addresses()),
                to_words(is.udp),
                is.tcp,
                is.tls,
            ],
        )?;
    }
    let text = |relays: &[Relay]| {
        relays.iter().map(|relay| relay.is.to_string()).collect::<Vec<_>>().join(", ")
    };
    for network in networks::load_all(unit.conn)? {
        maps::log_network(unit, network.id)?;
        unit.touch(Touch::Network(network.id));
        let action = Action {
            action: "network.relays",
            subject: network.id.to_string(),
            detail: vec![("before", text(&before)), ("after", text(&after))],
        };
        audit::append(unit.conn, network.organisation, &action, by)?;
    }
    Ok(after)
}

impl Relays for SqliteStore {
    fn relays(&self) -> Answer<'_, Vec<Relay>> {
        self.read(|conn, _| load(conn))
    }

    fn set_relays(&self, relays: Vec<NewRelay>, by: By) -> Answer<'_, Vec<Relay>> {
        Box::pin(self.write(move |unit| set(unit, relays, &by)))
    }
}
