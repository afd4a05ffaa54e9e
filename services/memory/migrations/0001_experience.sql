-- The first schema: one row in event per experience, its circumstances, its outcomes over time, its prediction.

CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- AUTOINCREMENT keeps the highest number ever given, so that a row missing from the end shows as well.
CREATE TABLE event (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT NOT NULL UNIQUE CHECK (length(id) > 0),
    station_id   TEXT NOT NULL CHECK (length(station_id) > 0),
    namespace    TEXT NOT NULL CHECK (length(namespace) > 0),
    origin       TEXT NOT NULL CHECK (length(origin) > 0),
    kind         TEXT NOT NULL,
    objective    TEXT NOT NULL CHECK (length(objective) BETWEEN 1 AND 8000),
    domain       TEXT NOT NULL,
    procedure    TEXT NOT NULL,
    task_id      TEXT NOT NULL,
    pulse_id     TEXT NOT NULL,
    occurred_at  TEXT NOT NULL,
    recorded_at  TEXT NOT NULL,
    vector       BLOB,             -- float32[dimension], little endian, unit length; null: not embedded yet
    model_sha256 TEXT,
    dimension    INTEGER,
    digest       TEXT NOT NULL,    -- sha256 over the row, its context, its prediction and its vector
    CHECK ((vector IS NULL) = (model_sha256 IS NULL) AND (vector IS NULL) = (dimension IS NULL)),
    CHECK (vector IS NULL OR length(vector) = 4 * dimension)
) STRICT;

CREATE INDEX event_by_domain ON event (domain, seq);

CREATE TABLE context (
    event INTEGER NOT NULL REFERENCES event (seq),
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (event, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX context_by_fact ON context (key, value, event);

-- The first row of an event is how it ended; each later row is an amendment. The highest seq counts.
CREATE TABLE outcome (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,
    event            INTEGER NOT NULL REFERENCES event (seq),
    amendment_id     TEXT UNIQUE,
    outcome          TEXT NOT NULL CHECK (outcome IN ('success', 'failure', 'unknown', 'no_work')),
    tes              REAL CHECK (tes BETWEEN 0 AND 100),
    duration_seconds REAL CHECK (duration_seconds >= 0),
    files_changed    INTEGER CHECK (files_changed >= 0),
    cost             TEXT NOT NULL,    -- canonical JSON, name to number
    evidence         TEXT NOT NULL,
    recorded_at      TEXT NOT NULL,
    digest           TEXT NOT NULL     -- sha256 over the row and its event's id
) STRICT;

CREATE INDEX outcome_by_event ON outcome (event, seq);

-- The prediction of success, made before the act. No row: none was made.
CREATE TABLE confidence (
    event     INTEGER NOT NULL PRIMARY KEY REFERENCES event (seq),
    predicted REAL NOT NULL CHECK (predicted BETWEEN 0 AND 1)
) STRICT;

CREATE TABLE feedback (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    event       INTEGER NOT NULL REFERENCES event (seq),
    useful      INTEGER NOT NULL CHECK (useful IN (0, 1)),
    query       TEXT NOT NULL,
    caller      TEXT NOT NULL,
    recorded_at TEXT NOT NULL
) STRICT;

-- What was recorded is never rewritten: only a vector may be made anew by another model.
CREATE TRIGGER event_facts_stay BEFORE UPDATE OF
    seq, id, station_id, namespace, origin, kind, objective, domain, procedure, task_id, pulse_id,
    occurred_at, recorded_at ON event
BEGIN SELECT raise(ABORT, 'an event is never rewritten'); END;
CREATE TRIGGER event_stays BEFORE DELETE ON event
BEGIN SELECT raise(ABORT, 'an event is never deleted'); END;
CREATE TRIGGER outcome_stays_as_is BEFORE UPDATE ON outcome
BEGIN SELECT raise(ABORT, 'outcomes are append-only'); END;
CREATE TRIGGER outcome_stays BEFORE DELETE ON outcome
BEGIN SELECT raise(ABORT, 'outcomes are append-only'); END;
