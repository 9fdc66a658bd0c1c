//! Certificates and keys that the configuration names. They are read and checked here, where the line to mend is
//! known, and not only once a DSP is talked to.

use std::io;
use std::path::Path;

use super::file::{DspFile, SYSTEM_ROOTS};
use super::read::{Reader, Written};
use crate::net::tls::{Identity, IdentityError, Roots, ServerName};

/// How to speak TLS with a DSP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// Whom its certificate must name.
    pub server_name: ServerName,
    /// The authorities that may vouch for it; `None`: those that the operating system trusts.
    pub roots: Option<Roots>,
    /// What it is shown if it asks who we are.
    pub identity: Option<Identity>,
}

/// Reads the files that a configuration refers to.
pub(super) type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

impl TlsOptions {
    /// `roots` are those of DSPs that name none of their own.
    pub(super) fn check(
        file: &DspFile,
        host: &str,
        roots: Option<&Roots>,
        reader: &mut Reader<'_>,
        read_file: ReadFile<'_>,
    ) -> Option<Self> {
        let own_roots = file
            .tls_roots
            .as_ref()
            .map(|path| check_roots(path, reader, read_file));
        let identity = check_identity(file, reader, read_file);
        Some(Self {
            server_name: check_server_name(file, host, reader)?,
            roots: own_roots.unwrap_or_else(|| roots.cloned()),
            identity,
        })
    }

    /// A DSP without TLS must not look as if it had some.
    pub(super) fn check_that_there_are_none(file: &DspFile, reader: &mut Reader<'_>) {
        let keys = [
            &file.tls_roots,
            &file.tls_server_name,
            &file.tls_certificate,
            &file.tls_key,
        ];
        for written in keys.into_iter().flatten() {
            reader.wrong(written, "is of use only with an https endpoint");
        }
    }
}

/// `None`: the system's, or none that could be read.
pub(super) fn check_roots(
    written: &Written<String>,
    reader: &mut Reader<'_>,
    read_file: ReadFile<'_>,
) -> Option<Roots> {
    if written.value == SYSTEM_ROOTS {
        return None;
    }
    let text = read(written, reader, read_file)?;
    let roots = Roots::from_pem(&text);
    roots
        .map_err(|error| reader.wrong(written, format!("{}: {error}", written.value)))
        .ok()
}

fn check_identity(file: &DspFile, reader: &mut Reader<'_>, read_file: ReadFile<'_>) -> Option<Identity> {
    let (certificate, key) = match (&file.tls_certificate, &file.tls_key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(alone), None) => {
            reader.wrong(alone, "must have tls_key beside it");
            return None;
        }
        (None, Some(alone)) => {
            reader.wrong(alone, "must have tls_certificate beside it");
            return None;
        }
        (None, None) => return None,
    };
    let texts = [certificate, key].map(|written| read(written, reader, read_file));
    let [Some(certificate_text), Some(key_text)] = texts else {
        return None;
    };
    match Identity::from_pem(&certificate_text, &key_text) {
        Ok(identity) => return Some(identity),
        Err(IdentityError::Certificate(error)) => {
            reader.wrong(certificate, format!("{}: {error}", certificate.value));
        }
        Err(IdentityError::Key(error)) => reader.wrong(key, format!("{}: {error}", key.value)),
    }
    None
}

fn check_server_name(file: &DspFile, host: &str, reader: &mut Reader<'_>) -> Option<ServerName> {
    let (written, name) = match &file.tls_server_name {
        Some(written) => (Some(written), written.value.as_str()),
        None => (file.endpoint.as_ref(), host),
    };
    let parsed = ServerName::parse(name);
    if let (None, Some(written)) = (&parsed, written) {
        let message = match &file.tls_server_name {
            Some(_) => "must be a host name or an address",
            None => "has a host that no certificate can name; say tls_server_name",
        };
        reader.wrong(written, message);
    }
    parsed
}

fn read(written: &Written<String>, reader: &mut Reader<'_>, read_file: ReadFile<'_>) -> Option<String> {
    read_file(Path::new(&written.value))
        .map_err(|error| reader.wrong(written, format!("{}: cannot be read: {error}", written.value)))
        .ok()
}
