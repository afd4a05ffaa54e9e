-- Posteriors by context too ('' is all of them), and how much a run had to work on, for costs by the byte.
CREATE TABLE posterior_by_context (
    domain    TEXT NOT NULL,
    procedure TEXT NOT NULL, -- '' is the whole domain
    context   TEXT NOT NULL,
    at        TEXT NOT NULL,
    successes REAL NOT NULL,
    failures  REAL NOT NULL,
    cpu_seconds   REAL,
    bytes_written REAL,
    bytes_in      REAL,
    PRIMARY KEY (domain, procedure, context)
) STRICT, WITHOUT ROWID;
INSERT INTO posterior_by_context
SELECT domain, procedure, '', at, successes, failures, cpu_seconds, bytes_written, NULL FROM posterior;
DROP TABLE posterior;
ALTER TABLE posterior_by_context RENAME TO posterior;

-- How decisions with memory and without it ended: sums of their utilities.
CREATE TABLE memory_trial (
    domain  TEXT NOT NULL,
    memory  TEXT NOT NULL CHECK (memory IN ('used', 'ignored')),
    runs    INTEGER NOT NULL,
    total   REAL NOT NULL,
    squares REAL NOT NULL,
    PRIMARY KEY (domain, memory)
) STRICT, WITHOUT ROWID;
