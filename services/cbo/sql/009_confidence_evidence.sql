-- What a domain's confidence rested on, so that how it stood at any later moment can be told; unknown for older points.
ALTER TABLE confidence_point ADD COLUMN successes REAL;
ALTER TABLE confidence_point ADD COLUMN failures REAL;

-- Effects that did not last: the few among many that the calibration has to leave out.
CREATE INDEX verification_regressed ON verification (task_id) WHERE verdict = 'regressed';
