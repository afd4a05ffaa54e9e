-- What a migration must leave as it is, in words that every schema since the first knows.

-- name: proof_experiences
SELECT seq, id, station_id, namespace, origin, kind, domain, procedure, task_id, pulse_id, occurred_at, recorded_at
FROM event ORDER BY seq;

-- name: proof_contexts
SELECT event, key, value FROM context ORDER BY event, key;

-- name: proof_confidences
SELECT event, predicted FROM confidence ORDER BY event;

-- name: proof_outcomes
SELECT seq, event, amendment_id, outcome, tes, duration_seconds, files_changed, cost, evidence, recorded_at, digest
FROM outcome ORDER BY seq;

-- name: proof_feedback
SELECT seq, event, query, caller, recorded_at FROM feedback ORDER BY seq;

-- name: proof_meta
SELECT key, value FROM meta ORDER BY key;

-- name: proof_objectives_1
SELECT seq, objective FROM event ORDER BY seq;

-- name: proof_objectives
SELECT seq, text FROM event JOIN objective ON objective.key = event.objective ORDER BY seq;

-- name: proof_all_vectors
SELECT objective.text, model_sha256, dimension, vector, digest, objective
FROM vector JOIN objective ON objective.key = vector.objective;
