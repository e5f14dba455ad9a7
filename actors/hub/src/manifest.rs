//! What the hub's listing said at the first fetch, written down beside the files: trusted once, verified against ever after.
//!
//! The table in it is the one that pins the model when it is copied into the configuration.

use std::{collections::BTreeMap, fs, io, path::Path};

use openvalidators_runtime::AtPath;
use serde::{Deserialize, Serialize};

use crate::{HubError, catalogue::Entry};

/// Its name in the folder of a model.
pub(crate) const MANIFEST_FILE: &str = "manifest.toml";
/// A model of a thousand shards has one of 200 KB.
const LIMIT_BYTES: u64 = 1 << 20;

const HEAD: &str =
    "# Written at the first fetch. The hub was trusted then; the files are verified against this list from now on.
# To pin the model, also on other machines, copy the table [models.catalogue.…] into your configuration.
# To take what the hub has today instead, delete this file and run `openvalidators models fetch`.

";

#[derive(Serialize, Deserialize)]
struct Document {
    /// What the configuration asked for: when it asks for something else, this list is not the answer.
    asked: Entry,
    models: Models,
}

#[derive(Serialize, Deserialize)]
struct Models {
    catalogue: BTreeMap<String, Entry>,
}

/// The pinned form of a model, if the folder has one for what is asked.
pub(crate) fn read(folder: &Path, name: &str, asked: &Entry) -> Result<Option<Entry>, HubError> {
    let path = folder.join(MANIFEST_FILE);
    let size = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Ok(Err(error).at("read", path)?),
    };
    let bad = |reason: String| HubError::BadSetting {
        setting: path.display().to_string(),
        reason: format!("{reason}. Delete it to trust the hub's listing anew"),
    };
    if size > LIMIT_BYTES {
        return Err(bad(format!("it has {size} bytes, the limit is {LIMIT_BYTES}")));
    }
    let text = fs::read_to_string(&path).at("read", &path)?;
    let document: Document = toml::from_str(&text).map_err(|error| bad(error.to_string().trim_end().to_owned()))?;
    let known = document.models.catalogue.into_iter().find(|(known, _)| known == name).map(|(_, entry)| entry);
    let Some(entry) = known.filter(Entry::is_pinned) else {
        return Err(bad(format!("it lists no files of `{name}`")));
    };
    entry.check(name)?;
    Ok((document.asked == question(asked)).then_some(entry))
}

/// Writes it, durably and at once.
pub(crate) fn write(folder: &Path, name: &str, asked: &Entry, pinned: Entry) -> Result<(), HubError> {
    let document =
        Document { asked: question(asked), models: Models { catalogue: [(name.to_owned(), pinned)].into() } };
    let path = folder.join(MANIFEST_FILE);
    let text = toml::to_string(&document).map_err(io::Error::other).at("write", &path)?;
    let part = folder.join(format!("{MANIFEST_FILE}.part"));
    fs::write(&part, format!("{HEAD}{text}")).at("write", &part)?;
    fs::File::open(&part).and_then(|file| file.sync_all()).at("sync", &part)?;
    Ok(fs::rename(&part, &path).at("put in place", path)?)
}

/// The part of an entry that decides which files are wanted.
fn question(asked: &Entry) -> Entry {
    let Entry { repository, revision, weights, tokenizer, .. } = asked.clone();
    Entry { repository, revision, weights, tokenizer, ..Entry::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::ModelFile;

    fn asked(revision: &str) -> Entry {
        Entry { repository: Some("a/b".into()), revision: Some(revision.into()), ..Entry::default() }
    }

    #[test]
    fn it_answers_the_question_it_was_written_for() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path(), "m.1", &asked("main")).unwrap(), None);
        let file = ModelFile { name: "config.json".into(), bytes: 3, sha256: "0".repeat(64), from: None };
        let pinned = Entry { files: vec![file], parameters: Some(7), ..asked(&"c".repeat(40)) };
        write(folder.path(), "m.1", &asked("main"), pinned.clone()).unwrap();
        let sized = Entry { parameters: Some(8), ..asked("main") };
        assert_eq!(read(folder.path(), "m.1", &sized).unwrap(), Some(pinned), "its size is no part of the question");
        assert_eq!(read(folder.path(), "m.1", &asked("v2")).unwrap(), None);
    }

    #[test]
    fn one_that_was_damaged_is_an_error_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["not toml", "[asked]\n[models.catalogue.other]\n", "[asked]\n[models.catalogue.m]\nfiles = []\n"] {
            fs::write(folder.path().join(MANIFEST_FILE), text).unwrap();
            let error = read(folder.path(), "m", &asked("main")).unwrap_err().to_string();
            assert!(error.contains("manifest.toml") && error.contains("Delete it"), "{error}");
        }
    }
}
