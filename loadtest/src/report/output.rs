//! Where a report goes: to stdout, and to a folder that can be kept, sent and compared.

use super::{FailArgs, Latencies, page};
use histogram_files::percentile_file;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// What to make of what was measured.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "Report")]
pub struct OutputArgs {
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub json: bool,
    /// Write a report to this folder, which is made if it is not there; files of an earlier report in it are replaced:
    /// report.html (one file that needs nothing else), report.json, report.txt, latency.hgrm, excess.hgrm
    /// (percentiles, in ms), latency.hlog (an interval each second, in ns) [default: none]
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// What to call this run in its report and in comparisons [default: the folder's name]
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
}

/// Checked.
#[derive(Clone, Debug)]
pub(crate) struct OutputOptions {
    json: bool,
    folder: Option<PathBuf>,
    pub(crate) label: String,
    pub(crate) fail: FailArgs,
    /// The scenario's file; empty without one.
    pub(crate) scenario: String,
}

/// The places to write to, open before the first request is sent: a run is not to be lost to a folder that cannot be
/// written.
#[derive(Debug)]
struct Output {
    json: bool,
    folder: Option<PathBuf>,
    log: Option<File>,
}

/// A report about to be given out.
#[derive(Debug)]
pub(crate) struct Conclusion {
    pub(crate) passed: bool,
    pub(crate) json: String,
    pub(crate) table: String,
    pub(crate) latency: Latencies,
    pub(crate) excess: Latencies,
}

/// More would not fit a heading.
const LABEL_CHARS_MAX: usize = 80;

/// The report itself; what `compare` reads.
pub(super) const JSON_FILE: &str = "report.json";

impl OutputArgs {
    /// # Errors
    /// A sentence for whoever typed it.
    pub(crate) fn check(&self, fail: FailArgs, scenario: Option<&Path>) -> Result<OutputOptions, String> {
        let of_folder = || {
            let name = self.report.as_deref().and_then(Path::file_name);
            name.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
        };
        let label = self.label.clone().unwrap_or_else(of_folder);
        if label.chars().count() > LABEL_CHARS_MAX {
            return Err(format!("label: more than {LABEL_CHARS_MAX} characters"));
        }
        Ok(OutputOptions {
            json: self.json,
            folder: self.report.clone(),
            label,
            fail: fail.check()?,
            scenario: scenario.map_or_else(String::new, |path| path.display().to_string()),
        })
    }
}

impl Output {
    /// Makes the folder.
    ///
    /// # Errors
    /// A sentence for whoever named it.
    fn prepare(options: &OutputOptions) -> Result<Output, String> {
        let mut output = Output {
            json: options.json,
            folder: options.folder.clone(),
            log: None,
        };
        if let Some(folder) = &options.folder {
            let made = fs::create_dir_all(folder).and_then(|()| File::create(folder.join("latency.hlog")));
            output.log = Some(made.map_err(|error| format!("report {}: {error}", folder.display()))?);
        }
        Ok(output)
    }

    /// Measures, prints the report and writes it; returns whether the run passed.
    #[expect(
        clippy::print_stdout,
        clippy::print_stderr,
        reason = "the report on stdout is what the program is for"
    )]
    fn conclude(self, measure: impl FnOnce(Option<File>) -> io::Result<Conclusion>) -> Result<bool, String> {
        let conclusion = measure(self.log).map_err(|error| error.to_string())?;
        if self.json {
            println!("{}", conclusion.json);
        } else {
            print!("{}", conclusion.table);
        }
        if let Some(folder) = self.folder {
            let written = conclusion.write(&folder);
            written.map_err(|error| format!("report {}: {error}", folder.display()))?;
            eprintln!("report: {}", folder.join("report.html").display());
        }
        Ok(conclusion.passed)
    }
}

/// A command from its checked options to its exit code: 0 when it passed, 1 when not, 2 when the options, or a folder that
/// they name, make no sense.
#[expect(clippy::print_stderr, reason = "what went wrong goes where errors go")]
pub(crate) fn command<O>(
    name: &str,
    options: Result<O, String>,
    output: impl Fn(&O) -> &OutputOptions,
    measure: impl FnOnce(&O, Option<File>) -> io::Result<Conclusion>,
) -> u8 {
    let prepared = options.and_then(|options| Ok((Output::prepare(output(&options))?, options)));
    let (problem, code) = match prepared {
        Err(problem) => (problem, 2),
        Ok((output, options)) => match output.conclude(|log| measure(&options, log)) {
            Ok(passed) => return u8::from(!passed),
            Err(problem) => (problem, 1),
        },
    };
    eprintln!("corebid-loadtest {name}: {problem}");
    code
}

impl Conclusion {
    fn write(&self, folder: &Path) -> io::Result<()> {
        let html = page::of_report(&self.json, &self.table);
        for (name, text) in [
            ("report.html", html),
            (JSON_FILE, format!("{}\n", self.json)),
            ("report.txt", self.table.clone()),
            ("latency.hgrm", percentile_file(self.latency.histogram())),
            ("excess.hgrm", percentile_file(self.excess.histogram())),
        ] {
            fs::write(folder.join(name), text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(report: Option<&str>, label: Option<&str>) -> Result<OutputOptions, String> {
        let args = OutputArgs {
            json: false,
            report: report.map(PathBuf::from),
            label: label.map(str::to_owned),
        };
        args.check(FailArgs::default(), None)
    }

    #[test]
    fn a_report_is_called_after_its_folder_unless_it_is_named() {
        let check = |report, label, expected: &str| {
            assert_eq!(checked(report, label).unwrap().label, expected);
        };
        check(Some("runs/before"), None, "before");
        check(Some("runs/before/"), Some("v1"), "v1");
        check(None, None, "");
        let long = "x".repeat(LABEL_CHARS_MAX + 1);
        assert!(checked(None, Some(&long)).is_err() && checked(None, Some(&long[1..])).is_ok());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_told_before_anything_is_sent() {
        let options = checked(Some("/dev/null/report"), None).unwrap();
        let problem = Output::prepare(&options).unwrap_err();
        assert!(problem.contains("/dev/null/report"), "{problem}");
    }
}
