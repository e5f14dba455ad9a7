//! Several servers with the same model: who is asked, how often, and who is left alone for a while.
//!
//! The server with the fewest requests in flight is asked first. One that fails is left alone for a time that doubles
//! with each failure, is then given a single request, and introduces itself anew before it is believed again: it may have
//! come back with another model.
//!
//! Rows that a server refuses, or breaks on, are not held against it while no other server serves them: else one text of
//! a miner could take every server away from all others. They are sent to one more server; when that refuses them too they
//! are halved, until the row that is at fault stands alone.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use openvalidators_messages::inference::{ModelName, Row, RowFailed};
use openvalidators_runtime::{SharedClock, TooLate, within};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    config::RemoteLimits,
    metrics::RemoteMetrics,
    model::Fit,
    protocol::{Demand, Identity, Protocol, Sent},
    server::{Fault, Server},
};

/// Servers that may refuse rows before the rows are held to be at fault.
const MOST_REFUSALS: usize = 2;

/// The servers of one model.
pub(super) struct Replicas {
    pub(super) model: ModelName,
    protocol: Arc<dyn Protocol>,
    servers: Vec<Server>,
    /// One for each server.
    states: Mutex<Vec<State>>,
    limits: RemoteLimits,
    /// Whether to wait for a server that is left alone: not where the model is here too.
    patient: bool,
    fit: Fit,
    /// What every server must say of itself: what the first said.
    expected: OnceLock<Identity>,
    metrics: RemoteMetrics,
    clock: SharedClock,
    /// A request has ended: its server has room.
    freed: Notify,
}

/// What is known of a server.
#[derive(Clone, Default)]
struct State {
    in_flight: usize,
    /// In a row.
    failures: u32,
    /// Not to be asked before, by the clock.
    rests_until: Duration,
    /// What it has said of itself since it last failed.
    introduced: Option<Arc<Identity>>,
}

/// A place among the requests of a server; given back when dropped.
struct Turn<'a> {
    replicas: &'a Replicas,
    place: usize,
}

/// Who could be asked.
enum Choice<'a> {
    Turn(Turn<'a>),
    /// Healthy servers have as many requests as they may have.
    Full,
    /// All are left alone, the first of them for so long.
    Resting(Duration),
    Nobody,
}

/// Why rows have no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unserved {
    /// Servers refuse these rows.
    Rows(String),
    /// No server answers.
    Servers(String),
}

/// What is needed to ask the servers of a model.
pub(super) struct Parts {
    pub(super) model: ModelName,
    pub(super) protocol: Arc<dyn Protocol>,
    pub(super) servers: Vec<Server>,
    pub(super) limits: RemoteLimits,
    pub(super) patient: bool,
    pub(super) fit: Fit,
    /// What each server said at the start, all the same.
    pub(super) introduced: Vec<Option<Arc<Identity>>>,
    pub(super) metrics: RemoteMetrics,
    pub(super) clock: SharedClock,
}

// === impl Replicas ===

impl Replicas {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { model, protocol, servers, limits, patient, fit, introduced, metrics, clock } = parts;
        servers.iter().for_each(|server| metrics.health(&model, server.address(), true));
        let first = introduced.iter().flatten().next().map(|identity| Identity::clone(identity));
        let expected = first.map_or_else(OnceLock::new, OnceLock::from);
        let state = |introduced| State { introduced, ..State::default() };
        let states = Mutex::new(introduced.into_iter().map(state).collect());
        Self { model, protocol, servers, states, limits, patient, fit, expected, metrics, clock, freed: Notify::new() }
    }

    /// What all servers say of themselves; nothing while none has answered.
    pub(super) fn identity(&self) -> Option<&Identity> {
        self.expected.get()
    }

    /// Why no server can serve `demand`, as far as is known.
    pub(super) fn objection(&self, demand: Demand) -> Option<String> {
        self.fit.objection(self.expected.get()?, demand)
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(Server::address)
    }

    /// One answer for each of `rows`. `exchange` asks a server for some of them.
    ///
    /// # Errors
    /// When no server answers, or all rows are refused.
    pub(super) async fn rows<T, Asking>(
        &self,
        rows: &[Arc<Sent>],
        exchange: impl Fn(Server, Arc<Identity>, Vec<Sent>) -> Asking + Sync,
    ) -> Result<Vec<Row<T>>, String>
    where
        T: Clone + Send,
        Asking: Future<Output = Result<Vec<Option<T>>, Fault>> + Send,
    {
        let most = self.identity().and_then(|identity| identity.max_rows).unwrap_or(usize::MAX);
        let at_once = self.limits.rows_per_request.min(most).max(1);
        let parts = rows.chunks(at_once).map(|part| self.part(part, &exchange));
        let parts = within(&*self.clock, self.limits.deadline(), futures::future::try_join_all(parts));
        let answers = match parts.await {
            Ok(Ok(parts)) => parts.concat(),
            Ok(Err(reason)) => return Err(reason),
            Err(TooLate { limit }) => {
                return Err(format!("no answer within {} s (`limits.deadline_seconds`)", limit.as_secs()));
            }
        };
        match answers.first() {
            Some(Err(failed)) if answers.iter().all(Result::is_err) => {
                // Rows of many kinds, all refused: that is not the rows.
                if rows.len() > 1 {
                    (0..self.servers.len()).for_each(|place| self.failed(place, None));
                }
                Err(failed.reason.to_string())
            }
            _ => Ok(answers),
        }
    }

    /// Asks for rows that are sent together; halves them while they are refused.
    async fn part<T, Asking>(
        &self,
        rows: &[Arc<Sent>],
        exchange: &(impl Fn(Server, Arc<Identity>, Vec<Sent>) -> Asking + Sync),
    ) -> Result<Vec<Row<T>>, String>
    where
        T: Clone + Send,
        Asking: Future<Output = Result<Vec<Option<T>>, Fault>> + Send,
    {
        let failed = |reason: &str| Err(RowFailed { reason: reason.into() });
        // The next rows on top.
        let (mut waiting, mut answers) = (vec![rows], Vec::with_capacity(rows.len()));
        while let Some(rows) = waiting.pop() {
            match self.ask(rows, exchange).await {
                Ok(found) => {
                    answers.extend(
                        found.into_iter().map(|row| row.map_or_else(|| failed("no number that can be believed"), Ok)),
                    );
                }
                Err(Unserved::Servers(reason)) => return Err(reason),
                Err(Unserved::Rows(reason)) if rows.len() == 1 => answers.push(failed(&reason)),
                Err(Unserved::Rows(_)) => {
                    let (left, right) = rows.split_at(rows.len() / 2);
                    waiting.extend([right, left]);
                }
            }
        }
        Ok(answers)
    }

    /// Asks one server after the other for `rows`.
    async fn ask<T, Asking>(
        &self,
        rows: &[Arc<Sent>],
        exchange: impl Fn(Server, Arc<Identity>, Vec<Sent>) -> Asking,
    ) -> Result<Vec<Option<T>>, Unserved>
    where
        Asking: Future<Output = Result<Vec<Option<T>>, Fault>> + Send,
    {
        let rows: Vec<Sent> = rows.iter().map(|row| Sent::clone(row)).collect();
        let (mut told, mut refusing): (Vec<String>, Vec<usize>) = (Vec::new(), Vec::new());
        for _ in 0..self.limits.attempts.get() {
            let Some(turn) = self.turn(&refusing).await else { break };
            let (place, server, started) = (turn.place, &self.servers[turn.place], self.clock.now());
            let asking = async {
                let identity = turn.introduced().await?;
                counted(exchange(server.clone(), identity, rows.clone()).await?, rows.len())
            };
            let outcome = within(&*self.clock, self.limits.attempt(), asking).await;
            let count = |outcome| {
                let seconds = (self.clock.now() - started).as_secs_f64();
                self.metrics.request(&self.model, server.address(), outcome, seconds);
            };
            let (reason, pause) = match outcome {
                Ok(Ok(answers)) => {
                    count("answered");
                    self.answered(place);
                    // What this one can do, those before should have done.
                    refusing.into_iter().for_each(|place| self.failed(place, None));
                    return Ok(answers);
                }
                Ok(Err(Fault::Rows(reason))) => {
                    count("refused");
                    told.push(format!("{}{reason}", server.address()));
                    refusing.push(place);
                    if refusing.len() >= MOST_REFUSALS {
                        break;
                    }
                    continue;
                }
                Ok(Err(Fault::Server { reason, pause })) => {
                    count("failed");
                    (reason, pause)
                }
                Err(TooLate { limit }) => {
                    count("late");
                    (format!(": no answer within {} s (`limits.attempt_seconds`)", limit.as_secs()), None)
                }
            };
            tracing::warn!(model = %self.model, server = server.address(), reason, "a server failed");
            told.push(format!("{}{reason}", server.address()));
            self.failed(place, pause);
        }
        let reason = if told.is_empty() { "every server is left alone after failing".into() } else { told.join("; ") };
        Err(if refusing.is_empty() { Unserved::Servers(reason) } else { Unserved::Rows(reason) })
    }

    /// A place with the server that is to be asked next; waits while that makes sense.
    async fn turn(&self, except: &[usize]) -> Option<Turn<'_>> {
        loop {
            let freed = self.freed.notified();
            match self.choose(except) {
                Choice::Turn(turn) => return Some(turn),
                Choice::Full => freed.await,
                Choice::Resting(rest) if self.patient => {
                    let _ = within(&*self.clock, rest, freed).await;
                }
                Choice::Resting(_) | Choice::Nobody => return None,
            }
        }
    }

    fn choose(&self, except: &[usize]) -> Choice<'_> {
        let (now, mut states) = (self.clock.now(), self.states.lock());
        let (mut full, mut shortest, mut best) = (false, None::<Duration>, None::<(usize, usize)>);
        for (place, state) in states.iter().enumerate().filter(|(place, _)| !except.contains(place)) {
            let room = if state.failures > 0 { 1 } else { self.limits.requests_in_flight.max(1) };
            if now < state.rests_until {
                let rest = state.rests_until - now;
                shortest = Some(shortest.map_or(rest, |shortest| shortest.min(rest)));
            } else if state.in_flight >= room {
                full = true;
            } else if best.is_none_or(|(least, _)| state.in_flight < least) {
                best = Some((state.in_flight, place));
            }
        }
        match (best, shortest) {
            (Some((_, place)), _) => {
                states[place].in_flight += 1;
                Choice::Turn(Turn { replicas: self, place })
            }
            (None, _) if full => Choice::Full,
            (None, Some(rest)) => Choice::Resting(rest),
            (None, None) => Choice::Nobody,
        }
    }

    fn answered(&self, place: usize) {
        let mut states = self.states.lock();
        // An answer that was on its way when another request failed proves nothing.
        if self.clock.now() >= states[place].rests_until {
            states[place].failures = 0;
            self.metrics.health(&self.model, self.servers[place].address(), true);
        }
    }

    fn failed(&self, place: usize, pause: Option<Duration>) {
        let (now, mut states) = (self.clock.now(), self.states.lock());
        let state = &mut states[place];
        // Of requests that fail together only the first makes the rest longer.
        if now >= state.rests_until {
            state.failures = state.failures.saturating_add(1);
            let rest = self.limits.rest(state.failures).max(pause.unwrap_or_default()).min(self.limits.longest_rest());
            state.rests_until = now + rest;
        }
        state.introduced = None;
        drop(states);
        self.metrics.health(&self.model, self.servers[place].address(), false);
        self.freed.notify_waiters();
    }
}

// === impl Turn ===

impl Turn<'_> {
    /// What the server says of itself, which must be what it said at the start.
    async fn introduced(&self) -> Result<Arc<Identity>, Fault> {
        let Replicas { states, servers, protocol, expected, fit, .. } = self.replicas;
        if let Some(identity) = states.lock()[self.place].introduced.clone() {
            return Ok(identity);
        }
        let identity = protocol.introduce(&servers[self.place]).await?;
        let unfit = |reason| Fault::server(format!(": {reason}"));
        let identity = Arc::new(fit.check(&servers[self.place], identity).await.map_err(unfit)?);
        let expected = expected.get_or_init(|| Identity::clone(&identity));
        if *identity != *expected {
            return Err(Fault::server(format!(" is now [{identity}], expected [{expected}]")));
        }
        states.lock()[self.place].introduced = Some(identity.clone());
        Ok(identity)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.replicas.states.lock()[self.place].in_flight -= 1;
        self.replicas.freed.notify_waiters();
    }
}

/// As many answers as rows, some of which can be believed.
fn counted<T>(answers: Vec<Option<T>>, rows: usize) -> Result<Vec<Option<T>>, Fault> {
    if answers.len() != rows {
        return Err(Fault::server(format!(": {} answers for {rows} rows", answers.len())));
    }
    if rows > 1 && answers.iter().all(Option::is_none) {
        return Err(Fault::server(": no number of its answer can be believed"));
    }
    Ok(answers)
}
