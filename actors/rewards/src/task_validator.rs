//! Whether a completion keeps to its task: a summary that also asks and answers tries to steer the steps after it.
//! After `reward/task_validator.py` of the reference.

use async_trait::async_trait;
use openvalidators_messages::StepKind;
use openvalidators_runtime::on_worker;

use crate::{
    config::Compat,
    function::{Filter, Filtered, pass},
    step::{AskError, Step},
};

/// The column.
pub const NAME: &str = "task_validator_filter";

const SUMMARY_LABELS: [&str; 4] = ["summary:", "paraphrase:", "paraphrasing:", "paraphrased:"];
const QUESTION_LABELS: [&str; 3] = ["question:", "query:", "q:"];
const ANSWER_LABELS: [&str; 4] = ["answer:", "response:", "a:", "completion:"];

/// Blocks completions that carry the label of another task.
#[derive(Clone, Copy)]
pub struct TaskValidator {
    within_words: bool,
}

impl TaskValidator {
    /// As configured.
    #[must_use]
    pub fn new(compat: Compat) -> Self {
        Self { within_words: compat.task_validator_substring }
    }

    /// Whether a completion of this kind of step passes.
    #[must_use]
    pub fn passes(&self, kind: StepKind, text: &str) -> bool {
        let text = text.to_lowercase();
        let carries = |labels: &[&str]| labels.iter().any(|label| self.carries(&text, label));
        match kind {
            StepKind::Augment => !carries(&ANSWER_LABELS) && !carries(&QUESTION_LABELS),
            StepKind::Followup => !carries(&ANSWER_LABELS) && !carries(&SUMMARY_LABELS),
            StepKind::Answer => !carries(&QUESTION_LABELS) && !carries(&SUMMARY_LABELS),
        }
    }

    /// A label counts where no word runs into it: "data:" does not carry "a:", which the reference finds there.
    fn carries(&self, text: &str, label: &str) -> bool {
        let starts_word = |place: usize| !text[..place].chars().next_back().is_some_and(char::is_alphanumeric);
        text.match_indices(label).any(|(place, _)| self.within_words || starts_word(place))
    }
}

#[async_trait(?Send)]
impl Filter for TaskValidator {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn filter(&self, step: &Step) -> Result<Filtered, AskError> {
        let (validator, kind, texts) = (*self, step.kind, step.texts.clone());
        let factors = move || texts.iter().map(|text| pass(validator.passes(kind, text))).collect::<Vec<_>>();
        Ok(on_worker(factors).await.into())
    }
}

#[cfg(test)]
mod tests {
    use openvalidators_messages::StepName;

    use super::*;
    use crate::parity::{golden, numbers, texts};

    #[test]
    fn substring_mode_decides_as_the_reference() {
        let reference = TaskValidator::new(Compat { task_validator_substring: true, ..Compat::default() });
        let recorded = golden("filters");
        let texts = texts(&recorded["task_validator_texts"]);
        // `augment0` and `other` are recorded too, but no step has such a name.
        for (name, kind) in [
            ("augment", StepKind::Augment),
            ("followup", StepKind::Followup),
            ("followup0", "followup0".parse::<StepName>().unwrap().kind()),
            ("answer", StepKind::Answer),
            ("answer2", "answer2".parse::<StepName>().unwrap().kind()),
        ] {
            let ours: Vec<_> = texts.iter().map(|text| pass(reference.passes(kind, text.trim()))).collect();
            assert_eq!(ours, numbers(&recorded["task_validator"][name]), "{name}");
        }
    }

    #[test]
    fn a_label_inside_a_word_is_no_label() {
        let ours = TaskValidator::new(Compat::default());
        for honest in ["Key idea: peace.", "The data: fine.", "See the FAQ: it helps.", "In Canada: snow."] {
            assert!(ours.passes(StepKind::Augment, honest), "{honest}");
        }
        for steering in ["Text. Answer: yes", "Q: why?", "text\na: so", "(a: so)", "QUERY:", "Two.Question:"] {
            assert!(!ours.passes(StepKind::Augment, steering), "{steering}");
        }
        assert!(ours.passes(StepKind::Augment, "Summary: all of it."));
        assert!(!ours.passes(StepKind::Followup, "Summary: all of it."));
        assert!(ours.passes(StepKind::Followup, "Question: why?"));
        assert!(ours.passes(StepKind::Answer, "Answer: so."));
        assert!(!ours.passes(StepKind::Answer, "Question: why?"));
    }
}
