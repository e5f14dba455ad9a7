//! Runs of wandb, fetched by its public API into files, from which they are read as any other source.
//!
//! ```text
//! FOLDER/RUN.jsonl            rows, as the server pages them
//! FOLDER/RUN.next             the `_step` to go on with, and how long RUN.jsonl was then
//! FOLDER/RUN.DIGEST.parquet   older rows, where the server has exported them
//! ```
//!
//! Each page is in the file before it counts, so whatever ends a download, the same command goes on where it stood.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use indicatif::ProgressBar;
use openvalidators_reporting::wandb::{PublicApi, PublicApiError, Run, RunPath};
use openvalidators_runtime::SystemClock;
use openvalidators_tables::{EventLog, Item, Skip, Source, SourceError, Store, moment, text_digest};

use crate::cli::Select;

/// Rows asked for at once; fewer where they are long.
const PAGE_ROWS: u64 = 100;

/// A run on the disk; its files are opened when their time has come.
pub struct RunFiles {
    run: String,
    begins: i64,
    files: VecDeque<PathBuf>,
    open: Option<Box<dyn Source>>,
    /// Rows that no answer was short enough for.
    too_long: u64,
}

/// Where a download stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    next_step: u64,
    bytes: u64,
    too_long: u64,
}

/// Fetches every run that has all of the tags and may have steps of the time asked for.
///
/// # Errors
/// When there is no key, the server refuses, or the disk does. What was fetched stays.
pub fn download(
    path: &RunPath,
    tags: &[String],
    select: &Select,
    folder: &Path,
    progress: &ProgressBar,
) -> anyhow::Result<Vec<Box<dyn Source>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let api = PublicApi::of_process(SystemClock::shared()).with_context(|| format!("reading {path} from wandb"))?;
        progress.set_message(format!("listing the runs of {path}"));
        let runs = api.runs(path, tags).await?;
        ensure!(!runs.is_empty(), "{path} has no run with {}", described(tags));
        let wanted: Vec<_> = runs.iter().filter(|run| may_have(run, select)).collect();
        ensure!(
            !wanted.is_empty(),
            "none of the {} runs of {path} with {} was active then: look at --since and --until",
            runs.len(),
            described(tags)
        );
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        for (number, run) in wanted.iter().enumerate() {
            let what = format!("run {} of {} ({})", number + 1, wanted.len(), run.id);
            let fetched = fetch(&api, path, run, folder, progress, &what).await;
            let kept = || {
                format!("{what}; what was fetched is in {}, and the same command goes on from there", folder.display())
            };
            sources.push(Box::new(fetched.with_context(kept)?));
        }
        progress.set_message(String::new());
        Ok(sources)
    })
}

fn described(tags: &[String]) -> String {
    if tags.is_empty() { "any tag".to_owned() } else { format!("the tags {}", tags.join(" and ")) }
}

/// Whether a run was there in the time asked for. A time that cannot be read may be any.
fn may_have(run: &Run, select: &Select) -> bool {
    let ended_before = select.since.is_some_and(|since| moment::parse(&run.heartbeat_at).is_some_and(|at| at < since));
    let began_after = select.until.is_some_and(|until| moment::parse(&run.created_at).is_some_and(|at| at >= until));
    !ended_before && !began_after
}

async fn fetch(
    api: &PublicApi,
    path: &RunPath,
    run: &Run,
    folder: &Path,
    progress: &ProgressBar,
    what: &str,
) -> anyhow::Result<RunFiles> {
    // The server chooses the id, and it becomes the name of a file.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    ensure!(!run.id.is_empty() && run.id.chars().all(plain), "wandb names a run {:?}, which is no id", run.id);
    progress.set_message(what.to_owned());
    let extent = api.extent(path, &run.id).await?;
    let mut files = VecDeque::new();
    for (number, url) in extent.exports.iter().enumerate() {
        // The signature behind the address is another one each time.
        let digest = text_digest(url.split('?').next().unwrap_or_default());
        let file = folder.join(format!("{}.{digest}.parquet", run.id));
        if !file.exists() {
            progress.set_message(format!("{what}: exported file {} of {}", number + 1, extent.exports.len()));
            let part = file.with_extension("part");
            api.fetch(url, &part).await?;
            fs::rename(&part, &file).with_context(|| format!("naming {}", file.display()))?;
        }
        files.push_back(file);
    }
    let (rows, place_file) = (folder.join(format!("{}.jsonl", run.id)), folder.join(format!("{}.next", run.id)));
    let mut place = Place::load(&place_file);
    place.next_step = place.next_step.max(extent.live_from);
    let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(&rows).context("opening")?;
    file.set_len(place.bytes).and_then(|()| file.seek(SeekFrom::End(0))).with_context(|| rows.display().to_string())?;
    let mut page = PAGE_ROWS;
    while place.next_step < extent.end {
        progress.set_message(format!("{what}: row {} of {}", place.next_step, extent.end));
        let end = extent.end.min(place.next_step + page);
        match api.rows(path, &run.id, place.next_step..end).await {
            Ok(found) => {
                append(&mut file, &found, &mut place).with_context(|| format!("writing {}", rows.display()))?;
                place.next_step = end;
            }
            Err(PublicApiError::TooLong(_)) if page > 1 => page /= 2,
            Err(PublicApiError::TooLong(_)) => {
                place.next_step = end;
                place.too_long += 1;
            }
            Err(error) => return Err(error.into()),
        }
        place.save(&place_file)?;
    }
    files.push_back(rows);
    let begins = moment::parse(&run.created_at).unwrap_or(i64::MIN);
    Ok(RunFiles { run: run.id.clone(), begins, files, open: None, too_long: place.too_long })
}

/// Adds rows, each on a line of its own.
fn append(file: &mut File, rows: &[String], place: &mut Place) -> std::io::Result<()> {
    let mut text = String::new();
    for row in rows {
        // JSON has no line ends but between its words.
        text.extend(row.chars().filter(|c| !matches!(c, '\n' | '\r')));
        text.push('\n');
    }
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    place.bytes += text.len() as u64;
    Ok(())
}

// === impl Place ===

impl Place {
    /// As saved; the beginning when there is none.
    fn load(path: &Path) -> Self {
        let numbers = fs::read_to_string(path).unwrap_or_default();
        let numbers: Option<Vec<u64>> = numbers.split_whitespace().map(|number| number.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[next_step, bytes, too_long]) => Self { next_step, bytes, too_long },
            _ => Self::default(),
        }
    }

    fn save(self, path: &Path) -> anyhow::Result<()> {
        let new = path.with_extension("next.new");
        let text = format!("{} {} {}\n", self.next_step, self.bytes, self.too_long);
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, path))
            .with_context(|| format!("writing {}", path.display()))
    }
}

// === impl RunFiles ===

impl Source for RunFiles {
    fn name(&self) -> &str {
        self.open.as_ref().map_or(self.run.as_str(), |open| open.name())
    }

    fn not_before(&self) -> i64 {
        self.begins
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        if self.too_long > 0 {
            self.too_long -= 1;
            let place = format!("one of run {}", self.run);
            return Ok(Some(Item::Skipped(Skip { reason: "a row longer than 64 MiB", place })));
        }
        loop {
            if let Some(open) = &mut self.open
                && let Some(item) = open.next()?
            {
                return Ok(Some(item));
            }
            let Some(path) = self.files.pop_front() else { return Ok(None) };
            self.open = Some(match path.extension().is_some_and(|extension| extension == "parquet") {
                true => Box::new(Store::open(&path)?.of_run(&self.run)),
                false => Box::new(EventLog::open(&path)?.of_run(&self.run)),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_was_not_written_whole_is_the_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.next");
        assert_eq!(Place::load(&path), Place::default());
        let place = Place { next_step: 7, bytes: 300, too_long: 1 };
        place.save(&path).unwrap();
        assert_eq!(Place::load(&path), place);
        fs::write(&path, "7 30").unwrap();
        assert_eq!(Place::load(&path), Place::default());
    }
}
