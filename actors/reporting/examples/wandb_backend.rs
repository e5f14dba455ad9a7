//! A wandb server for trying out reporting on one machine: it takes what a validator uploads, tells how many rows each run has and
//! what the latest says, and keeps them in memory until it ends. It is the one that the tests ask.
//!
//! ```sh
//! cargo run -p openvalidators-reporting --features testing --example wandb_backend -- 127.0.0.1:9700
//! ```

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a program that a person looks at, in wall time")]

use std::{collections::BTreeMap, error::Error, time::Duration};

use openvalidators_reporting::wandb::server_double::{Double, KEY};
use serde_json::Value;

/// Between two looks at what has come.
const LOOK: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9700".into());
    let double = Double::start_at(&address).await.map_err(|error| format!("cannot serve at {address}: {error}"))?;
    println!("takes rows at {}; point a validator at it:", double.url());
    println!(
        "  WANDB_BASE_URL={} WANDB_API_KEY={KEY} openvalidators run --set reporting.wandb.mode=online",
        double.url()
    );
    let mut told = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        for (name, run) in &double.state.lock().runs {
            let rows = run.history.len();
            if told.insert(name.clone(), rows) != Some(rows) {
                println!("{name}: {rows} rows{}", latest(run.history.last()));
            }
        }
    }
}

/// What a person wants to know of a row.
fn latest(row: Option<&String>) -> String {
    let row: Value = row.and_then(|row| serde_json::from_str(row).ok()).unwrap_or_default();
    match (row["name"].as_str(), row["uids"].as_array()) {
        (Some(name), Some(uids)) => {
            format!("; the latest: {name} at block {}, {} miners asked", row["block"], uids.len())
        }
        _ => String::new(),
    }
}
