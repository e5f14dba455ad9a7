use std::{fmt::Write as _, sync::Arc, time::Duration};

use openvalidators_keys::{HotkeySigner, ss58};
use openvalidators_messages::{Completion, QueryOutcome, dendrite::Query, gating::Routed};
use openvalidators_runtime::SharedClock;
use tokio::{runtime::Handle, task::JoinSet};

use crate::{
    address, btauth,
    client::{HttpClient, METHOD, PATH},
    config::{Config, ConfigError},
    metrics::Metrics,
    mock,
    response::{Ending, Failure},
    signing::Signing,
    synapse::{Prompting, TerminalInfo},
    transport::{Choice, Learned, Transport},
};

/// Asks miners. Clones share the connections and the lanes.
#[derive(Clone)]
pub struct Dendrite {
    inner: Arc<Inner>,
    workers: Handle,
}

struct Inner {
    config: Config,
    client: HttpClient,
    signing: Arc<Signing>,
    learned: Learned,
    clock: SharedClock,
    metrics: Metrics,
}

/// Counts a query from its start until its outcome is known, however that comes.
struct InFlight<'a>(&'a Metrics);

// === impl Dendrite ===

impl Dendrite {
    /// Signing, sending and parsing run on `workers`, a multi-thread runtime; none of it on the caller's thread.
    ///
    /// # Errors
    /// When a setting cannot be obeyed.
    pub fn new(
        signer: Arc<HotkeySigner>,
        config: Config,
        clock: SharedClock,
        metrics: Metrics,
        workers: Handle,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let client = HttpClient::new(&config, metrics.received_bytes.clone());
        let signing = Signing::new(signer, clock.clone());
        Ok(Self {
            inner: Arc::new(Inner { config, client, signing, learned: Learned::default(), clock, metrics }),
            workers,
        })
    }

    /// Asks every miner of the query at once and returns when all have ended or the deadline has passed: one completion
    /// for each, in order. Dropping the future ends what is in flight.
    pub async fn query(&self, query: Query) -> Vec<Completion> {
        let clock = &self.inner.clock;
        let started = clock.now();
        let deadline = clock.sleep(query.timeout);
        let metrics = &self.inner.metrics;
        let prompting = Arc::new(Prompting::new(&query.roles, &query.messages, query.timeout));
        let mut asked = JoinSet::new();
        for (place, &miner) in query.miners.iter().enumerate() {
            let (inner, prompting) = (self.inner.clone(), prompting.clone());
            if inner.config.transport == Choice::Mock {
                let made_up = mock::completion(&miner, query.messages.last().map_or("", String::as_str));
                asked.spawn_on(async move { (place, made_up) }, &self.workers);
                continue;
            }
            asked.spawn_on(async move { (place, inner.ask(miner, &prompting).await) }, &self.workers);
        }
        let mut completions: Vec<Option<Completion>> = vec![None; query.miners.len()];
        let mut keep = |(place, completion): (usize, Completion)| completions[place] = Some(completion);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                // Replies that are here when the deadline comes still count.
                biased;
                ended = asked.join_next() => match ended {
                    Some(Ok(one)) => keep(one),
                    Some(Err(error)) => tracing::error!(step = %query.step, %error, "a query's task failed"),
                    None => break,
                },
                () = &mut deadline => break,
            }
        }
        asked.abort_all();
        let elapsed = clock.now().saturating_sub(started);
        let late = |miner: &Routed| {
            let failure = if elapsed < query.timeout {
                Failure::Internal("the task that asked has failed".to_owned())
            } else {
                Failure::TimedOut(query.timeout)
            };
            completion(miner, failure.into(), elapsed)
        };
        let completions: Vec<_> =
            query.miners.iter().zip(completions).map(|(miner, kept)| kept.unwrap_or_else(|| late(miner))).collect();
        for completion in &completions {
            metrics.queries.with_label_values(&[completion.outcome.label()]).inc();
            metrics.query_seconds.observe(completion.elapsed_seconds);
        }
        tracing::debug!(step = %query.step, outcomes = tally(&completions), ?elapsed, "asked");
        completions
    }
}

// === impl Inner ===

impl Inner {
    async fn ask(&self, miner: Routed, prompting: &Prompting) -> Completion {
        let _in_flight = InFlight::new(&self.metrics);
        let started = self.clock.now();
        let own = &self.config.own_addresses;
        let ending = match address::objection(miner.axon.address, self.config.allow_private_addresses, own) {
            Some(why) => Failure::BadAddress(miner.axon.address, why).into(),
            None => self.exchange(&miner, prompting).await,
        };
        completion(&miner, ending, self.clock.now().saturating_sub(started))
    }

    /// On one wire, and on the other when the answer shows that it should have been that one.
    async fn exchange(&self, miner: &Routed, prompting: &Prompting) -> Ending {
        let (wire, may_switch) = self.learned.choose(miner, self.config.transport);
        let (mut ending, suggested) = self.exchange_on(wire, miner, prompting).await;
        let mut spoken = wire;
        if let Some(other) = suggested.filter(|_| may_switch) {
            tracing::debug!(uid = %miner.uid, %other, was = ending.status_code, "asking a miner on the other wire");
            (ending, _) = self.exchange_on(other, miner, prompting).await;
            spoken = other;
        }
        if may_switch && ending.outcome == QueryOutcome::Answered {
            self.learned.remember(miner, spoken);
        }
        ending
    }

    /// How it ended, and the wire that the reply suggests instead.
    async fn exchange_on(&self, wire: Transport, miner: &Routed, prompting: &Prompting) -> (Ending, Option<Transport>) {
        match wire {
            Transport::Synapse => self.synapse(miner, prompting).await,
            Transport::Btauth => self.btauth(miner, prompting).await,
        }
    }

    async fn btauth(&self, miner: &Routed, prompting: &Prompting) -> (Ending, Option<Transport>) {
        let body = btauth::body(prompting);
        let signing_since = self.clock.now();
        let headers = btauth::headers(&self.signing, &ss58::encode(&miner.hotkey), METHOD.as_str(), PATH, &body);
        self.metrics.sign_seconds.inc_by(self.clock.now().saturating_sub(signing_since).as_secs_f64());
        self.metrics.sent_bytes.inc_by(body.len() as u64);
        match self.client.exchange(miner.axon.address, headers, body).await {
            Ok(received) => {
                let ending = btauth::ending(&received).limited(self.config.max_completion_characters);
                (ending, Transport::Btauth.suggested(&received))
            }
            Err(failure) => (failure.into(), None),
        }
    }

    /// At most two requests: the second when the axon says that its lane's uuid is spent.
    async fn synapse(&self, miner: &Routed, prompting: &Prompting) -> (Ending, Option<Transport>) {
        let to = miner.axon.address;
        let axon = TerminalInfo {
            ip: Some(to.ip().to_string()),
            port: Some(to.port()),
            hotkey: Some(ss58::encode(&miner.hotkey)),
            ..TerminalInfo::default()
        };
        let mut lane = self.signing.take_lane(miner.hotkey);
        let mut tried_afresh = false;
        loop {
            let signing_since = self.clock.now();
            let signed = lane.sign(axon.hotkey.as_deref().unwrap_or_default(), prompting.body_hash());
            self.metrics.sign_seconds.inc_by(self.clock.now().saturating_sub(signing_since).as_secs_f64());
            let dendrite = TerminalInfo {
                ip: Some(self.config.external_ip.to_string()),
                version: Some(self.config.declared_version.into()),
                nonce: Some(signed.nonce),
                uuid: Some(signed.uuid),
                hotkey: Some(self.signing.address().to_owned()),
                signature: Some(signed.signature),
                ..TerminalInfo::default()
            };
            let body = prompting.body(&dendrite, &axon);
            self.metrics.sent_bytes.inc_by(body.len() as u64);
            let received = match self.client.exchange(to, prompting.headers(&dendrite, &axon), body).await {
                Ok(received) => received,
                Err(failure) => return (failure.into(), None),
            };
            let suggested = Transport::Synapse.suggested(&received);
            let ending = Ending::from(received).limited(self.config.max_completion_characters);
            if tried_afresh || !ending.asks_for_fresh_uuid() {
                return (ending, suggested);
            }
            tried_afresh = true;
            lane.renew();
        }
    }
}

fn completion(miner: &Routed, ending: Ending, elapsed: Duration) -> Completion {
    Completion {
        uid: miner.uid,
        hotkey: miner.hotkey,
        text: ending.text,
        outcome: ending.outcome,
        status_code: ending.status_code,
        status_message: ending.status_message,
        elapsed_seconds: elapsed.as_secs_f64(),
    }
}

/// "answered 45, timed_out 5".
fn tally(completions: &[Completion]) -> String {
    let mut counts = std::collections::BTreeMap::<_, usize>::new();
    for completion in completions {
        *counts.entry(completion.outcome.label()).or_default() += 1;
    }
    counts.iter().fold(String::new(), |mut text, (label, count)| {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{label} {count}");
        text
    })
}

// === impl InFlight ===

impl<'a> InFlight<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

#[cfg(test)]
mod tests;
