//! One block: what is due happens first (reveals, then the epoch), then the transactions.
//!
//! The order is that of `coinbase/block_step.rs` of the real chain, whose extrinsics also come after its initialisation.

use openvalidators_messages::Hotkey;
use openvalidators_runtime::Seed;
use rand::Rng;

use super::{
    calls::{Applied, Call, DispatchError, WeightVector},
    config::Rules,
    state::Subnet,
    yuma::{self, EpochInput, Seat},
};

impl Subnet {
    /// Makes the next block. The same state, rules, seed and transactions give the same block. The answers are in the
    /// order of the transactions.
    pub fn next_block(
        &mut self,
        rules: &Rules,
        seed: Seed,
        transactions: &[(Hotkey, Call)],
    ) -> Vec<Result<Applied, DispatchError>> {
        self.block += 1;
        self.pending_rao = self.pending_rao.saturating_add(rules.shared_rao_per_block);
        self.reveal_commits(rules);
        if self.epoch_is_due(rules) {
            if self.comes_late(rules, seed) {
                self.pending_epoch_at = self.block + 1;
            } else {
                self.run_epoch(rules);
                self.observe_weights();
            }
        }
        for (hotkey, call) in self.simulated_calls(rules, seed) {
            if let Err(error) = self.apply(rules, &hotkey, &call) {
                tracing::trace!(%hotkey, call = call.name(), ?error, "a simulated validator failed");
            }
        }
        transactions.iter().map(|(hotkey, call)| self.apply(rules, hotkey, call)).collect()
    }

    /// The block from which a commit included in block `inclusion` may be revealed: the start of its epoch as far as it
    /// can be foreseen, plus the delay. (The SDK computes a drand round from the same blocks.)
    #[must_use]
    pub fn reveal_block(&self, rules: &Rules, inclusion: u64) -> u64 {
        let tempo = rules.yuma.tempo;
        let planned = if self.pending_epoch_at > 0 { self.pending_epoch_at } else { self.last_epoch_block + tempo };
        let epoch = if planned <= inclusion { inclusion + tempo } else { planned };
        epoch + (rules.reveal_period_epochs - 1) * tempo + rules.reveal_delay_blocks
    }

    /// `reveal_crv3_commits_for_subnet`: takes the commits whose epoch has come, retries those that cannot be read yet,
    /// drops what is too old. A reveal that fails its checks is gone and nobody is told.
    fn reveal_commits(&mut self, rules: &Rules) {
        let epoch = self.epoch_with_lookahead(rules);
        let Some(committed_in) = epoch.checked_sub(rules.reveal_period_epochs) else { return };
        self.commits.retain(|&epoch, _| epoch >= committed_in);
        let Some(commits) = self.commits.remove(&committed_in) else { return };
        let mut unreadable = Vec::new();
        for commit in commits {
            if commit.reveal_block > self.block {
                unreadable.push(commit);
                continue;
            }
            let vector = WeightVector { uids: commit.uids, weights: commit.weights, version_key: commit.version_key };
            if let Err(error) = self.set_weights(rules, &commit.hotkey, &vector) {
                tracing::trace!(hotkey = %commit.hotkey, ?error, "a reveal failed");
            }
        }
        if !unreadable.is_empty() {
            self.commits.insert(committed_in, unreadable);
        }
    }

    /// Whether a due epoch is put off by a block, as when too many subnets are due in one.
    fn comes_late(&self, rules: &Rules, seed: Seed) -> bool {
        let odds = rules.late_epoch_probability;
        odds > 0.0 && seed.rng("late-epoch", &[self.block]).random_bool(odds)
    }

    fn run_epoch(&mut self, rules: &Rules) {
        let previous_epoch = (self.epoch_index > 0).then_some(self.last_epoch_block);
        self.last_epoch_block = self.block;
        self.pending_epoch_at = 0;
        self.epoch_index += 1;
        let emission_rao = std::mem::take(&mut self.pending_rao);

        let seats = self.members.iter().map(|member| Seat {
            stake: self.stake_of(&member.hotkey),
            validator_permit: member.validator_permit,
            last_update: member.last_update,
            registered_at: member.registered_at,
            earliest_commit: self.earliest_commit(rules, &member.hotkey),
            weights: &member.weights,
            bonds: &member.bonds,
        });
        let input = EpochInput {
            block: self.block,
            previous_epoch,
            owner: self.uid_of(&self.owner).map(usize::from),
            seats: seats.collect(),
            emission_rao,
        };
        let outcome = yuma::epoch(&rules.yuma, &input);
        for (member, seat) in self.members.iter_mut().zip(outcome) {
            member.active = seat.active;
            member.validator_permit = seat.validator_permit;
            member.consensus = yuma::to_u16(seat.consensus);
            member.incentive = yuma::to_u16(seat.incentive);
            member.dividends = yuma::to_u16(seat.dividends);
            member.validator_trust = yuma::to_u16(seat.validator_trust);
            member.emission_rao = seat.server_rao.saturating_add(seat.validator_rao);
            member.bonds = seat.bonds;
        }
    }

    /// The block of a hotkey's earliest commit that has not expired.
    fn earliest_commit(&self, rules: &Rules, hotkey: &Hotkey) -> Option<u64> {
        let live = |epoch: u64| self.epoch_index <= epoch + rules.reveal_period_epochs;
        self.commits
            .iter()
            .filter(|(epoch, _)| live(**epoch))
            .flat_map(|(_, commits)| commits)
            .filter(|commit| commit.hotkey == *hotkey)
            .map(|commit| commit.block)
            .min()
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
