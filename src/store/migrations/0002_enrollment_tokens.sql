-- Enrollment tokens. Times are Unix milliseconds; labels and networks are JSON arrays. One that was deleted
-- stays as long as a runner that came by it. The records of earlier versions name the token of the settings.
CREATE TABLE tokens (
    id             TEXT PRIMARY KEY,
    kind           TEXT NOT NULL,
    origin         TEXT NOT NULL,
    active         INTEGER NOT NULL,
    cascade        INTEGER NOT NULL,
    deleted_at     INTEGER,
    -- The token that it was exchanged for.
    parent_id      TEXT,
    description    TEXT NOT NULL,
    scope          TEXT NOT NULL,
    labels         TEXT NOT NULL,
    name_pattern   TEXT,
    ephemeral_only INTEGER NOT NULL,
    max_uses       INTEGER,
    max_runners    INTEGER,
    expires_at     INTEGER,
    allowed_cidrs  TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    created_by     TEXT NOT NULL,
    last_used_at   INTEGER,
    uses           INTEGER NOT NULL
) STRICT;

-- Declared tokens have none here: theirs are in files.
CREATE TABLE token_secrets (
    -- SHA-256 of the secret.
    digest   BLOB PRIMARY KEY CHECK (length(digest) = 32),
    token_id TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    -- When an old one of a rotation ends; NULL: the current one.
    until    INTEGER
) STRICT;

CREATE INDEX token_secrets_token ON token_secrets (token_id);

-- The audit trail.
CREATE TABLE events (
    -- AUTOINCREMENT: the number of a pruned event never comes back.
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    at        INTEGER NOT NULL,
    actor     TEXT NOT NULL,
    what      TEXT NOT NULL,
    token_id  TEXT,
    runner_id INTEGER,
    runner    TEXT,
    peer      TEXT,
    detail    TEXT NOT NULL
) STRICT;

-- Each ends with the row's number, so that the latest are found without sorting.
CREATE INDEX events_token ON events (token_id) WHERE token_id IS NOT NULL;
CREATE INDEX events_runner ON events (runner_id) WHERE runner_id IS NOT NULL;
CREATE INDEX events_what ON events (what);
CREATE INDEX events_at ON events (at);
