//! The event loop: waits, reads, answers what is due, writes once per connection. One per thread.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use slab::Slab;
use socket2::{Domain, Socket, Type};

use super::connection::{Connection, Fate, READ_BYTES_MAX, accept};
use super::desk::{Call, ConnectionId, DRIP_INTERVAL, Desk, Drip, Due, REQUEST_BYTES_MAX, Reply};
use super::tls::Configs;
use crate::net::poller::{Interest, Poller, Ready, Waker};
use crate::net::stream::Stream;
use crate::net::thread::wake_punctually;
use crate::simulated::Fault;

pub(super) struct Server {
    poller: Poller,
    waker: Waker,
    listeners: Vec<Listener>,
    connections: Slab<Connection>,
    generation: u32,
    tls: Option<Configs>,
    desk: Desk,
    gather: Duration,
    turned_at: Instant,
    buffer: Box<[u8]>,
    /// Connections with something to write at the end of the turn.
    dirty: Vec<ConnectionId>,
}

/// A DSP's port. The socket goes while the DSP refuses connections; the address stays.
pub(super) struct Listener {
    dsp: u16,
    address: SocketAddr,
    socket: Option<TcpListener>,
}

/// Tokens are connection keys with their generation, but for these; a key never reaches the high bit of its
/// half.
const WAKER: u64 = u64::MAX;
const LISTENER: u32 = 1 << 31;

const EVENTS_MAX: usize = 256;
/// The exchange opens all its connections at once.
const BACKLOG: i32 = 4096;
/// A loop whose DSPs refuse hears nothing, so it looks this often whether another has seen a phase begin.
const REFUSAL_LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Out of file descriptors there is nothing to do but wait for connections to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(1);

impl Listener {
    pub(super) fn bind(dsp: u16, address: SocketAddr) -> io::Result<Self> {
        let socket = listen(address).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("DSP {} on {address}: {error}", u32::from(dsp) + 1),
            )
        })?;
        Ok(Self {
            dsp,
            address: socket.local_addr()?,
            socket: Some(socket),
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Server {
    /// Must run on the thread that will call [`Server::run`].
    pub(super) fn new(
        listeners: Vec<Listener>,
        tls: Option<Configs>,
        waker: Waker,
        desk: Desk,
        gather: Duration,
    ) -> io::Result<Self> {
        wake_punctually();
        let poller = Poller::new(EVENTS_MAX)?;
        poller.add(&waker, WAKER, Interest::READ)?;
        let mut server = Self {
            poller,
            waker,
            listeners,
            connections: Slab::new(),
            generation: 0,
            tls,
            desk,
            gather,
            turned_at: Instant::now(),
            buffer: vec![0; REQUEST_BYTES_MAX + READ_BYTES_MAX].into(),
            dirty: Vec::new(),
        };
        for index in 0..server.listeners.len() {
            server.watch_listener(index)?;
        }
        server.apply_refusals();
        Ok(server)
    }

    /// Serves until told to stop.
    pub(super) fn run(mut self) {
        while !self.desk.stopping() {
            // epoll_pwait2 has no error that waiting again would not meet again: stop serving rather than
            // spin.
            if self.turn().is_err() {
                return;
            }
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        let next_due = self.desk.timers.next_due();
        self.let_requests_gather(next_due);
        let until_due = next_due.map(|due| due.saturating_duration_since(Instant::now()));
        let refuses = self.listeners.iter().any(|listener| listener.socket.is_none());
        let until_look = refuses.then_some(REFUSAL_LOOK_INTERVAL);
        let timeout = until_due.into_iter().chain(until_look).min();
        for index in 0..self.poller.wait(timeout)? {
            self.on_event(self.poller.ready(index));
        }
        if self.desk.follow_phase(Instant::now()) {
            self.apply_refusals();
        }
        self.answer_due();
        self.flush_dirty();
        Ok(())
    }

    /// Sleeps on the clock and not on the sockets, so that nobody has to wake this thread.
    fn let_requests_gather(&mut self, next_due: Option<Instant>) {
        if self.gather.is_zero() {
            return;
        }
        let until = self.turned_at + self.gather;
        let until = next_due.map_or(until, |due| due.min(until));
        thread::sleep(until.saturating_duration_since(Instant::now()));
        self.turned_at = Instant::now();
    }

    fn on_event(&mut self, ready: Ready) {
        if ready.token == WAKER {
            self.waker.clear();
            return self.apply_refusals();
        }
        let (key, generation) = split(ready.token);
        if key & LISTENER != 0 {
            return self.accept_all((key ^ LISTENER) as usize);
        }
        // A connection may have been closed by an earlier event of the same turn.
        let Some(connection) = find(&mut self.connections, ConnectionId { key, generation }) else {
            return;
        };
        let (id, mut fate) = (connection.id, Fate::Keep);
        if ready.read {
            fate = connection.read(&mut self.buffer, &mut self.desk);
        }
        if ready.hangup && !ready.read {
            fate = Fate::Close;
        }
        self.settle(id, fate);
    }

    fn answer_due(&mut self) {
        let now = Instant::now();
        while let Some(due) = self.desk.timers.take_due(now) {
            match due {
                Due::Answer(call) => self.answer(&call),
                Due::Drip(drip) => self.drip(drip, now),
                Due::Begin(id) => self.begin(id),
            }
        }
        // Answering may take a pipelined request, whose answer may be due at once.
        while let Some(call) = self.desk.at_once.pop() {
            self.answer(&call);
        }
    }

    fn answer(&mut self, call: &Call) {
        self.desk.dsp(call.dsp).end_waiting();
        let Some(connection) = find(&mut self.connections, call.connection) else {
            return;
        };
        let reply: Reply<'_> = self.desk.reply(call);
        let (mut fate, drip) = connection.reply(call, reply);
        if let Some(drip) = drip {
            self.desk
                .timers
                .insert(Instant::now() + DRIP_INTERVAL, Due::Drip(Box::new(drip)));
        }
        if fate == Fate::Keep {
            fate = connection.take_pipelined(&mut self.desk);
        }
        self.settle(call.connection, fate);
    }

    fn drip(&mut self, mut drip: Box<Drip>, now: Instant) {
        let Some(connection) = find(&mut self.connections, drip.connection) else {
            return;
        };
        let id = drip.connection;
        let mut fate = Fate::Keep;
        if connection.drip(&mut drip) {
            fate = connection.take_pipelined(&mut self.desk);
        } else {
            self.desk.timers.insert(now + DRIP_INTERVAL, Due::Drip(drip));
        }
        self.settle(id, fate);
    }

    fn begin(&mut self, id: ConnectionId) {
        if let Some(connection) = find(&mut self.connections, id) {
            connection.is_deaf = false;
        }
        self.settle(id, Fate::Keep);
    }

    /// Ends the connection or lists it for the flush at the end of the turn.
    fn settle(&mut self, id: ConnectionId, fate: Fate) {
        let Some(connection) = find(&mut self.connections, id) else {
            return;
        };
        if fate == Fate::Close {
            self.connections.remove(id.key as usize);
        } else if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(id);
        }
    }

    fn flush_dirty(&mut self) {
        for id in self.dirty.drain(..) {
            let Some(connection) = find(&mut self.connections, id) else {
                continue;
            };
            connection.is_dirty = false;
            let mut fate = connection.flush();
            let wanted = connection.wanted_interest();
            if fate == Fate::Keep && wanted != connection.interest {
                connection.interest = wanted;
                if self
                    .poller
                    .change(connection.socket.tcp(), token(id), wanted)
                    .is_err()
                {
                    fate = Fate::Close;
                }
            }
            if fate == Fate::Close {
                self.connections.remove(id.key as usize);
            }
        }
    }

    fn accept_all(&mut self, index: usize) {
        let Some(listener) = self.listeners.get(index) else {
            return;
        };
        let (dsp, Some(socket)) = (listener.dsp, &listener.socket) else {
            return;
        };
        loop {
            match accept(socket) {
                Ok(None) => return,
                Ok(Some(socket)) => {
                    let entry = self.connections.vacant_entry();
                    let Ok(key) = u32::try_from(entry.key()) else {
                        return;
                    };
                    self.generation = self.generation.wrapping_add(1);
                    let id = ConnectionId {
                        key,
                        generation: self.generation,
                    };
                    let fault = self.desk.dsp(dsp).fault.get();
                    let (stream, interest) = match &self.tls {
                        None => (Ok(Stream::plain(socket)), Interest::READ),
                        Some(configs) => (Stream::tls(socket, configs.of(fault)), begins_with(fault)),
                    };
                    // Without a place in the poller the connection is dropped, and so closed.
                    let Ok(stream) = stream else { continue };
                    if self.poller.add(stream.tcp(), token(id), interest).is_err() {
                        continue;
                    }
                    entry.insert(Connection::new(id, dsp, stream, interest));
                    if let (Fault::HandshakeLate(ms), false) = (fault, interest.read) {
                        let due = Instant::now() + Duration::from_millis(ms.into());
                        self.desk.timers.insert(due, Due::Begin(id));
                    }
                }
                Err(_) => return thread::sleep(ACCEPT_PAUSE),
            }
        }
    }

    /// Makes each listener what the DSP's fault or the phase says.
    fn apply_refusals(&mut self) {
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            let refuses = self.desk.refuses(listener.dsp);
            if refuses && listener.socket.take().is_some() {
                let dsp = listener.dsp;
                self.connections
                    .retain(|_, connection| connection.dsp != dsp || connection.reset() == Fate::Keep);
            } else if !refuses && listener.socket.is_none() {
                // Should another program have taken the port meanwhile, the DSP stays away: a refusal all the
                // same.
                listener.socket = listen(listener.address).ok();
                if self.watch_listener(index).is_err() {
                    self.listeners[index].socket = None;
                }
            }
        }
    }

    fn watch_listener(&self, index: usize) -> io::Result<()> {
        match &self.listeners[index].socket {
            Some(socket) => self
                .poller
                .add(socket, index as u64 | u64::from(LISTENER), Interest::READ),
            None => Ok(()),
        }
    }
}

/// What a connection with TLS waits for at first.
fn begins_with(fault: Fault) -> Interest {
    Interest {
        read: !matches!(fault, Fault::HandshakeStall | Fault::HandshakeLate(_)),
        write: false,
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        None,
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn find(connections: &mut Slab<Connection>, id: ConnectionId) -> Option<&mut Connection> {
    connections
        .get_mut(id.key as usize)
        .filter(|connection| connection.id == id)
}

fn token(id: ConnectionId) -> u64 {
    u64::from(id.generation) << 32 | u64::from(id.key)
}

fn split(token: u64) -> (u32, u32) {
    let [k0, k1, k2, k3, g0, g1, g2, g3] = token.to_le_bytes();
    (
        u32::from_le_bytes([k0, k1, k2, k3]),
        u32::from_le_bytes([g0, g1, g2, g3]),
    )
}
