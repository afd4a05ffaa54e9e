-- What people elsewhere are told, one row for each target, until it took it.
CREATE TABLE notice (
    key     TEXT NOT NULL,
    target  TEXT NOT NULL,
    title   TEXT NOT NULL,
    body    TEXT NOT NULL,
    at      TEXT NOT NULL,
    state   TEXT NOT NULL CHECK (state IN ('waiting', 'sent', 'dropped')),
    sent_at TEXT,
    PRIMARY KEY (key, target)
) STRICT, WITHOUT ROWID;
CREATE INDEX notice_waiting ON notice (target, at) WHERE state = 'waiting';
