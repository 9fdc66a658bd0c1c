//! HdrHistogram's two file formats: the percentile file (`.hgrm`) and the interval log (`.hlog`), of durations in
//! nanoseconds. The exchange and its load tester both write them, and neither may depend on the other. Writes text;
//! opens no file and reads no clock.

mod intervals;
mod percentiles;

pub use intervals::{LogLines, Span, log_header};
pub use percentiles::percentile_file;
