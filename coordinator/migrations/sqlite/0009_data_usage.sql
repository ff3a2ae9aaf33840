-- What devices' bytes were for, by day and as each reports it.
CREATE TABLE data_usage (
    device INTEGER NOT NULL REFERENCES agent (device) ON DELETE CASCADE,
    day INTEGER NOT NULL,                    -- since 1970-01-01, in UTC
    at INTEGER NOT NULL,                     -- when it said so last
    control INTEGER NOT NULL,
    keepalive INTEGER NOT NULL,
    probe INTEGER NOT NULL,
    relay_overhead INTEGER NOT NULL,
    payload INTEGER NOT NULL,
    budget INTEGER,                          -- of the day, for all but payload
    metered INTEGER NOT NULL CHECK (metered IN (0, 1)),
    used_up INTEGER NOT NULL CHECK (used_up IN (0, 1)),
    PRIMARY KEY (device, day)
) STRICT, WITHOUT ROWID;
CREATE INDEX data_usage_day ON data_usage (day);
