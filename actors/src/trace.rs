//! One trace from a lead's arrival to the provider's answer, carried from process to process as W3C Trace Context
//! (<https://www.w3.org/TR/trace-context/>).
//!
//! Spans are `trace_span!`s of the target [`TARGET`], which nobody asks for unless traces are exported: then each costs
//! one look at the global level.
use std::collections::HashMap;

use opentelemetry::global::get_text_map_propagator;
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of every span that is exported, and of nothing else.
pub const TARGET: &str = "dripline::trace";

/// The header that carries a trace, in HTTP as on NATS.
pub const HEADER: &str = "traceparent";

/// The trace that we are in, for a header; none where nothing is traced.
pub fn current() -> Option<String> {
    if !tracing::enabled!(target: TARGET, Level::TRACE) {
        return None;
    }
    let mut headers = HashMap::new();
    get_text_map_propagator(|propagator| propagator.inject_context(&Span::current().context(), &mut headers));
    headers.remove(HEADER)
}

/// Makes the span part of the trace that a header tells of. Without one, or with one that is none, the span begins a
/// trace, or stays in the one that we are in.
pub fn continue_from(span: &Span, header: Option<&str>) {
    let Some(header) = header.filter(|_| !span.is_disabled()) else { return };
    let headers = HashMap::from([(HEADER.to_owned(), header.to_owned())]);
    let parent = get_text_map_propagator(|propagator| propagator.extract(&headers));
    if let Err(error) = span.set_parent(parent) {
        tracing::debug!(%error, "a trace could not be continued");
    }
}
