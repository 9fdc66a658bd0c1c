//! The interval log on disk: appended to each second, a new file when one is full, the oldest deleted. On a thread of
//! its own, because a disk that stalls must not stall the health checks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::telemetry;

/// Seconds that may wait for the disk: a minute, after which it is not slow but broken.
const WAITING_MAX: usize = 60;

/// Where the log is written and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HlogOptions {
    /// The file that is written to. Full ones are beside it: of `latency.hlog`, `latency.1.hlog` is the last.
    pub path: PathBuf,
    /// A file is full before it would be larger than this.
    pub file_bytes_max: u64,
    /// Files in all.
    pub files_max: usize,
}

/// Sends lines to the thread that writes them. Dropping it writes what is left.
pub(super) struct HlogFile {
    lines: Option<SyncSender<Arc<[u8]>>>,
    thread: Option<JoinHandle<()>>,
    losing: bool,
}

impl HlogFile {
    /// Opens the file and starts the thread; `now` since the Unix epoch.
    pub(super) fn open(options: HlogOptions, now: Duration) -> io::Result<Self> {
        let mut files = Files::open(options, now)?;
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

fn write_all(files: &mut Files, lines: &Receiver<Arc<[u8]>>) {
    let mut failing = false;
    for lines in lines {
        let written = files.append(&lines);
        if let Err(error) = &written
            && !failing
        {
            // Once, not each second.
            tracing::warn!(path = %files.options.path.display(), %error, "cannot write the interval log");
        }
        failing = written.is_err();
    }
}

/// The file that is written to, and those before it.
struct Files {
    options: HlogOptions,
    file: File,
    bytes: u64,
    /// When the file was begun, which its header says.
    header: String,
}

impl Files {
    /// Goes on with the file that a process before this one has left: a crash loop must not push out what was before
    /// it.
    fn open(options: HlogOptions, now: Duration) -> io::Result<Self> {
        let header = telemetry::interval_log_header(now);
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&options.path)?;
        let mut bytes = file.seek(SeekFrom::End(0))?;
        if bytes > 0 && last_byte(&mut file)? != b'\n' {
            // Half a line, of a process that was killed: a reader skips it if it ends.
            file.write_all(b"\n")?;
            bytes += 1;
        }
        let mut files = Self {
            options,
            file,
            bytes,
            header,
        };
        files.begin()?;
        Ok(files)
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let full = self.bytes + lines.len() as u64 > self.options.file_bytes_max;
        if full && self.bytes > self.header.len() as u64 {
            self.rotate()?;
        }
        self.write(lines)
    }

    fn begin(&mut self) -> io::Result<()> {
        let header = std::mem::take(&mut self.header);
        let written = self.write(header.as_bytes());
        self.header = header;
        written
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Moves every file to the next number, over the oldest, and begins anew.
    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.options.files_max).rev() {
            let from = numbered(&self.options.path, number - 1);
            match fs::rename(&from, numbered(&self.options.path, number)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                moved => moved?,
            }
        }
        // With one file there was nothing to move.
        self.file = File::create(&self.options.path)?;
        self.bytes = 0;
        self.begin()
    }
}

fn last_byte(file: &mut File) -> io::Result<u8> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last[0])
}

/// `latency.hlog`, `latency.1.hlog`, `latency.2.hlog`: the tools go by the ending.
fn numbered(path: &Path, number: usize) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!(".{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own, gone at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("corebid-hlog-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn options(&self, file_bytes_max: u64, files_max: usize) -> HlogOptions {
            HlogOptions {
                path: self.0.join("latency.hlog"),
                file_bytes_max,
                files_max,
            }
        }

        /// Every file by name, without the headers' lines.
        fn read(&self) -> Vec<(String, String)> {
            let mut files: Vec<_> = fs::read_dir(&self.0)
                .unwrap()
                .map(|entry| {
                    let path = entry.unwrap().path();
                    let text = fs::read_to_string(&path).unwrap();
                    let lines = text.lines().filter(|line| !line.starts_with(['#', '"']));
                    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                    (name, lines.collect::<Vec<_>>().join(" "))
                })
                .collect();
            files.sort();
            files
        }

        #[track_caller]
        fn check(&self, expected: &[(&str, &str)]) {
            let read = self.read();
            let read: Vec<_> = read
                .iter()
                .map(|(name, lines)| (name.as_str(), lines.as_str()))
                .collect();
            assert_eq!(read, expected);
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn append(options: &HlogOptions, lines: &[&str]) {
        let mut file = HlogFile::open(options.clone(), Duration::from_secs(1)).unwrap();
        lines.iter().for_each(|line| file.append(line.as_bytes().into()));
    }

    #[test]
    fn full_files_are_kept_up_to_the_limit() {
        let folder = Folder::new("full");
        let header = telemetry::interval_log_header(Duration::from_secs(1)).len() as u64;
        // Two lines of two bytes fit behind the header.
        let options = folder.options(header + 4, 3);
        append(&options, &["1\n", "2\n"]);
        folder.check(&[("latency.hlog", "1 2")]);
        fs::remove_file(&options.path).unwrap();
        append(&options, &["1\n", "2\n", "3\n", "4\n", "5\n", "6\n", "7\n"]);
        folder.check(&[
            ("latency.1.hlog", "5 6"),
            ("latency.2.hlog", "3 4"),
            ("latency.hlog", "7"),
        ]);
        for file in fs::read_dir(&folder.0).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            assert!(
                text.starts_with("#[Histogram log format version 1.3]\n"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_line_larger_than_a_file_is_written_all_the_same() {
        let folder = Folder::new("large");
        append(&folder.options(1, 1), &["long\n", "longer\n"]);
        folder.check(&[("latency.hlog", "longer")]);
    }

    #[test]
    fn the_next_process_goes_on_with_the_file() {
        let folder = Folder::new("next");
        let options = folder.options(1_000_000, 2);
        append(&options, &["1\n", "ha"]);
        append(&options, &["2\n"]);
        folder.check(&[("latency.hlog", "1 ha 2")]);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error_at_the_start() {
        let options = HlogOptions {
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

    #[test]
    fn numbers_stand_before_the_ending() {
        #[track_caller]
        fn check(path: &str, number: usize, expected: &str) {
            assert_eq!(numbered(Path::new(path), number), Path::new(expected));
        }
        check("/var/log/latency.hlog", 0, "/var/log/latency.hlog");
        check("/var/log/latency.hlog", 2, "/var/log/latency.2.hlog");
        check("log", 1, "log.1");
        check("a.b.hlog", 1, "a.b.1.hlog");
    }
}
