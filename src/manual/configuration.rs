//! `docs/configuration.md` out of `configs/local.toml`, which tests hold to the structs.

/// Keys that share a comment.
#[derive(Default)]
struct Group {
    keys: Vec<String>,
    comment: Vec<String>,
}

/// The page.
pub fn page(toml: &str) -> String {
    let mut page = HEAD.to_owned();
    let (mut group, mut in_table, mut in_value) = (Group::default(), false, false);
    let mut lines = toml.lines().peekable();
    while let Some(line) = lines.next() {
        if in_value {
            in_value = line != "]";
            continue;
        }
        if let Some(title) = line.strip_prefix("# === ") {
            group.end(&mut page, &mut in_table);
            page += &format!("\n## {}\n", capitalised(title.trim_end_matches(['=', ' '])));
        } else if let Some(table) = line.strip_prefix('[') {
            let told = std::mem::take(&mut group.comment).join(" ");
            group.end(&mut page, &mut in_table);
            in_table = false;
            page += &format!("\n### `[{table}`\n");
            if !told.is_empty() {
                page += &format!("\n{told}\n");
            }
        } else if let Some(table) = line.strip_prefix("# [").filter(|table| table.ends_with(']')) {
            group.end(&mut page, &mut in_table);
            in_table = false;
            page += &format!("\n### `[{table}`: an example\n");
        } else if let Some(comment) = line.strip_prefix("# ") {
            match optional_key(comment) {
                // A remark in its line is about this key alone.
                Some(key) if key.contains("  # ") => {
                    group.end(&mut page, &mut in_table);
                    let (key, remark) = key.split_once("  # ").unwrap_or((key, ""));
                    group = Group { keys: vec![format!("{} (not set)", key.trim())], comment: vec![remark.to_owned()] };
                    group.end(&mut page, &mut in_table);
                }
                Some(key) => group.keys.push(format!("{key} (not set)")),
                None => {
                    // A sentence behind keys is about the next ones.
                    if !group.keys.is_empty() {
                        group.end(&mut page, &mut in_table);
                    }
                    group.comment.push(comment.to_owned());
                }
            }
        } else if line.contains('=') {
            in_value = line.ends_with('[');
            group.keys.push(if in_value { line.replace(" = [", " = […]") } else { line.to_owned() });
        } else {
            group.end(&mut page, &mut in_table);
        }
        if lines.peek().is_none() {
            group.end(&mut page, &mut in_table);
        }
    }
    page
}

const HEAD: &str = "\
# Configuration

Every key, its default and its meaning, made from `configs/local.toml` (`src/manual.rs`): change it there, never here.
`openvalidators run --print-config` prints what is in force, and `--check-config` judges it. A value comes from the last of:
the defaults below, `--profile NAME`, `--config FILE`, the environment (`OPENVALIDATORS_SET__PROMPTS__CONCURRENT_FORWARDS=4`),
flags (`--set prompts.concurrent_forwards=4`). The flags of openvalidators 1.2.0 are in `docs/differences.md`.
";

// === impl Group ===

impl Group {
    /// Writes a row, and the head of its table before the first.
    fn end(&mut self, page: &mut String, in_table: &mut bool) {
        let Self { keys, comment } = std::mem::take(self);
        let comment = comment.join(" ");
        if keys.is_empty() {
            if !comment.is_empty() {
                *page += &format!("\n{comment}\n");
                *in_table = false;
            }
            return;
        }
        if !*in_table {
            *page += "\n| key and default | meaning |\n|---|---|\n";
            *in_table = true;
        }
        let keys: Vec<_> = keys.iter().map(|key| format!("`{}`", key.replace('|', "\\|"))).collect();
        *page += &format!("| {} | {} |\n", keys.join("<br>"), comment.replace('|', "\\|"));
    }
}

/// `name = value` of a comment, where the comment is a key that is not set.
fn optional_key(comment: &str) -> Option<&str> {
    let (name, _) = comment.split_once(" = ")?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '"');
    (!name.is_empty() && name.chars().all(is_name)).then_some(comment)
}

fn capitalised(title: &str) -> String {
    let mut characters = title.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

#[test]
fn keys_share_the_comment_above_them() {
    let made = page(
        "# A file.\n\n# === one ====\n\n[a]\n# Two | things.\nx = 1\ny = 2\n# Optional.\n# z = \"here\"\n\n# About b.\n[a.b]\nk = true\n# [a.c]\n# m = 1   # Of m.\n# n = 2\n",
    );
    let rows: Vec<&str> = made.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(
        rows,
        [
            "| `x = 1`<br>`y = 2` | Two \\| things. |",
            "| `z = \"here\" (not set)` | Optional. |",
            "| `k = true` |  |",
            "| `m = 1 (not set)` | Of m. |",
            "| `n = 2 (not set)` |  |"
        ]
    );
    assert!(
        made.contains("## One\n")
            && made.contains("### `[a.b]`\n\nAbout b.\n")
            && made.contains("### `[a.c]`: an example\n"),
        "{made}"
    );
}
