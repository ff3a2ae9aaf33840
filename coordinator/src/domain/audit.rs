//! Audit: one row per control action, chained so that a changed, removed or
//! inserted row is seen.

use weft_noise::mac;
use weft_wire::id::OrganisationId;

use super::time::UnixMs;

/// Who did it and by which way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `uid 0`, `dev_…`, `coordinator`.
    pub who: String,
    /// `socket`, `sealed`, `init`, `start`.
    pub via: &'static str,
}

impl Actor {
    /// The coordinator itself.
    pub fn coordinator() -> Self {
        Self { who: "coordinator".to_owned(), via: "internal" }
    }

    /// A device, through its sealed session.
    pub fn device(id: impl core::fmt::Display) -> Self {
        Self { who: id.to_string(), via: "sealed" }
    }

    /// An operator on the Unix socket.
    pub fn socket(uid: u32) -> Self {
        Self { who: format!("uid {uid}"), via: "socket" }
    }
}

/// What was done to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// `device.block`, `key.create` …
    pub action: &'static str,
    /// The id of what it was done to.
    pub subject: String,
    /// Named facts: before, after, reason. Never a secret.
    pub detail: Vec<(&'static str, String)>,
}

/// A row as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Whose chain.
    pub organisation: OrganisationId,
    /// Its place in the chain, from 1 without gaps.
    pub seq: u64,
    /// When.
    pub at: UnixMs,
    /// Who.
    pub actor: String,
    /// By which way.
    pub via: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// Named facts.
    pub detail: Vec<(String, String)>,
    /// Hash of the row before; zero before the first.
    pub prev_hash: [u8; 32],
    /// Hash of this row.
    pub hash: [u8; 32],
}

impl AuditRow {
    /// The hash that this row must have: BLAKE2s over the row before's hash and
    /// every field with its length, so that no two rows have one text.
    pub fn expected_hash(&self) -> [u8; 32] {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(b"weft audit v1");
        bytes.extend_from_slice(&self.prev_hash);
        bytes.extend_from_slice(&self.organisation.0.to_le_bytes());
        bytes.extend_from_slice(&self.seq.to_le_bytes());
        bytes.extend_from_slice(&self.at.0.to_le_bytes());
        let mut field = |text: &str| {
            bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        };
        for text in [&self.actor, &self.via, &self.action, &self.subject] {
            field(text);
        }
        for (name, value) in &self.detail {
            field(name);
            field(value);
        }
        mac::hash(&[&bytes])
    }
}

/// Checks rows in rising order against each other. `last` is the place and hash
/// of the row before the first given; gives those of the last.
///
/// # Errors
///
/// The `seq` at which the chain is broken.
pub fn verify<'a>(
    last: (u64, [u8; 32]),
    rows: impl IntoIterator<Item = &'a AuditRow>,
) -> Result<(u64, [u8; 32]), u64> {
    rows.into_iter().try_fold(last, |(seq, hash), row| {
        let follows = row.seq == seq + 1 && row.prev_hash == hash;
        if follows && row.hash == row.expected_hash() {
            Ok((row.seq, row.hash))
        } else {
            Err(row.seq)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: u64) -> Vec<AuditRow> {
        let mut rows: Vec<AuditRow> = Vec::new();
        for seq in 1..=length {
            let mut row = AuditRow {
                organisation: OrganisationId(1),
                seq,
                at: UnixMs(seq * 1_000),
                actor: "uid 0".to_owned(),
                via: "socket".to_owned(),
                action: "device.block".to_owned(),
                subject: format!("dev_{seq}"),
                detail: vec![("reason".to_owned(), "stolen".to_owned())],
                prev_hash: rows.last().map_or([0; 32], |row| row.hash),
                hash: [0; 32],
            };
            row.hash = row.expected_hash();
            rows.push(row);
        }
        rows
    }

    #[test]
    fn a_whole_chain_holds() {
        let rows = chain(5);
        assert_eq!(verify((0, [0; 32]), &rows), Ok((5, rows[4].hash)));
        assert_eq!(verify((2, rows[1].hash), &rows[2..]), Ok((5, rows[4].hash)));
    }

    #[test]
    fn every_kind_of_tampering_is_seen() {
        type Tamper = fn(&mut Vec<AuditRow>);
        let tampers: [(Tamper, u64); 8] = [
            (|rows| rows[2].subject = "dev_9".to_owned(), 3),
            (|rows| rows[2].at = UnixMs(0), 3),
            (|rows| rows[2].detail.clear(), 3),
            (|rows| rows[2].detail[0].1 = "lost".to_owned(), 3),
            (|rows| drop(rows.remove(2)), 4),
            (|rows| rows.swap(2, 3), 4),
            (|rows| rows.insert(2, rows[1].clone()), 2),
            (
                |rows| {
                    rows[2].actor = "uid 1".to_owned();
                    rows[2].hash = rows[2].expected_hash();
                },
                4,
            ),
        ];
        for (at, (tamper, broken_at)) in tampers.into_iter().enumerate() {
            let mut rows = chain(5);
            tamper(&mut rows);
            assert_eq!(verify((0, [0; 32]), &rows), Err(broken_at), "tampering {at}");
        }
    }

    #[test]
    fn fields_do_not_run_together() {
        let mut a = chain(1).remove(0);
        let mut b = a.clone();
        (a.actor, a.via) = ("ab".to_owned(), "c".to_owned());
        (b.actor, b.via) = ("a".to_owned(), "bc".to_owned());
        assert_ne!(a.expected_hash(), b.expected_hash());
    }
}
