//! What belongs to this machine: the wallet, the disk, the device and its models.

use openvalidators_hub::{Hub, Look, ModelState};
use openvalidators_inference::DeviceName;
use openvalidators_keys::{
    ss58,
    wallet::{State, check},
};
use openvalidators_reporting::DiskSpace;
use openvalidators_runtime::SystemClock;
use prometheus::core::Collector;

use super::{Finding, Ours};
use crate::{
    config::Config,
    models::{memory, stack::Bytes, stack::Stack, used},
    network::local_signer,
    open_files, wallet as wallets,
};

/// The hotkey is opened; a finding of `wallet check` that is good or a note is told only where nothing is wrong.
pub fn wallet(config: &Config) -> (Vec<Finding>, Ours) {
    const PART: &str = "wallet";
    if !config.wallet.is_named() {
        if config.chain.endpoint.is_remote() {
            let remedy = "name it with --wallet.name and --wallet.hotkey (docs/wallets.md)";
            return (vec![Finding::wrong(PART, "none is named, and a real network is to be validated", remedy)], None);
        }
        let ours = local_signer().ok().map(|signer| signer.hotkey());
        return (vec![Finding::note(PART, "none is named: the key of local networks signs")], ours);
    }
    let wallet = match wallets::locate(&config.wallet) {
        Ok(wallet) => wallet,
        Err(error) => return (vec![Finding::wrong(PART, error, "correct wallet.path")], None),
    };
    let report = check(&wallet, &mut wallets::passwords(&config.wallet));
    let told = report.findings.iter().filter(|finding| matches!(finding.state, State::Warning | State::Wrong));
    let mut findings: Vec<_> = told
        .map(|found| {
            let says = format!("{}: {}", found.part, found.says);
            Finding::new(PART, found.state, says, "`openvalidators wallet check` looks closer")
        })
        .collect();
    match report.hotkey {
        Some(hotkey) => {
            findings.push(Finding::good(PART, format!("the hotkey {} opens", ss58::encode(&hotkey))));
        }
        None if findings.is_empty() => {
            findings.push(Finding::wrong(PART, "the hotkey does not open", "openvalidators wallet check"));
        }
        None => {}
    }
    (findings, report.hotkey)
}

/// Room where the state directory is, or will be.
pub fn disk(config: &Config, least_gb: f64) -> Finding {
    const PART: &str = "disk";
    let wanted = std::path::absolute(&config.state_dir).unwrap_or_else(|_| config.state_dir.clone());
    let Some(folder) = wanted.ancestors().find(|folder| folder.is_dir()) else {
        return Finding::wrong(PART, format!("there is nothing at {}", wanted.display()), "correct state_dir");
    };
    let families = DiskSpace::new(folder).map(|disk| disk.collect()).unwrap_or_default();
    let bytes = |name: &str| {
        let family = families.iter().find(|family| family.name() == name)?;
        Some(family.get_metric().first()?.get_gauge().get_value())
    };
    let Some(free) = bytes("openvalidators_state_free_bytes") else {
        return Finding::warning(PART, format!("room at {} is not known", folder.display()), "look with `df -h`");
    };
    let says = format!("{} free at {}", Bytes(free as u64), folder.display());
    if free < least_gb * 1e9 {
        let remedy = format!(
            "make room, or name another state_dir; ledger.max_bytes and ledger.keep_texts_days bound the ledger (asked for: \
             {least_gb} GB, --min-free-gb)"
        );
        return Finding::wrong(PART, says, remedy);
    }
    if tempfile::tempfile_in(folder).is_err() {
        let remedy = format!("give this user the right to write there: chown or chmod {}", folder.display());
        return Finding::wrong(PART, format!("{says}, and nothing can be written there"), remedy);
    }
    Finding::good(PART, says)
}

/// Every connection to a miner is a file.
pub fn open_files(config: &Config) -> Finding {
    match open_files::shortage(config.dendrite.pool_max_idle_per_miner) {
        Ok(None) => Finding::good("open files", "enough for 1,024 miners"),
        Ok(Some(says)) => Finding::warning("open files", says, "LimitNOFILE=65536 of systemd; `ulimit -Hn` of a shell"),
        Err(error) => Finding::warning("open files", format!("the limit is not known: {error}"), "`ulimit -n`"),
    }
}

/// Where networks compute.
pub fn device(config: &Config) -> Finding {
    const PART: &str = "device";
    match config.inference.device {
        DeviceName::Cpu(_) => {
            let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
            Finding::note(PART, format!("{} with {cores} cores", config.inference.device))
        }
        DeviceName::Cuda(_) if !cfg!(feature = "cuda") => {
            let remedy = "build with --features cuda (docs/gpu.md), or set inference.device to cpu";
            Finding::wrong(PART, format!("{}, and this program is built without GPUs", config.inference.device), remedy)
        }
        DeviceName::Cuda(number) => match memory::free(memory::Memory::Gpu(number)) {
            Some(free) => Finding::good(PART, format!("{} with {} free", config.inference.device, Bytes(free))),
            None => {
                let remedy = "`nvidia-smi` must list it; docs/gpu.md has what to install";
                Finding::wrong(PART, format!("{} does not answer", config.inference.device), remedy)
            }
        },
    }
}

/// Whether the models are here, and fit.
pub fn models(config: &Config) -> Vec<Finding> {
    const PART: &str = "models";
    let looked = || -> anyhow::Result<Vec<Finding>> {
        let hub = Hub::new(&config.models, SystemClock::shared())?;
        let names = used(config);
        let mut missing = Vec::new();
        for name in &names {
            if !matches!(hub.state(&name.0, Look::Sizes)?, ModelState::Present { .. }) {
                missing.push(name.to_string());
            }
        }
        let stack = Stack::of(config, &hub, &names)?;
        let mut findings = Vec::new();
        findings.push(match missing.as_slice() {
            [] => Finding::good(PART, format!("{} here, by size; `models verify` reads them all", names.len())),
            missing if config.models.offline => {
                let says = format!("not whole: {}; and models.offline is set", missing.join(", "));
                Finding::wrong(PART, says, "openvalidators models fetch, once with models.offline = false")
            }
            missing => {
                let says = format!("not whole: {}", missing.join(", "));
                Finding::wrong(PART, says, "openvalidators models fetch")
            }
        });
        findings.push(match stack.check_fits(config, &memory::free) {
            Ok(()) => Finding::good("memory", stack.summary()),
            Err(error) => Finding::wrong("memory", error, "a smaller --profile, or inference.remote"),
        });
        Ok(findings)
    };
    looked().unwrap_or_else(|error| vec![Finding::wrong(PART, format!("{error:#}"), "docs/models.md has every key")])
}
