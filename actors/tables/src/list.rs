//! Lists as text in a field of CSV: what pandas writes (`repr` of a Python list, `nan` included), and JSON.

use serde_json::{Number, Value};

/// The list that a text is; `None` where it is none.
#[must_use]
pub fn parse(text: &str) -> Option<Vec<Value>> {
    let mut rest = text.trim().strip_prefix('[')?.strip_suffix(']')?.trim();
    let mut values = Vec::new();
    while !rest.is_empty() {
        let (value, after) = match rest.chars().next()? {
            quote @ ('\'' | '"') => {
                let (text, after) = string(&rest[1..], quote)?;
                (Value::String(text), after)
            }
            _ => {
                let end = rest.find(',').unwrap_or(rest.len());
                (word(rest[..end].trim())?, &rest[end..])
            }
        };
        values.push(value);
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(values)
}

/// Writes a list so that Python's `ast.literal_eval` reads it as well as [`parse`]: JSON with `None` for what is missing.
#[must_use]
pub fn write(values: &[Value]) -> String {
    let each = |value: &Value| if value.is_null() { "None".to_owned() } else { value.to_string() };
    format!("[{}]", values.iter().map(each).collect::<Vec<_>>().join(", "))
}

fn word(word: &str) -> Option<Value> {
    match word {
        "None" | "null" | "nan" | "NaN" | "inf" | "-inf" | "Infinity" | "-Infinity" => Some(Value::Null),
        "True" | "true" => Some(Value::Bool(true)),
        "False" | "false" => Some(Value::Bool(false)),
        _ => match word.parse::<i64>() {
            Ok(integer) => Some(integer.into()),
            Err(_) => Number::from_f64(word.parse().ok()?).map(Value::Number),
        },
    }
}

/// The text up to the closing quotation mark, and what follows it.
fn string(text: &str, quote: char) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            _ if char == quote => return Some((out, &text[at + quote.len_utf8()..])),
            '\\' => {
                let (_, escape) = chars.next()?;
                let digits = match escape {
                    'n' => {
                        out.push('\n');
                        continue;
                    }
                    't' => {
                        out.push('\t');
                        continue;
                    }
                    'r' => {
                        out.push('\r');
                        continue;
                    }
                    'b' => {
                        out.push('\u{8}');
                        continue;
                    }
                    'f' => {
                        out.push('\u{c}');
                        continue;
                    }
                    'x' => 2,
                    'u' => 4,
                    'U' => 8,
                    other => {
                        out.push(other);
                        continue;
                    }
                };
                let mut code = hexadecimal(&mut chars, digits)?;
                // Half of a pair: JSON writes what lies beyond 16 bits so.
                if (0xd800..0xdc00).contains(&code) && chars.as_str().starts_with("\\u") {
                    let mut ahead = chars.clone();
                    ahead.nth(1);
                    if let Some(low @ 0xdc00..=0xdfff) = hexadecimal(&mut ahead, 4) {
                        code = 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                        chars = ahead;
                    }
                }
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            _ => out.push(char),
        }
    }
    None
}

fn hexadecimal(chars: &mut std::str::CharIndices<'_>, digits: usize) -> Option<u32> {
    let mut code = 0_u32;
    for _ in 0..digits {
        code = code.checked_mul(16)? + chars.next()?.1.to_digit(16)?;
    }
    Some(code)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_pandas_writes_and_json_are_lists() {
        let cases = [
            ("[]", json!([])),
            ("[1, 2.5, nan, None, True]", json!([1, 2.5, null, null, true])),
            (r#"['a', "it's", 'say \'x\'', 'tab\tnew\nline']"#, json!(["a", "it's", "say 'x'", "tab\tnew\nline"])),
            (r#"["\u00e9", "\ud83d\ude00", null, -1e-05]"#, json!(["é", "😀", null, -1e-5])),
            (r"['\xe9', '\U0001f600', '\ud83d', 'a,]b']", json!(["é", "😀", "\u{fffd}", "a,]b"])),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).map(Value::Array), Some(expected), "{text}");
        }
        for text in ["", "1", "['a", "['a' 'b']", "[a]", "[1 2]", "[__import__('os')]"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let values = [json!("q\"uo'te\n😀\\"), json!(0.1), Value::Null, json!(-3)];
        assert_eq!(parse(&write(&values)).unwrap(), values);
    }
}
