-- name: insert_event
INSERT INTO event (id, station_id, namespace, origin, kind, objective, domain, procedure, task_id, pulse_id,
                   occurred_at, recorded_at, digest)
VALUES (:id, :station_id, :namespace, :origin, :kind, :objective, :domain, :procedure, :task_id, :pulse_id,
        :occurred_at, :recorded_at, :digest);

-- name: known
SELECT seq FROM event WHERE id = :id UNION ALL SELECT seq FROM member WHERE id = :id
UNION ALL SELECT seq FROM retired WHERE id = :id;

-- name: objective_key
SELECT key FROM objective WHERE text = ?;

-- name: insert_objective
INSERT INTO objective (text) VALUES (?);

-- name: objectives_by_key
SELECT key, text FROM objective WHERE key IN (SELECT value FROM json_each(?));

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
INSERT INTO feedback (event, verdict, query, cosine, task_id, caller, recorded_at) VALUES (?, ?, ?, NULL, '', ?, ?);

-- name: insert_vector
INSERT INTO vector (objective, model_sha256, dimension, vector, digest) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (objective, model_sha256) DO NOTHING;

-- name: drop_vector
DELETE FROM vector WHERE objective = ? AND model_sha256 = ?;

-- name: set_meta
INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- name: get_meta
SELECT value FROM meta WHERE key = ?;

-- name: amendment
SELECT event FROM outcome WHERE amendment_id = ?;

-- name: count_feedback
SELECT count(*) FROM feedback;

-- name: events_by_seq
SELECT seq, id, station_id, namespace, origin, kind, objective AS objective_key, objective.text AS objective, domain,
       procedure, task_id, pulse_id, occurred_at, recorded_at, digest,
       (SELECT predicted FROM confidence WHERE event = event.seq) AS predicted
FROM event JOIN objective ON objective.key = event.objective WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq;

-- name: all_events
SELECT seq, id, station_id, namespace, origin, kind, objective AS objective_key, objective.text AS objective, domain,
       procedure, task_id, pulse_id, occurred_at, recorded_at, digest,
       (SELECT predicted FROM confidence WHERE event = event.seq) AS predicted
FROM event JOIN objective ON objective.key = event.objective WHERE seq > ? ORDER BY seq LIMIT ?;

-- name: contexts_by_seq
SELECT event, key, value FROM context WHERE event IN (SELECT value FROM json_each(?)) ORDER BY event, key;

-- name: outcomes_by_seq
SELECT seq, event, amendment_id, outcome, tes, duration_seconds, files_changed, cost, evidence, recorded_at, digest
FROM outcome WHERE event IN (SELECT value FROM json_each(?)) ORDER BY event, seq;

-- name: vectors_by_key
SELECT objective, vector FROM vector WHERE model_sha256 = ? AND objective IN (SELECT value FROM json_each(?));

-- name: all_vectors
SELECT objective, objective.text, model_sha256, dimension, vector, digest
FROM vector JOIN objective ON objective.key = vector.objective
WHERE model_sha256 = ? AND objective > ? ORDER BY objective LIMIT ?;

-- name: newest
SELECT seq FROM event ORDER BY seq DESC LIMIT ?;

-- name: newest_of_domain
SELECT seq FROM event WHERE domain = ? ORDER BY seq DESC LIMIT ?;

-- name: with_fact
SELECT event FROM context WHERE key = ? AND value = ?;

-- name: scan_events
SELECT seq, namespace, domain, procedure, objective, occurred_at,
       (SELECT outcome FROM outcome WHERE event = event.seq ORDER BY seq DESC LIMIT 1),
       (SELECT tes FROM outcome WHERE event = event.seq AND amendment_id IS NULL ORDER BY seq LIMIT 1)
FROM event ORDER BY seq;

-- name: scan_members
SELECT member.seq, namespace, domain, procedure, objective, occurred_at, outcome, tes
FROM member JOIN rollup ON rollup.seq = member.rollup ORDER BY member.seq;

-- name: scan_standings
SELECT event, standing FROM standing ORDER BY seq;

-- name: scan_keys
SELECT objective FROM vector WHERE model_sha256 = ? ORDER BY objective;

-- name: scan_vectors
SELECT objective, dimension, vector FROM vector WHERE model_sha256 = ? ORDER BY objective;

-- name: pending
SELECT key, text FROM objective
WHERE NOT EXISTS (SELECT 1 FROM vector WHERE vector.objective = objective.key AND vector.model_sha256 = ?)
ORDER BY key LIMIT ?;

-- name: highest_given
SELECT name, seq FROM sqlite_sequence WHERE name IN ('event', 'outcome');
