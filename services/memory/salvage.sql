-- Takes rows that hold from another file, attached as `source`, into a new store. Temporary tables: `good` and
-- `good_outcome` (numbers whose digests hold), `mapped` (keys of objectives there and here), `fresh` (rows to take).

-- name: salvage_begin
CREATE TEMP TABLE IF NOT EXISTS good (seq INTEGER PRIMARY KEY);
CREATE TEMP TABLE IF NOT EXISTS good_outcome (seq INTEGER PRIMARY KEY);
CREATE TEMP TABLE IF NOT EXISTS fresh (seq INTEGER PRIMARY KEY);
CREATE TEMP TABLE IF NOT EXISTS taken (seq INTEGER PRIMARY KEY);
CREATE TEMP TABLE IF NOT EXISTS mapped (old INTEGER PRIMARY KEY, new INTEGER NOT NULL);
DELETE FROM good; DELETE FROM good_outcome; DELETE FROM fresh; DELETE FROM taken; DELETE FROM mapped;

-- name: salvage_events
INSERT INTO fresh SELECT seq FROM source.event AS theirs WHERE seq IN (SELECT seq FROM good)
    AND NOT EXISTS (SELECT 1 FROM main.sealed_event WHERE seq = theirs.seq)
    AND NOT EXISTS (SELECT 1 FROM main.sealed_event WHERE id = theirs.id);
INSERT OR IGNORE INTO main.objective (key, text)
    SELECT key, text FROM source.objective WHERE key IN (
        SELECT objective FROM source.event WHERE seq IN (SELECT seq FROM good));
INSERT OR IGNORE INTO main.objective (text)
    SELECT text FROM source.objective WHERE key IN (
        SELECT objective FROM source.event WHERE seq IN (SELECT seq FROM good));
INSERT INTO mapped SELECT theirs.key, ours.key FROM source.objective AS theirs
    JOIN main.objective AS ours ON ours.text = theirs.text;
INSERT INTO main.event (seq, id, station_id, namespace, origin, kind, objective, domain, procedure, task_id, pulse_id,
                        occurred_at, recorded_at, digest)
    SELECT seq, id, station_id, namespace, origin, kind, mapped.new, domain, procedure, task_id, pulse_id,
           occurred_at, recorded_at, digest
    FROM source.event JOIN mapped ON mapped.old = objective WHERE seq IN (SELECT seq FROM fresh) ORDER BY seq;
INSERT INTO main.context (event, key, value)
    SELECT event, key, value FROM source.context WHERE event IN (SELECT seq FROM fresh);
INSERT INTO main.confidence (event, predicted)
    SELECT event, predicted FROM source.confidence WHERE event IN (SELECT seq FROM fresh);

-- name: salvage_names
-- An outcome is checked with its event's id: where that row is damaged there, the one that is here by now is asked.
DELETE FROM source.event WHERE seq NOT IN (SELECT seq FROM good);
INSERT OR IGNORE INTO source.event SELECT * FROM main.event WHERE seq NOT IN (SELECT seq FROM source.event);

-- name: salvage_outcomes
INSERT INTO taken SELECT DISTINCT seq FROM main.sealed_outcome WHERE seq IS NOT NULL;
INSERT OR IGNORE INTO main.outcome (seq, event, amendment_id, outcome, tes, duration_seconds, files_changed, cost,
                                    evidence, recorded_at, digest)
    SELECT theirs.seq, ours.seq, amendment_id, outcome, tes, duration_seconds, files_changed, cost, evidence,
           theirs.recorded_at, theirs.digest
    FROM source.outcome AS theirs JOIN source.event AS of ON of.seq = theirs.event JOIN main.event AS ours ON ours.id = of.id
    WHERE theirs.seq IN (SELECT seq FROM good_outcome) AND theirs.seq NOT IN (SELECT seq FROM taken)
    ORDER BY theirs.seq;

-- name: salvage_vectors
INSERT OR IGNORE INTO main.vector (objective, model_sha256, dimension, vector, digest)
    SELECT mapped.new, model_sha256, dimension, vector, digest FROM source.vector JOIN mapped ON mapped.old = objective
    WHERE objective IN (SELECT seq FROM good);

-- name: salvage_unsealed
-- Judgements and standings carry no digest of their own.
INSERT OR IGNORE INTO main.feedback (seq, event, verdict, query, cosine, task_id, caller, recorded_at)
    SELECT seq, event, verdict, query, cosine, task_id, caller, recorded_at FROM source.feedback
    WHERE event IN (SELECT seq FROM main.sealed_event);
INSERT OR IGNORE INTO main.standing (seq, event, standing, because_of, reason, caller, recorded_at)
    SELECT seq, event, standing, because_of, reason, caller, recorded_at FROM source.standing
    WHERE event IN (SELECT seq FROM main.sealed_event);

-- name: salvage_roots
INSERT OR IGNORE INTO main.meta SELECT key, value FROM source.meta WHERE key >= 'root:' AND key < 'root;';

-- name: salvage_meta
INSERT OR IGNORE INTO main.meta SELECT key, value FROM source.meta WHERE key <> 'redo_through';

-- name: events_without_outcome
SELECT seq, id FROM event WHERE NOT EXISTS (SELECT 1 FROM outcome WHERE event = event.seq AND amendment_id IS NULL);

-- name: triggers_against_deleting
SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name IN ('event_stays', 'outcome_stays');

-- name: all_sealed_events
SELECT seq FROM sealed_event;

-- name: all_sealed_outcomes
SELECT seq FROM sealed_outcome WHERE seq IS NOT NULL;

-- name: raise_number
UPDATE sqlite_sequence SET seq = max(ifnull(seq, 0), :number) WHERE name = :name;

-- name: begin_number
INSERT INTO sqlite_sequence (name, seq) SELECT :name, :number
WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = :name);
