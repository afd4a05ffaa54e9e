-- Every question to the gates with their answers; the pulse records hold the same, from which it can be made again.
CREATE TABLE gate_entry (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at     TEXT NOT NULL,
    task   TEXT NOT NULL,
    entry  TEXT NOT NULL
) STRICT;
CREATE INDEX gate_entry_at ON gate_entry (at);
CREATE INDEX ladder_entry_at ON ladder_entry (at);
