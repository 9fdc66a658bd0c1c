//! The seam between asking and the wire: a pool of connections in production, a simulated network in the tests.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::{Body, CallFailure, DspId, Response, Ticket};
use crate::clock::Instant;
use crate::net::tls::Failure;

/// Carries calls to DSPs and completes each started one exactly once into its `Gatherings`.
pub trait Transport {
    /// Starts a call. `Ok` promises one completion under `ticket`, now or later, wanted by then or not.
    ///
    /// # Errors
    /// When the call could not even be started; nothing follows then.
    fn start(&self, call: Outgoing<'_>, ticket: Ticket, now: Instant) -> Result<(), CallFailure>;

    /// The answer of this connection was not the one to the question (its id is another's): whatever else comes
    /// on it cannot be trusted, so it is closed.
    fn distrust(&self, connection: u64);
}

impl<T: Transport + ?Sized> Transport for Rc<T> {
    fn start(&self, call: Outgoing<'_>, ticket: Ticket, now: Instant) -> Result<(), CallFailure> {
        (**self).start(call, ticket, now)
    }

    fn distrust(&self, connection: u64) {
        (**self).distrust(connection);
    }
}

/// One request on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// To whom.
    pub dsp: DspId,
    /// Encoded as the DSP wants it.
    pub body: &'a Body,
    /// When an answer is of no more use.
    pub due_at: Instant,
    /// Only on a new connection.
    pub fresh: bool,
}

/// One response as it came in.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body, decompressed, in a buffer of the gatherings' pool.
    pub body: Vec<u8>,
    /// Names the connection for [`Transport::distrust`].
    pub connection: u64,
}

/// Is told what no orchestration waits for.
pub trait Observer {
    /// An answer was complete after its time.
    fn late(&self, late: Late<'_>);

    /// A TLS handshake with `dsp` has ended. Who has no DSPs with TLS need not listen.
    fn handshake(&self, dsp: DspId, handshake: Handshake<'_>) {
        let _unheard = (dsp, handshake);
    }
}

/// An answer that came too late to be one.
#[derive(Debug, Clone, Copy)]
pub struct Late<'a> {
    /// Whose.
    pub dsp: DspId,
    /// The call that it answers.
    pub ticket: Ticket,
    /// When it was complete.
    pub at: Instant,
    /// How long after its time that was.
    pub by: Duration,
    /// Whether the fan-out of its call still goes on, for the sake of others.
    pub is_gathering: bool,
    /// What it says.
    pub response: Response<'a>,
}

/// How a TLS handshake ended.
#[derive(Clone, Copy)]
pub enum Handshake<'a> {
    /// Calls can be sent.
    Done {
        /// From the connect's end on.
        took: Duration,
        /// An earlier session was resumed.
        resumed: bool,
    },
    /// There is no session; or there was, and the DSP refused it before it answered anything (in TLS 1.3 it looks at
    /// our certificate after we are done).
    Failed {
        /// What to count it as.
        failure: Failure,
        /// The same for people.
        why: &'a dyn fmt::Display,
    },
}
