//! Certificates and keys out of PEM files. What is wrong with one is said without showing what is in it.

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// What is wrong with a certificate and its key, in words, by the file to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityError {
    /// The file with the certificate.
    Certificate(String),
    /// The file with the key.
    Key(String),
}

/// All certificates in the text, at least one.
pub(super) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| fault(&error, "certificate"))?;
    if found.is_empty() {
        return Err(fault(&pem::Error::NoItemsFound, "certificate"));
    }
    Ok(found)
}

pub(super) fn identity(
    certificate: &str,
    key: &str,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, IdentityError> {
    let chain = certificates(certificate).map_err(IdentityError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| IdentityError::Key(fault(&error, "private key")))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InvalidCertificate(_) => {
            IdentityError::Certificate("its first certificate is not a valid X.509 certificate".to_owned())
        }
        rustls::Error::InconsistentKeys(_) => {
            IdentityError::Key("is not the key of the certificate".to_owned())
        }
        _ => IdentityError::Key("is not an RSA, ECDSA or Ed25519 key that can be used".to_owned()),
    })
}

fn fault(error: &pem::Error, what: &str) -> String {
    match error {
        pem::Error::NoItemsFound => format!("holds no {what} in PEM"),
        pem::Error::MissingSectionEnd { .. } => "is cut off: a PEM section does not end".to_owned(),
        pem::Error::Base64Decode(_) => "is damaged: a PEM section is not base64".to_owned(),
        _ => "is not PEM".to_owned(),
    }
}
