//! `openvalidators doctor`: what would keep a validator from starting, or from doing its duty, and what to do about each.
//!
//! It changes nothing and sends nothing but questions. Each part looks at the real thing: the wallet is opened, the chain is read,
//! ports are bound for a moment.

mod machine;
mod network;
mod records;

use std::process::ExitCode;

use comfy_table::{ContentArrangement, LineStyle, Table, presets};
use openvalidators_keys::wallet::State;
use openvalidators_messages::Hotkey;
use serde::Serialize;

use crate::{
    cli::Doctor,
    config::{Config, ConfigError},
    console::{print_json, print_text},
    shutdown,
};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which part.
    pub part: &'static str,
    /// What it is like. `wrong` must be mended before a validator does its duty.
    pub state: State,
    /// The same in words.
    pub says: String,
    /// What a person should do; empty where there is nothing to do.
    pub remedy: String,
}

/// Looks at everything, one part after another, and prints it.
///
/// # Errors
/// When nothing can be printed; what is wrong is a finding.
pub async fn run(command: &Doctor, loaded: Result<Config, ConfigError>) -> anyhow::Result<ExitCode> {
    let findings = match loaded {
        Ok(config) => examine(command, &config).await,
        Err(error) => vec![Finding::wrong("config", error, "mend it first: nothing else can be looked at without it")],
    };
    let wrong = findings.iter().filter(|finding| finding.state == State::Wrong).count();
    let warnings = findings.iter().filter(|finding| finding.state == State::Warning).count();
    if command.json {
        print_json(&serde_json::json!({ "event": "doctor", "healthy": wrong == 0, "findings": findings }));
    } else {
        print_text(&table(&findings).to_string());
        print_text(&match (wrong, warnings) {
            (0, 0) => "Nothing to mend.".to_owned(),
            (0, warnings) => format!("Nothing keeps a validator from its duty; {warnings} to look at."),
            (wrong, _) => format!("{wrong} to mend."),
        });
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::from(shutdown::EXIT_TO_MEND) })
}

async fn examine(command: &Doctor, config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::good("config", "every key is known, and the values make sense together")];
    let (wallet, ours) = machine::wallet(config);
    findings.extend(wallet);
    findings.extend(network::chain(config, ours).await);
    findings.extend(network::ports(config));
    findings.extend(network::time(config).await);
    findings.push(machine::disk(config, command.min_free_gb));
    findings.push(machine::open_files(config));
    findings.push(machine::device(config));
    findings.extend(machine::models(config));
    findings.push(records::wandb(config).await);
    findings.push(records::ledger(config));
    findings.push(records::service(&command.unit));
    findings
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["part", "is", "in words", "what to do"]);
    for Finding { part, state, says, remedy } in findings {
        let state = match state {
            State::Good => "good",
            State::Note => "",
            State::Warning => "WARNING",
            State::Wrong => "WRONG",
        };
        table.add_row([part, state, says, remedy]);
    }
    table
}

// === impl Finding ===

impl Finding {
    fn new(part: &'static str, state: State, says: impl ToString, remedy: impl ToString) -> Self {
        Self { part, state, says: says.to_string(), remedy: remedy.to_string() }
    }

    fn good(part: &'static str, says: impl ToString) -> Self {
        Self::new(part, State::Good, says, "")
    }

    fn note(part: &'static str, says: impl ToString) -> Self {
        Self::new(part, State::Note, says, "")
    }

    fn warning(part: &'static str, says: impl ToString, remedy: impl ToString) -> Self {
        Self::new(part, State::Warning, says, remedy)
    }

    fn wrong(part: &'static str, says: impl ToString, remedy: impl ToString) -> Self {
        Self::new(part, State::Wrong, says, remedy)
    }
}

/// The hotkey that will sign, where it could be opened.
type Ours = Option<Hotkey>;
