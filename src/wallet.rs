//! The hotkey we validate with, and `openvalidators wallet check`.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    sync::Arc,
};

use comfy_table::{ContentArrangement, LineStyle, Table, presets};
use openvalidators_keys::{
    HotkeySigner, Wallet, WalletConfig, ss58,
    wallet::{self, Passwords, Report, State},
};
use zeroize::Zeroizing;

use crate::{
    config::Config,
    console::{print_json, print_text},
    network::local_signer,
    shutdown,
};

/// The configured wallet's hotkey; on a local network, where no wallet is named, a key of its own.
///
/// # Errors
/// When the hotkey cannot be opened, or a real network is to be validated and no wallet is named: what is wrong, and the
/// remedy.
pub fn signer(config: &Config) -> anyhow::Result<Arc<HotkeySigner>> {
    if !config.wallet.is_named() {
        let endpoint = &config.chain.endpoint;
        anyhow::ensure!(
            !endpoint.is_remote(),
            "chain.endpoint {endpoint} is a real network, where the hotkey of a wallet signs, and no wallet is named: name it \
             with --wallet.name and --wallet.hotkey (docs/wallets.md)"
        );
        return local_signer();
    }
    let opened = locate(&config.wallet)?.open(&mut passwords(&config.wallet))?;
    for warning in &opened.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(address = ss58::encode(&opened.signer.hotkey()), "opened the hotkey");
    Ok(Arc::new(opened.signer))
}

/// Prints what is right and what is wrong with the wallet.
///
/// # Errors
/// When the settings name no place.
pub fn check(config: &WalletConfig, json: bool) -> anyhow::Result<ExitCode> {
    let wallet = locate(config)?;
    let report = wallet::check(&wallet, &mut passwords(config));
    if json {
        print_json(&serde_json::json!({
            "event": "wallet",
            "hotkey_file": wallet.hotkey_file(),
            "address": report.hotkey.as_ref().map(ss58::encode),
            "usable": report.is_usable(),
            "findings": report.findings,
        }));
    } else {
        print_text(&format!("{}\n{}", table(&report), verdict(&report)));
    }
    Ok(if report.is_usable() { ExitCode::SUCCESS } else { ExitCode::from(shutdown::EXIT_FAULT) })
}

pub(crate) fn locate(config: &WalletConfig) -> anyhow::Result<Wallet> {
    Ok(Wallet::locate(config, std::env::home_dir().as_deref())?)
}

/// From this process's surroundings; a person is asked where there is a terminal.
pub(crate) fn passwords(config: &WalletConfig) -> Passwords<'static> {
    let ask = |words: &str| rpassword::prompt_password(words).map(Zeroizing::new);
    let prompt = (config.ask_password && io::stdin().is_terminal()).then(|| Box::new(ask) as Box<_>);
    Passwords::new(config.password_file.clone(), |name| std::env::var_os(name), prompt)
}

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["part", "is", "in words"]);
    for finding in &report.findings {
        let state = match finding.state {
            State::Good => "good",
            State::Note => "",
            State::Warning => "WARNING",
            State::Wrong => "WRONG",
        };
        table.add_row([finding.part, state, &finding.says]);
    }
    table
}

fn verdict(report: &Report) -> String {
    match &report.hotkey {
        Some(hotkey) => {
            format!("A validator can sign with this hotkey. It must be registered: {}", ss58::encode(hotkey))
        }
        None => "A validator cannot start with this wallet.".to_owned(),
    }
}
