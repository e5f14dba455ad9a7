use std::collections::HashSet;

use super::*;

/// The corpus the validator itself draws its contexts from.
const CORPUS: [&str; 10] = [
    include_str!("../../actors/prompts/corpus/arts-and-literature.txt"),
    include_str!("../../actors/prompts/corpus/astronomy-and-physics.txt"),
    include_str!("../../actors/prompts/corpus/biology-and-medicine.txt"),
    include_str!("../../actors/prompts/corpus/chemistry-and-materials.txt"),
    include_str!("../../actors/prompts/corpus/earth-and-climate.txt"),
    include_str!("../../actors/prompts/corpus/geography-and-places.txt"),
    include_str!("../../actors/prompts/corpus/history-and-archaeology.txt"),
    include_str!("../../actors/prompts/corpus/mathematics-and-computing.txt"),
    include_str!("../../actors/prompts/corpus/society-economy-and-food.txt"),
    include_str!("../../actors/prompts/corpus/technology-and-engineering.txt"),
];

const SUMMARISE: &str = "Summarize the preceding context in 6 sentences. Do not try to create questions or answers.";
const ASK: &str = "Ask one relevant question about the preceding context. Do not return an answer or a summary.";

/// Every fifth passage of the corpus, without its heading.
fn passages() -> Vec<&'static str> {
    let passages = CORPUS.iter().flat_map(|file| file.split("\n# "));
    let bodies: Vec<_> =
        passages.filter_map(|passage| passage.split_once("\n\n")).map(|(_, body)| body.trim()).collect();
    assert!(bodies.len() > 120, "{} passages", bodies.len());
    bodies.into_iter().step_by(5).collect()
}

fn author(index: u16, tier: Tier) -> Author {
    Author { seed: Seed(3), index, tier }
}

fn answer_prompt(passage: &str) -> String {
    let question = author(9, Tier::Good).complete(&format!("{passage}\n\n{ASK}"));
    format!(
        "{passage}\n\nQuestion: {question}\nAnswer the question step by step. Do not include questions or summaries."
    )
}

/// The three tasks of a forward on one passage.
fn prompts(passage: &str) -> [String; 3] {
    [format!("{passage}\n\n{SUMMARISE}"), format!("{passage}\n\n{ASK}"), answer_prompt(passage)]
}

/// Share of the neighbouring words of a completion that are neighbours in the prompt too: how well it reads.
fn fluency(completion: &str, prompt: &str) -> f64 {
    fn pairs(text: &str) -> Vec<(String, String)> {
        let words: Vec<_> = text::words(text).map(str::to_lowercase).collect();
        words.windows(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    }
    let known: HashSet<_> = pairs(prompt).into_iter().collect();
    let found = pairs(completion);
    found.iter().filter(|pair| known.contains(*pair)).count() as f64 / found.len().max(1) as f64
}

/// Share of the source's content words that are in the completion.
fn coverage(completion: &str, source: &str) -> f64 {
    let (completion, source) = (text::stem_set(completion), text::stem_set(source));
    source.intersection(&completion).count() as f64 / source.len() as f64
}

/// Share of the completion's content words that are in the source.
fn faithfulness(completion: &str, source: &str) -> f64 {
    let (completion, source) = (text::stem_set(completion), text::stem_set(source));
    completion.intersection(&source).count() as f64 / completion.len().max(1) as f64
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<_> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn a_completion_is_a_function_of_seed_index_and_prompt() {
    for prompt in prompts(passages()[0]) {
        let first = author(1, Tier::Fair).complete(&prompt);
        assert_eq!(first, author(1, Tier::Fair).complete(&prompt));
        assert_ne!(first, Author { seed: Seed(4), ..author(1, Tier::Fair) }.complete(&prompt));
        assert_ne!(first, author(1, Tier::Fair).complete(&prompt.replace("the", "this")));
    }
}

#[test]
fn good_summaries_keep_more_of_the_source_than_fair_and_fair_more_than_poor() {
    let passages = passages();
    let measure = |tier, of: fn(&str, &str) -> f64| {
        mean(
            passages.iter().map(|passage| of(&author(1, tier).complete(&format!("{passage}\n\n{SUMMARISE}")), passage)),
        )
    };
    let [good, fair, poor] = [Tier::Good, Tier::Fair, Tier::Poor].map(|tier| measure(tier, coverage));
    assert!(good > fair * 1.15 && fair > poor * 1.5, "coverage: good {good:.3}, fair {fair:.3}, poor {poor:.3}");
}

/// What a language model and a relevance filter will see, without either: words in their order, and on the subject.
#[test]
fn every_task_is_done_better_by_the_better_tier() {
    let all: Vec<_> = passages().into_iter().map(prompts).collect();
    for task in 0..3 {
        let measure = |tier, of: fn(&str, &str) -> f64| {
            mean(all.iter().map(|prompts| of(&author(2, tier).complete(&prompts[task]), &prompts[task])))
        };
        let [good, fair, poor] = [Tier::Good, Tier::Fair, Tier::Poor].map(|tier| measure(tier, fluency));
        assert!(good > fair + 0.05 && fair > poor + 0.05, "task {task}: fluency {good:.3} {fair:.3} {poor:.3}");
        // A question has few words, and its opening weighs much among them.
        let [good, fair] = [Tier::Good, Tier::Fair].map(|tier| measure(tier, faithfulness));
        assert!(
            if task == 1 { good > 0.6 } else { good > 0.8 && good > fair + 0.05 },
            "task {task}: {good:.3} {fair:.3}"
        );
    }
}

#[test]
fn good_summaries_have_the_sentences_asked_for_in_their_order() {
    for passage in passages() {
        let completion = author(5, Tier::Good).complete(&format!("{passage}\n\n{SUMMARISE}"));
        let sentences = text::sentences(&completion);
        assert_eq!(sentences.len(), 6.min(text::sentences(passage).len()), "{completion}");
        assert!(sentences.iter().all(|sentence| sentence.ends_with(['.', '!', '?', '"', '”'])), "{completion}");
        // The tail of each sentence is verbatim, and the tails come in the order of the source.
        let tail =
            |sentence: &str| sentence.chars().rev().take(24).collect::<Vec<_>>().into_iter().rev().collect::<String>();
        let places: Vec<_> = sentences.iter().map(|sentence| passage.find(&tail(sentence))).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{completion}\n{places:?}");
    }
}

#[test]
fn good_questions_are_one_question_about_the_text() {
    for passage in passages() {
        let completion = author(6, Tier::Good).complete(&format!("{passage}\n\n{ASK}"));
        assert!(completion.ends_with('?') && completion.matches('?').count() == 1, "{completion}");
        assert!((5..60).contains(&text::words(&completion).count()), "{completion}");
        assert!(
            text::stems(&completion).filter(|stem| text::stem_set(passage).contains(stem)).count() >= 2,
            "{completion}"
        );
    }
}

#[test]
fn good_answers_hold_what_the_question_asks_about() {
    let shared = mean(passages().iter().map(|passage| {
        let prompt = answer_prompt(passage);
        let question = prompt.split("Question: ").nth(1).unwrap().lines().next().unwrap();
        let asked: HashSet<_> = text::stem_set(question).intersection(&text::stem_set(passage)).cloned().collect();
        let told = text::stem_set(&author(7, Tier::Good).complete(&prompt));
        asked.intersection(&told).count() as f64 / asked.len() as f64
    }));
    assert!(shared > 0.8, "{shared:.3} of the words asked about are in the answers");
}

#[test]
fn no_two_honest_miners_of_a_tier_write_the_same() {
    for passage in passages().iter().step_by(4) {
        for prompt in prompts(passage) {
            for tier in [Tier::Good, Tier::Fair, Tier::Poor] {
                let all: Vec<_> = (0..12).map(|index| author(index, tier).complete(&prompt)).collect();
                let different: HashSet<_> = all.iter().collect();
                assert_eq!(different.len(), all.len(), "{all:#?}");
            }
        }
    }
}

/// The best completion of a step is the text of the next.
#[test]
fn openings_do_not_pile_up() {
    let summary = author(1, Tier::Good).complete(&format!("{}\n\n{SUMMARISE}", passages()[0]));
    let again = author(2, Tier::Good).complete(&format!("{summary}\n\n{SUMMARISE}"));
    let openings = |text: &str| SUMMARY_OPENINGS.iter().filter(|opening| text.contains(*opening)).count();
    assert_eq!((openings(&summary), openings(&again)), (1, 1), "{again}");
    assert_eq!(unframed("The text says that love was first."), "Love was first.");
    assert_eq!(unframed("Also, the end."), "The end.");
    assert_eq!(unframed("Alsowhere."), "Alsowhere.");
}

#[test]
fn any_prompt_gets_a_completion() {
    for prompt in
        ["", "?", "hello", "Question:", "\u{0}\u{202e}", "Summarise.", "。。。\n\nAnswer: é", &"a.".repeat(40_000)]
    {
        for tier in [Tier::Good, Tier::Fair, Tier::Poor] {
            assert!(!author(1, tier).complete(prompt).is_empty(), "{prompt:.20}");
        }
    }
}
