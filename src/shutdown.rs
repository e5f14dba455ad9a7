//! How the program ends: who asks, and the order of closing.

use std::{convert::Infallible, time::Duration};

use futures::future::{BoxFuture, FutureExt};
use openvalidators_runtime::{Late, Reason, SharedClock, Shutdown, Stage, close_in_order};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};

use crate::topology::Supervisions;

/// Exit code when something could not go on.
pub const EXIT_FAULT: u8 = 1;
/// Exit code when the program never started: usage, configuration, state directory, models, ports.
pub const EXIT_NOT_STARTED: u8 = 2;
/// Exit code of a second signal: 128 + SIGINT, as shells expect.
const EXIT_IMPATIENT: i32 = 130;

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
