-- Times are Unix milliseconds. Public keys, inboxes and hashes are blobs of
-- their full length. No secret is in this database: PSKs and passwords are
-- derived from the key file.

CREATE TABLE installation (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    epoch INTEGER NOT NULL,                  -- life of this database
    coordinator BLOB NOT NULL,               -- public key this database belongs to
    next_command INTEGER NOT NULL DEFAULT 1,
    stun TEXT NOT NULL DEFAULT '',           -- STUN servers, best first
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE organisation (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE network (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    organisation INTEGER NOT NULL REFERENCES organisation (id),
    name TEXT NOT NULL,
    ipv4 INTEGER NOT NULL,
    ipv4_len INTEGER NOT NULL CHECK (ipv4_len BETWEEN 8 AND 28),
    ipv6 BLOB NOT NULL CHECK (length(ipv6) = 6),
    mtu INTEGER NOT NULL,
    lease_s INTEGER NOT NULL,
    revision INTEGER NOT NULL,               -- newest revision of the map
    log_floor INTEGER NOT NULL,              -- the log reaches back to here
    psk_generation INTEGER NOT NULL,
    next_pin BLOB,
    next_host INTEGER NOT NULL DEFAULT 2,    -- where the search for a free address starts
    created INTEGER NOT NULL,
    UNIQUE (organisation, name)
) STRICT;

CREATE TABLE policy (
    network INTEGER NOT NULL REFERENCES network (id),
    version INTEGER NOT NULL,
    revision INTEGER NOT NULL,               -- in force from this revision on
    numbering TEXT NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (network, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE policy_rule (
    network INTEGER NOT NULL,
    version INTEGER NOT NULL,
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    senders TEXT NOT NULL,                   -- selectors, one a line
    receivers TEXT NOT NULL,
    allow TEXT NOT NULL,                     -- kinds of traffic, a space between
    PRIMARY KEY (network, version, position),
    FOREIGN KEY (network, version) REFERENCES policy (network, version) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE enrolment_key (
    id INTEGER PRIMARY KEY,                  -- 60 random bits
    organisation INTEGER NOT NULL REFERENCES organisation (id),
    network INTEGER NOT NULL REFERENCES network (id),
    name TEXT NOT NULL,
    master INTEGER NOT NULL,
    uses INTEGER NOT NULL DEFAULT 0,
    max_uses INTEGER,
    expires INTEGER,
    tags TEXT NOT NULL,
    needs_approval INTEGER NOT NULL,
    created INTEGER NOT NULL,
    revoked INTEGER,
    CHECK (max_uses IS NULL OR uses <= max_uses)
) STRICT;
CREATE UNIQUE INDEX enrolment_key_name ON enrolment_key (organisation, name) WHERE revoked IS NULL;

CREATE TABLE device (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    organisation INTEGER NOT NULL REFERENCES organisation (id),
    network INTEGER NOT NULL REFERENCES network (id),
    name TEXT NOT NULL,
    wg_key BLOB NOT NULL UNIQUE CHECK (length(wg_key) = 32),
    standing TEXT NOT NULL,
    standing_since INTEGER NOT NULL,
    standing_reason TEXT NOT NULL DEFAULT '',
    tags TEXT NOT NULL,
    created INTEGER NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    UNIQUE (network, name)
) STRICT;
CREATE INDEX device_members ON device (network, standing, tags);

CREATE TABLE agent (
    device INTEGER PRIMARY KEY REFERENCES device (id) ON DELETE CASCADE,
    identity BLOB NOT NULL UNIQUE CHECK (length(identity) = 32),
    print BLOB NOT NULL CHECK (length(print) = 10),  -- fingerprint that people compare
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
    inbox BLOB NOT NULL UNIQUE CHECK (length(inbox) = 16),
    families INTEGER NOT NULL,
    carriers INTEGER NOT NULL,
    mtu INTEGER NOT NULL,
    backend TEXT NOT NULL,
    peer_slots INTEGER NOT NULL,
    peer_routes INTEGER NOT NULL,
    rules INTEGER NOT NULL,
    agent TEXT NOT NULL,
    platform TEXT NOT NULL,
    endpoints TEXT NOT NULL,
    key INTEGER NOT NULL,                    -- enrolment key that let it in
    key_name TEXT NOT NULL,
    master INTEGER NOT NULL,
    enrolled_from TEXT,
    applied INTEGER NOT NULL DEFAULT 0       -- map revision it said it applied
) STRICT;
CREATE INDEX agent_print ON agent (print);
CREATE INDEX agent_key ON agent (key);

CREATE TABLE wireguard (
    device INTEGER PRIMARY KEY REFERENCES device (id) ON DELETE CASCADE,
    endpoint TEXT,
    psk INTEGER NOT NULL
) STRICT;

-- One row per address that is not free: in use by a device, or resting after
-- one. That a host is given once is this table's key and nothing else.
CREATE TABLE address (
    network INTEGER NOT NULL REFERENCES network (id),
    host INTEGER NOT NULL CHECK (host >= 2),
    device INTEGER UNIQUE REFERENCES device (id),
    rests_until INTEGER,
    PRIMARY KEY (network, host),
    CHECK ((device IS NULL) <> (rests_until IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX address_resting ON address (network, rests_until) WHERE rests_until IS NOT NULL;

CREATE TABLE tombstone (
    device INTEGER PRIMARY KEY,
    network INTEGER NOT NULL REFERENCES network (id),
    name TEXT NOT NULL,
    identity BLOB UNIQUE,
    print BLOB,
    wg_key BLOB NOT NULL UNIQUE,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX tombstone_print ON tombstone (print);

-- What changed at which revision of a network's map. `before` = the tags that
-- the device had as a member until then; NULL = it was none.
CREATE TABLE map_log (
    network INTEGER NOT NULL REFERENCES network (id),
    revision INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('device', 'network', 'policy')),
    subject INTEGER NOT NULL,
    before TEXT,
    PRIMARY KEY (network, revision)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    organisation INTEGER NOT NULL REFERENCES organisation (id),
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    via TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,                    -- JSON: [[name, value], …]
    prev_hash BLOB NOT NULL CHECK (length(prev_hash) = 32),
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (organisation, seq)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'audit rows do not change'); END;
CREATE TRIGGER audit_remains BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'audit rows do not go'); END;
