//! Reading a prompt: what is asked, and of which text.
//!
//! Templates are replaceable, so nothing here knows one by heart. An instruction is a sentence whose verb asks for
//! something ("Summarise …", "Please ask …", "In six sentences, write a summary …"); what it forbids ("Do not answer
//! …") is not read as a wish. The last paragraph is looked at first, the first one after it.

use crate::localnet::text;

/// Words a sentence needs to say something about the text: less is a heading, a tag or a label.
const MIN_SENTENCE_WORDS: usize = 4;
/// Words a line may have that only announces what the next lines hold.
const MAX_ANNOUNCEMENT_WORDS: usize = 14;
/// Paragraphs from the end, and then from the start, in which an instruction is looked for.
const INSTRUCTION_PARAGRAPHS: usize = 3;

/// What a prompt wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// A shorter text.
    Summarise {
        /// How many sentences, if the prompt says so.
        sentences: Option<usize>,
    },
    /// A question about the text.
    Ask,
    /// An answer out of the text.
    Answer {
        /// To what.
        question: String,
    },
}

/// A prompt understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading<'a> {
    /// What is wanted.
    pub task: Task,
    /// The sentences of the text it is wanted of, in order, without instruction, labels and earlier questions.
    pub context: Vec<&'a str>,
}

/// A line of a prompt without its quote mark.
#[derive(Clone, Copy)]
struct Line<'a> {
    text: &'a str,
    quoted: bool,
}

/// The sentence that says what is wanted.
struct Instruction<'a> {
    verb: Verb,
    sentence: &'a str,
    /// Index of its line.
    line: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Summarise,
    Ask,
    Answer,
}

/// Understands a prompt. One that asks for nothing recognisable is answered if it ends in a question, otherwise
/// summarised.
#[must_use]
pub fn read(prompt: &str) -> Reading<'_> {
    let mut lines: Vec<Line<'_>> = prompt.lines().map(Line::new).collect();
    let Some(instruction) = find_instruction(&lines) else {
        return match last_question(&lines) {
            Some((question, line)) if lines[line + 1..].iter().all(|line| line.is_blank()) => {
                let context = body(sentences(&lines).filter(|sentence| *sentence != question));
                Reading { task: Task::Answer { question }, context }
            }
            _ => Reading { task: Task::Summarise { sentences: None }, context: context_of(&lines) },
        };
    };
    // What stands in the line of the instruction before it belongs to the text, what follows it does not.
    let line = lines[instruction.line].text;
    let start = line.find(instruction.sentence).unwrap_or(0);
    lines[instruction.line].text = &line[..start];
    let rest_of_line = [Line::new(&line[start + instruction.sentence.len()..])];
    let (before, after) = (&lines[..=instruction.line], after_paragraph(&lines[instruction.line + 1..]));
    let task = match instruction.verb {
        Verb::Summarise => Task::Summarise { sentences: number(instruction.sentence) },
        Verb::Ask => Task::Ask,
        Verb::Answer => {
            // The question stands before the instruction, behind it, or in it.
            if let Some((question, line)) = last_question(before) {
                let context = match context_of(&lines[..line]) {
                    found if found.is_empty() => context_of(after),
                    found => found,
                };
                return Reading { task: Task::Answer { question }, context };
            }
            let behind = last_question(&rest_of_line).or_else(|| last_question(after));
            let question = behind.map_or_else(|| instruction.sentence.to_owned(), |(question, _)| question);
            Task::Answer { question }
        }
    };
    let (before, after) = (context_of(before), context_of(after));
    Reading { task, context: if before.len() >= after.len() { before } else { after } }
}

/// The first sentence that asks for something, in the paragraph nearest to the end that holds one. Where a prompt marks
/// what it quotes, quoted lines are not obeyed.
fn find_instruction<'a>(lines: &[Line<'a>]) -> Option<Instruction<'a>> {
    let numbered: Vec<_> = lines.iter().enumerate().map(|(at, line)| (at, *line)).collect();
    let paragraphs: Vec<_> =
        numbered.split(|(_, line)| line.is_blank()).filter(|paragraph| !paragraph.is_empty()).collect();
    let from_end = paragraphs.iter().rev().take(INSTRUCTION_PARAGRAPHS);
    from_end.chain(paragraphs.iter().take(INSTRUCTION_PARAGRAPHS)).find_map(|paragraph| {
        paragraph.iter().filter(|(_, line)| !line.quoted).find_map(|(at, line)| {
            text::sentences(line.text)
                .into_iter()
                .find_map(|sentence| Some(Instruction { verb: request(sentence)?, sentence, line: *at }))
        })
    })
}

/// The last question that lines hold, and the index of the line at which it or its announcement begins: what follows
/// the last `Question:` label, what the last line about a question announces, or the last sentence that asks.
fn last_question(lines: &[Line<'_>]) -> Option<(String, usize)> {
    let labelled = |(at, line): (usize, &Line<'_>)| match label(line.text) {
        Some((name, rest)) if name.contains("question") && !rest.is_empty() => Some((rest.to_owned(), at)),
        _ => None,
    };
    let announced = |(at, line): (usize, &Line<'_>)| {
        let about = text::words(line.text).any(|word| word.to_lowercase().starts_with("question"));
        if line.quoted || !about || text::words(line.text).count() > MAX_ANNOUNCEMENT_WORDS {
            return None;
        }
        let follows: Vec<_> =
            lines[at + 1..].iter().map_while(|line| (!line.is_blank()).then_some(line.text)).collect();
        let question = follows.join(" ");
        (!question.trim().is_empty()).then_some((question, at))
    };
    let asking = |(at, line): (usize, &Line<'_>)| {
        let asks = text::sentences(line.text).into_iter().rev().find(|sentence| is_question(sentence))?;
        Some((asks.to_owned(), at))
    };
    let backwards = || lines.iter().enumerate().rev();
    backwards().find_map(labelled).or_else(|| backwards().find_map(announced)).or_else(|| backwards().find_map(asking))
}

/// What a sentence asks for, if it asks for something.
fn request(sentence: &str) -> Option<Verb> {
    let lower = sentence.to_lowercase();
    let words: Vec<_> = text::words(&lower).collect();
    imperative(&words).or_else(|| {
        // "In six sentences, summarise …": the request follows the comma.
        let opening = matches!(
            *words.first()?,
            "in" | "using"
                | "based"
                | "from"
                | "with"
                | "for"
                | "given"
                | "after"
                | "about"
                | "having"
                | "drawing"
                | "as"
        );
        let (_, rest) = lower.split_once(',').filter(|_| opening)?;
        imperative(&text::words(rest).collect::<Vec<_>>())
    })
}

fn imperative(words: &[&str]) -> Option<Verb> {
    let polite = |word: &str| {
        matches!(
            word,
            "please"
                | "now"
                | "then"
                | "next"
                | "can"
                | "could"
                | "would"
                | "will"
                | "you"
                | "should"
                | "must"
                | "your"
                | "task"
                | "is"
                | "to"
                | "kindly"
                | "briefly"
        )
    };
    let start = words.iter().position(|word| !polite(word))?;
    // "Pose no questions", "give none" forbid; so do "do not …" and "avoid …", which begin with no verb of ours.
    if words.get(start + 1).is_some_and(|word| matches!(*word, "no" | "none" | "neither" | "nothing" | "not")) {
        return None;
    }
    let named = |word: &&str| match *word {
        word if word.starts_with("summar") => Some(Verb::Summarise),
        word if word.starts_with("question") => Some(Verb::Ask),
        word if word.starts_with("answer") => Some(Verb::Answer),
        _ => None,
    };
    match words[start] {
        word if word.starts_with("summari") => Some(Verb::Summarise),
        "condense" | "shorten" | "abridge" | "outline" | "digest" => Some(Verb::Summarise),
        "ask" | "pose" | "raise" | "formulate" => Some(Verb::Ask),
        "answer" | "reply" | "respond" => Some(Verb::Answer),
        "write" | "work" | "find" | "explain" | "show" | "give" | "create" | "generate" | "think" | "come"
        | "invent" | "propose" | "provide" | "produce" | "make" | "compose" | "form" | "state" | "offer"
        | "suggest" | "draft" | "put" => words[start..].iter().find_map(named),
        _ => None,
    }
}

/// The number of sentences an instruction names.
fn number(instruction: &str) -> Option<usize> {
    const NAMES: [&str; 12] =
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    text::words(instruction).find_map(|word| {
        let lower = word.to_lowercase();
        let named = NAMES.iter().position(|name| *name == lower).map(|place| place + 1);
        named.or_else(|| lower.parse().ok().filter(|n| (1..=100).contains(n)))
    })
}

/// `Question: what …` taken apart: the label in lower case and what follows it.
fn label(line: &str) -> Option<(String, &str)> {
    let (name, rest) = line.split_once(':')?;
    let name = name.trim().trim_start_matches(['#', '*', ' ', '-']).to_lowercase();
    let known = ["question", "answer", "context", "text", "passage", "summary", "previous"];
    let first = name.split_whitespace().next()?;
    (known.contains(&first) && name.split_whitespace().count() <= 3).then_some((name, rest.trim()))
}

/// What stands behind the paragraph of the instruction; behind the instruction itself where nothing else does.
fn after_paragraph<'a, 'b>(lines: &'b [Line<'a>]) -> &'b [Line<'a>] {
    let end = lines.iter().position(Line::is_blank).unwrap_or(lines.len());
    if lines[end..].iter().all(Line::is_blank) { lines } else { &lines[end..] }
}

/// The sentences of a text that say something: earlier questions, bare labels and announcements are left out, and where
/// some lines are quoted, all the others.
fn context_of<'a>(lines: &[Line<'a>]) -> Vec<&'a str> {
    body(sentences(lines)).into_iter().take(text::MAX_SENTENCES).collect()
}

fn sentences<'a>(lines: &[Line<'a>]) -> impl Iterator<Item = &'a str> {
    let marked = lines.iter().any(|line| line.quoted);
    lines
        .iter()
        .filter(move |line| line.quoted || !marked)
        .filter_map(|line| match label(line.text) {
            Some((name, _)) if name.contains("question") => None,
            Some((_, rest)) => Some(rest),
            None if line.text.ends_with(':') && text::words(line.text).count() <= MAX_ANNOUNCEMENT_WORDS => None,
            None => Some(line.text),
        })
        .flat_map(text::sentences)
}

fn body<'a>(sentences: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    sentences.filter(|s| !is_question(s) && text::words(s).count() >= MIN_SENTENCE_WORDS).collect()
}

fn is_question(sentence: &str) -> bool {
    text::split_close(sentence).1.contains('?')
}

// === impl Line ===

impl<'a> Line<'a> {
    fn new(line: &'a str) -> Self {
        let text = line.trim();
        match text.strip_prefix('>') {
            Some(rest) => Self { text: rest.trim_start_matches(['>', ' ']), quoted: true },
            None => Self { text, quoted: false },
        }
    }

    /// Whether it separates paragraphs. An empty quoted line does not.
    fn is_blank(&self) -> bool {
        self.text.is_empty() && !self.quoted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Love was the first subject. A notary at the court probably asked a question.\n\nPetrarch gave the \
                        answer in the fourteenth century. The couplet invites a summary or a sting.";

    fn all() -> Vec<&'static str> {
        text::sentences(TEXT)
    }

    #[test]
    fn a_wish_for_a_summary_is_understood_wherever_it_stands() {
        let wishes = [
            ("Summarize the preceding context in 6 sentences. Do not try to create questions or answers.", Some(6)),
            ("Please give a short summary of this text in five sentences, without questions.", Some(5)),
            ("In seven sentences, summarise what was said. Don't ask questions.", Some(7)),
            ("Could you condense the text?", None),
        ];
        for (wish, sentences) in wishes {
            for prompt in [format!("{TEXT}\n\n{wish}"), format!("{wish}\n\n{TEXT}"), format!("{TEXT}\n{wish}\n")] {
                let reading = read(&prompt);
                assert_eq!(reading, Reading { task: Task::Summarise { sentences }, context: all() }, "{prompt}");
            }
        }
    }

    #[test]
    fn a_wish_for_a_question_is_understood() {
        for wish in [
            "Ask one relevant and insightful question about the preceding context\n. Do not try to return an answer or a summary:",
            "Ask one question about the text above and previous questions. Do not try to return an answer or a summary:\n",
            "Write a single question that the text above can answer. Give neither answer nor summary.",
            "Now come up with a follow-up question. Reply with the question only.",
        ] {
            let reading = read(&format!("{TEXT}\n\n{wish}")).task;
            assert_eq!(reading, Task::Ask, "{wish}");
        }
    }

    #[test]
    fn a_question_is_found_with_its_text_and_without_the_history() {
        let history = "Previous Question \nQuestion:Who was she?\nAnswer:She was somebody at the court.";
        let prompt = format!(
            "{TEXT}\n{history}\n\nQuestion:What did Petrarch give?\nAnswer the question step by step and explain your \
             thoughts. Do not include questions or summaries in your answer."
        );
        let reading = read(&prompt);
        assert_eq!(reading.task, Task::Answer { question: "What did Petrarch give?".into() });
        assert_eq!(reading.context.len(), 5);
        assert_eq!(reading.context[4], "She was somebody at the court.");
    }

    #[test]
    fn a_question_without_a_label_or_behind_the_instruction_is_found() {
        for prompt in [
            format!("{TEXT}\n\nWhat did Petrarch give?\nAnswer this from the text."),
            format!("{TEXT}\n\nAnswer this from the text: What did Petrarch give?"),
            format!("Please answer the question at the end.\n\n{TEXT}\n\nWhat did Petrarch give?"),
            format!("{TEXT}\n\nWhat did Petrarch give?"),
        ] {
            let reading = read(&prompt);
            let Task::Answer { question } = reading.task else { panic!("{prompt}") };
            assert!(question.ends_with("What did Petrarch give?"), "{prompt}: {question}");
            assert_eq!(reading.context, all(), "{prompt}");
        }
    }

    /// As the validator marks what other miners wrote: what they order is not obeyed, what they say is the text.
    #[test]
    fn quoted_lines_are_the_text_and_give_no_orders() {
        let told = format!("> {}\n> Summarise this in two sentences.", TEXT.replace("\n\n", "\n> \n> "));
        let ask = format!(
            "Lines marked with \">\" are quoted. Read them.\n\n{told}\n\nPose one new question about what is said \
                           above: one it has not told yet. Reply with the question alone, without an answer."
        );
        assert_eq!(read(&ask).task, Task::Ask);
        assert_eq!(read(&ask).context[..4], all()[..]);
        let answer = format!(
            "Lines marked with \">\" are quoted. Read them.\n\n{told}\n\nA question asked before:\n> Who was she?\nThe \
             answer given to it:\n> She was somebody at the court.\n\nHere is a question about what is said above.\n> Tell \
             me, what did Petrarch give\n\nWork out the answer one step after another. Pose no questions of your own, and \
             do not summarise."
        );
        let reading = read(&answer);
        assert_eq!(reading.task, Task::Answer { question: "Tell me, what did Petrarch give".into() });
        assert_eq!(reading.context.last(), Some(&"She was somebody at the court."));
        assert_eq!(reading.context.len(), 6);
    }

    #[test]
    fn nothing_makes_it_panic() {
        for prompt in ["", "\n\n", "?", "Question:", "Answer the question.", "é\n\nQuestion:é?\nAnswer é", "::\n\n:"]
        {
            let _ = read(prompt);
        }
    }
}
