//! What the fan-out has to know of a DSP.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

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
    /// How long this DSP may take, within the orchestration's deadline.
    pub timeout: Duration,
    /// Connections of one shard to this DSP.
    pub connections_max: usize,
    /// Send the request compressed and accept a compressed answer.
    pub gzip: bool,
}

/// Which HTTP to speak with a DSP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive, one call at a time on each connection.
    Http1,
    /// HTTP/2 with prior knowledge, all calls on as few connections as the DSP allows.
    Http2,
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
    /// Looks the host up. Blocks: for start and reload, never on a shard.
    ///
    /// # Errors
    /// When the name does not resolve to an address.
    pub fn resolve(host: &str, port: u16, path: &str) -> Result<Self, EndpointError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let mut addresses = (bare, port)
            .to_socket_addrs()
            .map_err(|source| EndpointError::Resolve {
                host: host.to_owned(),
                source,
            })?;
        let address = addresses
            .next()
            .ok_or_else(|| EndpointError::NoAddress(host.to_owned()))?;
        let authority = if port == 80 {
            host.to_owned()
        } else {
            format!("{host}:{port}")
        };
        Ok(Self {
            address,
            authority,
            path: path.to_owned(),
        })
    }
}
