//! What has to happen in one step in Redis.

use std::sync::LazyLock;

use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, Script, ServerErrorKind, ToRedisArgs};

/// Reads a page. Keys: pointer, sizes, ranking. Arguments: epoch, name of the ranking, limit, the
/// sequence number that must have been reached, and for a later page the number that must hold and the
/// last member of the page before.
/// Answers `{state, seq, members}`, with state `other` (and the epoch in place of members) where the
/// pointer names another epoch, `damaged`, `behind`, `moved` (on from the page before) or `page`.
pub(super) static PAGE: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
        local pointer = redis.call('GET', KEYS[1])
        if not pointer then return {'damaged', 0, {}} end
        if pointer ~= ARGV[1] then return {'other', 0, {pointer}} end
        local known = redis.call('HMGET', KEYS[2], 'seq', ARGV[2])
        if not known[1] then return {'damaged', 0, {}} end
        if redis.call('ZCARD', KEYS[3]) ~= tonumber(known[2] or '0') then
            return {'damaged', 0, {}}
        end
        local seq = tonumber(known[1])
        if seq < tonumber(ARGV[4]) then return {'behind', seq, {}} end
        local first = 0
        if ARGV[5] then
            local place = redis.call('ZRANK', KEYS[3], ARGV[6])
            if ARGV[5] ~= known[1] or not place then return {'moved', seq, {}} end
            first = place + 1
        end
        return {'page', seq, redis.call('ZRANGE', KEYS[3], first, first + ARGV[3] - 1)}
        ",
    )
});

/// Takes the rankings from one sequence number to another. Keys: pointer, sizes, then the rankings
/// that change. Arguments: epoch, number before, number after, length of the keys' prefix before the
/// name of a ranking, then for each move the ranking (1 is the first), the member, and its rank or
/// nothing to take it out.
/// Answers whether the rankings are at the number after, or later.
pub(super) static ADVANCE: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
        if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
        local seq = redis.call('HGET', KEYS[2], 'seq')
        if not seq then return 0 end
        if tonumber(seq) >= tonumber(ARGV[3]) then return 1 end
        if seq ~= ARGV[2] then return 0 end
        local prefix = tonumber(ARGV[4])
        for at = 5, #ARGV, 3 do
            local key, member, rank = KEYS[2 + ARGV[at]], ARGV[at + 1], ARGV[at + 2]
            local grown
            if rank == '' then
                grown = -redis.call('ZREM', key, member)
            else
                grown = redis.call('ZADD', key, rank, member)
            end
            if grown ~= 0 then
                redis.call('HINCRBY', KEYS[2], string.sub(key, prefix + 1), grown)
            end
        end
        redis.call('HSET', KEYS[2], 'seq', ARGV[3])
        return 1
        ",
    )
});

/// Keeps a score unless a newer one is kept. Keys: the score's. Arguments: its number in the ledger,
/// its JSON, and for how many milliseconds.
pub(super) static KEEP_SCORE: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        r"
        local kept = redis.call('HGET', KEYS[1], 'seq')
        if kept and tonumber(kept) > tonumber(ARGV[1]) then return 0 end
        redis.call('HSET', KEYS[1], 'seq', ARGV[1], 'score', ARGV[2])
        redis.call('PEXPIRE', KEYS[1], ARGV[3])
        return 1
        ",
    )
});

/// A script, and the hash by which Redis knows it.
pub(super) struct Lua {
    code: &'static str,
    hash: String,
}

impl Lua {
    fn new(code: &'static str) -> Self {
        let hash = Script::new(code).get_hash().to_owned();
        Self { code, hash }
    }
}

/// A script with its keys and arguments.
pub(super) struct Call {
    script: &'static Lua,
    keys: Vec<String>,
    args: Vec<Vec<u8>>,
}

impl Call {
    pub fn of(script: &'static LazyLock<Lua>) -> Self {
        Self {
            script,
            keys: Vec::new(),
            args: Vec::new(),
        }
    }

    pub fn key(&mut self, key: String) -> &mut Self {
        self.keys.push(key);
        self
    }

    pub fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        arg.write_redis_args(&mut self.args);
        self
    }

    /// Runs the script. Where it is unknown its text goes along, to the one node that is asked:
    /// loading it first would need all masters of a cluster, also those that are out.
    pub async fn run<T: FromRedisValue>(
        &self,
        connection: &mut impl ConnectionLike,
    ) -> RedisResult<T> {
        let known = self.command("EVALSHA", &self.script.hash);
        match known.query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let unknown = self.command("EVAL", self.script.code);
                unknown.query_async(connection).await
            }
            answer => answer,
        }
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command
            .arg(script)
            .arg(self.keys.len())
            .arg(&self.keys)
            .arg(&self.args);
        command
    }
}
