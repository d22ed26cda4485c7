//! Reads a file of cases.
//!
//! Owns: both shapes of a file, and numbers that keep every digit. Leaves to others: what a case means (`families`).
//!
//! Invariants: a number never passes through a float. Outside texts, every word but `true`, `false` and `null` becomes a
//! text with a mark in front, also what JSON itself does not know (`NaN`), so that one such case does not hide the others.
//! What a case expects is dropped here, so that no computation can look at it.

use serde_json::{Map, Value};

/// In front of what was written as a number. No text in JSON can hold it unescaped.
const NUMBER_MARK: char = '\u{1}';

/// A case as it was written, without what it expects.
pub(crate) type Fields = Map<String, Value>;

/// The cases of a list, or of an object with `vectors`.
pub(crate) fn cases(text: &str) -> Result<Vec<Fields>, String> {
    let document: Value =
        serde_json::from_str(&with_marked_numbers(text)).map_err(|error| error.to_string())?;
    let listed = match document {
        Value::Array(listed) => listed,
        Value::Object(mut fields) => match fields.remove("vectors") {
            Some(Value::Array(listed)) => listed,
            _ => return Err("the object has no list `vectors`".to_string()),
        },
        _ => return Err("the file is neither a list nor an object with `vectors`".to_string()),
    };
    let fields_of = |case: Value| match case {
        Value::Object(mut fields) => {
            fields.remove("expected");
            Ok(fields)
        }
        _ => Err("a case is an object".to_string()),
    };
    listed.into_iter().map(fields_of).collect()
}

/// The text of a value that was written as a number.
pub(crate) fn number_text(value: &Value) -> Option<&str> {
    value.as_str()?.strip_prefix(NUMBER_MARK)
}

/// The text of a value that was written as a text.
pub(crate) fn plain_text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.starts_with(NUMBER_MARK))
}

/// The text of a number or a text.
pub(crate) fn any_text(value: &Value) -> Option<&str> {
    number_text(value).or_else(|| plain_text(value))
}

fn with_marked_numbers(text: &str) -> String {
    let is_word = |character: char| character.is_ascii_alphanumeric() || "+-._".contains(character);
    let mut marked = String::with_capacity(text.len() + text.len() / 8);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = if first == '"' {
            end_of_text(rest)
        } else if is_word(first) {
            rest.find(|character| !is_word(character)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(end);
        if is_word(first) && !matches!(token, "true" | "false" | "null") {
            marked.push_str(&format!("\"\\u{:04x}{token}\"", u32::from(NUMBER_MARK)));
        } else {
            marked.push_str(token);
        }
        rest = after;
    }
    marked
}

/// Bytes of the JSON text that starts here, quotes included.
fn end_of_text(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_keeps_every_digit_and_is_told_from_a_text() {
        let text = r#"{"vectors": [{"a": 123456789012345678901.50, "b": "12", "c": [-1e5, true, null], "d": NaN,
            "e\"1": "x \" 7", "expected": {"a": 1}}]}"#;
        let cases = cases(text).unwrap();
        assert_eq!(number_text(&cases[0]["a"]), Some("123456789012345678901.50"));
        assert_eq!(plain_text(&cases[0]["b"]), Some("12"));
        assert_eq!(number_text(&cases[0]["b"]), None);
        assert_eq!(any_text(&cases[0]["c"][0]), Some("-1e5"));
        assert_eq!((&cases[0]["c"][1], &cases[0]["c"][2]), (&Value::Bool(true), &Value::Null));
        assert_eq!(number_text(&cases[0]["d"]), Some("NaN"));
        assert_eq!(plain_text(&cases[0]["e\"1"]), Some("x \" 7"));
        assert!(!cases[0].contains_key("expected"));
    }
}
