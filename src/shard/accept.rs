//! Takes new connections, from the shard's listener and from other shards, and has each served by a task of its own.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_lite::future;

use super::balance::{Counted, Held, Member};
use crate::clock::Timers;
use crate::fanout::Transport;
use crate::ingress::Ingress;
use crate::net::{self, Hearing, HyperStream, Listener, Readiness, Signal};
use crate::orchestration::isolate;
use crate::telemetry::{Placed, Recorder};

/// How long to leave the listener alone when the process or the host is out of descriptors or memory: long enough
/// for some to be given back, short enough that an SSP's connect does not time out.
const OUT_OF_RESOURCES_PAUSE: Duration = Duration::from_millis(20);

/// Connections that are accepted from one listener before anything else of the shard has its turn: at some 10 us each, what a
/// timer may be late by. However fast they come, requests in flight go on, and a shard that is told to stop hears it.
const AT_ONCE_MAX: u32 = 128;

/// Turns in which all who were in a listener's queue when the first began have been accepted.
const TURNS_FOR_A_QUEUE: u32 = (net::BACKLOG as u32 + 1).div_ceil(AT_ONCE_MAX);

/// Where connections come from, and where they go.
pub(super) struct Door<T> {
    /// One; more in a process that has taken over the sockets of one with more shards.
    pub(super) listeners: Vec<Listener>,
    pub(super) member: Rc<Member>,
    /// Of the bell at the inbox for what others pass to this shard.
    pub(super) hearing: Hearing,
    pub(super) readiness: Rc<Readiness>,
    pub(super) ingress: Rc<Ingress<T>>,
    pub(super) timers: Rc<Timers>,
    pub(super) recorder: Rc<Recorder>,
}

/// A door that is open. Dropping this leaves it so.
pub(super) struct Entrance {
    close: Rc<Signal>,
    /// Whether the listener's queue is to be emptied before.
    empty: Rc<Cell<bool>>,
    closed: Rc<Signal>,
}

/// Whose the connections are that wait in the listener's queue when a shard closes its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    /// Nobody else's: who is in it would be reset.
    Ours,
    /// Those of whoever has the socket, too: a shard in this one's place, or another process.
    TheirsToo,
}

/// Accepts from now on, in a task of its own.
pub(super) fn open<T: Transport + 'static>(door: Door<T>) -> Entrance {
    let entrance = Entrance {
        close: Rc::default(),
        empty: Rc::default(),
        closed: Rc::default(),
    };
    let (close, empty) = (Rc::clone(&entrance.close), Rc::clone(&entrance.empty));
    let raised_even_by_a_panic = RaisedAtTheEnd(Rc::clone(&entrance.closed));
    net::spawn(async move {
        let _closed = raised_even_by_a_panic;
        door.accept_until(&close, &empty).await;
        drop(door);
    });
    entrance
}

impl Entrance {
    /// Accepts no more, takes what the kernel or another shard has already accepted on our behalf, and closes the
    /// listener. However many connect meanwhile, that is a turn of the door's and [`TURNS_FOR_A_QUEUE`], or a panic; and a loop
    /// that does not turn is the supervisor's to leave behind, with the time for draining.
    pub(super) async fn close(&self, queue: Queue) {
        self.empty.set(queue == Queue::Ours);
        self.close.raise();
        self.closed.raised().await;
    }
}

/// Who is left in the listeners' queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Waiting {
    Nobody,
    Perhaps,
}

struct RaisedAtTheEnd(Rc<Signal>);

impl Drop for RaisedAtTheEnd {
    fn drop(&mut self) {
        self.0.raise();
    }
}

impl<T: Transport + 'static> Door<T> {
    async fn accept_until(&self, stop: &Signal, empties_the_queue: &Cell<bool>) {
        let mut out_of_resources = false;
        while !stop.is_raised() {
            self.take_passed();
            let waiting = match self.accept_some() {
                Ok(waiting) => waiting,
                Err(error) => {
                    // Once, not fifty times a second.
                    if !std::mem::replace(&mut out_of_resources, true) {
                        tracing::warn!(%error, "cannot accept; trying again until it works");
                    }
                    self.pause().await;
                    continue;
                }
            };
            if std::mem::take(&mut out_of_resources) {
                tracing::warn!("accepting again");
            }
            if waiting == Waiting::Perhaps {
                future::yield_now().await;
                continue;
            }
            let arrives = future::or(self.connects(), self.hearing.rung());
            future::or(arrives, stop.raised()).await;
        }
        self.member.leave();
        self.take_passed();
        if empties_the_queue.get()
            && let Err(error) = self.empty_the_queues().await
        {
            tracing::warn!(%error, "cannot accept; who still waited is refused");
        }
    }

    /// Accepts all who waited when it began. Who still comes is refused as one is who comes a moment later.
    async fn empty_the_queues(&self) -> io::Result<()> {
        for _ in 0..TURNS_FOR_A_QUEUE {
            if self.accept_some()? == Waiting::Nobody {
                break;
            }
            future::yield_now().await;
        }
        Ok(())
    }

    /// Waits until somebody may be at one of the listeners.
    async fn connects(&self) {
        poll_fn(|cx| {
            let mut listeners = self.listeners.iter();
            if listeners.any(|listener| listener.poll_connects(cx).is_ready()) {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }

    async fn pause(&self) {
        let until = self.timers.now().after(OUT_OF_RESOURCES_PAUSE);
        self.timers.sleep_until(until).await;
    }

    /// Serves what other shards have passed to this one.
    fn take_passed(&self) {
        while let Some(held) = self.member.take() {
            self.serve(held);
        }
    }

    /// Accepts connections until nobody waits or others have to have their turn, or there are no resources to take more.
    fn accept_some(&self) -> io::Result<Waiting> {
        let mut waiting = Waiting::Nobody;
        for listener in &self.listeners {
            waiting = waiting.max(self.accept_some_of(listener)?);
        }
        Ok(waiting)
    }

    fn accept_some_of(&self, listener: &Listener) -> io::Result<Waiting> {
        for _ in 0..AT_ONCE_MAX {
            match listener.accept() {
                Ok(Some(socket)) => match self.member.place(self.timers.now(), socket) {
                    Some(held) => {
                        self.recorder.connection_accepted(Placed::Kept);
                        self.serve(held);
                    }
                    None => self.recorder.connection_accepted(Placed::Passed),
                },
                Ok(None) => return Ok(Waiting::Nobody),
                // The peer gave up between its SYN and now.
                Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Waiting::Perhaps)
    }

    fn serve(&self, held: Held) {
        let Held { socket, counted } = held;
        match HyperStream::new(socket, &self.readiness) {
            Ok(stream) => net::spawn(serve(Rc::clone(&self.ingress), stream, counted)),
            // The peer is gone, or the kernel's limit of watches is reached, which is none of a usual host.
            Err(error) => tracing::debug!(%error, "a connection cannot be served"),
        }
    }
}

/// Requests are isolated one by one; this is for a bug in what is around them, which then costs one connection and not
/// the shard.
async fn serve<T: Transport + 'static>(ingress: Rc<Ingress<T>>, stream: HyperStream, counted: Counted) {
    if let Err(panicked) = isolate(Rc::clone(&ingress).serve(stream)).await {
        tracing::error!(message = %panicked, "a connection made us panic; it is closed");
        ingress.connection_panicked();
    }
    drop(counted);
}
