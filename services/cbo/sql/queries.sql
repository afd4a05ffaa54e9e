-- name: pulse_begin
INSERT INTO pulse (id, started_at, status, summary) VALUES ('', ?, 'running', '{}');
-- name: pulse_name
UPDATE pulse SET id = ? WHERE number = ?;
-- name: pulse_records_written
UPDATE pulse SET record = NULL WHERE record IS NOT NULL AND number < ?;
-- name: pulse_end
UPDATE pulse SET status = ?, summary = ?, record = ? WHERE number = ? AND status = 'running';
-- name: pulses_running
SELECT number, id, started_at FROM pulse WHERE status = 'running' ORDER BY number;
-- name: pulses_unwritten
SELECT number, id, started_at, record FROM pulse WHERE record IS NOT NULL ORDER BY number;
-- name: pulses
SELECT id, summary FROM pulse WHERE status <> 'running' ORDER BY number DESC LIMIT ?;
-- name: pulse
SELECT number, id, started_at, summary, record FROM pulse WHERE id = ? AND status <> 'running';
-- name: pulses_old
SELECT number, id, started_at FROM pulse WHERE number <= ? AND record IS NULL ORDER BY number LIMIT 20;
-- name: pulse_last_ended
SELECT coalesce((SELECT min(number) - 1 FROM pulse WHERE status = 'running'),
    (SELECT seq FROM sqlite_sequence WHERE name = 'pulse'), 0);
-- name: pulses_drop_running
DELETE FROM pulse WHERE status = 'running';
-- name: pulses_forget_last
DELETE FROM sqlite_sequence WHERE name = 'pulse';
-- name: pulses_skip
INSERT INTO sqlite_sequence (name, seq) VALUES ('pulse', ?);
-- name: pulse_forget
DELETE FROM pulse WHERE number = ?;

-- name: objective_insert
INSERT INTO objective (id, text, domain, source, created_at, every_seconds, at, every_pulse, params, state,
    last_planned_at, tasks, key, note)
VALUES (:id, :text, :domain, :source, :created_at, :every_seconds, :at, :every_pulse, :params, :state,
    :last_planned_at, :tasks, :key, :note)
ON CONFLICT DO NOTHING;
-- name: objective
SELECT * FROM objective WHERE id = ?;
-- name: objective_by_key
SELECT * FROM objective WHERE key = ?;
-- name: objectives_active
SELECT * FROM objective WHERE state = 'active' ORDER BY created_at, id;
-- name: objectives
SELECT * FROM objective ORDER BY created_at DESC, id DESC LIMIT 1000;
-- name: objective_planned
UPDATE objective SET last_planned_at = ?, tasks = tasks + 1, domain = ?, note = '' WHERE id = ?;
-- name: objective_again
UPDATE objective SET last_planned_at = NULL
WHERE id = ? AND state = 'active' AND every_pulse = 0 AND every_seconds IS NULL;
-- name: objective_note
UPDATE objective SET note = ? WHERE id = ?;
-- name: objective_move
UPDATE objective SET state = ? WHERE id = ? AND state = ?;
-- name: objectives_finished
UPDATE objective SET state = 'done'
WHERE state = 'active' AND every_pulse = 0 AND every_seconds IS NULL AND last_planned_at IS NOT NULL
  AND NOT EXISTS (
    SELECT 1 FROM task WHERE task.objective_id = objective.id
      AND (task.state IN ('held', 'waiting', 'ready', 'claimed')
           OR (task.state IN ('rehearsed', 'proposed') AND task.approved_as = '')));

-- name: task_insert
INSERT INTO task (id, domain, procedure, owner, state, level, created_at, objective_id, objective, params, attempt,
    rehearsal, rehearsal_of, plan_digest, approval, approved_as, undo_of, gates, prediction, choices, recalled,
    pulse_id, ended_pulse_id, dispatched_at, ended_at, scored, probe_tries, tes, tes_note, stability, ack, why,
    remembered, source, ttl_seconds)
VALUES (:id, :domain, :procedure, :owner, :state, :level, :created_at, :objective_id, :objective, :params, :attempt,
    :rehearsal, :rehearsal_of, :plan_digest, :approval, :approved_as, :undo_of, :gates, :prediction, :choices,
    :recalled, :pulse_id, :ended_pulse_id, :dispatched_at, :ended_at, :scored, :probe_tries, :tes, :tes_note,
    :stability, :ack, :why, :remembered, :source, :ttl_seconds)
ON CONFLICT DO NOTHING;
-- name: task
SELECT * FROM task WHERE id = ?;
-- name: tasks
SELECT * FROM task WHERE (?1 = '' OR state = ?1) AND (?2 = '' OR domain = ?2) ORDER BY created_at DESC, id DESC LIMIT ?3;
-- name: tasks_newest
SELECT * FROM task ORDER BY created_at DESC, id DESC LIMIT ?;
-- name: tasks_by_state
SELECT * FROM task WHERE state = ? ORDER BY created_at DESC, id DESC LIMIT ?;
-- name: tasks_by_domain
SELECT * FROM task WHERE domain = ? ORDER BY created_at DESC, id DESC LIMIT ?;
-- name: tasks_by_both
SELECT * FROM task WHERE domain = ? AND state = ? ORDER BY created_at DESC, id DESC LIMIT ?;
-- name: tasks_matching
SELECT task.* FROM task_text CROSS JOIN task ON task.rowid = task_text.rowid
WHERE task_text MATCH ?1 AND (?2 = '' OR task.state = ?2) AND (?3 = '' OR task.domain = ?3)
ORDER BY task_text.rowid DESC LIMIT ?4;
-- name: tasks_open
SELECT * FROM task WHERE state IN ('held', 'waiting', 'ready', 'claimed') ORDER BY created_at, id;
-- name: domains_out
SELECT DISTINCT domain FROM task WHERE state IN ('waiting', 'ready', 'claimed') AND dispatched_at IS NOT NULL;
-- name: tasks_inbox
SELECT * FROM task WHERE approved_as = '' AND (state = 'proposed' OR (state = 'rehearsed' AND scored = 1))
    AND state IN ('proposed', 'rehearsed') ORDER BY created_at DESC, id DESC LIMIT ?;
-- name: tasks_unscored
SELECT * FROM task INDEXED BY task_unscored WHERE scored = 0 AND state IN ('rehearsed', 'done', 'failed', 'expired', 'cancelled', 'dead')
ORDER BY created_at, id LIMIT 200;
-- name: tasks_unremembered
SELECT * FROM task WHERE scored = 1 AND remembered = 0 ORDER BY created_at, id LIMIT 20;
-- name: tasks_undoing
SELECT * FROM task WHERE undo_of = ? AND undo_of <> '' ORDER BY created_at, id;
-- name: tasks_proposed
SELECT id, state, created_at FROM task INDEXED BY task_proposed
WHERE objective_id = ? AND state IN ('proposed', 'rehearsed') AND approved_as = '';
-- name: task_counts
SELECT state, sum(n) FROM task_count GROUP BY state HAVING sum(n) > 0;
-- name: task_depth
SELECT domain, state, n FROM task_count WHERE state IN ('held', 'proposed', 'waiting', 'ready', 'claimed', 'dead');
-- name: tasks_ready
SELECT id, dispatched_at FROM task INDEXED BY task_ready
WHERE domain = ? AND state = 'ready' AND dispatched_at IS NOT NULL ORDER BY dispatched_at LIMIT ?;
-- name: task_dispatched
UPDATE task SET state = ?, dispatched_at = ?, gates = ?, level = ?, rehearsal = ?, why = '' WHERE id = ?
    AND state IN ('ready', 'held') AND dispatched_at IS NULL;
-- name: task_lost
UPDATE task SET state = 'ready', dispatched_at = NULL WHERE id = ? AND state IN ('ready', 'waiting', 'claimed');
-- name: task_gated
UPDATE task SET state = ?, gates = ?, why = ? WHERE id = ? AND state = ?;
-- name: task_moved
UPDATE task SET state = ?, attempt = ? WHERE id = ? AND state = ?;
-- name: task_ended
UPDATE task SET state = ?, attempt = ?, ack = ?, why = ?, ended_at = ?,
    plan_digest = CASE WHEN ? <> '' THEN ? ELSE plan_digest END WHERE id = ? AND state = ?;
-- name: task_answered
UPDATE task SET state = ?, why = ? WHERE id = ? AND state = ?;
-- name: task_approved
UPDATE task SET approved_as = ? WHERE id = ? AND state IN ('rehearsed', 'proposed') AND approved_as = '';
-- name: task_requeued
UPDATE task SET state = 'ready', ended_at = NULL, why = '', scored = 0, worked = 0, probe_tries = 0, tes = NULL,
    tes_note = '', stability = NULL, remembered = 0, ended_pulse_id = '' WHERE id = ? AND state = 'dead';
-- name: task_scored
UPDATE task SET scored = 1, worked = ?, tes = ?, tes_note = ?, stability = ?, ended_pulse_id = ?, remembered = ? WHERE id = ? AND scored = 0;
-- name: task_probe_tried
UPDATE task SET probe_tries = probe_tries + 1, tes_note = ? WHERE id = ? AND scored = 0;
-- name: task_remembered
UPDATE task SET remembered = 1 WHERE id = ?;
-- What ended before ?1 and nobody can answer, undo or requeue any more. The dead stay: a person may requeue them.
-- name: tasks_over
SELECT id FROM task INDEXED BY task_created WHERE created_at < ?1 AND coalesce(ended_at, created_at) < ?1
    AND (state IN ('done', 'failed', 'expired', 'cancelled', 'rejected', 'undone')
         OR (state = 'rehearsed' AND approved_as <> ''))
    AND NOT EXISTS (SELECT 1 FROM verification WHERE task_id = task.id AND verdict = 'pending')
    AND NOT EXISTS (SELECT 1 FROM task AS undo INDEXED BY task_undoing WHERE undo.undo_of = task.id AND undo.undo_of <> ''
        AND undo.state IN ('held', 'proposed', 'waiting', 'ready', 'claimed'))
ORDER BY created_at LIMIT ?2;
-- name: task_forget
DELETE FROM task WHERE id = ?;
-- name: targets_forget
DELETE FROM task_target WHERE task_id = ?;
-- name: verifications_forget
DELETE FROM verification WHERE task_id = ?;
-- name: aliases_forget
DELETE FROM proposal_alias WHERE NOT EXISTS (SELECT 1 FROM task WHERE task.id = proposal_alias.task_id);
-- name: ladder_entries_forget
DELETE FROM ladder_entry WHERE at < ? AND number < (SELECT max(number) FROM ladder_entry);
-- name: task_use
SELECT count(*) FROM task WHERE domain = ? AND dispatched_at > ?;
-- name: tes_day
SELECT rehearsal, tes IS NULL, count(*), coalesce(sum(tes), 0) FROM task INDEXED BY task_worked
WHERE worked = 1 AND ended_at > ? GROUP BY rehearsal, tes IS NULL;
-- name: effects_by_domain
SELECT domain, count(*) FROM task INDEXED BY task_worked
WHERE worked = 1 AND ended_at > ? AND rehearsal = 0 AND tes IS NOT NULL GROUP BY domain;
-- name: calibration
SELECT prediction, stability = 1.0 AND rowid NOT IN (SELECT late.rowid FROM verification INDEXED BY verification_regressed
    JOIN task AS late ON late.id = task_id WHERE verdict = 'regressed') AS good
FROM task INDEXED BY task_worked
WHERE worked = 1 AND ended_at > ? AND rehearsal = 0 AND stability IS NOT NULL AND prediction IS NOT NULL
ORDER BY prediction, ended_at, stability;

-- name: target_insert
INSERT OR IGNORE INTO task_target (target, ended_at, task_id) VALUES (?, ?, ?);
-- name: targets_later
SELECT t.task_id FROM task_target AS t JOIN task ON task.id = t.task_id
WHERE t.target = ? AND t.ended_at > ? AND t.task_id <> ? AND task.state = 'done' ORDER BY t.ended_at DESC;
-- name: targets_meanwhile
SELECT t.target FROM task_target AS t INDEXED BY task_target_ended CROSS JOIN task ON task.id = t.task_id
WHERE t.ended_at >= ?1 AND t.task_id <> ?2 AND task.state IN ('done', 'undone')
UNION SELECT t.target FROM task AS undo INDEXED BY task_undoing CROSS JOIN task_target AS t ON t.task_id = undo.undo_of
WHERE undo.undo_of <> '' AND undo.state = 'done' AND undo.ended_at >= ?1;
-- name: targets_of
SELECT target FROM task_target WHERE task_id = ? ORDER BY target;

-- name: reading_keep
INSERT OR IGNORE INTO reading (metric, at, value) VALUES (?, ?, ?);
-- name: readings_forget
DELETE FROM reading WHERE metric = ? AND at < ?;
-- name: readings_last
SELECT value FROM (SELECT at, value FROM reading WHERE metric = ? AND at >= ? AND at < ? ORDER BY at DESC LIMIT ?) ORDER BY at;

-- name: verification_insert
INSERT OR IGNORE INTO verification (task_id, "window", due_at, verdict, probed_at, prober, detail) VALUES (?, ?, ?, ?, ?, ?, ?);
-- name: verifications_due
SELECT task_id, "window", due_at FROM verification WHERE verdict = 'pending' AND due_at <= ? ORDER BY due_at LIMIT 500;
-- name: verification_done
UPDATE verification SET verdict = ?, probed_at = ?, prober = ?, detail = ? WHERE task_id = ? AND "window" = ? AND verdict = 'pending';
-- name: verifications_cancel
UPDATE verification SET verdict = 'cancelled', detail = ? WHERE task_id = ? AND verdict = 'pending';
-- name: verifications_of
SELECT * FROM verification WHERE task_id = ? ORDER BY due_at;

-- name: ladder
SELECT domain, standing, changed_at FROM ladder;
-- name: ladder_save
INSERT INTO ladder (domain, standing, changed_at) VALUES (?, ?, ?)
ON CONFLICT (domain) DO UPDATE SET standing = excluded.standing, changed_at = excluded.changed_at;
-- name: ladder_entry_insert
INSERT INTO ladder_entry (domain, at, entry) VALUES (?, ?, ?);
-- name: ladder_entries_after
SELECT entry FROM ladder_entry WHERE number > ? ORDER BY number;

-- name: posteriors
SELECT * FROM posterior;
-- name: posterior_save
INSERT INTO posterior (domain, procedure, context, at, successes, failures, cpu_seconds, bytes_written, bytes_in)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (domain, procedure, context) DO UPDATE SET at = excluded.at, successes = excluded.successes,
    failures = excluded.failures, cpu_seconds = excluded.cpu_seconds, bytes_written = excluded.bytes_written,
    bytes_in = excluded.bytes_in;
-- name: memory_trial
INSERT INTO memory_trial (domain, memory, runs, total, squares) VALUES (?, ?, 1, ?, ?)
ON CONFLICT (domain, memory) DO UPDATE SET runs = runs + 1, total = total + excluded.total,
    squares = squares + excluded.squares;
-- name: memory_trials
SELECT memory, sum(runs) AS runs, sum(total) AS total, sum(squares) AS squares FROM memory_trial GROUP BY memory;
-- name: confidence_insert
INSERT OR REPLACE INTO confidence_point (domain, at, mean, successes, failures) VALUES (?, ?, ?, ?, ?);
-- name: confidence_at
SELECT at, mean, successes, failures FROM confidence_point WHERE domain = ?1 AND at <= ?2 ORDER BY at DESC LIMIT 1;
-- name: confidence_first
SELECT at, mean, successes, failures FROM confidence_point WHERE domain = ? ORDER BY at LIMIT 1;
-- name: confidence_nth
SELECT at FROM confidence_point WHERE domain = ? ORDER BY at DESC LIMIT 1 OFFSET ?;
-- What neither the comparison with a day ago (?2) nor the most recent runs need.
-- name: confidence_prune
DELETE FROM confidence_point WHERE domain = ?1
AND at < (SELECT max(at) FROM confidence_point WHERE domain = ?1 AND at <= ?2)
AND at < (SELECT at FROM confidence_point WHERE domain = ?1 ORDER BY at DESC LIMIT 1 OFFSET ?3);

-- name: fact
SELECT value FROM fact WHERE name = ?;
-- name: fact_set
INSERT INTO fact (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value;
-- name: fact_drop
DELETE FROM fact WHERE name = ?;
-- name: facts_like
SELECT name, value FROM fact WHERE name >= ?1 AND name < ?1 || char(0x10ffff) ORDER BY name LIMIT 50;

-- name: agents
SELECT * FROM agent ORDER BY name;
-- name: agent_save
INSERT INTO agent (name, token_sha256, domains, invited_by, invited_at, revoked_at, last_seen, version, capabilities,
    report, reported_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET token_sha256 = excluded.token_sha256, domains = excluded.domains,
    invited_by = excluded.invited_by, invited_at = excluded.invited_at, revoked_at = excluded.revoked_at,
    last_seen = excluded.last_seen, version = excluded.version, capabilities = excluded.capabilities,
    report = excluded.report, reported_at = excluded.reported_at;
-- name: agent_claimed
INSERT OR REPLACE INTO agent_claim (task_id, epoch, worker, claimed_at) VALUES (?, ?, ?, ?);
-- name: agent_claim
SELECT worker, claimed_at FROM agent_claim WHERE task_id = ? AND epoch = ?;
-- name: agent_claims_drop
DELETE FROM agent_claim WHERE task_id = ?;
-- name: agent_claims_prune
DELETE FROM agent_claim WHERE NOT EXISTS (
    SELECT 1 FROM task WHERE task.id = agent_claim.task_id AND task.state IN ('held', 'waiting', 'ready', 'claimed'));
-- name: alias
SELECT task_id FROM proposal_alias WHERE id = ?;
-- name: alias_insert
INSERT OR IGNORE INTO proposal_alias (id, task_id) VALUES (?, ?);
-- name: tasks_of_owner
SELECT * FROM task INDEXED BY task_owner_open
WHERE owner = ?1 AND state IN ('held', 'proposed', 'waiting', 'ready', 'claimed') AND approved_as = ''
ORDER BY created_at DESC, id DESC LIMIT ?2;
-- name: tasks_waiting_like
SELECT * FROM task INDEXED BY task_proposed
WHERE objective_id = ? AND state IN ('proposed', 'rehearsed') AND approved_as = '' ORDER BY created_at LIMIT 1;

-- name: gate_entry_insert
INSERT INTO gate_entry (at, task, entry) VALUES (?, ?, ?);
-- name: gate_entries_after
SELECT number, entry FROM gate_entry WHERE number > ? ORDER BY number;
-- name: gate_entries_before
SELECT coalesce((SELECT number - 1 FROM gate_entry WHERE at >= ? ORDER BY at, number LIMIT 1), 0);
-- name: gate_entries_page
SELECT number, entry FROM gate_entry WHERE number > ? ORDER BY number LIMIT ?;
-- name: gate_entries_passed
SELECT entry FROM gate_entry WHERE at > ? ORDER BY number;
-- name: gate_entries_forget
DELETE FROM gate_entry WHERE at < ? AND number <= ?;
-- name: gate_entry_ends
SELECT id, state, rehearsal, scored, worked, tes, stability, why FROM task
WHERE id IN (SELECT task FROM gate_entry WHERE at >= ?);
-- name: regressed
SELECT DISTINCT task_id FROM verification WHERE verdict = 'regressed';
-- name: ladder_entries_page
SELECT number, entry FROM ladder_entry WHERE number > ? ORDER BY number LIMIT ?;
-- name: pulse_before
SELECT id FROM pulse WHERE started_at < ? AND status = 'complete' ORDER BY number DESC LIMIT 1 OFFSET 1;
-- name: gate_entry_first
SELECT at FROM gate_entry ORDER BY number LIMIT 1;

-- name: tasks_unanswered
SELECT * FROM task INDEXED BY task_proposed WHERE state IN ('proposed', 'rehearsed') AND approved_as = ''
ORDER BY created_at, id;
-- name: notices
SELECT key, target, state FROM notice;
-- name: notice_insert
INSERT OR IGNORE INTO notice (key, target, title, body, at, state) VALUES (?, ?, ?, ?, ?, 'waiting');
-- name: notice_drop
DELETE FROM notice WHERE key = ? AND target = ?;
-- name: notices_bound
UPDATE notice SET state = 'dropped' WHERE target = ? AND state = 'waiting' AND key NOT IN (
    SELECT key FROM notice WHERE target = ? AND state = 'waiting' ORDER BY at DESC, key DESC LIMIT ?);
-- name: notices_due
SELECT key, title, body FROM notice WHERE target = ? AND state = 'waiting' ORDER BY at, key;
-- name: notice_sent
UPDATE notice SET state = 'sent', sent_at = ? WHERE key = ? AND target = ?;
-- name: notices_forget
DELETE FROM notice WHERE state <> 'waiting' AND at < ? AND key NOT IN (SELECT value FROM json_each(?));
