-- Objectives and their vectors leave the event rows, so that an event never changes once it is recorded; judgements,
-- standings and roll-ups get their tables. migrated_digest() and vector_digest() are functions of migrate.py.

CREATE TABLE objective (
    key  INTEGER PRIMARY KEY AUTOINCREMENT,    -- names its entry in the index
    text TEXT NOT NULL UNIQUE CHECK (length(text) BETWEEN 1 AND 8000)
) STRICT;

INSERT INTO objective (text) SELECT objective FROM event GROUP BY objective ORDER BY min(seq);

CREATE TABLE event_2 (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT NOT NULL UNIQUE CHECK (length(id) > 0),
    station_id  TEXT NOT NULL CHECK (length(station_id) > 0),
    namespace   TEXT NOT NULL CHECK (length(namespace) > 0),
    origin      TEXT NOT NULL CHECK (length(origin) > 0),
    kind        TEXT NOT NULL,
    objective   INTEGER NOT NULL REFERENCES objective (key),
    domain      TEXT NOT NULL,
    procedure   TEXT NOT NULL,
    task_id     TEXT NOT NULL,
    pulse_id    TEXT NOT NULL,
    occurred_at TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    digest      TEXT NOT NULL    -- sha256 over the row with the objective's text, its context and its prediction
) STRICT;

-- A row that did not match its old digest gets one that nothing matches: damage stays damage.
INSERT INTO event_2
SELECT seq, id, station_id, namespace, origin, kind, objective.key, domain, procedure, task_id, pulse_id,
       occurred_at, recorded_at,
       migrated_digest(
           id, station_id, namespace, origin, kind, objective, domain, procedure, task_id, pulse_id, occurred_at,
           recorded_at, (SELECT json_group_object(key, value) FROM context WHERE event = seq),
           (SELECT predicted FROM confidence WHERE event = seq), vector, model_sha256, dimension, digest
       )
FROM event JOIN objective ON objective.text = event.objective ORDER BY seq;

-- One vector per objective and model: during a change of model an objective has two.
CREATE TABLE vector (
    objective    INTEGER NOT NULL REFERENCES objective (key),
    model_sha256 TEXT NOT NULL,
    dimension    INTEGER NOT NULL CHECK (dimension > 0),
    vector       BLOB NOT NULL,    -- float32[dimension], little endian, unit length
    digest       TEXT NOT NULL,    -- sha256 over the objective's text, model_sha256, dimension and vector
    PRIMARY KEY (objective, model_sha256),
    CHECK (length(vector) = 4 * dimension)
) STRICT;

INSERT INTO vector
SELECT key, model_sha256, dimension, vector, vector_digest(text, model_sha256, dimension, vector)
FROM (
    SELECT objective.key, objective.text, event.model_sha256, event.dimension, event.vector, min(event.seq)
    FROM event JOIN objective ON objective.text = event.objective JOIN event_2 ON event_2.seq = event.seq
    WHERE event.vector IS NOT NULL AND event_2.digest NOT LIKE 'damaged%'
    GROUP BY objective.key, event.model_sha256
)
ORDER BY key;

UPDATE sqlite_sequence SET seq = (SELECT seq FROM sqlite_sequence WHERE name = 'event') WHERE name = 'event_2';
DROP TABLE event;
ALTER TABLE event_2 RENAME TO event;
CREATE INDEX event_by_domain ON event (domain, seq);
CREATE INDEX event_by_objective ON event (objective, seq);

-- What a person or a service said of a recalled experience; append-only. The newest of an event, caller and task (or,
-- without a task, query) counts. `event` may by now be a member of a roll-up, here and in `standing`.
CREATE TABLE feedback_2 (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    event       INTEGER NOT NULL,
    verdict     TEXT NOT NULL CHECK (verdict IN ('useful', 'useless', 'harmful', 'withdrawn')),
    query       TEXT NOT NULL,
    cosine      REAL CHECK (cosine BETWEEN -1 AND 1),    -- as it was recalled; null: not told
    task_id     TEXT NOT NULL,                           -- the task it was used for; empty: none
    caller      TEXT NOT NULL,
    recorded_at TEXT NOT NULL
) STRICT;
INSERT INTO feedback_2
SELECT seq, event, CASE useful WHEN 1 THEN 'useful' ELSE 'useless' END, query, NULL, '', caller, recorded_at
FROM feedback ORDER BY seq;
DROP TABLE feedback;
ALTER TABLE feedback_2 RENAME TO feedback;
CREATE INDEX feedback_by_event ON feedback (event, seq);

-- Whether an experience may still be believed. The highest seq of an event counts; no row: valid.
CREATE TABLE standing (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    event       INTEGER NOT NULL,
    standing    TEXT NOT NULL CHECK (standing IN ('valid', 'superseded', 'invalidated', 'evicted')),
    because_of  TEXT NOT NULL,    -- id of the experience that supersedes it; empty: none
    reason      TEXT NOT NULL,
    caller      TEXT NOT NULL,
    recorded_at TEXT NOT NULL
) STRICT;
CREATE INDEX standing_by_event ON standing (event, seq);

-- Old routine work that agrees in everything but its time and figures: facts are kept once, figures per member.
CREATE TABLE rollup (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    station_id TEXT NOT NULL,
    namespace  TEXT NOT NULL,
    origin     TEXT NOT NULL,
    kind       TEXT NOT NULL,
    objective  INTEGER NOT NULL REFERENCES objective (key),
    domain     TEXT NOT NULL,
    procedure  TEXT NOT NULL,
    outcome    TEXT NOT NULL CHECK (outcome IN ('success', 'no_work')),
    context    TEXT NOT NULL,    -- canonical JSON
    UNIQUE (station_id, namespace, origin, kind, objective, domain, procedure, outcome, context)
) STRICT;

-- A rolled-up experience keeps its number and its id, so that recording it again is still a repeat.
CREATE TABLE member (
    seq              INTEGER PRIMARY KEY,
    id               TEXT NOT NULL UNIQUE CHECK (length(id) > 0),
    rollup           INTEGER NOT NULL REFERENCES rollup (seq),
    task_id          TEXT NOT NULL,
    pulse_id         TEXT NOT NULL,
    occurred_at      TEXT NOT NULL,
    recorded_at      TEXT NOT NULL,
    tes              REAL CHECK (tes BETWEEN 0 AND 100),
    duration_seconds REAL CHECK (duration_seconds >= 0),
    files_changed    INTEGER CHECK (files_changed >= 0),
    predicted        REAL CHECK (predicted BETWEEN 0 AND 1),
    cost             TEXT NOT NULL,               -- canonical JSON, name to number
    outcome_seq      INTEGER NOT NULL UNIQUE,     -- the number that its row of outcome had
    event_digest     TEXT NOT NULL,               -- as the rows had them, so that a day's root can be told again
    outcome_digest   TEXT NOT NULL,
    digest           TEXT NOT NULL                -- sha256 over this row and its roll-up's facts
) STRICT;
CREATE INDEX member_by_rollup ON member (rollup, seq);

-- What was recorded is never rewritten, and goes only into a roll-up.
CREATE TRIGGER event_stays_as_is BEFORE UPDATE ON event
BEGIN SELECT raise(ABORT, 'an event is never rewritten'); END;
CREATE TRIGGER event_stays BEFORE DELETE ON event WHEN NOT EXISTS (SELECT 1 FROM member WHERE seq = OLD.seq AND id = OLD.id)
BEGIN SELECT raise(ABORT, 'an event is never deleted, only rolled up'); END;
DROP TRIGGER outcome_stays;
CREATE TRIGGER outcome_stays BEFORE DELETE ON outcome
WHEN NOT EXISTS (SELECT 1 FROM member WHERE seq = OLD.event AND outcome_seq = OLD.seq)
BEGIN SELECT raise(ABORT, 'outcomes are append-only'); END;
CREATE TRIGGER standing_stays_as_is BEFORE UPDATE ON standing
BEGIN SELECT raise(ABORT, 'standings are append-only'); END;
CREATE TRIGGER standing_stays BEFORE DELETE ON standing
BEGIN SELECT raise(ABORT, 'standings are append-only'); END;
CREATE TRIGGER feedback_stays_as_is BEFORE UPDATE ON feedback
BEGIN SELECT raise(ABORT, 'judgements are append-only'); END;
CREATE TRIGGER feedback_stays BEFORE DELETE ON feedback
BEGIN SELECT raise(ABORT, 'judgements are append-only'); END;
