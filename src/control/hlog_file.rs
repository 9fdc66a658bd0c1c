//! The interval log on disk: appended to each second, a new file when one is full, the oldest deleted. On a thread of
//! its own, because a disk that stalls must not stall the health checks.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::rotating::{FileOptions, RotatingFile};
use crate::telemetry;

/// Seconds that may wait for the disk: a minute, after which it is not slow but broken.
const WAITING_MAX: usize = 60;

/// Sends lines to the thread that writes them. Dropping it writes what is left.
pub(super) struct HlogFile {
    lines: Option<SyncSender<Arc<[u8]>>>,
    thread: Option<JoinHandle<()>>,
    losing: bool,
}

impl HlogFile {
    /// Opens the file and starts the thread; `now` since the Unix epoch.
    pub(super) fn open(options: FileOptions, now: Duration) -> io::Result<Self> {
        let mut files = RotatingFile::open(options, telemetry::interval_log_header(now))?;
        let (sender, lines) = mpsc::sync_channel(WAITING_MAX);
        let thread = thread::Builder::new()
            .name("corebid-hlog".to_owned())
            .spawn(move || write_all(&mut files, &lines))?;
        Ok(Self {
            lines: Some(sender),
            thread: Some(thread),
            losing: false,
        })
    }

    /// Has lines written; never waits. While the disk does not keep up, seconds are lost, which is logged once.
    pub(super) fn append(&mut self, lines: Arc<[u8]>) {
        let Some(sender) = &self.lines else { return };
        let lost = matches!(sender.try_send(lines), Err(TrySendError::Full(_)));
        if lost && !self.losing {
            tracing::warn!("the disk is too slow for the interval log; seconds are missing from it");
        }
        self.losing = lost;
    }
}

impl Drop for HlogFile {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the interval log's thread had panicked");
        }
    }
}

fn write_all(files: &mut RotatingFile, lines: &Receiver<Arc<[u8]>>) {
    let mut failing = false;
    for lines in lines {
        let written = files.append(&lines);
        if let Err(error) = &written
            && !failing
        {
            // Once, not each second.
            tracing::warn!(path = %files.path().display(), %error, "cannot write the interval log");
        }
        failing = written.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::super::rotating::Folder;
    use super::*;

    #[test]
    fn seconds_are_written_behind_the_header() {
        let folder = Folder::new("hlog");
        let options = folder.options(1_000_000, 2);
        let mut file = HlogFile::open(options.clone(), Duration::from_secs(1)).unwrap();
        ["1\n", "2\n"]
            .iter()
            .for_each(|line| file.append(line.as_bytes().into()));
        drop(file);
        folder.check(&[("latency.hlog", "1 2")]);
        let text = std::fs::read_to_string(&options.path).unwrap();
        assert!(
            text.starts_with("#[Histogram log format version 1.3]\n"),
            "{text}"
        );
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error_at_the_start() {
        let options = FileOptions {
            path: "/nonexistent/latency.hlog".into(),
            file_bytes_max: 1,
            files_max: 1,
        };
        let opened = HlogFile::open(options, Duration::ZERO);
        assert_eq!(
            opened.err().map(|error| error.kind()),
            Some(io::ErrorKind::NotFound)
        );
    }
}
