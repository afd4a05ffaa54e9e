-- name: insert_event
INSERT INTO event (id, station_id, namespace, origin, kind, objective, domain, procedure, task_id, pulse_id,
                   occurred_at, recorded_at, vector, model_sha256, dimension, digest)
VALUES (:id, :station_id, :namespace, :origin, :kind, :objective, :domain, :procedure, :task_id, :pulse_id,
        :occurred_at, :recorded_at, :vector, :model_sha256, :dimension, :digest);

-- name: insert_context
INSERT INTO context (event, key, value) VALUES (?, ?, ?);

-- name: insert_confidence
INSERT INTO confidence (event, predicted) VALUES (?, ?);

-- name: insert_outcome
INSERT INTO outcome (event, amendment_id, outcome, tes, duration_seconds, files_changed, cost, evidence,
                     recorded_at, digest)
VALUES (:event, :amendment_id, :outcome, :tes, :duration_seconds, :files_changed, :cost, :evidence,
        :recorded_at, :digest);

-- name: insert_feedback
INSERT INTO feedback (event, useful, query, caller, recorded_at) VALUES (?, ?, ?, ?, ?);

-- name: set_vector
UPDATE event SET vector = :vector, model_sha256 = :model_sha256, dimension = :dimension, digest = :digest
WHERE seq = :seq;

-- name: set_meta
INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- name: get_meta
SELECT value FROM meta WHERE key = ?;

-- name: seq_of
SELECT seq FROM event WHERE id = ?;

-- name: amendment
SELECT event FROM outcome WHERE amendment_id = ?;

-- name: count_feedback
SELECT count(*) FROM feedback;

-- name: events_by_seq
SELECT seq, id, station_id, namespace, origin, kind, objective, domain, procedure, task_id, pulse_id,
       occurred_at, recorded_at, vector, model_sha256, dimension, digest,
       (SELECT predicted FROM confidence WHERE event = event.seq) AS predicted
FROM event WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq;

-- name: all_events
SELECT seq, id, station_id, namespace, origin, kind, objective, domain, procedure, task_id, pulse_id,
       occurred_at, recorded_at, vector, model_sha256, dimension, digest,
       (SELECT predicted FROM confidence WHERE event = event.seq) AS predicted
FROM event WHERE seq > ? ORDER BY seq LIMIT ?;

-- name: contexts_by_seq
SELECT event, key, value FROM context WHERE event IN (SELECT value FROM json_each(?)) ORDER BY event, key;

-- name: outcomes_by_seq
SELECT seq, event, amendment_id, outcome, tes, duration_seconds, files_changed, cost, evidence, recorded_at, digest
FROM outcome WHERE event IN (SELECT value FROM json_each(?)) ORDER BY event, seq;

-- name: vectors_by_seq
SELECT seq, vector FROM event WHERE seq IN (SELECT value FROM json_each(?));

-- name: newest
SELECT seq FROM event ORDER BY seq DESC LIMIT ?;

-- name: newest_of_domain
SELECT seq FROM event WHERE domain = ? ORDER BY seq DESC LIMIT ?;

-- name: with_fact
SELECT event FROM context WHERE key = ? AND value = ?;

-- name: scan_events
SELECT seq, namespace, domain, procedure, objective, occurred_at, vector, model_sha256 FROM event ORDER BY seq;

-- name: scan_outcomes
SELECT event, outcome, tes, amendment_id IS NULL FROM outcome ORDER BY seq;

-- name: pending
SELECT seq, objective FROM event WHERE model_sha256 IS NOT ? ORDER BY seq LIMIT ?;

-- name: highest_given
SELECT name, seq FROM sqlite_sequence WHERE name IN ('event', 'outcome');
