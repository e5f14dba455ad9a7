//! A text with named places, checked when it is loaded.
//!
//! `{name}` is a place; `{{` and `}}` are braces. Filling is one pass: what is put in is never looked at again, so braces
//! in a miner's text mean nothing.

use std::path::Path;

/// Largest template file.
pub const MAX_TEMPLATE_BYTES: u64 = 65_536;

/// A text with named places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(&'static str),
}

/// A template that cannot be used: which, what was found, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The file could not be read.
    #[error("template {origin} could not be read: {error}")]
    Unreadable {
        /// The file.
        origin: String,
        /// What the system said; an invalid encoding is told here too.
        error: std::io::Error,
    },
    /// The file is too large for a template.
    #[error("template {origin} has {bytes} bytes: the limit is {MAX_TEMPLATE_BYTES}")]
    TooLarge {
        /// The file.
        origin: String,
        /// Its size.
        bytes: u64,
    },
    /// A placeholder nobody fills.
    #[error("template {origin} names {{{found}}}, which nobody fills: it may name {allowed} (write {{{{ for a brace)")]
    Unknown {
        /// The template.
        origin: String,
        /// The name between the braces.
        found: String,
        /// The names it may use.
        allowed: String,
    },
    /// A placeholder without which the prompt would make no sense.
    #[error("template {origin} does not name {{{missing}}}: put it where that text belongs")]
    Missing {
        /// The template.
        origin: String,
        /// The name.
        missing: &'static str,
    },
    /// A brace that neither opens nor closes a placeholder.
    #[error("template {origin} has a lone `{brace}` at byte {at}: write it twice for a brace")]
    LoneBrace {
        /// The template.
        origin: String,
        /// Which brace.
        brace: char,
        /// Where, from 0.
        at: usize,
    },
}

// === impl Template ===

impl Template {
    /// Reads the file if there is one, else takes the built-in text.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn load(
        name: &str,
        path: Option<&Path>,
        built_in: &str,
        places: &'static [&'static str],
    ) -> Result<Self, TemplateError> {
        let Some(path) = path else {
            return Self::parse(name, built_in, places);
        };
        let origin = format!("`{name}` ({})", path.display());
        let unreadable = |error| TemplateError::Unreadable { origin: origin.clone(), error };
        let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
        if bytes > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLarge { origin, bytes });
        }
        Self::parse(&origin, &std::fs::read_to_string(path).map_err(unreadable)?, places)
    }

    /// Checks that exactly `places` are named, each at least once. Line ends at the end of the text are dropped.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn parse(origin: &str, text: &str, places: &'static [&'static str]) -> Result<Self, TemplateError> {
        let text = text.trim_end_matches(['\r', '\n']);
        let lone = |brace, at| TemplateError::LoneBrace { origin: origin.to_owned(), brace, at };
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut at = 0;
        while let Some(next) = text[at..].find(['{', '}']) {
            plain.push_str(&text[at..at + next]);
            at += next;
            let rest = &text[at..];
            if rest.starts_with("{{") || rest.starts_with("}}") {
                plain.push_str(&rest[..1]);
                at += 2;
                continue;
            }
            let name = rest.strip_prefix('{').ok_or_else(|| lone('}', at))?;
            let name = name.split_once('}').ok_or_else(|| lone('{', at))?.0;
            let place = places.iter().find(|place| **place == name).ok_or_else(|| TemplateError::Unknown {
                origin: origin.to_owned(),
                found: name.to_owned(),
                allowed: places.iter().map(|place| format!("{{{place}}}")).collect::<Vec<_>>().join(", "),
            })?;
            parts.push(Part::Text(std::mem::take(&mut plain)));
            parts.push(Part::Place(place));
            at += name.len() + 2;
        }
        plain.push_str(&text[at..]);
        parts.push(Part::Text(plain));
        match places.iter().find(|place| !parts.contains(&Part::Place(place))) {
            Some(missing) => Err(TemplateError::Missing { origin: origin.to_owned(), missing }),
            None => Ok(Self { parts }),
        }
    }

    /// The text with every place filled. A place without a value is left empty; [`Template::parse`] has made sure that
    /// there are no others than the caller knows.
    #[must_use]
    pub fn fill(&self, values: &[(&str, &str)]) -> String {
        let value = |name: &str| values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| *value);
        self.parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Place(name) => value(name),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: &[&str] = &["context", "question"];

    fn parse(text: &str) -> Result<Template, TemplateError> {
        Template::parse("`t`", text, PLACES)
    }

    #[test]
    fn places_are_filled_in_one_pass() {
        let template = parse("{{a}} {context} -> {question}{context}\n\n").unwrap();
        let filled = template.fill(&[("context", "{question} {{x}}"), ("question", "q")]);
        assert_eq!(filled, "{a} {question} {{x}} -> q{question} {{x}}");
    }

    #[test]
    fn what_cannot_be_filled_is_refused_with_its_remedy() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(
            error("{context} {question} {title}"),
            "template `t` names {title}, which nobody fills: it may name {context}, {question} (write {{ for a brace)"
        );
        assert_eq!(error("{context}"), "template `t` does not name {question}: put it where that text belongs");
        assert!(error("{context} {question").contains("lone `{` at byte 10"));
        assert!(error("{context} } {question}").contains("lone `}` at byte 10"));
        assert!(error("").contains("does not name"));
    }

    #[test]
    fn files_are_checked_like_the_built_in_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.txt");
        let load = |path: &Path| Template::load("answer", Some(path), "", PLACES);
        assert!(load(&path).unwrap_err().to_string().contains("could not be read"));
        std::fs::write(&path, "{context}: {question}\n").unwrap();
        assert_eq!(load(&path).unwrap().fill(&[("context", "c"), ("question", "q")]), "c: q");
        std::fs::write(&path, b"{context}{question}\xff").unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("UTF-8"));
        std::fs::write(&path, "x".repeat(65_537)).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("65537 bytes"));
    }
}
