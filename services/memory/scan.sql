-- name: scan_event_columns
SELECT count(*), max(seq), group_concat(seq), group_concat(objective), group_concat(occurred_at, ''),
       group_concat(namespace || char(31) || domain || char(31) || procedure, char(30)),
       sum(typeof(objective) = 'integer')
FROM (SELECT seq, namespace, domain, procedure, objective, occurred_at FROM event WHERE seq > ? ORDER BY seq LIMIT ?);
