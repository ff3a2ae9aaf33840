-- The rotation of a device's WireGuard key. `wg_key` is the one that peers use;
-- a second one is accepted beside it: the next, or the one before.
ALTER TABLE device ADD COLUMN key_since INTEGER NOT NULL DEFAULT 0;   -- when wg_key came into use
ALTER TABLE device ADD COLUMN key_number INTEGER NOT NULL DEFAULT 0;  -- counts rotations asked for
ALTER TABLE device ADD COLUMN key_wanted INTEGER;                     -- since when one is asked for
ALTER TABLE device ADD COLUMN second_key BLOB CHECK (length(second_key) = 32);
ALTER TABLE device ADD COLUMN second_kind TEXT CHECK (second_kind IN ('next', 'previous'));
ALTER TABLE device ADD COLUMN second_since INTEGER;
ALTER TABLE device ADD COLUMN second_until INTEGER;                   -- of the one before
ALTER TABLE device ADD COLUMN key_revision INTEGER NOT NULL DEFAULT 0; -- map revision of the last step
UPDATE device SET key_since = created;
CREATE UNIQUE INDEX device_second_key ON device (second_key) WHERE second_key IS NOT NULL;
CREATE INDEX device_rotating ON device (id) WHERE key_wanted IS NOT NULL OR second_key IS NOT NULL;
CREATE INDEX device_key_since ON device (key_since);
