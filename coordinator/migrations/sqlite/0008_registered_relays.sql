-- Relays that join by a string, beside those of the configuration (`key` is NULL).
ALTER TABLE relay ADD COLUMN told INTEGER NOT NULL DEFAULT 1;     -- devices are told of it
ALTER TABLE relay ADD COLUMN key INTEGER;                         -- of its string: 60 random bits
ALTER TABLE relay ADD COLUMN key_expires INTEGER;                 -- NULL = never
ALTER TABLE relay ADD COLUMN master INTEGER NOT NULL DEFAULT 0;   -- what its secrets are derived from
ALTER TABLE relay ADD COLUMN created INTEGER NOT NULL DEFAULT 0;
ALTER TABLE relay ADD COLUMN identity BLOB CHECK (length(identity) = 32); -- NULL = it did not join yet
ALTER TABLE relay ADD COLUMN joined INTEGER;
ALTER TABLE relay ADD COLUMN version TEXT NOT NULL DEFAULT '';
ALTER TABLE relay ADD COLUMN draining INTEGER NOT NULL DEFAULT 0; -- an operator wants it
CREATE UNIQUE INDEX relay_key ON relay (key);
CREATE UNIQUE INDEX relay_identity ON relay (identity);
