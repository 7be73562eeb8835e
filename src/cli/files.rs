//! What the commands that read files of deals share: flags, and telling of what was found.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::bar::Bar;
use crate::error::{Error, Result};
use crate::ingest::{Deals, Mapping, Purpose, ReadOptions, read_deals};
use crate::model::Model;

/// Rejected rows that are shown; the file of rejects has all.
const REJECTS_SHOWN_MAX: usize = 5;

/// How a file of deals is to be read.
#[derive(Debug, clap::Args)]
pub struct FileArgs {
    /// Which column is which field (TOML); guessed without it
    #[arg(long, value_name = "MAPPING.toml")]
    pub mapping: Option<PathBuf>,
    /// Events of the deals (CSV), mapped by the same mapping
    #[arg(long, value_name = "EVENTS.csv")]
    pub events: Option<PathBuf>,
    /// Stop at the first row that cannot be read
    #[arg(long)]
    pub strict: bool,
}

impl FileArgs {
    /// Options that write rejects beside the file.
    pub fn options(&self, purpose: Purpose, now: Timestamp) -> Result<ReadOptions> {
        let mut options = ReadOptions::new(purpose, now);
        if let Some(path) = &self.mapping {
            options = options.with_mapping_file(path)?;
        }
        options.events.clone_from(&self.events);
        options.is_strict = self.strict;
        options.writes_rejects = true;
        Ok(options)
    }

    /// As [`Self::options`]; where no mapping is given, with that of the model. A model that learned
    /// from documents knows no columns: then they are guessed.
    pub fn options_for(
        &self,
        model: &Model,
        purpose: Purpose,
        now: Timestamp,
    ) -> Result<ReadOptions> {
        let mut options = self.options(purpose, now)?;
        if options.mapping.is_none() && model.mapping != Mapping::default() {
            options.mapping = Some(model.mapping.clone());
        }
        Ok(options)
    }
}

/// Reads whole files, with a bar, and tells what was found.
pub fn read(files: &[PathBuf], options: &ReadOptions) -> Result<Deals> {
    let bar = Bar::new();
    let deals = read_deals(files, options, &|progress| bar.show(progress))?;
    drop(bar);
    if let Some(lines) = &deals.guess {
        tell_guess(lines, &deals.mapping);
    }
    tell_notices(&deals.notices);
    let rejects = deals.rejects.iter();
    tell_rejects(rejects.map(|(file, reject)| reject.clone().into_error(file)));
    if deals.rejected > 0 {
        eprintln!("{} rows were rejected", deals.rejected);
    }
    for path in &deals.rejects_files {
        tell_rejects_file(path);
    }
    Ok(deals)
}

/// Shows a guessed mapping in the form in which it can be saved.
pub fn tell_guess(lines: &[String], mapping: &Mapping) {
    eprintln!("the mapping was guessed; save it, mend it, and give it with --mapping:");
    for line in lines {
        eprintln!("  # {line}");
    }
    match mapping.to_toml() {
        Ok(text) => eprintln!("{text}"),
        Err(error) => eprintln!("{error}"),
    }
}

pub fn tell_notices(notices: &[String]) {
    for notice in notices {
        eprintln!("note: {notice}");
    }
}

/// Shows the first of the rejected rows.
pub fn tell_rejects(rejects: impl Iterator<Item = Error>) {
    for error in rejects.take(REJECTS_SHOWN_MAX) {
        eprintln!("rejected: {error}");
    }
}

pub fn tell_rejects_file(path: &Path) {
    eprintln!("all rejected rows, with reasons: {}", path.display());
}

/// `--as-of`: an RFC 3339 time, or a date, which is its first moment in UTC.
pub fn parse_moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let date: Date = text
        .parse()
        .map_err(|_| format!("`{text}` is neither an RFC 3339 time nor a date"))?;
    let midnight = date.to_datetime(jiff::civil::Time::midnight());
    TimeZone::UTC
        .to_timestamp(midnight)
        .map_err(|e| e.to_string())
}

/// Writes a text file whole, or not at all.
pub fn write_file(path: &Path, text: &str) -> Result<()> {
    let failed =
        |e: std::io::Error| Error::Malformed(format!("cannot write {}: {e}", path.display()));
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .permissions(readable_by_all())
        .tempfile_in(folder)
        .map_err(failed)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

/// A temporary file is its owner's alone; a model is meant to be shared, within the umask.
fn readable_by_all() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::Permissions::from_mode(0o666)
}
