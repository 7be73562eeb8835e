//! The embedded store as a whole: copied while it is served, put back, moved to PostgreSQL.

use std::path::{Path, PathBuf};

use anyhow::Context;
use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqliteConnection};

use super::engine::{Argument, Row, Sql, Tx};
use super::{BUSY_TIMEOUT, DatabaseUrl, Store};
use crate::error::{Error, Result};
use crate::progress::{OnProgress, Progress};

/// Parameters of one INSERT: within what PostgreSQL takes, and few enough to be cheap to put together.
const INSERT_ARGUMENTS_MAX: usize = 10_000;

/// What a copy has.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Contents {
    pub deals: i64,
    pub events: i64,
    pub models: i64,
}

/// A table that was copied.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MovedTable {
    pub table: String,
    pub rows: u64,
}

/// Copies the embedded store at `path` to a new file, as it is at one moment, while others read and write
/// it. The copy is there whole or not at all.
///
/// # Errors
/// When there is no store, the copy cannot be written, or it is not sound.
pub async fn back_up(path: &Path, copy: &Path) -> Result<Contents> {
    let partial = beside(copy, "partial");
    remove(&partial)?;
    let mut store = file(path).connect().await?;
    let copied = sqlx::query("VACUUM INTO $1")
        .bind(partial.to_str().context("the path is not UTF-8")?)
        .execute(&mut store)
        .await;
    store.close().await?;
    copied.with_context(|| format!("cannot write {}", partial.display()))?;
    let contents = check(&partial).await?;
    put_in_place(&partial, copy)?;
    Ok(contents)
}

/// Takes a copy as the store at `path`, in place of what is there. Nobody may have the store open.
///
/// # Errors
/// When the copy is no store, is damaged, or was written by a newer dealrank; then nothing has changed.
pub async fn restore(copy: &Path, path: &Path) -> Result<Contents> {
    check(copy).await?;
    let partial = beside(path, "restoring");
    for leftover in with_companions(&partial) {
        remove(&leftover)?;
    }
    std::fs::copy(copy, &partial)
        .with_context(|| format!("cannot copy {} to {}", copy.display(), partial.display()))?;
    // What others keep of the store that is replaced, Redis say, is not about this one.
    let mut store = file(&partial).connect().await?;
    sqlx::query("DELETE FROM settings WHERE name = 'store_id'")
        .execute(&mut store)
        .await?;
    store.close().await?;
    // Brings the tables up to date, and knows whether they are too new.
    Store::open(&partial).await?.close().await;
    let contents = check(&partial).await?;
    // The companions of the store that is replaced would be taken for those of the new one. If it is
    // sound they are worked into it first, so that it is whole until the last moment.
    if let Ok(replaced) = Store::open(path).await {
        replaced.close().await;
    }
    for companion in &with_companions(path)[1..] {
        remove(companion)?;
    }
    put_in_place(&partial, path)?;
    Ok(contents)
}

/// Copies everything of the embedded store to an empty PostgreSQL, all or nothing.
///
/// # Errors
/// `Conflict` when the target is not empty.
pub async fn move_to(
    source: &Path,
    target: &DatabaseUrl,
    connections_max: u32,
    on_progress: OnProgress<'_>,
) -> Result<Vec<MovedTable>> {
    // The same tables on both sides.
    Store::open(source).await?.close().await;
    let target = Store::connect(target, connections_max).await?;
    let mut source = file(source).connect().await?;
    let mut tx = target.writer.write().await?;
    // Reading and counting a large file takes longer than a service may idle in a transaction.
    for limit in ["idle_in_transaction_session_timeout", "statement_timeout"] {
        Sql::new(format!("SET LOCAL {limit} = 0"))
            .execute(&mut tx)
            .await?;
    }
    let is_empty: bool = Sql::new(
        "SELECT value = 0 AND NOT EXISTS (SELECT 1 FROM deals) AND NOT EXISTS (SELECT 1 FROM models)
            AND NOT EXISTS (SELECT 1 FROM jobs) FROM sequence FOR UPDATE",
    )
    .scalar(&mut tx)
    .await?;
    if !is_empty {
        return Err(Error::Conflict(
            "the PostgreSQL is not empty: give an empty database".into(),
        ));
    }
    let mut moved = Vec::new();
    for table in Table::all(&mut source).await? {
        let rows = table.copy(&mut source, &mut tx, on_progress).await?;
        moved.push(MovedTable {
            table: table.name,
            rows,
        });
    }
    // Who held what was of the other store.
    Sql::new("UPDATE leases SET expires_at = 0")
        .execute(&mut tx)
        .await?;
    Sql::new("UPDATE settings SET value = $1 WHERE name = 'store_id'")
        .bind(target.id())
        .execute(&mut tx)
        .await?;
    continue_identities(&mut tx).await?;
    tx.commit().await?;
    target.close().await;
    source.close().await?;
    Ok(moved)
}

/// A table of the file with its columns, without those that are computed.
struct Table {
    name: String,
    columns: Vec<Column>,
}

struct Column {
    name: String,
    kind: Kind,
}

enum Kind {
    Integer,
    Real,
    Text,
    Bytes,
}

impl Table {
    /// In the order in which they were made, so that none refers to a later one.
    async fn all(source: &mut SqliteConnection) -> Result<Vec<Self>> {
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM sqlite_master WHERE type = 'table'
                 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> '_sqlx_migrations'
             ORDER BY rowid",
        )
        .fetch_all(&mut *source)
        .await?;
        let mut tables = Vec::with_capacity(names.len());
        for name in names {
            let columns: Vec<(String, String)> =
                sqlx::query_as("SELECT name, type FROM pragma_table_xinfo($1) WHERE hidden = 0")
                    .bind(&name)
                    .fetch_all(&mut *source)
                    .await?;
            let columns = columns
                .into_iter()
                .map(|(name, kind)| Column {
                    name,
                    kind: match &*kind {
                        "INTEGER" => Kind::Integer,
                        "REAL" => Kind::Real,
                        "BLOB" => Kind::Bytes,
                        _ => Kind::Text,
                    },
                })
                .collect();
            tables.push(Self { name, columns });
        }
        Ok(tables)
    }

    fn column_names(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
        names.join(", ")
    }

    /// Takes the place of what a new store begins with. Rows pass through in chunks.
    async fn copy(
        &self,
        source: &mut SqliteConnection,
        tx: &mut Tx,
        on_progress: OnProgress<'_>,
    ) -> Result<u64> {
        let table = &self.name;
        let count = format!("SELECT count(*) FROM {table}");
        let total: i64 = sqlx::query_scalar(AssertSqlSafe(&*count))
            .fetch_one(&mut *source)
            .await?;
        Sql::new(format!("DELETE FROM {table}"))
            .execute(&mut *tx)
            .await?;
        // By the first column, which is the key or its beginning: a row may refer to an earlier one.
        let select = format!("SELECT {} FROM {table} ORDER BY 1", self.column_names());
        let mut rows = sqlx::query(AssertSqlSafe(select)).fetch(source);
        let chunk_rows = INSERT_ARGUMENTS_MAX / self.columns.len().max(1);
        let mut chunk = Vec::with_capacity(chunk_rows);
        let mut done = 0;
        loop {
            let row = rows.try_next().await?;
            let is_last = row.is_none();
            chunk.extend(row.map(Row::Sqlite));
            if !chunk.is_empty() && (is_last || chunk.len() == chunk_rows) {
                done += chunk.len() as u64;
                self.insert(&chunk, tx).await?;
                chunk.clear();
                on_progress(Progress {
                    phase: "moving",
                    done,
                    total: total.unsigned_abs(),
                });
            }
            if is_last {
                break;
            }
        }
        let arrived: i64 = Sql::new(count).scalar(tx).await?;
        if arrived != total || done != total.unsigned_abs() {
            return Err(Error::Internal(anyhow::anyhow!(
                "of {total} rows of {table}, {done} were read and {arrived} arrived"
            )));
        }
        Ok(done)
    }

    async fn insert(&self, rows: &[Row], tx: &mut Tx) -> Result<()> {
        let (table, columns) = (&self.name, self.column_names());
        let mut insert = Sql::new(format!("INSERT INTO {table} ({columns}) VALUES "));
        for (index, row) in rows.iter().enumerate() {
            let values = self.columns.iter().map(|column| column.read(row));
            insert
                .push(if index > 0 { ", " } else { "" })
                .push_list(values.collect::<Result<Vec<_>>>()?);
        }
        insert.unkept().execute(tx).await?;
        Ok(())
    }
}

impl Column {
    fn read<'r>(&self, row: &'r Row) -> Result<Argument<'r>> {
        let name = &self.name;
        Ok(match self.kind {
            Kind::Integer => row.get::<Option<i64>>(name)?.into(),
            Kind::Real => row.get::<Option<f64>>(name)?.into(),
            Kind::Text => row.get::<Option<&str>>(name)?.into(),
            Kind::Bytes => row.get::<Option<Vec<u8>>>(name)?.into(),
        })
    }
}

/// Columns that number their rows go on after the numbers that were brought along.
async fn continue_identities(tx: &mut Tx) -> Result<()> {
    let identities = Sql::new(
        "SELECT table_name::text, column_name::text FROM information_schema.columns
         WHERE table_schema = current_schema() AND is_identity = 'YES'",
    );
    for identity in identities.fetch_all(&mut *tx).await? {
        let (table, column) = (
            identity.get::<&str>("table_name")?,
            identity.get::<&str>("column_name")?,
        );
        Sql::new(format!(
            "SELECT setval(pg_get_serial_sequence('{table}', '{column}'),
                           (SELECT coalesce(max({column}), 0) + 1 FROM {table}), false)"
        ))
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

fn file(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
}

/// Looks through the whole file.
async fn check(path: &Path) -> Result<Contents> {
    let damaged = |reason: String| Error::Unusable(format!("{} {reason}", path.display()));
    if !path.exists() {
        return Err(damaged("is not there".into()));
    }
    let checked = async {
        let mut copy = file(path).connect().await?;
        let findings: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_all(&mut copy)
            .await?;
        let count = "SELECT (SELECT count(*) FROM deals), (SELECT count(*) FROM events),
                            (SELECT count(*) FROM models)";
        let counts: (i64, i64, i64) = sqlx::query_as(count).fetch_one(&mut copy).await?;
        copy.close().await?;
        Ok::<_, sqlx::Error>((findings, counts))
    };
    let (findings, (deals, events, models)) = checked
        .await
        .map_err(|e| damaged(format!("is no store of dealrank: {e}")))?;
    if findings != ["ok"] {
        return Err(damaged(format!("is damaged: {}", findings.join("; "))));
    }
    Ok(Contents {
        deals,
        events,
        models,
    })
}

/// `store.sqlite` to `store.sqlite.partial`, in the same folder.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The file, and what SQLite keeps beside it.
fn with_companions(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    })
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            let failed = format!("cannot remove {}", path.display());
            Err(anyhow::Error::from(e).context(failed).into())
        }
        _ => Ok(()),
    }
}

/// Gives a file its name once all of it is on the disk, and the name, too.
fn put_in_place(partial: &Path, path: &Path) -> Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let placed = std::fs::File::open(partial)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::rename(partial, path))
        .and_then(|()| std::fs::File::open(folder.unwrap_or(Path::new("."))))
        .and_then(|folder| folder.sync_all());
    Ok(placed.with_context(|| format!("cannot write {}", path.display()))?)
}
