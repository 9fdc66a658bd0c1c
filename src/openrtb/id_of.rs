//! The id of a bid request that may be broken, for lines that people read. Never for anything that decides.

use std::fmt::{self, Write as _};

/// Characters shown; an id is somebody else's text, of any length.
const SHOWN_MAX: usize = 64;

/// Shows the `id` of the document's outermost object as far as it can be found, `-` where not. Only what is shown is
/// worked out: a line that is not written costs nothing.
#[derive(Debug, Clone, Copy)]
pub struct IdOf<'a>(pub &'a [u8]);

impl fmt::Display for IdOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(id) = find(self.0) else {
            return f.write_char('-');
        };
        // What would end a line, or speak to a terminal, is shown as what it is.
        for chunk in id.utf8_chunks() {
            for character in chunk.valid().chars().take(SHOWN_MAX) {
                match character {
                    ' '..='~' => f.write_char(character)?,
                    other => write!(f, "{}", other.escape_default())?,
                }
            }
        }
        Ok(())
    }
}

/// The bytes between the quotes.
fn find(body: &[u8]) -> Option<&[u8]> {
    let (mut depth, mut at) = (0_usize, 0);
    let mut is_id = false;
    while let Some(&byte) = body.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let text = string(&body[at..]);
                at += text.len() + 1;
                if is_id {
                    return Some(&text[..text.len().min(4 * SHOWN_MAX)]);
                }
                let rest = body.get(at..).unwrap_or_default().trim_ascii_start();
                is_id = depth == 1 && text == b"id" && rest.starts_with(b":");
                continue;
            }
            b':' | b' ' | b'\n' | b'\r' | b'\t' => continue,
            _ => {}
        }
        is_id = false;
    }
    None
}

/// Up to the closing quote, or the end.
fn string(bytes: &[u8]) -> &[u8] {
    let mut escaped = false;
    let closes = |byte: &u8| {
        let closes = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        closes
    };
    let end = bytes.iter().position(closes).unwrap_or(bytes.len());
    &bytes[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_where_they_can_be() {
        #[track_caller]
        fn check(body: &str, expected: &str) {
            assert_eq!(IdOf(body.as_bytes()).to_string(), expected, "{body}");
        }
        check(r#"{"id":"r-1","imp":[]}"#, "r-1");
        check(r#"{ "imp" : [ { "id" : "1" } ] , "id" : "r" "#, "r");
        check(r#"{"site":{"id":"s"},"ext":["id"],"x":"id","id":"r"}"#, "r");
        check(r#"{"id":"cut o"#, "cut o");
        check(r#"{"id":"q\"","imp":1}"#, r#"q\""#);
        check(r#"{"x":"\\","id":"r"}"#, "r");
        check("{\"id\":\"\u{1b}[31mred\nline\"}", r"\u{1b}[31mred\nline");
        check(&format!(r#"{{"id":"{}"}}"#, "x".repeat(1000)), &"x".repeat(64));
        check(r#"{"id":7}"#, "-");
        check(r#"{"id":7,"x":"y"}"#, "-");
        check(r#"{"id""#, "-");
        check(r#"{"imp":[{"id":"1"}]}"#, "-");
        check(r#"["id","x"]"#, "-");
        check("]]]{\"id\":\"r\"}", "r");
        check("", "-");
    }
}
