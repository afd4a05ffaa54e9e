-- name: pending_after
SELECT key, text FROM objective
WHERE key > ?
  AND NOT EXISTS (SELECT 1 FROM vector WHERE vector.objective = objective.key AND vector.model_sha256 = ?)
ORDER BY key LIMIT ?;

-- name: progress
SELECT (SELECT count(*) FROM vector WHERE model_sha256 = ?), (SELECT count(*) FROM objective);

-- name: any_vector
SELECT EXISTS (SELECT 1 FROM vector WHERE model_sha256 = ?);

-- name: vectors_of_others
SELECT objective, model_sha256 FROM vector WHERE model_sha256 <> ? LIMIT ?;
