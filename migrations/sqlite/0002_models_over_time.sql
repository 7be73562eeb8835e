-- How a model did against the champion of its day, as JSON; NULL where there was no champion.
ALTER TABLE models ADD COLUMN challenge TEXT;
-- The one model that waits to take the champion's place, and scores open deals unseen meanwhile.
ALTER TABLE models ADD COLUMN is_challenger INTEGER NOT NULL DEFAULT 0;
CREATE UNIQUE INDEX models_challenger ON models (is_challenger) WHERE is_challenger = 1;

-- Which model became the champion, when, and by what.
CREATE TABLE activations (
    seq INTEGER PRIMARY KEY,
    model_version TEXT NOT NULL REFERENCES models (version),
    activated_at INTEGER NOT NULL,
    cause TEXT NOT NULL CHECK (cause IN ('first', 'challenge', 'command', 'rollback')),
    -- Where rolling back from here leads; NULL where there is nothing before.
    previous_seq INTEGER REFERENCES activations (seq)
);
INSERT INTO activations (model_version, activated_at, cause, previous_seq)
SELECT model_version, activated_at,
       CASE WHEN row_number() OVER by_time = 1 THEN 'first' ELSE 'command' END,
       nullif(row_number() OVER by_time - 1, 0)
FROM generations WHERE activated_at IS NOT NULL
WINDOW by_time AS (ORDER BY id);

-- Whether there is anything new to learn from.
CREATE INDEX deals_closed ON deals (updated_at) WHERE outcome <> 'open';

-- What challengers make of deals, each beside what the champion made of the deal at the same moment.
-- Of a deal the last score before its end stays.
CREATE TABLE shadow_scores (
    model_version TEXT NOT NULL REFERENCES models (version),
    deal_id TEXT NOT NULL REFERENCES deals (id) ON DELETE CASCADE,
    probability REAL NOT NULL,
    champion_probability REAL NOT NULL,
    scored_at INTEGER NOT NULL,
    PRIMARY KEY (model_version, deal_id)
) WITHOUT ROWID;
CREATE INDEX shadow_scores_of_deal ON shadow_scores (deal_id);

-- A hash of everything that the score was computed from.
ALTER TABLE scores ADD COLUMN inputs_hash TEXT;

-- How far the sequence was at a time, so that what ended before a time can be found by its number.
CREATE TABLE ledger_marks (
    seq INTEGER NOT NULL,
    marked_at INTEGER PRIMARY KEY
);
