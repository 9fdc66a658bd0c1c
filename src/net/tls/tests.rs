//! Files as an operator may get them wrong, and what goes over the wire.

use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use corebid_loadtest::certificates::{Authority, Kind};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::*;
use crate::net::{Channel, Progress, Received};

#[test]
fn roots() {
    let authority = Authority::new().unwrap();
    let (root, issued) = (authority.root(), authority.issue("x", Kind::Client).unwrap());
    #[track_caller]
    fn check(text: &str, expected: Result<usize, &str>) {
        let read = Roots::from_pem(text).map(|roots| roots.0.len());
        assert_eq!(read, expected.map_err(str::to_owned));
    }
    check(&root, Ok(1));
    check(&format!("ISRG, see the web\n{root}\n{root}"), Ok(2));
    check(&format!("{root}{}", issued.key), Ok(1));
    check("", Err("holds no certificate in PEM"));
    check("certificate", Err("holds no certificate in PEM"));
    check(&issued.key, Err("holds no certificate in PEM"));
    check(
        &root[..root.len() - 30],
        Err("is cut off: a PEM section does not end"),
    );
    check(
        &root.replace("MII", "M!!"),
        Err("is damaged: a PEM section is not base64"),
    );
    check("-----BEGIN CERTIFICATE\n", Err("is not PEM"));
    check(
        &format!("{root}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        Err("its certificate 2 is not a valid X.509 certificate"),
    );
}

#[test]
fn identities() {
    use IdentityError::{Certificate, Key};
    let authority = Authority::new().unwrap();
    let [one, other] = ["one", "other"].map(|name| authority.issue(name, Kind::Client).unwrap());
    #[track_caller]
    fn check(certificate: &str, key: &str, expected: &Result<(), IdentityError>) {
        assert_eq!(&Identity::from_pem(certificate, key).map(drop), expected);
    }
    check(&one.certificate, &one.key, &Ok(()));
    check(
        &format!("{}{}", one.certificate, authority.root()),
        &one.key,
        &Ok(()),
    );
    let both = format!("{}{}", one.certificate, one.key);
    check(&both, &both, &Ok(()));
    let says = |what: &str| what.to_owned();
    check(
        "",
        &one.key,
        &Err(Certificate(says("holds no certificate in PEM"))),
    );
    check(
        &one.certificate,
        "",
        &Err(Key(says("holds no private key in PEM"))),
    );
    check(
        &one.certificate,
        &other.key,
        &Err(Key(says("is not the key of the certificate"))),
    );
    let section =
        |kind: &str, base64: &str| format!("-----BEGIN {kind}-----\n{base64}\n-----END {kind}-----\n");
    check(
        &section("CERTIFICATE", "AAAA"),
        &one.key,
        &Err(Certificate(says(
            "its first certificate is not a valid X.509 certificate",
        ))),
    );
    check(
        &one.certificate,
        &section("PRIVATE KEY", "AAAA"),
        &Err(Key(says("is not an RSA, ECDSA or Ed25519 key that can be used"))),
    );
}

/// What a message may show of a key: that there is one.
#[test]
fn keys_do_not_show() {
    let issued = Authority::new().unwrap().issue("one", Kind::Client).unwrap();
    let identity = Identity::from_pem(&issued.certificate, &issued.key).unwrap();
    assert_eq!(format!("{identity:?}"), "identity of 1 certificates");
    let options = TlsOptions::new(
        &Roots::from_pem(&issued.certificate).unwrap(),
        Some(&identity),
        ServerName::parse("dsp.example").unwrap(),
        &[],
    )
    .unwrap();
    let shown = format!("{options:?}");
    let secret: Vec<_> = issued.key.lines().filter(|line| !line.contains("---")).collect();
    assert!(
        !secret.is_empty() && secret.iter().all(|line| !shown.contains(line)),
        "{shown}"
    );
}

#[test]
fn server_names() {
    for (text, fits) in [
        ("dsp.example", true),
        ("my_dsp-1", true),
        ("127.0.0.1", true),
        ("::1", true),
        ("", false),
        ("[::1]", false),
        ("dsp example", false),
        ("-dsp.example", false),
    ] {
        assert_eq!(ServerName::parse(text).is_some(), fits, "{text}");
    }
}

/// A server that shakes hands and then hands over the bare socket, and a client's socket after the handshake.
fn after_the_handshake() -> (Channel, JoinHandle<(TcpStream, ServerConnection)>) {
    after_the_handshake_of(&rustls::version::TLS13)
}

fn after_the_handshake_of(
    version: &'static rustls::SupportedProtocolVersion,
) -> (Channel, JoinHandle<(TcpStream, ServerConnection)>) {
    let authority = Authority::new().unwrap();
    let issued = authority.issue("127.0.0.1", Kind::Server).unwrap();
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serves = std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut tls = ServerConnection::new(Arc::new(config)).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp).unwrap();
        }
        (tcp, tls)
    });
    let roots = Roots::from_pem(&authority.root()).unwrap();
    let name = ServerName::parse("127.0.0.1").unwrap();
    let options = TlsOptions::new(&roots, None, name, &[]).unwrap();
    let client = TlsClient::new(&options, &Rc::default());
    let mut channel = Channel::connect(address, Some(&client)).unwrap();
    let agreed = loop {
        std::thread::yield_now();
        // Not connected yet at first.
        match channel.handshake() {
            Ok(None) => {}
            Ok(Some(agreed)) => break agreed,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotConnected, "{error}"),
        }
    };
    assert_eq!(
        agreed,
        Agreed {
            h2: false,
            resumed: false
        }
    );
    (channel, serves)
}

/// Reads so many records off the wire; what lies behind them is left. The lengths of what they hold, encrypted.
fn records(tcp: &mut TcpStream, count: usize) -> Vec<usize> {
    let mut record = || {
        let mut header = [0; 5];
        tcp.read_exact(&mut header).unwrap();
        assert_eq!(header[0], 23, "application data");
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        tcp.read_exact(&mut vec![0; length]).unwrap();
        length
    };
    (0..count).map(|_| record()).collect()
}

fn send(channel: &mut Channel, pieces: &[&[u8]]) -> Progress {
    let pieces: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    channel.send(&pieces).unwrap()
}

#[test]
fn what_is_sent_together_shares_records() {
    // TLS 1.3 adds a byte of type and 16 of authentication to each record of at most 16 kB.
    const ADDED: usize = 17;
    let (mut channel, serves) = after_the_handshake();
    let (mut tcp, _tls) = serves.join().unwrap();
    // A head and a body of HTTP/1.1: one record.
    assert_eq!(
        send(&mut channel, &[&[b'h'; 200], &[b'b'; 1_300]]),
        Progress::Moved(1_500)
    );
    assert_eq!(records(&mut tcp, 1), [1_500 + ADDED]);
    // What forty calls have gathered: full records, in one go, of however many pieces.
    let pieces = [&[b'x'; 700][..]; 80];
    assert_eq!(send(&mut channel, &pieces), Progress::Moved(80 * 700));
    let expected = [16_384, 16_384, 16_384, 80 * 700 - 3 * 16_384];
    assert_eq!(records(&mut tcp, 4), expected.map(|plain| plain + ADDED));
    let gathered = vec![b'x'; 40 * 1_400];
    assert_eq!(send(&mut channel, &[&gathered]), Progress::Moved(gathered.len()));
    let expected = [16_384, 16_384, 16_384, gathered.len() - 3 * 16_384];
    assert_eq!(records(&mut tcp, 4), expected.map(|plain| plain + ADDED));
    // More than that is for the next write.
    assert_eq!(
        send(&mut channel, &[&[b'x'; CIPHERTEXT_BYTES + 1]]),
        Progress::Moved(CIPHERTEXT_BYTES)
    );
    assert_eq!(
        send(&mut channel, &[&[b'h'; 1_000], &[b'b'; CIPHERTEXT_BYTES]]),
        Progress::Moved(CIPHERTEXT_BYTES)
    );
    assert_eq!(
        send(&mut channel, &[&[b'h'; CIPHERTEXT_BYTES], b"body"]),
        Progress::Moved(CIPHERTEXT_BYTES)
    );
}

/// A peer that takes nothing: what is encrypted waits, and no more is.
#[test]
fn a_full_socket_holds_at_most_one_write_of_records() {
    let (mut channel, serves) = after_the_handshake();
    let (mut tcp, _tls) = serves.join().unwrap();
    let mut sent = 0;
    while let Progress::Moved(count) = send(&mut channel, &[&[b'x'; 40_000]]) {
        sent += count;
        assert!(sent < 64 << 20, "the kernel takes no end of it");
    }
    assert!(channel.has_unsent());
    // Meanwhile the peer reads all that the kernel has.
    tcp.set_nonblocking(true).unwrap();
    let mut received = 0;
    while channel.has_unsent() {
        received += tcp.read(&mut vec![0; 1 << 20]).unwrap_or(0);
        channel.flush().unwrap();
    }
    while let Ok(count) = tcp.read(&mut vec![0; 1 << 20]) {
        received += count;
    }
    assert!(received > sent, "with what encryption adds");
}

/// Records that come in pieces, and more plaintext at once than there is room for.
#[test]
fn plaintext_comes_in_order_whatever_the_pieces() {
    // What encryption adds to a record: a type and 16 bytes of authentication; 16 of these and a nonce of 8.
    in_order_whatever_the_pieces(&rustls::version::TLS13, 17);
    in_order_whatever_the_pieces(&rustls::version::TLS12, 24);
}

fn in_order_whatever_the_pieces(version: &'static rustls::SupportedProtocolVersion, added: usize) {
    let (mut channel, serves) = after_the_handshake_of(version);
    let (mut tcp, mut tls) = serves.join().unwrap();
    let text: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
    let sent = text.clone();
    let sends = std::thread::spawn(move || {
        tls.set_buffer_limit(None);
        tls.writer().write_all(&sent).unwrap();
        tls.send_close_notify();
        let mut ciphertext = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut ciphertext).unwrap();
        }
        for piece in ciphertext.chunks(10_007) {
            tcp.write_all(piece).unwrap();
            std::thread::yield_now();
        }
        tcp
    });
    let mut read = Vec::new();
    // Smaller than what one read decrypts.
    let mut buffer = [0; 5_000];
    loop {
        match channel.receive(&mut buffer).unwrap() {
            Received::Bytes { count, .. } => read.extend_from_slice(&buffer[..count]),
            Received::WouldBlock => std::thread::yield_now(),
            Received::End => break,
        }
    }
    assert!(read == text, "{} of {} bytes", read.len(), text.len());
    assert_eq!(channel.receive(&mut buffer).unwrap(), Received::End);
    // We have not said that we end, so we may still speak; then we do.
    assert_eq!(send(&mut channel, &[b"bye"]), Progress::Moved(3));
    channel.goodbye();
    let mut tcp = sends.join().unwrap();
    assert_eq!(records(&mut tcp, 1), [3 + added]);
    let mut rest = Vec::new();
    drop(channel);
    tcp.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 5 + 2 + added, "close_notify");
}

#[test]
fn what_is_not_tls_is_told_apart_from_a_lost_connection() {
    #[track_caller]
    fn check(sends: &'static [u8], expected: Failure) {
        let (mut channel, serves) = after_the_handshake();
        let (mut tcp, _tls) = serves.join().unwrap();
        tcp.write_all(sends).unwrap();
        drop(tcp);
        let error = loop {
            match channel.receive(&mut [0; 64]) {
                Ok(received) => assert_ne!(received, Received::End),
                Err(error) => break error,
            }
        };
        assert_eq!(Failure::of(&error), expected, "{error}");
        channel.goodbye();
    }
    check(b"", Failure::Lost);
    check(b"\x17\x03\x03", Failure::Lost);
    check(b"HTTP/1.1 400 Bad Request\r\n\r\n", Failure::Protocol);
    check(
        b"\x17\x03\x03\x00\x20AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        Failure::Protocol,
    );
}
