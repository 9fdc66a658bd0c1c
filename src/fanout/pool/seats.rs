//! Which DSPs have a place in the pool. At the start each has the one of its position; a reload names them anew, and
//! who is reached and spoken to as before keeps its place, with its connections and all that is known of it.

use std::cell::Cell;
use std::rc::Rc;

use super::warm::Warmth;
use super::{Connection, Dsp, Phase, Pool, Speaks, Wire, h1, h2};
use crate::clock::Instant;
use crate::fanout::dsp::{DspId, DspOptions, Protocol};
use crate::fanout::{CallFailure, Standing};
use crate::net::tls::{Scratch, TlsClient};

impl Pool {
    /// Is ready for calls to these DSPs from now on, and to no others but for what is in flight: those that are not named
    /// are leaving, and [`Self::let_go`] ends that. Returns their places.
    pub fn seat(&self, dsps: &[DspOptions]) -> Vec<DspId> {
        let mut seats = self.dsps.borrow_mut();
        let mut taken = vec![false; seats.len()];
        let mut ids = Vec::with_capacity(dsps.len());
        for options in dsps {
            let keeps = |(at, dsp): (usize, &Rc<Dsp>)| {
                !taken[at]
                    && dsp.standing.get() != Standing::Gone
                    && options.keeps_connections_of(&dsp.options)
            };
            let kept = seats.iter().enumerate().position(keeps);
            let at = kept.unwrap_or_else(|| {
                let is_free =
                    |(at, dsp): (usize, &Rc<Dsp>)| !taken[at] && dsp.standing.get() == Standing::Gone;
                seats.iter().enumerate().position(is_free).unwrap_or(seats.len())
            });
            let id = DspId(u16::try_from(at).unwrap_or(u16::MAX));
            match kept {
                Some(at) => seats[at].follow(options),
                None if at == seats.len() => {
                    seats.push(Rc::new(Dsp::new(id, options, &self.tls_scratch)));
                    taken.push(true);
                }
                None => seats[at] = Rc::new(Dsp::new(id, options, &self.tls_scratch)),
            }
            taken[at] = true;
            ids.push(id);
        }
        for (dsp, _) in seats.iter().zip(taken).filter(|(_, taken)| !taken) {
            dsp.leave();
        }
        ids
    }

    /// By place: who has it, and whether for good.
    #[must_use]
    pub fn seats(&self) -> Vec<(String, Standing)> {
        let seats = self.dsps.borrow();
        let seat = |dsp: &Rc<Dsp>| (dsp.options.name.clone(), dsp.standing.get());
        seats.iter().map(seat).collect()
    }

    /// Closes connections of DSPs that are leaving once nothing is under way on them, answers that nobody waits for any
    /// more included; a DSP that has none left is gone. Not of those that what is in flight may still call: these
    /// `are_needed`. To be called some twenty times a second while any are leaving.
    pub fn let_go(&self, are_needed: impl Fn(DspId) -> bool, now: Instant) {
        let leaving: Vec<_> = self
            .dsps
            .borrow()
            .iter()
            .filter(|dsp| dsp.standing.get() == Standing::Leaving && !are_needed(dsp.id))
            .map(Rc::clone)
            .collect();
        if leaving.is_empty() {
            return;
        }
        let of_one_leaving =
            |connection: &Connection| leaving.iter().any(|dsp| dsp.id.index() == connection.dsp);
        let mut unused = Vec::new();
        let mut busy = Vec::new();
        for (index, connection) in &*self.connections.borrow() {
            if !of_one_leaving(connection) {
            } else if connection.has_calls() {
                busy.push(connection.dsp);
            } else {
                let reason = match connection.phase {
                    Phase::Open => CallFailure::Lost,
                    Phase::Connecting | Phase::Handshaking => CallFailure::Unreachable,
                };
                unused.push((index, reason));
            }
        }
        for (index, reason) in unused {
            self.close(index, reason, now);
        }
        for dsp in leaving.iter().filter(|dsp| !busy.contains(&dsp.id.index())) {
            dsp.standing.set(Standing::Gone);
        }
    }
}

impl Dsp {
    fn new(id: DspId, options: &DspOptions, tls_scratch: &Rc<Scratch>) -> Self {
        Self {
            id,
            standing: Cell::new(Standing::Asked),
            tls: options.tls.as_ref().map(|tls| TlsClient::new(tls, tls_scratch)),
            connections_max: Cell::new(options.connections_max),
            open: Cell::new(0),
            opening: Cell::new(0),
            speaks: Cell::new(match (options.protocol, &options.tls) {
                (Protocol::Http1, _) | (Protocol::Negotiated, None) => Speaks::Http1,
                (Protocol::Http2, _) | (Protocol::Negotiated, Some(_)) => Speaks::Http2,
            }),
            http1: h1::DspSide::new(options),
            http2: h2::DspSide::new(options),
            warmth: Warmth::new(options.connections_warm),
            options: options.clone(),
        }
    }

    /// Takes on what its connections do not depend on.
    fn follow(&self, options: &DspOptions) {
        self.standing.set(Standing::Asked);
        self.connections_max.set(options.connections_max);
        self.warmth.wanted.set(options.connections_warm);
    }

    fn leave(&self) {
        if self.standing.get() == Standing::Asked {
            self.standing.set(Standing::Leaving);
            self.warmth.wanted.set(0);
        }
    }
}

impl Connection {
    /// Whether anything is under way on it.
    fn has_calls(&self) -> bool {
        match &self.wire {
            Wire::Http1(exchange) => !exchange.is_free(),
            Wire::Http2(conversation) => conversation.has_calls(),
        }
    }
}
