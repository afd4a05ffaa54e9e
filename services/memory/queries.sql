-- name: insert_event
INSERT INTO event (seq, id, station_id, namespace, origin, kind, objective, domain, procedure, task_id, pulse_id,
                   occurred_at, recorded_at, digest)
VALUES (:seq, :id, :station_id, :namespace, :origin, :kind, :objective, :domain, :procedure, :task_id, :pulse_id,
        :occurred_at, :recorded_at, :digest);

-- name: known
SELECT seq FROM event WHERE id = :id UNION ALL SELECT seq FROM member WHERE id = :id
UNION ALL SELECT seq FROM retired WHERE id = :id;

-- name: known_of
SELECT json_group_array(id) FROM (
    SELECT id FROM event WHERE id IN (SELECT value FROM json_each(:ids))
    UNION ALL SELECT id FROM member WHERE id IN (SELECT value FROM json_each(:ids))
    UNION ALL SELECT id FROM retired WHERE id IN (SELECT value FROM json_each(:ids))
);

-- name: objective_keys
SELECT json_group_array(json_array(text, key)) FROM objective WHERE text IN (SELECT value FROM json_each(?));

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
INSERT INTO outcome (seq, event, amendment_id, outcome, tes, duration_seconds, files_changed, cost, evidence,
                     recorded_at, digest)
VALUES (:seq, :event, :amendment_id, :outcome, :tes, :duration_seconds, :files_changed, :cost, :evidence,
        :recorded_at, :digest);

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

-- name: newest
SELECT seq FROM event UNION ALL SELECT seq FROM member ORDER BY seq DESC LIMIT ?;

-- name: newest_of_domain
SELECT seq FROM event WHERE domain = ?1
UNION ALL SELECT member.seq FROM member JOIN rollup ON rollup.seq = member.rollup WHERE domain = ?1
ORDER BY seq DESC LIMIT ?2;

-- name: with_fact
SELECT event FROM context WHERE key = ?1 AND value = ?2
UNION ALL
SELECT member.seq FROM rollup_fact JOIN member ON member.rollup = rollup_fact.rollup WHERE key = ?1 AND value = ?2;

-- name: joined_with_fact
SELECT group_concat(seq) FROM (
    SELECT event AS seq FROM context WHERE key = ?1 AND value = ?2 AND event > ?3
    UNION ALL
    SELECT member.seq FROM rollup_fact JOIN member ON member.rollup = rollup_fact.rollup
    WHERE key = ?1 AND value = ?2 AND member.seq > ?3
);

-- name: scan_events
SELECT seq, namespace, domain, procedure, objective, occurred_at, NULL, NULL FROM event ORDER BY seq;

-- name: scan_members
SELECT member.seq, namespace, domain, procedure, objective, occurred_at, outcome, tes
FROM member JOIN rollup ON rollup.seq = member.rollup ORDER BY member.seq;

-- name: scan_outcomes
SELECT event, outcome, tes, amendment_id IS NULL FROM outcome ORDER BY seq;

-- name: scan_standings
SELECT event, standing FROM standing ORDER BY seq;

-- name: scan_keys
SELECT objective FROM vector WHERE model_sha256 = ? ORDER BY objective;

-- name: scan_vectors
SELECT objective, dimension, vector FROM vector WHERE model_sha256 = ? ORDER BY objective;

-- name: highest_given
SELECT name, seq FROM sqlite_sequence WHERE name IN ('event', 'outcome');

-- name: rollup
SELECT seq FROM rollup
WHERE station_id = ? AND namespace = ? AND origin = ? AND kind = ? AND objective = ? AND domain = ?
  AND procedure = ? AND outcome = ? AND context = ?;

-- name: insert_rollup
INSERT INTO rollup (station_id, namespace, origin, kind, objective, domain, procedure, outcome, context)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_rollup_fact
INSERT INTO rollup_fact (rollup, key, value) VALUES (?, ?, ?);

-- name: insert_member
INSERT INTO member (seq, id, rollup, task_id, pulse_id, occurred_at, recorded_at, tes, duration_seconds,
                    files_changed, predicted, cost, outcome_seq, event_digest, outcome_digest, digest)
VALUES (:seq, :id, :rollup, :task_id, :pulse_id, :occurred_at, :recorded_at, :tes, :duration_seconds,
        :files_changed, :predicted, :cost, :outcome_seq, :event_digest, :outcome_digest, :digest);

-- name: remove_outcome
DELETE FROM outcome WHERE event = ?;

-- name: remove_context
DELETE FROM context WHERE event = ?;

-- name: remove_confidence
DELETE FROM confidence WHERE event = ?;

-- name: remove_event
DELETE FROM event WHERE seq = ?;

-- name: remove_member
DELETE FROM member WHERE seq = ?;

-- name: rollup_of_member
SELECT rollup FROM member WHERE seq = ?;

-- name: any_member
SELECT 1 FROM member WHERE rollup = ? LIMIT 1;

-- name: remove_rollup_facts
DELETE FROM rollup_fact WHERE rollup = ?;

-- name: remove_rollup
DELETE FROM rollup WHERE seq = ?;

-- name: member_by_id
SELECT member.*, station_id, namespace, origin, kind, objective AS objective_key, text AS objective, domain,
       procedure, outcome, context
FROM member JOIN rollup ON rollup.seq = member.rollup JOIN objective ON objective.key = rollup.objective
WHERE member.id = ?;

-- name: members_by_seq
SELECT member.*, station_id, namespace, origin, kind, objective AS objective_key, text AS objective, domain,
       procedure, outcome, context
FROM member JOIN rollup ON rollup.seq = member.rollup JOIN objective ON objective.key = rollup.objective
WHERE member.seq IN (SELECT value FROM json_each(?)) ORDER BY member.seq;

-- name: all_members
SELECT member.*, station_id, namespace, origin, kind, objective AS objective_key, text AS objective, domain,
       procedure, outcome, context
FROM member JOIN rollup ON rollup.seq = member.rollup JOIN objective ON objective.key = rollup.objective
WHERE member.seq > ? ORDER BY member.seq LIMIT ?;

-- name: rollup_contexts
SELECT seq, context, (SELECT json_group_object(key, value) FROM rollup_fact WHERE rollup = seq) FROM rollup;

-- name: in_two_places
SELECT seq, 'member' FROM member WHERE seq IN (SELECT seq FROM event)
UNION ALL SELECT seq, 'retired' FROM retired WHERE seq IN (SELECT seq FROM event)
UNION ALL SELECT seq, 'member and retired' FROM retired WHERE seq IN (SELECT seq FROM member);

-- name: all_retired
SELECT seq, id, recorded_at, event_digest, outcomes, policy, retired_at, digest FROM retired;

-- name: retired
SELECT policy, retired_at FROM retired WHERE id = ?;

-- name: routine_objectives
SELECT objective FROM routine WHERE objective > :after AND recorded_at < :before
GROUP BY objective HAVING count(*) > 1 OR objective IN (SELECT objective FROM rollup)
ORDER BY objective LIMIT :page;

-- name: routine
SELECT seq, outcome_seq FROM routine WHERE objective = :objective AND seq > :after AND recorded_at < :before
ORDER BY seq LIMIT :page;

-- name: still_routine
SELECT seq FROM routine WHERE seq IN (SELECT value FROM json_each(?));

-- name: rows_by_age
SELECT event.seq, kind, event.recorded_at,
       (SELECT outcome FROM outcome WHERE outcome.event = event.seq ORDER BY outcome.seq DESC LIMIT 1) AS outcome
FROM event
WHERE event.seq > :after AND event.recorded_at < :before
  AND NOT EXISTS (SELECT 1 FROM feedback WHERE feedback.event = event.seq)
  AND NOT EXISTS (SELECT 1 FROM standing WHERE standing.event = event.seq)
ORDER BY event.seq LIMIT :page;

-- name: members_by_age
SELECT member.seq, kind, member.recorded_at, outcome FROM member JOIN rollup ON rollup.seq = member.rollup
WHERE member.seq > :after AND member.recorded_at < :before
  AND NOT EXISTS (SELECT 1 FROM feedback WHERE feedback.event = member.seq)
  AND NOT EXISTS (SELECT 1 FROM standing WHERE standing.event = member.seq)
ORDER BY member.seq LIMIT :page;

-- name: insert_retired
INSERT INTO retired (seq, id, recorded_at, event_digest, outcomes, policy, retired_at, digest)
VALUES (:seq, :id, :recorded_at, :event_digest, :outcomes, :policy, :retired_at, :digest);

-- name: sealed_of
SELECT id, recorded_at, digest,
       EXISTS (SELECT 1 FROM feedback WHERE feedback.event = sealed_event.seq)
       OR EXISTS (SELECT 1 FROM standing WHERE standing.event = sealed_event.seq)
FROM sealed_event WHERE seq = ? AND home = ?;

-- name: outcomes_sealed
SELECT seq, recorded_at, digest FROM outcome WHERE event = ? ORDER BY seq;

-- name: outcome_of_member
SELECT outcome_seq, recorded_at, outcome_digest FROM member WHERE seq = ?;

-- name: orphans
SELECT key FROM objective
WHERE NOT EXISTS (SELECT 1 FROM event WHERE event.objective = objective.key)
  AND key NOT IN (SELECT objective FROM rollup);

-- name: remove_vectors
DELETE FROM vector WHERE objective IN (SELECT value FROM json_each(?));

-- name: remove_objectives
DELETE FROM objective WHERE key IN (SELECT value FROM json_each(?));

-- name: count_rollups
SELECT count(*) FROM rollup;

-- name: count_members
SELECT count(*) FROM member;
