//! How devices reach each other.

use core::time::Duration;

use rusqlite::{Connection as Sqlite, Row, params};
use weft_wire::id::DeviceId;

use crate::domain::paths::{
    Attempt, AttemptEnd, Connection, KEPT, KEPT_FOR, Mapping, NatState, PEERS, Reported, Rung, Way,
    mapping_from_text, mapping_text, way_word,
};
use crate::domain::time::UnixMs;
use crate::store::{Answer, Paths, StoreError};

use super::SqliteStore;
use super::row::{
    all, damaged, get, number, number_or_none, one, run, signed, text, time, to_words, words,
};
use super::writer::Unit;

const fn rung_word(rung: Rung) -> &'static str {
    match rung {
        Rung::Udp => "udp",
        Rung::SecondUdp => "second-udp",
        Rung::Tcp => "tcp",
        Rung::Tls => "tls",
    }
}

fn rung(word: &str) -> Result<Rung, StoreError> {
    let all = [Rung::Udp, Rung::SecondUdp, Rung::Tcp, Rung::Tls];
    all.into_iter().find(|rung| rung_word(*rung) == word).ok_or_else(|| damaged("rung", word))
}

fn mapping(row: &Row<'_>, name: &str) -> Result<Mapping, StoreError> {
    let text: String = get(row, name)?;
    mapping_from_text(&text).ok_or_else(|| damaged(name, text))
}

fn span_ms(row: &Row<'_>, name: &str) -> Result<Duration, StoreError> {
    number(row, name).map(Duration::from_millis)
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn nat(row: &Row<'_>) -> Result<NatState, StoreError> {
    let lifetime: Option<u64> = number_or_none(row, "lifetime_s")?;
    Ok(NatState {
        at: time(row, "at")?,
        started: time(row, "started")?,
        mapping: mapping(row, "mapping")?,
        mapped: number_or_none(row, "mapped")?.map(UnixMs),
        lifetime: lifetime.map(Duration::from_secs),
        seen: words(row, "seen")?,
    })
}

fn way(row: &Row<'_>) -> Result<Way, StoreError> {
    let word: String = get(row, "way")?;
    let rung_text: Option<String> = get(row, "rung")?;
    Ok(match word.as_str() {
        "idle" => Way::Idle,
        "none" => Way::Nowhere,
        "direct" => Way::Direct(text(row, "remote")?),
        "relay" => Way::Relay {
            relay: number(row, "relay")?,
            rung: rung_text.map(|word| rung(&word)).transpose()?,
        },
        _ => return Err(damaged("way", word)),
    })
}

fn attempt(row: &Row<'_>) -> Result<Option<Attempt>, StoreError> {
    let Some(at) = number_or_none(row, "ended")? else { return Ok(None) };
    let code: Option<u16> = number_or_none(row, "end_code")?;
    Ok(Some(Attempt {
        end: code.and_then(AttemptEnd::from_code),
        at: UnixMs(at),
        failed: number(row, "failed")?,
        own: mapping(row, "own_mapping")?,
        peer: mapping(row, "peer_mapping")?,
        tried: number(row, "tried")?,
        answered: number(row, "answered")?,
        sent: number(row, "sent")?,
        took: span_ms(row, "took_ms")?,
    }))
}

/// Columns of [`connection`].
const CONNECTION: &str = "
    SELECT device, peer, number, at, way, remote, relay, rung, since, rtt_ms, ended, end_code,
        failed, own_mapping, peer_mapping, tried, answered, sent, took_ms, next
    FROM path_report ";

fn connection(row: &Row<'_>) -> Result<Connection, StoreError> {
    let rtt: Option<u64> = number_or_none(row, "rtt_ms")?;
    Ok(Connection {
        device: DeviceId(number(row, "device")?),
        peer: DeviceId(number(row, "peer")?),
        at: time(row, "at")?,
        way: way(row)?,
        since: time(row, "since")?,
        rtt: rtt.map(Duration::from_millis),
        attempt: attempt(row)?,
        next: number_or_none(row, "next")?.map(UnixMs),
    })
}

fn put_nat(conn: &Sqlite, device: DeviceId, nat: &NatState) -> Result<(), StoreError> {
    run(
        conn,
        "INSERT OR REPLACE INTO nat_report (device, at, started, mapping, mapped, lifetime_s, seen)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            device.0,
            signed(nat.at.0),
            signed(nat.started.0),
            mapping_text(nat.mapping),
            nat.mapped.map(|at| signed(at.0)),
            nat.lifetime.map(|span| signed(span.as_secs())),
            to_words(&nat.seen),
        ],
    )?;
    Ok(())
}

/// Writes a word under its number.
fn put(conn: &Sqlite, number: u32, word: &Connection) -> Result<(), StoreError> {
    let (remote, relay, rung) = match word.way {
        Way::Direct(remote) => (Some(remote.to_string()), None, None),
        Way::Relay { relay, rung } => (None, Some(relay), rung.map(rung_word)),
        Way::Idle | Way::Nowhere => (None, None, None),
    };
    let tried = word.attempt.as_ref();
    run(
        conn,
        "INSERT OR REPLACE INTO path_report (device, peer, number, at, way, remote, relay, rung,
            since, rtt_ms, ended, end_code, failed, own_mapping, peer_mapping, tried, answered,
            sent, took_ms, next)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
            ?19, ?20)",
        params![
            word.device.0,
            word.peer.0,
            number,
            signed(word.at.0),
            way_word(word.way),
            remote,
            relay,
            rung,
            signed(word.since.0),
            word.rtt.map(millis),
            tried.map(|attempt| signed(attempt.at.0)),
            tried.and_then(|attempt| attempt.end).map(|end| end as u16),
            tried.map(|attempt| attempt.failed),
            tried.map(|attempt| mapping_text(attempt.own)),
            tried.map(|attempt| mapping_text(attempt.peer)),
            tried.map(|attempt| attempt.tried),
            tried.map(|attempt| attempt.answered),
            tried.map(|attempt| attempt.sent),
            tried.map(|attempt| millis(attempt.took)),
            word.next.map(|at| signed(at.0)),
        ],
    )?;
    Ok(())
}

/// The newest word of a device on a peer, with its number.
fn newest(conn: &Sqlite, word: &Connection) -> Result<Option<(u32, Connection)>, StoreError> {
    let sql = format!("{CONNECTION} WHERE device = ?1 AND peer = ?2 ORDER BY number DESC LIMIT 1");
    one(conn, &sql, params![word.device.0, word.peer.0], |row| {
        Ok((number(row, "number")?, connection(row)?))
    })
}

/// Keeps a word; whether it is the first on this peer.
fn keep(conn: &Sqlite, word: &Connection) -> Result<bool, StoreError> {
    let Some((number, last)) = newest(conn, word)? else {
        put(conn, 1, word)?;
        return Ok(true);
    };
    if last.is_repeated_by(word) {
        put(conn, number, word)?;
        return Ok(false);
    }
    put(conn, number + 1, word)?;
    run(
        conn,
        "DELETE FROM path_report WHERE device = ?1 AND peer = ?2 AND number <= ?3",
        params![word.device.0, word.peer.0, (number + 1).saturating_sub(KEPT)],
    )?;
    Ok(false)
}

/// Takes away what is older than it is kept, and what is one peer too many.
fn prune(conn: &Sqlite, device: DeviceId, now: UnixMs) -> Result<(), StoreError> {
    let since = now.0.saturating_sub(KEPT_FOR.as_millis() as u64);
    run(
        conn,
        "DELETE FROM path_report WHERE device = ?1 AND at < ?2",
        params![device.0, signed(since)],
    )?;
    run(
        conn,
        "DELETE FROM path_report WHERE device = ?1 AND peer IN (
            SELECT peer FROM path_report WHERE device = ?1
            GROUP BY peer ORDER BY max(at) DESC, peer LIMIT -1 OFFSET ?2)",
        params![device.0, PEERS],
    )?;
    Ok(())
}

fn report(unit: &mut Unit<'_>, reported: &Reported) -> Result<(), StoreError> {
    let Reported { device, nat, connections } = reported;
    let conn = unit.conn;
    // It may have been deleted meanwhile.
    let of_network = "SELECT network FROM device WHERE id = ?1";
    let network = |id: DeviceId| one(conn, of_network, [id.0], |row| get::<i64>(row, "network"));
    let Some(own) = network(*device)? else { return Ok(()) };
    put_nat(conn, *device, nat)?;
    let mut more = false;
    for word in connections {
        // Nobody speaks of devices that are none of its network.
        if network(word.peer)? == Some(own) {
            more |= keep(conn, word)?;
        }
    }
    if more { prune(conn, *device, nat.at) } else { Ok(()) }
}

impl Paths for SqliteStore {
    fn report_paths(&self, reported: Reported) -> Answer<'_, ()> {
        Box::pin(self.write(move |unit| report(unit, &reported)))
    }

    fn nat_state(&self, device: DeviceId) -> Answer<'_, Option<NatState>> {
        self.read(move |conn, _| {
            one(conn, "SELECT * FROM nat_report WHERE device = ?1", [device.0], nat)
        })
    }

    fn words_between(&self, a: DeviceId, b: DeviceId) -> Answer<'_, Vec<Connection>> {
        let sql = format!(
            "{CONNECTION} WHERE (device = ?1 AND peer = ?2) OR (device = ?2 AND peer = ?1)
             ORDER BY at DESC, number DESC"
        );
        self.read(move |conn, _| all(conn, &sql, [a.0, b.0], connection))
    }

    fn newest_words(&self, device: Option<DeviceId>, limit: u32) -> Answer<'_, Vec<Connection>> {
        let of = if device.is_some() { "(device = ?1 OR peer = ?1)" } else { "?1 IS NULL" };
        let sql = format!(
            "{CONNECTION} WHERE {of} AND number = (
                SELECT max(number) FROM path_report last
                WHERE last.device = path_report.device AND last.peer = path_report.peer)
             ORDER BY at DESC, device, peer LIMIT ?2"
        );
        let device = device.map(|device| device.0);
        self.read(move |conn, _| all(conn, &sql, params![device, limit], connection))
    }
}
