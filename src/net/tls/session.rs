//! One connection's TLS: plaintext on one side, the socket on the other. rustls's unbuffered client: what many calls
//! have gathered becomes few records in one buffer and leaves in one write, and what one read brings is decrypted
//! where it lies.

use std::io::{self, IoSlice};
use std::rc::Rc;

use rustls::HandshakeKind;
use rustls::client::ClientConnectionData;
use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};

use super::{Agreed, CIPHERTEXT_BYTES, Scratch, TlsClient};
use crate::net::{Progress, Received, Socket};

/// A buffer that a burst has grown past this is given back.
const BUFFER_BYTES_KEPT: usize = 32 << 10;

/// See the module's description.
pub(in crate::net) struct Session {
    tls: UnbufferedClientConnection,
    scratch: Rc<Scratch>,
    /// The beginning of a record or of a handshake message whose rest has not come.
    partial: Vec<u8>,
    /// Plaintext that came with the end of the handshake or was more than the reader had room for.
    ahead: Vec<u8>,
    /// Records that the kernel has not taken yet, from `written` on.
    outgoing: Vec<u8>,
    written: usize,
    /// The DSP has said that it will send no more.
    ended: bool,
    /// There was an error: rustls is not to be asked again.
    is_broken: bool,
}

/// What to do once everything that has come is processed.
#[derive(Clone, Copy)]
enum Then<'a> {
    Nothing,
    Encrypt(&'a [u8]),
    SayGoodbye,
}

impl Session {
    /// A session that will begin its handshake as soon as the socket takes bytes.
    pub(in crate::net) fn new(client: &TlsClient) -> io::Result<Self> {
        let name = client.server_name.0.clone();
        let tls = UnbufferedClientConnection::new(client.config.clone(), name).map_err(in_tls)?;
        let mut session = Self {
            tls,
            scratch: Rc::clone(&client.scratch),
            partial: Vec::new(),
            ahead: Vec::new(),
            outgoing: Vec::new(),
            written: 0,
            ended: false,
            is_broken: false,
        };
        session.process(&mut [], Then::Nothing, |_| ())?;
        Ok(session)
    }

    /// Goes on with the handshake as far as it goes now; says what was agreed when it is done. An error may have left
    /// an alert for the DSP, which [`Self::goodbye`] sends.
    pub(in crate::net) fn handshake(&mut self, socket: &Socket) -> io::Result<Option<Agreed>> {
        let scratch = Rc::clone(&self.scratch);
        let mut ciphertext = scratch.0.borrow_mut();
        loop {
            self.flush(socket)?;
            if !self.tls.is_handshaking() {
                return Ok(Some(self.agreed()));
            }
            let Some((filled, _)) = self.fill(socket, &mut ciphertext)? else {
                return Ok(None);
            };
            // A DSP may have sent its first words with the last of the handshake.
            let mut ahead = std::mem::take(&mut self.ahead);
            let result = self.take_in(&mut ciphertext[..filled], |plaintext| {
                ahead.extend_from_slice(plaintext);
            });
            self.ahead = ahead;
            result?;
        }
    }

    /// Receives plaintext into `buffer`.
    pub(in crate::net) fn receive(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<Received> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buffer.len());
            buffer[..count].copy_from_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
            if self.ahead.is_empty() {
                self.ahead.shrink_to(BUFFER_BYTES_KEPT);
            }
            return Ok(Received::Bytes {
                count,
                drained: false,
            });
        }
        if self.ended {
            return Ok(Received::End);
        }
        let scratch = Rc::clone(&self.scratch);
        let mut ciphertext = scratch.0.borrow_mut();
        let Some((filled, drained)) = self.fill(socket, &mut ciphertext)? else {
            return Ok(Received::WouldBlock);
        };
        let (mut count, mut ahead) = (0, std::mem::take(&mut self.ahead));
        let result = self.take_in(&mut ciphertext[..filled], |plaintext| {
            let (fits, rest) = plaintext.split_at(plaintext.len().min(buffer.len() - count));
            buffer[count..count + fits.len()].copy_from_slice(fits);
            count += fits.len();
            ahead.extend_from_slice(rest);
        });
        self.ahead = ahead;
        result?;
        // A change of keys has an answer.
        self.flush(socket)?;
        let drained = drained && self.ahead.is_empty() && !self.ended;
        Ok(Received::Bytes { count, drained })
    }

    /// Encrypts as much of `pieces`, one after another, as goes into one write and sends that. What the kernel does
    /// not take of it is sent by [`Self::flush`]; as long as there is any, no more is encrypted.
    pub(in crate::net) fn send(&mut self, socket: &Socket, pieces: &[IoSlice<'_>]) -> io::Result<Progress> {
        self.flush(socket)?;
        if self.has_unsent() || self.tls.is_handshaking() {
            return Ok(Progress::WouldBlock);
        }
        let mut partial = std::mem::take(&mut self.partial);
        let scratch = Rc::clone(&self.scratch);
        let mut joined = scratch.0.borrow_mut();
        let plaintext = match pieces {
            [all] => &all[..all.len().min(CIPHERTEXT_BYTES)],
            // In as few records as will do: a DSP need not wake up for a head without its body.
            pieces => join(pieces, &mut joined),
        };
        // What was received whole was processed then: nothing but the encryption is left to do.
        let result = self.process(&mut partial, Then::Encrypt(plaintext), |_| ());
        self.partial = partial;
        result?;
        let moved = plaintext.len();
        drop(joined);
        self.flush(socket)?;
        Ok(Progress::Moved(moved))
    }

    /// Sends records that the kernel had no room for.
    pub(in crate::net) fn flush(&mut self, socket: &Socket) -> io::Result<()> {
        while self.has_unsent() {
            match socket.send(&[IoSlice::new(&self.outgoing[self.written..])])? {
                Progress::Moved(count) => self.written += count,
                Progress::WouldBlock => return Ok(()),
            }
        }
        self.written = 0;
        self.outgoing.clear();
        self.outgoing.shrink_to(BUFFER_BYTES_KEPT);
        Ok(())
    }

    /// Tells the DSP that this is the end, or why it is, if it still listens.
    pub(in crate::net) fn goodbye(&mut self, socket: &Socket) {
        if !self.is_broken && !self.tls.is_handshaking() {
            let mut partial = std::mem::take(&mut self.partial);
            let _failed_before = self.process(&mut partial, Then::SayGoodbye, |_| ());
        }
        let _unheard = self.flush(socket);
    }

    pub(in crate::net) fn has_unsent(&self) -> bool {
        self.written < self.outgoing.len()
    }

    fn agreed(&self) -> Agreed {
        Agreed {
            h2: self.tls.alpn_protocol() == Some(b"h2"),
            resumed: self.tls.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// Reads ciphertext behind what there is of an earlier record. `None`: nothing now. Says how many bytes there are
    /// then, and whether those were all.
    fn fill(&self, socket: &Socket, ciphertext: &mut [u8]) -> io::Result<Option<(usize, bool)>> {
        let kept = self.partial.len();
        if kept == ciphertext.len() {
            // Only a handshake message can be as long, and no chain of certificates that we would look at is.
            return Err(in_tls(rustls::Error::PeerSentOversizedRecord));
        }
        ciphertext[..kept].copy_from_slice(&self.partial);
        match socket.receive(&mut ciphertext[kept..])? {
            Progress::WouldBlock => Ok(None),
            // Without a word of goodbye anybody on the way could have cut it off.
            Progress::Moved(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Progress::Moved(count) => {
                let filled = kept + count;
                Ok(Some((filled, filled < ciphertext.len())))
            }
        }
    }

    /// Processes what [`Self::fill`] has brought and keeps what is not whole.
    fn take_in(&mut self, ciphertext: &mut [u8], on_plaintext: impl FnMut(&[u8])) -> io::Result<()> {
        let used = self.process(ciphertext, Then::Nothing, on_plaintext)?;
        self.partial.clear();
        self.partial.extend_from_slice(&ciphertext[used..]);
        self.partial.shrink_to(BUFFER_BYTES_KEPT);
        Ok(())
    }

    /// Lets rustls work on `incoming` until it wants more, with what it has to say added to `outgoing`. Returns how
    /// many bytes were used up. After an error there is nothing more to be had from it.
    fn process(
        &mut self,
        incoming: &mut [u8],
        then: Then<'_>,
        mut on_plaintext: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(&mut incoming[used..]);
            let outgoing = &mut self.outgoing;
            let mut done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(in_tls)?;
                        discard += record.discard;
                        on_plaintext(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(outgoing, data)?,
                // It is sent with the rest.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                Ok(ConnectionState::WriteTraffic(traffic)) => {
                    encrypt(outgoing, traffic, then)?;
                    done = true;
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => done = true,
                Ok(_) => return Err(in_tls(rustls::Error::HandshakeNotComplete)),
                Err(error) => {
                    self.take_alert()?;
                    return Err(in_tls(error));
                }
            }
            used += discard;
            if done {
                return Ok(used);
            }
        }
    }

    /// After an error: what is to be told the DSP about it.
    fn take_alert(&mut self) -> io::Result<()> {
        self.is_broken = true;
        while self.tls.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(data)) = self.tls.process_tls_records(&mut []).state
        {
            encode(&mut self.outgoing, data)?;
        }
        Ok(())
    }
}

fn encode(outgoing: &mut Vec<u8>, mut data: EncodeTlsData<'_, ClientConnectionData>) -> io::Result<()> {
    append(outgoing, |room| match data.encode(room) {
        Ok(count) => Ok(count),
        Err(EncodeError::InsufficientSize(short)) => Err(Some(short.required_size)),
        Err(EncodeError::AlreadyEncoded) => Err(None),
    })
}

fn encrypt(
    outgoing: &mut Vec<u8>,
    mut traffic: WriteTraffic<'_, ClientConnectionData>,
    what: Then<'_>,
) -> io::Result<()> {
    let of = |result| match result {
        Ok(count) => Ok(count),
        Err(EncryptError::InsufficientSize(short)) => Err(Some(short.required_size)),
        Err(EncryptError::EncryptExhausted) => Err(None),
    };
    match what {
        Then::Nothing => Ok(()),
        Then::Encrypt(plaintext) => append(outgoing, |room| of(traffic.encrypt(plaintext, room))),
        Then::SayGoodbye => append(outgoing, |room| of(traffic.queue_close_notify(room))),
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("handshaking", &self.tls.is_handshaking())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// Adds to `outgoing` what `encode` writes. It says how many bytes that were, or how many it needs (`None`: it cannot).
fn append(
    outgoing: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> io::Result<()> {
    let before = outgoing.len();
    let count = loop {
        match encode(&mut outgoing[before..]) {
            Ok(count) => break count,
            // Anything that is not longer than what it had would go on for ever.
            Err(Some(needed)) if needed > outgoing.len() - before => outgoing.resize(before + needed, 0),
            Err(_) => return Err(in_tls(rustls::Error::EncryptError)),
        }
    };
    outgoing.truncate(before + count);
    Ok(())
}

/// As much of `pieces` as `room` holds.
fn join<'a>(pieces: &[IoSlice<'_>], room: &'a mut [u8]) -> &'a [u8] {
    let mut count = 0;
    for piece in pieces {
        let left = &mut room[count..];
        let taken = piece.len().min(left.len());
        left[..taken].copy_from_slice(&piece[..taken]);
        count += taken;
    }
    &room[..count]
}

fn in_tls(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
