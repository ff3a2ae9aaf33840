-- How devices reach each other, as each of them reports it: what is kept to say
-- why. What a device said of its network last.
CREATE TABLE nat_report (
    device INTEGER PRIMARY KEY REFERENCES agent (device) ON DELETE CASCADE,
    at INTEGER NOT NULL,
    started INTEGER NOT NULL,                -- when its agent did
    mapping TEXT NOT NULL,
    mapped INTEGER,                          -- when that was found out
    lifetime_s INTEGER,
    seen TEXT NOT NULL                       -- where servers see it from
) STRICT;

-- One device's words on one peer: the newest few.
CREATE TABLE path_report (
    device INTEGER NOT NULL REFERENCES agent (device) ON DELETE CASCADE,
    peer INTEGER NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,                 -- counts the words on this peer
    at INTEGER NOT NULL,                     -- when it said so last
    way TEXT NOT NULL CHECK (way IN ('idle', 'none', 'direct', 'relay')),
    remote TEXT,                             -- of a direct way
    relay INTEGER,
    rung TEXT CHECK (rung IN ('udp', 'second-udp', 'tcp', 'tls')),
    since INTEGER NOT NULL,
    rtt_ms INTEGER,
    ended INTEGER,                           -- the last attempt; NULL = there was none
    end_code INTEGER,                        -- NULL = one of a newer device
    failed INTEGER,
    own_mapping TEXT,
    peer_mapping TEXT,
    tried INTEGER,
    answered INTEGER,
    sent INTEGER,
    took_ms INTEGER,
    next INTEGER,
    PRIMARY KEY (device, peer, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX path_report_peer ON path_report (peer);
CREATE INDEX path_report_at ON path_report (device, at);
