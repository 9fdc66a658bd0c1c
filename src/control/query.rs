//! The query of a request's target: `name=value` pairs, as browsers and curl write them.

use http::Uri;

/// A query that was not looked at yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    pub(super) fn of(uri: &'a Uri) -> Self {
        Self(uri.query().unwrap_or_default())
    }

    /// The value of `name`, the first if there are several.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.0
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(known, _)| *known == name)
            .map(|(_, value)| decode(value))
    }
}

/// `%41` is `A` and `+` is a space; what is neither stays as it is.
fn decode(value: &str) -> String {
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = value
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, hex) {
            (b'%', Some(escaped)) => {
                decoded.push(escaped);
                at += 2;
            }
            (b'+', _) => decoded.push(b' '),
            _ => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_by_name() {
        #[track_caller]
        fn check(target: &'static str, expected: Option<&str>) {
            let uri = Uri::from_static(target);
            assert_eq!(Query::of(&uri).get("dsp").as_deref(), expected, "{target}");
        }
        check("/x", None);
        check("/x?", None);
        check("/x?dsp", None);
        check("/x?ndsp=a", None);
        check("/x?dsp=", Some(""));
        check("/x?stage=total&dsp=dsp1&dsp=dsp2", Some("dsp1"));
        check("/x?dsp=a%20b+c", Some("a b c"));
        check("/x?dsp=100%&x=1", Some("100%"));
        check("/x?dsp=%zz%e2%82%ac", Some("%zz€"));
        check("/x?dsp=%2", Some("%2"));
        check("/x?dsp=%ff", Some("\u{fffd}"));
    }
}
