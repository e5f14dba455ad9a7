//! JSON as Python's `json.dumps` writes it: `", "` and `": "` between things, everything outside printable ASCII as
//! `\uXXXX`. Axons parse any JSON; writing exactly theirs is what lets the recordings be compared byte for byte.

use std::io;

use serde::Serialize;
use serde_json::{
    Serializer,
    ser::{CompactFormatter, Formatter},
};

/// `json.dumps(value)`.
///
/// # Errors
/// When the value has no JSON form (a map whose keys are no strings).
pub fn dumps(value: &impl Serialize) -> serde_json::Result<String> {
    let mut out = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut out, PythonFormatter))?;
    // Only ASCII was written.
    String::from_utf8(out).map_err(serde::ser::Error::custom)
}

struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut written = 0;
        for (place, c) in fragment.char_indices().filter(|(_, c)| !matches!(c, ' '..='~')) {
            out.write_all(&fragment.as_bytes()[written..place])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            written = place + c.len_utf8();
        }
        out.write_all(&fragment.as_bytes()[written..])
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        if value.is_finite() {
            out.write_all(crate::python_repr::str_of_float(value).as_bytes())
        } else {
            CompactFormatter.write_null(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_numbers_and_separators_are_pythons() {
        let value = json!({"a": [1, 12.0, null, true], "b": "caf\u{e9} \u{1f600} \"q\" \\ \n \u{7f} \u{1}", "c": 1e16});
        let expected =
            r#"{"a": [1, 12.0, null, true], "b": "caf\u00e9 \ud83d\ude00 \"q\" \\ \n \u007f \u0001", "c": 1e+16}"#;
        assert_eq!(dumps(&value).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn any_text_reads_back(text: String) {
            let json = dumps(&text).unwrap();
            prop_assert!(json.is_ascii());
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
