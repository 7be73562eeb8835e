//! Files of deals, row by row or all at once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::csv::CsvDeals;
use super::events::EventLog;
use super::guess::{self, Guess};
use super::input::{Format, Input, Size};
use super::mapping::Mapping;
use super::ndjson::NdjsonDeals;
use super::reject::{Reject, RejectsWriter, rejects_path};
use super::table::Table;
use super::{Purpose, Row};
use crate::domain::{Deal, DealId};
use crate::error::{Error, Result};
use crate::progress::{OnProgress, Progress};

/// Rejects that [`read_deals`] keeps to show; the file of rejects has them all.
pub const REJECTS_KEPT_MAX: usize = 100;

/// Progress is told every so many rows.
const PROGRESS_ROWS: u64 = 1_000;

/// How to read files of deals.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    pub purpose: Purpose,
    /// Without one, it is guessed from each CSV.
    pub mapping: Option<Mapping>,
    /// Where joined files are sought: the folder of the mapping file. Without it, the folder of the
    /// file of deals.
    pub folder: Option<PathBuf>,
    pub events: Option<PathBuf>,
    pub now: Timestamp,
    /// Stop at the first bad row.
    pub is_strict: bool,
    /// Write bad rows to [`rejects_path`].
    pub writes_rejects: bool,
}

impl ReadOptions {
    pub fn new(purpose: Purpose, now: Timestamp) -> Self {
        Self {
            purpose,
            mapping: None,
            folder: None,
            events: None,
            now,
            is_strict: false,
            writes_rejects: false,
        }
    }

    /// With the mapping of a file, and joins relative to its folder.
    ///
    /// # Errors
    /// As [`Mapping::load`].
    pub fn with_mapping_file(mut self, path: &Path) -> Result<Self> {
        self.mapping = Some(Mapping::load(path)?);
        self.folder = path.parent().map(Path::to_owned);
        Ok(self)
    }
}

/// Reads a file of deals row by row, in the order of the file. Ends after the first `Err`.
pub struct DealsReader {
    name: String,
    source: Source,
    mapping: Mapping,
    guess: Option<Vec<String>>,
    events: Option<EventLog>,
    size: Size,
    has_ended: bool,
}

enum Source {
    Csv(Box<CsvDeals>),
    Ndjson(NdjsonDeals),
}

impl Source {
    fn notices(&self) -> Vec<String> {
        match self {
            Self::Csv(deals) => deals.notices(),
            Self::Ndjson(_) => Vec::new(),
        }
    }
}

impl DealsReader {
    /// # Errors
    /// When the file cannot be read, or the mapping does not fit it.
    pub fn open(path: &Path, options: &ReadOptions) -> Result<Self> {
        Self::open_as(path, &path.display().to_string(), options)
    }

    /// For a file whose path means nothing to the reader of messages, such as an upload: `name` is
    /// what messages call it, and its extension may tell the format.
    ///
    /// # Errors
    /// As [`DealsReader::open`].
    pub fn open_as(path: &Path, name: &str, options: &ReadOptions) -> Result<Self> {
        let mut reader = Self::open_without_events(path, name, options)?;
        reader.events = reader.load_events(options)?;
        Ok(reader)
    }

    fn open_without_events(path: &Path, name: &str, options: &ReadOptions) -> Result<Self> {
        let input = Input::open_as(path, name)?;
        let size = input.size.clone();
        let (mapping, guess) = match (&options.mapping, input.format) {
            (Some(mapping), _) => (mapping.clone(), None),
            (None, Format::Ndjson) => (Mapping::default(), None),
            (None, Format::Csv) => {
                let Guess {
                    mut mapping,
                    mut lines,
                } = guess::guess_file(path, name)?;
                if let Some(events) = &options.events {
                    mapping.events = guess::guess_events_file(events, &mut lines)?;
                }
                (mapping, Some(lines))
            }
        };
        mapping.check()?;
        let source = match input.format {
            Format::Ndjson if input.head.trim_ascii_start().starts_with(b"[") => {
                let reason =
                    "is a JSON array; give one deal document a line, without commas between";
                return Err(Error::Malformed(format!("{name} {reason}")));
            }
            Format::Ndjson => Source::Ndjson(NdjsonDeals::new(input, options.purpose, options.now)),
            Format::Csv => {
                check_outcome_is_known(&mapping, options, guess.as_deref())?;
                check_id_is_known(&mapping, options, guess.as_deref())?;
                let folder = options
                    .folder
                    .as_deref()
                    .or(path.parent())
                    .unwrap_or(Path::new("."));
                let table = Table::open(input, mapping.csv.delimiter_byte())?;
                let deals = CsvDeals::new(table, &mapping, options.purpose, folder, options.now)?;
                Source::Csv(Box::new(deals))
            }
        };
        Ok(Self {
            name: name.to_owned(),
            source,
            mapping,
            guess,
            events: None,
            size,
            has_ended: false,
        })
    }

    fn load_events(&self, options: &ReadOptions) -> Result<Option<EventLog>> {
        let load =
            |path: &PathBuf| EventLog::load(path, &self.mapping, options.purpose, options.now);
        options.events.as_ref().map(load).transpose()
    }

    /// What messages call the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The mapping given or guessed.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// How the mapping was guessed, a line for each finding; `None` when it was given.
    pub fn guess(&self) -> Option<&[String]> {
        self.guess.as_deref()
    }

    /// The columns of the file; none for NDJSON.
    pub fn headers(&self) -> &[String] {
        match &self.source {
            Source::Csv(deals) => deals.headers(),
            Source::Ndjson(_) => &[],
        }
    }

    /// How much of the file has been read.
    pub fn size(&self) -> &Size {
        &self.size
    }

    /// The events file, if there is one.
    pub fn events(&self) -> Option<&EventLog> {
        self.events.as_ref()
    }

    /// Oddities that are no errors; complete once the file has been read.
    pub fn notices(&self) -> Vec<String> {
        let mut notices = self.source.notices();
        notices.extend(self.events.iter().flat_map(EventLog::notices));
        notices
    }

    fn next_row(&mut self) -> Result<Option<Row>> {
        let mut row = match &mut self.source {
            Source::Csv(deals) => deals.next_row()?,
            Source::Ndjson(deals) => deals.next_row()?,
        };
        if let (Some(Ok(deal)), Some(events)) = (&mut row, &mut self.events) {
            events.attach(deal)?;
        }
        Ok(row)
    }
}

impl Iterator for DealsReader {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let row = self.next_row().transpose();
        self.has_ended = !matches!(row, Some(Ok(_)));
        row
    }
}

fn check_outcome_is_known(
    mapping: &Mapping,
    options: &ReadOptions,
    guess: Option<&[String]>,
) -> Result<()> {
    let events_decide = options.events.is_some() && mapping.events.decides_outcomes();
    if options.purpose != Purpose::Train || mapping.deal.outcome.is_some() || events_decide {
        return Ok(());
    }
    Err(Error::Unusable(match guess {
        Some(lines) => format!(
            "training needs to know how deals ended, and no column tells; name one with `outcome` under [deal] in a mapping. {}",
            lines.join("; ")
        ),
        None => {
            "training needs to know how deals ended: the mapping must name `outcome` under [deal]"
                .into()
        }
    }))
}

/// Row numbers are no ids of deals that stay: those of the next file would overwrite them.
fn check_id_is_known(
    mapping: &Mapping,
    options: &ReadOptions,
    guess: Option<&[String]>,
) -> Result<()> {
    if options.purpose != Purpose::Import || mapping.deal.id.is_some() {
        return Ok(());
    }
    Err(Error::Unusable(match guess {
        Some(lines) => format!(
            "deals that are kept need ids, and no column has them; is the first row a header? Name the column with `id` under [deal] in a mapping. {}",
            lines.join("; ")
        ),
        None => "deals that are kept need ids: the mapping must name `id` under [deal]".into(),
    }))
}

/// Deals from files, with what is to be told about them.
#[derive(Debug)]
pub struct Deals {
    /// In the order of the files; of an id that occurs again, the last row, in the place of the first.
    pub deals: Vec<Deal>,
    /// The mapping given, or guessed from the first file.
    pub mapping: Mapping,
    /// How the mapping was guessed; `None` when it was given.
    pub guess: Option<Vec<String>>,
    pub notices: Vec<String>,
    /// The first [`REJECTS_KEPT_MAX`] bad rows, each with the name of its file.
    pub rejects: Vec<(String, Reject)>,
    pub rejected: u64,
    /// The files of rejects that were written.
    pub rejects_files: Vec<PathBuf>,
}

/// Reads whole files of deals.
///
/// # Errors
/// When a file cannot be read, the mapping does not fit it, or, if strict, at the first bad row.
pub fn read_deals(
    paths: &[impl AsRef<Path>],
    options: &ReadOptions,
    on_progress: OnProgress,
) -> Result<Deals> {
    let mut collector = Collector::new(options, on_progress);
    let mut options = options.clone();
    for (index, path) in paths.iter().enumerate() {
        let path = path.as_ref();
        let name = path.display().to_string();
        let mut reader = DealsReader::open_without_events(path, &name, &options)?;
        if index == 0 {
            collector.events = reader.load_events(&options)?;
            collector.check_events()?;
            collector.mapping = reader.mapping().clone();
            collector.guess = reader.guess().map(<[String]>::to_vec);
            if !matches!(reader.source, Source::Ndjson(_)) {
                options.mapping = Some(reader.mapping().clone());
            }
        }
        // The one log of events goes from file to file.
        reader.events = collector.events.take();
        collector.read(&mut reader, path, index)?;
        collector.events = reader.events.take();
    }
    Ok(collector.finish())
}

struct Collector<'a> {
    is_strict: bool,
    writes_rejects: bool,
    on_progress: OnProgress<'a>,
    mapping: Mapping,
    guess: Option<Vec<String>>,
    events: Option<EventLog>,
    places: HashMap<DealId, usize>,
    repeats: u64,
    result: Deals,
}

impl<'a> Collector<'a> {
    fn new(options: &ReadOptions, on_progress: OnProgress<'a>) -> Self {
        Self {
            is_strict: options.is_strict,
            writes_rejects: options.writes_rejects,
            on_progress,
            mapping: Mapping::default(),
            guess: None,
            events: None,
            places: HashMap::new(),
            repeats: 0,
            result: Deals {
                deals: Vec::new(),
                mapping: Mapping::default(),
                guess: None,
                notices: Vec::new(),
                rejects: Vec::new(),
                rejected: 0,
                rejects_files: Vec::new(),
            },
        }
    }

    fn check_events(&self) -> Result<()> {
        match &self.events {
            Some(events) if self.is_strict => match events.rejects() {
                ([first, ..], _) => Err(first.clone().into_error(events.file())),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn read(&mut self, reader: &mut DealsReader, path: &Path, index: usize) -> Result<()> {
        // Row numbers of a second file must not meet those of the first.
        let numbers_rows =
            matches!(reader.source, Source::Csv(_)) && reader.mapping.deal.id.is_none();
        let prefix = (numbers_rows && index > 0).then(|| format!("{}:", index + 1));
        let mut writer = self
            .writes_rejects
            .then(|| RejectsWriter::new(rejects_path(path), reader.headers()));
        let size = reader.size().clone();
        let mut rows = 0;
        while let Some(row) = reader.next() {
            rows += 1;
            if rows % PROGRESS_ROWS == 0 {
                (self.on_progress)(Progress {
                    phase: "reading",
                    done: size.done(),
                    total: size.total,
                });
            }
            match row? {
                Ok(deal) => self.take(deal, prefix.as_deref()),
                Err(reject) if self.is_strict => return Err(reject.into_error(&reader.name)),
                Err(reject) => self.reject(reject, &reader.name, &mut writer),
            }
        }
        if rows == 0 {
            self.result
                .notices
                .push(format!("{} has no rows", reader.name));
        }
        self.result.notices.extend(reader.source.notices());
        match writer.map(RejectsWriter::finish).transpose() {
            Ok(file) => self.result.rejects_files.extend(file.flatten()),
            Err(error) => self
                .result
                .notices
                .push(format!("bad rows are not kept: {error}")),
        }
        Ok(())
    }

    fn take(&mut self, mut deal: Deal, prefix: Option<&str>) {
        if let Some(prefix) = prefix
            && let Ok(id) = DealId::new(&format!("{prefix}{}", deal.id))
        {
            deal.id = id;
        }
        match self.places.get(&deal.id) {
            Some(place) => {
                self.result.deals[*place] = deal;
                self.repeats += 1;
            }
            None => {
                self.places.insert(deal.id.clone(), self.result.deals.len());
                self.result.deals.push(deal);
            }
        }
    }

    /// A file of rejects that cannot be written does not end the reading; it is told.
    fn reject(&mut self, reject: Reject, file: &str, writer: &mut Option<RejectsWriter>) {
        let written = writer
            .as_mut()
            .map_or(Ok(()), |writer| writer.write(&reject));
        if let Err(error) = written {
            self.result
                .notices
                .push(format!("bad rows are not kept: {error}"));
            *writer = None;
        }
        self.result.rejected += 1;
        if self.result.rejects.len() < REJECTS_KEPT_MAX {
            self.result.rejects.push((file.to_owned(), reject));
        }
    }

    fn finish(mut self) -> Deals {
        if self.repeats > 0 {
            let notice = format!(
                "{} rows repeat the id of an earlier row; the last one counts",
                self.repeats
            );
            self.result.notices.push(notice);
        }
        self.result
            .notices
            .extend(self.events.iter().flat_map(EventLog::notices));
        Deals {
            mapping: self.mapping,
            guess: self.guess,
            ..self.result
        }
    }
}
