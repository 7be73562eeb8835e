-- What CRMs sent: kept before it is answered, applied afterwards, kept a while longer so that a second
-- delivery is known as such.
CREATE TABLE inbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL,
    -- The same for each delivery of the same event.
    event_key TEXT NOT NULL,
    -- NULL where the event does not say it.
    deal_id TEXT,
    -- new; unread: the CRM is to be asked for the whole deal; waiting for its deal to become known;
    -- applied; dead: it cannot be applied.
    state TEXT NOT NULL CHECK (state IN ('new', 'unread', 'waiting', 'applied', 'dead')),
    received_at INTEGER NOT NULL,
    -- Since when it is in its state, once it has been looked at.
    settled_at INTEGER,
    -- Until when a process has it in hand, or when it is to be tried again.
    claimed_until INTEGER NOT NULL DEFAULT 0,
    -- Why it is dead.
    reason TEXT,
    body TEXT NOT NULL,
    UNIQUE (source, event_key)
);
CREATE INDEX inbox_new ON inbox (seq) WHERE state = 'new';
CREATE INDEX inbox_unread ON inbox (seq) WHERE state = 'unread';
CREATE INDEX inbox_waiting ON inbox (deal_id) WHERE state = 'waiting';
CREATE INDEX inbox_dead ON inbox (seq) WHERE state = 'dead';
CREATE INDEX inbox_applied ON inbox (settled_at) WHERE state = 'applied';
CREATE INDEX inbox_of_deal ON inbox (deal_id);

-- Deals that are gone from their CRM: what is told of an earlier moment does not bring them back.
CREATE TABLE departures (
    deal_id TEXT PRIMARY KEY,
    departed_at INTEGER,
    returned_at INTEGER
) WITHOUT ROWID;
