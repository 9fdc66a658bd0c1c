//! What the fan-out has to know of a DSP.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use crate::net::tls::TlsOptions;

/// A DSP by its position in the configuration.
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
    /// says which port goes without saying.
    ///
    /// # Errors
    /// When the name does not resolve to an address.
    pub fn resolve(host: &str, port: u16, path: &str, tls: bool) -> Result<Self, EndpointError> {
        let mut addresses = (host, port)
            .to_socket_addrs()
            .map_err(|source| EndpointError::Resolve {
                host: host.to_owned(),
                source,
            })?;
        let address = addresses
            .next()
            .ok_or_else(|| EndpointError::NoAddress(host.to_owned()))?;
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
        Ok(Self {
            address,
            authority,
            path: path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_header_names_the_port_unless_it_goes_without_saying() {
        #[track_caller]
        fn check(host: &str, port: u16, tls: bool, authority: &str) {
            let target = Target::resolve(host, port, "/bid", tls).unwrap();
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
}
