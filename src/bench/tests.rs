use super::*;
use crate::{cli::Settings, config};

/// The tiny stack in a folder of its own.
fn with_tiny(test: impl AsyncFnOnce(Bench<'_>, Step)) {
    let folder = tempfile::tempdir().unwrap();
    let networks = synthetic::stack(Size::Tiny).unwrap();
    for (role, network) in &networks {
        network.write(&folder.path().join(role), SEED).unwrap();
    }
    let defaults = [config::DEFAULT_TOML, config::SCORE_TOML];
    let config = Config::load_over(&defaults, &Settings::default(), &clap::ArgMatches::default(), None).unwrap();
    let bench = Bench { config, folder: folder.path(), networks, clock: SystemClock::shared(), repeats: 1 };
    // A prompt of two windows of BERT.
    let step = Step::random(500, 150, 4, 20);
    actix::System::new().block_on(test(bench, step));
}

#[test]
fn every_token_that_is_computed_is_counted_in_operations() {
    with_tiny(async |bench, step| {
        for part in Part::ALL {
            let running = bench.start(&[part]).await.unwrap();
            for order in [Order::OneByOne, Order::Batched, Order::Shared] {
                let line = bench.measure(&running, part, &step, order, "under test").await.unwrap();
                let counted: f64 = bench.loads(part, &step, order).iter().map(|load| load.tokens).sum();
                assert_eq!(line.tokens, counted, "{part} {order:?}");
                assert!(line.operations > 0.0 && line.spent.wall_seconds > 0.0);
            }
        }
        let whole = bench.whole(&Part::ALL, &step).await.unwrap();
        let parts = Part::ALL.iter().flat_map(|part| bench.loads(*part, &step, Order::Shared));
        assert_eq!(whole.tokens, parts.map(|load| load.tokens).sum::<f64>());
    });
}

#[test]
fn what_cannot_fit_is_refused_before_it_is_loaded() {
    with_tiny(async |mut bench, _| {
        bench.check_memory(&Part::ALL).unwrap();
        bench.networks.get_mut("rlhf").unwrap().config["n_layer"] = 9_000_000_000_u64.into();
        bench.networks.get_mut("rlhf").unwrap().config["num_hidden_layers"] = 9_000_000_000_u64.into();
        bench.check_memory(&[Part::Dpo]).unwrap();
        let error = bench.check_memory(&Part::ALL).unwrap_err().to_string();
        assert!(error.contains("MiB of memory are free") && error.contains("--base"), "{error}");
    });
}

#[test]
fn numbers_that_differ_or_are_none_are_found() {
    let rows = |number| vec![vec![1.0, 2.0], vec![number]];
    assert_eq!(farthest(&rows(3.0), &rows(3.0)).unwrap(), 0.0);
    assert_eq!(farthest(&rows(0.5), &rows(0.75)).unwrap(), 0.25);
    assert_eq!(farthest(&rows(8.0), &rows(10.0)).unwrap(), 0.2, "relative to large numbers");
    assert!(farthest(&rows(f32::NAN), &rows(1.0)).is_err());
    assert!(farthest(&rows(1.0)[..1], &rows(1.0)).is_err());
}
