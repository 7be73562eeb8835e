-- Who is told: receivers of webhooks, and CRMs whose fields are written.
CREATE TABLE subscriptions (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('webhook', 'write_back')),
    created_at INTEGER NOT NULL,
    -- Events with a larger number are told.
    since_seq INTEGER NOT NULL,
    description TEXT,
    -- With spaces between them.
    event_types TEXT NOT NULL,
    filters TEXT NOT NULL,
    disabled_at INTEGER,
    disabled_reason TEXT,
    failures_in_row INTEGER NOT NULL DEFAULT 0,
    paused_until INTEGER,
    -- Of webhooks. Keys sign, so they stand here as they are.
    url TEXT,
    format TEXT,
    secret TEXT,
    previous_secret TEXT,
    previous_secret_until INTEGER,
    -- Of CRMs; how far all deals have been gone through, while they are.
    crm TEXT,
    sweep TEXT
);

-- Events, each written in the transaction of what it tells of. Those that somebody wants stay until
-- their deliveries are removed.
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    happened_at INTEGER NOT NULL,
    -- Nobody has looked yet who wants it.
    is_new INTEGER NOT NULL DEFAULT 1,
    deal_id TEXT REFERENCES deals (id) ON DELETE CASCADE,
    -- What filters ask for.
    owner TEXT,
    pipeline TEXT,
    stage TEXT,
    grade TEXT,
    win_probability REAL,
    expected_value REAL,
    data TEXT NOT NULL
);
CREATE INDEX outbox_new ON outbox (seq) WHERE is_new = 1;
CREATE INDEX outbox_of_deal ON outbox (deal_id);

CREATE TABLE deliveries (
    subscription_id TEXT NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL REFERENCES outbox (seq) ON DELETE CASCADE,
    -- Those of one deal go one after the other.
    order_key TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'failed', 'dropped')),
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at INTEGER NOT NULL,
    -- Of the last attempt.
    attempted_at INTEGER,
    status INTEGER,
    reason TEXT,
    duration_ms INTEGER,
    PRIMARY KEY (subscription_id, seq)
);
CREATE INDEX deliveries_pending ON deliveries (subscription_id, seq) WHERE state = 'pending';
CREATE INDEX deliveries_in_order
    ON deliveries (subscription_id, order_key, seq) WHERE state = 'pending';
CREATE INDEX deliveries_of_event ON deliveries (seq);
CREATE INDEX deliveries_over ON deliveries (attempted_at) WHERE state <> 'pending';

-- What a subscription was told last of a deal, or what was written last into the CRM.
CREATE TABLE last_told (
    subscription_id TEXT NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    deal_id TEXT NOT NULL REFERENCES deals (id) ON DELETE CASCADE,
    win_probability REAL NOT NULL,
    grade TEXT NOT NULL,
    expected_value REAL,
    PRIMARY KEY (subscription_id, deal_id)
);
CREATE INDEX last_told_of_deal ON last_told (deal_id);

-- The stay in a stage that was last told as too long.
CREATE TABLE stalls_told (
    deal_id TEXT PRIMARY KEY REFERENCES deals (id) ON DELETE CASCADE,
    stage_entered_at INTEGER NOT NULL
);
