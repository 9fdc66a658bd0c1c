//! How simulated DSPs do TLS: which certificates they show, and what they ask for.

use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::certificates::{Authority, Issued, Kind};
use crate::simulated::Fault;

/// TLS for all DSPs alike.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// What to show, with the certificates between it and the root; `None`: what an authority says that is made at
    /// the start, see [`super::Dsps::root`].
    pub identity: Option<Issued>,
    /// Protocols to agree to (ALPN), the one liked best first; empty: says nothing about it.
    pub alpn: Vec<String>,
    /// The root, in PEM, of certificates that clients must show; `None`: they need none.
    pub client_root: Option<String>,
}

impl Default for TlsOptions {
    /// HTTP/2 or HTTP/1.1, with a certificate made at the start, for everybody.
    fn default() -> Self {
        Self {
            identity: None,
            alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
            client_root: None,
        }
    }
}

/// A host that no DSP is reached by.
const WRONG_NAME: &str = "wrong-name.invalid";

/// What each connection is served with.
#[derive(Debug, Clone)]
pub(super) struct Configs {
    good: Arc<ServerConfig>,
    /// With a certificate for another name, and with one that has expired. Only an authority of our own issues such.
    bad: Option<[Arc<ServerConfig>; 2]>,
}

impl Configs {
    /// Also the root to trust, if the authority is ours. `host` is where DSPs are reached.
    pub(super) fn new(options: &TlsOptions, host: &str) -> io::Result<(Self, Option<String>)> {
        if let Some(identity) = &options.identity {
            let good = options.config(identity)?;
            return Ok((Self { good, bad: None }, None));
        }
        let authority = Authority::new()?;
        let config = |name, kind| options.config(&authority.issue(name, kind)?);
        let bad = [
            config(WRONG_NAME, Kind::Server)?,
            config(host, Kind::ExpiredServer)?,
        ];
        let configs = Self {
            good: config(host, Kind::Server)?,
            bad: Some(bad),
        };
        Ok((configs, Some(authority.root())))
    }

    pub(super) fn of(&self, fault: Fault) -> &Arc<ServerConfig> {
        match (fault, &self.bad) {
            (Fault::WrongName, Some([wrong_name, _])) => wrong_name,
            (Fault::Expired, Some([_, expired])) => expired,
            _ => &self.good,
        }
    }
}

impl TlsOptions {
    fn config(&self, identity: &Issued) -> io::Result<Arc<ServerConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let builder = match &self.client_root {
            None => builder.with_no_client_auth(),
            Some(root) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(root)? {
                    roots.add(certificate).map_err(invalid)?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(invalid)?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(invalid)?;
        let mut config = builder
            .with_single_cert(certificates(&identity.certificate)?, key)
            .map_err(invalid)?;
        config.alpn_protocols = self.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        Ok(Arc::new(config))
    }
}

fn certificates(pem: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(invalid)
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("TLS: {error}"))
}
