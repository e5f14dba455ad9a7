use proptest::prelude::*;
use serde::Deserialize;

use super::*;

/// What `bittensor-drand` answered (`commit_reveal.py`): 2.0.0 for counted epochs, 1.3.0 for the modulo rule.
const COUNTED: &str = include_str!("../../../../../tests/fixtures/bittensor/reveal_rounds_v2.0.0.json");
const MODULO: &str = include_str!("../../../../../tests/fixtures/bittensor/reveal_rounds_v1.3.0.json");
/// A second of November 2026.
const NOW: f64 = 1_795_372_727.5;

#[derive(Deserialize)]
struct Recorded {
    rounds: Vec<Case>,
}

#[derive(Debug, Deserialize)]
struct Case {
    tempo: u16,
    head: Block,
    period: u64,
    block_seconds: f64,
    last_epoch: Option<Block>,
    pending_epoch: Option<Block>,
    blocks_since_last_step: Option<u64>,
    netuid: Option<Netuid>,
    /// The peer read its clock between these two.
    called: f64,
    answered: f64,
    round: u64,
}

fn counted(last: u64, pending: u64, since: u64) -> EpochRule {
    EpochRule::Counted { last_epoch: Block(last), pending_epoch: Block(pending), blocks_since_last_step: since }
}

fn head(block: u64) -> Head {
    Head { block: Block(block), unix_seconds: NOW, block_seconds: 12.0 }
}

/// Blocks from the head to the round.
fn blocks_ahead(rule: EpochRule, tempo: u16, reveal_period_epochs: u64, block: u64) -> u64 {
    let schedule = RevealSchedule { rule, tempo, reveal_period_epochs };
    schedule.reveal_point(&head(block)).unwrap().epoch.0 + SAFETY_BLOCKS - block
}

impl Case {
    fn rule(&self) -> EpochRule {
        match (self.netuid, self.last_epoch, self.pending_epoch, self.blocks_since_last_step) {
            (Some(netuid), ..) => EpochRule::Modulo { netuid },
            (None, Some(last_epoch), Some(pending_epoch), Some(blocks_since_last_step)) => {
                EpochRule::Counted { last_epoch, pending_epoch, blocks_since_last_step }
            }
            _ => panic!("{self:?}"),
        }
    }

    fn round_at(&self, unix_seconds: f64) -> u64 {
        let schedule = RevealSchedule { rule: self.rule(), tempo: self.tempo, reveal_period_epochs: self.period };
        let head = Head { block: self.head, unix_seconds, block_seconds: self.block_seconds };
        schedule.reveal_point(&head).unwrap().round
    }

    fn agrees(&self) -> bool {
        (self.round_at(self.called)..=self.round_at(self.answered)).contains(&self.round)
    }
}

#[test]
fn rounds_are_those_of_the_peer_where_epochs_are_counted() {
    let recorded: Recorded = serde_json::from_str(COUNTED).unwrap();
    assert_eq!(recorded.rounds.len(), 60);
    for case in recorded.rounds {
        assert!(case.agrees(), "{case:?}: {}", case.round_at(case.called));
    }
}

/// Where the head is the last block of an epoch, the commit lands in the next one. The peer overlooked it under this rule and
/// named a round an epoch too early: everybody could have read the weights a whole epoch before they counted.
#[test]
fn rounds_are_those_of_the_peer_under_the_modulo_rule_save_at_the_end_of_an_epoch() {
    let recorded: Recorded = serde_json::from_str(MODULO).unwrap();
    let mut at_the_end = 0;
    for case in recorded.rounds {
        let Some(Netuid(netuid)) = case.netuid else { panic!("{case:?}") };
        let length = u64::from(case.tempo) + 1;
        let last_of_its_epoch = (case.head.0 + u64::from(netuid) + 2).is_multiple_of(length);
        at_the_end += usize::from(last_of_its_epoch);
        let before = Case { head: Block(case.head.0 - u64::from(last_of_its_epoch)), ..case };
        let skipped = if last_of_its_epoch { case.block_seconds } else { 0.0 };
        let early = Case { called: case.called - skipped, answered: case.answered - skipped, ..before };
        assert!(early.agrees(), "{early:?}: {}", early.round_at(early.called));
    }
    assert!(at_the_end > 0, "none is recorded");
}

#[test]
fn the_five_known_distances_come_out() {
    let rule = counted(1000, 0, 100);
    assert_eq!(blocks_ahead(rule, 360, 1, 1100), 263);
    assert_eq!(blocks_ahead(rule, 360, 3, 1100), 983);
    // The commit lands in the block whose beginning ran the epoch, or after it: it belongs to the new one.
    assert_eq!(blocks_ahead(rule, 360, 1, 1359), 364);
    assert_eq!(blocks_ahead(rule, 360, 1, 1360), 364);
    assert_eq!(blocks_ahead(counted(1000, 1150, 100), 360, 1, 1100), 53);
}

/// `drain_pending` counts a block before it asks. (The peer is off by a block or two here, within its safety of three; it
/// matters to a subnet whose epochs failed for a week.)
#[test]
fn a_subnet_without_a_step_for_a_week_runs_an_epoch_whatever_its_schedule() {
    let ahead = |since| blocks_ahead(counted(9_000, 0, since), 50_400, 1, 10_000) - SAFETY_BLOCKS;
    assert_eq!(ahead(1_000), 49_400);
    assert_eq!(ahead(50_390), 11);
    assert_eq!(ahead(50_399), 2);
    assert_eq!(ahead(50_400), 50_401, "the landing block runs it");
    assert_eq!(ahead(u64::MAX), 50_401);
}

#[test]
fn settings_without_a_reveal_are_refused() {
    let schedule = RevealSchedule { rule: counted(900, 0, 100), tempo: 360, reveal_period_epochs: 1 };
    let fail = |schedule: RevealSchedule, head| schedule.reveal_point(&head).unwrap_err();
    assert_eq!(fail(RevealSchedule { tempo: 0, ..schedule }, head(1000)), BadSchedule::NoEpochs);
    for period in [0, 101, u64::MAX] {
        let schedule = RevealSchedule { reveal_period_epochs: period, ..schedule };
        assert_eq!(fail(schedule, head(1000)), BadSchedule::RevealPeriod(period));
    }
    let ahead = RevealSchedule { rule: counted(u64::MAX, 0, 100), ..schedule };
    assert_eq!(fail(ahead, head(1000)), BadSchedule::EpochAhead { last: Block(u64::MAX), head: Block(1000) });
    for (unix_seconds, block_seconds) in
        [(f64::NAN, 12.0), (f64::INFINITY, 12.0), (0.0, 12.0), (NOW, 0.0), (NOW, f64::NAN), (NOW, 1e9)]
    {
        let head = Head { unix_seconds, block_seconds, ..head(1000) };
        assert!(matches!(fail(schedule, head), BadSchedule::Clock { .. }), "{head:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the chain says, the reveal is after the commit lands and within the period's epochs: no answer of a node
    /// can put it where it never comes.
    #[test]
    fn a_reveal_is_never_far(
        netuid: Option<u16>, last: u64, pending: u64, since: u64, tempo in 1..=u16::MAX, period in 1..=100u64,
        block in prop_oneof![0..10_000_000u64, any::<u64>()],
    ) {
        let rule = netuid.map_or(counted(last % block.max(1), pending, since), |netuid| EpochRule::Modulo { netuid: Netuid(netuid) });
        let schedule = RevealSchedule { rule, tempo, reveal_period_epochs: period };
        let point = schedule.reveal_point(&head(block)).unwrap();
        if block < 10_000_000 {
            prop_assert!(point.epoch.0 > block);
            prop_assert!(point.epoch.0 <= block + 1 + (u64::from(tempo) + 1) * period);
        }
    }
}
