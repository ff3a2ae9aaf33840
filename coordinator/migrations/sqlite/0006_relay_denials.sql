-- Who may not use relays. Each change has a revision of its own, so that a relay
-- that was away is told what it missed and no more.
ALTER TABLE installation ADD COLUMN denial INTEGER NOT NULL DEFAULT 0; -- newest revision

CREATE TABLE relay_denial (
    device INTEGER PRIMARY KEY,
    organisation INTEGER NOT NULL,
    revision INTEGER NOT NULL UNIQUE,        -- when this was decided
    denied INTEGER NOT NULL,                 -- 0 = it was denied before
    gone INTEGER NOT NULL DEFAULT 0,         -- the device is no more
    at INTEGER NOT NULL
) STRICT;

INSERT INTO relay_denial (device, organisation, revision, denied, gone, at)
SELECT device, organisation, row_number() OVER (ORDER BY device), 1, gone, at FROM (
    SELECT id AS device, organisation, 0 AS gone, standing_since AS at
    FROM device WHERE standing NOT IN ('active', 'pending')
    UNION ALL
    SELECT t.device, n.organisation, 1, t.at
    FROM tombstone t JOIN network n ON n.id = t.network
);
UPDATE installation SET denial = (SELECT count(*) FROM relay_denial);
