//! When a commit opens: the block that begins its reveal epoch, and the drand round to encrypt it to.
//!
//! The transaction is taken to land in the block after the head. Encrypted to a round too early, everybody can copy the
//! weights before they count; too late, the chain finds no signature in the reveal epoch and the commit is lost. So the
//! round comes three blocks after that epoch begins, as in the SDK.

use openvalidators_messages::{Block, Netuid};

/// Unix time of quicknet's round 1.
const GENESIS_UNIX_SECONDS: f64 = 1_692_803_367.0;
const ROUND_SECONDS: f64 = 3.0;
/// Blocks from the start of the reveal epoch to the round: the chain's own drand worker has seen it by then.
const SAFETY_BLOCKS: u64 = 3;
/// `MAX_TEMPO` of the pallet: a subnet whose last step is longer ago than this runs an epoch whatever its schedule.
const MAX_TEMPO: u64 = 50_400;
/// `MAX_COMMIT_REVEAL_PEROIDS` of the pallet.
const MAX_REVEAL_PERIOD: u64 = 100;
/// No chain of this kind makes blocks slower.
const MAX_BLOCK_SECONDS: f64 = 600.0;

/// How a runtime places its epochs. Runtimes whose metadata has `LastEpochBlock` (May 2026 on) count from the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochRule {
    /// An epoch runs `tempo` blocks after the last one (`should_run_epoch`).
    Counted {
        /// `LastEpochBlock`.
        last_epoch: Block,
        /// `PendingEpochAt`: an epoch called for, or put off, to this block; 0 is none.
        pending_epoch: Block,
        /// `BlocksSinceLastStep`.
        blocks_since_last_step: u64,
    },
    /// An epoch runs every `tempo + 1` blocks, at a place that depends on the netuid.
    Modulo {
        /// The subnet.
        netuid: Netuid,
    },
}

/// The subnet's settings that say when a commit opens, all read at the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevealSchedule {
    /// By which rule epochs come.
    pub rule: EpochRule,
    /// `Tempo`, blocks; at 0 a subnet runs no epochs.
    pub tempo: u16,
    /// `RevealPeriodEpochs`: epochs from a commit to its reveal, 1 to 100.
    pub reveal_period_epochs: u64,
}

/// The chain's head, and when that was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    /// The newest block.
    pub block: Block,
    /// Unix time at which it was the newest, by our clock (as the SDK) or its own `Timestamp`.
    pub unix_seconds: f64,
    /// Time from one block to the next, 12 s on mainnet.
    pub block_seconds: f64,
}

/// Where a commit opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevealPoint {
    /// The block that begins the reveal epoch, if no epoch before it comes late. A hash may be revealed in this block and
    /// after it, until the next epoch begins.
    pub epoch: Block,
    /// The drand round to encrypt to: out three blocks later.
    pub round: u64,
}

/// Settings from which no reveal can be computed.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum BadSchedule {
    /// No epoch will ever come.
    #[error("the subnet's tempo is 0: it runs no epochs, and a commit would never be revealed")]
    NoEpochs,
    /// Out of the pallet's bounds.
    #[error("the subnet's reveal period must be 1 to {MAX_REVEAL_PERIOD} epochs, found {0}")]
    RevealPeriod(u64),
    /// Read at different blocks, or made up.
    #[error(
        "the subnet's last epoch is said to be block {last}, after the head {head}: both must be read at one block"
    )]
    EpochAhead {
        /// `LastEpochBlock`.
        last: Block,
        /// The head.
        head: Block,
    },
    /// Our clock or the chain's is wrong.
    #[error("a block every {block_seconds} s at Unix time {unix_seconds} is no clock to compute a drand round with")]
    Clock {
        /// See [`Head::unix_seconds`].
        unix_seconds: f64,
        /// See [`Head::block_seconds`].
        block_seconds: f64,
    },
}

// === impl RevealSchedule ===

impl RevealSchedule {
    /// Where a commit opens that is sent now.
    ///
    /// # Errors
    /// When the settings or the clock make no sense.
    pub fn reveal_point(&self, head: &Head) -> Result<RevealPoint, BadSchedule> {
        let Head { block, unix_seconds, block_seconds } = *head;
        let sane = block_seconds > 0.0 && block_seconds <= MAX_BLOCK_SECONDS && unix_seconds >= GENESIS_UNIX_SECONDS;
        if !(sane && unix_seconds.is_finite()) {
            return Err(BadSchedule::Clock { unix_seconds, block_seconds });
        }
        let epoch = self.reveal_epoch(block)?;
        let blocks = epoch.0.saturating_add(SAFETY_BLOCKS).saturating_sub(block.0);
        let seconds = unix_seconds + blocks as f64 * block_seconds - GENESIS_UNIX_SECONDS;
        Ok(RevealPoint { epoch, round: (seconds / ROUND_SECONDS) as u64 })
    }

    fn reveal_epoch(&self, head: Block) -> Result<Block, BadSchedule> {
        let (tempo, period) = (u64::from(self.tempo), self.reveal_period_epochs);
        if tempo == 0 {
            return Err(BadSchedule::NoEpochs);
        }
        if !(1..=MAX_REVEAL_PERIOD).contains(&period) {
            return Err(BadSchedule::RevealPeriod(period));
        }
        let landing = head.0.saturating_add(1);
        match self.rule {
            EpochRule::Counted { last_epoch, .. } if last_epoch > head => {
                Err(BadSchedule::EpochAhead { last: last_epoch, head })
            }
            EpochRule::Counted { last_epoch, pending_epoch, blocks_since_last_step } => {
                let regular = last_epoch.0.saturating_add(tempo);
                let overdue = landing.saturating_add(MAX_TEMPO.saturating_sub(blocks_since_last_step));
                let pending = if pending_epoch.0 > 0 { pending_epoch.0 } else { u64::MAX };
                let next = regular.min(overdue).min(pending).max(landing);
                // An epoch that begins in the block of the commit has begun before it: the commit belongs to it.
                let next = if next == landing { next.saturating_add(tempo) } else { next };
                Ok(Block(next.saturating_add((period - 1) * tempo)))
            }
            EpochRule::Modulo { netuid } => {
                let (length, shift) = (tempo + 1, u64::from(netuid.0) + 1);
                let epoch = landing.saturating_add(shift) / length;
                Ok(Block(epoch.saturating_add(period).saturating_mul(length).saturating_sub(shift)))
            }
        }
    }
}

#[cfg(test)]
mod tests;
