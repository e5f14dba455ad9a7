//! A second validator with our hotkey, on another host: each would overwrite the other's weights, and count the other's epoch
//! as its own. The lock of the state directory cannot see it. The chain can: our uid's last update moves without us.
//!
//! So weights wait one tempo after a start, watching, unless we were here a moment ago; and from the first update that is
//! not ours on, none are set until somebody has looked and starts the validator again.

use openvalidators_messages::{Block, Hotkey, Metagraph, ledger::Settlement};

use crate::{
    WeightsConfig,
    duty::{Attempt, Wait},
};

/// Since when this life watches the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Updates after this block are ours, or somebody else's.
    since: Block,
    /// No weights before this block.
    until: Block,
}

impl Guard {
    /// Begins to watch at the block of a metagraph. A restart within a tempo of our latest attempt is a quick one: it watches
    /// since that attempt, and waits for nothing.
    #[must_use]
    pub fn new(metagraph: &Metagraph, attempts: &[Attempt]) -> Self {
        let (now, tempo) = (metagraph.block, metagraph.hyperparameters.tempo);
        let latest = attempts.iter().map(|attempt| attempt.intent.block).filter(|block| *block <= now).max();
        match latest {
            Some(latest) if latest.0 + tempo >= now.0 => Self { since: latest, until: now },
            _ => Self { since: now, until: Block(now.0 + tempo) },
        }
    }

    /// Why weights must not be set at this block, if so.
    #[must_use]
    pub fn look(
        &self,
        metagraph: &Metagraph,
        own: &Hotkey,
        attempts: &[Attempt],
        config: &WeightsConfig,
    ) -> Option<Wait> {
        if !config.same_key_guard {
            return None;
        }
        let neuron = metagraph.uid_of(own).and_then(|uid| metagraph.neuron(uid))?;
        let update = neuron.last_update;
        // A new uid's last update is its registration.
        if update > self.since
            && update > neuron.registered_at
            && !attempts.iter().any(|ours| made(ours, update, config))
        {
            return Some(Wait::AnotherValidator);
        }
        (metagraph.block < self.until).then_some(Wait::Watching)
    }
}

/// Whether an update may be of this attempt. Where the block of its inclusion is known, no later one is; a refused one is given
/// the benefit of the doubt, for weights that stop by mistake cost more than an epoch with a second validator.
fn made(attempt: &Attempt, update: Block, config: &WeightsConfig) -> bool {
    let last = match attempt.settlement {
        Settlement::Superseded => return false,
        Settlement::Committed { block, .. } | Settlement::Confirmed { block } => block,
        Settlement::Open | Settlement::Failed { .. } => Block(u64::MAX),
    };
    let begin = attempt.intent.block;
    update > begin && update <= last && update.0 <= begin.0 + config.submission_lifetime_blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{EPOCH_START, OWN, TEMPO, metagraph};
    use openvalidators_messages::{Sequence, ledger::WeightIntent};

    const NOW: u64 = EPOCH_START + 100;

    fn at(block: u64, last_update: u64) -> Metagraph {
        let mut metagraph = metagraph(4, block);
        metagraph.neurons[0].last_update = Block(last_update);
        metagraph
    }

    fn attempt(block: u64, settlement: Settlement) -> Attempt {
        let intent = WeightIntent {
            block: Block(block),
            epoch_index: 10,
            after_step: Sequence(1),
            uids: vec![],
            hotkeys: vec![],
            weights: vec![],
            version_key: 0,
            salt: None,
            basis: None,
        };
        Attempt { id: None, intent, settlement, saved: true, revealed_at: None }
    }

    fn look(guard: Guard, block: u64, last_update: u64, attempts: &[Attempt]) -> Option<Wait> {
        let config = WeightsConfig { same_key_guard: true, ..WeightsConfig::default() };
        guard.look(&at(block, last_update), &OWN, attempts, &config)
    }

    #[test]
    fn a_start_watches_for_a_tempo_and_a_quick_restart_for_none() {
        let before = EPOCH_START - 180;
        let fresh = Guard::new(&at(NOW, before), &[]);
        assert_eq!(look(fresh, NOW, before, &[]), Some(Wait::Watching));
        assert_eq!(look(fresh, NOW + TEMPO - 1, before, &[]), Some(Wait::Watching));
        assert_eq!(look(fresh, NOW + TEMPO, before, &[]), None);
        let ours = [attempt(before - 1, Settlement::Confirmed { block: Block(before) })];
        let quick = Guard::new(&at(NOW, before), &ours);
        assert_eq!(look(quick, NOW, before, &ours), None);
        let later = NOW + 2 * TEMPO;
        assert_eq!(look(Guard::new(&at(later, before), &ours), later, before, &ours), Some(Wait::Watching));
        let off = WeightsConfig { same_key_guard: false, ..WeightsConfig::default() };
        assert_eq!(fresh.look(&at(NOW, before), &OWN, &[], &off), None);
    }

    #[test]
    fn an_update_that_is_not_ours_stops_weights_for_good() {
        let before = EPOCH_START - 180;
        let guard = Guard::new(&at(NOW, before), &[]);
        assert_eq!(look(guard, NOW + 9, NOW + 5, &[]), Some(Wait::AnotherValidator));
        assert_eq!(look(guard, NOW + 9 * TEMPO, NOW + 5, &[]), Some(Wait::AnotherValidator), "whatever comes after");
        // Since the attempt before a quick restart, too.
        let ours = [attempt(before - 1, Settlement::Committed { block: Block(before), reveal_epoch: 10 })];
        assert_eq!(look(Guard::new(&at(NOW, NOW - 5), &ours), NOW, NOW - 5, &ours), Some(Wait::AnotherValidator));
        // Right after ours: two validators set at the same moment of an epoch.
        assert_eq!(
            look(guard, NOW + TEMPO, NOW + 8, &[attempt(NOW + 5, Settlement::Confirmed { block: Block(NOW + 6) })]),
            Some(Wait::AnotherValidator)
        );
    }

    #[test]
    fn our_own_updates_and_a_registration_are_no_reason() {
        let guard = Guard::new(&at(NOW, EPOCH_START - 180), &[]);
        let then = NOW + TEMPO;
        for settlement in [
            Settlement::Open,
            Settlement::Confirmed { block: Block(then + 1) },
            Settlement::Committed { block: Block(then + 1), reveal_epoch: 12 },
            Settlement::Failed { reason: "no answer".into() },
        ] {
            assert_eq!(look(guard, then + 3, then + 1, &[attempt(then, settlement)]), None);
        }
        let mut registered = at(NOW + TEMPO, NOW + 5);
        registered.neurons[0].registered_at = Block(NOW + 5);
        let config = WeightsConfig { same_key_guard: true, ..WeightsConfig::default() };
        assert_eq!(guard.look(&registered, &OWN, &[], &config), None);
    }
}
