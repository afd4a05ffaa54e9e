-- What retention by policy removed leaves its name and digests; members can be filtered by context; and one place says
-- which digests were ever sealed, wherever the row lives by now.

-- The facts of a roll-up's context (rollup.context is the truth), so that recall filters members like rows.
CREATE TABLE rollup_fact (
    rollup INTEGER NOT NULL REFERENCES rollup (seq),
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (rollup, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX rollup_fact_by_fact ON rollup_fact (key, value, rollup);

-- An experience that is gone, and why. Its id stays known, so that recording it again is still a repeat.
CREATE TABLE retired (
    seq          INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE CHECK (length(id) > 0),
    recorded_at  TEXT NOT NULL,
    event_digest TEXT NOT NULL,
    outcomes     TEXT NOT NULL,    -- canonical JSON: [number, recorded_at, digest] of each row of outcome it had
    policy       TEXT NOT NULL,    -- the rule that ended it, in words
    retired_at   TEXT NOT NULL,
    digest       TEXT NOT NULL     -- sha256 over this row
) STRICT;

DROP TRIGGER event_stays;
CREATE TRIGGER event_stays BEFORE DELETE ON event
WHEN NOT EXISTS (SELECT 1 FROM member WHERE seq = OLD.seq AND id = OLD.id)
 AND NOT EXISTS (SELECT 1 FROM retired WHERE seq = OLD.seq AND id = OLD.id)
BEGIN SELECT raise(ABORT, 'an event is never deleted, only rolled up or retired'); END;
DROP TRIGGER outcome_stays;
CREATE TRIGGER outcome_stays BEFORE DELETE ON outcome
WHEN NOT EXISTS (SELECT 1 FROM member WHERE seq = OLD.event AND outcome_seq = OLD.seq)
 AND NOT EXISTS (SELECT 1 FROM retired WHERE seq = OLD.event)
BEGIN SELECT raise(ABORT, 'outcomes are append-only'); END;

CREATE TRIGGER member_stays_as_is BEFORE UPDATE ON member
BEGIN SELECT raise(ABORT, 'a member is never rewritten'); END;
CREATE TRIGGER member_stays BEFORE DELETE ON member
WHEN NOT EXISTS (SELECT 1 FROM event WHERE seq = OLD.seq AND id = OLD.id)
 AND NOT EXISTS (SELECT 1 FROM retired WHERE seq = OLD.seq AND id = OLD.id)
BEGIN SELECT raise(ABORT, 'a member goes only when it is a row again or retired'); END;
CREATE TRIGGER rollup_stays_as_is BEFORE UPDATE ON rollup
BEGIN SELECT raise(ABORT, 'a roll-up is never rewritten'); END;
CREATE TRIGGER retired_stays_as_is BEFORE UPDATE ON retired
BEGIN SELECT raise(ABORT, 'what was retired stays known'); END;
CREATE TRIGGER retired_stays BEFORE DELETE ON retired
BEGIN SELECT raise(ABORT, 'what was retired stays known'); END;

-- What may be rolled up once it is old: how it ended is final, and nobody judged it.
CREATE VIEW routine AS
SELECT event.seq, event.objective, event.recorded_at, outcome.seq AS outcome_seq
FROM event JOIN outcome ON outcome.event = event.seq
WHERE event.kind NOT IN ('incident', 'analysis') AND outcome.outcome IN ('success', 'no_work')
  AND outcome.recorded_at = event.recorded_at
  AND NOT EXISTS (SELECT 1 FROM outcome AS other WHERE other.event = event.seq AND other.seq <> outcome.seq)
  AND NOT EXISTS (SELECT 1 FROM feedback WHERE feedback.event = event.seq)
  AND NOT EXISTS (SELECT 1 FROM standing WHERE standing.event = event.seq);

-- Every event ever recorded with its digest, wherever it lives: what a day's root is made from.
CREATE VIEW sealed_event AS
SELECT seq, id, recorded_at, digest, 'event' AS home FROM event
UNION ALL SELECT seq, id, recorded_at, event_digest, 'member' FROM member
UNION ALL SELECT seq, id, recorded_at, event_digest, 'retired' FROM retired;

CREATE VIEW sealed_outcome AS
SELECT seq, event, recorded_at, digest, 'outcome' AS home FROM outcome
UNION ALL SELECT outcome_seq, seq, recorded_at, outcome_digest, 'member' FROM member
UNION ALL
SELECT json_extract(each.value, '$[0]'), retired.seq, json_extract(each.value, '$[1]'),
       json_extract(each.value, '$[2]'), 'retired'
FROM retired JOIN json_each(retired.outcomes) AS each;
