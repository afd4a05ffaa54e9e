-- Every question a pulse asks stays as quick on the last pulse of a year as on the first.
DROP INDEX task_worked;
CREATE INDEX task_worked ON task (ended_at, worked, rehearsal, domain, tes, stability, prediction) WHERE worked = 1;
CREATE INDEX task_proposed ON task (objective_id)
    WHERE state IN ('proposed', 'rehearsed') AND approved_as = '';
CREATE INDEX task_undoing ON task (undo_of) WHERE undo_of <> '';
