-- Who joined from outside, what they proposed, and what they hold. Of a token only its sha256 is kept.
CREATE TABLE agent (
    name         TEXT PRIMARY KEY,
    token_sha256 TEXT NOT NULL UNIQUE,
    domains      TEXT NOT NULL,
    invited_by   TEXT NOT NULL,
    invited_at   TEXT NOT NULL,
    revoked_at   TEXT,
    last_seen    TEXT,
    version      TEXT NOT NULL,
    capabilities TEXT NOT NULL,
    report       TEXT NOT NULL,
    reported_at  TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE agent_claim (
    task_id    TEXT NOT NULL REFERENCES task (id),
    epoch      INTEGER NOT NULL,
    worker     TEXT NOT NULL,
    claimed_at TEXT NOT NULL, -- on the CBO's clock: an ack's times count from it
    PRIMARY KEY (task_id, epoch)
) STRICT, WITHOUT ROWID;

-- A wish that was waiting for a person already under another key: both keys mean that one task.
CREATE TABLE proposal_alias (
    id      TEXT PRIMARY KEY,
    task_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Who wished for a task (agent:<name>, inbox; '' is the CBO's own plan), and a shorter life than its domain's.
ALTER TABLE task ADD COLUMN source TEXT NOT NULL DEFAULT '';
ALTER TABLE task ADD COLUMN ttl_seconds REAL;

-- Open tasks of one owner, and what waits for a person, without reading everybody's.
CREATE INDEX task_owner_open ON task (owner, created_at)
    WHERE state IN ('held', 'proposed', 'waiting', 'ready', 'claimed');
