//! `openvalidators query`: ask one miner by hand, exactly as the validator asks it.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use openvalidators_dendrite::{Dendrite, Metrics};
use openvalidators_keys::{HotkeySigner, ss58};
use openvalidators_messages::{
    Axon, Completion, ForwardId, Hotkey, Metagraph, QueryOutcome, StepId, Uid, dendrite::Query as Asked, gating::Routed,
};
use openvalidators_runtime::{Seed, SharedClock, SystemClock};
use openvalidators_subtensor::{ChainCalls, Endpoint, Metrics as ChainMetrics};
use prometheus::Registry;

use crate::{
    cli::Query,
    config::Config,
    console::{print_json, print_text},
    shutdown,
};

/// Whom to ask.
struct Target {
    uid: Uid,
    hotkey: Hotkey,
    axon: Axon,
}

/// Asks, and prints how it ended.
///
/// # Errors
/// When the settings of the dendrite cannot be obeyed, or the chain does not tell where the miner is.
pub async fn run(command: &Query, config: &Config, signer: Arc<HotkeySigner>) -> anyhow::Result<ExitCode> {
    let from = ss58::encode(&signer.hotkey());
    let target = target(command, config, &signer).await?;
    let completion = ask(command, &target, config, signer).await?;
    if command.json {
        print_json(&serde_json::json!({
            "event": "query",
            "from": from,
            "axon": target.axon.address,
            "hotkey": ss58::encode(&target.hotkey),
            "outcome": completion.outcome,
            "status_code": completion.status_code,
            "status_message": completion.status_message,
            "elapsed_seconds": completion.elapsed_seconds,
            "completion": completion.text,
        }));
    } else {
        print_text(&text(&from, &completion));
    }
    let answered = completion.outcome == QueryOutcome::Answered;
    Ok(if answered { ExitCode::SUCCESS } else { ExitCode::from(shutdown::EXIT_FAULT) })
}

async fn target(command: &Query, config: &Config, signer: &Arc<HotkeySigner>) -> anyhow::Result<Target> {
    let nothing_declared = |address| Axon { address, protocol: 0, version: 0 };
    match (command.uid, command.axon, command.hotkey) {
        (_, Some(address), Some(hotkey)) => Ok(Target { uid: Uid(0), hotkey, axon: nothing_declared(address) }),
        (Some(uid), ..) => at_place(Uid(uid), &metagraph(config, signer).await?),
        _ => anyhow::bail!("name a miner: --uid N, or --axon IP:PORT and --hotkey SS58"),
    }
}

fn at_place(uid: Uid, metagraph: &Metagraph) -> anyhow::Result<Target> {
    let (netuid, places) = (metagraph.netuid, metagraph.neurons.len());
    let neuron = metagraph.neuron(uid);
    let neuron = neuron.with_context(|| format!("subnet {netuid} has {places} places, and no uid {uid}"))?;
    let axon = neuron.axon.with_context(|| format!("uid {uid} of subnet {netuid} serves no axon"))?;
    Ok(Target { uid, hotkey: neuron.hotkey, axon })
}

/// The subnet that the configuration names, as the validator reads it.
async fn metagraph(config: &Config, signer: &Arc<HotkeySigner>) -> anyhow::Result<Metagraph> {
    let (clock, seed): (SharedClock, _) = (SystemClock::shared(), Seed(config.seed));
    let metrics = ChainMetrics::new(&Registry::new(), &clock)?;
    let chain: Arc<dyn openvalidators_subtensor::Chain> = match &config.chain.endpoint {
        Endpoint::InProcess => anyhow::bail!(
            "chain.endpoint is `local`, a chain that only its own process can read: name that of the miner, with \
             --subtensor.network, or --set chain.endpoint=local://ADDRESS for `openvalidators localnet`"
        ),
        Endpoint::LocalServer(_) => Arc::new(config.chain.local_network(&clock, seed, None)?.account(signer.hotkey())),
        Endpoint::Nodes(_) => {
            let chain = config.chain.remote_chain(signer.clone(), &clock, &metrics);
            Arc::new(chain.context("chain.endpoint names no node")?)
        }
    };
    let calls = ChainCalls::new(chain, clock, &config.chain, metrics, seed);
    calls.metagraph().await.context("reading the subnet")
}

async fn ask(
    command: &Query,
    target: &Target,
    config: &Config,
    signer: Arc<HotkeySigner>,
) -> anyhow::Result<Completion> {
    let mut config = config.dendrite.clone();
    if let Some(wire) = command.transport {
        config.transport = wire.into();
    }
    let metrics = Metrics::new(&Registry::new())?;
    let dendrite = Dendrite::new(signer, config, SystemClock::shared(), metrics, tokio::runtime::Handle::current())?;
    let miner =
        Routed { uid: target.uid, hotkey: target.hotkey, axon: target.axon, propensity: 1.0, uniform_propensity: None };
    let asked = Asked {
        step: StepId { forward: ForwardId(0), index: 0 },
        miners: vec![miner],
        roles: Arc::new(["user".to_owned()]),
        messages: Arc::new([command.prompt.clone()]),
        timeout: command.timeout,
    };
    let mut completions = dendrite.query(asked).await;
    completions.pop().ok_or_else(|| anyhow::anyhow!("the dendrite gave no completion for the one miner asked"))
}

fn text(from: &str, completion: &Completion) -> String {
    let Completion { outcome, status_code, status_message, elapsed_seconds, text, .. } = completion;
    let outcome = outcome.label();
    let status = printable(status_message);
    let told = format!(
        "asked as  {from}\noutcome   {outcome}\nstatus    {status_code} {status}\nelapsed   {elapsed_seconds:.3} s"
    );
    if text.is_empty() { told } else { format!("{told}\n\n{}", printable(text)) }
}

/// A miner's text as a terminal may show it: without what would move the cursor or turn the direction of writing.
fn printable(text: &str) -> String {
    let is_bidirectional = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if (c.is_control() && !matches!(c, '\n' | '\t')) || is_bidirectional(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use openvalidators_dendrite::axon::{Axon as Served, AxonConfig, AxonRequest, Reply};

    use super::*;

    /// By the command line, as it is typed.
    fn command(axon: &str, more: &[&str]) -> Query {
        let hotkey = HotkeySigner::from_uri("//Bob").unwrap().hotkey();
        let address = ss58::encode(&hotkey);
        let typed = ["openvalidators", "query", "--axon", axon, "--hotkey", &address, "--prompt", "Why?"];
        let matches = crate::cli::command().try_get_matches_from(typed.iter().chain(more)).unwrap();
        let cli = <crate::cli::Cli as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
        let crate::cli::Task::Query(query) = cli.command else { panic!("another command") };
        query
    }

    fn alice() -> Arc<HotkeySigner> {
        Arc::new(HotkeySigner::from_uri("//Alice").unwrap())
    }

    async fn ask_it(command: &Query, config: &Config) -> Completion {
        let target = target(command, config, &alice()).await.unwrap();
        ask(command, &target, config, alice()).await.unwrap()
    }

    #[test]
    fn a_place_leads_to_its_axon_or_to_words() {
        let mut metagraph = Metagraph::clone(&crate::health::tests::metagraph(100));
        let told = |metagraph: &Metagraph, uid| at_place(Uid(uid), metagraph).map(drop).unwrap_err().to_string();
        assert_eq!(told(&metagraph, 1), "subnet 1 has 1 places, and no uid 1");
        assert_eq!(told(&metagraph, 0), "uid 0 of subnet 1 serves no axon");
        let axon = Axon { address: "9.9.9.9:80".parse().unwrap(), protocol: 4, version: 11_000_000 };
        metagraph.neurons[0].axon = Some(axon);
        let found = at_place(Uid(0), &metagraph).unwrap();
        assert_eq!((found.hotkey, found.axon), (metagraph.neurons[0].hotkey, axon), "its version chooses the wire");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_miner_is_asked_as_the_validator_asks_it() {
        let bob = HotkeySigner::from_uri("//Bob").unwrap().hotkey();
        let echo = |request: AxonRequest| async move { Reply::Completion(format!("{:?}", request.messages)) };
        let axon = Served::serve(bob, AxonConfig::default(), SystemClock::shared(), echo).await.unwrap();
        let address = axon.address().to_string();
        let completion = ask_it(&command(&address, &["--timeout", "20"]), &Config::default()).await;
        assert_eq!((completion.outcome, completion.text.as_str()), (QueryOutcome::Answered, "[\"Why?\"]"));
        let shown = text("me", &completion);
        assert!(
            shown.contains("answered") && shown.contains("200 Success") && shown.ends_with("[\"Why?\"]"),
            "{shown}"
        );
        let other = command(&address, &["--timeout", "20", "--transport", "btauth"]);
        assert_ne!(ask_it(&other, &Config::default()).await.outcome, QueryOutcome::Answered);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn addresses_that_must_not_be_asked_are_refused() {
        let mut config = Config::default();
        config.dendrite.allow_private_addresses = false;
        for axon in ["127.0.0.1:80", "10.0.0.1:80", "0.0.0.0:80", "8.8.8.8:0", "192.0.2.1:80", "224.0.0.1:80"] {
            let completion = ask_it(&command(axon, &[]), &config).await;
            assert_eq!(completion.outcome, QueryOutcome::BadAddress, "{axon}");
        }
    }

    #[test]
    fn what_is_typed_is_checked() {
        let query = command("[::1]:8091", &["--timeout", "0.5"]);
        assert_eq!((query.timeout, query.transport), (Duration::from_millis(500), None));
        let refused = |wrong: [&str; 2]| {
            let address = ss58::encode(&alice().hotkey());
            let mut typed = vec!["openvalidators", "query", "--prompt", "x"];
            for pair in [["--axon", "1.2.3.4:5"], ["--hotkey", &address], ["--timeout", "1"]] {
                typed.extend(if pair[0] == wrong[0] { wrong } else { pair });
            }
            crate::cli::command().try_get_matches_from(typed).unwrap_err().to_string()
        };
        assert!(refused(["--hotkey", "5Grw"]).contains("decodes to"));
        assert!(refused(["--axon", "example.org:80"]).contains("--axon"));
        for timeout in ["0", "-1", "nan", "1e9", "soon"] {
            assert!(refused(["--timeout", timeout]).contains("600"), "{timeout}");
        }
    }

    #[test]
    fn a_miners_text_cannot_play_with_the_terminal() {
        let shown = printable("one\ttwo\n\u{1b}[2Jthree\u{9b}4\u{202e}\r é 😀");
        assert_eq!(shown, "one\ttwo\n\\u{1b}[2Jthree\\u{9b}4\\u{202e}\\r é 😀");
    }
}
