//! A subnet behind the node double: members, epochs, and rows of weights, changed by the transactions that were taken.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use openvalidators_messages::{Hotkey, Netuid, Uid};
use scale_value::{Composite, Primitive, Value as Scale, ValueDef};
use serde_json::{Value, json};

use super::{
    metadata::{self, NEW_SPEC, OLD_SPEC},
    node::{NodeDouble, Played, Taken},
};
use crate::{
    commit_reveal::{HashReveal, Mechanism},
    remote::epoch::by_modulo,
};

/// What the runtime of mainnet says of itself in its columns.
const AXON_VERSION: u32 = 10_005_000;

/// A node with a subnet, for a validator to live on. Dropped, it is gone.
pub struct SubnetNode {
    node: NodeDouble,
}

/// A subnet by the epoch rule of its node's runtime: recorded epochs (`LastEpochBlock`), or the modulo rule.
pub struct Subnet {
    /// Its number.
    pub netuid: u16,
    /// Blocks from one epoch to the next.
    pub tempo: u64,
    /// Stake that weights need, in rao.
    pub stake_threshold_rao: u64,
    /// Whether weights are committed first. A hash waits for its reveal, as in the older runtime. The double cannot open a
    /// timelocked commit: whoever plays the beacon calls [`Subnet::reveal`].
    pub commit_reveal: bool,
    /// By uid.
    pub members: Vec<Member>,
    last_epoch: u64,
    epoch_index: u64,
    /// By the older runtime: epochs by the modulo rule, commits as hashes.
    is_old: bool,
    weights: BTreeMap<usize, Vec<(u16, u16)>>,
    /// Hashes and the epochs they were committed in.
    hashes: BTreeMap<usize, VecDeque<(Vec<u64>, u64)>>,
}

/// Who holds a uid.
#[derive(Clone, Debug)]
pub struct Member {
    /// The key.
    pub hotkey: Hotkey,
    /// Who owns it.
    pub coldkey: Hotkey,
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
        Self::of(Played::new(NEW_SPEC, metadata::new()), subnet, block_time).await
    }

    /// A node of the older one: neurons in rows, epochs by the modulo rule, commits as hashes.
    pub async fn start_old(subnet: Subnet, block_time: Duration) -> Self {
        let subnet = Subnet { is_old: true, ..subnet };
        Self::of(Played::new(OLD_SPEC, metadata::old()), subnet, block_time).await
    }

    /// A node of a chain that is not Bittensor's: no subnet is on it.
    pub async fn start_foreign(block_time: Duration) -> Self {
        Self { node: NodeDouble::start(Played::new(NEW_SPEC, metadata::foreign()), block_time).await }
    }

    async fn of(runtime: Arc<Played>, subnet: Subnet, block_time: Duration) -> Self {
        let node = NodeDouble::start(runtime, Duration::ZERO).await;
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

    /// Answers this method with this, whatever is asked.
    pub fn lie(&self, method: &'static str, answer: Value) {
        self.node.world.lock().faults.lies.insert(method, answer);
    }

    /// Every transaction taken so far.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.node.world.lock().taken.iter().map(Sent::from).collect()
    }

    /// Looks at the subnet, or changes it.
    ///
    /// # Panics
    /// On a chain that is not Bittensor's.
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
            is_old: false,
            weights: BTreeMap::new(),
            hashes: BTreeMap::new(),
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
            "commit_weights" if self.commit_reveal => {
                self.members[place].last_update = block;
                let epoch = self.epoch_at(block);
                self.hashes.entry(place).or_default().push_back((arguments["commit_hash"].clone(), epoch));
            }
            "reveal_weights" => self.open(place, &arguments, block)?,
            "serve_axon" => {
                let ip = std::net::Ipv4Addr::from(arguments["ip"][0] as u32);
                self.members[place].axon = Some(SocketAddr::from((ip, arguments["port"][0] as u16)));
            }
            _ => {}
        }
        Ok(())
    }

    /// As `do_reveal_weights` of the pallet (spec 218), its period one epoch.
    fn open(&mut self, place: usize, said: &BTreeMap<String, Vec<u64>>, block: u64) -> Result<(), &'static str> {
        let words = |name: &str| said[name].iter().map(|number| *number as u16).collect::<Vec<_>>();
        let reveal = HashReveal {
            hotkey: self.members[place].hotkey,
            mechanism: Mechanism { netuid: Netuid(self.netuid), index: 0 },
            uids: words("uids").into_iter().map(Uid).collect(),
            weights: words("values"),
            salt: words("salt"),
            version_key: said["version_key"][0],
        };
        let hash = reveal.commit_hash().map(u64::from).to_vec();
        let now = self.epoch_at(block);
        let commits = self.hashes.entry(place).or_default();
        let found = commits.iter().position(|(committed, _)| *committed == hash);
        let has_expired = |(_, epoch): &(Vec<u64>, u64)| now > epoch + 1;
        match found.map(|found| (found, has_expired(&commits[found]), commits[found].1)) {
            None if commits.iter().all(has_expired) => return Err("NoWeightsCommitFound"),
            None => return Err("InvalidRevealCommitHashNotMatch"),
            Some((_, true, _)) => return Err("ExpiredWeightCommit"),
            Some((_, _, epoch)) if now < epoch + 1 => return Err("RevealTooEarly"),
            Some((found, ..)) => commits.drain(..=found),
        };
        let row = reveal.uids.iter().map(|uid| uid.0).zip(reveal.weights).collect();
        self.weights.insert(place, row);
        Ok(())
    }

    fn epoch_at(&self, block: u64) -> u64 {
        if self.is_old { by_modulo(Netuid(self.netuid), self.tempo, block).epoch_index } else { self.epoch_index }
    }

    /// The epoch runs in its block.
    pub(crate) fn end_block(&mut self, block: u64) {
        if self.is_old {
            self.epoch_index = self.epoch_at(block);
        } else if block - self.last_epoch >= self.tempo {
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
            "coldkeys": of(&|member| format!("0x{}", hex::encode(member.coldkey.0)).into()),
            "axons": of(&axon), "active": of(&|_| true.into()),
            "validator_permit": of(&|member| member.permit.into()),
            "last_update": of(&|member| member.last_update.into()),
            "emission": zeros, "dividends": zeros, "incentives": zeros, "consensus": zeros, "trust": [], "rank": [],
            "block_at_registration": of(&|member| member.registered_at.into()),
            "total_stake": of(&|member| member.stake_rao.into()),
        })
    }

    /// As the older runtime's function answers.
    pub(crate) fn rows(&self) -> Value {
        let row = |(uid, member): (usize, &Member)| {
            let (ip, port) = match member.axon {
                Some(SocketAddr::V4(address)) => (u32::from(*address.ip()), address.port()),
                _ => (0, 0),
            };
            let axon = json!({"block": 5, "version": AXON_VERSION, "ip": ip, "port": port, "ip_type": 4, "protocol": 4,
                "placeholder1": 0, "placeholder2": 0});
            let hotkey = format!("0x{}", hex::encode(member.hotkey.0));
            let coldkey = format!("0x{}", hex::encode(member.coldkey.0));
            json!({"hotkey": hotkey, "coldkey": coldkey, "uid": uid, "active": true, "axon_info": axon,
                "stake": [[hotkey, member.stake_rao]], "emission": 0, "incentive": 0, "consensus": 0,
                "validator_trust": 0, "dividends": 0, "last_update": member.last_update,
                "validator_permit": member.permit})
        };
        self.members.iter().enumerate().map(row).collect()
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
        let blocks = self.members.iter().enumerate();
        items.extend(
            blocks.map(|(uid, member)| ("BlockAtRegistration", vec![netuid, uid as u64], json!(member.registered_at))),
        );
        items
    }
}

// === impl Member ===

impl Member {
    /// Without stake, at this address.
    #[must_use]
    pub fn miner(hotkey: Hotkey, axon: SocketAddr) -> Self {
        Self {
            hotkey,
            coldkey: hotkey,
            stake_rao: 0,
            permit: false,
            axon: Some(axon),
            last_update: 1,
            registered_at: 1,
        }
    }

    /// With a permit, and stake in TAO.
    #[must_use]
    pub fn validator(hotkey: Hotkey, stake: u64) -> Self {
        let stake_rao = stake.saturating_mul(1_000_000_000);
        Self { hotkey, coldkey: hotkey, stake_rao, permit: true, axon: None, last_update: 1, registered_at: 1 }
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
