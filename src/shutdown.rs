//! How the program ends: who asks, the order of closing, and the exit codes.

use std::{convert::Infallible, time::Duration};

use futures::future::{BoxFuture, FutureExt};
use openvalidators_keys::wallet::WalletError;
use openvalidators_messages::subtensor::ChainError;
use openvalidators_runtime::{Late, Reason, SharedClock, Shutdown, Stage, close_in_order};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};

use crate::{standing::NotRegistered, topology::Supervisions};

/// Exit code when something could not go on.
pub const EXIT_FAULT: u8 = 1;
/// Exit code when the program never started: usage, configuration, state directory, models, ports.
pub const EXIT_NOT_STARTED: u8 = 2;
/// Exit code when the wallet gave no hotkey: missing, unreadable, wrong password.
pub const EXIT_WALLET: u8 = 3;
/// Exit code when no node answered at the start. Another start may find one.
pub const EXIT_CHAIN_AWAY: u8 = 4;
/// Exit code when a node answered at the start and cannot be used: not Bittensor's chain, no such subnet, a runtime that this
/// version cannot read.
pub const EXIT_CHAIN_UNFIT: u8 = 5;
/// Exit code when our hotkey has no place on the subnet at the start.
pub const EXIT_NOT_REGISTERED: u8 = 6;
/// Exit code when our hotkey lost its place while the program ran.
pub const EXIT_PLACE_LOST: u8 = 7;
/// Exit code of a second signal: 128 + SIGINT, as shells expect.
const EXIT_IMPATIENT: i32 = 130;

/// Exit code of `doctor` when something must be mended.
pub const EXIT_TO_MEND: u8 = 8;

/// The codes in words, for `--help`. A service manager restarts after 1 and 4, and not after the others: systemd's
/// `RestartPreventExitStatus=2 3 5 6 7`.
pub const EXIT_CODES: &str = "\
Exit codes:
    0  the step budget is spent, or somebody asked to stop
    1  something could not go on, or was late to close: start again
    2  not started: command line, configuration, state directory, models, ports
    3  not started: the wallet gave no hotkey
    4  not started: no node of the chain answered; start again
    5  not started: the chain cannot be used: another one, no such subnet, a runtime too new or too old
    6  not started: the hotkey is not registered on the subnet
    7  the hotkey lost its place on the subnet; everything was closed in order
  130  a second Ctrl-C or SIGTERM
systemd: Restart=on-failure with RestartPreventExitStatus=2 3 5 6 7";

/// The exit code of a program that did not start.
#[must_use]
pub fn code_of(error: &anyhow::Error) -> u8 {
    let known = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref::<ChainError>() {
        Some(ChainError::Unreachable { .. }) => Some(EXIT_CHAIN_AWAY),
        Some(_) => Some(EXIT_CHAIN_UNFIT),
        None if cause.is::<WalletError>() => Some(EXIT_WALLET),
        None if cause.is::<NotRegistered>() => Some(EXIT_NOT_REGISTERED),
        None => None,
    };
    error.chain().find_map(known).unwrap_or(EXIT_NOT_STARTED)
}

/// Requests a shutdown on Ctrl-C or SIGTERM; a second one leaves at once.
///
/// # Errors
/// When the system has no signals to give.
pub fn listen(shutdown: Shutdown) -> std::io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::spawn(async move {
        shutdown.request(Reason::Signal(next(&mut interrupt, &mut terminate).await));
        let name = next(&mut interrupt, &mut terminate).await;
        tracing::warn!(signal = name, "a second signal: leaving at once; the ledger is safe, the rest resumes from it");
        std::process::exit(EXIT_IMPATIENT);
    });
    Ok(())
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "Ctrl-C",
        _ = terminate.recv() => "SIGTERM",
    }
}

/// Does work that ends only when somebody asked the program to stop. When it ends earlier, by a panic or otherwise, that is a
/// reason to stop: a program must not go on without it.
pub async fn until_asked<T>(part: &'static str, stop: Shutdown, work: impl Future<Output = T>) -> T {
    let _watch = Watch { part, stop };
    work.await
}

struct Watch {
    part: &'static str,
    stop: Shutdown,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.stop.is_requested() {
            let what = "it has ended by itself; its last words are in the log".to_owned();
            self.stop.request(Reason::Fault { part: self.part.to_owned(), what });
        }
    }
}

/// Lets the forwards come to rest: a step being gathered is given up, one being settled is settled.
pub async fn end_forwards(forwards: JoinHandle<()>, clock: &SharedClock) -> Vec<Late> {
    let ended = async move {
        if let Err(error) = forwards.await {
            tracing::error!(%error, "the forwards failed");
        }
    };
    close_in_order(vec![stage("forwards", 90, ended.boxed())], clock).await
}

/// Closes the actors with the water: who asks first, who is asked last. Reporting goes before the ledger it reads from,
/// so that it has seen everything. The forwards have ended already.
pub async fn close(
    actors: Supervisions,
    console: BoxFuture<'static, ()>,
    exporter: Option<JoinHandle<Infallible>>,
    clock: &SharedClock,
) -> Vec<Late> {
    let exporter = async move {
        if let Some(exporter) = exporter {
            // A scraper that keeps its connection open is not waited for.
            exporter.abort();
            let _ = exporter.await;
        }
    };
    let stages = vec![
        stage("prompts", 5, actors.prompts.close().boxed()),
        stage("dendrite", 20, actors.dendrite.close().boxed()),
        stage("rewards", 60, actors.rewards.close().boxed()),
        stage("gating", 5, actors.gating.close().boxed()),
        stage("inference", 60, actors.inference.close().boxed()),
        stage("weights", 30, actors.weights.close().boxed()),
        stage("subtensor", 30, actors.subtensor.close().boxed()),
        stage("console", 10, console),
        stage("exporter", 5, exporter.boxed()),
        stage("reporting", 15, actors.reporting.close().boxed()),
        stage("ledger", 30, actors.ledger.close().boxed()),
    ];
    close_in_order(stages, clock).await
}

fn stage(name: &'static str, seconds: u64, close: BoxFuture<'static, ()>) -> Stage {
    Stage { name, deadline: Duration::from_secs(seconds), close }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    /// The program lived on without forwards, or without its pages.
    #[tokio::test]
    async fn work_that_ends_unasked_is_a_reason_to_stop() {
        for stopped_before in [false, true] {
            let stop = Shutdown::default();
            let stopping = stop.clone();
            let work = async move {
                if stopped_before {
                    stopping.request(Reason::Finished);
                }
                assert!(stopped_before, "a bug");
            };
            let ended = tokio::spawn(until_asked("the forwards", stop.clone(), work)).await;
            assert_eq!(ended.is_ok(), stopped_before);
            let told = stop.reason().unwrap().to_string();
            assert_eq!(told.starts_with("the forwards cannot go on"), !stopped_before, "{told}");
        }
    }

    #[test]
    fn what_kept_it_from_starting_decides_the_code() {
        let (call, reason) = (|| "metagraph".to_owned(), || "test".to_owned());
        let away = ChainError::Unreachable { call: call(), reason: reason() };
        let unfit = ChainError::BadAnswer { call: call(), reason: reason() };
        let none = NotRegistered { hotkey: "5Grw".to_owned(), netuid: 64, network: "finney".to_owned() };
        let wallet = WalletError::Unreadable { path: "/there".into(), reason: reason() };
        for (error, code) in [
            (anyhow::Error::new(away).context("reading the subnet"), EXIT_CHAIN_AWAY),
            (anyhow::Error::new(unfit), EXIT_CHAIN_UNFIT),
            (Err::<(), _>(none).context("starting").unwrap_err(), EXIT_NOT_REGISTERED),
            (anyhow::Error::new(wallet), EXIT_WALLET),
            (anyhow::anyhow!("anything else"), EXIT_NOT_STARTED),
        ] {
            assert_eq!(code_of(&error), code, "{error:#}");
            assert!(EXIT_CODES.contains(&format!("\n    {code}  ")), "{code} is documented");
        }
    }
}
