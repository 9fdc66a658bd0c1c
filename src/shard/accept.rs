//! Takes new connections from the shard's listener and has each served by a task of its own.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;

use crate::clock::Timers;
use crate::fanout::Transport;
use crate::ingress::Ingress;
use crate::net::{self, HyperStream, Listener, Signal};
use crate::orchestration::isolate;

/// How long to leave the listener alone when the process or the host is out of descriptors or memory: long enough
/// for some to be given back, short enough that an SSP's connect does not time out.
const OUT_OF_RESOURCES_PAUSE: Duration = Duration::from_millis(20);

/// Accepts until `stop` is raised, then takes what the kernel has already accepted on our behalf, and closes the
/// listener. The signal returned is raised when that is done.
pub(super) fn start<T: Transport + 'static>(
    listener: Listener,
    ingress: &Rc<Ingress<T>>,
    timers: &Rc<Timers>,
    stop: &Rc<Signal>,
) -> Rc<Signal> {
    let done = Rc::new(Signal::default());
    let (ingress, timers, stop, tells) = (
        Rc::clone(ingress),
        Rc::clone(timers),
        Rc::clone(stop),
        Rc::clone(&done),
    );
    net::spawn(async move {
        let mut out_of_resources = false;
        while !stop.is_raised() {
            if let Err(error) = take_all(&listener, &ingress) {
                // Once, not fifty times a second.
                if !std::mem::replace(&mut out_of_resources, true) {
                    tracing::warn!(%error, "cannot accept; trying again until it works");
                }
                timers
                    .sleep_until(timers.now().after(OUT_OF_RESOURCES_PAUSE))
                    .await;
                continue;
            }
            if std::mem::take(&mut out_of_resources) {
                tracing::warn!("accepting again");
            }
            future::or(listener.wait(), stop.raised()).await;
        }
        if let Err(error) = take_all(&listener, &ingress) {
            tracing::warn!(%error, "cannot accept; who still waited is refused");
        }
        drop(listener);
        tells.raise();
    });
    done
}

/// Takes connections until there are no more, or no resources to take more.
fn take_all<T: Transport + 'static>(listener: &Listener, ingress: &Rc<Ingress<T>>) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok(Some(stream)) => net::spawn(serve(Rc::clone(ingress), stream)),
            Ok(None) => return Ok(()),
            // The peer gave up between its SYN and now.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Requests are isolated one by one; this is for a bug in what is around them, which then costs one connection and not
/// the shard.
async fn serve<T: Transport + 'static>(ingress: Rc<Ingress<T>>, stream: HyperStream) {
    if let Err(panicked) = isolate(Rc::clone(&ingress).serve(stream)).await {
        tracing::error!(message = %panicked, "a connection made us panic; it is closed");
        ingress.count_panic();
    }
}
