-- Deals that were erased lately, so that rankings elsewhere can follow. Forgotten after an hour.
CREATE TABLE erased_deals (
    seq BIGINT PRIMARY KEY,
    deal_id TEXT COLLATE "C" NOT NULL,
    erased_at BIGINT NOT NULL
);

-- Who alone may do something, until when by the clock of the database. The token grows with each
-- change of hands: what carries an older one is refused.
CREATE TABLE leases (
    name TEXT COLLATE "C" PRIMARY KEY,
    holder TEXT NOT NULL,
    token BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

-- The process that has the job in its queue.
ALTER TABLE jobs ADD COLUMN owner TEXT;
