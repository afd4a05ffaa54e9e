-- What the domains' metrics were, so that before and after an effect can be compared; two days of it are kept.
CREATE TABLE reading (
    metric TEXT NOT NULL,
    at     TEXT NOT NULL,
    value  REAL NOT NULL,
    PRIMARY KEY (metric, at)
) STRICT, WITHOUT ROWID;

-- What other tasks changed while one ran.
CREATE INDEX task_target_ended ON task_target (ended_at);
