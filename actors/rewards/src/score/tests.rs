use std::{cell::Cell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use openvalidators_messages::{
    Scoring, Sequence, StepRecord,
    inference::{Embed, InferenceError, LogProb, LogProbability, ModelName, Pooling},
    rewards::Score,
};
use openvalidators_runtime::{DrivenClock, testing::recording_mailbox};

use super::*;
use crate::{
    config::{Compat, Defences},
    fold::{Rules, State},
    neighbours::{any_row, device_failed, failed, loaded, neighbours},
    parity::{golden, numbers, rows, texts},
    samples::{answered, completion, record, score},
};

async fn scored(config: &Config, inference: &Inference, score: &Score) -> Result<ScoreSheet, Unscored> {
    let scorer = Scorer::new(config, inference.clone(), Arc::new(DrivenClock::new(Duration::ZERO))).unwrap();
    let (admission, inference) = scorer.admission();
    scorer.score(&Step::new(score, admission, inference)).await
}

fn values<'a>(sheet: &'a ScoreSheet, name: &str) -> &'a [Option<f32>] {
    let mut columns = sheet.raw.rewards.iter().chain(&sheet.raw.filters);
    &columns.find(|column| column.name == name).unwrap().values
}

fn close(ours: Option<f32>, theirs: f32, tolerance: f32, what: &str) {
    let ours = ours.unwrap_or(f32::NAN);
    assert!((ours - theirs).abs() <= tolerance, "{what}: {ours} is not {theirs}");
}

/// Settings of openvalidators 1.2.0.
fn reference() -> Config {
    let mut config = Config { compat: Compat::REFERENCE, defences: Defences::NONE, ..Config::default() };
    config.diversity.batch_midpoint = 0.1;
    config
}

// === parity with openvalidators 1.2.0 ===

/// The models' own numbers are the inference crate's to match; here the rules around them are.
#[actix::test]
async fn recorded_log_probabilities_become_the_recorded_rewards() {
    let inputs = golden("inputs");
    let (prompts, completions) = (texts(&inputs["prompts"]), texts(&inputs["completions"]));
    for model in ["dpo_gpt2", "dpo_btlm"] {
        for row in golden(model)["matrix"].as_array().unwrap() {
            let recorded = numbers(&row["rewards"]);
            let known: HashMap<String, Option<f32>> = completions.iter().cloned().zip(recorded.clone()).collect();
            let known: HashMap<String, Option<f32>> =
                known.into_iter().map(|(text, v)| (text.trim().into(), v)).collect();
            let neighbours = neighbours(any_row, move |text| known[text]);
            let prompt = &prompts[row["prompt"].as_u64().unwrap() as usize];
            let score = score("augment", prompt, "base", &[], answered(&completions));
            let sheet = scored(&reference(), &neighbours.inference, &score).await.unwrap();
            let clamped = scored(&Config::default(), &neighbours.inference, &score).await.unwrap();
            let columns = [values(&sheet, "dpo_reward_model"), values(&clamped, "dpo_reward_model")];
            let mut below = 0;
            for (index, theirs) in recorded.iter().map(|theirs| theirs.unwrap()).enumerate() {
                close(columns[0][index], theirs, 0.0, &completions[index]);
                close(columns[1][index], theirs.max(-11.0), 0.0, &completions[index]);
                below += u32::from(theirs < -11.0);
            }
            assert!(below > 0, "the recording holds a repetition that falls below the floor");
            for ask in neighbours.log_probs.messages() {
                assert_eq!((&*ask.prompt, ask.repetition_penalty), (prompt.as_str(), 1.2));
                assert!(ask.completions.iter().all(|text| text.chars().count() > 5), "short ones cost no device time");
            }
        }
    }
}

#[actix::test]
async fn recorded_embeddings_become_the_recorded_filters() {
    let (inputs, recorded, diversity) = (golden("inputs"), golden("relevance"), golden("diversity_mpnet"));
    let (prompts, completions) = (texts(&inputs["prompts"]), texts(&inputs["completions"]));
    let mut known: HashMap<String, Vec<f32>> = prompts.iter().cloned().zip(rows("relevance_prompts")).collect();
    for (text, row) in completions.iter().zip(diversity["embeddings"].as_array().unwrap()) {
        known.insert(text.trim().into(), numbers(row).into_iter().flatten().collect());
    }
    let neighbours =
        neighbours(move |text| known.get(text).unwrap_or_else(|| &known[text.trim()]).clone(), |_| Some(-2.0));
    let (mut passed, mut blocked) = (0, 0);
    for (index, prompt) in prompts.iter().enumerate() {
        let score = score("augment", "prompt", prompt, &[], answered(&completions));
        for bound in [0.3, 0.75] {
            let mut config = reference();
            config.relevance.stages[0].threshold = bound;
            let sheet = scored(&config, &neighbours.inference, &score).await.unwrap();
            for (place, &ours) in values(&sheet, "relevance_filter").iter().enumerate() {
                let row = recorded["rows"].as_array().unwrap().iter();
                let row = row.clone().find(|row| row["prompt"] == index && row["completion"] == place).unwrap();
                let cosine = row["mpnet"].as_f64().unwrap();
                if (cosine - f64::from(bound)).abs() > 1e-5 {
                    assert_eq!(ours, Some(f32::from(cosine >= f64::from(bound))), "{prompt:?} {place}: {cosine}");
                    *(if ours == Some(1.0) { &mut passed } else { &mut blocked }) += 1;
                }
            }
            let batch = numbers(&diversity["batch"]);
            for (place, &ours) in values(&sheet, "diversity_reward_model").iter().enumerate() {
                close(ours, batch[place].unwrap(), 2e-5, &completions[place]);
            }
        }
    }
    assert!(passed > 80 && blocked > 20, "{passed} passed, {blocked} were blocked");
}

// === rules of ours ===

#[actix::test]
async fn the_blacklist_sees_through_case_spacing_and_punctuation() {
    let neighbours = neighbours(any_row, |_| Some(-2.0));
    let completions =
        ["that is an EXCELLENT question!", "The prompt", "the base; text", "used  before?", "!?", "fresh"];
    let completions = answered(&completions.map(str::to_owned));
    let score = score("answer0", "The prompt.", "The base text.", &["Used before.".into(), "?".into()], completions);
    let sheet = scored(&Config::default(), &neighbours.inference, &score).await.unwrap();
    let expected = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0].map(Some);
    assert_eq!(values(&sheet, "blacklist_filter"), expected);
}

#[actix::test]
async fn the_opposite_of_relevant_is_not_relevant() {
    let opposite = |text: &str| if text == "base" { vec![1.0, 0.0] } else { vec![-1.0, 0.1] };
    let neighbours = neighbours(opposite, |_| Some(-2.0));
    let score = score("augment", "prompt", "base", &[], answered(&["another text".to_owned()]));
    for (config, factor) in [(Config::default(), 0.0), (reference(), 1.0)] {
        let sheet = scored(&config, &neighbours.inference, &score).await.unwrap();
        assert_eq!(values(&sheet, "relevance_filter"), [Some(factor)]);
    }
}

#[actix::test]
async fn a_lone_completion_is_diverse_and_an_empty_one_says_nothing() {
    let neighbours = neighbours(any_row, |_| Some(-2.0));
    let score = score("augment", "prompt", "base", &[], answered(&["alone".into(), " ".into(), "".into()]));
    let sheet = scored(&Config::default(), &neighbours.inference, &score).await.unwrap();
    assert_eq!(values(&sheet, "diversity_reward_model"), [Some(1.0), Some(0.0), Some(0.0)]);
    assert_eq!(values(&sheet, "dpo_reward_model"), [Some(-11.0); 3]);
    let embeddings = sheet.raw.embeddings.as_ref().unwrap();
    assert_eq!((&embeddings.completions[..], embeddings.rows.len()), (&[0][..], embeddings.width));
    let reference = scored(&reference(), &neighbours.inference, &score).await.unwrap();
    assert_eq!(reference.raw.embeddings.unwrap().completions, [0, 1, 2]);
}

#[actix::test]
async fn each_encoder_is_asked_once_and_every_file_is_on_record() {
    let neighbours = neighbours(any_row, |_| Some(-2.0));
    let completions = answered(&["the first".into(), "the second".into()]);
    let sheet =
        scored(&Config::default(), &neighbours.inference, &score("augment", "p", "b", &[], completions)).await.unwrap();
    assert_eq!(neighbours.embeds.len(), 1, "relevance and diversity share their embeddings");
    let files: Vec<_> = sheet.digests.iter().map(|(file, digest)| (file.as_str(), digest.as_str())).collect();
    let expected = [
        ("diversity_reward_model/all-MiniLM-L6-v2/weights", "sha of all-MiniLM-L6-v2"),
        ("dpo_reward_model/SmolLM2-135M-Instruct/weights", "sha of SmolLM2-135M-Instruct"),
        ("relevance_filter/all-MiniLM-L6-v2/weights", "sha of all-MiniLM-L6-v2"),
    ];
    assert_eq!(files, expected);
}

#[actix::test]
async fn what_failed_or_is_too_long_reaches_no_model() {
    let neighbours = neighbours(any_row, |_| Some(-2.0));
    let long = "x".repeat(8_001);
    let only_failures = vec![completion("late", false), completion(&long, true)];
    let ask = score("augment", "p", "b", &[], only_failures.clone());
    let sheet = scored(&Config::default(), &neighbours.inference, &ask).await.unwrap();
    assert!(sheet.raw.rewards.iter().chain(&sheet.raw.filters).all(|column| column.values == [None, None]));
    assert!(neighbours.embeds.is_empty() && neighbours.log_probs.is_empty() && sheet.digests.is_empty());

    let mixed = [only_failures, vec![completion("\u{0} good text", true)]].concat();
    let sheet =
        scored(&Config::default(), &neighbours.inference, &score("augment", "p", "b", &[], mixed)).await.unwrap();
    assert_eq!(values(&sheet, "dpo_reward_model"), [None, None, Some(-2.0)]);
    assert_eq!(values(&sheet, "blacklist_filter"), [None, None, Some(1.0)]);
    assert_eq!(&*neighbours.log_probs.messages()[0].completions[0], "good text");
}

#[actix::test]
async fn a_step_nobody_answered_is_unscored() {
    let neighbours = neighbours(any_row, |_| Some(-2.0));
    for completions in [vec![completion("late", false), completion("", false)], Vec::new()] {
        let ask = score("augment", "p", "b", &[], completions);
        let unscored = scored(&Config::default(), &neighbours.inference, &ask).await.unwrap_err();
        assert_eq!(unscored.reason, "nobody answered");
        let sheet = scored(&reference(), &neighbours.inference, &ask).await.unwrap();
        assert!(sheet.raw.rewards.iter().all(|column| column.values.iter().all(Option::is_none)));
    }
    assert!(neighbours.embeds.is_empty() && neighbours.log_probs.is_empty());
    // An answer of nothing is an answer: its miner, and those who gave none, are judged.
    let ask = score("augment", "p", "b", &[], vec![completion("", true), completion("late", false)]);
    let sheet = scored(&Config::default(), &neighbours.inference, &ask).await.unwrap();
    assert_eq!(values(&sheet, "dpo_reward_model"), [Some(-11.0), None]);
}

#[actix::test]
async fn what_is_not_finite_is_no_number() {
    let nowhere = |text: &str| if text == "nowhere" { vec![f32::NAN; 2] } else { vec![1.0, 0.5] };
    let log_prob = |text: &str| if text == "nowhere" { Some(f32::NEG_INFINITY) } else { None };
    let neighbours = neighbours(nowhere, log_prob);
    let score = score("augment", "p", "b", &[], answered(&["nowhere".into(), "somewhere".into()]));
    let sheet = scored(&reference(), &neighbours.inference, &score).await.unwrap();
    assert_eq!(values(&sheet, "dpo_reward_model"), [Some(-11.0), Some(-11.0)]);
    assert_eq!(values(&sheet, "relevance_filter"), [None, Some(1.0)]);
    assert_eq!(values(&sheet, "diversity_reward_model"), [None, Some(1.0)]);
    assert_eq!(sheet.raw.embeddings.unwrap().completions, [1]);
}

#[actix::test]
async fn a_filter_that_is_off_lets_everything_pass() {
    let mut config = Config::default();
    config.blacklist.enabled = false;
    config.task_validator.enabled = false;
    config.relevance.enabled = false;
    config.diversity.enabled = false;
    let neighbours = neighbours(any_row, |_| Some(-2.0));
    let stock = ["That is an excellent question.".into(), "Question: Answer: Summary:".into()];
    let sheet =
        scored(&config, &neighbours.inference, &score("augment", "p", "b", &[], answered(&stock))).await.unwrap();
    assert!(sheet.raw.filters.iter().all(|column| column.values == [Some(1.0); 2]), "{:?}", sheet.raw.filters);
    assert_eq!(sheet.raw.filters.len(), 5);
    assert!(sheet.raw.embeddings.is_none() && neighbours.embeds.is_empty());
}

// === when a model cannot say ===

#[actix::test]
async fn a_step_that_one_model_cannot_score_is_unscored() {
    let healthy = neighbours(any_row, |_| Some(-2.0));
    let score = score("augment", "p", "b", &[], answered(&["a text".into(), "b text".into()]));
    let (failing, _) = recording_mailbox(|_: &LogProb| Err(device_failed("m")));
    let (short, _) = recording_mailbox(|_: &Embed| Ok(vec![Ok([1.0f32].into())]));
    let (nothing, _) = recording_mailbox(|_: &Models| vec![loaded("another")]);
    for (inference, reason) in [
        (
            Inference { log_prob: failing, ..healthy.inference.clone() },
            "dpo_reward_model: model `m` failed on the device: out of memory",
        ),
        (Inference { embed: short, ..healthy.inference.clone() }, "expected 3 answers, found 1"),
        (
            Inference { models: nothing, ..healthy.inference.clone() },
            "`SmolLM2-135M-Instruct` answered, but is not among",
        ),
    ] {
        let found = scored(&Config::default(), &inference, &score).await.unwrap_err().reason;
        assert!(found.contains(reason), "{found}");
    }
}

/// A text on which the device failed, alone, used to take the scores of its whole step with it.
#[actix::test]
async fn one_failing_text_used_to_take_its_whole_step_with_it() {
    const EVIL: &str = "an evil text";
    let row = move |text: &Arc<str>| if &**text == EVIL { Err(failed()) } else { Ok(any_row(text).into()) };
    let (embed, _) = recording_mailbox(move |ask: &Embed| Ok(ask.texts.iter().map(row).collect()));
    let judged = move |text: &Arc<str>| match &**text {
        EVIL => Err(failed()),
        _ => Ok(LogProbability { mean: Some(-2.0), tokens: 3 }),
    };
    let (log_prob, _) = recording_mailbox(move |ask: &LogProb| Ok(ask.completions.iter().map(judged).collect()));
    let inference = Inference { embed, log_prob, ..neighbours(any_row, |_| None).inference };
    let texts = ["a good text".into(), EVIL.into(), "1234567890".into()];

    let about = score("augment", "p", "a base text", &[], answered(&texts));
    let sheet = scored(&Config::default(), &inference, &about).await.unwrap();
    for column in ["dpo_reward_model", "relevance_filter", "diversity_reward_model"] {
        let has_value: Vec<bool> = values(&sheet, column).iter().map(Option::is_some).collect();
        assert_eq!(has_value, [true, false, true], "{column}");
    }

    // The base text is what all others are compared with.
    let about = score("augment", "p", EVIL, &[], answered(&texts));
    let reason = scored(&Config::default(), &inference, &about).await.unwrap_err().reason;
    assert!(reason.contains("the base text: out of memory"), "{reason}");
}

#[actix::test]
async fn a_prompt_that_fills_the_model_leaves_the_step_unscored() {
    let healthy = neighbours(any_row, |_| Some(-2.0));
    let full = InferenceError::PromptTooLong { model: ModelName::new("m"), tokens: 2_100, limit: 2_048 };
    let (log_prob, _) = recording_mailbox(move |_: &LogProb| Err(full.clone()));
    let inference = Inference { log_prob, ..healthy.inference };
    let score = score("augment", "long", "b", &[], answered(&["a good text".into(), "another one".into()]));
    let reason = scored(&Config::default(), &inference, &score).await.unwrap_err().reason;
    assert!(reason.contains("takes 2048 tokens and the prompt alone has 2100"), "{reason}");
    let sheet = scored(&reference(), &inference, &score).await.unwrap();
    assert_eq!(values(&sheet, "dpo_reward_model"), [Some(-11.0); 2], "as the reference has it");
}

#[actix::test]
async fn a_failed_request_is_not_remembered() {
    let attempts = Rc::new(Cell::new(0));
    let counted = attempts.clone();
    let (embed, _) = recording_mailbox(move |ask: &Embed| {
        counted.set(counted.get() + 1);
        if counted.get() == 1 { Err(InferenceError::Closed) } else { Ok(vec![Ok([1.0f32].into()); ask.texts.len()]) }
    });
    let inference = Inference { embed, ..neighbours(any_row, |_| None).inference };
    let step =
        Step::new(&score("augment", "p", "b", &[], answered(&["a".into()])), Config::default().admission(), inference);
    let model = ModelName::new("encoder");
    assert!(step.embedded(&model, Pooling::MeanNormalised).await.is_err());
    assert!(step.embedded(&model, Pooling::MeanNormalised).await.is_ok());
    assert!(step.embedded(&model, Pooling::MeanNormalised).await.is_ok());
    assert_eq!(attempts.get(), 2);
}

#[actix::test]
async fn the_control_pays_everybody_alike_and_asks_no_model() {
    let weights = [("constant_reward_model".to_owned(), 1.0)].into();
    let mut config = Config { weights, ..Config::default() };
    config.relevance.enabled = false;
    config.diversity.enabled = false;
    config.blacklist.enabled = false;
    config.task_validator.enabled = false;
    assert_eq!(config.check(), Ok(()));
    let neighbours = neighbours(any_row, |_| Some(-1.0));
    let mut completions = answered(&["An answer.".to_owned(), String::new(), "An answer.".to_owned()]);
    completions.push(completion("lost", false));
    let record = record(&[true, true, true, false], RawScores::default());
    let sheet = scored(&config, &neighbours.inference, &score("augment", "prompt", "base", &[], completions)).await;
    let mut state = State::default();
    let raw = sheet.unwrap().raw;
    let outcome =
        state.fold(&Rules::new(&config), Sequence(1), &StepRecord { scoring: Scoring::Scored(raw), ..record });
    let rewards: Vec<f32> = outcome.scored().unwrap().rewards.iter().map(|reward| reward.get()).collect();
    assert_eq!(rewards, [0.5, 0.5, 0.5, 0.0]);
    assert!(neighbours.embeds.messages().is_empty() && neighbours.log_probs.messages().is_empty());
}

#[actix::test]
async fn the_copy_loses_and_the_copied_does_not() {
    let neighbours = neighbours(any_row, |_| Some(-2.0));
    let mut completions = answered(&["A copy.".to_owned(), "A copy.".to_owned(), "zzzz another thing".to_owned()]);
    completions[1].elapsed_seconds = 0.5;
    let score = score("augment", "prompt", "base", &[], completions);
    let factors = |config: Config| {
        let inference = neighbours.inference.clone();
        let score = &score;
        async move { values(&scored(&config, &inference, score).await.unwrap(), "diversity_reward_model").to_vec() }
    };
    let ours = factors(Config::default()).await;
    assert!(ours[0].unwrap() < 0.02 && ours[1] == Some(1.0), "{ours:?}");
    let theirs = factors(reference()).await;
    assert!(theirs[0].unwrap() < 0.02 && theirs[1] == theirs[0], "{theirs:?}");
}
