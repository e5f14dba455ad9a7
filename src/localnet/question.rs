//! Asking about a text: a statement with a clear subject is turned into a question, or asked about as a whole, or two
//! things that the text speaks of often are set beside each other. Few patterns, each of which makes grammatical English.

use std::collections::HashMap;

use rand::Rng;

use crate::localnet::{
    answers::{continued, leans_on_the_one_before},
    text,
};

/// Words a subject may have before its verb: longer ones hide another verb too often.
const MAX_SUBJECT_WORDS: usize = 4;
/// Words of a statement that says enough to be asked about.
const MIN_STATEMENT_WORDS: usize = 6;
/// Words that must follow the verb for a question to say what it is about.
const MIN_REST_WORDS: usize = 3;
/// Statements from the beginning that are tried.
const MAX_STATEMENTS: usize = 100;
/// Words of a name that are read.
const MAX_NAME_WORDS: usize = 5;
/// Words a whole question may have.
const MAX_WORDS: usize = 32;

const OPENINGS: [&str; 13] = [
    "According to the text,",
    "From what the text says,",
    "Going by this account,",
    "In the light of the passage,",
    "As the passage has it,",
    "To judge by the text,",
    "Reading this closely,",
    "In the author's account,",
    "As far as we are told,",
    "On the evidence of the text,",
    "In this description,",
    "Thinking about the passage,",
    "By this account,",
];

/// Each fits any statement, of any tense.
const ABOUT_A_FACT: [&str; 6] = [
    "how is it to be explained that {}?",
    "what lies behind the fact that {}?",
    "what follows from the fact that {}?",
    "why does it matter that {}?",
    "what more should be known about the fact that {}?",
    "what else goes with the fact that {}?",
];

const ABOUT_TWO: [&str; 5] = [
    "what connection is there between {} and {}?",
    "what do we learn about {} when we look at {}?",
    "what does the passage say about {} in relation to {}?",
    "in what way do {} and {} belong together?",
    "what can be concluded about {} from what is said of {}?",
];

/// Verbs of the past that do not end in -ed and that people do.
const PAST: [&str; 30] = [
    "began", "bought", "brought", "built", "came", "chose", "drew", "fell", "flew", "found", "gave", "held", "kept",
    "led", "left", "made", "met", "put", "ran", "rose", "saw", "set", "sold", "spent", "taught", "thought", "told",
    "took", "won", "wrote",
];

/// A question about `context`, made from one of its `salient` sentences where that can be. `turn(n)` picks one of n
/// possibilities, differently for each author.
pub fn ask(context: &[&str], salient: &[&str], turn: impl Fn(usize) -> usize, rng: &mut impl Rng) -> String {
    let opening = OPENINGS[turn(OPENINGS.len())];
    let mut turned: Vec<String> =
        context.iter().take(MAX_STATEMENTS).filter_map(|sentence| turn_around(sentence, context)).collect();
    let mut facts: Vec<String> = salient.iter().filter_map(|sentence| statement(sentence, context)).collect();
    let question = if !turned.is_empty() && (facts.is_empty() || rng.random()) {
        turned.swap_remove(rng.random_range(0..turned.len()))
    } else if !facts.is_empty() {
        let fact = facts.swap_remove(rng.random_range(0..facts.len()));
        ABOUT_A_FACT[rng.random_range(0..ABOUT_A_FACT.len())].replacen("{}", &fact, 1)
    } else {
        about_topics(context, rng)
    };
    format!("{opening} {question}")
}

/// A sentence that can follow "that": a statement that stands by itself, not too long to be asked about.
fn statement(sentence: &str, context: &[&str]) -> Option<String> {
    let (open, _) = text::split_close(sentence);
    let length = text::words(open).count();
    let leans = leans_on_the_one_before(open);
    let stands = (MIN_STATEMENT_WORDS..=MAX_WORDS).contains(&length) && !open.contains(['"', '“', ';', ':', '?']);
    (stands && !leans).then(|| continued(open, context))
}

/// The statement as a question, if one of the patterns fits it.
fn turn_around(sentence: &str, context: &[&str]) -> Option<String> {
    if sentence.contains(['(', '"', '“', ';', ':']) {
        return None;
    }
    // The first clause: what follows a comma is often about something else.
    let clause = text::split_close(sentence).0.split(',').next()?;
    let words: Vec<&str> = clause.split_whitespace().collect();
    if words.len() > MAX_WORDS {
        return None;
    }
    who(&words).or_else(|| why_or_when(&words, context))
}

/// "Kitagawa Utamaro brought the viewpoint close" → "who brought the viewpoint close?"
fn who(words: &[&str]) -> Option<String> {
    let name = words.iter().take_while(|word| is_capitalised(word)).count();
    let verb = words.get(name)?;
    let is_person = (2..=3).contains(&name) && !words[..name].iter().any(|word| is_place_or_thing(word));
    let acts = PAST.contains(verb) || (verb.ends_with("ed") && verb.len() > 4);
    (is_person && acts && words.len() - name > MIN_REST_WORDS).then(|| format!("who {}?", words[name..].join(" ")))
}

/// "The carver was paid by the sheet in 1765" → "when was the carver paid by the sheet?", without a year "why".
fn why_or_when(words: &[&str], context: &[&str]) -> Option<String> {
    let at = words.iter().take(MAX_SUBJECT_WORDS + 1).position(|word| is_auxiliary(word))?;
    let (subject, verb, rest) = (&words[..at], words[at], &words[at + 1..]);
    if subject.is_empty() || rest.len() < MIN_REST_WORDS || !names_something(subject) {
        return None;
    }
    // "has a nose" would need another verb in a question: "has been" and "has moved" do not.
    let first_of_rest = rest[0].to_lowercase();
    if matches!(verb, "has" | "have" | "had") && !(first_of_rest == "been" || first_of_rest.ends_with("ed")) {
        return None;
    }
    if first_of_rest == "not" {
        return None;
    }
    let subject = continued(&subject.join(" "), context);
    match rest.iter().rposition(|word| is_year(word)) {
        Some(year) if year + 1 == rest.len() && year > 1 && rest[year - 1] == "in" => {
            Some(format!("when {verb} {subject} {}?", rest[..year - 1].join(" ")))
        }
        _ => Some(format!("why {verb} {subject} {}?", rest.join(" "))),
    }
}

/// A question about the two things the text speaks of most, or one of the next.
fn about_topics(context: &[&str], rng: &mut impl Rng) -> String {
    let topics = topics(context);
    let pattern = ABOUT_TWO[rng.random_range(0..ABOUT_TWO.len())];
    let mut near_the_top = || rng.random_range(0..topics.len().min(5));
    match topics.len() {
        0 => "what is the main point of the text, and why does it matter?".to_owned(),
        1 => format!("what is the most important thing about {}?", topics[0]),
        _ => {
            let first = near_the_top();
            let second = near_the_top();
            let second = if second == first { (first + 1) % topics.len() } else { second };
            pattern.replacen("{}", &topics[first], 1).replacen("{}", &topics[second], 1)
        }
    }
}

/// Noun phrases, most frequent first: names inside sentences, and what follows an article.
fn topics(context: &[&str]) -> Vec<String> {
    let mut counts: HashMap<String, (usize, usize)> = HashMap::new();
    let mut seen = 0;
    for sentence in context {
        let words: Vec<&str> = sentence.split_whitespace().collect();
        for at in 1..words.len() {
            let phrase = match words[at - 1].to_lowercase().as_str() {
                "the" | "a" | "an" => noun_after(&words[at..]).map(|noun| format!("the {noun}")),
                _ => name_at(&words, at),
            };
            if let Some(phrase) = phrase {
                seen += 1;
                counts.entry(phrase).or_insert((0, seen)).0 += 1;
            }
        }
    }
    let mut topics: Vec<_> = counts.into_iter().collect();
    topics.sort_by_key(|(_, (count, first))| (std::cmp::Reverse(*count), *first));
    topics.into_iter().map(|(phrase, _)| phrase).collect()
}

/// One or two content words up to the next small word or punctuation; the last must look like a noun.
fn noun_after(words: &[&str]) -> Option<String> {
    let mut noun: Vec<&str> = Vec::new();
    for word in words.iter().take(3) {
        let bare = word.trim_end_matches(|c: char| !c.is_alphanumeric());
        if text::is_stop_word(bare) || bare.is_empty() {
            break;
        }
        noun.push(bare);
        if bare.len() < word.len() {
            break;
        }
    }
    let last = noun.last()?;
    // These are about the text, not what it is about.
    if noun
        .iter()
        .any(|word| matches!(*word, "text" | "passage" | "account" | "author" | "question" | "answer" | "reader"))
    {
        return None;
    }
    let no_noun = ["ed", "ly", "ing", "ous", "ful", "ive", "al", "ic"].iter().any(|ending| last.ends_with(ending));
    // Three words in a row hide a verb more often than not.
    let looks_right = noun.len() < 3 && !no_noun && noun.iter().all(|word| word.chars().all(char::is_alphabetic));
    looks_right.then(|| noun.join(" "))
}

/// A name that starts here, inside a sentence: capitalised words and what joins them ("Giacomo da Lentini").
fn name_at(words: &[&str], at: usize) -> Option<String> {
    let inside =
        is_capitalised(words[at - 1]) || (at > 1 && joins_names(words[at - 1]) && is_capitalised(words[at - 2]));
    if inside || !is_capitalised(words[at]) || text::is_stop_word(words[at]) {
        return None;
    }
    let mut name: Vec<&str> = Vec::new();
    for (place, word) in words.iter().enumerate().skip(at).take(MAX_NAME_WORDS) {
        let joins = joins_names(word) && words.get(place + 1).is_some_and(|next| is_capitalised(next));
        if !is_capitalised(word) && !joins {
            break;
        }
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        name.push(bare.trim_end_matches("'s").trim_end_matches("’s"));
        if bare.len() < word.len() {
            break;
        }
    }
    // Cut off at the limit, a name may end in a joint.
    while name.last().is_some_and(|word| joins_names(word)) {
        name.pop();
    }
    (!name.is_empty()).then(|| name.join(" "))
}

fn joins_names(word: &str) -> bool {
    matches!(
        word,
        "da" | "de" | "del" | "della" | "di" | "du" | "la" | "le" | "van" | "von" | "der" | "den" | "bin" | "ibn"
    )
}

fn names_something(subject: &[&str]) -> bool {
    let first = subject[0].to_lowercase();
    let article = matches!(
        first.as_str(),
        "the" | "a" | "an" | "most" | "many" | "some" | "several" | "few" | "every" | "early" | "modern" | "all"
    );
    let starts_well = article || (is_capitalised(subject[0]) && !text::is_stop_word(&first));
    let joins = |word: &&str| {
        matches!(word.to_lowercase().as_str(), "who" | "which" | "that" | "and" | "but" | "to" | "if" | "than" | "as")
            || word.ends_with("ing")
            || word.ends_with("ed")
    };
    let ends_in_noun = subject.last().is_some_and(|word| !text::is_stop_word(word));
    starts_well && ends_in_noun && !subject[1..].iter().any(joins)
}

fn is_auxiliary(word: &str) -> bool {
    matches!(
        word,
        "is" | "are"
            | "was"
            | "were"
            | "has"
            | "have"
            | "had"
            | "can"
            | "could"
            | "may"
            | "might"
            | "must"
            | "should"
            | "will"
            | "would"
    )
}

fn is_capitalised(word: &str) -> bool {
    word.starts_with(char::is_uppercase) && word.chars().skip(1).any(char::is_lowercase)
}

fn is_place_or_thing(word: &str) -> bool {
    matches!(
        word,
        "The"
            | "A"
            | "An"
            | "New"
            | "North"
            | "South"
            | "East"
            | "West"
            | "Mount"
            | "Lake"
            | "River"
            | "Great"
            | "Sea"
            | "Ocean"
            | "Island"
            | "Islands"
            | "Empire"
            | "University"
            | "War"
            | "Company"
            | "Street"
            | "City"
    ) || text::is_stop_word(word)
}

fn is_year(word: &str) -> bool {
    word.len() == 4 && word.parse::<u16>().is_ok_and(|year| (1000..2100).contains(&year))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(sentence: &str) -> Option<String> {
        turn_around(sentence, &["the sonnet was an early form of love."])
    }

    #[test]
    fn statements_with_a_clear_subject_turn_into_questions() {
        let expected = [
            ("Kitagawa Utamaro brought the viewpoint close, said some.", "who brought the viewpoint close?"),
            ("The carver was paid by the sheet in 1765.", "when was the carver paid by the sheet?"),
            ("Early prints were made in black ink.", "why were early prints made in black ink?"),
            ("Petrarch has been read by many poets since.", "why has Petrarch been read by many poets since?"),
        ];
        for (statement, question) in expected {
            assert_eq!(turned(statement).as_deref(), Some(question), "{statement}");
        }
    }

    #[test]
    fn a_statement_that_would_make_bad_english_is_left_alone() {
        for statement in [
            "He was a poet of the court.",
            "When it rained the prints were hung indoors.",
            "The painter has a nose for it.",
            "Paintings of their amusements existed before the prints.",
            "The scholars who read it were not of one mind.",
            "New York opened three more museums.",
            "It was so.",
        ] {
            assert_eq!(turned(statement), None, "{statement}");
        }
    }

    #[test]
    fn a_statement_is_asked_about_as_a_whole() {
        let asked = |sentence| statement(sentence, &[]);
        let fact = "the carver pasted the drawing face down on cherry wood";
        assert_eq!(asked("The carver pasted the drawing face down on cherry wood.").as_deref(), Some(fact));
        for no in
            ["He pasted the drawing face down on wood.", "It was so.", "There is one rule: never cut the line twice."]
        {
            assert_eq!(asked(no), None, "{no}");
        }
    }

    #[test]
    fn names_are_read_whole() {
        let context =
            ["The form was made by Giacomo da Lentini, and Lentini's text pleased Ludwig van Beethoven, of Bonn."];
        assert_eq!(topics(&context), ["the form", "Giacomo da Lentini", "Lentini", "Ludwig van Beethoven", "Bonn"]);
    }

    #[test]
    fn topics_are_what_the_text_speaks_of_most() {
        let context = [
            "In Italy the sonnet was loved, and Laura knew the sonnet well.",
            "Many poets wrote the sonnet for Laura in a quickly written hand.",
        ];
        let found = topics(&context);
        assert_eq!(&found[..2], ["the sonnet", "Laura"]);
        assert!(!found.iter().any(|topic| topic.contains("quickly")), "{found:?}");
    }
}
