//! What a miner that speaks the protocol replies to a prompt: a pure function of who it is and of what it is asked.

use std::{collections::HashMap, ops::RangeInclusive, time::Duration};

use bytes::Bytes;
use hyper::{
    Response,
    header::{CONTENT_TYPE, HeaderValue},
};
use openvalidators_dendrite::axon::Reply;
use openvalidators_runtime::Seed;
use rand::{Rng, seq::IndexedRandom, seq::SliceRandom};

use crate::localnet::{
    answers::Author,
    field,
    kinds::{MinerKind, Tier},
    text,
};

/// What lazy miners say, each always the same.
const STOCK_SENTENCES: [&str; 4] = [
    "That is an excellent question.",
    "I am not sure, but this is a very interesting topic.",
    "There are many ways to look at it, and all of them have their merits.",
    "As always, it depends on the circumstances.",
];

/// Words that spammers believe to be valued.
const PRAISE: [&str; 8] =
    ["important", "excellent", "insightful", "comprehensive", "detailed", "relevant", "helpful", "accurate"];
/// Different key words a spammer takes from a prompt.
const KEYWORDS: usize = 12;
/// How long a copycat waits for what it copies, above what the copied needs.
const COPY_DELAY: Duration = Duration::from_millis(300);

/// Longest time a slow miner takes, whatever a validator says it will wait.
const LONGEST_DELAY: Duration = Duration::from_secs(3_600);

/// How many words a spammer writes.
const SPAM_WORDS: usize = 60;

/// Depth of brackets that a careless JSON reader follows until its stack ends.
const NESTED_BRACKETS: usize = 10_000;

/// One miner's way to reply.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Of the whole local network.
    pub seed: Seed,
    /// Of the miner.
    pub index: u16,
    /// What it does.
    pub kind: MinerKind,
    /// Whom it copies, if it is a copycat.
    pub victim: Option<Author>,
    /// When a slow miner replies, in shares of the timeout that the validator states: above 1 is too late.
    pub slow: RangeInclusive<f64>,
    /// The body of an oversized reply.
    pub oversized: Bytes,
}

/// A reply, and how long the miner takes its time before it gives it.
#[derive(Debug)]
pub struct Planned {
    /// From the moment the prompt was read.
    pub after: Duration,
    /// What goes on the wire.
    pub reply: Reply,
}

/// A synapse whose completion has this many bytes.
#[must_use]
pub fn oversized_body(completion_bytes: usize) -> Bytes {
    let mut body = br#"{"completion": ""#.to_vec();
    body.extend(b"more ".iter().cycle().take(completion_bytes));
    body.extend_from_slice(br#""}"#);
    body.into()
}

// === impl Behaviour ===

impl Behaviour {
    /// The reply to a prompt of a validator that says it waits for `timeout`: always the same. Takes milliseconds: not for
    /// a thread that must stay quick.
    #[must_use]
    pub fn reply(&self, prompt: &str, timeout: Duration) -> Planned {
        let reply = match self.kind {
            MinerKind::Honest(tier) => Reply::Completion(self.author(tier).complete(prompt)),
            MinerKind::Specialist(field) => {
                let tier = if field::of(prompt) == Some(field) { Tier::Good } else { Tier::Poor };
                Reply::Completion(self.author(tier).complete(prompt))
            }
            MinerKind::Slow => Reply::Completion(self.author(Tier::Good).complete(prompt)),
            MinerKind::Lazy => Reply::Completion(self.stock_sentence()),
            MinerKind::Echo => Reply::Completion(prompt.to_owned()),
            MinerKind::Copycat => {
                Reply::Completion(self.victim.map_or_else(|| self.stock_sentence(), |victim| victim.complete(prompt)))
            }
            MinerKind::KeywordSpammer => Reply::Completion(self.spam(prompt)),
            MinerKind::Refusing => self.refusal(prompt),
            MinerKind::WrongJson => self.wrong_json(prompt),
            // With and without a length in its head.
            MinerKind::Oversized if self.rng("oversized", prompt).random() => Reply::Endless,
            MinerKind::Oversized => json(self.oversized.clone()),
            MinerKind::Hanging => Reply::Never,
            // Served by `garbage.rs`; here is nothing as bad.
            MinerKind::Garbage => Reply::HangUp,
        };
        let after = match self.kind {
            MinerKind::Slow => self.delay(prompt, timeout),
            MinerKind::Copycat => COPY_DELAY,
            _ => Duration::ZERO,
        };
        Planned { after, reply }
    }

    fn author(&self, tier: Tier) -> Author {
        Author { seed: self.seed, index: self.index, tier }
    }

    fn rng(&self, purpose: &str, prompt: &str) -> impl Rng + use<> {
        self.seed.rng(&format!("localnet/{purpose}/{prompt}"), &[u64::from(self.index)])
    }

    fn delay(&self, prompt: &str, timeout: Duration) -> Duration {
        let share = self.rng("delay", prompt).random_range(self.slow.clone());
        Duration::try_from_secs_f64(timeout.as_secs_f64() * share)
            .map_or(LONGEST_DELAY, |after| after.min(LONGEST_DELAY))
    }

    fn stock_sentence(&self) -> String {
        STOCK_SENTENCES.choose(&mut self.rng("lazy", "")).copied().unwrap_or_default().to_owned()
    }

    fn refusal(&self, prompt: &str) -> Reply {
        let (code, message) = if self.rng("refuse", prompt).random() {
            (403, "Forbidden. Key is blacklisted: not enough stake.")
        } else {
            (503, "Service unavailable: too many requests in the queue.")
        };
        Reply::Status { code, message: message.to_owned() }
    }

    /// JSON, but not the synapse: no completion can be read from any of these.
    fn wrong_json(&self, prompt: &str) -> Reply {
        const SHAPES: [&str; 5] = [
            r#"{"completion": 42}"#,
            "[]",
            r#"{"completion": ["a", "list"]}"#,
            r#""only a text""#,
            r#"{"completion": {"text": "too deep"}}"#,
        ];
        let nested = || "[".repeat(NESTED_BRACKETS) + &"]".repeat(NESTED_BRACKETS);
        let shape = SHAPES.get(self.rng("wrong json", prompt).random_range(0..=SHAPES.len()));
        json(shape.map_or_else(|| nested().into(), |shape| Bytes::from_static(shape.as_bytes())))
    }

    /// The prompt's most frequent content words and words of praise, over and over, in no order.
    fn spam(&self, prompt: &str) -> String {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for stem in text::stems(prompt) {
            *counts.entry(stem).or_default() += 1;
        }
        let mut words: Vec<_> = counts.into_iter().collect();
        words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let mut rng = self.rng("spam", prompt);
        let keys = words.iter().take(KEYWORDS).map(|(word, _)| word.as_str());
        let mut pile: Vec<&str> = keys.chain(PRAISE).cycle().take(SPAM_WORDS).collect();
        pile.shuffle(&mut rng);
        pile.join(" ")
    }
}

/// Status 200 with this body.
fn json(body: Bytes) -> Reply {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Reply::Raw(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "The carver pasted the drawing on cherry wood. The printer rubbed damp paper against the block. A \
                          second block held another colour.\n\nSummarise the text in 2 sentences.";

    const TIMEOUT: Duration = Duration::from_secs(4);

    fn behaviour(kind: MinerKind) -> Behaviour {
        Behaviour {
            seed: Seed(5),
            index: 3,
            kind,
            victim: Some(Author { seed: Seed(5), index: 9, tier: Tier::Good }),
            slow: 0.9..=2.0,
            oversized: oversized_body(1_000),
        }
    }

    fn completion(behaviour: &Behaviour, prompt: &str) -> String {
        match behaviour.reply(prompt, TIMEOUT).reply {
            Reply::Completion(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// What a kind replies to forty prompts.
    fn replies(kind: MinerKind) -> impl Iterator<Item = Reply> {
        (0..40).map(move |number| behaviour(kind).reply(&number.to_string(), TIMEOUT).reply)
    }

    #[test]
    fn each_kind_replies_as_it_is_called() {
        assert_eq!(completion(&behaviour(MinerKind::Echo), PROMPT), PROMPT);
        let lazy = behaviour(MinerKind::Lazy);
        assert_eq!(completion(&lazy, PROMPT), completion(&lazy, "another prompt"));
        let honest = Behaviour { index: 9, ..behaviour(MinerKind::Honest(Tier::Good)) };
        assert_eq!(completion(&behaviour(MinerKind::Copycat), PROMPT), completion(&honest, PROMPT));
        let spam = completion(&behaviour(MinerKind::KeywordSpammer), PROMPT);
        assert!(spam.matches("block").count() >= 3 && spam.matches("excellent").count() >= 3, "{spam}");
        assert_eq!(spam.split(' ').count(), SPAM_WORDS);
        assert!(matches!(behaviour(MinerKind::Hanging).reply(PROMPT, TIMEOUT).reply, Reply::Never));
    }

    #[test]
    fn a_specialist_is_good_in_its_field_and_poor_elsewhere() {
        let source = openvalidators_prompts::Embedded::new();
        for passage in source.passages().iter().filter(|passage| passage.place == 0) {
            let prompt = format!("{}\n\nSummarise this text in five sentences.", passage.text);
            let field = field::of(&prompt).unwrap();
            assert_eq!(field.to_string(), passage.topic);
            let as_good = completion(&behaviour(MinerKind::Honest(Tier::Good)), &prompt);
            let as_poor = completion(&behaviour(MinerKind::Honest(Tier::Poor)), &prompt);
            assert_eq!(completion(&behaviour(MinerKind::Specialist(field)), &prompt), as_good);
            let elsewhere = field::Field((field.0 + 1) % field::FIELDS);
            assert_eq!(completion(&behaviour(MinerKind::Specialist(elsewhere)), &prompt), as_poor);
        }
    }

    #[test]
    fn a_slow_miner_does_the_task_but_as_a_rule_after_the_deadline_whatever_that_is() {
        let after = |prompt: &str, timeout| behaviour(MinerKind::Slow).reply(prompt, timeout).after;
        for timeout in [Duration::from_millis(500), TIMEOUT, Duration::from_secs(12)] {
            let mut in_time = 0;
            for number in 0..200 {
                let after = after(&format!("{PROMPT} {number}"), timeout);
                assert!(after >= timeout.mul_f64(0.9) && after <= timeout.mul_f64(2.0), "{after:?} of {timeout:?}");
                in_time += usize::from(after < timeout);
            }
            assert!((6..36).contains(&in_time), "{in_time} of 200 replies come in time, one in eleven was expected");
        }
        assert_eq!(after(PROMPT, TIMEOUT), after(PROMPT, TIMEOUT));
        assert_eq!(after(PROMPT, Duration::MAX), LONGEST_DELAY);
        let honest = behaviour(MinerKind::Honest(Tier::Good));
        assert_eq!(completion(&behaviour(MinerKind::Slow), PROMPT), completion(&honest, PROMPT));
        assert_eq!(honest.reply(PROMPT, TIMEOUT).after, Duration::ZERO);
    }

    #[test]
    fn a_refusing_miner_refuses_in_both_ways() {
        let code = |reply| match reply {
            Reply::Status { code, .. } => code,
            other => panic!("{other:?}"),
        };
        let codes: std::collections::BTreeSet<_> = replies(MinerKind::Refusing).map(code).collect();
        assert_eq!(codes.into_iter().collect::<Vec<_>>(), [403, 503]);
    }

    #[test]
    fn an_oversized_reply_comes_with_and_without_an_end() {
        let whole: Vec<bool> = replies(MinerKind::Oversized)
            .map(|reply| match reply {
                Reply::Endless => false,
                Reply::Raw(response) => response.body().len() > 1_000,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(whole.contains(&true) && whole.contains(&false));
        let body: serde_json::Value = serde_json::from_slice(&oversized_body(1_000)).unwrap();
        assert_eq!(body["completion"].as_str().unwrap().len(), 1_000);
    }

    #[test]
    fn wrong_json_is_json_without_a_completion() {
        let mut shapes = std::collections::HashSet::new();
        for reply in replies(MinerKind::WrongJson) {
            let Reply::Raw(response) = reply else { panic!("{reply:?}") };
            if response.body().len() < NESTED_BRACKETS {
                let json: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
                assert!(!json["completion"].is_string(), "{json}");
            }
            shapes.insert(response.into_body());
        }
        assert_eq!(shapes.len(), 6);
    }
}
