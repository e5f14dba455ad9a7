//! Several sources as one: each forward is given to one of them by weight, and to the next when that one is empty.

use std::time::Duration;

use openvalidators_messages::prompts::{Context, SourceError};
use openvalidators_runtime::Clock;
use rand::{Rng, RngCore};

use super::{Source, metrics::SourceMetrics};

/// Between two looks at whether sources have settled.
const SETTLE_POLL: Duration = Duration::from_millis(50);

/// Sources by weight.
pub struct Mix {
    /// The heaviest first.
    sources: Vec<Part>,
}

/// One of them.
pub struct Part {
    /// Where its texts come from.
    pub source: Box<dyn Source>,
    /// Its share beside the others' weights; at 0 it is asked last.
    pub weight: f64,
    /// What is counted of it.
    pub metrics: SourceMetrics,
}

// === impl Mix ===

impl Mix {
    /// Mixes sources.
    #[must_use]
    pub fn new(mut sources: Vec<Part>) -> Self {
        sources.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        Self { sources }
    }

    /// Waits until each source that has a share has had a text or knows why not, `limit` at most.
    pub async fn settle(&self, clock: &dyn Clock, limit: Duration) {
        let until = clock.now() + limit;
        while !self.is_settled() && clock.now() < until {
            clock.sleep(SETTLE_POLL).await;
        }
    }

    /// The one that a forward belongs to.
    fn choose(&self, rng: &mut dyn RngCore) -> usize {
        let shares = || self.sources.iter().map(|part| part.weight).filter(|&weight| weight > 0.0);
        // One alone needs no choice.
        if shares().count() < 2 {
            return 0;
        }
        let mut left = rng.random::<f64>() * shares().sum::<f64>();
        let chosen = shares().position(|weight| {
            left -= weight;
            left < 0.0
        });
        chosen.unwrap_or(0)
    }
}

impl Source for Mix {
    fn name(&self) -> String {
        self.sources.iter().map(|part| part.source.name()).collect::<Vec<_>>().join(", ")
    }

    fn draw(&self, rng: &mut dyn RngCore) -> Result<Context, SourceError> {
        let chosen = self.choose(rng);
        let others = (0..self.sources.len()).filter(|&at| at != chosen);
        let mut reasons = Vec::new();
        for part in std::iter::once(chosen).chain(others).filter_map(|at| self.sources.get(at)) {
            match part.source.draw(rng) {
                Ok(context) => {
                    part.metrics.count_draw();
                    return Ok(context);
                }
                Err(error) => {
                    tracing::debug!(source = error.source_name, reason = error.reason, "no text, asking the next");
                    part.metrics.count_miss();
                    reasons.push(error);
                }
            }
        }
        let reason = reasons.iter().map(|error| format!("{}: {}", error.source_name, error.reason));
        Err(SourceError { source_name: self.name(), reason: reason.collect::<Vec<_>>().join("; ") })
    }

    fn is_settled(&self) -> bool {
        self.sources.iter().filter(|part| part.weight > 0.0).all(|part| part.source.is_settled())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openvalidators_runtime::Seed;
    use prometheus::Registry;

    use super::*;
    use crate::source::SourcesMetrics;

    struct Fixed(&'static str, bool);

    impl Source for Fixed {
        fn name(&self) -> String {
            self.0.to_owned()
        }

        fn draw(&self, _: &mut dyn RngCore) -> Result<Context, SourceError> {
            let error = SourceError { source_name: self.name(), reason: "dry".to_owned() };
            if self.1 { Ok(Context { source: self.name(), text: "text".into() }) } else { Err(error) }
        }
    }

    fn mix(parts: &[(&'static str, f64, bool)], registry: &Registry) -> Mix {
        let metrics = SourcesMetrics::register(registry).unwrap();
        let part = |&(name, weight, full): &(&'static str, f64, bool)| Part {
            source: Box::new(Fixed(name, full)),
            weight,
            metrics: metrics.of(name),
        };
        Mix::new(parts.iter().map(part).collect())
    }

    fn drawn(mix: &Mix, count: u64) -> BTreeMap<String, u64> {
        let mut drawn = BTreeMap::new();
        for forward in 0..count {
            let context = mix.draw(&mut Seed(3).rng("draw", &[forward])).unwrap();
            *drawn.entry(context.source).or_default() += 1;
        }
        drawn
    }

    #[test]
    fn each_has_its_share_and_the_spare_one_none() {
        let found =
            drawn(&mix(&[("spare", 0.0, true), ("one", 1.0, true), ("three", 3.0, true)], &Registry::new()), 4_000);
        assert_eq!(found.values().sum::<u64>(), 4_000);
        assert!((found["three"] as f64 - 3_000.0).abs() < 120.0, "{found:?}");
        assert!(!found.contains_key("spare"));
    }

    #[test]
    fn an_empty_source_is_stood_in_for_and_counted() {
        let registry = Registry::new();
        let found = drawn(&mix(&[("spare", 0.0, true), ("a", 1.0, false), ("b", 1.0, false)], &registry), 100);
        assert_eq!(found, [("spare".to_owned(), 100)].into());
        let misses = registry.gather().into_iter().find(|family| family.name().contains("misses")).unwrap();
        let of = |name: &str| {
            let series = misses.get_metric().iter().find(|metric| metric.get_label()[0].value() == name).unwrap();
            series.get_counter().get_value()
        };
        assert_eq!((of("a"), of("b"), of("spare")), (100.0, 100.0, 0.0));
    }

    #[test]
    fn nothing_anywhere_says_why_of_each() {
        let mix = mix(&[("a", 1.0, false), ("b", 0.0, false)], &Registry::new());
        let error = mix.draw(&mut Seed(1).rng("draw", &[1])).unwrap_err().to_string();
        assert!(error.contains("a: dry; b: dry"), "{error}");
    }
}
