//! What the fan-out has to know of a DSP, and of all that are asked.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

use super::GateOptions;
use crate::net::tls::TlsOptions;

/// A DSP by its place on the shard. At the start that is its position in the configuration. A DSP keeps its place over
/// reloads for as long as its connections are of use (see [`DspOptions::keeps_connections_of`]), so tables by place
/// (connections, counts) go on; a place is given to another one only when nothing refers to it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DspId(pub u16);

impl DspId {
    /// As an index into per-DSP tables.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for DspId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dsp #{}", self.0)
    }
}

/// One DSP's options.
#[derive(Debug, Clone)]
pub struct DspOptions {
    /// As configured; also the seat of bids that name none.
    pub name: String,
    /// Where to post bid requests.
    pub target: Target,
    /// What to speak with it.
    pub protocol: Protocol,
    /// How to do so in TLS, if it is to be. Its ALPN is to be that of the protocol.
    pub tls: Option<TlsOptions>,
    /// How long this DSP may take, within the orchestration's deadline.
    pub timeout: Duration,
    /// Connections of one shard to this DSP.
    pub connections_max: usize,
    /// Of these, how many to have open whether there are calls or not; over HTTP/2 one is enough.
    pub connections_warm: usize,
    /// Send the request compressed and accept a compressed answer.
    pub gzip: bool,
    /// One answer, compressed as well as decompressed. Over HTTP/2 a connection's windows follow from it.
    pub response_bytes_max: usize,
    /// Whether and when it is asked at all, and how long it is waited for.
    pub gate: GateOptions,
}

impl DspOptions {
    /// Whether what is open to `other` serves this one as well: the same DSP by name, reached and spoken to in the same
    /// way. Time and numbers of connections may differ.
    #[must_use]
    pub fn keeps_connections_of(&self, other: &Self) -> bool {
        let link = |dsp: &Self| (dsp.protocol, dsp.gzip, dsp.response_bytes_max);
        self.name == other.name
            && link(self) == link(other)
            && self.target == other.target
            && self.tls == other.tls
    }
}

/// The DSPs that bid requests are sent to, in the order of the configuration, each with its place on the shard.
#[derive(Debug, Clone)]
pub struct DspSet {
    asked: Rc<[(DspId, DspOptions)]>,
    /// By id: where it is in `asked`.
    positions: Rc<[u16]>,
}

/// In [`DspSet::positions`]: a place of none of them.
const NOT_ASKED: u16 = u16::MAX;

impl DspSet {
    /// Those of one configuration, with the ids that they have on this shard.
    #[must_use]
    pub fn new(asked: Vec<(DspId, DspOptions)>) -> Self {
        let places = asked.iter().map(|(id, _)| id.index() + 1).max().unwrap_or(0);
        let mut positions = vec![NOT_ASKED; places];
        for (position, (id, _)) in (0..NOT_ASKED).zip(&asked) {
            positions[id.index()] = position;
        }
        Self {
            asked: asked.into(),
            positions: positions.into(),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (DspId, &DspOptions)> {
        self.asked.iter().map(|(id, options)| (*id, options))
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.asked.len()
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn has(&self, id: DspId) -> bool {
        self.positions.get(id.index()).is_some_and(|&at| at != NOT_ASKED)
    }

    /// The options of one of them.
    ///
    /// # Panics
    /// When it is none of them: whoever has an id has it from here.
    #[must_use]
    pub fn get(&self, id: DspId) -> &DspOptions {
        let position = self.positions[id.index()];
        &self.asked[usize::from(position)].1
    }
}

/// With their positions as ids: those of a shard that has not reloaded.
impl From<&[DspOptions]> for DspSet {
    fn from(dsps: &[DspOptions]) -> Self {
        Self::new((0..NOT_ASKED).map(DspId).zip(dsps.iter().cloned()).collect())
    }
}

/// Which HTTP to speak with a DSP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive, one call at a time on each connection.
    Http1,
    /// HTTP/2, all calls on as few connections as the DSP allows. Without TLS with prior knowledge; with it a DSP that
    /// does not agree is not spoken to.
    Http2,
    /// What the DSP picks as a connection is made (ALPN). Without TLS there is nothing to pick from: HTTP/1.1.
    Negotiated,
}

impl Protocol {
    /// What to offer (RFC 7301), the one liked best first.
    #[must_use]
    pub fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[b"http/1.1"],
            Self::Http2 => &[b"h2"],
            Self::Negotiated => &[b"h2", b"http/1.1"],
        }
    }
}

/// An endpoint, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where to connect.
    pub address: SocketAddr,
    /// The `Host` header.
    pub authority: String,
    /// The request target, with its query.
    pub path: String,
}

/// Why an endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The name could not be looked up.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The host name.
        host: String,
        /// The resolver's reason.
        source: std::io::Error,
    },
    /// The name has no address.
    #[error("{0} has no address")]
    NoAddress(String),
}

impl Target {
    /// Looks the host up (an IPv6 address without its brackets). Blocks: for start and reload, never on a shard. `tls`
    /// says which port goes without saying. Of several addresses it takes the one that is `in_use`, or else the first:
    /// name servers like to turn them around, and a reload is not to reconnect for that.
    ///
    /// # Errors
    /// When the name does not resolve to an address.
    pub fn resolve(
        host: &str,
        port: u16,
        path: &str,
        tls: bool,
        in_use: Option<SocketAddr>,
    ) -> Result<Self, EndpointError> {
        let addresses = (host, port)
            .to_socket_addrs()
            .map_err(|source| EndpointError::Resolve {
                host: host.to_owned(),
                source,
            })?;
        let address =
            preferred(addresses, in_use).ok_or_else(|| EndpointError::NoAddress(host.to_owned()))?;
        Ok(Self::at(address, host, path, tls))
    }

    /// The endpoint at an address that is known.
    #[must_use]
    pub fn at(address: SocketAddr, host: &str, path: &str, tls: bool) -> Self {
        let port = address.port();
        let shown = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let authority = if port == if tls { 443 } else { 80 } {
            shown
        } else {
            format!("{shown}:{port}")
        };
        Self {
            address,
            authority,
            path: path.to_owned(),
        }
    }
}

fn preferred(
    mut addresses: impl Iterator<Item = SocketAddr>,
    in_use: Option<SocketAddr>,
) -> Option<SocketAddr> {
    let first = addresses.next()?;
    Some(
        in_use
            .filter(|in_use| first == *in_use || addresses.any(|other| other == *in_use))
            .unwrap_or(first),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dsps_are_found_by_id_whatever_their_order() {
        let named = |name: &str| DspOptions {
            name: name.to_owned(),
            ..super::super::tests::dsp(0, false)
        };
        let dsps = DspSet::new(vec![
            (DspId(4), named("a")),
            (DspId(0), named("b")),
            (DspId(2), named("c")),
        ]);
        let names: Vec<_> = dsps.iter().map(|(id, dsp)| (id.0, dsp.name.as_str())).collect();
        assert_eq!(names, [(4, "a"), (0, "b"), (2, "c")]);
        for (id, name) in names {
            assert_eq!(dsps.get(DspId(id)).name, name);
        }
        let places: Vec<_> = (0..7).map(|id| dsps.has(DspId(id))).collect();
        assert_eq!(places, [true, false, true, false, true, false, false]);
    }

    #[test]
    fn what_a_connection_depends_on() {
        let dsp = super::super::tests::dsp(0, false);
        #[track_caller]
        fn check(change: impl FnOnce(&mut DspOptions), keeps: bool) {
            let dsp = super::super::tests::dsp(0, false);
            let mut changed = dsp.clone();
            change(&mut changed);
            assert_eq!(changed.keeps_connections_of(&dsp), keeps);
        }
        check(|_| (), true);
        check(|dsp| dsp.timeout = Duration::from_millis(7), true);
        check(|dsp| dsp.connections_max = 7, true);
        check(|dsp| dsp.connections_warm = 7, true);
        check(|dsp| dsp.name = "other".to_owned(), false);
        check(|dsp| dsp.target.address.set_port(7), false);
        check(|dsp| dsp.target.authority = "other".to_owned(), false);
        check(|dsp| dsp.target.path = "/other".to_owned(), false);
        check(|dsp| dsp.protocol = Protocol::Http2, false);
        check(|dsp| dsp.gzip = true, false);
        check(|dsp| dsp.response_bytes_max = 7, false);
        let tls = super::super::tests::tls();
        check(|dsp| dsp.tls = Some(tls.clone()), false);
        let same = DspOptions {
            tls: Some(tls.clone()),
            ..dsp.clone()
        };
        assert!(same.clone().keeps_connections_of(&same), "read again, the same");
        let other = DspOptions {
            tls: Some(super::super::tests::tls()),
            ..dsp
        };
        assert!(!other.keeps_connections_of(&same), "another authority");
    }

    #[test]
    fn the_host_header_names_the_port_unless_it_goes_without_saying() {
        #[track_caller]
        fn check(host: &str, port: u16, tls: bool, authority: &str) {
            let target = Target::resolve(host, port, "/bid", tls, None).unwrap();
            assert_eq!(target.authority, authority);
            assert_eq!(target.address.port(), port);
        }
        check("127.0.0.1", 80, false, "127.0.0.1");
        check("127.0.0.1", 80, true, "127.0.0.1:80");
        check("127.0.0.1", 443, true, "127.0.0.1");
        check("127.0.0.1", 443, false, "127.0.0.1:443");
        check("::1", 443, true, "[::1]");
        check("::1", 9001, false, "[::1]:9001");
    }

    #[test]
    fn an_address_in_use_is_kept_while_the_name_has_it() {
        let address = |last: u8| SocketAddr::from(([192, 0, 2, last], 80));
        let check = |resolved: &[u8], in_use: Option<u8>, expected: Option<u8>| {
            let resolved = resolved.iter().map(|&last| address(last));
            assert_eq!(preferred(resolved, in_use.map(address)), expected.map(address));
        };
        check(&[], None, None);
        check(&[], Some(1), None);
        check(&[1, 2], None, Some(1));
        check(&[2, 1], Some(1), Some(1));
        check(&[1, 2], Some(1), Some(1));
        check(&[2, 3], Some(1), Some(2));
    }
}
