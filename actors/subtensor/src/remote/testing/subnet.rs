//! A subnet behind the node double: members, epochs, and rows of weights, changed by the transactions that were taken.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use openvalidators_messages::Hotkey;
use scale_value::{Composite, Primitive, Value as Scale, ValueDef};
use serde_json::{Value, json};

use super::{
    metadata::{self, NEW_SPEC},
    node::{NodeDouble, Played, Taken},
};

/// What the runtime of mainnet says of itself in its columns.
const AXON_VERSION: u32 = 10_005_000;

/// A node with a subnet, for a validator to live on. Dropped, it is gone.
pub struct SubnetNode {
    node: NodeDouble,
}

/// A subnet by the epoch rule of 2026 (`LastEpochBlock`).
pub struct Subnet {
    /// Its number.
    pub netuid: u16,
    /// Blocks from one epoch to the next.
    pub tempo: u64,
    /// Stake that weights need, in rao.
    pub stake_threshold_rao: u64,
    /// Whether weights are committed first. The double cannot open a commit: whoever plays the beacon calls
    /// [`Subnet::reveal`].
    pub commit_reveal: bool,
    /// By uid.
    pub members: Vec<Member>,
    last_epoch: u64,
    epoch_index: u64,
    weights: BTreeMap<usize, Vec<(u16, u16)>>,
}

/// Who holds a uid.
#[derive(Clone, Debug)]
pub struct Member {
    /// The key.
    pub hotkey: Hotkey,
    /// Total stake.
    pub stake_rao: u64,
    /// Whether its weights count.
    pub permit: bool,
    /// Where it says it listens.
    pub axon: Option<SocketAddr>,
    /// The block of its latest weights.
    pub last_update: u64,
    /// The block it came in.
    pub registered_at: u64,
}

/// A transaction that the node took, as it decoded it by the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The call.
    pub call: String,
    /// Who signed it.
    pub signer: Hotkey,
    /// Every number of each argument, in order.
    pub arguments: BTreeMap<String, Vec<u64>>,
}

// === impl SubnetNode ===

impl SubnetNode {
    /// A node of the newer invented runtime, with a block every `block_time`. Needs a tokio runtime.
    pub async fn start(subnet: Subnet, block_time: Duration) -> Self {
        let node = NodeDouble::start(Played::new(NEW_SPEC, metadata::new()), Duration::ZERO).await;
        {
            let mut world = node.world.lock();
            world.subnet = Some(subnet);
            world.make_block();
        }
        Self { node: node.with_blocks(block_time) }
    }

    /// Its WebSocket address.
    #[must_use]
    pub fn url(&self) -> String {
        self.node.url()
    }

    /// The height.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.node.world.lock().head()
    }

    /// Connections taken so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.node.world.lock().connections
    }

    /// Closes the socket instead of answering this method, so many times.
    pub fn drop_sockets(&self, method: &'static str, times: u64) {
        self.node.world.lock().faults.drops = Some((method, times));
    }

    /// Every transaction taken so far.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.node.world.lock().taken.iter().map(Sent::from).collect()
    }

    /// Looks at the subnet, or changes it.
    ///
    /// # Panics
    /// Never: the node was started with one.
    pub fn subnet<T>(&self, look: impl FnOnce(&mut Subnet) -> T) -> T {
        look(self.node.world.lock().subnet.as_mut().expect("it was started with one"))
    }
}

// === impl Subnet ===

impl Subnet {
    /// With these members, in order of their uids.
    #[must_use]
    pub fn new(netuid: u16, tempo: u64, members: Vec<Member>) -> Self {
        Self {
            netuid,
            tempo,
            stake_threshold_rao: 0,
            commit_reveal: false,
            members,
            last_epoch: 0,
            epoch_index: 0,
            weights: BTreeMap::new(),
        }
    }

    /// A row of weights; nothing when none were set.
    #[must_use]
    pub fn weights_of(&self, hotkey: &Hotkey) -> Option<&[(u16, u16)]> {
        self.weights.get(&self.place(hotkey)?).map(Vec::as_slice)
    }

    /// What the runtime does when a round's signature comes: the row is stored.
    pub fn reveal(&mut self, hotkey: &Hotkey, row: Vec<(u16, u16)>) {
        if let Some(place) = self.place(hotkey) {
            self.weights.insert(place, row);
        }
    }

    /// Epochs so far.
    #[must_use]
    pub fn epoch_index(&self) -> u64 {
        self.epoch_index
    }

    fn place(&self, hotkey: &Hotkey) -> Option<usize> {
        self.members.iter().position(|member| member.hotkey == *hotkey)
    }

    /// Executes a transaction; the error is one that the runtime's metadata knows.
    pub(crate) fn apply(&mut self, taken: &Taken, block: u64) -> Result<(), &'static str> {
        let Sent { call, signer, arguments } = Sent::from(taken);
        let place = self.place(&signer).ok_or("NeuronNoValidatorPermit")?;
        match call.as_str() {
            "set_weights" | "set_mechanism_weights" => {
                if !self.members[place].permit {
                    return Err("NeuronNoValidatorPermit");
                }
                let words = |name: &str| arguments[name].iter().map(|number| *number as u16).collect::<Vec<_>>();
                self.weights.insert(place, words("dests").into_iter().zip(words("weights")).collect());
                self.members[place].last_update = block;
            }
            "commit_timelocked_mechanism_weights" if self.commit_reveal => self.members[place].last_update = block,
            "serve_axon" => {
                let ip = std::net::Ipv4Addr::from(arguments["ip"][0] as u32);
                self.members[place].axon = Some(SocketAddr::from((ip, arguments["port"][0] as u16)));
            }
            _ => {}
        }
        Ok(())
    }

    /// The epoch runs in its block.
    pub(crate) fn end_block(&mut self, block: u64) {
        if block - self.last_epoch >= self.tempo {
            (self.last_epoch, self.epoch_index) = (block, self.epoch_index + 1);
        }
    }

    /// As the runtime's function answers.
    pub(crate) fn columns(&self) -> Value {
        let of = |what: &dyn Fn(&Member) -> Value| self.members.iter().map(what).collect::<Vec<_>>();
        let zeros = of(&|_| json!(0));
        let axon = |member: &Member| match member.axon {
            Some(SocketAddr::V4(address)) => {
                json!({"block": 5, "version": AXON_VERSION, "ip": u32::from(*address.ip()),
                "port": address.port(), "ip_type": 4, "protocol": 4})
            }
            _ => Value::Null,
        };
        json!({
            "netuid": self.netuid, "owner_hotkey": Value::Null,
            "hotkeys": of(&|member| format!("0x{}", hex::encode(member.hotkey.0)).into()),
            "axons": of(&axon), "active": of(&|_| true.into()),
            "validator_permit": of(&|member| member.permit.into()),
            "last_update": of(&|member| member.last_update.into()),
            "emission": zeros, "dividends": zeros, "incentives": zeros, "consensus": zeros, "trust": [], "rank": [],
            "block_at_registration": of(&|member| member.registered_at.into()),
            "total_stake": of(&|member| member.stake_rao.into()),
        })
    }

    pub(crate) fn storage(&self) -> Vec<(&'static str, Vec<u64>, Value)> {
        let netuid = u64::from(self.netuid);
        let mut items = vec![
            ("Tempo", vec![netuid], json!(self.tempo)),
            ("LastEpochBlock", vec![netuid], json!(self.last_epoch)),
            ("SubnetEpochIndex", vec![netuid], json!(self.epoch_index)),
            ("MinAllowedWeights", vec![netuid], json!(1)),
            ("WeightsSetRateLimit", vec![netuid], json!(0)),
            ("CommitRevealWeightsEnabled", vec![netuid], json!(self.commit_reveal)),
            ("StakeThreshold", vec![], json!(self.stake_threshold_rao)),
        ];
        let rows = self.weights.iter().map(|(uid, row)| ("Weights", vec![netuid, *uid as u64], json!(row)));
        items.extend(rows);
        items
    }
}

// === impl Member ===

impl Member {
    /// Without stake, at this address.
    #[must_use]
    pub fn miner(hotkey: Hotkey, axon: SocketAddr) -> Self {
        Self { hotkey, stake_rao: 0, permit: false, axon: Some(axon), last_update: 1, registered_at: 1 }
    }

    /// With a permit, and stake in TAO.
    #[must_use]
    pub fn validator(hotkey: Hotkey, stake: u64) -> Self {
        let stake_rao = stake.saturating_mul(1_000_000_000);
        Self { hotkey, stake_rao, permit: true, axon: None, last_update: 1, registered_at: 1 }
    }
}

// === impl Sent ===

impl From<&Taken> for Sent {
    fn from(taken: &Taken) -> Self {
        let numbers = |(name, value): (&String, &Scale<()>)| {
            let mut found = Vec::new();
            collect(value, &mut found);
            (name.clone(), found)
        };
        Self {
            call: taken.call.clone(),
            signer: taken.signer,
            arguments: taken.arguments.iter().map(numbers).collect(),
        }
    }
}

/// The numbers of a value, whatever structs are around them.
fn collect(value: &Scale<()>, into: &mut Vec<u64>) {
    match &value.value {
        ValueDef::Primitive(Primitive::U128(number)) => into.push(*number as u64),
        ValueDef::Composite(Composite::Named(fields)) => fields.iter().for_each(|(_, value)| collect(value, into)),
        ValueDef::Composite(Composite::Unnamed(values)) => values.iter().for_each(|value| collect(value, into)),
        _ => {}
    }
}
