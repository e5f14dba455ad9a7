//! Layers of configuration: `defaults < profile < file < environment < flags`, each value remembering where it came from.
//!
//! This is the first of two stages: values as written. The second is [`super::Config`], which checks them.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Environment variables that set a key: `OPENVALIDATORS_SET__PROMPTS__CONCURRENT_FORWARDS=4` sets
/// `prompts.concurrent_forwards`. (The middle keeps them apart from switches such as `OPENVALIDATORS_MODELS`.)
pub const ENVIRONMENT_PREFIX: &str = "OPENVALIDATORS_SET__";

/// The largest configuration file that is read.
const FILE_LIMIT_BYTES: u64 = 1 << 20;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file of the operator's.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag on the command line.
    Flag(String),
}

/// Values as written, later layers over earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    values: Table,
    /// By dotted key, for every leaf somebody wrote.
    origins: BTreeMap<String, Origin>,
}

/// A value that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The file could not be read.
    #[error("configuration file {path} could not be read: {reason}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is no TOML.
    #[error("configuration file {path} is not valid TOML: {reason}")]
    NotToml {
        /// Which.
        path: PathBuf,
        /// Line, column and what was expected there.
        reason: String,
    },
    /// An environment variable of ours is not text.
    #[error("the environment variable {name} is not UTF-8: set it anew or remove it")]
    NotText {
        /// Which.
        name: String,
    },
    /// A key is unknown, or its value is not what it may be.
    #[error("configuration key `{key}`{origin}: {reason}")]
    Key {
        /// Dotted.
        key: String,
        /// ` (set by …)`, or empty for a default.
        origin: String,
        /// What was found and what is allowed.
        reason: String,
    },
}

// === impl Layers ===

impl Layers {
    /// Lays built-in defaults over what is there; they have no origin to speak of.
    ///
    /// # Errors
    /// When the text is not TOML.
    pub fn add_defaults(&mut self, text: &str) -> Result<(), LayerError> {
        let defaults = text.parse::<Table>().map_err(|error| LayerError::NotToml {
            path: PathBuf::from("built-in defaults"),
            reason: error.to_string(),
        })?;
        merge(&mut self.values, defaults);
        Ok(())
    }

    /// Lays a TOML file over what is there.
    ///
    /// # Errors
    /// When the file cannot be read, is larger than 1 MiB, or is not TOML.
    pub fn add_file(&mut self, path: &Path) -> Result<(), LayerError> {
        let unreadable = |reason: String| LayerError::Unreadable { path: path.to_owned(), reason };
        let size = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?.len();
        if size > FILE_LIMIT_BYTES {
            return Err(unreadable(format!("it has {size} bytes, the limit is {FILE_LIMIT_BYTES}")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?;
        let table = text
            .parse::<Table>()
            .map_err(|e| LayerError::NotToml { path: path.to_owned(), reason: e.to_string().trim_end().to_owned() })?;
        self.add_table(&[], table, &Origin::File(path.to_owned()));
        Ok(())
    }

    /// Lays the environment's `OPENVALIDATORS_SET__…` variables over what is there. Others are not looked at.
    ///
    /// # Errors
    /// When the value of such a variable is not UTF-8.
    pub fn add_environment(
        &mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), LayerError> {
        let ours = |(name, value): (OsString, OsString)| {
            let name = name.into_string().ok().filter(|name| name.starts_with(ENVIRONMENT_PREFIX))?;
            Some((name, value))
        };
        let mut variables: Vec<_> = variables.into_iter().filter_map(ours).collect();
        variables.sort();
        for (name, value) in variables {
            let text = value.into_string().map_err(|_| LayerError::NotText { name: name.clone() })?;
            let key = name[ENVIRONMENT_PREFIX.len()..].to_lowercase().replace("__", ".");
            self.set(&key, parse_value(&text), Origin::Environment(name));
        }
        Ok(())
    }

    /// Sets one dotted key. A part in double quotes may have dots of its own.
    pub fn set(&mut self, key: &str, value: Value, origin: Origin) {
        let mut quoted = false;
        let parts = key.split(|c| {
            quoted ^= c == '"';
            c == '.' && !quoted
        });
        let path: Vec<String> = parts.map(|part| part.trim_matches('"').to_owned()).collect();
        self.set_at(&path, value, &origin);
    }

    fn set_at(&mut self, path: &[String], value: Value, origin: &Origin) {
        match value {
            Value::Table(table) => self.add_table(path, table, origin),
            leaf => self.set_leaf(path, leaf, origin.clone()),
        }
    }

    /// Takes a key, or a table, out of every layer below.
    pub fn clear(&mut self, key: &str) {
        let (path, name) = key.rsplit_once('.').unwrap_or(("", key));
        let mut tables = path.split('.').filter(|part| !part.is_empty());
        let table = tables.try_fold(&mut self.values, |table, part| table.get_mut(part)?.as_table_mut());
        if let Some(table) = table {
            table.remove(name);
        }
        let below = format!("{key}.");
        self.origins.retain(|written, _| written != key && !written.starts_with(&below));
    }

    /// All values, as TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        self.values.to_string()
    }

    /// The value of a key, where it is a text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        let mut parts = key.split('.');
        let first = self.values.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))?.as_str()
    }

    /// Whether somebody wrote this key; defaults do not count.
    #[must_use]
    pub fn is_written(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    /// The second stage: a typed value, every key known.
    ///
    /// # Errors
    /// [`LayerError::Key`] names the key, where it was written, what was found and what is allowed.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, LayerError> {
        serde_path_to_error::deserialize(self.values.clone()).map_err(|error| {
            let path = error.path().to_string();
            let reason = error.into_inner().to_string();
            self.error(&path, reason.trim_end())
        })
    }

    /// An error about a key, saying where its value was written.
    #[must_use]
    pub fn error(&self, key: &str, reason: &str) -> LayerError {
        // An unknown field is reported at its table; the message names it.
        let field = reason.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
        let key = match (field, key) {
            (Some(field), "." | "") => field.to_owned(),
            (Some(field), table) if !table.ends_with(field) => format!("{table}.{field}"),
            (_, key) => key.to_owned(),
        };
        let below = format!("{key}.");
        let origin = self
            .origins
            .get(&key)
            .or_else(|| self.origins.iter().find(|(written, _)| written.starts_with(&below)).map(|(_, origin)| origin));
        let origin = origin.map(|origin| format!(" (set by {origin})")).unwrap_or_default();
        LayerError::Key { key, origin, reason: reason.to_owned() }
    }

    /// Adds to a crate's own words about its settings where the values named in them were written: a key counts as named
    /// when each of its parts is a word of the message.
    #[must_use]
    pub fn explain(&self, said: &str) -> String {
        let words: Vec<&str> = said.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
        let named = self.origins.iter().filter(|(key, _)| key.split('.').all(|part| words.contains(&part)));
        let origins: Vec<String> = named.map(|(key, origin)| format!("{key} is set by {origin}")).collect();
        if origins.is_empty() { said.to_owned() } else { format!("{said} ({})", origins.join(", ")) }
    }

    fn add_table(&mut self, path: &[String], table: Table, origin: &Origin) {
        for (name, value) in table {
            self.set_at(&[path, &[name]].concat(), value, origin);
        }
    }

    fn set_leaf(&mut self, path: &[String], value: Value, origin: Origin) {
        let mut table = &mut self.values;
        let mut parts = path.iter().peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                table.insert(part.clone(), value);
                break;
            }
            let entry = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
            if !entry.is_table() {
                // A later layer makes a table of what was a value; the typed stage will judge it.
                *entry = Value::Table(Table::new());
            }
            let Value::Table(inner) = entry else { return };
            table = inner;
        }
        self.origins.insert(path.join("."), origin);
    }
}

/// Lays one table over another, table by table.
fn merge(under: &mut Table, over: Table) {
    for (name, value) in over {
        match (under.get_mut(&name), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (_, value) => _ = under.insert(name, value),
        }
    }
}

/// What a person typed: TOML where it is TOML (`4`, `true`, `[1, 2]`, `"text"`), else the text itself.
#[must_use]
pub fn parse_value(text: &str) -> Value {
    format!("value = {text}")
        .parse::<Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "the environment variable {name}"),
            Self::Flag(flag) => write!(f, "the flag {flag}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Outer {
        seed: u64,
        prompts: Inner,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        lanes: u32,
        path: String,
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn later_layers_win() {
        let mut layers = Layers::default();
        let written = file("seed = 1\n[prompts]\nlanes = 2\npath = \"file\"");
        layers.add_file(written.path()).unwrap();
        let other = OsString::from_vec(vec![b'O', 0xff]);
        let environment = [("OPENVALIDATORS_SET__PROMPTS__LANES".into(), "3".into()), (other.clone(), other)];
        layers.add_environment(environment).unwrap();
        layers.set("prompts.path", parse_value("/flag"), Origin::Flag("--set".into()));
        let read: Outer = layers.read().unwrap();
        assert_eq!(read, Outer { seed: 1, prompts: Inner { lanes: 3, path: "/flag".into() } });
    }

    /// The name of a model may have dots.
    #[test]
    fn a_quoted_name_is_one_part_of_a_key() {
        let mut layers = Layers::default();
        let written = file("[prompts.\"bge-1.5\"]\nlanes = 2\n[prompts.\"other-1.5\"]\nlanes = 0.5");
        layers.add_file(written.path()).unwrap();
        layers.set("prompts.\"bge-1.5\".path", parse_value("/flag"), Origin::Flag("--set".into()));
        let names: Vec<&String> = layers.values["prompts"].as_table().unwrap().keys().collect();
        assert_eq!(names, ["bge-1.5", "other-1.5"]);
        assert_eq!(layers.values["prompts"]["bge-1.5"]["path"].as_str(), Some("/flag"));
        #[derive(Debug, Deserialize)]
        struct ByName {
            #[allow(dead_code, reason = "what matters is that it cannot be read")]
            prompts: BTreeMap<String, Inner>,
        }
        let error = layers.read::<ByName>().unwrap_err().to_string();
        assert!(
            error.contains("prompts.other-1.5.lanes") && error.contains(written.path().to_str().unwrap()),
            "{error}"
        );
    }

    #[test]
    fn defaults_lie_over_defaults_and_name_no_origin() {
        let mut layers = Layers::default();
        layers.add_defaults("seed = 1\n[prompts]\nlanes = 2\npath = \"first\"").unwrap();
        layers.add_defaults("[prompts]\npath = \"second\"").unwrap();
        let read: Outer = layers.read().unwrap();
        assert_eq!(read, Outer { seed: 1, prompts: Inner { lanes: 2, path: "second".into() } });
        assert_eq!(layers.explain("prompts path is strange"), "prompts path is strange");
    }

    #[test]
    fn a_variable_of_ours_that_is_not_text_is_named() {
        let value = OsString::from_vec(vec![0xff]);
        let error = Layers::default().add_environment([("OPENVALIDATORS_SET__SEED".into(), value)]).unwrap_err();
        assert!(error.to_string().contains("OPENVALIDATORS_SET__SEED"), "{error}");
    }

    #[test]
    fn a_value_that_makes_no_sense_is_told_with_its_origin() {
        let mut layers = Layers::default();
        layers.set("prompts.lanes", parse_value("0"), Origin::File("mine.toml".into()));
        let said = layers.explain("[prompts] lanes is 0; it must be at least 1");
        assert_eq!(said, "[prompts] lanes is 0; it must be at least 1 (prompts.lanes is set by mine.toml)");
        assert_eq!(layers.explain("lanes of another kind"), "lanes of another kind");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file_and_what_is_allowed() {
        let written = file("[prompts]\nlane = 2");
        let mut layers = Layers::default();
        layers.add_file(written.path()).unwrap();
        let error = layers.read::<Outer>().unwrap_err().to_string();
        assert!(error.contains("`prompts.lane`"), "{error}");
        assert!(error.contains(written.path().to_str().unwrap()), "{error}");
        assert!(error.contains("`lanes`"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_flag_and_what_is_allowed() {
        let mut layers = Layers::default();
        layers.set("prompts.lanes", parse_value("many"), Origin::Flag("--set prompts.lanes".into()));
        let error = layers.read::<Outer>().unwrap_err().to_string();
        assert!(error.contains("`prompts.lanes` (set by the flag --set prompts.lanes)"), "{error}");
        assert!(error.contains("expected u32"), "{error}");
    }

    #[test]
    fn broken_files_are_named() {
        let mut layers = Layers::default();
        let missing = layers.add_file(Path::new("nowhere.toml")).unwrap_err().to_string();
        assert!(missing.contains("nowhere.toml"), "{missing}");
        let broken = file("seed = ");
        let error = layers.add_file(broken.path()).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn typed_text_is_toml_where_it_can_be() {
        assert_eq!(parse_value("4"), Value::Integer(4));
        assert_eq!(parse_value("[1, 2]").as_array().map(Vec::len), Some(2));
        assert_eq!(parse_value("2 GB"), Value::String("2 GB".into()));
        assert_eq!(parse_value("1\nother = 2"), Value::String("1\nother = 2".into()));
    }
}
