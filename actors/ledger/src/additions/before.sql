-- The schema as it was before the first addition: a file that the tests complete, and use as that release did.

-- Whose ledger this is. Never changed after creation.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What happened, in order. `record` is the JSON of a StepRecord.
CREATE TABLE steps (
    sequence INTEGER PRIMARY KEY CHECK (sequence > 0),
    forward  INTEGER NOT NULL CHECK (forward >= 0),
    idx      INTEGER NOT NULL CHECK (idx BETWEEN 0 AND 255),
    record   TEXT NOT NULL,
    UNIQUE (forward, idx)
) STRICT;

-- What the folds made of each step: derived, overwritten freely. `outcome` is the JSON of a StepOutcome.
CREATE TABLE outcomes (
    sequence INTEGER PRIMARY KEY REFERENCES steps (sequence) ON DELETE CASCADE,
    outcome  TEXT NOT NULL
) STRICT;

-- The latest state of every owner of state, in its own format.
CREATE TABLE snapshots (
    owner    TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL CHECK (sequence >= 0),
    version  INTEGER NOT NULL,
    state    BLOB NOT NULL
) STRICT;

-- Weight vectors about to be submitted. `intent` is the JSON of a WeightIntent. Never pruned.
CREATE TABLE intents (
    id     INTEGER PRIMARY KEY CHECK (id > 0),
    intent TEXT NOT NULL
) STRICT;

-- How each intent went on: the row with the highest ordinal is its state now, none means open.
CREATE TABLE settlements (
    intent     INTEGER NOT NULL REFERENCES intents (id),
    ordinal    INTEGER NOT NULL,
    settlement TEXT NOT NULL,
    PRIMARY KEY (intent, ordinal)
) STRICT, WITHOUT ROWID;

-- How far each reader has come.
CREATE TABLE cursors (
    reader   TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL CHECK (sequence >= 0)
) STRICT, WITHOUT ROWID;

-- What retention took away: one row.
CREATE TABLE pruned (
    one             INTEGER PRIMARY KEY CHECK (one = 1),
    highest_forward INTEGER
) STRICT;
INSERT INTO pruned (one, highest_forward) VALUES (1, NULL);

-- For people: one row for every completion of every step.
CREATE VIEW completions AS
SELECT steps.sequence,
       steps.forward,
       steps.record ->> '$.name'                                              AS step,
       steps.record ->> '$.block'                                             AS block,
       reply.value ->> '$.uid'                                                AS uid,
       reply.value ->> '$.hotkey'                                             AS hotkey,
       reply.value ->> '$.outcome'                                            AS outcome,
       reply.value ->> '$.elapsed_seconds'                                    AS elapsed_seconds,
       outcomes.outcome ->> ('$.scored.rewards[' || reply.key || ']')         AS reward,
       reply.value ->> '$.text'                                               AS completion
FROM steps
         LEFT JOIN outcomes USING (sequence)
         JOIN json_each(steps.record, '$.completions') AS reply;
