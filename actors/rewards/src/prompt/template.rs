//! What a model is asked for its grade: our words around the words of others.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use openvalidators_messages::inference::{Composed, Part};

/// The largest file that is read as a template.
const FILE_LIMIT_BYTES: u64 = 64 << 10;

const PROMPT: &str = "{prompt}";
const COMPLETION: &str = "{completion}";

/// A template: three pieces of ours around prompt and completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    before: Arc<str>,
    between: Arc<str>,
    /// Where it ends the grade is to begin.
    after: Arc<str>,
    /// Whatever stands between `<` and `>` in it.
    tags: BTreeSet<String>,
}

/// A template with its words of others.
pub(crate) struct Filled {
    /// What the model continues.
    pub(crate) composed: Composed,
    characters: usize,
    after: Arc<str>,
}

/// A file that cannot be a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the template {path} cannot be used: {reason}", path = path.display())]
pub struct TemplateError {
    path: PathBuf,
    reason: String,
}

// === impl Template ===

impl Template {
    /// Reads the operator's file, or takes our words.
    pub(crate) fn read(file: Option<&Path>, ours: &str) -> Result<Self, TemplateError> {
        let Some(path) = file else { return Self::parse(ours).map_err(|reason| error(Path::new("built in"), reason)) };
        let size = fs::metadata(path).map_err(|e| error(path, e.to_string()))?.len();
        if size > FILE_LIMIT_BYTES {
            return Err(error(path, format!("it has {size} bytes, the limit is {FILE_LIMIT_BYTES}")));
        }
        let text = fs::read_to_string(path).map_err(|e| error(path, e.to_string()))?;
        Self::parse(&text).map_err(|reason| error(path, reason))
    }

    /// The line break that ends a file is not part of the template.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let wanted = "it needs {prompt} once and, behind it, {completion} once";
        let (before, rest) = text.split_once(PROMPT).ok_or(wanted)?;
        let (between, after) = rest.split_once(COMPLETION).ok_or(wanted)?;
        if [before, between, after].iter().any(|piece| piece.contains(PROMPT) || piece.contains(COMPLETION)) {
            return Err(wanted.to_owned());
        }
        if after.trim().is_empty() {
            return Err(
                "it ends with {completion}: words of ours must follow, for the grade to be found behind".to_owned()
            );
        }
        Ok(Self { before: before.into(), between: between.into(), after: after.into(), tags: tags(text) })
    }

    /// Puts prompt and completion in their places, unable to open or close a tag of the template.
    pub(crate) fn fill(&self, prompt: &str, completion: &str, as_reference: bool) -> Filled {
        let theirs = |text: &str| match as_reference {
            true => without_tag_words(text, &self.tags),
            false => with_tags_opened(text, &self.tags),
        };
        let [before, between, after] = [&self.before, &self.between, &self.after].map(|ours| Part::Ours(ours.clone()));
        let (prompt, completion) = (theirs(prompt), theirs(completion));
        let pieces = [&*self.before, &prompt, &self.between, &completion, &self.after];
        Filled {
            characters: pieces.iter().map(|piece| piece.chars().count()).sum(),
            composed: Composed(vec![
                before,
                Part::Theirs(prompt.into()),
                between,
                Part::Theirs(completion.into()),
                after,
            ]),
            after: self.after.clone(),
        }
    }

    /// The same as one text, for a reader who is handed no parts; `quote` makes the completion harmless in it.
    #[must_use]
    pub fn text(&self, prompt: &str, completion: &str, quote: impl Fn(&str) -> String) -> String {
        let prompt = with_tags_opened(prompt, &self.tags);
        // Opened again behind the quoting: what it takes away could close up to a tag.
        let completion = with_tags_opened(&quote(&with_tags_opened(completion, &self.tags)), &self.tags);
        [&*self.before, &prompt, &self.between, &completion, &self.after].concat()
    }
}

// === impl Filled ===

impl Filled {
    /// What the model wrote, from all that was decoded: what follows the template's last words. The reference cuts off as
    /// many characters as it asked with, and is wrong where a tokenizer does not give back what it took.
    pub(crate) fn continuation<'a>(&self, whole: &'a str, as_reference: bool) -> Option<&'a str> {
        if as_reference {
            let start = whole.char_indices().nth(self.characters).map_or(whole.len(), |(start, _)| start);
            return Some(&whole[start..]);
        }
        whole.rsplit_once(&*self.after).map(|(_, continuation)| continuation)
    }
}

fn error(path: &Path, reason: String) -> TemplateError {
    TemplateError { path: path.to_owned(), reason }
}

/// Whatever stands between `<` and the next `>`, as `<([^>]*)>` finds it.
fn tags(mut text: &str) -> BTreeSet<String> {
    let mut tags = BTreeSet::new();
    while let Some((_, rest)) = text.split_once('<') {
        let Some((tag, rest)) = rest.split_once('>') else { break };
        tags.insert(tag.to_owned());
        text = rest;
    }
    tags
}

/// `<Score>` becomes `(Score)`. Nothing is taken away, so nothing can close up to a tag.
fn with_tags_opened(text: &str, tags: &BTreeSet<String>) -> String {
    tags.iter().fold(text.to_owned(), |text, tag| text.replace(&format!("<{tag}>"), &format!("({tag})")))
}

/// As the reference: the words of the tags are taken out wherever they stand, brackets stay. There, in an order that
/// differs from process to process; here the longest first, so that `/Score` goes whole.
fn without_tag_words(text: &str, tags: &BTreeSet<String>) -> String {
    let mut tags: Vec<&String> = tags.iter().filter(|tag| !tag.is_empty()).collect();
    tags.sort_by_key(|tag| std::cmp::Reverse(tag.len()));
    tags.iter().fold(text.to_owned(), |text, tag| text.replace(tag.as_str(), ""))
}
