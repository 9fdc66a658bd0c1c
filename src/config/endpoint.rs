//! The URL of a DSP, taken apart. Only what an HTTP client of ours can use is accepted: http or https, a
//! host, a path.

use std::net::Ipv6Addr;

/// Where to send bid requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) https: bool,
    /// A name or an address; IPv6 without its brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Begins with `/` and includes the query.
    pub(super) path: String,
}

impl Endpoint {
    /// The error says what is wrong and never repeats the URL, which may hold a secret.
    pub(super) fn parse(url: &str) -> Result<Self, &'static str> {
        if url.contains(|character: char| !character.is_ascii_graphic()) {
            return Err("must be a URL without spaces and of ASCII characters only");
        }
        let (https, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err("must begin with http:// or https://"),
        };
        if url.contains('#') {
            return Err("must not have a fragment: it would never be sent");
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("must not hold a user or password: they would never be sent");
        }
        let (host, port) = split_port(authority)?;
        let default_port = if https { 443 } else { 80 };
        Ok(Self {
            https,
            host: host.to_owned(),
            port: port.unwrap_or(default_port),
            path: if path.starts_with('/') {
                path.to_owned()
            } else {
                format!("/{path}")
            },
        })
    }
}

/// The URL with user and password and the values of its query hidden. Works on any text, valid or not.
pub(super) fn without_secrets(url: &str) -> String {
    let (before_query, query) = url
        .split_once('?')
        .map_or((url, None), |(before, query)| (before, Some(query)));
    let after_scheme = before_query.find("://").map_or(0, |scheme| scheme + 3);
    let authority_end = before_query[after_scheme..]
        .find('/')
        .map_or(before_query.len(), |slash| after_scheme + slash);
    let mut shown = match before_query[after_scheme..authority_end].rfind('@') {
        Some(at) => format!(
            "{}***{}",
            &before_query[..after_scheme],
            &before_query[after_scheme + at..]
        ),
        None => before_query.to_owned(),
    };
    if let Some(query) = query {
        let hide = |pair: &str| {
            pair.split_once('=')
                .map_or("***".to_owned(), |(name, _)| format!("{name}=***"))
        };
        shown = format!(
            "{shown}?{}",
            query.split('&').map(hide).collect::<Vec<_>>().join("&")
        );
    }
    shown
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), &'static str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest
                .split_once(']')
                .ok_or("has an IPv6 address without its closing bracket")?;
            host.parse::<Ipv6Addr>()
                .map_err(|_| "has brackets around something that is not an IPv6 address")?;
            (host, port)
        }
        None => {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            let fits = |character: char| character.is_ascii_alphanumeric() || "-._".contains(character);
            if host.is_empty() || !host.chars().all(fits) {
                return Err("has no host, or one that is neither a name nor an address");
            }
            (host, port)
        }
    };
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok((host, None)),
        // Unlike the parser of integers, no sign.
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => match digits.parse() {
            Ok(port) if port > 0 => Ok((host, Some(port))),
            _ => Err("has a port that is not between 1 and 65535"),
        },
        _ => Err("has a port that is not a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted() {
        #[track_caller]
        fn check(url: &str, https: bool, host: &str, port: u16, path: &str) {
            let expected = Endpoint {
                https,
                host: host.to_owned(),
                port,
                path: path.to_owned(),
            };
            assert_eq!(Endpoint::parse(url), Ok(expected), "{url}");
        }
        check("http://127.0.0.1:9001/bid", false, "127.0.0.1", 9001, "/bid");
        check("http://dsp.example", false, "dsp.example", 80, "/");
        check(
            "https://dsp.example/a/b?c=d",
            true,
            "dsp.example",
            443,
            "/a/b?c=d",
        );
        check("https://dsp.example:8443?c=d", true, "dsp.example", 8443, "/?c=d");
        check("http://[::1]:9001/bid", false, "::1", 9001, "/bid");
        check("http://my_dsp-1/", false, "my_dsp-1", 80, "/");
    }

    #[test]
    fn refused() {
        #[track_caller]
        fn check(url: &str, message: &str) {
            assert_eq!(Endpoint::parse(url), Err(message), "{url}");
        }
        check("", "must begin with http:// or https://");
        check("ftp://host/", "must begin with http:// or https://");
        check(
            "http://",
            "has no host, or one that is neither a name nor an address",
        );
        check(
            "http://:80/",
            "has no host, or one that is neither a name nor an address",
        );
        check(
            "http://a b/",
            "must be a URL without spaces and of ASCII characters only",
        );
        check(
            "http://hôte/",
            "must be a URL without spaces and of ASCII characters only",
        );
        check("http://host:0/", "has a port that is not between 1 and 65535");
        check("http://host:65536/", "has a port that is not between 1 and 65535");
        check("http://host:/", "has a port that is not between 1 and 65535");
        check("http://host:+80/", "has a port that is not a number");
        check("http://host:80:80/", "has a port that is not a number");
        check(
            "http://user:secret@host/",
            "must not hold a user or password: they would never be sent",
        );
        check(
            "http://host/#top",
            "must not have a fragment: it would never be sent",
        );
        check("http://[::1/", "has an IPv6 address without its closing bracket");
        check(
            "http://[dsp]/",
            "has brackets around something that is not an IPv6 address",
        );
    }

    #[test]
    fn secrets_are_hidden() {
        #[track_caller]
        fn check(url: &str, shown: &str) {
            assert_eq!(without_secrets(url), shown);
        }
        check("http://127.0.0.1:9001/bid", "http://127.0.0.1:9001/bid");
        check(
            "https://host/bid?token=abc&x=1",
            "https://host/bid?token=***&x=***",
        );
        check("https://host/bid?abc", "https://host/bid?***");
        check("https://user:secret@host/bid", "https://***@host/bid");
        check("https://u:p@ss@host?k=v@w/x", "https://***@host?k=***");
        check("https://host/a@b", "https://host/a@b");
        check("u:p@host", "***@host");
    }
}
