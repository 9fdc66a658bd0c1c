//! What corebid is compared with: an exchange as a good team writes it on tokio's multi-threaded runtime, hyper and
//! serde_json, with the same contract as far as `corebid-loadtest run` checks it. `loadtest/compare.sh` runs both.
//!
//! It does what corebid does and is made with care: nothing is copied that need not be, connections are kept, one
//! timer per bid request; what else was tried, with figures, is in README.md. It leaves out what costs little and is not
//! checked: metrics, deals, currencies, reload.

mod auction;
mod dsps;
mod exchange;
mod openrtb;

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser;
use core_affinity::CoreId;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

use crate::dsps::{Dsp, Protocol};
use crate::exchange::{Exchange, Limits};

/// An exchange on tokio, hyper and serde_json, for comparison with corebid. Defaults are those of
/// profiles/reference.toml.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
struct Args {
    /// Where SSPs post to /openrtb2/auction, over HTTP/1.1 or h2c; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// Cores to pin worker threads of the runtime to, one each, separated by commas [default: one that is not pinned]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cores: Vec<usize>,

    /// How to talk to DSPs
    #[arg(long, value_enum, default_value = "h1")]
    dsp_protocol: Protocol,

    /// A DSP that takes bid requests at /bid; may be repeated [default: 127.0.0.1:9001 to 9023]
    #[arg(long, value_name = "HOST:PORT")]
    dsp: Vec<String>,

    /// Longest wait for a DSP
    #[arg(long, value_name = "MS", default_value_t = 80)]
    dsp_timeout_ms: u64,

    /// Longest wait for all DSPs, from a bid request's arrival
    #[arg(long, value_name = "MS", default_value_t = 90)]
    deadline_ms: u64,

    /// What is kept back from a bid request's tmax
    #[arg(long, value_name = "MS", default_value_t = 10)]
    tmax_margin_ms: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let (cores, next) = (args.cores.clone(), AtomicUsize::new(0));
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.len().max(1))
        // There are no threads but the workers: nothing here blocks.
        .on_thread_start(move || {
            if let Some(&id) = cores.get(next.fetch_add(1, Ordering::Relaxed)) {
                core_affinity::set_for_current(CoreId { id });
            }
        })
        .enable_all()
        .build()?
        // Spawned, so that connections are accepted by a worker: the main thread sleeps.
        .block_on(async { tokio::spawn(run(args)).await })??;
    Ok(())
}

async fn run(args: Args) -> io::Result<()> {
    let addresses: Vec<String> = if args.dsp.is_empty() {
        (9001..=9023).map(|port| format!("127.0.0.1:{port}")).collect()
    } else {
        args.dsp
    };
    let dsp = |address| Dsp::new(address, args.dsp_protocol);
    let dsps: Result<_, _> = addresses.into_iter().map(dsp).collect();
    let dsps = dsps.map_err(io::Error::other)?;
    let limits = Limits {
        dsp_timeout: Duration::from_millis(args.dsp_timeout_ms),
        deadline: Duration::from_millis(args.deadline_ms),
        tmax_margin: Duration::from_millis(args.tmax_margin_ms),
    };
    let listener = TcpListener::bind(args.listen).await?;
    writeln!(io::stdout(), "ready on {}", listener.local_addr()?)?;
    serve(&listener, Arc::new(Exchange::new(dsps, limits))).await
}

async fn serve(listener: &TcpListener, exchange: Arc<Exchange>) -> io::Result<()> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).pipeline_flush(true);
    // Few connections carry everything; the default of 200 streams each would queue at the SSP.
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(20_000);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or the SSP was gone again: later ones shall be served.
                writeln!(io::stderr(), "accept: {error}")?;
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        // Fails for a connection that is gone already; serving it finds that out.
        let _ = stream.set_nodelay(true);
        let (http, exchange) = (http.clone(), Arc::clone(&exchange));
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let exchange = Arc::clone(&exchange);
                async move { Ok::<_, Infallible>(exchange.answer(request).await) }
            });
            // A connection that breaks concerns its SSP only.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
