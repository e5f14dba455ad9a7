use openvalidators_inference as inference;
use prometheus::Registry;

use super::*;
use crate::{bench::adversary::pool, cli::Settings, config::DEFAULT_TOML};

const SETTING: Setting = Setting { uids: 60, asked: 20, steps: 60 };

/// Ways to models that nobody asks: miners judge without.
fn inference() -> Inference {
    let inference::Mailboxes { embed, log_prob, classify, generate, models, .. } =
        inference::Mailboxes::new(1, &Registry::new()).unwrap();
    Inference { embed, log_prob, classify, generate, models }
}

fn config() -> Config {
    let command = crate::cli::command().try_get_matches_from(["openvalidators", "models", "list"]).unwrap();
    Config::load_over(&[DEFAULT_TOML], &Settings::default(), &command, None).unwrap()
}

/// What is said to each prompt, without a model's word on it.
fn sheets(prompts: &[Prompt]) -> Vec<Sheet> {
    let sheet = |prompt: &Prompt| {
        let texts = prompt.honest.iter().flatten().cloned();
        let mut places = HashMap::new();
        for text in texts {
            let next = places.len();
            places.entry(text).or_insert(next);
        }
        Sheet { places, raw: RawScores::default(), rows: HashMap::new() }
    };
    prompts.iter().map(sheet).collect()
}

/// One judge hands an attacker what it likes; the median of more resists a minority.
#[actix::test]
async fn more_judges_leave_colluders_less() {
    let prompts = pool::prompts(2, SETTING.asked, Seed(4)).unwrap();
    let sheets = sheets(&prompts);
    let play = || play((&prompts, &sheets), &config(), &inference(), &[0.15], SETTING, Seed(4)).unwrap();
    let played = play();
    let at = |judges| played.iter().find(|played| played.judges == judges).unwrap().captures[0];
    assert!(at(1).median > 1.1 * at(1).honest, "{played:?}");
    assert!(at(5).median < at(1).median && at(7).median < at(5).mean, "{played:?}");
    assert!(at(7).median < 1.0, "poor work stays poor work: {played:?}");
    assert_eq!(format!("{:?}", play()), format!("{played:?}"), "the same seed, the same table");
}

/// The code that judges is the validator's, budget included, and what it records is what the validator records.
#[actix::test]
async fn the_validators_own_code_asks_the_miners_of_the_game() {
    let mut config = config();
    config.rewards.network.judges = 3;
    config.rewards.network.completions_per_step = 5;
    config.rewards.network.queries_per_epoch = 20;
    let prompts = pool::prompts(2, SETTING.asked, Seed(4)).unwrap();
    let judging = Judging::new(&config, inference()).unwrap();
    let jury = judging.jury(SETTING, 6, Seed(4));
    let prompt = &prompts[0];
    let completions: Vec<Completion> =
        (0..12).map(|uid| answered(uid, &prompt.honest[if uid < 6 { 2 } else { 0 }][uid], 1.0)).collect();
    let judged = std::thread::scope(|scope| {
        let judge = |step: usize| {
            let mut raw = RawScores::default();
            jury.judge(step, prompt, &completions, &mut raw);
            raw
        };
        scope.spawn(move || [0, 1, EPOCH_STEPS].map(judge)).join().unwrap()
    });
    let queries = judged.each_ref().map(|raw| raw.judgements.len());
    assert_eq!(queries, [15, 3, 15], "20 of an epoch, then 20 of the next");
    for Judgement { completion, judge, grade } in judged.iter().flat_map(|raw| &raw.judgements) {
        assert_ne!(completions[*completion].hotkey, *judge, "nobody judges itself");
        let liar = completions.iter().position(|said| said.hotkey == *judge).unwrap() < 6;
        let lie = if *completion < 6 { 10 } else { 0 };
        assert!(!liar || *grade == Some(lie), "{grade:?}");
        assert!(grade.is_some(), "honest local miners grade, too");
    }
    assert!(judged[0].rewards[0].values.iter().all(Option::is_some), "in force everybody has a number");
}
