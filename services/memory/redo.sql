-- name: numbers_taken
SELECT EXISTS (SELECT 1 FROM sealed_event WHERE seq = :seq), EXISTS (SELECT 1 FROM sealed_outcome WHERE seq = :outcome_seq);

-- name: outcome_number_taken
SELECT EXISTS (SELECT 1 FROM sealed_outcome WHERE seq = ?);

-- name: insert_objective_again
INSERT INTO objective (key, text) SELECT :key, :text WHERE NOT EXISTS (SELECT 1 FROM objective WHERE key = :key);

-- name: feedback_again
SELECT seq FROM feedback
WHERE event = :event AND verdict = :verdict AND query = :query AND cosine IS :cosine AND task_id = :task_id
  AND caller = :caller AND recorded_at = :recorded_at;

-- name: insert_feedback_again
INSERT INTO feedback (seq, event, verdict, query, cosine, task_id, caller, recorded_at)
VALUES ((SELECT :seq WHERE NOT EXISTS (SELECT 1 FROM feedback WHERE seq = :seq)),
        :event, :verdict, :query, :cosine, :task_id, :caller, :recorded_at);

-- name: standing_again
SELECT seq FROM standing
WHERE event = :event AND standing = :standing AND because_of = :because_of AND reason = :reason
  AND caller = :caller AND recorded_at = :recorded_at;

-- name: insert_standing_again
INSERT INTO standing (seq, event, standing, because_of, reason, caller, recorded_at)
VALUES ((SELECT :seq WHERE NOT EXISTS (SELECT 1 FROM standing WHERE seq = :seq)),
        :event, :standing, :because_of, :reason, :caller, :recorded_at);
