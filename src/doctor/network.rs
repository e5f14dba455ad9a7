//! What lies outside: the chain and our place on it, the ports, the time.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use openvalidators_keys::ss58;
use openvalidators_messages::subtensor::ChainError;
use openvalidators_runtime::{Clock, Seed, SystemClock, within};
use openvalidators_subtensor::{ChainCalls, Endpoint};
use prometheus::Registry;

use super::{Finding, Ours};
use crate::{config::Config, network::local_signer, standing, web};

/// Longest wait for the chain altogether: a doctor is waited for by a person.
const CHAIN_PATIENCE: Duration = Duration::from_secs(45);
/// Longest wait for one answer of a server.
const SERVER_PATIENCE: Duration = Duration::from_secs(5);
/// How far a clock may be off before miners refuse requests, in seconds: half of what their SDK allows.
const MOST_SKEW_SECONDS: f64 = 5.0;
/// The newest block is as old as a block takes, and then some.
const MOST_BLOCK_AGE_SECONDS: f64 = 60.0;

/// Reads the subnet, and looks for our place.
pub async fn chain(config: &Config, ours: Ours) -> Vec<Finding> {
    const PART: &str = "chain";
    let endpoint = &config.chain.endpoint;
    match endpoint {
        Endpoint::InProcess => return vec![Finding::note(PART, "a local one, in the process of `run`")],
        Endpoint::LocalServer(address) => {
            return vec![match TcpStream::connect_timeout(address, SERVER_PATIENCE) {
                Ok(_) => Finding::good(PART, format!("somebody listens at {endpoint}")),
                Err(error) => {
                    let remedy = "start it: openvalidators localnet --listen ADDRESS";
                    Finding::wrong(PART, format!("nobody at {endpoint}: {error}"), remedy)
                }
            }];
        }
        Endpoint::Nodes(_) => {}
    }
    let clock = SystemClock::shared();
    let registry = Registry::new();
    let asked = async {
        let metrics = openvalidators_subtensor::Metrics::new(&registry, &clock)?;
        let chain = config.chain.remote_chain(local_signer()?, &clock, &metrics);
        let chain = Arc::new(chain.ok_or_else(|| anyhow::anyhow!("{endpoint} is no node"))?);
        let calls = ChainCalls::new(chain, clock.clone(), &config.chain, metrics, Seed(config.seed));
        let metagraph = calls.metagraph().await?;
        anyhow::Ok((metagraph, calls.compare_clocks().await))
    };
    let (metagraph, compared) = match within(&*clock, CHAIN_PATIENCE, asked).await {
        Ok(Ok(answers)) => answers,
        Ok(Err(error)) => {
            let remedy = "check chain.endpoint, the netuid and the firewall; a list of nodes may be given";
            return vec![Finding::wrong(PART, format!("{endpoint}: {error:#}"), remedy)];
        }
        Err(late) => {
            let remedy = "another node: chain.endpoint takes a list";
            return vec![Finding::wrong(PART, format!("{endpoint}: {late}"), remedy)];
        }
    };
    let says = format!("{endpoint}, block {}, {} neurons", metagraph.block, metagraph.neurons.len());
    let mut findings = vec![Finding::good(PART, says), skew(&registry, compared)];
    let Some(ours) = ours else { return findings };
    let (subnet, hotkey) = (config.chain.netuid, ss58::encode(&ours));
    findings.push(match standing::place(&metagraph, &ours, &config.chain).map(|uid| metagraph.neuron(uid)) {
        Err(_) => {
            let remedy = format!("btcli subnets register --netuid {subnet}, where the coldkey is");
            Finding::wrong("place", format!("{hotkey} is not registered on subnet {subnet}"), remedy)
        }
        Ok(Some(neuron)) if !neuron.validator_permit => {
            let says = format!("uid {} without a validator permit: steps are scored, no weights set", neuron.uid);
            Finding::warning("place", says, "stake more; permits are given at each epoch")
        }
        Ok(Some(neuron)) if neuron.stake < metagraph.hyperparameters.stake_threshold => {
            let threshold = metagraph.hyperparameters.stake_threshold;
            let says = format!("uid {} with {:.3} TAO; weights need {threshold}", neuron.uid, neuron.stake);
            Finding::warning("place", says, "stake more")
        }
        Ok(Some(neuron)) => Finding::good("place", format!("uid {}, {:.3} TAO, a permit", neuron.uid, neuron.stake)),
        Ok(None) => Finding::warning("place", "the chain gave a uid without a neuron", "look again in a minute"),
    });
    findings
}

/// Our clock beside the newest block's.
fn skew(registry: &Registry, compared: Result<(), ChainError>) -> Finding {
    if let Err(error) = compared {
        return Finding::warning(
            "time",
            format!("the chain's clock could not be read: {error}"),
            "ask the doctor again",
        );
    }
    let told = registry.gather().into_iter().find(|family| family.name() == "openvalidators_chain_clock_skew_seconds");
    let seconds = told.and_then(|family| Some(family.get_metric().first()?.get_gauge().get_value()));
    // Never set where a chain keeps no time.
    match seconds.filter(|seconds| *seconds != 0.0) {
        Some(seconds) => judged_skew("the chain's newest block", seconds, MOST_BLOCK_AGE_SECONDS),
        None => Finding::note("time", "the chain does not say its time"),
    }
}

/// `ahead` is ours less theirs, in seconds; a block is older than now by what it takes to be made.
fn judged_skew(whose: &str, ahead: f64, most_ahead: f64) -> Finding {
    let says = format!("our clock is {:.1} s {} {whose}", ahead.abs(), if ahead < 0.0 { "behind" } else { "ahead of" });
    if (-MOST_SKEW_SECONDS..=most_ahead).contains(&ahead) {
        Finding::good("time", says)
    } else {
        let remedy = "timedatectl; start an NTP client such as chrony: miners refuse requests with a wrong time";
        Finding::wrong("time", says, remedy)
    }
}

/// Whether the addresses can be listened at.
pub fn ports(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let metrics = &config.reporting.metrics;
    if metrics.off {
        findings.push(Finding::note("ports", "no metrics are served"));
    } else {
        findings.push(port(metrics.address, "metrics", "reporting.metrics.address"));
        if !metrics.address.ip().is_loopback() {
            let says = format!("metrics at {} have no password", metrics.address);
            findings.push(Finding::warning("ports", says, "keep them on loopback or in a network of their own"));
        }
    }
    if config.chain.endpoint.is_remote() && !config.axon.off {
        let listen = SocketAddr::new(config.axon.ip, config.axon.port);
        findings.push(port(listen, "the axon", "--axon.port"));
        if config.axon.external(listen).is_none() {
            let says = "this machine has no global address, and none is named: the chain will not say where we are";
            findings.push(Finding::warning("ports", says, "--axon.external_ip, or --neuron.axon_off"));
        }
    }
    findings
}

fn port(address: SocketAddr, whose: &str, key: &str) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::good("ports", format!("{address} is free for {whose}")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let remedy = format!("end what holds it (`ss -ltnp`), or set {key}; if it is this validator, all is well");
            Finding::wrong("ports", format!("{address}, for {whose}, is in use"), remedy)
        }
        Err(error) => Finding::wrong("ports", format!("{address}, for {whose}: {error}"), format!("set {key}")),
    }
}

/// Our clock beside that of the server that models come from.
pub async fn time(config: &Config) -> Option<Finding> {
    if config.models.offline {
        return None;
    }
    let asked = async {
        let server = config.models.endpoint()?;
        let answer = web::client(&config.models, SERVER_PATIENCE)?.head(server.clone()).send().await?;
        let date = answer.headers().get(reqwest::header::DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
        let theirs = date.ok_or_else(|| anyhow::anyhow!("{server} says no time"))?;
        let theirs = theirs.duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
        anyhow::Ok((server, SystemClock::new().unix().as_secs_f64() - theirs))
    };
    Some(match asked.await {
        // A date has whole seconds.
        Ok((server, ahead)) => judged_skew(server.as_str(), ahead, MOST_SKEW_SECONDS),
        Err(error) => {
            let remedy = "only models and their updates need it: HTTPS_PROXY, HF_ENDPOINT, or models.offline = true";
            Finding::warning("time", format!("the server of models gave no time: {error:#}"), remedy)
        }
    })
}

#[cfg(test)]
mod tests {
    use openvalidators_keys::wallet::State;

    use super::*;

    #[test]
    fn a_clock_that_is_off_is_told_both_ways() {
        for (ahead, most, state) in [
            (0.0, 5.0, State::Good),
            (-4.9, 5.0, State::Good),
            (-5.1, 5.0, State::Wrong),
            (5.1, 5.0, State::Wrong),
            (24.0, 60.0, State::Good),
            (61.0, 60.0, State::Wrong),
        ] {
            assert_eq!(judged_skew("x", ahead, most).state, state, "{ahead}");
        }
        assert!(judged_skew("x", -7.0, 5.0).says.contains("7.0 s behind"));
    }
}
