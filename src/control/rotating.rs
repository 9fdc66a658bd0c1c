//! A file that is appended to, line by whole line, and the files it was before: when it is full the next is begun and the
//! oldest is deleted. Another process may have the same file for a while, as at a handover: each appends whole lines,
//! and who finds that the other has begun a new file goes on with that.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Where something is written and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOptions {
    /// The file that is written to. Full ones are beside it: of `latency.hlog`, `latency.1.hlog` is the last.
    pub path: PathBuf,
    /// A file is full before it would be larger than this.
    pub file_bytes_max: u64,
    /// Files in all.
    pub files_max: usize,
}

/// The file that is written to, and those before it.
pub(super) struct RotatingFile {
    options: FileOptions,
    file: File,
    bytes: u64,
    /// What each begins with.
    header: String,
}

impl RotatingFile {
    /// Goes on with the file that a process before this one has left: a crash loop must not push out what was before
    /// it.
    pub(super) fn open(options: FileOptions, header: String) -> io::Result<Self> {
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

    pub(super) fn path(&self) -> &Path {
        &self.options.path
    }

    /// Appends whole lines.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let full = self.bytes + lines.len() as u64 > self.options.file_bytes_max;
        if full && self.bytes > self.header.len() as u64 {
            self.next_file()?;
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

    fn next_file(&mut self) -> io::Result<()> {
        if self.is_still_there()? {
            self.rotate()?;
        }
        self.file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.options.path)?;
        self.bytes = self.file.metadata()?.len();
        self.begin()
    }

    /// Whether the path still leads to the file that is written to.
    fn is_still_there(&self) -> io::Result<bool> {
        let mine = self.file.metadata()?;
        match fs::metadata(&self.options.path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (mine.dev(), mine.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Moves every file to the next number, over the oldest.
    fn rotate(&self) -> io::Result<()> {
        let path = &self.options.path;
        if self.options.files_max == 1 {
            return fs::remove_file(path);
        }
        for number in (1..self.options.files_max).rev() {
            match fs::rename(numbered(path, number - 1), numbered(path, number)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                moved => moved?,
            }
        }
        Ok(())
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

/// For tests: a folder of its own, gone at the end.
#[cfg(test)]
pub(super) struct Folder(pub(super) PathBuf);

#[cfg(test)]
impl Folder {
    pub(super) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("corebid-file-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(super) fn options(&self, file_bytes_max: u64, files_max: usize) -> FileOptions {
        FileOptions {
            path: self.0.join("latency.hlog"),
            file_bytes_max,
            files_max,
        }
    }

    /// Every file by name, without the headers' lines.
    pub(super) fn read(&self) -> Vec<(String, String)> {
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
    pub(super) fn check(&self, expected: &[(&str, &str)]) {
        let read = self.read();
        let read: Vec<_> = read
            .iter()
            .map(|(name, lines)| (name.as_str(), lines.as_str()))
            .collect();
        assert_eq!(read, expected);
    }
}

#[cfg(test)]
impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "# head\n";

    fn open(options: &FileOptions) -> RotatingFile {
        RotatingFile::open(options.clone(), HEADER.to_owned()).unwrap()
    }

    fn append(options: &FileOptions, lines: &[&str]) {
        let mut file = open(options);
        lines
            .iter()
            .for_each(|line| file.append(line.as_bytes()).unwrap());
    }

    #[test]
    fn full_files_are_kept_up_to_the_limit() {
        let folder = Folder::new("full");
        // Two lines of two bytes fit behind the header.
        let options = folder.options(HEADER.len() as u64 + 4, 3);
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
            assert!(text.starts_with(HEADER), "{text}");
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
    fn two_processes_lose_no_line_of_each_other() {
        let folder = Folder::new("two");
        let options = folder.options(2 * HEADER.len() as u64 + 8, 9);
        let (mut leaves, mut comes) = (open(&options), open(&options));
        for number in 0..5 {
            leaves.append(format!("a{number}\n").as_bytes()).unwrap();
            comes.append(format!("b{number}\n").as_bytes()).unwrap();
        }
        let mut lines: Vec<_> = folder
            .read()
            .iter()
            .flat_map(|(_, lines)| lines.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .filter(|line| !line.is_empty())
            .collect();
        lines.sort();
        assert_eq!(
            lines,
            ["a0", "a1", "a2", "a3", "a4", "b0", "b1", "b2", "b3", "b4"]
        );
    }

    #[test]
    fn a_file_that_somebody_moved_away_is_begun_anew() {
        let folder = Folder::new("moved");
        let options = folder.options(HEADER.len() as u64 + 2, 2);
        let mut file = open(&options);
        file.append(b"1\n").unwrap();
        fs::rename(&options.path, folder.0.join("elsewhere")).unwrap();
        file.append(b"2\n").unwrap();
        folder.check(&[("elsewhere", "1"), ("latency.hlog", "2")]);
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
