//! TLS to DSPs: whom to trust, what to present, and one connection's session. rustls does the work, with ring's
//! arithmetic (`docs/decisions/0011`); nothing here knows HTTP. Certificates are always verified: no switch turns that
//! off.

mod pem;
mod session;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, pki_types};

pub use pem::IdentityError;
pub(super) use session::Session;

/// Ciphertext that is read or written at once, and so decrypted or encrypted at once: as much as is read from a
/// connection without TLS. Four records of the largest size.
const CIPHERTEXT_BYTES: usize = 64 << 10;

/// Tickets to resume a session with that are kept for a DSP, on each shard; TLS 1.3 spends one for each connection.
/// rustls keeps no more than these for one server.
const TICKETS_KEPT: usize = 8;

/// The authorities that may vouch for a DSP.
#[derive(Clone)]
pub struct Roots(Arc<RootCertStore>);

/// What we show a DSP that asks who we are: a certificate with its chain, and the private key to it.
#[derive(Clone)]
pub struct Identity(Arc<CertifiedKey>);

/// Whom a DSP's certificate must name; also what it is told that we want (SNI), unless it is an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerName(pki_types::ServerName<'static>);

/// How to speak TLS with one DSP: for all shards.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    config: Arc<ClientConfig>,
    server_name: ServerName,
    /// What the config was made of, to tell whether another one is the same.
    roots: Roots,
    identity: Option<Identity>,
}

impl Eq for TlsOptions {}

/// By what they were made of.
impl PartialEq for TlsOptions {
    fn eq(&self, other: &Self) -> bool {
        self.server_name == other.server_name
            && self.roots == other.roots
            && self.identity == other.identity
            && self.config.alpn_protocols == other.config.alpn_protocols
    }
}

/// The same on one shard, with the sessions that can be resumed.
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    server_name: ServerName,
    scratch: Rc<Scratch>,
}

/// Room that all sessions of a shard decrypt and encrypt in.
#[derive(Debug)]
pub struct Scratch(RefCell<Vec<u8>>);

/// What a handshake has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The DSP wants HTTP/2 (ALPN "h2"); otherwise it wants HTTP/1.1 or did not say.
    pub h2: bool,
    /// A session was resumed: no certificate was sent, nothing signed.
    pub resumed: bool,
}

/// Why there is no session, or no more: as much as a label of a metric may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The DSP's certificate is not to be trusted: expired, for another name, by an unknown authority.
    Certificate,
    /// The DSP sent an alert: it does not like our certificate or that there is none, or nothing that we offer.
    Refused,
    /// What came is not TLS as we speak it.
    Protocol,
    /// The connection was lost.
    Lost,
    /// It took too long.
    Timeout,
}

impl Roots {
    /// Those of the operating system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`. Reads files: for start and reload.
    ///
    /// # Errors
    /// When there are none, in words.
    pub fn system() -> Result<Self, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        let (added, _unreadable) = store.add_parsable_certificates(found.certs);
        if added > 0 {
            return Ok(Self(Arc::new(store)));
        }
        let why: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        let why = if why.is_empty() {
            String::new()
        } else {
            format!(" ({})", why.join("; "))
        };
        Err(format!(
            "the system has no root certificates{why}: install ca-certificates, or name a file"
        ))
    }

    /// Those of a PEM file, given as its text.
    ///
    /// # Errors
    /// When there is none in it, or one of them is not a certificate, in words.
    pub fn from_pem(text: &str) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        for (number, certificate) in (1..).zip(pem::certificates(text)?) {
            store
                .add(certificate)
                .map_err(|_| format!("its certificate {number} is not a valid X.509 certificate"))?;
        }
        Ok(Self(Arc::new(store)))
    }
}

impl Eq for Roots {}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.0.roots == other.0.roots
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} roots", self.0.len())
    }
}

impl Identity {
    /// A certificate with those between it and the root, and its key, both as the text of a PEM file.
    ///
    /// # Errors
    /// In words, for the one or the other file; that they do not belong together is said of the key.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, IdentityError> {
        pem::identity(certificate, key, &rustls::crypto::ring::default_provider())
            .map(|identity| Self(Arc::new(identity)))
    }
}

impl Eq for Identity {}

/// By the certificate: only one key belongs to it.
impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.0.cert == other.0.cert
    }
}

/// Without the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "identity of {} certificates", self.0.cert.len())
    }
}

impl ServerName {
    /// A DNS name, or an address as a certificate may name one (IPv6 without brackets).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        pki_types::ServerName::try_from(text.to_owned()).ok().map(Self)
    }
}

impl TlsOptions {
    /// Trusts `roots` for `server_name`, shows `identity` to who asks, and offers the protocols `alpn`, the one
    /// liked best first.
    ///
    /// # Errors
    /// When the cryptography that was compiled in cannot do TLS: never.
    pub fn new(
        roots: &Roots,
        identity: Option<&Identity>,
        server_name: ServerName,
        alpn: &[&[u8]],
    ) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(Arc::clone(&roots.0));
        let mut config = match identity {
            Some(Identity(key)) => {
                config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))))
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Self {
            config: Arc::new(config),
            server_name,
            roots: roots.clone(),
            identity: identity.cloned(),
        })
    }
}

impl TlsClient {
    /// For one shard: what it resumes is its own. The store behind has a lock that nobody else ever takes, and is
    /// asked once for each connection.
    #[must_use]
    pub fn new(options: &TlsOptions, scratch: &Rc<Scratch>) -> Self {
        let mut config = ClientConfig::clone(&options.config);
        config.resumption = Resumption::in_memory_sessions(TICKETS_KEPT);
        Self {
            config: Arc::new(config),
            server_name: options.server_name.clone(),
            scratch: Rc::clone(scratch),
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self(RefCell::new(vec![0; CIPHERTEXT_BYTES]))
    }
}

impl Failure {
    /// What an error of a [`Channel`](super::Channel) with TLS comes to.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                Self::Certificate
            }
            Some(rustls::Error::AlertReceived(_)) => Self::Refused,
            Some(_) => Self::Protocol,
            None => Self::Lost,
        }
    }
}

#[cfg(test)]
mod tests;
