//! What keeps and shows what was done: the ledger, wandb, the service manager.

use std::{path::Path, time::Duration};

use openvalidators_ledger::{LEDGER_FILE, Reader};
use openvalidators_reporting::wandb::{Mode, Setup};

use super::Finding;
use crate::{config::Config, web};

/// Longest wait for wandb's server.
const SERVER_PATIENCE: Duration = Duration::from_secs(5);

/// What is in the state directory, if anything.
pub fn ledger(config: &Config) -> Finding {
    const PART: &str = "ledger";
    let directory = &config.state_dir;
    if !directory.join(LEDGER_FILE).exists() {
        return Finding::note(PART, format!("none yet in {}", directory.display()));
    }
    let restore = "openvalidators ledger restore --from BACKUP (docs/reliability.md)";
    let reader = match Reader::open(directory) {
        Ok(reader) => reader,
        Err(error) => return Finding::wrong(PART, error, restore),
    };
    let whose = reader.identity();
    let (network, netuid) = (config.chain.endpoint.network(), config.chain.netuid);
    if whose.network != network || whose.netuid.0 != netuid {
        let says = format!("{} is of subnet {} on {}", directory.display(), whose.netuid, whose.network);
        return Finding::wrong(PART, says, "name another state_dir for this network");
    }
    match reader.check() {
        Ok(checked) if checked.findings.is_empty() => Finding::good(PART, format!("{} steps, whole", checked.steps)),
        Ok(checked) => Finding::wrong(PART, checked.findings.join("; "), restore),
        Err(error) => Finding::wrong(PART, error, restore),
    }
}

/// Whether rows would go where they are meant to.
pub async fn wandb(config: &Config) -> Finding {
    const PART: &str = "wandb";
    let wandb = &config.reporting.wandb;
    let setup = match Setup::of(wandb, &config.state_dir) {
        Ok(None) => return Finding::note(PART, "off"),
        Ok(Some(setup)) => setup,
        Err(error) => return Finding::wrong(PART, error, "docs/reporting.md has where keys may be"),
    };
    if wandb.mode != Mode::Online {
        return Finding::good(PART, setup.note());
    }
    let Some(server) = setup.server() else {
        return Finding::wrong(PART, "online, and no API key is found", "wandb login, or $WANDB_API_KEY");
    };
    let asked = async {
        Ok::<_, anyhow::Error>(web::client(&config.models, SERVER_PATIENCE)?.head(server.clone()).send().await?)
    };
    match asked.await {
        Ok(_) => Finding::good(PART, setup.note()),
        Err(error) => {
            let remedy = "rows wait on the disk meanwhile; check the network, or reporting.wandb.base_url";
            Finding::warning(PART, format!("{server} does not answer: {error:#}"), remedy)
        }
    }
}

/// Whether somebody restarts the program.
pub fn service(unit: &Path) -> Finding {
    const PART: &str = "service";
    if !Path::new("/run/systemd/system").is_dir() && !unit.exists() {
        return Finding::note(
            PART,
            "systemd does not run here: something else must restart the program after exit codes 1 and 4",
        );
    }
    let text = match std::fs::read_to_string(unit) {
        Ok(text) => text,
        Err(error) => {
            let remedy = "install deploy/openvalidators.service, whose first lines say how";
            return Finding::warning(PART, format!("{}: {error}", unit.display()), remedy);
        }
    };
    let has = |key: &str| text.lines().any(|line| line.trim_start().starts_with(key));
    let mut lacks = Vec::new();
    for (key, why) in [
        ("Restart=", "a process that ends stays ended"),
        ("RestartPreventExitStatus=", "what cannot start is started for ever"),
        ("WatchdogSec=", "a process that hangs stays so"),
        ("LimitNOFILE=", "connections may run out"),
    ] {
        if !has(key) {
            lacks.push(format!("no {key}: {why}"));
        }
    }
    if lacks.is_empty() {
        return Finding::good(PART, format!("{} restarts it", unit.display()));
    }
    let remedy = "compare with deploy/openvalidators.service, then systemctl daemon-reload";
    Finding::warning(PART, format!("{}: {}", unit.display(), lacks.join("; ")), remedy)
}

#[cfg(test)]
mod tests {
    use openvalidators_keys::wallet::State;

    use super::*;

    #[test]
    fn a_unit_that_lacks_what_matters_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let unit = folder.path().join("openvalidators.service");
        std::fs::write(&unit, "[Service]\nRestart=on-failure\nLimitNOFILE=65536\n").unwrap();
        let told = service(&unit);
        assert_eq!(told.state, State::Warning);
        assert!(told.says.contains("WatchdogSec") && told.says.contains("RestartPreventExitStatus"), "{told:?}");
        assert!(!told.says.contains("no Restart="), "{told:?}");
        std::fs::write(&unit, "Restart=a\nRestartPreventExitStatus=2\nWatchdogSec=1\nLimitNOFILE=1\n").unwrap();
        assert_eq!(service(&unit).state, State::Good);
    }
}
