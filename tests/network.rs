//! A validator beside a network that runs in a process of its own: it changes, goes away, and comes back.

use std::time::{Duration, Instant};

use openvalidators::{
    localnet::{LocalnetConfig, MinerMix, Miners, admit_miners},
    network::local_signer,
};
use openvalidators_ledger::Reader;
use openvalidators_messages::{Hotkey, Metagraph, Neuron, Sequence, ledger::Settlement};
use openvalidators_runtime::{Seed, SystemClock};
use openvalidators_subtensor::{
    Chain,
    local::{LocalClient, LocalNetwork},
};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    program::{CONSTANT_REWARD, LocalnetProcess, Program, get, output, stderr},
    resume::fold_by_hand,
};

const ANY_PORT: &str = "127.0.0.1:0";
/// Longest wait for the chain to show something.
const PATIENCE: Duration = Duration::from_secs(400);

/// The network behind a process, as its operator sees it.
fn operator(localnet: &LocalnetProcess) -> LocalNetwork {
    let address = localnet.address.parse().unwrap();
    LocalNetwork::new(LocalClient::new(address, SystemClock::shared(), Duration::from_secs(20)))
}

/// Flags for a run whose claim is not what completions earn.
fn unscored() -> Vec<&'static str> {
    CONSTANT_REWARD.iter().flat_map(|setting| ["--set", setting]).collect()
}

fn ours() -> Hotkey {
    local_signer().unwrap().hotkey()
}

fn our_neuron(metagraph: &Metagraph) -> Option<&Neuron> {
    metagraph.uid_of(&ours()).and_then(|uid| metagraph.neuron(uid))
}

/// Looks again and again until the chain shows it.
async fn until(network: &LocalNetwork, what: &str, mut seen: impl AsyncFnMut(&Metagraph) -> bool) -> Metagraph {
    let since = Instant::now();
    loop {
        if let Ok(metagraph) = network.metagraph().await
            && seen(&metagraph).await
        {
            return metagraph;
        }
        assert!(since.elapsed() < PATIENCE, "the chain did not show that {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[test]
fn a_validator_joins_a_localnet_process() {
    let (chain, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut localnet = LocalnetProcess::start(chain.path(), ANY_PORT, &["chain.local.block_seconds=0.5"]);
    let address = localnet.address.clone();
    let arguments = [&["--chain", &address, "--steps", "3"][..], &unscored()].concat();
    let (lines, status) = Program::start(state.path(), &arguments).finish();
    assert!(localnet.is_running(), "the chain and its miners outlive the validator");
    localnet.kill();
    assert!(status.success());
    let answered: u64 =
        lines.iter().filter(|line| line["event"] == "step").map(|line| line["answered"].as_u64().unwrap()).sum();
    assert!(answered > 0);
    let none = output(&["run", "--chain", &address, "--state-dir", state.path().to_str().unwrap()]);
    assert_eq!(none.status.code(), Some(4));
    assert!(stderr(&none).contains(&address), "{}", stderr(&none));
}

/// One more registration on a full subnet takes the place of a miner that has earned something. Nothing of that comes to
/// who has its place now.
#[test]
fn a_uid_replaced_in_mid_run_is_scored_and_paid_for_its_new_hotkey() {
    let (chain, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let only_good = [
        ("good", 4),
        ("fair", 0),
        ("poor", 0),
        ("slow", 0),
        ("lazy", 0),
        ("echo", 0),
        ("copycat", 0),
        ("keyword_spammer", 0),
        ("hanging", 0),
        ("garbage", 0),
        ("oversized", 0),
        ("wrong_json", 0),
        ("refusing", 0),
    ];
    let mut settings: Vec<String> =
        only_good.iter().map(|(kind, count)| format!("localnet.miners.{kind}={count}")).collect();
    settings.extend([
        "chain.local.block_seconds=0.5".to_owned(),
        "chain.local.validators.copying=0".to_owned(),
        "chain.local.validators.random=0".to_owned(),
        // The owner, the four, and the validator.
        "chain.local.max_uids=6".to_owned(),
    ]);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let localnet = LocalnetProcess::start(chain.path(), ANY_PORT, &settings);
    let program = Program::start(state.path(), &["--chain", &localnet.address]);
    let (runtime, network) = (Runtime::new().unwrap(), operator(&localnet));

    let (old, new, uid, since) = runtime.block_on(async {
        let earned = |neuron: &Neuron| neuron.axon.is_none() || neuron.incentive > 0.0;
        let before = until(&network, "every miner has earned something", async |metagraph| {
            metagraph.neurons.len() == 6 && metagraph.neurons.iter().all(earned)
        })
        .await;
        let config = LocalnetConfig { miners: MinerMix { good: 1, ..MinerMix::NONE }, ..LocalnetConfig::default() };
        let miners = Miners::start(&config, Seed(4711), &SystemClock::shared()).await.unwrap();
        let roster = admit_miners(&network, &miners, 0.0).await.unwrap();
        let newcomer = roster.iter().next().unwrap();
        let (uid, old) = (newcomer.uid, before.neuron(newcomer.uid).unwrap());
        assert!(old.incentive > 0.0 && old.hotkey != newcomer.hotkey, "{old:?}");
        let since = network.metagraph().await.unwrap().neuron(uid).unwrap().registered_at;
        // The chain forgets what was paid to the place, so this weight is the newcomer's own.
        until(&network, "the newcomer is paid", async |metagraph| {
            let Some(neuron) = our_neuron(metagraph).filter(|neuron| neuron.last_update > since) else { return false };
            let row = network.account(ours()).weights_of(neuron.uid).await.unwrap_or_default();
            row.iter().any(|(target, weight)| *target == uid && *weight > 0)
        })
        .await;
        (old.hotkey, newcomer.hotkey, uid, since)
    });
    program.terminate();
    let (lines, status) = program.finish();
    assert!(status.success());

    let scores = fold_by_hand(state.path());
    assert!(scores[&old] > 0.0 && scores[&new] > 0.0);
    let summary = lines.iter().find(|line| line["event"] == "summary").unwrap();
    let told: &Value = summary["miners"].as_array().unwrap().iter().find(|miner| miner["uid"] == uid.0).unwrap();
    assert!((told["score"].as_f64().unwrap() - scores[&new]).abs() < 1e-9, "{told}, and not {}", scores[&new]);

    let reader = Reader::open(state.path()).unwrap();
    let steps = reader.read_steps(Sequence(0), usize::MAX).unwrap();
    let asked = |hotkey: Hotkey| {
        let asked_in =
            move |record: &openvalidators_messages::StepRecord| record.asked.iter().any(|a| a.hotkey == hotkey);
        steps.iter().filter(|step| asked_in(&step.record)).map(|step| step.sequence).collect::<Vec<_>>()
    };
    assert!(asked(old).last() < asked(new).first(), "{:?} and {:?}", asked(old), asked(new));
    assert_eq!(told["asked"].as_u64().unwrap(), asked(new).len() as u64, "the old one's steps are not counted");
    let intents = reader.read_intents(usize::MAX).unwrap();
    let confirmed = intents.iter().filter(|stored| matches!(stored.settlement, Settlement::Confirmed { .. }));
    let paid: Vec<_> = confirmed
        .filter_map(|stored| {
            let place = stored.intent.uids.iter().position(|target| *target == uid)?;
            Some((stored.intent.block >= since, stored.intent.hotkeys[place]))
        })
        .collect();
    assert!(paid.contains(&(false, old)) && paid.contains(&(true, new)), "{paid:?}");
    assert!(paid.iter().all(|(since_then, hotkey)| *hotkey == if *since_then { new } else { old }), "{paid:?}");
}

/// Chain and miners die without a word and come back, the miners at other addresses.
#[test]
fn a_chain_that_is_killed_and_started_again_has_its_weights_again() {
    let (chain, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings = ["chain.local.block_seconds=0.5"];
    let localnet = LocalnetProcess::start(chain.path(), ANY_PORT, &settings);
    let (address, network) = (localnet.address.clone(), operator(&localnet));
    let impatient = ["--set", "chain.retry_longest_seconds=2", "--set", "prompts.pause_longest_seconds=2"];
    let mut program = Program::start(state.path(), &[&["--chain", &address][..], &impatient, &unscored()].concat());
    let metrics = program.metrics_address();
    let runtime = Runtime::new().unwrap();
    let has_set_since = |block| {
        async move |metagraph: &Metagraph| our_neuron(metagraph).is_some_and(|neuron| neuron.last_update > block)
    };
    let registered_at = runtime.block_on(async {
        let there = until(&network, "we are registered", async |metagraph| our_neuron(metagraph).is_some()).await;
        our_neuron(&there).unwrap().registered_at
    });
    runtime.block_on(until(&network, "weights were set", has_set_since(registered_at)));

    localnet.kill();
    // Long enough for it to notice, and to try again more than once.
    std::thread::sleep(Duration::from_secs(8));
    assert!(program.is_running(), "a chain that is away is no reason to end");
    let (status, health) = get(&metrics, "/health");
    assert_eq!(status, 200, "nor is anything stuck: {health}");

    let _localnet = LocalnetProcess::start(chain.path(), &address, &settings);
    let head = runtime.block_on(network.metagraph()).unwrap().block;
    runtime.block_on(until(&network, "weights were set again", has_set_since(head)));
    // And the miners are found at their new addresses.
    loop {
        let step = program.until("step");
        if step["block"].as_u64() > Some(head.0) && step["answered"].as_u64() > Some(0) {
            break;
        }
    }
    program.terminate();
    let (lines, status) = program.finish();
    assert!(status.success(), "{status:?}");
    assert!(lines.iter().any(|line| line["event"] == "summary"));
}
