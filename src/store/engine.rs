//! Two engines behind one way to ask: SQLite and PostgreSQL. What they do differently is in this file
//! and in the two folders of migrations; every other statement is the same text for both.
//!
//! Statements count their arguments (`$1`, `$2`), which both engines understand. Columns are integers of
//! 64 bits, doubles, texts and bytes; a flag is 0 or 1.

use std::borrow::Cow;
use std::fmt::{Display, Write};
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgPool, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqlitePool, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Decode, Transaction, Type};

use crate::error::{Error, Result};

/// How long PostgreSQL may take over a statement, after which it gives up by itself.
pub(super) const STATEMENT_SECONDS_MAX: u64 = 60;
/// How long we wait for what PostgreSQL says about a statement: longer, so that this is the network.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(STATEMENT_SECONDS_MAX + 5);

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    /// The time by the clock of the database, in microseconds since 1970: the same for all processes.
    pub fn now(self) -> &'static str {
        match self {
            Self::Sqlite => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
            Self::Postgres => "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)",
        }
    }

    /// The member of a column of JSON text if it is an object, as JSON text; else NULL.
    pub fn json_object(self, column: &str, member: &str) -> String {
        match self {
            Self::Sqlite => format!(
                "CASE json_type({column}, '$.{member}') WHEN 'object'
                 THEN json_extract({column}, '$.{member}') END"
            ),
            Self::Postgres => format!(
                "CASE json_typeof({column}::json -> '{member}') WHEN 'object'
                 THEN ({column}::json -> '{member}')::text END"
            ),
        }
    }
}

/// Connections.
#[derive(Debug, Clone)]
pub(crate) enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Pool {
    pub fn engine(&self) -> Engine {
        match self {
            Self::Sqlite(_) => Engine::Sqlite,
            Self::Postgres(_) => Engine::Postgres,
        }
    }

    /// A transaction that writes. On SQLite taking the lock at once avoids a deadlock between two that
    /// both read first.
    pub async fn write(&self) -> Result<Tx> {
        Ok(match self {
            Self::Sqlite(pool) => Tx::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?),
            Self::Postgres(pool) => Tx::Postgres(answered(pool.begin()).await?),
        })
    }

    /// A transaction that reads: all its statements see the same moment.
    pub async fn read(&self) -> Result<Tx> {
        const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
        Ok(match self {
            Self::Sqlite(pool) => Tx::Sqlite(pool.begin().await?),
            Self::Postgres(pool) => Tx::Postgres(answered(pool.begin_with(SNAPSHOT)).await?),
        })
    }

    pub async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// A transaction; dropped, it is as if it had not been.
#[derive(Debug)]
pub(crate) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl Tx {
    pub async fn commit(self) -> Result<()> {
        match self {
            Self::Sqlite(tx) => tx.commit().await?,
            Self::Postgres(tx) => answered(tx.commit()).await?,
        }
        Ok(())
    }
}

/// Where a statement runs.
#[derive(Debug)]
pub(crate) enum On<'c> {
    Pool(&'c Pool),
    Tx(&'c mut Tx),
}

impl<'c> From<&'c Pool> for On<'c> {
    fn from(pool: &'c Pool) -> Self {
        Self::Pool(pool)
    }
}

impl<'c> From<&'c mut Tx> for On<'c> {
    fn from(tx: &'c mut Tx) -> Self {
        Self::Tx(tx)
    }
}

/// A statement with its arguments.
#[derive(Debug, Clone)]
pub(crate) struct Sql<'a> {
    text: Cow<'static, str>,
    arguments: Vec<Argument<'a>>,
    is_kept: bool,
}

/// Runs a statement on whatever there is, and wraps what comes back of rows.
macro_rules! run {
    ($sql:ident, $on:ident, $method:ident, $wrap:expr) => {{
        let (sqlite, postgres) = $wrap;
        match $on.into() {
            On::Pool(Pool::Sqlite(pool)) => $sql.sqlite()?.$method(pool).await.map(sqlite)?,
            On::Tx(Tx::Sqlite(tx)) => $sql.sqlite()?.$method(&mut **tx).await.map(sqlite)?,
            On::Pool(Pool::Postgres(pool)) => answered($sql.postgres()?.$method(pool))
                .await
                .map(postgres)?,
            On::Tx(Tx::Postgres(tx)) => answered($sql.postgres()?.$method(&mut **tx))
                .await
                .map(postgres)?,
        }
    }};
}

/// Binds all arguments of a statement for one engine.
macro_rules! query {
    ($sql:ident, $arguments:ty, $text:expr) => {{
        let mut arguments = <$arguments>::default();
        for argument in $sql.arguments {
            match argument {
                Argument::Integer(value) => arguments.add(value),
                Argument::Real(value) => arguments.add(value),
                Argument::Text(value) => arguments.add(value.map($text)),
                Argument::Bytes(value) => arguments.add(value),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok(sqlx::query_with(AssertSqlSafe($sql.text), arguments).persistent($sql.is_kept))
    }};
}

impl<'a> Sql<'a> {
    pub fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            text: text.into(),
            arguments: Vec::new(),
            is_kept: true,
        }
    }

    /// Text that will not come again is not worth a place among the prepared statements.
    pub fn unkept(mut self) -> Self {
        self.is_kept = false;
        self
    }

    /// The next argument of a text that has its place already.
    pub fn bind(mut self, argument: impl Into<Argument<'a>>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// More text: of the program, never of its users.
    pub fn push(&mut self, text: impl Display) -> &mut Self {
        // A String takes all that is written.
        let _ = write!(self.text.to_mut(), "{text}");
        self
    }

    /// An argument, and its place in the text.
    pub fn push_bind(&mut self, argument: impl Into<Argument<'a>>) -> &mut Self {
        self.arguments.push(argument.into());
        let place = self.arguments.len();
        self.push(format_args!("${place}"))
    }

    /// `($1, $2, ...)`; of nothing `(NULL)`, among which nothing is: PostgreSQL knows no empty list.
    pub fn push_list<A: Into<Argument<'a>>>(
        &mut self,
        arguments: impl IntoIterator<Item = A>,
    ) -> &mut Self {
        self.push("(");
        let before = self.arguments.len();
        for argument in arguments {
            let is_first = self.arguments.len() == before;
            self.push(if is_first { "" } else { ", " })
                .push_bind(argument);
        }
        let is_empty = self.arguments.len() == before;
        self.push(if is_empty { "NULL)" } else { ")" })
    }

    /// Answers with the number of rows that it changed.
    pub async fn execute(self, on: impl Into<On<'_>>) -> Result<u64> {
        Ok(run!(
            self,
            on,
            execute,
            (
                |done: sqlx::sqlite::SqliteQueryResult| done.rows_affected(),
                |done: sqlx::postgres::PgQueryResult| done.rows_affected()
            )
        ))
    }

    pub async fn fetch_all(self, on: impl Into<On<'_>>) -> Result<Vec<Row>> {
        let sqlite = |rows: Vec<SqliteRow>| rows.into_iter().map(Row::Sqlite).collect();
        let postgres = |rows: Vec<PgRow>| rows.into_iter().map(Row::Postgres).collect();
        Ok(run!(self, on, fetch_all, (sqlite, postgres)))
    }

    pub async fn fetch_optional(self, on: impl Into<On<'_>>) -> Result<Option<Row>> {
        let sqlite = |row: Option<SqliteRow>| row.map(Row::Sqlite);
        let postgres = |row: Option<PgRow>| row.map(Row::Postgres);
        Ok(run!(self, on, fetch_optional, (sqlite, postgres)))
    }

    /// # Errors
    /// When there is no row, too.
    pub async fn fetch_one(self, on: impl Into<On<'_>>) -> Result<Row> {
        Ok(run!(self, on, fetch_one, (Row::Sqlite, Row::Postgres)))
    }

    /// The first column of the one row.
    pub async fn scalar<T: for<'r> Read<'r>>(self, on: impl Into<On<'_>>) -> Result<T> {
        self.fetch_one(on).await?.first()
    }

    /// The first column of the row, if there is one.
    pub async fn scalar_optional<T>(self, on: impl Into<On<'_>>) -> Result<Option<T>>
    where
        T: for<'r> Read<'r>,
    {
        let row = self.fetch_optional(on).await?;
        row.as_ref().map(Row::first).transpose()
    }

    /// The first column of all rows.
    pub async fn scalars<T: for<'r> Read<'r>>(self, on: impl Into<On<'_>>) -> Result<Vec<T>> {
        self.fetch_all(on).await?.iter().map(Row::first).collect()
    }

    fn sqlite(self) -> Result<Query<'static, Sqlite, SqliteArguments>, sqlx::Error> {
        query!(self, SqliteArguments, Cow::into_owned)
    }

    fn postgres(self) -> Result<Query<'static, Postgres, PgArguments>, sqlx::Error> {
        // PostgreSQL has no U+0000 in texts. None is stored; somebody may ask for one, and finds none.
        query!(
            self,
            PgArguments,
            |text: Cow<'a, str>| match text.contains('\0') {
                true => text.replace('\0', "\u{fffd}"),
                false => text.into_owned(),
            }
        )
    }
}

/// What a statement may be given.
#[derive(Debug, Clone)]
pub(crate) enum Argument<'a> {
    Integer(Option<i64>),
    Real(Option<f64>),
    Text(Option<Cow<'a, str>>),
    Bytes(Option<Vec<u8>>),
}

macro_rules! argument_from {
    ($($from:ty: |$value:ident| $argument:expr;)*) => {
        $(impl<'a> From<$from> for Argument<'a> {
            fn from($value: $from) -> Self {
                $argument
            }
        })*
    };
}

argument_from! {
    i64: |value| Self::Integer(Some(value));
    u32: |value| Self::Integer(Some(value.into()));
    bool: |value| Self::Integer(Some(value.into()));
    Option<i64>: |value| Self::Integer(value);
    f64: |value| Self::Real(Some(value));
    Option<f64>: |value| Self::Real(value);
    &'a str: |value| Self::Text(Some(value.into()));
    &'a String: |value| Self::Text(Some(value.into()));
    String: |value| Self::Text(Some(value.into()));
    Option<&'a str>: |value| Self::Text(value.map(Into::into));
    &'a Option<String>: |value| Self::Text(value.as_deref().map(Into::into));
    Option<String>: |value| Self::Text(value.map(Into::into));
    Vec<u8>: |value| Self::Bytes(Some(value));
    Option<Vec<u8>>: |value| Self::Bytes(value);
}

/// What a column may be read as: `i64`, `f64`, `bool`, texts, bytes, and options of them.
pub(crate) trait Read<'r>:
    Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>
{
}

impl<'r, T> Read<'r> for T where
    T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>
{
}

#[derive(Debug)]
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    pub fn get<'r, T: Read<'r>>(&'r self, column: &str) -> Result<T> {
        Ok(match self {
            Self::Sqlite(row) => sqlx::Row::try_get(row, column)?,
            Self::Postgres(row) => sqlx::Row::try_get(row, column)?,
        })
    }

    fn first<'r, T: Read<'r>>(&'r self) -> Result<T> {
        Ok(match self {
            Self::Sqlite(row) => sqlx::Row::try_get(row, 0)?,
            Self::Postgres(row) => sqlx::Row::try_get(row, 0)?,
        })
    }
}

/// Does not wait for ever for a server that cannot be reached any more.
async fn answered<T>(
    asked: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let silent = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    tokio::time::timeout(ANSWER_TIMEOUT, asked)
        .await
        .map_err(silent)?
}

/// States of PostgreSQL that pass by themselves: shutting down or starting up, too many connections,
/// a statement that took too long, transactions that got in each other's way.
const PASSING: [&str; 10] = [
    "57P01", "57P02", "57P03", "57P05", "53300", "57014", "25P03", "40001", "40P01", "55P03",
];

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let is_away = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            sqlx::Error::Database(e) => e.code().is_some_and(|code| {
                let is_connection = code.len() == 5 && code.starts_with("08");
                is_connection || PASSING.contains(&&*code)
            }),
            _ => false,
        };
        if is_away {
            return Self::StoreAway(anyhow::Error::new(error).context("the store does not answer"));
        }
        Self::Internal(anyhow::Error::new(error).context("the store failed"))
    }
}
