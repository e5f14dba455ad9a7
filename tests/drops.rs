//! A chain whose connections are cut again and again, or go quiet without being closed: weights are set in every epoch.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use openvalidators_subtensor::remote::testing::{Member, Subnet};

use crate::{
    live::{Network, ours},
    program::{get, side_by_side},
};

/// Longest without a new block: three of mainnet's, whose deadlines the validator has here too.
const HEARD_WITHIN: Duration = Duration::from_secs(36);
/// Whole epochs that are looked at.
const EPOCHS: u64 = 2;
/// As many of them instead, and by every kind of trouble; a minute and more for each.
const EPOCHS_VARIABLE: &str = "OPENVALIDATORS_DROPS_EPOCHS";
/// Between two looks at chain and metrics.
const LOOK: Duration = Duration::from_millis(100);

/// What happens to all connections, how often, and how many half-second blocks an epoch has meanwhile.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    kind: Kind,
    every: Duration,
    tempo: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Closed, as by a node that starts anew.
    Cut,
    /// Open, and nothing comes through any more, as behind a router that has forgotten them.
    HalfOpen,
}

/// Stands between a validator and a node, and spoils what passes.
struct Line {
    address: SocketAddr,
    open: Arc<Mutex<Vec<Passing>>>,
}

/// A connection from the validator, and whether its bytes are swallowed.
struct Passing {
    validator: TcpStream,
    swallowed: Arc<AtomicBool>,
}

impl Line {
    fn to(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, open) = (listener.local_addr().unwrap(), Arc::default());
        let line = Self { address, open };
        let open = line.open.clone();
        std::thread::spawn(move || {
            while let Ok((validator, _)) = listener.accept() {
                let Ok(node) = TcpStream::connect(node) else { continue };
                let swallowed = Arc::new(AtomicBool::new(false));
                for (from, to) in [(&validator, &node), (&node, &validator)] {
                    let (from, to, swallowed) = (from.try_clone().unwrap(), to.try_clone().unwrap(), swallowed.clone());
                    std::thread::spawn(move || pass(from, to, &swallowed));
                }
                open.lock().unwrap().push(Passing { validator, swallowed });
            }
        });
        line
    }

    /// To every connection there is; tells how many.
    fn spoil(&self, kind: Kind) -> usize {
        let open = std::mem::take(&mut *self.open.lock().unwrap());
        for Passing { validator, swallowed } in &open {
            match kind {
                Kind::Cut => drop(validator.shutdown(Shutdown::Both)),
                // It stays open for as long as the validator wants it to.
                Kind::HalfOpen => swallowed.store(true, Ordering::Relaxed),
            }
        }
        open.len()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, swallowed: &AtomicBool) {
    let mut bytes = [0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        if !swallowed.load(Ordering::Relaxed) && to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}

fn value(page: &str, name: &str) -> f64 {
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {page}"))
}

/// Runs a validator through it, from its first weights on; tells what was seen.
fn survive(trouble: &Trouble, epochs: u64) -> String {
    let mut network = Network::start(Some(Member::validator(ours(), 10_000)));
    network.node.subnet(|subnet| subnet.tempo = trouble.tempo);
    let line = Line::to(network.url.trim_start_matches("ws://").parse().unwrap());
    network.url = format!("ws://{}", line.address);
    let mut program = network.validate();
    let metrics = program.metrics_address();
    network.until("weights were set", |subnet| subnet.weights_of(&ours()).is_some());

    // The epoch, and the block of our latest weights.
    let now = || network.node.subnet(|subnet: &mut Subnet| (subnet.epoch_index(), subnet.members[0].last_update));
    let (begun, first) = now();
    let (mut spoilt_at, mut spoilt, mut longest) = (Instant::now(), 0, 0.0_f64);
    let mut set = BTreeSet::from([(begun, first)]);
    while now().0 <= begun + epochs {
        if spoilt_at.elapsed() >= trouble.every {
            spoilt_at = Instant::now();
            spoilt += line.spoil(trouble.kind);
        }
        let (epoch, update) = now();
        if set.iter().all(|(_, seen)| *seen != update) {
            set.insert((epoch, update));
        }
        let (_, page) = get(&metrics, "/metrics");
        longest = longest.max(value(&page, "openvalidators_chain_block_age_seconds"));
        std::thread::sleep(LOOK);
    }
    let with_weights: BTreeSet<u64> = set.iter().map(|(epoch, _)| *epoch).collect();
    let missed: Vec<_> = (begun..=begun + epochs).filter(|epoch| !with_weights.contains(epoch)).collect();
    assert!(missed.is_empty(), "{trouble:?}: no weights in {missed:?}, set in {set:?}, {spoilt} connections spoilt");
    assert!(longest < HEARD_WITHIN.as_secs_f64(), "{trouble:?}: {longest:.1} s without a block");
    assert!(spoilt > 0, "{trouble:?}: no connection was spoilt");
    program.terminate();
    assert!(program.finish().1.success());
    let sets = set.len();
    format!(
        "{trouble:?}: {spoilt} connections, {sets} weight sets in {} epochs, at most {longest:.1} s without a block",
        epochs + 1
    )
}

#[test]
fn weights_are_set_in_every_epoch_though_connections_drop_and_hang() {
    let trouble = |kind, seconds, tempo| Trouble { kind, every: Duration::from_secs(seconds), tempo };
    let mut all = vec![trouble(Kind::Cut, 1, 60), trouble(Kind::HalfOpen, 30, 80)];
    let asked = std::env::var(EPOCHS_VARIABLE).ok().map(|epochs| epochs.parse().unwrap());
    if asked.is_some() {
        all.extend([trouble(Kind::Cut, 5, 60), trouble(Kind::Cut, 30, 80)]);
    }
    for told in side_by_side(&all, all.len(), |trouble| survive(trouble, asked.unwrap_or(EPOCHS))) {
        println!("{told}");
    }
}
