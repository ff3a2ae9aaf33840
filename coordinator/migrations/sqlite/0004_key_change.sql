-- The planned change of the coordinator's own key. `installation.coordinator` is
-- the current key; the next one is announced in every network's settings.
ALTER TABLE installation ADD COLUMN generation INTEGER NOT NULL DEFAULT 0; -- counts changes
ALTER TABLE installation ADD COLUMN announced INTEGER;                -- when the next key was
ALTER TABLE network ADD COLUMN next_pin_revision INTEGER NOT NULL DEFAULT 0; -- the map that told it first
-- The generation whose key a join string pins; an older one lets nobody in.
ALTER TABLE enrolment_key ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
