-- "RBrk": tells this broker's database from another program's.
PRAGMA application_id = 0x5242726b;

-- What was about to be asked of Gitea. Times are Unix milliseconds; labels and tasks are JSON arrays.
CREATE TABLE intents (
    nonce      TEXT PRIMARY KEY,
    scope      TEXT NOT NULL,
    parent_id  TEXT NOT NULL,
    name       TEXT NOT NULL,
    labels     TEXT NOT NULL,
    ephemeral  INTEGER NOT NULL,
    peer       TEXT NOT NULL,
    codec      TEXT NOT NULL,
    version    TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    -- Why the outcome is unknown; NULL: not known to be unclear.
    unclear    TEXT
) STRICT;

CREATE TABLE runners (
    -- AUTOINCREMENT: the number of a pruned record never comes back.
    record_id       INTEGER PRIMARY KEY AUTOINCREMENT,
    scope           TEXT NOT NULL,
    presented_id    INTEGER NOT NULL,
    presented_uuid  TEXT NOT NULL,
    presented_token TEXT NOT NULL,
    upstream_id     INTEGER NOT NULL,
    upstream_uuid   TEXT NOT NULL,
    upstream_token  TEXT NOT NULL,
    name            TEXT NOT NULL,
    labels          TEXT NOT NULL,
    version         TEXT NOT NULL,
    ephemeral       INTEGER NOT NULL,
    parent_id       TEXT NOT NULL,
    peer            TEXT NOT NULL,
    -- Host and port at which it dialled the broker.
    dialled         TEXT,
    registered_at   INTEGER NOT NULL,
    delivered       INTEGER NOT NULL DEFAULT 0,
    spoke           INTEGER NOT NULL DEFAULT 0,
    last_seen_at    INTEGER,
    tasks           TEXT NOT NULL DEFAULT '[]',
    state           TEXT NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'deregistering', 'ended')),
    reason          TEXT,
    ended_at        INTEGER,
    -- A path is bytes, not always text.
    file            BLOB,
    CHECK ((state = 'active') = (reason IS NULL)),
    CHECK ((state = 'ended') = (ended_at IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX runners_live_uuid ON runners (presented_uuid) WHERE state <> 'ended';
CREATE INDEX runners_ended_uuid ON runners (presented_uuid) WHERE state = 'ended';

-- Gitea's answer and who may ask for it again, until the runner speaks.
CREATE TABLE answers (
    record_id INTEGER PRIMARY KEY REFERENCES runners (record_id) ON DELETE CASCADE,
    parent_id TEXT NOT NULL,
    name      TEXT NOT NULL,
    labels    TEXT NOT NULL,
    ephemeral INTEGER NOT NULL,
    peer      TEXT NOT NULL,
    codec     TEXT NOT NULL,
    answer    BLOB NOT NULL
) STRICT;

-- What the readiness check writes.
CREATE TABLE probe (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at INTEGER NOT NULL
) STRICT;
