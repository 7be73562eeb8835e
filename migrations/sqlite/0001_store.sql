-- Times are microseconds since 1970 in UTC. Amounts in their own currency are decimal text.

-- The one sequence behind revisions, events and the ledger: it grows, with gaps.
CREATE TABLE sequence (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    value INTEGER NOT NULL
);
INSERT INTO sequence (id, value) VALUES (1, 0);

CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE models (
    version TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    origin TEXT NOT NULL,
    created_at INTEGER NOT NULL
);

CREATE TABLE deals (
    id TEXT PRIMARY KEY,
    document TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('open', 'won', 'lost')),
    owner TEXT,
    pipeline TEXT,
    stage TEXT,
    amount TEXT,
    currency TEXT,
    created_at INTEGER,
    expected_close_at INTEGER,
    closed_at INTEGER,
    revision INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
CREATE INDEX deals_open ON deals (id) WHERE outcome = 'open';
CREATE INDEX deals_revision ON deals (revision);

-- What was received, in the order in which it was received. Append-only.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    deal_id TEXT NOT NULL REFERENCES deals (id) ON DELETE CASCADE,
    received_at INTEGER NOT NULL,
    cause TEXT NOT NULL,
    -- The id that the sender gave the event: a second delivery is known by it.
    external_id TEXT,
    body TEXT NOT NULL,
    UNIQUE (deal_id, external_id)
);

-- One ranking under one model. Its scores are seen once it is active.
CREATE TABLE generations (
    id INTEGER PRIMARY KEY,
    model_version TEXT NOT NULL REFERENCES models (version),
    state TEXT NOT NULL CHECK (state IN ('building', 'active', 'retired')),
    activated_at INTEGER,
    retired_at INTEGER,
    -- Where its scores end that had not ended before: they keep a to_seq of NULL.
    retired_seq INTEGER
);
CREATE UNIQUE INDEX generations_active ON generations (state) WHERE state = 'active';

-- The ledger: a score held from from_seq until to_seq, or holds still. What rankings filter and sort
-- by stands here; the score itself stands apart, so that scans stay narrow.
CREATE TABLE scores (
    from_seq INTEGER PRIMARY KEY,
    to_seq INTEGER,
    deal_id TEXT NOT NULL REFERENCES deals (id) ON DELETE CASCADE,
    generation INTEGER NOT NULL REFERENCES generations (id),
    model_version TEXT NOT NULL,
    scored_at INTEGER NOT NULL,
    cause TEXT NOT NULL,
    win_probability REAL NOT NULL,
    expected_value REAL,
    base_amount REAL,
    grade TEXT NOT NULL,
    name TEXT,
    owner TEXT,
    pipeline TEXT,
    stage TEXT,
    amount TEXT,
    currency TEXT,
    created_at INTEGER,
    stage_entered_at INTEGER,
    expected_close_at INTEGER,
    last_activity_at INTEGER,
    -- Smallest first: what is largest, then what is unknown (1).
    expected_value_rank REAL NOT NULL GENERATED ALWAYS AS (coalesce(-expected_value, 1)) STORED,
    win_probability_rank REAL NOT NULL GENERATED ALWAYS AS (-win_probability) STORED,
    amount_rank REAL NOT NULL GENERATED ALWAYS AS (coalesce(-base_amount, 1)) STORED
);
CREATE UNIQUE INDEX scores_current ON scores (generation, deal_id) WHERE to_seq IS NULL;
CREATE INDEX scores_of_deal ON scores (deal_id, from_seq);
CREATE INDEX scores_superseded ON scores (generation, to_seq) WHERE to_seq IS NOT NULL;
CREATE INDEX scores_by_expected_value
    ON scores (generation, expected_value_rank, deal_id) WHERE to_seq IS NULL;
CREATE INDEX scores_by_owner
    ON scores (generation, owner, expected_value_rank, deal_id) WHERE to_seq IS NULL;
CREATE INDEX scores_by_pipeline
    ON scores (generation, pipeline, expected_value_rank, deal_id) WHERE to_seq IS NULL;

CREATE TABLE score_documents (
    from_seq INTEGER PRIMARY KEY REFERENCES scores (from_seq) ON DELETE CASCADE,
    score TEXT NOT NULL
);

CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed')),
    phase TEXT,
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    error TEXT,
    result TEXT
);
