-- name: label_newest
SELECT verdict FROM feedback
WHERE event = :event AND caller = :caller AND task_id = :task_id AND (task_id <> '' OR query = :query)
ORDER BY seq DESC LIMIT 1;

-- name: insert_label
INSERT INTO feedback (event, verdict, query, cosine, task_id, caller, recorded_at)
VALUES (:event, :verdict, :query, :cosine, :task_id, :caller, :recorded_at);

-- name: labels
SELECT event, verdict, query, cosine, task_id, caller, recorded_at FROM feedback
WHERE verdict <> 'withdrawn' AND seq IN (
    SELECT max(seq) FROM feedback GROUP BY event, caller, task_id, CASE task_id WHEN '' THEN query ELSE '' END)
ORDER BY seq;

-- What was said of an experience since somebody last reinstated it, oldest first.
-- name: labels_since
SELECT verdict FROM feedback
WHERE verdict <> 'withdrawn' AND seq IN (
    SELECT max(seq) FROM feedback WHERE event = ?1
    GROUP BY caller, task_id, CASE task_id WHEN '' THEN query ELSE '' END)
AND recorded_at > (
    SELECT coalesce(max(recorded_at), '') FROM standing WHERE event = ?1 AND standing = 'valid' AND caller <> ?2)
ORDER BY seq;

-- name: judged_events
SELECT DISTINCT event FROM feedback WHERE verdict = 'harmful';

-- name: insert_standing
INSERT INTO standing (event, standing, because_of, reason, caller, recorded_at)
VALUES (:event, :standing, :because_of, :reason, :caller, :recorded_at);

-- name: standing_of
SELECT event, standing, because_of, reason, caller, recorded_at FROM standing WHERE event = ? ORDER BY seq DESC LIMIT 1;

-- name: standing_before_eviction
SELECT event, standing, because_of, reason, caller, recorded_at FROM standing
WHERE event = ? AND standing <> 'evicted' ORDER BY seq DESC LIMIT 1;

-- name: doubted
SELECT event, standing, because_of, reason, caller, recorded_at FROM standing AS newest
WHERE standing <> 'valid' AND seq = (SELECT max(seq) FROM standing WHERE event = newest.event) ORDER BY seq;

-- name: namespace_of
SELECT namespace FROM event WHERE seq = ?1
UNION ALL SELECT namespace FROM member JOIN rollup ON rollup.seq = member.rollup WHERE member.seq = ?1;

-- name: said_last
SELECT max(recorded_at) FROM (
    SELECT recorded_at FROM feedback WHERE event = ?1 UNION ALL SELECT recorded_at FROM standing WHERE event = ?1);
