//! Finds the request's `id` and each `imp[].id` in a bid request without parsing the rest of it. Follows the
//! structure where it must, so any valid JSON is read right wherever the members stand; does not validate
//! what it passes over. Two things it does not know: member names written with escapes, and any rule of
//! OpenRTB.

use std::ops::Range;

/// Where the ids stand in the body last scanned: the raw bytes between the quotes, escapes and all.
#[derive(Debug, Default)]
pub(super) struct Ids {
    pub(super) request: Range<usize>,
    pub(super) imps: Vec<Range<usize>>,
}

impl Ids {
    /// Scans a body, replacing what was found before. False when it is not a JSON object with a string `id`,
    /// or ends early. Of members that occur twice the first counts.
    pub(super) fn scan(&mut self, body: &[u8]) -> bool {
        self.imps.clear();
        self.scan_request(&mut Cursor { body, at: 0 }).is_some()
    }

    fn scan_request(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        let (mut id, mut has_imps) = (None, false);
        cursor.members(|cursor, name| {
            match name {
                b"id" if id.is_none() && cursor.peek()? == b'"' => id = Some(cursor.string()?),
                b"imp" if !has_imps && cursor.peek()? == b'[' => {
                    self.scan_imps(cursor)?;
                    has_imps = true;
                }
                _ => cursor.skip_value()?,
            }
            // Both are nearly always in front: the rest, most of the body, is never looked at.
            Some(id.is_none() || !has_imps)
        })?;
        self.request = id?;
        Some(())
    }

    fn scan_imps(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        cursor.expect(b'[')?;
        while cursor.peek()? != b']' {
            if cursor.peek()? == b'{' {
                let mut id = None;
                cursor.members(|cursor, name| {
                    match name {
                        b"id" if id.is_none() && cursor.peek()? == b'"' => {
                            id = Some(cursor.string()?);
                            // The rest of the imp is passed over as a whole, which is faster than by members.
                            cursor.skip_to_close()?;
                            return Some(false);
                        }
                        _ => cursor.skip_value()?,
                    }
                    Some(true)
                })?;
                self.imps.extend(id);
            } else {
                cursor.skip_value()?;
            }
            if cursor.peek()? == b',' {
                cursor.at += 1;
            }
        }
        cursor.expect(b']')
    }
}

struct Cursor<'a> {
    body: &'a [u8],
    at: usize,
}

/// What a byte means to someone who only looks for the end of an array or object.
const QUOTE: u8 = 1;
const OPEN: u8 = 2;
const CLOSE: u8 = 3;
static CLASS: [u8; 256] = {
    let mut class = [0; 256];
    class[b'"' as usize] = QUOTE;
    class[b'{' as usize] = OPEN;
    class[b'[' as usize] = OPEN;
    class[b'}' as usize] = CLOSE;
    class[b']' as usize] = CLOSE;
    class
};

impl<'a> Cursor<'a> {
    /// Visits the members of the object that begins here, with the cursor on each value, until the visitor
    /// returns false, or the object ends and has been passed.
    fn members(&mut self, mut visit: impl FnMut(&mut Self, &'a [u8]) -> Option<bool>) -> Option<()> {
        self.expect(b'{')?;
        while self.peek()? != b'}' {
            let name = self.string()?;
            self.expect(b':')?;
            if !visit(self, &self.body[name])? {
                return Some(());
            }
            if self.peek()? == b',' {
                self.at += 1;
            }
        }
        self.expect(b'}')
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.body.get(self.at)? {
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Passes a string and returns where its content stands.
    fn string(&mut self) -> Option<Range<usize>> {
        self.expect(b'"')?;
        let start = self.at;
        self.skip_to_quote()?;
        Some(start..self.at - 1)
    }

    fn skip_value(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b'{' | b'[' => {
                self.at += 1;
                self.skip_to_close()
            }
            _ => {
                // A number, true, false or null. At least one byte goes by, so that no loop can stand still.
                let rest = &self.body[self.at + 1..];
                let end = rest
                    .iter()
                    .position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n'));
                self.at += 1 + end?;
                Some(())
            }
        }
    }

    /// From inside an array or object to just behind its end.
    fn skip_to_close(&mut self) -> Option<()> {
        let mut depth = 1_usize;
        while depth > 0 {
            let class = CLASS[usize::from(*self.body.get(self.at)?)];
            self.at += 1;
            match class {
                QUOTE => self.skip_to_quote()?,
                OPEN => depth += 1,
                CLOSE => depth -= 1,
                _ => {}
            }
        }
        Some(())
    }

    /// From inside a string to just behind its end.
    fn skip_to_quote(&mut self) -> Option<()> {
        loop {
            match *self.body.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `request id: imp ids`, or `none`.
    fn scan(body: &str) -> String {
        let mut ids = Ids::default();
        if !ids.scan(body.as_bytes()) {
            return "none".to_owned();
        }
        let imps: Vec<&str> = ids.imps.iter().map(|range| &body[range.clone()]).collect();
        format!("{}: {}", &body[ids.request], imps.join(" "))
    }

    #[test]
    fn ids_are_found_wherever_they_stand() {
        let check = |body: &str, expected: &str| assert_eq!(scan(body), expected, "{body}");
        check(r#"{"id":"r1","imp":[{"id":"1"}]}"#, "r1: 1");
        check(
            r#"{"id":"r1","imp":[{"id":"1","banner":{"w":300}},{"banner":{"id":"x"},"id":"2"}]}"#,
            "r1: 1 2",
        );
        check(
            r#"{"imp":[{"video":{"mimes":["a]","b}"]},"id":"1"}],"site":{"id":"s"},"id":"r1"}"#,
            "r1: 1",
        );
        check(
            r#"{"app":{"id":"no"},"ext":[{"id":"no","imp":[{"id":"no"}]}],"id":"r1","imp":[{"id":"1"}]}"#,
            "r1: 1",
        );
        check(
            " {\n \"id\" : \"r1\" ,\t\"imp\" : [ { \"id\" : \"1\" } , { \"id\" : \"2\" } ] } ",
            "r1: 1 2",
        );
        check(r#"{"id":"a\"b\\","imp":[{"id":"\\"}]}"#, r#"a\"b\\: \\"#);
        check(
            r#"{"tmax":120,"test":0,"at":-1.5e3,"x":null,"y":true,"id":"r1","imp":[{"secure":1,"id":"1"}]}"#,
            "r1: 1",
        );
        check(r#"{"id":"r1","imp":[]}"#, "r1: ");
        check(r#"{"id":"r1"}"#, "r1: ");
        check(
            r#"{"id":"first","id":"second","imp":[{"id":"1","id":"2"}],"imp":[{"id":"3"}]}"#,
            "first: 1",
        );
        check(
            r#"{"id":"r1","imp":[{"id":7},{"id":"2"},5,null,"x",[{"id":"no"}]]}"#,
            "r1: 2",
        );
        check(r#"{"id":7,"imp":[{"id":"1"}],"id":"r1"}"#, "r1: 1");
        check(r#"{"":"x","id":"","imp":[{"id":""}]}"#, ": ");
    }

    #[test]
    fn what_is_not_a_request_is_refused() {
        for body in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"id":7}"#,
            r#"{"imp":[]}"#,
            "\u{0}",
            r#"{"id"}"#,
            r#"{"id":"#,
        ] {
            assert_eq!(scan(body), "none", "{body}");
        }
    }

    #[test]
    fn a_body_cut_off_anywhere_neither_hangs_nor_panics() {
        let body = r#"{"a":[1,{"b":"\\\""}],"imp":[{"n":1,"id":"1","e":{"x":[]}},{"id":"2"}],"id":"r1"}"#;
        for end in 0..body.len() - 2 {
            assert_eq!(scan(&body[..end]), "none", "{end} bytes");
        }
    }

    /// The slow obvious twin: every body of these pieces in every order of members, against `serde_json`.
    #[test]
    fn agrees_with_serde_json() -> Result<(), serde_json::Error> {
        let members = [
            r#""id":"r-\u00e9""#,
            r#""imp":[{"id":"1","pmp":{"deals":[{"id":"d1"}]}},{"instl":0,"id":"2"},{"ext":{"id":"z"}}]"#,
            r#""site":{"id":"s","page":"http://x/?a={[\"]}","publisher":{"id":"p"}}"#,
            r#""tmax": 100"#,
            r#""ext":{"imp":[{"id":"n"}],"s":"]}\\"}"#,
        ];
        for first in 0..5 {
            for step in 1..5 {
                let ordered: Vec<&str> = (0..5).map(|n| members[(first + n * step) % 5]).collect();
                let body = format!("{{{}}}", ordered.join(","));
                let value: serde_json::Value = serde_json::from_str(&body)?;
                let imps = value["imp"].as_array().map(Vec::as_slice).unwrap_or_default();
                let imps: Vec<&str> = imps.iter().filter_map(|imp| imp["id"].as_str()).collect();
                let expected = format!(r"{}: {}", "r-\\u00e9", imps.join(" "));
                assert_eq!(scan(&body), expected, "{body}");
            }
        }
        Ok(())
    }
}
