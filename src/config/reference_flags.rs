//! Every flag of openvalidators 1.2.0, in one table: the key it sets here, or why it sets nothing.
//!
//! Source: `openvalidators/config.py` and `run.sh`, and the argument groups of bittensor 5.3.3 that the former adds
//! (`bt.wallet`, `bt.subtensor`, `bt.logging`, `bt.axon`, `bt.config`).

mod table;

use clap::{Arg, ArgAction, ArgMatches};
use serde_json::{Map, Value as Json};
use table::FLAGS;
use toml::{Table, Value};

use super::{
    Config,
    layers::{Layers, Origin, parse_value},
};

/// One flag.
struct Flag {
    name: &'static str,
    /// Other spellings of it.
    aliases: &'static [&'static str],
    means: Means,
}

/// What a flag does here.
#[derive(Clone, Copy)]
enum Means {
    /// Its value goes to these keys.
    Sets(&'static [&'static str]),
    /// Its value goes to this key as text: a hotkey may be called `1`.
    SetsText(&'static str),
    /// Its value is a folder below the one that this key names.
    Below(&'static str),
    /// A switch that turns these keys on.
    On(&'static [&'static str]),
    /// A switch that turns these keys off.
    Off(&'static [&'static str]),
    /// A switch that gives a key this value.
    Says(&'static str, &'static str),
    /// Its value goes to the first key, and this word to the second; a switch after it may say otherwise.
    SetsAndSays(&'static str, &'static str, &'static str),
    /// A switch that takes keys back to nothing and lays these lines over them.
    Lays { clears: &'static [&'static str], toml: &'static str, says: &'static str },
    /// A switch; what it asks for is always so.
    Always(&'static str),
    /// It takes a value, and what it sets does not exist here: what to use instead.
    AbsentValue(&'static str),
    /// It takes values, likewise.
    AbsentValues(&'static str),
    /// It is a switch, likewise.
    AbsentSwitch(&'static str),
}

/// A flag of 1.2.0 whose thing does not exist here.
#[derive(Debug, thiserror::Error)]
#[error("--{name} is a flag of openvalidators 1.2.0 that sets nothing here: {reason}. Leave it out.")]
pub struct Absent {
    name: &'static str,
    reason: &'static str,
}

/// A flag as a person reads about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// With its other spellings, dashes in front.
    pub spellings: Vec<String>,
    /// Whether a value follows it.
    pub takes_value: bool,
    /// The keys it sets; none where it sets nothing.
    pub keys: Vec<String>,
    /// What it does, in a few words.
    pub does: String,
}

/// The table, for the manual and for tests.
#[must_use]
pub fn rows() -> Vec<Row> {
    FLAGS.iter().map(Flag::row).collect()
}

/// The table as arguments for clap. Flags without an effect are accepted by the parser, so that they can be answered by
/// [`Absent`] instead of "unexpected argument".
#[must_use]
pub fn arguments() -> Vec<Arg> {
    FLAGS.iter().map(argument).collect()
}

/// Those whose names begin in one of these ways, for the commands that need a hotkey or a chain and no more.
#[must_use]
pub fn arguments_of(beginnings: &[&str]) -> Vec<Arg> {
    let is_wanted = |flag: &&Flag| beginnings.iter().any(|beginning| flag.name.starts_with(beginning));
    FLAGS.iter().filter(is_wanted).map(argument).collect()
}

fn argument(flag: &Flag) -> Arg {
    let arg = Arg::new(flag.name).long(flag.name).aliases(flag.aliases.to_vec());
    let arg = arg.help_heading("Flags of openvalidators 1.2.0").help(flag.does().replace('`', ""));
    match flag.means {
        Means::Sets(_) | Means::SetsText(_) | Means::SetsAndSays(..) | Means::Below(_) => arg.value_name("VALUE"),
        Means::On(_) | Means::Off(_) | Means::Says(..) | Means::Lays { .. } | Means::Always(_) => {
            arg.action(ArgAction::SetTrue)
        }
        Means::AbsentValue(_) => arg.value_name("VALUE").hide(true),
        Means::AbsentValues(_) => arg.value_name("VALUE").num_args(1..).hide(true),
        Means::AbsentSwitch(_) => arg.action(ArgAction::SetTrue).hide(true),
    }
}

// === impl Flag ===

impl Flag {
    fn row(&self) -> Row {
        let lines = |toml: &str| toml.parse::<Table>().map(|table| leaves(&[], table)).unwrap_or_default();
        let keys = match self.means {
            Means::Sets(keys) | Means::On(keys) | Means::Off(keys) => keys.to_vec(),
            Means::SetsText(key) | Means::Says(key, _) | Means::Below(key) => vec![key],
            Means::SetsAndSays(key, other, _) => vec![key, other],
            Means::Lays { toml, .. } => {
                return Row { keys: lines(toml).into_iter().map(|(key, _)| key).collect(), ..self.row_of(&[]) };
            }
            Means::Always(_) | Means::AbsentValue(_) | Means::AbsentValues(_) | Means::AbsentSwitch(_) => Vec::new(),
        };
        self.row_of(&keys)
    }

    fn row_of(&self, keys: &[&str]) -> Row {
        let spellings = [&[self.name], self.aliases].concat().iter().map(|name| format!("--{name}")).collect();
        let takes_value = matches!(
            self.means,
            Means::Sets(_)
                | Means::SetsText(_)
                | Means::SetsAndSays(..)
                | Means::Below(_)
                | Means::AbsentValue(_)
                | Means::AbsentValues(_)
        );
        Row { spellings, takes_value, keys: keys.iter().map(|&key| key.to_owned()).collect(), does: self.does() }
    }

    fn does(&self) -> String {
        let list = |keys: &[&str]| keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(" and ");
        match self.means {
            Means::Sets(keys) => format!("sets {}", list(keys)),
            Means::SetsText(key) => format!("sets `{key}`"),
            Means::Below(key) => format!("a folder of this name below `{key}`"),
            Means::SetsAndSays(key, other, word) => format!("sets `{key}`, and `{other} = \"{word}\"`"),
            Means::On(keys) => format!("`{} = true`", keys.join(" = true` and `")),
            Means::Off(keys) => format!("`{} = false`", keys.join(" = false` and `")),
            Means::Says(key, word) => format!("`{key} = \"{word}\"`"),
            Means::Lays { says, clears, .. } => format!("{says} (sets anew {})", list(clears)),
            Means::Always(reason) => format!("taken, and changes nothing: {reason}"),
            Means::AbsentValue(reason) | Means::AbsentValues(reason) | Means::AbsentSwitch(reason) => {
                format!("refused: {reason}")
            }
        }
    }
}

/// The leaves of a table, by dotted key.
fn leaves(path: &[&str], table: Table) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (name, value) in table {
        let path = [path, &[name.as_str()]].concat();
        match value {
            Value::Table(inner) => found.extend(leaves(&path, inner)),
            leaf => found.push((path.join("."), leaf)),
        }
    }
    found
}

/// Lays the flags given over the layers.
///
/// # Errors
/// When a flag is given whose thing does not exist here.
pub fn apply(matches: &ArgMatches, layers: &mut Layers) -> Result<(), Absent> {
    // What is swapped as a whole comes first, so that a flag beside it may still say a part of it.
    let (whole, parts): (Vec<&Flag>, Vec<&Flag>) =
        FLAGS.iter().partition(|flag| matches!(flag.means, Means::Lays { .. }));
    for Flag { name, means, .. } in whole.into_iter().chain(parts) {
        // Subcommands other than `run` do not have these arguments.
        let value = || matches.try_get_one::<String>(name).ok().flatten();
        let given = || matches.try_get_one::<bool>(name).ok().flatten().copied().unwrap_or_default();
        let origin = || Origin::Flag(format!("--{name}"));
        let mut set = |keys: &[&str], value: &Value| {
            for key in keys {
                layers.set(key, value.clone(), origin());
            }
        };
        match *means {
            Means::Sets(keys) => {
                if let Some(text) = value() {
                    set(keys, &parse_value(text));
                }
            }
            Means::SetsText(key) => {
                if let Some(text) = value() {
                    set(&[key], &Value::String(text.clone()));
                }
            }
            Means::SetsAndSays(key, other, word) => {
                if let Some(text) = value() {
                    set(&[key], &Value::String(text.clone()));
                    set(&[other], &Value::String(word.to_owned()));
                }
            }
            // See [`apply_names`].
            Means::Below(_) => {}
            Means::On(keys) if given() => set(keys, &Value::Boolean(true)),
            Means::Off(keys) if given() => set(keys, &Value::Boolean(false)),
            Means::Says(key, word) if given() => set(&[key], &Value::String(word.to_owned())),
            Means::Lays { clears, toml, .. } if given() => {
                clears.iter().for_each(|key| layers.clear(key));
                for (key, value) in leaves(&[], toml.parse().unwrap_or_default()) {
                    layers.set(&key, value, origin());
                }
            }
            Means::Always(reason) if given() => tracing::info!("--{name}: {reason}"),
            Means::AbsentValue(reason) if value().is_some() => return Err(Absent { name, reason }),
            Means::AbsentValues(reason) if matches.try_contains_id(name).is_ok_and(|given| given) => {
                return Err(Absent { name, reason });
            }
            Means::AbsentSwitch(reason) if given() => return Err(Absent { name, reason }),
            _ => {}
        }
    }
    Ok(())
}

/// Lays the flags that name a folder below another, once all is laid that may name the folder above.
pub fn apply_names(matches: &ArgMatches, layers: &mut Layers) {
    for Flag { name, means, .. } in FLAGS {
        let Means::Below(key) = *means else { continue };
        if let Some(folder) = matches.try_get_one::<String>(name).ok().flatten() {
            let above = layers.text(key).unwrap_or_default().to_owned();
            let below = std::path::Path::new(&above).join(folder).display().to_string();
            layers.set(key, Value::String(below), Origin::Flag(format!("--{name}")));
        }
    }
}

/// The settings in force as openvalidators 1.2.0 told them to wandb: its tables `neuron`, `reward` and `wandb`, and `netuid`. No
/// file of this machine is named.
#[must_use]
pub fn as_reference(config: &Config) -> Map<String, Json> {
    let mut told = Map::new();
    let Ok(ours) = serde_json::to_value(config) else { return told };
    for Flag { name, means, .. } in FLAGS {
        let (table, key) = name.split_once('.').unwrap_or(("", name));
        let value = |key: &str| key.split('.').try_fold(&ours, |table, part| table.get(part)).cloned();
        let value = match *means {
            Means::Sets([first, ..]) | Means::On([first, ..]) => value(first),
            Means::SetsText(first) => value(first),
            Means::Off([first, ..]) => value(first).and_then(|on| on.as_bool()).map(|on| Json::from(!on)),
            Means::Says(first, word) => value(first).map(|found| Json::from(found == word)),
            _ => None,
        };
        let Some(value) = value else { continue };
        match table {
            "" if key == "netuid" => told.insert(key.to_owned(), value),
            "neuron" | "reward" | "wandb" => {
                let table = told.entry(table).or_insert_with(|| Map::new().into());
                table.as_object_mut().and_then(|table| table.insert(key.to_owned(), value))
            }
            _ => None,
        };
    }
    told
}

#[cfg(test)]
mod tests;
