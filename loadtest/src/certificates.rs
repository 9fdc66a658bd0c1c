//! Certificates for simulated DSPs and tests: an authority that is made up on the spot, and what it vouches for. Its
//! key is never written anywhere, so nothing that trusts it is in danger once the process is gone.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// Vouches for whatever it is told to.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate alone: the authority signs without anybody between.
    pub certificate: String,
    /// PKCS #8.
    pub key: String,
}

/// What kind of certificate to issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// For who is connected to.
    Server,
    /// For who is connected to, until 2020.
    ExpiredServer,
    /// For who connects.
    Client,
}

static AUTHORITIES: AtomicU32 = AtomicU32::new(1);

impl Authority {
    /// A new one, with a key of its own.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new() -> io::Result<Self> {
        let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        // Two of one name would be taken for one that forged its signatures.
        let number = AUTHORITIES.fetch_add(1, Ordering::Relaxed);
        let name = format!("corebid-loadtest {}-{number}, for tests only", std::process::id());
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        CertifiedIssuer::self_signed(params, key)
            .map(Self)
            .map_err(io::Error::other)
    }

    /// What to trust, in PEM.
    pub fn root(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `name`, a host name or an address.
    ///
    /// # Errors
    /// When it is neither.
    pub fn issue(&self, name: &str, kind: Kind) -> io::Result<Issued> {
        let mut params = CertificateParams::new([name.to_owned()]).map_err(io::Error::other)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match kind {
            Kind::Server | Kind::ExpiredServer => ExtendedKeyUsagePurpose::ServerAuth,
            Kind::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        if kind == Kind::ExpiredServer {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.signed_by(&key, &self.0).map_err(io::Error::other)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}
