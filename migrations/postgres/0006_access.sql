-- Who may ask for what. Of keys, links and sessions only SHA-256 hashes are here: whoever reads this
-- cannot sign in with it.
CREATE TABLE access_keys (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    role TEXT NOT NULL CHECK (role IN ('manager', 'rep', 'api')),
    -- Whose queue and deals: of reps alone.
    owner TEXT COLLATE "C" CHECK ((role = 'rep') = (owner IS NOT NULL)),
    hash BYTEA NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT
);

-- Links that sign in once; gone with their key.
CREATE TABLE access_links (
    hash BYTEA PRIMARY KEY,
    key_id TEXT COLLATE "C" NOT NULL REFERENCES access_keys (id) ON DELETE CASCADE,
    expires_at BIGINT NOT NULL
);
CREATE INDEX access_links_of_key ON access_links (key_id);

CREATE TABLE access_sessions (
    hash BYTEA PRIMARY KEY,
    key_id TEXT COLLATE "C" NOT NULL REFERENCES access_keys (id) ON DELETE CASCADE,
    expires_at BIGINT NOT NULL
);
CREATE INDEX access_sessions_of_key ON access_sessions (key_id);
