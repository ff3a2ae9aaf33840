-- Bytes a day that a device may spend on all but payload; NULL = as it likes.
ALTER TABLE agent ADD COLUMN data_budget INTEGER;

-- Pairs of devices that keep the way to each other open while nobody talks.
CREATE TABLE warm_pair (
    low INTEGER NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    high INTEGER NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    since INTEGER NOT NULL,
    PRIMARY KEY (low, high),
    CHECK (low < high)
) STRICT, WITHOUT ROWID;
CREATE INDEX warm_pair_high ON warm_pair (high);
