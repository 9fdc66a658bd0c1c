//! How a line looks: as text or as an object, whichever was asked for last.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// See the module's description.
pub(super) struct Form {
    json: Arc<AtomicBool>,
    text: Format<Full>,
    object: Format<Json>,
}

impl Form {
    pub(super) fn new(json: Arc<AtomicBool>) -> Self {
        Self {
            json,
            text: Format::default(),
            object: Format::default().json(),
        }
    }
}

impl<S, N> FormatEvent<S, N> for Form
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.json.load(Ordering::Relaxed) {
            self.object.format_event(context, writer, event)
        } else {
            self.text.format_event(context, writer, event)
        }
    }
}
