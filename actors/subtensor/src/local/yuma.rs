//! Yuma consensus: what one epoch makes of stake, weights and bonds.
//!
//! Pure: numbers in, numbers out. The rules are those of `epoch_mechanism` in `pallets/subtensor/src/epoch/run_epoch.rs`
//! of opentensor/subtensor at spec version 425, the sparse path that runs in production. The chain computes in fixed
//! point; f64, cut off to its 32 fractional bits after each product and quotient, gives its u16 outputs to within 1 and
//! its emissions to within 2 rao in 10⁹.

mod rows;

use serde::{Deserialize, Serialize};

use rows::{Row, fixed};

/// Everything an epoch reads, all of it at one block.
#[derive(Clone, Debug)]
pub struct EpochInput<'a> {
    /// The block the epoch runs in.
    pub block: u64,
    /// The block of the epoch before it, if any.
    pub previous_epoch: Option<u64>,
    /// The subnet owner's place.
    pub owner: Option<usize>,
    /// Every place, in order of uid.
    pub seats: Vec<Seat<'a>>,
    /// What miners and validators share, in rao.
    pub emission_rao: u64,
}

/// What an epoch reads of one place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seat<'a> {
    /// Total stake; only its proportion counts.
    pub stake: f64,
    /// The permit it holds now, given by the epoch before.
    pub validator_permit: bool,
    /// The block of its latest weights or commit; its registration at first.
    pub last_update: u64,
    /// When its holder came.
    pub registered_at: u64,
    /// The block of its earliest commit that is neither revealed nor expired.
    pub earliest_commit: Option<u64>,
    /// `(uid, weight)`, the largest 65535.
    pub weights: &'a [(u16, u16)],
    /// `(uid, bond)`, as the epoch before stored them.
    pub bonds: &'a [(u16, u16)],
}

/// The subnet's hyperparameters that Yuma reads. [`YumaRules::default`] is a fresh subnet of mainnet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct YumaRules {
    /// Blocks from one epoch to the next.
    pub tempo: u64,
    /// Share of stake that makes a majority.
    pub kappa: f64,
    /// Most permits given.
    pub max_validators: usize,
    /// Stake below which a place counts as having none.
    pub stake_threshold: f64,
    /// Blocks without an update after which a validator's stake no longer counts.
    pub activity_cutoff: u64,
    /// Whether weights are committed first: masks a column whose holder came after the commit.
    pub commit_reveal: bool,
    /// How far bonds follow the clipped weights instead of the stated ones, in 0..=1.
    pub bonds_penalty: f64,
    /// Share of the old bonds that stays at each epoch, in 0..=1.
    pub bonds_moving_average: f64,
    /// Bonds per weight instead of per weight and stake; the storage default is off, every new subnet has it on.
    pub yuma3: bool,
    /// A moving average for each bond of its own; only with `yuma3`.
    pub liquid_alpha: Option<LiquidAlpha>,
}

/// Bounds and slope of the bond's own moving average (`compute_liquid_alpha_values_sparse`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiquidAlpha {
    /// Smallest share of the new bond.
    pub low: f64,
    /// Largest share of the new bond.
    pub high: f64,
    /// In hundredths, as the chain stores it.
    pub steepness: f64,
}

/// What an epoch makes of one place. Shares are in 0..=1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeatOutcome {
    /// Whether it updated within the activity cut-off.
    pub active: bool,
    /// The permit for the next epoch.
    pub validator_permit: bool,
    /// Its share of all stake that counts.
    pub stake_share: f64,
    /// The weight the majority agrees on.
    pub consensus: f64,
    /// Its share of what miners earn.
    pub incentive: f64,
    /// Its share of what validators earn.
    pub dividends: f64,
    /// How much of its weights the consensus accepted.
    pub validator_trust: f64,
    /// What it earns as a miner.
    pub server_rao: u64,
    /// What it earns as a validator.
    pub validator_rao: u64,
    /// Bonds to store.
    pub bonds: Vec<(u16, u16)>,
}

/// Runs one epoch. The outcome has one entry for each seat. Weights and bonds that name a uid beyond the last seat are
/// ignored.
#[must_use]
pub fn epoch(rules: &YumaRules, input: &EpochInput<'_>) -> Vec<SeatOutcome> {
    let seats = &input.seats;
    let n = seats.len();
    let owned = |uid: usize| input.owner == Some(uid);

    let active: Vec<bool> =
        seats.iter().map(|seat| seat.last_update.saturating_add(rules.activity_cutoff) >= input.block).collect();
    let mut stake: Vec<f64> = seats
        .iter()
        .enumerate()
        .map(|(uid, seat)| if !owned(uid) && seat.stake < rules.stake_threshold { 0.0 } else { seat.stake.max(0.0) })
        .collect();
    normalise(&mut stake);

    // Weights are judged by the permits of the epoch before; those made here count in the next.
    let permits: Vec<bool> = (0..n).map(|uid| seats[uid].validator_permit || owned(uid)).collect();
    let next_permits: Vec<bool> = {
        let top = largest_nonzero(&stake, rules.max_validators);
        (0..n).map(|uid| top[uid] || owned(uid)).collect()
    };
    let mut active_stake: Vec<f64> =
        (0..n).map(|uid| if active[uid] && permits[uid] { stake[uid] } else { 0.0 }).collect();
    normalise(&mut active_stake);

    let weights = masked_weights(rules, input, &permits);
    let consensus: Vec<f64> =
        rows::columns(&weights, n).iter().map(|column| majority_weight(column, &active_stake, rules.kappa)).collect();
    let clipped: Vec<Row> = weights.iter().map(|row| rows::clip(row, &consensus)).collect();
    let validator_trust: Vec<f64> = clipped.iter().map(rows::sum).collect();
    let mut incentive = rows::stake_weighted_sum(&clipped, &active_stake, n);
    normalise(&mut incentive);

    let weights_for_bonds = rows::interpolate(&weights, &clipped, n, rules.bonds_penalty);
    let old_bonds = kept_bonds(rules, input);
    let (dividends, bonds) = if rules.yuma3 {
        yuma3_bonds(rules, &weights_for_bonds, &old_bonds, &consensus, &active_stake, &incentive)
    } else {
        yuma2_bonds(rules, &weights_for_bonds, &old_bonds, &active_stake, &incentive)
    };

    let (server_share, validator_share) = emission_shares(&incentive, &dividends, &active_stake, &stake);
    (0..n)
        .map(|uid| SeatOutcome {
            active: active[uid],
            validator_permit: next_permits[uid],
            stake_share: stake[uid],
            consensus: consensus[uid],
            incentive: incentive[uid],
            dividends: dividends[uid],
            validator_trust: validator_trust[uid],
            server_rao: share_of(input.emission_rao, server_share[uid]),
            validator_rao: share_of(input.emission_rao, validator_share[uid]),
            bonds: stored_bonds(&bonds[uid], next_permits[uid]),
        })
        .collect()
}

/// A share in 0..=1 as the chain stores it: rounded down, so that a sum that should be 1 often comes to 65534.
#[must_use]
pub fn to_u16(share: f64) -> u16 {
    // `as` saturates and takes NaN to 0.
    (share * f64::from(u16::MAX)).floor() as u16
}

// === weights ===

/// Rows of permitted validators without what the chain does not count, each scaled to sum 1.
fn masked_weights(rules: &YumaRules, input: &EpochInput<'_>, permits: &[bool]) -> Vec<Row> {
    let seats = &input.seats;
    let counts = |i: usize, j: usize| {
        let own = i == j && input.owner != Some(i);
        let stale = seats[i].last_update <= seats[j].registered_at;
        let committed_before =
            rules.commit_reveal && seats[i].earliest_commit.is_some_and(|committed| committed < seats[j].registered_at);
        !own && !stale && !committed_before
    };
    (0..seats.len())
        .map(|i| {
            if !permits[i] {
                return Row::new();
            }
            let mut row: Row = rows::parse(seats[i].weights, seats.len());
            row.retain(|&(j, _)| counts(i, j));
            rows::normalise(&mut row);
            row
        })
        .collect()
}

/// The largest weight in a column (0 included) that validators with at least `kappa` of the stake give or exceed.
fn majority_weight(column: &[(usize, f64)], stake: &[f64], kappa: f64) -> f64 {
    let mut votes: Vec<(f64, f64)> =
        column.iter().filter(|(i, _)| stake[*i] > 0.0).map(|&(i, weight)| (weight, stake[i])).collect();
    votes.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut support = 0.0;
    for (weight, stake) in votes {
        support += stake;
        if support >= kappa {
            return weight;
        }
    }
    0.0
}

/// Marks the `count` largest numbers above zero; between equals the later one wins.
fn largest_nonzero(values: &[f64], count: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut chosen = vec![false; values.len()];
    for &index in order.iter().rev().take(count) {
        chosen[index] = values[index] > 0.0;
    }
    chosen
}

// === bonds ===

/// Stored bonds, without those to places that changed hands since the last epoch.
fn kept_bonds(rules: &YumaRules, input: &EpochInput<'_>) -> Vec<Row> {
    let last_step = match input.previous_epoch {
        Some(block) => block.saturating_add(1),
        None => input.block.saturating_sub(rules.tempo),
    };
    let kept = |j: usize| last_step > input.seats[j].registered_at;
    input
        .seats
        .iter()
        .map(|seat| {
            let mut row = rows::parse(seat.bonds, input.seats.len());
            row.retain(|&(j, _)| kept(j));
            row
        })
        .collect()
}

/// Yuma 3: a bond follows the weight alone; stake enters with the dividends. Returns dividends and bonds in 0..=1.
fn yuma3_bonds(
    rules: &YumaRules,
    weights: &[Row],
    old: &[Row],
    consensus: &[f64],
    stake: &[f64],
    incentive: &[f64],
) -> (Vec<f64>, Vec<Row>) {
    let n = stake.len();
    let old: Vec<Row> = old.iter().map(|row| rows::scale(row, 1.0 / f64::from(u16::MAX))).collect();
    let liquid = rules.liquid_alpha.filter(|_| consensus.iter().any(|&c| c > 0.0));
    let bonds: Vec<Row> = match liquid {
        Some(liquid) => weights.iter().zip(&old).map(|(new, old)| liquid.average(new, old, consensus)).collect(),
        None => rows::moving_average(weights, &old, n, rules.bonds_moving_average),
    };
    let shares = rows::normalise_columns(&bonds, n);
    let mut dividends: Vec<f64> = shares
        .iter()
        .zip(stake)
        .map(|(row, stake)| fixed(stake * row.iter().map(|&(j, share)| fixed(share * incentive[j])).sum::<f64>()))
        .collect();
    normalise(&mut dividends);
    (dividends, bonds)
}

/// Yuma 2: a bond is a share of the column, weight times stake. Returns dividends, and bonds scaled so that the largest
/// of each column is 1.
fn yuma2_bonds(
    rules: &YumaRules,
    weights: &[Row],
    old: &[Row],
    stake: &[f64],
    incentive: &[f64],
) -> (Vec<f64>, Vec<Row>) {
    let n = stake.len();
    let old = rows::normalise_columns(old, n);
    let delta: Vec<Row> = weights.iter().zip(stake).map(|(row, stake)| rows::scale(row, *stake)).collect();
    let delta = rows::normalise_columns(&delta, n);
    let bonds = rows::normalise_columns(&rows::moving_average(&delta, &old, n, rules.bonds_moving_average), n);
    let mut dividends: Vec<f64> =
        bonds.iter().map(|row| row.iter().map(|&(j, share)| fixed(share * incentive[j])).sum()).collect();
    normalise(&mut dividends);
    (dividends, rows::upscale_columns(&bonds, n))
}

/// Bonds as stored; without the next permit none are kept.
fn stored_bonds(bonds: &Row, permit: bool) -> Vec<(u16, u16)> {
    if !permit {
        return Vec::new();
    }
    bonds.iter().filter_map(|&(j, bond)| Some((u16::try_from(j).ok()?, to_u16(bond)))).collect()
}

// === emission ===

/// How miners and validators divide the emission. When nobody earned anything, validators are paid by stake.
fn emission_shares(incentive: &[f64], dividends: &[f64], active_stake: &[f64], stake: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let total: f64 = incentive.iter().chain(dividends).sum();
    if total > 0.0 {
        let part = |shares: &[f64]| shares.iter().map(|share| fixed(share / total)).collect();
        return (part(incentive), part(dividends));
    }
    let by_stake = if active_stake.iter().any(|&s| s > 0.0) { active_stake } else { stake };
    (incentive.to_vec(), by_stake.to_vec())
}

fn share_of(rao: u64, share: f64) -> u64 {
    (rao as f64 * share).floor() as u64
}

/// Scales to sum 1; leaves all zeros as they are.
fn normalise(values: &mut [f64]) {
    let sum: f64 = values.iter().sum();
    if sum > 0.0 {
        values.iter_mut().for_each(|value| *value = fixed(*value / sum));
    }
}

// === impl YumaRules ===

/// Activity factor of a fresh subnet: the cut-off is this many thousandths of the tempo.
const ACTIVITY_CUTOFF_MILLI_TEMPOS: u64 = 13_889;

impl YumaRules {
    /// A fresh subnet with another tempo; the activity cut-off follows the tempo, as on the chain.
    #[must_use]
    pub fn with_tempo(tempo: u64) -> Self {
        Self {
            tempo,
            kappa: fixed(32_767.0 / 65_535.0),
            max_validators: 64,
            stake_threshold: 0.0,
            activity_cutoff: (ACTIVITY_CUTOFF_MILLI_TEMPOS.saturating_mul(tempo) / 1000).max(1),
            commit_reveal: true,
            bonds_penalty: 1.0,
            bonds_moving_average: 0.9,
            yuma3: true,
            liquid_alpha: None,
        }
    }
}

impl Default for YumaRules {
    fn default() -> Self {
        Self::with_tempo(360)
    }
}

// === impl LiquidAlpha ===

impl Default for LiquidAlpha {
    fn default() -> Self {
        Self { low: 45_875.0 / 65_535.0, high: 58_982.0 / 65_535.0, steepness: 1000.0 }
    }
}

impl LiquidAlpha {
    /// A row of bonds, each with its own moving average. A bond that the new row does not name is dropped at once: the
    /// chain's `mat_ema_alpha_sparse` walks the new row only.
    fn average(&self, new: &Row, old: &Row, consensus: &[f64]) -> Row {
        new.iter()
            .map(|&(j, weight)| {
                let bond = rows::get(old, j);
                let alpha = fixed(self.alpha(weight, bond, consensus[j]));
                (j, (fixed((1.0 - alpha) * bond) + fixed(alpha * weight)).min(1.0))
            })
            .filter(|&(_, bond)| bond > 0.0)
            .collect()
    }

    fn alpha(&self, weight: f64, bond: f64, consensus: f64) -> f64 {
        let distance = if weight >= bond { weight - consensus } else { bond - weight }.clamp(0.0, 1.0);
        let sigmoid = 1.0 / (1.0 + (-(self.steepness / 100.0) * (distance - 0.5)).exp());
        let (low, high) = (self.low.min(self.high), self.low.max(self.high));
        (self.low + sigmoid * (self.high - self.low)).clamp(low, high)
    }
}

#[cfg(test)]
mod tests;
