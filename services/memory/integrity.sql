-- What verify, roots, restore and export read. Texts come as blobs where they are only hashed: no decoding, and damage
-- stays damage.

-- name: root_event
SELECT seq, recorded_at, digest FROM sealed_event WHERE recorded_at >= :since AND recorded_at < :until ORDER BY seq;

-- name: root_outcome
SELECT seq, recorded_at, digest FROM sealed_outcome WHERE recorded_at >= :since AND recorded_at < :until ORDER BY seq;

-- name: root_feedback
SELECT seq, recorded_at, * FROM feedback WHERE recorded_at >= :since AND recorded_at < :until ORDER BY seq;

-- name: root_standing
SELECT seq, recorded_at, * FROM standing WHERE recorded_at >= :since AND recorded_at < :until ORDER BY seq;

-- name: days
SELECT DISTINCT substr(recorded_at, 1, 10) FROM (
    SELECT recorded_at FROM sealed_event UNION ALL SELECT recorded_at FROM sealed_outcome
    UNION ALL SELECT recorded_at FROM feedback UNION ALL SELECT recorded_at FROM standing
) WHERE recorded_at > :after AND recorded_at < :before ORDER BY 1;

-- name: changed_roots
SELECT key, value FROM meta WHERE key >= 'root_changed:' AND key < 'root_changed;' ORDER BY key;

-- name: drop_meta
DELETE FROM meta WHERE key = ?;

-- name: kept_roots
SELECT key, value FROM meta WHERE key >= 'root:' AND key < 'root;' ORDER BY key;

-- name: hash_events
-- The canonical JSON of what an event's digest covers, in two parts: between them stands the prediction.
SELECT event.seq, CAST(event.id AS BLOB), CAST(event.digest AS BLOB), confidence.predicted,
       CAST('{"context":'
            || (SELECT json_group_object(key, value) FROM (SELECT key, value FROM context WHERE event = event.seq ORDER BY key))
            || ',"domain":' || json_quote(event.domain) || ',"id":' || json_quote(event.id)
            || ',"kind":' || json_quote(event.kind) || ',"namespace":' || json_quote(event.namespace)
            || ',"objective":' || json_quote(objective.text) || ',"occurred_at":' || json_quote(event.occurred_at)
            || ',"origin":' || json_quote(event.origin) || ',"predicted":' AS BLOB),
       CAST(',"procedure":' || json_quote(event.procedure) || ',"pulse_id":' || json_quote(event.pulse_id)
            || ',"recorded_at":' || json_quote(event.recorded_at)
            || ',"station_id":' || json_quote(event.station_id) || ',"task_id":' || json_quote(event.task_id)
            || '}' AS BLOB)
FROM event LEFT JOIN objective ON objective.key = event.objective LEFT JOIN confidence ON confidence.event = event.seq
WHERE event.seq > :after AND event.seq <= :through ORDER BY event.seq LIMIT :most;

-- name: hash_outcomes
-- In two parts as well: between them stand the duration, and after them the score.
SELECT outcome.seq, outcome.event, CAST(event.id AS BLOB), CAST(outcome.digest AS BLOB),
       CAST('{"amendment_id":' || json_quote(outcome.amendment_id) || ',"cost":' || outcome.cost
            || ',"duration_seconds":' AS BLOB),
       outcome.duration_seconds,
       CAST(',"event":' || json_quote(event.id) || ',"evidence":' || json_quote(outcome.evidence)
            || ',"files_changed":' || ifnull(outcome.files_changed, 'null')
            || ',"outcome":' || json_quote(outcome.outcome) || ',"recorded_at":' || json_quote(outcome.recorded_at)
            || ',"tes":' AS BLOB),
       outcome.tes
FROM outcome LEFT JOIN event ON event.seq = outcome.event
WHERE outcome.seq > :after AND outcome.seq <= :through ORDER BY outcome.seq LIMIT :most;

-- name: hash_vectors
SELECT vector.objective, vector.model_sha256, dimension, vector, CAST(digest AS BLOB),
       CAST(json_quote(objective.text) AS BLOB)
FROM vector LEFT JOIN objective ON objective.key = vector.objective
WHERE vector.objective > :after AND vector.objective <= :through ORDER BY vector.objective, vector.model_sha256;

-- name: highest_vector
SELECT max(objective) FROM vector;

-- name: moved_events
SELECT seq FROM member UNION ALL SELECT seq FROM retired;

-- name: moved_outcomes
SELECT seq FROM sealed_outcome WHERE home <> 'outcome';

-- name: all_member_numbers
SELECT seq FROM member;

-- name: drop_vectors_of
DELETE FROM vector WHERE objective = ?;

-- name: mark_late
-- A day gets a row although it, or a day after it, is signed: it is to be signed anew. See CHANGED in roots.py.
INSERT INTO meta (key, value)
SELECT 'root_changed:' || :day, :why
WHERE EXISTS (SELECT 1 FROM meta WHERE key >= 'root:' || :day AND key < 'root;')
ON CONFLICT (key) DO NOTHING;
