//! Text files with several passages, each under a line `# Title`.

/// The passages of a text. Without a title the text is one passage; what stands before the first title is one too.
/// Passages without a letter or digit are left out.
pub fn passages(text: &str) -> impl Iterator<Item = &str> {
    let text = text.trim_start_matches('\u{FEFF}');
    let mut rest = Some(text);
    let bodies = std::iter::from_fn(move || {
        let passage = rest?;
        let (body, next) = match next_title(passage) {
            Some(at) => (&passage[..at], passage[at..].split_once('\n').map(|(_, after)| after)),
            None => (passage, None),
        };
        rest = next;
        Some(body.trim())
    });
    bodies.filter(|body| body.contains(char::is_alphanumeric))
}

/// Where the next line that begins with `# ` begins.
fn next_title(text: &str) -> Option<usize> {
    if text.starts_with("# ") { Some(0) } else { text.find("\n# ").map(|at| at + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_part_passages() {
        let text = "before\n# One\n\nfirst\n\nstill # first\n# Two\n\n...\n# Three\r\nthird\r\n# Four";
        assert_eq!(passages(text).collect::<Vec<_>>(), ["before", "first\n\nstill # first", "third"]);
        assert_eq!(passages("\u{FEFF}plain\n#hash\n").collect::<Vec<_>>(), ["plain\n#hash"]);
        assert_eq!(passages(" \n").count(), 0);
    }
}
