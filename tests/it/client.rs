//! An HTTP/1.1 client that sends what it is told, byte for byte, and reads answers by the book.

use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::harness::PATIENCE;

/// One connection.
#[derive(Debug)]
pub(crate) struct Http(BufReader<TcpStream>);

/// One answer.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// The head of a bid request, up to the end of its headers' names; see [`post`].
pub(crate) fn post(headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!(
        "POST /openrtb2/auction HTTP/1.1\r\nHost: exchange\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

impl Http {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Posts a bid request and reads the answer.
    pub(crate) fn bid(&mut self, body: impl AsRef<[u8]>) -> Answer {
        self.send(post("", body));
        self.answer()
    }

    /// Says that no more will be sent.
    pub(crate) fn finish(&self) {
        self.stream().shutdown(Shutdown::Write).unwrap();
    }

    /// The next answer.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer()
            .expect("the connection ended instead of an answer")
    }

    /// The next answer; `None` when the connection ends instead.
    pub(crate) fn try_answer(&mut self) -> Option<Answer> {
        let first = self.line()?;
        let status = first
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.get(2..5)?.parse().ok())
            .unwrap_or_else(|| panic!("not a status line: {first:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line().expect("a whole head");
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').expect("a header has a colon");
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer {
            status,
            headers,
            body: Vec::new(),
        };
        if status >= 200 && status != 204 && status != 304 {
            let length = answer.header("content-length").expect("answers have a length");
            answer.body.resize(length.parse().unwrap(), 0);
            self.0.read_exact(&mut answer.body).unwrap();
        }
        Some(answer)
    }

    /// Whether the peer ends the connection without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.0.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        }
    }

    /// Whether nothing comes for as long as is waited.
    pub(crate) fn is_silent(&mut self) -> bool {
        matches!(self.0.fill_buf(), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Whether the peer has ended the connection by now.
    pub(crate) fn is_closed_now(&self) -> bool {
        let stream = self.0.get_ref();
        stream.set_nonblocking(true).unwrap();
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false).unwrap();
        peeked.map_or_else(|error| error.kind() != ErrorKind::WouldBlock, |count| count == 0)
    }

    /// A line without its end; `None` at the end of the connection.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.strip_suffix("\r\n").expect("lines end in CRLF").to_owned()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("cannot read: {error}"),
        }
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(known, _)| known == name);
        header.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body, decompressed.
    pub(crate) fn gunzipped(&self) -> Vec<u8> {
        assert_eq!(self.header("content-encoding"), Some("gzip"));
        let mut plain = Vec::new();
        GzDecoder::new(self.body.as_slice())
            .read_to_end(&mut plain)
            .unwrap();
        plain
    }

    /// What was sold, `imp seat price` each, in the answer's order; or the status.
    #[track_caller]
    pub(crate) fn sales(&self) -> String {
        if self.status != 200 {
            return self.status.to_string();
        }
        let response: Sold<'_> =
            serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let mut sales = Vec::new();
        for SoldSeat { seat, bid } in &response.seatbid {
            sales.extend(
                bid.iter()
                    .map(|SoldBid { impid, price }| format!("{impid} {seat} {price}")),
            );
        }
        sales.join(", ")
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {:?} {}",
            self.status,
            self.headers,
            String::from_utf8_lossy(&self.body)
        )
    }
}

/// A bid response as far as [`Answer::sales`] reads it, prices digit for digit.
#[derive(Deserialize)]
struct Sold<'a> {
    #[serde(borrow)]
    seatbid: Vec<SoldSeat<'a>>,
}

#[derive(Deserialize)]
struct SoldSeat<'a> {
    seat: String,
    #[serde(borrow)]
    bid: Vec<SoldBid<'a>>,
}

#[derive(Deserialize)]
struct SoldBid<'a> {
    impid: String,
    #[serde(borrow)]
    price: &'a RawValue,
}
