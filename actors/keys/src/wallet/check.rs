//! What is right and what is wrong with a wallet, part by part, in words.

use openvalidators_messages::Hotkey;

use super::{Passwords, Wallet, Warning, read};
use crate::{
    keyfile::{self, Format},
    ss58,
};

/// What a part of a wallet is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Good,
    /// Nothing to do about it.
    Note,
    /// Works, but should be mended.
    Warning,
    /// Keeps the validator from starting.
    Wrong,
}

/// One part of a wallet.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Which part.
    pub part: &'static str,
    /// What it is like.
    pub state: State,
    /// The same in words, with the remedy.
    pub says: String,
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Report {
    /// In the order they were looked at.
    pub findings: Vec<Finding>,
    /// The hotkey, when it opened.
    pub hotkey: Option<Hotkey>,
}

/// Looks at every part of a wallet and opens its hotkey. The coldkey is not opened.
pub fn check(wallet: &Wallet, passwords: &mut Passwords) -> Report {
    let mut report = Report { findings: Vec::new(), hotkey: None };
    let folder = wallet.folder();
    if folder.is_dir() {
        report.add("wallet", State::Good, folder.display().to_string());
    } else {
        report.add("wallet", State::Wrong, format!("there is no folder {}", folder.display()));
    }

    let coldkey = folder.join("coldkeypub.txt");
    match read(&coldkey).map(|bytes| keyfile::address_in(&bytes)) {
        Ok(Ok(address)) => report.add("coldkey's address", State::Note, ss58::encode(&address)),
        Ok(Err(error)) => report.add("coldkey's address", State::Warning, format!("{}: {error}", coldkey.display())),
        Err(_) => {
            report.add("coldkey's address", State::Note, "no coldkeypub.txt; a validator does without".to_owned())
        }
    }
    if folder.join("coldkey").exists() {
        let advice = "is here; a validator never opens it and runs without it: better kept on another machine";
        report.add("coldkey", State::Note, advice.to_owned());
    } else if folder.is_dir() {
        report.add("coldkey", State::Good, "is not on this machine, and need not be".to_owned());
    }

    let path = wallet.hotkey_file();
    let format = wallet.read_hotkey().map(|bytes| Format::of(&bytes));
    if let Ok(Ok(format)) = &format {
        report.add("hotkey's file", State::Good, format!("{}, {format}", path.display()));
    }
    match wallet.open(passwords) {
        Ok(opened) => {
            let address = opened.signer.hotkey();
            report.add("hotkey", State::Good, format!("opens; its address is {}", ss58::encode(&address)));
            report.hotkey = Some(address);
            for warning in &opened.warnings {
                let part = match warning {
                    Warning::Exposed { .. } => "permissions",
                    Warning::OtherPublicFile { .. } => "hotkey's public file",
                };
                report.add(part, State::Warning, warning.to_string());
            }
        }
        Err(error) => report.add("hotkey", State::Wrong, error.to_string()),
    }
    report
}

// === impl Report ===

impl Report {
    /// Whether a validator can start with this wallet.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.hotkey.is_some()
    }

    fn add(&mut self, part: &'static str, state: State, says: String) {
        self.findings.push(Finding { part, state, says });
    }
}
