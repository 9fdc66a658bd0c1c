//! A DSP that does what the test says and remembers what it was asked: one thread per connection, no cleverness.
//! For what the simulated ones of `corebid_loadtest` do not play.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Which connection, from 0.
    pub(crate) connection: usize,
    /// Which request on it, from 0.
    pub(crate) nth: usize,
    /// Request line and headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// What to do about it.
#[derive(Debug, Clone)]
pub(crate) enum Does {
    /// 200 with this body.
    Answers(String),
    /// 204.
    NoBid,
    /// These bytes.
    Writes(Vec<u8>),
    /// These bytes, and ends the connection.
    WritesLast(Vec<u8>),
    /// These bytes, and after a while those.
    WritesLater(Vec<u8>, Duration, Vec<u8>),
    /// Ends the connection.
    Closes,
}

impl Asked {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The bid request's id.
    pub(crate) fn id(&self) -> String {
        self.json()["id"].as_str().unwrap().to_owned()
    }
}

/// See the module's description. Dropping it stops listening.
pub(crate) struct Scripted {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    accepts: Option<JoinHandle<()>>,
}

struct Shared {
    script: Box<dyn Fn(&Asked) -> Does + Send + Sync>,
    asked: Mutex<Vec<Asked>>,
    connections: AtomicUsize,
    stop: AtomicBool,
}

impl Scripted {
    pub(crate) fn start(script: impl Fn(&Asked) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            asked: Mutex::default(),
            connections: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let accepts = thread::spawn(move || theirs.accept_all(&listener));
        Self {
            port,
            shared,
            accepts: Some(accepts),
        }
    }

    /// All it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Connections that were made to it so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let _wakes_it = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(accepts) = self.accepts.take() {
            let _ended = accepts.join();
        }
    }
}

impl Shared {
    fn accept_all(self: Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let connection = self.connections.fetch_add(1, Ordering::AcqRel);
            let shared = Arc::clone(&self);
            // Ends with the connection, and that with the exchange.
            thread::spawn(move || shared.serve(connection, &stream.unwrap()));
        }
    }

    fn serve(&self, connection: usize, stream: &TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut reader = BufReader::new(stream);
        for nth in 0.. {
            let Some((head, body)) = read_request(&mut reader) else {
                return;
            };
            let asked = Asked {
                connection,
                nth,
                head,
                body,
            };
            self.asked.lock().unwrap().push(asked.clone());
            let mut more = None;
            let mut ends = false;
            let bytes = match (self.script)(&asked) {
                Does::Answers(body) => answer(&body),
                Does::NoBid => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
                Does::Writes(bytes) => bytes,
                Does::WritesLast(bytes) => {
                    ends = true;
                    bytes
                }
                Does::WritesLater(bytes, wait, later) => {
                    more = Some((wait, later));
                    bytes
                }
                Does::Closes => return,
            };
            if (&*stream).write_all(&bytes).is_err() || ends {
                return;
            }
            if let Some((wait, later)) = more {
                thread::sleep(wait);
                let _may_have_gone = (&*stream).write_all(&later);
            }
        }
    }
}

/// A whole 200 with this body.
pub(crate) fn answer(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// Something that a script waits for and a test opens.
#[derive(Debug, Default, Clone)]
pub(crate) struct Gate(Arc<AtomicBool>);

impl Gate {
    pub(crate) fn open(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn wait(&self) {
        while !self.0.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
