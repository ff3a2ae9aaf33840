-- Relays that devices may use, as the configuration names them. Their secrets are
-- in files of their own.
CREATE TABLE relay (
    number INTEGER PRIMARY KEY CHECK (number BETWEEN 1 AND 65535), -- names it to devices
    name TEXT NOT NULL UNIQUE,
    region TEXT NOT NULL,
    position INTEGER NOT NULL,               -- those that are tried first come first
    addresses TEXT NOT NULL,                 -- one of each family at most
    udp TEXT NOT NULL,                       -- ports, the usual one first
    tcp INTEGER NOT NULL,                    -- ports; 0 = none
    tls INTEGER NOT NULL
) STRICT;
