//! The event log on disk, written by a thread of its own: a disk that stalls stalls nobody. What a shard sends is whole
//! lines; what cannot be written is counted.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};

use super::rotating::{FileOptions, RotatingFile};
use crate::telemetry::{Chunk, EventFate, ProcessCounters};

/// How often the thread looks whether it is to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long the end waits for the disk.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The thread that writes the event log. Dropping it writes what there is, but does not wait for ever.
pub struct EventsFile {
    ending: Option<Sender<()>>,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl EventsFile {
    /// Opens the file and starts the thread.
    ///
    /// # Errors
    /// When the file cannot be opened, or there can be no thread.
    pub fn open(
        options: FileOptions,
        chunks: Receiver<Chunk>,
        counters: Arc<ProcessCounters>,
    ) -> io::Result<Self> {
        let path = options.path.display().to_string();
        let file = RotatingFile::open(options, String::new())
            .map_err(|error| io::Error::new(error.kind(), format!("event log {path}: {error}")))?;
        let (ending, is_ending) = channel::bounded(0);
        let (ends, ended) = channel::bounded::<()>(0);
        let thread = thread::Builder::new()
            .name("corebid-events".to_owned())
            .spawn(move || {
                let _dropped_at_the_end = ends;
                write_all(file, &chunks, &is_ending, &counters);
            })?;
        Ok(Self {
            ending: Some(ending),
            ended,
            thread: Some(thread),
        })
    }
}

impl Drop for EventsFile {
    fn drop(&mut self) {
        self.ending = None;
        if self.ended.recv_timeout(LAST_WORDS) == Err(RecvTimeoutError::Timeout) {
            return tracing::error!("the disk does not take the end of the event log; it is left behind");
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the event log's thread had panicked");
        }
    }
}

fn write_all(
    mut file: RotatingFile,
    chunks: &Receiver<Chunk>,
    is_ending: &Receiver<()>,
    counters: &ProcessCounters,
) {
    let mut write = |chunk: Chunk| {
        match file.append(&chunk.bytes) {
            Ok(()) => counters.events(EventFate::Written, chunk.lines),
            Err(error) => {
                counters.events(EventFate::Failed, chunk.lines);
                tracing::warn!(path = %file.path().display(), %error, lines = chunk.lines, "cannot write the event log");
            }
        }
        chunk.recycle();
    };
    loop {
        match chunks.recv_timeout(LOOK_INTERVAL) {
            Ok(chunk) => write(chunk),
            Err(RecvTimeoutError::Timeout) => {
                if is_ending.try_recv() == Err(channel::TryRecvError::Disconnected) {
                    break;
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    chunks.try_iter().for_each(write);
}
