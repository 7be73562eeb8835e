-- Deals that were erased lately, so that rankings elsewhere can follow. Forgotten after an hour.
CREATE TABLE erased_deals (
    seq INTEGER PRIMARY KEY,
    deal_id TEXT NOT NULL,
    erased_at INTEGER NOT NULL
);

-- Who alone may do something, until when by the clock of the database. The token grows with each
-- change of hands: what carries an older one is refused.
CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    token INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
);

-- The process that has the job in its queue.
ALTER TABLE jobs ADD COLUMN owner TEXT;
