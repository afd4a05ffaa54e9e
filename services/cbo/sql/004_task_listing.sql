-- What `calyx task list` and the metrics ask stays as quick at a million finished tasks as at ten.
DROP INDEX task_state;
CREATE INDEX task_by_state ON task (state, created_at);
CREATE INDEX task_by_domain ON task (domain, created_at);
CREATE INDEX task_by_both ON task (domain, state, created_at);
CREATE INDEX task_ready ON task (domain, dispatched_at) WHERE state = 'ready' AND dispatched_at IS NOT NULL;

-- How many, without counting: derived from task, kept by the triggers below.
CREATE TABLE task_count (
    domain TEXT NOT NULL,
    state  TEXT NOT NULL,
    n      INTEGER NOT NULL,
    PRIMARY KEY (domain, state)
) STRICT, WITHOUT ROWID;
INSERT INTO task_count (domain, state, n) SELECT domain, state, count(*) FROM task GROUP BY domain, state;

-- Words, derived from task: after a VACUUM, which may number its rows anew, or any doubt:
-- INSERT INTO task_text (task_text) VALUES ('rebuild');
CREATE VIRTUAL TABLE task_text USING fts5 (
    objective, domain, why, state, content = 'task', tokenize = 'unicode61'
);
INSERT INTO task_text (task_text) VALUES ('rebuild');

CREATE TRIGGER task_listed AFTER INSERT ON task BEGIN
    INSERT INTO task_count (domain, state, n) SELECT new.domain, new.state, 0
    WHERE NOT EXISTS (SELECT 1 FROM task_count WHERE domain = new.domain AND state = new.state);
    UPDATE task_count SET n = n + 1 WHERE domain = new.domain AND state = new.state;
    INSERT INTO task_text (rowid, objective, domain, why, state)
    VALUES (new.rowid, new.objective, new.domain, new.why, new.state);
END;

CREATE TRIGGER task_relisted AFTER UPDATE OF objective, domain, why, state ON task
WHEN (old.objective, old.domain, old.why, old.state) IS NOT (new.objective, new.domain, new.why, new.state) BEGIN
    INSERT INTO task_count (domain, state, n) SELECT new.domain, new.state, 0
    WHERE NOT EXISTS (SELECT 1 FROM task_count WHERE domain = new.domain AND state = new.state);
    UPDATE task_count SET n = n - 1 WHERE domain = old.domain AND state = old.state;
    UPDATE task_count SET n = n + 1 WHERE domain = new.domain AND state = new.state;
    INSERT INTO task_text (task_text, rowid, objective, domain, why, state)
    VALUES ('delete', old.rowid, old.objective, old.domain, old.why, old.state);
    INSERT INTO task_text (rowid, objective, domain, why, state)
    VALUES (new.rowid, new.objective, new.domain, new.why, new.state);
END;

CREATE TRIGGER task_unlisted AFTER DELETE ON task BEGIN
    UPDATE task_count SET n = n - 1 WHERE domain = old.domain AND state = old.state;
    INSERT INTO task_text (task_text, rowid, objective, domain, why, state)
    VALUES ('delete', old.rowid, old.objective, old.domain, old.why, old.state);
END;
