use super::*;

#[test]
fn the_defaults_make_sense() {
    assert_eq!(Config::default().check(), Ok(()));
}

#[test]
fn what_makes_no_sense_is_named() {
    let refused = |change: fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        config.check().unwrap_err().to_string()
    };
    let message = refused(|config| _ = config.weights.insert("rlhf".into(), 0.0));
    assert!(message.contains("`rlhf`") && message.contains("dpo_reward_model"), "{message}");
    let message = refused(|config| _ = config.shadows.insert("rlhf".into()));
    assert!(message.contains("shadows names `rlhf`") && message.contains("firewall_filter"), "{message}");
    assert!(refused(|config| config.shadow_timeout_seconds = 0).contains("shadow_timeout_seconds is 0"));
    let late = |config: &mut Config| {
        config.shadow_timeout_seconds = 300;
        config.shadows.insert("rank_normaliser".to_owned());
    };
    assert!(refused(late).contains("shadow_timeout_seconds is 300"));
    // Without shadows it does not matter how it compares.
    assert!(Config { score_timeout_seconds: 2, ..Config::default() }.check().is_ok());
    assert!(refused(|config| config.normaliser = Some("rank".into())).contains("rank_normaliser"));
    assert!(refused(|config| config.shadow_share = 0.0).contains("shadow_share is 0"));
    let message = refused(|config| config.bounded_by = Some("rlhf_reward_model".into()));
    assert!(message.contains("bounded_by is rlhf_reward_model"), "{message}");
    let message = refused(|config| config.shadow_benchmark = Some("/nowhere/candidates.json".into()));
    assert!(message.contains("shadow_benchmark: reading") && message.contains("--candidates"), "{message}");
    assert!(refused(|config| config.network.judges = 0).contains("network.judges is 0"));
    assert!(refused(|config| config.network.completions_per_step = 257).contains("network.completions_per_step"));
    assert!(refused(|config| config.network.queries_per_epoch = 2).contains("network.queries_per_epoch is 2"));
    assert!(refused(|config| config.network.timeout_seconds = f64::NAN).contains("network.timeout_seconds is NaN"));
    let message = refused(|config| config.firewall.template = Some("/nowhere/firewall.txt".into()));
    assert!(message.contains("/nowhere/firewall.txt"), "{message}");
    assert!(refused(|config| _ = config.weights.insert("dpo_reward_model".into(), 0.9)).contains("add up to 0.9"));
    assert!(refused(|config| _ = config.weights.insert("dpo_reward_model".into(), f64::NAN)).contains("NaN"));
    assert!(refused(|config| config.weights.clear()).contains("add up to 0"));
    assert!(refused(|config| config.relevance.stages[0].threshold = 1.5).contains("threshold is 1.5"));
    assert!(refused(|config| config.dpo.repetition_penalty = f32::INFINITY).contains("repetition_penalty"));
    assert!(refused(|config| config.diversity.batch_midpoint = 0.0).contains("batch_midpoint is 0"));
    assert!(refused(|config| config.relevance.stages.clear()).contains("stages is empty"));
    assert!(refused(|config| config.relevance.stages[0].measure = Measure::NegativeRmse).contains("threshold is 0.3"));
    assert!(refused(|config| config.nsfw.boundary = f32::NAN).contains("nsfw.boundary is NaN"));
    let message = refused(|config| config.prompt.templates.answer = Some("/nowhere/answer.txt".into()));
    assert!(message.contains("[rewards.prompt.templates]") && message.contains("/nowhere/answer.txt"), "{message}");
    assert!(refused(|config| config.diversity.bottom_k = 0).contains("bottom_k"));
}

#[test]
fn settings_that_judge_alike_have_one_digest() {
    let config = Config::default();
    let digest = |change: fn(&mut Config)| {
        let mut changed = config.clone();
        change(&mut changed);
        changed.digest()
    };
    assert_eq!(config.digest().len(), 64);
    assert_eq!(digest(|config| _ = config.shadows.insert("nsfw_filter".into())), config.digest());
    assert_eq!(digest(|config| config.shadow_share = 0.5), config.digest());
    assert_ne!(digest(|config| config.nsfw.enabled ^= true), config.digest());
    assert_ne!(digest(|config| config.normaliser = Some("rank_normaliser".into())), config.digest());
}

#[test]
fn a_misspelt_key_is_refused() {
    let error = serde_json::from_str::<Config>(r#"{"relevance": {"treshold": 0.1}}"#).unwrap_err().to_string();
    assert!(error.contains("treshold"), "{error}");
}

#[test]
fn weights_may_miss_one_by_rounding_and_no_more() {
    let sum = |dpo: f64| {
        let weights = [("dpo_reward_model".to_owned(), dpo), ("rlhf_reward_model".to_owned(), 0.4)].into();
        Config { weights, ..Config::default() }.check()
    };
    assert_eq!(sum(0.6 + 9e-7), Ok(()));
    assert!(matches!(sum(0.6 + 2e-6), Err(ConfigError::WeightSum { .. })));
}

/// A switch left out of `REFERENCE` would be a silent difference.
#[test]
fn the_reference_is_every_switch() {
    let switches = serde_json::to_value(Compat::REFERENCE).unwrap();
    let off: Vec<_> = switches.as_object().unwrap().iter().filter(|(_, on)| **on != true).collect();
    assert!(off.is_empty(), "{off:?}");
}
