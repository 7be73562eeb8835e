-- The deals that are known to get the wrong attention, and which: each is told once for each time on the list.
CREATE TABLE misprioritized_told (
    deal_id TEXT PRIMARY KEY REFERENCES deals (id) ON DELETE CASCADE,
    kind TEXT NOT NULL
);
