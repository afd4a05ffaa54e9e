-- The CBO's own state. Times are ISO 8601 UTC with microseconds, so that they sort as text.
CREATE TABLE objective (
    id              TEXT PRIMARY KEY,
    text            TEXT NOT NULL,
    domain          TEXT NOT NULL,
    source          TEXT NOT NULL,
    created_at      TEXT NOT NULL,
    every_seconds   REAL,
    at              TEXT,
    every_pulse     INTEGER NOT NULL,
    params          TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('active', 'done', 'cancelled')),
    last_planned_at TEXT,
    tasks           INTEGER NOT NULL,
    key             TEXT NOT NULL,
    note            TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX objective_key ON objective (key) WHERE key <> '';
CREATE INDEX objective_state ON objective (state);

CREATE TABLE pulse (
    number     INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused, not even after the last row is deleted
    id         TEXT NOT NULL UNIQUE,
    started_at TEXT NOT NULL,
    status     TEXT NOT NULL CHECK (status IN ('running', 'complete', 'interrupted')),
    summary    TEXT NOT NULL,
    record     BLOB -- kept until the file is known to be written
) STRICT;
CREATE INDEX pulse_record ON pulse (number) WHERE record IS NOT NULL;
CREATE INDEX pulse_running ON pulse (number) WHERE status = 'running';

CREATE TABLE task (
    id             TEXT PRIMARY KEY,
    domain         TEXT NOT NULL,
    procedure      TEXT NOT NULL,
    owner          TEXT NOT NULL,
    state          TEXT NOT NULL,
    level          INTEGER NOT NULL,
    created_at     TEXT NOT NULL,
    objective_id   TEXT NOT NULL,
    objective      TEXT NOT NULL,
    params         TEXT NOT NULL,
    attempt        INTEGER NOT NULL,
    rehearsal      INTEGER NOT NULL,
    rehearsal_of   TEXT NOT NULL,
    plan_digest    TEXT NOT NULL,
    approval       TEXT NOT NULL,
    approved_as    TEXT NOT NULL,
    undo_of        TEXT NOT NULL,
    gates          TEXT NOT NULL,
    prediction     REAL,
    choices        TEXT NOT NULL,
    recalled       TEXT NOT NULL,
    pulse_id       TEXT NOT NULL,
    ended_pulse_id TEXT NOT NULL,
    dispatched_at  TEXT,
    ended_at       TEXT,
    scored         INTEGER NOT NULL,
    probe_tries    INTEGER NOT NULL,
    tes            REAL,
    tes_note       TEXT NOT NULL,
    stability      REAL,
    ack            TEXT,
    why            TEXT NOT NULL,
    remembered     INTEGER NOT NULL,
    worked         INTEGER NOT NULL DEFAULT 0 -- scored as work, whether the TES is known or not
) STRICT;
CREATE INDEX task_state ON task (state);
CREATE INDEX task_open ON task (state) WHERE state IN ('held', 'waiting', 'ready', 'claimed');
CREATE INDEX task_asks ON task (created_at) WHERE state IN ('proposed', 'rehearsed');
CREATE INDEX task_unscored ON task (created_at)
    WHERE scored = 0 AND state IN ('rehearsed', 'done', 'failed', 'expired', 'cancelled', 'dead');
CREATE INDEX task_unremembered ON task (created_at) WHERE scored = 1 AND remembered = 0;
CREATE INDEX task_created ON task (created_at);
CREATE INDEX task_objective ON task (objective_id, created_at);
CREATE INDEX task_dispatched ON task (domain, dispatched_at);
-- Covers what the KPIs of 24 h ask.
CREATE INDEX task_worked ON task (ended_at, rehearsal, domain, tes, stability, prediction) WHERE worked = 1;

CREATE TABLE task_target (
    target   TEXT NOT NULL,
    ended_at TEXT NOT NULL,
    task_id  TEXT NOT NULL REFERENCES task (id),
    PRIMARY KEY (target, ended_at, task_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX task_target_task ON task_target (task_id);

CREATE TABLE verification (
    task_id   TEXT NOT NULL REFERENCES task (id),
    "window"  TEXT NOT NULL,
    due_at    TEXT NOT NULL,
    verdict   TEXT NOT NULL,
    probed_at TEXT,
    prober    TEXT NOT NULL,
    detail    TEXT NOT NULL,
    PRIMARY KEY (task_id, "window")
) STRICT, WITHOUT ROWID;
CREATE INDEX verification_due ON verification (due_at) WHERE verdict = 'pending';

CREATE TABLE ladder (
    domain     TEXT PRIMARY KEY,
    standing   TEXT NOT NULL,
    changed_at TEXT NOT NULL
) STRICT;

-- What the standing is folded from.
CREATE TABLE ladder_entry (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    domain TEXT NOT NULL,
    at     TEXT NOT NULL,
    entry  TEXT NOT NULL
) STRICT;
CREATE INDEX ladder_entry_domain ON ladder_entry (domain, number);

CREATE TABLE posterior (
    domain    TEXT NOT NULL,
    procedure TEXT NOT NULL, -- '' is the whole domain
    at        TEXT NOT NULL,
    successes REAL NOT NULL,
    failures  REAL NOT NULL,
    cpu_seconds   REAL,
    bytes_written REAL,
    PRIMARY KEY (domain, procedure)
) STRICT, WITHOUT ROWID;

CREATE TABLE confidence_point (
    domain TEXT NOT NULL,
    at     TEXT NOT NULL,
    mean   REAL NOT NULL,
    PRIMARY KEY (domain, at)
) STRICT, WITHOUT ROWID;

CREATE TABLE fact (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
