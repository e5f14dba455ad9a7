//! Which field a prompt is about: that of the embedded passage with which it shares the rarest words. Prompts quote what they
//! are about, so this hardly ever errs on the passages that are part of the program.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::OnceLock,
};

use openvalidators_prompts::Embedded;

use crate::localnet::text;

/// The fields there are.
pub const FIELDS: u8 = 10;

/// A field of the embedded passages, by its place in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field(pub u8);

/// Every passage as its field and its words, and in how many passages each word is.
struct Library {
    names: Vec<&'static str>,
    passages: Vec<(Field, HashSet<String>)>,
    holders: HashMap<String, u32>,
}

/// The field of a prompt; `None` when it shares no word with any passage.
#[must_use]
pub fn of(prompt: &str) -> Option<Field> {
    let Library { passages, holders, .. } = library();
    let words = text::stem_set(prompt);
    let rarity = |word: &String| {
        let count = f64::from(holders.get(word).copied().unwrap_or_default());
        if count > 0.0 { (passages.len() as f64 / count).ln() } else { 0.0 }
    };
    let shared = |of: &HashSet<String>| words.iter().filter(|word| of.contains(*word)).map(rarity).sum::<f64>();
    let scored = passages.iter().map(|(field, of)| (*field, shared(of))).filter(|(_, shared)| *shared > 0.0);
    // Sums of a set come in any order; nearly equal ones are told apart by the order of the passages.
    scored
        .fold(None, |best: Option<(Field, f64)>, (field, shared)| match best {
            Some((_, most)) if shared <= most + 1e-9 => best,
            _ => Some((field, shared)),
        })
        .map(|(field, _)| field)
}

fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let mut library = Library { names: Vec::new(), passages: Vec::new(), holders: HashMap::new() };
        for passage in Embedded::new().passages() {
            if library.names.last() != Some(&passage.topic) {
                library.names.push(passage.topic);
            }
            let words = text::stem_set(passage.text);
            words.iter().for_each(|word| *library.holders.entry(word.clone()).or_default() += 1);
            library.passages.push((Field(library.names.len() as u8 - 1), words));
        }
        library
    })
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(library().names.get(usize::from(self.0)).copied().unwrap_or("no field"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_passage_tells_its_field() {
        let (source, mut wrong) = (Embedded::new(), 0);
        for passage in source.passages() {
            let part: String =
                text::sentences(passage.text).iter().skip(3).take(5).map(|part| format!("> {part}\n")).collect();
            let prompt = format!(
                "Lines marked with \">\" are quoted.\n\n{part}\nPose one new question about what is said above."
            );
            wrong += u32::from(of(&prompt).map(|field| field.to_string()).as_deref() != Some(passage.topic));
        }
        assert!(wrong <= 1, "{wrong} of 150");
        assert_eq!(library().names.len(), usize::from(FIELDS));
        assert_eq!(of("xyzzy"), None);
        assert_eq!(Field(200).to_string(), "no field");
    }
}
