//! When a subnet's epochs run, by the rule of its runtime.

use openvalidators_messages::{Block, Netuid};

/// Where a block lies among the epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochPosition {
    /// The block of the latest epoch; 0 before the first.
    pub(crate) last_epoch_block: Block,
    /// How many have run; timelocked commits are keyed by it.
    pub(crate) epoch_index: u64,
}

/// The rule of runtimes without `LastEpochBlock` (before spec 4xx): an epoch runs in each block whose height, the
/// subnet's number and 1 added, leaves the remainder `tempo` when divided by `tempo + 1` (`blocks_until_next_epoch` and
/// `get_epoch_index` of the pallet).
pub(crate) fn by_modulo(netuid: Netuid, tempo: u64, block: u64) -> EpochPosition {
    if tempo == 0 {
        return EpochPosition { last_epoch_block: Block(0), epoch_index: 0 };
    }
    let (shifted, period) = (block.saturating_add(u64::from(netuid.0) + 1), tempo.saturating_add(1));
    let since_last = shifted.saturating_add(1) % period;
    EpochPosition { last_epoch_block: Block(block.saturating_sub(since_last)), epoch_index: shifted / period }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pallet's own formula for the blocks that are left.
    fn blocks_until(netuid: u64, tempo: u64, block: u64) -> u64 {
        tempo - (block + netuid + 1) % (tempo + 1)
    }

    #[test]
    fn the_modulo_rule_agrees_with_the_blocks_that_are_left() {
        for (netuid, tempo) in [(1_u16, 360_u64), (18, 99), (64, 10)] {
            let mut last = 0;
            for block in 0..2_000 {
                if blocks_until(u64::from(netuid), tempo, block) == 0 {
                    last = block;
                }
                let position = by_modulo(Netuid(netuid), tempo, block);
                if last > 0 {
                    assert_eq!(position.last_epoch_block, Block(last), "netuid {netuid} block {block}");
                }
                // The index is raised by the block after an epoch.
                assert_eq!(position.epoch_index, (block + u64::from(netuid) + 1) / (tempo + 1));
            }
        }
    }

    #[test]
    fn extremes_are_survived() {
        assert_eq!(by_modulo(Netuid(1), 0, 77).last_epoch_block, Block(0));
        let position = by_modulo(Netuid(u16::MAX), u64::MAX, u64::MAX);
        assert_eq!(position.epoch_index, 1);
    }
}
