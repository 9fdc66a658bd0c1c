//! serde_json, which is slow, obvious and not ours, as the judge of what a JSON document says.

use serde_json::Value;

/// The strings of a list, without what else is in it.
#[must_use]
pub fn texts(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// A number's text as a float. By serde_json too: it rounds some numbers of 16 digits to another float than the standard
/// library does, which is one reason why prices stay text.
#[must_use]
pub fn number(text: &[u8]) -> f64 {
    serde_json::from_slice(text).unwrap()
}

/// How deep objects and arrays of a document are within each other, whatever it is.
#[must_use]
pub fn depth(document: &[u8]) -> usize {
    let (mut now, mut most, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in document {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                now += 1;
                most = most.max(now);
            }
            b'}' | b']' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// serde_json refuses a document that we need not: it has a number past what a float holds.
#[must_use]
pub fn is_of_a_huge_number(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("number out of range")
}
