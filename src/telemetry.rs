//! Logs: for people on a terminal, JSON otherwise, always on stderr. A panic is an event like any other. Traces: sent to
//! a collector, where one is set.
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Display};
use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;

use dripline_actors::trace;
use dripline_domain::Address;
use opentelemetry::KeyValue;
use opentelemetry::global::set_text_map_propagator;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{Log, LogFormat, Telemetry};

/// The filter that wins over `log.level`, for one run.
pub const FILTER_VARIABLE: &str = "DRIPLINE_LOG";

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Not a filter.
    #[error("{place}: `{filter}` is not a filter; write a level such as \"info\", or \"info,dripline=debug\"")]
    Filter {
        /// `DRIPLINE_LOG` or `log.level`.
        place: &'static str,
        /// What stands there.
        filter: String,
    },
    /// Somebody was first.
    #[error("logs are set up already")]
    Twice(#[from] TryInitError),
    /// Traces cannot be sent.
    #[error("telemetry.otlp_endpoint: traces cannot be sent there")]
    Traces(#[from] ExporterBuildError),
}

/// Traces are sent while this lives, and the last of them when it is dropped.
#[must_use]
pub struct Tracing(Option<SdkTracerProvider>);

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// Sends events to stderr from now on, panics too, and traces to the collector if there is one.
///
/// # Errors
/// The filter cannot be read, the collector's address cannot be used, or this was called before.
pub fn init(log: &Log, traces: &Telemetry) -> Result<Tracing, TelemetryError> {
    let named = std::env::var(FILTER_VARIABLE).ok().filter(|filter| !filter.is_empty());
    let (place, filter) = match named {
        Some(filter) => (FILTER_VARIABLE, filter),
        None => ("log.level", log.level.clone()),
    };
    let filter = EnvFilter::try_new(&filter).map_err(|_| TelemetryError::Filter { place, filter })?;

    let terminal = io::stderr().is_terminal();
    let events = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let events = if for_people(log.format, terminal) {
        events.with_ansi(terminal).with_target(false).boxed()
    } else {
        events.json().flatten_event(true).with_current_span(false).boxed()
    };
    let provider = traces.otlp_endpoint.as_deref().map(|to| exporting(to, traces.sample_ratio)).transpose()?;
    match &provider {
        None => tracing_subscriber::registry().with(events).with(filter).try_init()?,
        Some(provider) => {
            let ours = Targets::new().with_target(trace::TARGET, LevelFilter::TRACE);
            let spans = tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("dripline"))
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_filter(ours);
            tracing_subscriber::registry().with(events.with_filter(filter)).with(spans).try_init()?;
        }
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(Tracing(provider))
}

/// Spans wait in a queue of 2,048 at most, and are sent every five seconds by a thread of its own; what does not fit is
/// dropped, with a warning.
fn exporting(endpoint: &str, sample_ratio: f64) -> Result<SdkTracerProvider, ExporterBuildError> {
    dripline_esp::install_tls();
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .build()?;
    let resource = Resource::builder()
        .with_service_name("dripline")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    set_text_map_propagator(TraceContextPropagator::new());
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample_ratio))))
        .with_resource(resource)
        .build())
}

fn for_people(format: LogFormat, terminal: bool) -> bool {
    match format {
        LogFormat::Auto => terminal,
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("a value that is no text");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    // Captured only where RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(location, thread, reason = message, %backtrace, "panic");
    } else {
        tracing::error!(location, thread, reason = message, "panic");
    }
}

/// How email addresses appear in logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Addresses {
    /// `j***@example.com`.
    #[default]
    Masked,
    /// In full: `log.show_addresses`.
    Shown,
}

impl Addresses {
    /// As `log.show_addresses` says.
    pub fn of(log: &Log) -> Self {
        if log.show_addresses { Self::Shown } else { Self::Masked }
    }

    /// This address, for a log. Nothing is computed unless the event is written.
    pub fn show(self, address: &Address) -> impl Display {
        fmt::from_fn(move |f| match self {
            Self::Masked => f.write_str(&address.masked()),
            Self::Shown => f.write_str(address.as_str()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_one_json_line_that_says_where() {
        let lines = Lines::default();
        let writer = lines.clone();
        let events = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(log_panic));
        let result =
            tracing::subscriber::with_default(events, || std::panic::catch_unwind(|| panic!("out of {}", "cheese")));
        std::panic::set_hook(before);
        assert!(result.is_err());

        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["message"], "panic");
        assert_eq!(line["reason"], "out of cheese");
        assert!(line["location"].as_str().unwrap().starts_with("src/telemetry.rs:"), "{line}");
    }

    #[test]
    fn a_terminal_gets_text_and_a_pipe_gets_json_unless_told_otherwise() {
        for (format, terminal, expected) in [
            (LogFormat::Auto, true, true),
            (LogFormat::Auto, false, false),
            (LogFormat::Pretty, false, true),
            (LogFormat::Json, true, false),
        ] {
            assert_eq!(for_people(format, terminal), expected, "{format:?}, terminal: {terminal}");
        }
    }

    #[test]
    fn an_address_is_masked_unless_asked_for() {
        let address = Address::parse("jane@example.com").unwrap();
        assert_eq!(Addresses::of(&Log::default()).show(&address).to_string(), "j***@example.com");
        let shown = Log { show_addresses: true, ..Log::default() };
        assert_eq!(Addresses::of(&shown).show(&address).to_string(), "jane@example.com");
    }
}
