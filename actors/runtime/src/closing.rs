//! Closing in order, each part with a deadline, naming who is late.

use std::time::Duration;

use futures::{
    FutureExt,
    future::{BoxFuture, Either, select},
};

use crate::SharedClock;

/// How often the part being waited for is named.
const REMIND_AFTER: Duration = Duration::from_secs(3);

/// One part to close.
pub struct Stage {
    /// What people call it.
    pub name: &'static str,
    /// How long it may take before the next part is closed anyway.
    pub deadline: Duration,
    /// Closes it.
    pub close: BoxFuture<'static, ()>,
}

/// A part that did not close in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late(pub &'static str);

/// Closes the stages one after the other and reports those that passed their deadline.
pub async fn close_in_order(stages: Vec<Stage>, clock: &SharedClock) -> Vec<Late> {
    let mut late = Vec::new();
    for Stage { name, deadline, mut close } in stages {
        let end = clock.now() + deadline;
        loop {
            let left = end.saturating_sub(clock.now());
            if left.is_zero() && (&mut close).now_or_never().is_none() {
                tracing::warn!(part = name, ?deadline, "did not close in time; going on without it");
                late.push(Late(name));
                break;
            }
            match select(&mut close, clock.sleep(left.min(REMIND_AFTER))).await {
                Either::Left(_) => break,
                Either::Right(_) if !left.is_zero() => {
                    tracing::warn!(part = name, left = ?end.saturating_sub(clock.now()), "still closing");
                }
                Either::Right(_) => {}
            }
        }
        tracing::debug!(part = name, "closed");
    }
    late
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;
    use crate::DrivenClock;

    #[tokio::test]
    async fn stages_close_in_order_and_the_late_one_is_named() {
        let driven = DrivenClock::new(Duration::ZERO);
        let clock: SharedClock = Arc::new(driven.clone());
        let closed = Arc::new(Mutex::new(Vec::new()));
        let stage = |name, hangs: bool| {
            let closed = closed.clone();
            let close = async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                closed.lock().push(name);
            };
            Stage { name, deadline: Duration::from_secs(10), close: close.boxed() }
        };
        let stages = vec![stage("prompts", false), stage("dendrite", true), stage("ledger", false)];
        let closing = tokio::spawn(async move { close_in_order(stages, &clock).await });
        while !closing.is_finished() {
            tokio::task::yield_now().await;
            driven.advance(Duration::from_millis(500));
        }
        assert_eq!(closing.await.unwrap(), vec![Late("dendrite")]);
        assert_eq!(*closed.lock(), vec!["prompts", "ledger"]);
    }
}
