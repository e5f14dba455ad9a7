//! The parts of `docs/` that come from the code: the flags of openvalidators 1.2.0, the configuration, the metrics. A test keeps
//! them as the code has them; `OPENVALIDATORS_WRITE_MANUAL=1 cargo test --lib manual` writes them anew.

mod configuration;
mod metrics;

use std::path::PathBuf;

use crate::config::reference_flags;

/// What encloses a generated part of a page that people write.
const BEGIN: &str = "<!-- from the code: begin -->\n";
const END: &str = "<!-- from the code: end -->\n";

/// `docs/differences.md`: what becomes of each flag.
fn flags() -> String {
    let mut text = "| flag of 1.2.0 | here |\n|---|---|\n".to_owned();
    for row in reference_flags::rows() {
        let value = if row.takes_value { " VALUE" } else { "" };
        let spellings: Vec<_> = row.spellings.iter().map(|spelling| format!("`{spelling}{value}`")).collect();
        text += &format!("| {} | {} |\n", spellings.join(", "), row.does.replace('|', "\\|"));
    }
    text
}

/// Compares a page, or its generated part, with what the code makes; or writes it.
fn check(page: &str, made: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let whole = match (found.find(BEGIN), found.find(END)) {
        (Some(begin), Some(end)) => format!("{}{made}{}", &found[..begin + BEGIN.len()], &found[end..]),
        _ => made.to_owned(),
    };
    if std::env::var_os("OPENVALIDATORS_WRITE_MANUAL").is_some() {
        std::fs::write(&path, whole).unwrap();
    } else {
        let remedy = "OPENVALIDATORS_WRITE_MANUAL=1 cargo test --lib manual";
        assert!(found == whole, "docs/{page} is not what the code says: {remedy}");
    }
}

#[test]
fn the_flags_of_the_reference_are_as_in_the_code() {
    check("differences.md", &flags());
}

#[test]
fn the_configuration_is_as_in_the_code() {
    check("configuration.md", &configuration::page(crate::config::DEFAULT_TOML));
}

#[test]
fn the_metrics_are_as_in_the_code() {
    check("metrics.md", &metrics::page());
}
