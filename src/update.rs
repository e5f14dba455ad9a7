//! `openvalidators update`: newer releases, by signature alone.
//!
//! A release is a folder on a web server: `latest.json` says which version there is, for which ledger, and the sha256 of each
//! program; `latest.json.minisig` signs that file (<https://jedisct1.github.io/minisign/>). So what is downloaded is held to what
//! was signed, byte by byte, before it is run even once.
//!
//! | file | holds |
//! |---|---|
//! | `release.rs` | what a server offers, and when it is refused |
//! | `swap.rs` | the programs on the disk: new, current, previous |
//! | `guard.rs` | watching a new one, and taking it back |

mod guard;
mod release;
mod swap;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    cli::{Update, UpdateAction},
    config::Config,
    console::{print_json, print_text},
    shutdown,
};
use guard::Verdict;
use release::Offered;
use swap::Programs;

/// What the operator sets about updates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateConfig {
    /// Where releases are; empty: nowhere, and nothing is ever looked up.
    pub url: String,
    /// The minisign key that signs them, as in the second line of `minisign.pub`.
    pub public_key: String,
    /// Whether `update apply --guard` and `update guard` take a release back by themselves.
    pub roll_back: bool,
    /// How long a new version may take from its restart until it answers.
    pub ready_seconds: u64,
    /// How long it is watched from then on.
    pub window_seconds: u64,
    /// Without a newly settled step for so long in that time, it has lost progress.
    pub progress_seconds: u64,
    /// How the validator is restarted, as a list of words.
    pub restart_command: Vec<String>,
}

/// A setting that cannot be obeyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {found}: {remedy}")]
pub struct BadUpdate {
    key: &'static str,
    found: String,
    remedy: String,
}

/// Longest time that can be set: a week.
const MAX_SECONDS: u64 = 604_800;

// === impl UpdateConfig ===

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            public_key: String::new(),
            roll_back: true,
            ready_seconds: 900,
            window_seconds: 3_600,
            progress_seconds: 900,
            restart_command: ["systemctl", "restart", "--no-block", "openvalidators"].map(str::to_owned).to_vec(),
        }
    }
}

impl UpdateConfig {
    /// # Errors
    /// The first setting that cannot be obeyed.
    pub fn check(&self) -> Result<(), BadUpdate> {
        let bad = |key, found: &dyn ToString, remedy: &str| {
            Err(BadUpdate { key, found: found.to_string(), remedy: remedy.to_owned() })
        };
        if !self.url.is_empty() && !["https://", "http://"].iter().any(|scheme| self.url.starts_with(scheme)) {
            return bad("url", &self.url, "give an address that begins with https://, or none");
        }
        if !self.public_key.is_empty()
            && let Err(error) = minisign_verify::PublicKey::from_base64(&self.public_key)
        {
            let remedy = format!("give the second line of minisign.pub, or none ({error})");
            return bad("public_key", &self.public_key, &remedy);
        }
        for (key, seconds) in [
            ("ready_seconds", self.ready_seconds),
            ("window_seconds", self.window_seconds),
            ("progress_seconds", self.progress_seconds),
        ] {
            if !(1..=MAX_SECONDS).contains(&seconds) {
                return bad(key, &seconds, "give 1 to 604800 seconds");
            }
        }
        Ok(())
    }
}

/// Runs the subcommand.
///
/// # Errors
/// What kept a release from being looked at or applied; nothing was changed then.
pub async fn run(command: &Update, config: &Config) -> anyhow::Result<ExitCode> {
    let programs = Programs::at(&place(command)?)?;
    let say = |event: &str, text: &str| match command.json {
        true => print_json(&json!({ "event": "update", "what": event, "text": text })),
        false => print_text(text),
    };
    match command.action {
        UpdateAction::Check => {
            let offered = Offered::fetch(config).await?;
            match offered.is_newer() {
                true => say("newer", &format!("{} is there; this is {}", offered.version, release::OURS)),
                false => say("newest", &format!("this is {}, and nothing newer is there", release::OURS)),
            }
            Ok(ExitCode::SUCCESS)
        }
        UpdateAction::Apply { guard } => {
            let offered = Offered::fetch(config).await?;
            if offered.version == release::ours()? {
                say("newest", &format!("this is {}, and nothing newer is there", release::OURS));
                return Ok(ExitCode::SUCCESS);
            }
            offered.check()?;
            let new = offered.download(config, programs.folder()).await?;
            programs.put(new, &offered.version)?;
            say(
                "applied",
                &format!(
                    "{} is in its place; the program of before is {}. It runs once the validator is restarted",
                    offered.version,
                    programs.previous().display()
                ),
            );
            if !guard {
                return Ok(ExitCode::SUCCESS);
            }
            match guard::restart(&config.update) {
                Ok(()) => watched(config, &programs, &say).await,
                // systemd says so when the new program ends before it is ready.
                Err(error) => judged(config, &programs, &offered.version, Verdict::Bad(format!("{error:#}")), &say),
            }
        }
        UpdateAction::Guard => watched(config, &programs, &say).await,
        UpdateAction::Rollback => {
            programs.take_back()?;
            say("taken_back", &format!("{} is the program of before again: restart it", programs.current().display()));
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn watched(config: &Config, programs: &Programs, say: &impl Fn(&str, &str)) -> anyhow::Result<ExitCode> {
    let Some(applied) = programs.applied()? else {
        say("nothing", "no release waits to be watched");
        return Ok(ExitCode::SUCCESS);
    };
    let verdict = guard::watch(config, &applied, Duration::from_secs(2)).await?;
    judged(config, programs, &applied, verdict, say)
}

/// Keeps a release, or takes it back.
fn judged(
    config: &Config,
    programs: &Programs,
    applied: &Version,
    verdict: Verdict,
    say: &impl Fn(&str, &str),
) -> anyhow::Result<ExitCode> {
    let why = match verdict {
        Verdict::Good { steps } => {
            programs.keep()?;
            say("kept", &format!("{applied} does its duty: {steps} steps settled while it was watched"));
            return Ok(ExitCode::SUCCESS);
        }
        Verdict::Bad(why) => why,
    };
    if config.update.roll_back {
        programs.take_back()?;
        match guard::restart(&config.update) {
            Ok(()) => {
                say("taken_back", &format!("{applied}: {why}. The program of before is back and was restarted"));
            }
            Err(error) => {
                let told = "The program of before is back and must be restarted by hand";
                say("taken_back", &format!("{applied}: {why}. {told}: {error:#}"));
            }
        }
    } else {
        say("bad", &format!("{applied}: {why}; update.roll_back is false, so it stays"));
    }
    Ok(ExitCode::from(shutdown::EXIT_FAULT))
}

/// The program that is replaced.
fn place(command: &Update) -> anyhow::Result<PathBuf> {
    match &command.binary {
        Some(binary) => Ok(binary.clone()),
        None => std::env::current_exe().context("finding the file of this program; --binary names it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_named() {
        UpdateConfig::default().check().unwrap();
        let told = |config: UpdateConfig| config.check().unwrap_err().to_string();
        assert!(told(UpdateConfig { url: "ftp://x".into(), ..UpdateConfig::default() }).contains("url is ftp://x"));
        assert!(told(UpdateConfig { public_key: "RWQx".into(), ..UpdateConfig::default() }).contains("minisign.pub"));
        assert!(told(UpdateConfig { window_seconds: 0, ..UpdateConfig::default() }).contains("window_seconds is 0"));
    }
}
