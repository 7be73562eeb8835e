-- Who is told: receivers of webhooks, and CRMs whose fields are written.
CREATE TABLE subscriptions (
    id TEXT COLLATE "C" PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('webhook', 'write_back')),
    created_at BIGINT NOT NULL,
    -- Events with a larger number are told.
    since_seq BIGINT NOT NULL,
    description TEXT,
    -- With spaces between them.
    event_types TEXT NOT NULL,
    filters TEXT NOT NULL,
    disabled_at BIGINT,
    disabled_reason TEXT,
    failures_in_row BIGINT NOT NULL DEFAULT 0,
    paused_until BIGINT,
    -- Of webhooks. Keys sign, so they stand here as they are.
    url TEXT,
    format TEXT,
    secret TEXT,
    previous_secret TEXT,
    previous_secret_until BIGINT,
    -- Of CRMs; how far all deals have been gone through, while they are.
    crm TEXT,
    sweep TEXT
);

-- Events, each written in the transaction of what it tells of. Those that somebody wants stay until
-- their deliveries are removed.
CREATE TABLE outbox (
    seq BIGINT PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    happened_at BIGINT NOT NULL,
    -- Nobody has looked yet who wants it.
    is_new BIGINT NOT NULL DEFAULT 1,
    deal_id TEXT COLLATE "C" REFERENCES deals (id) ON DELETE CASCADE,
    -- What filters ask for.
    owner TEXT COLLATE "C",
    pipeline TEXT COLLATE "C",
    stage TEXT COLLATE "C",
    grade TEXT COLLATE "C",
    win_probability DOUBLE PRECISION,
    expected_value DOUBLE PRECISION,
    data TEXT NOT NULL
);
CREATE INDEX outbox_new ON outbox (seq) WHERE is_new = 1;
CREATE INDEX outbox_of_deal ON outbox (deal_id);

CREATE TABLE deliveries (
    subscription_id TEXT COLLATE "C" NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    seq BIGINT NOT NULL REFERENCES outbox (seq) ON DELETE CASCADE,
    -- Those of one deal go one after the other.
    order_key TEXT COLLATE "C" NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'failed', 'dropped')),
    attempts BIGINT NOT NULL DEFAULT 0,
    next_at BIGINT NOT NULL,
    -- Of the last attempt.
    attempted_at BIGINT,
    status BIGINT,
    reason TEXT,
    duration_ms BIGINT,
    PRIMARY KEY (subscription_id, seq)
);
CREATE INDEX deliveries_pending ON deliveries (subscription_id, seq) WHERE state = 'pending';
CREATE INDEX deliveries_in_order
    ON deliveries (subscription_id, order_key, seq) WHERE state = 'pending';
CREATE INDEX deliveries_of_event ON deliveries (seq);
CREATE INDEX deliveries_over ON deliveries (attempted_at) WHERE state <> 'pending';

-- What a subscription was told last of a deal, or what was written last into the CRM.
CREATE TABLE last_told (
    subscription_id TEXT COLLATE "C" NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    deal_id TEXT COLLATE "C" NOT NULL REFERENCES deals (id) ON DELETE CASCADE,
    win_probability DOUBLE PRECISION NOT NULL,
    grade TEXT COLLATE "C" NOT NULL,
    expected_value DOUBLE PRECISION,
    PRIMARY KEY (subscription_id, deal_id)
);
CREATE INDEX last_told_of_deal ON last_told (deal_id);

-- The stay in a stage that was last told as too long.
CREATE TABLE stalls_told (
    deal_id TEXT COLLATE "C" PRIMARY KEY REFERENCES deals (id) ON DELETE CASCADE,
    stage_entered_at BIGINT NOT NULL
);
