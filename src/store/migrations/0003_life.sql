-- More states, how a runner came, and what the broker did to it in Gitea. A check cannot be changed in place, so the
-- table is made anew; foreign keys are off meanwhile.
CREATE TABLE runners_new (
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
    origin          TEXT NOT NULL,
    -- Empty: it came by none.
    parent_id       TEXT NOT NULL,
    peer            TEXT NOT NULL,
    -- Host and port at which it dialled the broker.
    dialled         TEXT,
    registered_at   INTEGER NOT NULL,
    delivered       INTEGER NOT NULL DEFAULT 0,
    spoke           INTEGER NOT NULL DEFAULT 0,
    last_seen_at    INTEGER,
    tasks           TEXT NOT NULL DEFAULT '[]',
    state           TEXT NOT NULL DEFAULT 'active'
        CHECK (state IN ('active', 'lost', 'deregistering', 'parked', 'ended')),
    reason          TEXT,
    ended_at        INTEGER,
    declare_due     INTEGER NOT NULL DEFAULT 0,
    disabled        INTEGER NOT NULL DEFAULT 0,
    -- A path is bytes, not always text.
    file            BLOB,
    CHECK ((state IN ('active', 'lost')) = (reason IS NULL)),
    CHECK ((state = 'ended') = (ended_at IS NOT NULL))
) STRICT;

INSERT INTO runners_new (record_id, scope, presented_id, presented_uuid, presented_token,
                         upstream_id, upstream_uuid, upstream_token, name, labels, version, ephemeral,
                         origin, parent_id, peer, dialled, registered_at, delivered, spoke, last_seen_at,
                         tasks, state, reason, ended_at, file)
SELECT record_id, scope, presented_id, presented_uuid, presented_token,
       upstream_id, upstream_uuid, upstream_token, name, labels, version, ephemeral,
       'enrolled', parent_id, peer, dialled, registered_at, delivered, spoke, last_seen_at,
       tasks, state, reason, ended_at, file
FROM runners;

-- The count goes on where it was, also where the latest records are pruned.
INSERT INTO sqlite_sequence (name, seq)
SELECT 'runners_new', 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'runners_new');
UPDATE sqlite_sequence
SET seq = max(seq, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'runners'), 0))
WHERE name = 'runners_new';

DROP TABLE runners;
ALTER TABLE runners_new RENAME TO runners;

CREATE UNIQUE INDEX runners_live_uuid ON runners (presented_uuid) WHERE state <> 'ended';
CREATE INDEX runners_ended_uuid ON runners (presented_uuid) WHERE state = 'ended';
