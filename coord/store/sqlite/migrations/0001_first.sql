CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE tokens (
    id         TEXT PRIMARY KEY,
    hash       BLOB NOT NULL UNIQUE,    -- SHA-256 of the token's public key; the secret is not here
    created_at INTEGER NOT NULL,        -- times are Unix nanoseconds, 0 for none
    expires_at INTEGER NOT NULL,
    reusable   INTEGER NOT NULL,
    uses       INTEGER NOT NULL,
    owner      TEXT NOT NULL,
    tags       TEXT NOT NULL,           -- JSON
    ephemeral  INTEGER NOT NULL,
    revoked    INTEGER NOT NULL,
    relay      INTEGER NOT NULL
) STRICT;

CREATE TABLE token_uses (
    token    TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    device   BLOB NOT NULL,
    at       INTEGER NOT NULL,
    requests BLOB NOT NULL,             -- SHA-256 of each enrolment request that was granted
    PRIMARY KEY (token, device)
) STRICT, WITHOUT ROWID;

CREATE TABLE devices (
    key        BLOB PRIMARY KEY,
    name       TEXT UNIQUE,             -- NULL for a tombstone
    payload    BLOB NOT NULL,           -- the DeviceRecord as it was signed
    signature  BLOB NOT NULL,
    removed_at INTEGER NOT NULL,
    gone       INTEGER NOT NULL,        -- peers were told that it expired
    sequence   INTEGER NOT NULL,
    hostname   TEXT NOT NULL,
    os         TEXT NOT NULL,
    version    TEXT NOT NULL,
    last_seen  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE addresses (
    address BLOB PRIMARY KEY,
    device  BLOB NOT NULL REFERENCES devices (key) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE INDEX addresses_device ON addresses (device);

CREATE TABLE node_keys (                -- current and next ones
    node_key BLOB PRIMARY KEY,
    device   BLOB NOT NULL REFERENCES devices (key) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE INDEX node_keys_device ON node_keys (device);

CREATE TABLE relays (
    key         BLOB PRIMARY KEY,
    description BLOB NOT NULL,          -- Relay message
    removed     INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    last_seen   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE changes (
    revision  INTEGER PRIMARY KEY AUTOINCREMENT,
    kind      INTEGER NOT NULL,
    audience  BLOB NOT NULL,            -- a device key, or empty for everybody
    id        BLOB NOT NULL,
    payload   BLOB,                     -- NULL: out of sight
    signature BLOB
) STRICT;

CREATE UNIQUE INDEX changes_object ON changes (kind, id, audience);
