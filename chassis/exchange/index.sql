-- Derived from the archive's segments; dropped and rebuilt when it is lost, damaged or of another version.
PRAGMA user_version = 1;
CREATE TABLE task (
    id TEXT PRIMARY KEY,
    segment TEXT NOT NULL,      -- <yyyymmdd>.jsonl, or <yyyymmdd>.ids once only the id is kept
    start INTEGER NOT NULL,     -- byte offset of its line in the segment
    size INTEGER NOT NULL,      -- bytes of the line without its newline
    status TEXT NOT NULL,       -- of the ack
    epoch INTEGER NOT NULL,
    agent TEXT NOT NULL,
    domain TEXT NOT NULL,
    owner TEXT NOT NULL,
    ended_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX task_ended ON task (ended_at);
CREATE TABLE segment (
    name TEXT PRIMARY KEY,
    indexed INTEGER NOT NULL    -- bytes of it that are in the table above
) WITHOUT ROWID;
