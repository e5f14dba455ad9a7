//! Who is taken for a clone, by the texts alone: no model is asked.

use openvalidators_inference as inference;
use openvalidators_messages::Origin;
use openvalidators_rewards::{Inference, followers::Said as Words, kin::Kin};
use prometheus::Registry;

use super::{super::pool, *};
use crate::bench::adversary::{lab::Lab, population::Common, population::common, strategies};

const SETTING: Setting = Setting { uids: 256, asked: 50, steps: 150 };
/// One of the seeds that defences are tuned on.
const SEED: Seed = Seed(20_231);

fn laboratory(config: &Config) -> Lab {
    let inference::Mailboxes { embed, log_prob, classify, generate, models, .. } =
        inference::Mailboxes::new(1, &Registry::new()).unwrap();
    Lab::new(&config.rewards, Inference { embed, log_prob, classify, generate, models })
}

/// The mean of what is left to those asked in the last third of the game: to attackers, to honest miners who share an owner, to
/// those who share a network, and to the others.
async fn left(strategy: &str, share: f64) -> [f64; 4] {
    let config = Config::default();
    let prompts = pool::prompts(2, SETTING.asked, SEED).unwrap();
    let strategy = strategies::ALL.into_iter().find(|known| known.name() == strategy).unwrap();
    let said = pool::said(strategy, &prompts, &laboratory(&config), SEED).await.unwrap();
    let sheets: Vec<Sheet> = prompts
        .iter()
        .map(|_| Sheet { places: Default::default(), raw: RawScores::default(), rows: Default::default() })
        .collect();
    let board = Board { prompts: &prompts, sheets: &sheets, config: &config, judging: None, brief: &[] };
    let game = Game::new(&board, Attack { strategy, said: &said, share }, SETTING, SEED);
    let mut kin = Kin::default();
    let mut left = [(0.0, 0.0); 4];
    for step in 0..SETTING.steps {
        let played = game.played(step, step % prompts.len());
        let uid = |played: &Played| usize::from(played.completion.uid.0);
        let words: Vec<Words<'_>> = played
            .iter()
            .map(|Played { completion, .. }| Words {
                hotkey: completion.hotkey,
                text: &completion.text,
                arrived: completion.elapsed_seconds,
            })
            .collect();
        let origins: Vec<Origin> =
            played.iter().map(|played| origin(uid(played), game.is_attacker(uid(played)))).collect();
        for (played, share) in played.iter().zip(kin.judge(&words, &origins)) {
            let group = match common(uid(played)) {
                _ if game.is_attacker(uid(played)) => 0,
                Common::Coldkey => 1,
                Common::Network => 2,
                Common::Nothing => 3,
            };
            if 3 * step >= 2 * SETTING.steps {
                left[group] = (left[group].0 + f64::from(share), left[group].1 + 1.0);
            }
        }
    }
    left.map(|(sum, count)| sum / f64::max(count, 1.0))
}

#[tokio::test]
async fn one_model_behind_many_hotkeys_of_one_owner_earns_less_with_each_and_neighbours_lose_nothing() {
    for (strategy, share, most) in [("sybil split", 0.05, 0.5), ("sybil split", 0.15, 0.3)] {
        let [attackers, owners, networks, others] = left(strategy, share).await;
        println!("{strategy} at {share}: {attackers:.3} {owners:.3} {networks:.3} {others:.3}");
        assert!(attackers < most, "{strategy} at {share}: {attackers} is left");
        for honest in [owners, networks, others] {
            assert!(honest > 0.98, "{strategy} at {share}: {honest} is left to honest miners");
        }
    }
}
