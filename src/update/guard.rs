//! Watching a new version: it must answer as the version that was applied, be of good health, and settle steps.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context, ensure};
use openvalidators_runtime::{Clock, SystemClock};
use semver::Version;

use super::UpdateConfig;
use crate::{config::Config, web};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The counter that a settled step moves.
const PROGRESS: &str = "openvalidators_ledger_latest_sequence";

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It settled so many steps.
    Good { steps: u64 },
    /// It did not do its duty.
    Bad(String),
}

/// What a validator says of itself at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    version: Option<String>,
    sequence: u64,
}

/// Restarts the validator as the operator says.
///
/// # Errors
/// When the command fails.
pub fn restart(config: &UpdateConfig) -> anyhow::Result<()> {
    let [program, arguments @ ..] = config.restart_command.as_slice() else {
        anyhow::bail!("update.restart_command is empty: nothing can restart the validator");
    };
    let words = config.restart_command.join(" ");
    let ended = Command::new(program).args(arguments).status().with_context(|| format!("running `{words}`"))?;
    ensure!(ended.success(), "`{words}` (update.restart_command) ended with {ended}");
    Ok(())
}

/// Watches until the window is over, or something is wrong.
///
/// # Errors
/// When the settings leave nothing to look at.
pub async fn watch(config: &Config, applied: &Version, every: Duration) -> anyhow::Result<Verdict> {
    let metrics = &config.reporting.metrics;
    ensure!(
        !metrics.off && metrics.address.port() != 0,
        "an update is watched by what the validator serves at reporting.metrics.address: give it a port"
    );
    let (update, clock) = (&config.update, SystemClock::new());
    let seconds = Duration::from_secs;
    let wanted = applied.to_string();
    let begun = clock.now();
    let first = loop {
        match look(metrics.address).await {
            Ok(seen) if seen.version.as_deref() == Some(wanted.as_str()) => break seen,
            other if clock.now() - begun >= seconds(update.ready_seconds) => {
                let told = match other {
                    Ok(Seen { version, .. }) => {
                        format!("version {} answers", version.unwrap_or_else(|| "unknown".to_owned()))
                    }
                    Err(error) => format!("{error:#}"),
                };
                let why = format!("it did not become ready in {} s ({told})", update.ready_seconds);
                return Ok(Verdict::Bad(why));
            }
            _ => clock.sleep(every).await,
        }
    };
    let (ready, mut latest, mut moved) = (clock.now(), first.sequence, clock.now());
    let mut trouble = None;
    while clock.now() - ready < seconds(update.window_seconds) {
        clock.sleep(every).await;
        match look(metrics.address).await {
            Ok(seen) if seen.version.as_deref() != Some(wanted.as_str()) => {
                return Ok(Verdict::Bad("another version answers in its place".to_owned()));
            }
            Ok(seen) if seen.sequence > latest => {
                (latest, moved, trouble) = (seen.sequence, clock.now(), None);
            }
            Ok(_) => trouble = None,
            Err(error) => trouble = Some(format!("{error:#}")),
        }
        if clock.now() - moved >= seconds(update.progress_seconds) {
            let told = trouble.map_or_else(String::new, |trouble| format!(" ({trouble})"));
            return Ok(Verdict::Bad(format!("it settled no step for {} s{told}", update.progress_seconds)));
        }
    }
    match (latest - first.sequence, trouble) {
        (_, Some(trouble)) => Ok(Verdict::Bad(format!("at the end of its window it did not answer ({trouble})"))),
        (0, None) => Ok(Verdict::Bad(format!("it settled no step in its window of {} s", update.window_seconds))),
        (steps, None) => Ok(Verdict::Good { steps }),
    }
}

/// Asks for the version and the latest step; `/health` must be well.
async fn look(address: SocketAddr) -> anyhow::Result<Seen> {
    let here = if address.ip().is_unspecified() { SocketAddr::from(([127, 0, 0, 1], address.port())) } else { address };
    let client = web::local_client(PATIENCE)?;
    let health = client.get(format!("http://{here}/health")).send().await.with_context(|| format!("asking {here}"))?;
    ensure!(health.status().is_success(), "/health says {}", health.text().await.unwrap_or_default().trim());
    let metrics = client.get(format!("http://{here}/metrics")).send().await?.text().await?;
    Ok(Seen::of(&metrics))
}

// === impl Seen ===

impl Seen {
    fn of(metrics: &str) -> Self {
        let line = |name: &str| metrics.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
        let version = line("openvalidators_build_info{").and_then(|line| {
            let rest = ["{version=\"", ",version=\""].iter().find_map(|label| Some(line.split_once(label)?.1))?;
            rest.split('"').next().map(str::to_owned)
        });
        let sequence = line(PROGRESS).and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        Self { version, sequence: sequence.unwrap_or(0.0) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_and_progress_are_found_among_metrics() {
        let text = "# HELP openvalidators_ledger_latest_sequence x\n\
            openvalidators_build_info{revision=\"a\",rustc=\"b\",spec_version=\"10\",version=\"0.2.0\"} 1\n\
            openvalidators_ledger_latest_sequence 42\n";
        assert_eq!(Seen::of(text), Seen { version: Some("0.2.0".to_owned()), sequence: 42 });
        assert_eq!(Seen::of(""), Seen { version: None, sequence: 0 });
    }
}
