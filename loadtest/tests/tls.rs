//! The DSP simulator over TLS, as a client by the book meets it (rustls); and its command line.

use std::error::Error;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use corebid_loadtest::certificates::{Authority, Issued, Kind};
use corebid_loadtest::dsps::{Dsps, Fault, Options, TlsOptions};
use corebid_loadtest::simulated::Profile;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;
type Stream = StreamOwned<ClientConnection, TcpStream>;

const PATIENCE: Duration = Duration::from_secs(10);

fn options(tls: Option<TlsOptions>) -> Options {
    let profile = Profile {
        count: 2,
        bid_share: 1.0,
        scale_latency: 0.0,
        ..Profile::default()
    };
    Options {
        profile,
        tls,
        ..Options::default()
    }
}

fn start(tls: TlsOptions) -> Outcome<Dsps> {
    Ok(Dsps::start(options(Some(tls)))?)
}

fn root(dsps: &Dsps) -> Outcome<String> {
    Ok(dsps.root().ok_or("no root")?.to_owned())
}

/// A client's way to a DSP, handshake done; or why there is none.
fn connect(port: u16, root: &str, alpn: &[&str], identity: Option<&Issued>) -> Outcome<Stream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(Issued { certificate, key }) => config.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?,
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let mut tcp = TcpStream::connect(("127.0.0.1", port))?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    let mut tls = ClientConnection::new(Arc::new(config), ServerName::try_from("127.0.0.1")?)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp)?;
    }
    Ok(StreamOwned::new(tls, tcp))
}

/// The first bytes of the answer to a bid request over HTTP/1.1.
fn ask(stream: &mut Stream) -> std::io::Result<String> {
    let body = r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#;
    let length = body.len();
    stream.write_all(
        format!("POST /bid HTTP/1.1\r\nhost: dsp\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes(),
    )?;
    let mut answer = [0; 4096];
    let count = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..count]).into_owned())
}

#[test]
fn answers_over_tls_and_agrees_to_what_it_is_told() -> Outcome {
    for (agrees, offers, picked) in [
        (&["h2", "http/1.1"][..], &["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], &["h2", "http/1.1"], Some("http/1.1")),
        (&["h2", "http/1.1"], &["http/1.1"], Some("http/1.1")),
        (&["h2"], &[], None),
        (&[], &["h2"], None),
    ] {
        let dsps = start(TlsOptions {
            alpn: agrees.iter().map(|&name| name.to_owned()).collect(),
            ..TlsOptions::default()
        })?;
        let mut stream = connect(dsps.ports()[1], &root(&dsps)?, offers, None)?;
        assert_eq!(stream.conn.alpn_protocol(), picked.map(str::as_bytes));
        // Whatever was agreed to, the first bytes say what is spoken.
        for _ in 0..2 {
            assert!(ask(&mut stream)?.starts_with("HTTP/1.1 200 "));
        }
    }
    Ok(())
}

#[test]
fn ends_in_good_order_or_not() -> Outcome {
    let dsps = start(TlsOptions::default())?;
    for (fault, end) in [
        (Fault::GoAway, Ok(0)),
        (Fault::Reset, Err(ErrorKind::ConnectionReset)),
    ] {
        dsps.set_fault(0, fault);
        let mut stream = connect(dsps.ports()[0], &root(&dsps)?, &[], None)?;
        // An answer and close_notify, or neither.
        let _answer = ask(&mut stream);
        let end_seen = stream.read(&mut [0; 16]).map_err(|error| error.kind());
        assert!(
            end_seen == end || end == Err(ErrorKind::ConnectionReset) && end_seen.is_err(),
            "{fault}: {end_seen:?}"
        );
    }
    Ok(())
}

#[test]
fn faults_meet_new_connections_only() -> Outcome {
    let dsps = start(TlsOptions::default())?;
    let (port, root) = (dsps.ports()[0], root(&dsps)?);
    let mut before = connect(port, &root, &[], None)?;
    for (fault, why) in [
        (Fault::WrongName, "not valid for name"),
        (Fault::Expired, "certificate expired"),
    ] {
        dsps.set_fault(0, fault);
        let error = connect(port, &root, &[], None).map(drop).unwrap_err();
        assert!(error.to_string().contains(why), "{fault}: {error}");
        assert!(ask(&mut before)?.starts_with("HTTP/1.1 200 "), "{fault}");
    }
    assert_eq!(dsps.counts(0).faults, 0, "requests meet none");

    dsps.set_fault(0, Fault::HandshakeLate(300));
    let started = Instant::now();
    let mut late = connect(port, &root, &[], None)?;
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert!(ask(&mut late)?.starts_with("HTTP/1.1 200 "));

    dsps.set_fault(0, Fault::HandshakeStall);
    let mut tcp = TcpStream::connect(("127.0.0.1", port))?;
    tcp.set_read_timeout(Some(Duration::from_millis(300)))?;
    tcp.write_all(b"whatever this is")?;
    let silence = tcp.read(&mut [0; 16]).unwrap_err();
    assert_eq!(silence.kind(), ErrorKind::WouldBlock);
    assert!(ask(&mut before)?.starts_with("HTTP/1.1 200 "));
    Ok(())
}

#[test]
fn clients_may_have_to_say_who_they_are() -> Outcome {
    let authority = Authority::new()?;
    let dsps = start(TlsOptions {
        client_root: Some(authority.root()),
        ..TlsOptions::default()
    })?;
    let (port, root) = (dsps.ports()[0], root(&dsps)?);
    let known = authority.issue("client", Kind::Client)?;
    assert!(ask(&mut connect(port, &root, &[], Some(&known))?)?.starts_with("HTTP/1.1 200 "));
    for identity in [None, Some(&Authority::new()?.issue("client", Kind::Client)?)] {
        let refused = connect(port, &root, &[], identity).and_then(|mut stream| Ok(ask(&mut stream)?));
        assert!(refused.is_err(), "{refused:?}");
    }
    assert_eq!(dsps.total().requests, 1);
    Ok(())
}

#[test]
fn what_cannot_be_served_is_refused_at_the_start() -> Outcome {
    let authority = Authority::new()?;
    let given = |certificate: &str, key: &str| TlsOptions {
        identity: Some(Issued {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        }),
        ..TlsOptions::default()
    };
    let good = authority.issue("127.0.0.1", Kind::Server)?;
    let check = |tls: Option<TlsOptions>, fault: Fault, starts: bool| {
        let started = Dsps::start(Options {
            faults: vec![(0, fault)],
            ..options(tls)
        });
        assert_eq!(started.is_ok(), starts, "{fault}: {started:?}");
        if let Err(error) = started {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
    };
    check(None, Fault::HandshakeStall, false);
    check(Some(TlsOptions::default()), Fault::HandshakeStall, true);
    let ours = given(&good.certificate, &good.key);
    check(Some(ours.clone()), Fault::HandshakeLate(1), true);
    check(Some(ours.clone()), Fault::Expired, false);
    check(Some(ours), Fault::WrongName, false);
    check(Some(given("", &good.key)), Fault::None, false);
    check(Some(given(&good.certificate, "")), Fault::None, false);
    let other = authority.issue("127.0.0.1", Kind::Server)?;
    check(Some(given(&good.certificate, &other.key)), Fault::None, false);
    Ok(())
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn the_command_line_writes_the_root_and_serves() -> Outcome {
    let file = std::env::temp_dir().join(format!("corebid-loadtest-root-{}.pem", std::process::id()));
    let path = file.to_str().ok_or("no path")?;
    let child = Command::new(env!("CARGO_BIN_EXE_corebid-loadtest"))
        .args([
            "dsps",
            "--count",
            "1",
            "--base-port",
            "0",
            "--tls",
            "--tls-root-out",
            path,
        ])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut running = Running(child);
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    assert!(line.contains(&format!("over TLS, root in {path}")), "{line}");
    let port = line
        .split_once("127.0.0.1:")
        .and_then(|(_, rest)| rest.split(',').next())
        .ok_or("no port")?
        .parse()?;
    let mut stream = connect(port, &std::fs::read_to_string(&file)?, &["http/1.1"], None)?;
    std::fs::remove_file(&file)?;
    assert!(ask(&mut stream)?.starts_with("HTTP/1.1 20"));
    for bad in [
        &["--tls-cert", "x"][..],
        &["--tls", "--tls-cert", "x"],
        &["--tls-client-roots", "x"],
        &["--tls-alpn", "h2"],
        &["--tls-root-out", "x"],
        &["--tls", "--tls-cert", "/nowhere", "--tls-key", "/nowhere"],
    ] {
        let child = Command::new(env!("CARGO_BIN_EXE_corebid-loadtest"))
            .args(["dsps", "--base-port", "0"])
            .args(bad)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut refused = Running(child);
        let started = Instant::now();
        let status = loop {
            if let Some(status) = refused.0.try_wait()? {
                break status;
            }
            assert!(started.elapsed() < PATIENCE, "{bad:?} is served");
            std::thread::park_timeout(Duration::from_millis(10));
        };
        assert_eq!(status.code(), Some(2), "{bad:?}");
    }
    Ok(())
}
