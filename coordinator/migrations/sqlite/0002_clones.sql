-- Two machines with one identity. Every start of an agent draws a random
-- instance; one that was superseded and is heard again proves that two live.

-- The process that speaks for the device, since when, and from where it came.
ALTER TABLE agent ADD COLUMN instance BLOB CHECK (length(instance) = 8);
ALTER TABLE agent ADD COLUMN instance_since INTEGER;
ALTER TABLE agent ADD COLUMN instance_from TEXT;
-- How often the identity changed hands between machines.
ALTER TABLE agent ADD COLUMN duplicates INTEGER NOT NULL DEFAULT 0;

-- Processes that another one took the place of, in order; of each device the
-- newest only.
CREATE TABLE process (
    device INTEGER NOT NULL REFERENCES agent (device) ON DELETE CASCADE,
    instance BLOB NOT NULL CHECK (length(instance) = 8),
    number INTEGER NOT NULL,
    superseded INTEGER NOT NULL,
    PRIMARY KEY (device, instance)
) STRICT, WITHOUT ROWID;

-- An inbox that two machines know: the device receives elsewhere, and whoever
-- comes there is a copy.
CREATE TABLE quarantine (
    device INTEGER NOT NULL REFERENCES agent (device) ON DELETE CASCADE,
    inbox BLOB NOT NULL CHECK (length(inbox) = 16),
    kept BLOB NOT NULL CHECK (length(kept) = 8),          -- the process that was there first
    instance BLOB NOT NULL CHECK (length(instance) = 8),  -- the one that came later
    since INTEGER NOT NULL,
    address TEXT,                            -- from where the copy was heard last
    heard INTEGER NOT NULL,
    settled INTEGER NOT NULL DEFAULT 0,      -- the kept one has come to its new inbox
    told INTEGER,                            -- when the copy heard that it is one
    PRIMARY KEY (device, inbox)
) STRICT, WITHOUT ROWID;
