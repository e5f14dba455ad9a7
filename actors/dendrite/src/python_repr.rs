//! Python's `str(value)`, which the body hash is taken of: an axon rebuilds it from what it parsed, so one character
//! written otherwise is a refused query. Rules of CPython's `unicode_repr` and `float_repr_style = "short"`.
//!
//! Whether `repr` shows a code point or escapes it depends on the Unicode version of the *miner's* Python. Code points
//! that the oldest one does not know would therefore be refused by half of the miners; [`portable`] replaces them before
//! anything is sent.

use std::{borrow::Cow, fmt::Write};

use serde_json::Value;

use crate::unicode13::{NOT_PRINTABLE, UNASSIGNED, contains};

/// `str(value)`: the text itself for a string, `repr` for everything else.
#[must_use]
pub fn str_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => {
            let mut out = String::new();
            write_repr(&mut out, other);
            out
        }
    }
}

/// `str(list_of_str)`, e.g. `['a', "it's"]`.
#[must_use]
pub fn str_of_texts(texts: &[String]) -> String {
    let mut out = String::with_capacity(texts.iter().map(|text| text.len() + 4).sum::<usize>() + 2);
    write_joined(&mut out, '[', ']', texts, |out, text| write_text(out, text));
    out
}

/// `str(float)`: the shortest digits that read back as the same number, with an exponent below 1e-4 and from 1e16 on.
#[must_use]
pub fn str_of_float(value: f64) -> String {
    if !value.is_finite() {
        let sign = if value == f64::NEG_INFINITY { "-" } else { "" };
        return if value.is_nan() { "nan".to_owned() } else { format!("{sign}inf") };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    match exponent {
        -4..16 => format!("{value:?}"),
        _ => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

/// The text with every code point that some Python still in use does not know replaced by U+FFFD.
#[must_use]
pub fn portable(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || !text.chars().any(|c| contains(UNASSIGNED, c)) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if contains(UNASSIGNED, c) { char::REPLACEMENT_CHARACTER } else { c }).collect())
}

fn write_repr(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => out.push_str(&str_of_float(float)),
            _ => out.push_str(&number.to_string()),
        },
        Value::String(text) => write_text(out, text),
        Value::Array(items) => write_joined(out, '[', ']', items, write_repr),
        Value::Object(entries) => write_joined(out, '{', '}', entries, |out, (key, value)| {
            write_text(out, key);
            out.push_str(": ");
            write_repr(out, value);
        }),
    }
}

fn write_joined<T>(
    out: &mut String,
    open: char,
    close: char,
    items: impl IntoIterator<Item = T>,
    write: impl Fn(&mut String, T),
) {
    out.push(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write(out, item);
    }
    out.push(close);
}

/// `repr(str)`: single quotes unless the text holds one and no double quote.
fn write_text(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if !contains(NOT_PRINTABLE, c) && !contains(UNASSIGNED, c) => out.push(c),
            c => {
                let code = c as u32;
                // Writing to a String cannot fail.
                let _ = match code {
                    0..0x100 => write!(out, "\\x{code:02x}"),
                    0x100..0x1_0000 => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::synapse::hash_of_fields;

    /// Values, their `str` and hashes, computed by CPython 3.11 and bittensor 10.5.0.
    const VECTORS: &str = include_str!("../../../tests/fixtures/bittensor/body_hash.json");

    #[test]
    fn every_recorded_value_is_written_and_hashed_as_python_does() {
        let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
        assert_eq!(vectors.len(), 19);
        for vector in vectors {
            let text = str_of(&vector["value"]);
            assert_eq!(text, vector["python_str"].as_str().unwrap());
            assert_eq!(hash_of_fields([text.as_str()]), vector["body_hash_single_field"].as_str().unwrap());
        }
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let cases = [
            (12.0, "12.0"),
            (0.1, "0.1"),
            (-0.0, "-0.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (9999999999999998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1e100, "1e+100"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ];
        for (value, text) in cases {
            assert_eq!(str_of_float(value), text);
        }
    }

    #[test]
    fn what_old_pythons_do_not_know_is_replaced() {
        assert!(matches!(portable("café 😀 it's\n"), Cow::Borrowed(_)));
        // U+1FAE0, melting face, came with Unicode 14; U+1FAE8, shaking face, with 15.
        assert_eq!(portable("a\u{1fae0}b\u{1fae8}"), "a\u{fffd}b\u{fffd}");
        assert_eq!(portable("\u{ffff}\u{378}"), "\u{fffd}\u{fffd}");
        assert_eq!(portable("\u{200b}\u{e000}\u{4e00}\u{ac00}"), "\u{200b}\u{e000}\u{4e00}\u{ac00}");
    }

    #[test]
    fn the_tables_ascend_and_do_not_overlap() {
        for table in [NOT_PRINTABLE, UNASSIGNED] {
            assert!(table.iter().all(|(low, high)| low <= high));
            assert!(table.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
        let both = (0..=0x10_ffff).filter_map(char::from_u32);
        assert!(!both.into_iter().any(|c| contains(NOT_PRINTABLE, c) && contains(UNASSIGNED, c)));
    }

    /// Reads a `repr` of a list of texts back, by Python's rules for string literals.
    fn read_back(text: &str) -> Option<Vec<String>> {
        let mut rest = text.strip_prefix('[')?.strip_suffix(']')?.chars();
        let mut texts = Vec::new();
        while let Some(quote) = rest.next() {
            let mut one = String::new();
            loop {
                match rest.next()? {
                    c if c == quote => break,
                    '\\' => {
                        let digits = match rest.next()? {
                            'x' => 2,
                            'u' => 4,
                            'U' => 8,
                            'n' => {
                                one.push('\n');
                                continue;
                            }
                            'r' => {
                                one.push('\r');
                                continue;
                            }
                            't' => {
                                one.push('\t');
                                continue;
                            }
                            c => {
                                one.push(c);
                                continue;
                            }
                        };
                        let code: String = rest.by_ref().take(digits).collect();
                        one.push(char::from_u32(u32::from_str_radix(&code, 16).ok()?)?);
                    }
                    c => one.push(c),
                }
            }
            texts.push(one);
            if let Some(comma) = rest.next() {
                (comma == ',' && rest.next() == Some(' ')).then_some(())?;
            }
        }
        Some(texts)
    }

    proptest! {
        #[test]
        fn a_repr_reads_back_as_the_same_texts(texts in prop::collection::vec(any::<String>(), 0..5)) {
            let text = str_of_texts(&texts);
            prop_assert_eq!(&text, &str_of(&Value::from(texts.clone())));
            prop_assert!(text.chars().all(|c| !contains(NOT_PRINTABLE, c) && !contains(UNASSIGNED, c)));
            prop_assert_eq!(read_back(&text), Some(texts));
        }

        #[test]
        fn a_portable_text_stays_as_it_is(text: String) {
            let once = portable(&text).into_owned();
            prop_assert_eq!(portable(&once), once.as_str());
            prop_assert_eq!(once.chars().count(), text.chars().count());
        }

        #[test]
        fn a_float_reads_back(value: f64) {
            let text = str_of_float(value);
            prop_assert!(value.is_nan() || text.parse::<f64>() == Ok(value), "{}", text);
        }
    }
}
