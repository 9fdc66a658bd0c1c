//! Lines on their way out: copied into a bounded queue by whoever says them, written by a thread of its own.

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::limit::Limits;
use super::say_suppressed;
use crate::telemetry::{LOG_LINES, LogLine};

/// Lines that may wait to be written. A line has some 300 B: 300 kB.
const WAITING_MAX: usize = 1024;

/// A longer line is cut off: 1024 of these are 8 MB.
const LINE_BYTES_MAX: usize = 8 << 10;

/// How often it is looked whether a place was silenced.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the end of the process waits for a reader that does not read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where lines go in; can be copied.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    queue: Sender<Said>,
}

enum Said {
    Line(Box<[u8]>),
    /// To be told when everything before it is written.
    Flush(Sender<()>),
}

impl Lines {
    /// Starts the thread that writes to `out`.
    pub(super) fn start(out: impl Write + Send + 'static, limits: Arc<Limits>) -> io::Result<Self> {
        let (queue, said) = bounded(WAITING_MAX);
        thread::Builder::new()
            .name("corebid-log".to_owned())
            .spawn(move || write_all(out, &said, &limits))?;
        Ok(Self { queue })
    }

    /// Waits until what was said before is written, but not for ever.
    pub(super) fn flush(&self) {
        let (done, is_done) = bounded(1);
        if self.queue.send_timeout(Said::Flush(done), LAST_WORDS).is_ok() {
            // Not in time: then nobody reads it.
            let _unread = is_done.recv_timeout(LAST_WORDS);
        }
    }
}

/// Takes a line. The log's layer writes each in one piece.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut kept = line;
        if line.len() > LINE_BYTES_MAX {
            kept = &line[..LINE_BYTES_MAX - 1];
        }
        let mut kept = kept.to_vec();
        if kept.len() < line.len() {
            kept.push(b'\n');
        }
        match self.queue.try_send(Said::Line(kept.into())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => LOG_LINES.add_one(LogLine::Dropped),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(mut out: impl Write, said: &Receiver<Said>, limits: &Limits) {
    loop {
        match said.recv_timeout(LOOK_INTERVAL) {
            Ok(Said::Line(line)) => {
                let outcome = match out.write_all(&line) {
                    Ok(()) => LogLine::Written,
                    // There is nobody left to tell.
                    Err(_) => LogLine::Dropped,
                };
                LOG_LINES.add_one(outcome);
            }
            Ok(Said::Flush(done)) => {
                let _flushed = out.flush();
                let _nobody_waits = done.try_send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        say_suppressed(limits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that takes a line each time it is allowed to.
    struct Slow {
        allowed: Receiver<()>,
        read: Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.allowed.recv().map_err(io::Error::other)?;
            self.read.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_says_something_never_waits_for_who_reads() {
        let (allow, allowed) = bounded(10_000);
        let (read, lines) = bounded(10_000);
        let mut log = Lines::start(Slow { allowed, read }, Arc::default()).unwrap();
        let before = LOG_LINES.get(LogLine::Dropped);
        for number in 0..2_000 {
            let line = format!("{number}\n");
            assert_eq!(log.write(line.as_bytes()).unwrap(), line.len());
        }
        // One is on its way out.
        let dropped = LOG_LINES.get(LogLine::Dropped) - before;
        assert!((975..=976).contains(&dropped), "{dropped}");
        (0..2_000).for_each(|_| allow.send(()).unwrap());
        log.flush();
        let read: Vec<_> = lines.try_iter().collect();
        assert_eq!(u64::try_from(read.len()).unwrap(), 2_000 - dropped);
        assert_eq!(read[1_000], b"1000\n");
    }

    #[test]
    fn a_long_line_is_cut_off() {
        let (read, lines) = bounded(10);
        let (allow, allowed) = bounded(10);
        (0..10).for_each(|_| allow.send(()).unwrap());
        let mut log = Lines::start(Slow { allowed, read }, Arc::default()).unwrap();
        for bytes in [LINE_BYTES_MAX, LINE_BYTES_MAX + 1] {
            let mut line = vec![b'x'; bytes - 1];
            line.push(b'\n');
            log.write_all(&line).unwrap();
        }
        log.flush();
        let read: Vec<_> = lines.try_iter().map(|line| line.len()).collect();
        assert_eq!(read, [LINE_BYTES_MAX, LINE_BYTES_MAX]);
    }
}
