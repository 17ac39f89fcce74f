//! `POST /v1/leads`: from the bytes of a request to a lead on disk.
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Form, FromRequest, Path, Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use dripline_actors::ports::Submission;
use dripline_actors::trace;
use dripline_domain::LeadId;
use serde_json::{Map, Value, map};
use tracing::Span;

use super::request::{read, text, wants_page};
use super::{IDEMPOTENCY_KEY, Problem, Shared, auth};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

const MAX_SOURCE: usize = 64;
const MAX_IDEMPOTENCY_KEY: usize = 128;

/// `POST /v1/leads`
pub async fn submit(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answer(&shared, None, request).await
}

/// `POST /v1/leads/{source}`
pub async fn submit_from(
    State(shared): State<Arc<Shared>>,
    source: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    match source {
        Ok(Path(source)) if is_source(&source) => answer(&shared, Some(source), request).await,
        Ok(_) | Err(_) => Problem::invalid_source().into_response(),
    }
}

/// What a source may be called: it becomes part of a subject.
pub fn is_source(name: &str) -> bool {
    (1..=MAX_SOURCE).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

async fn answer(shared: &Shared, source: Option<String>, request: Request) -> Response {
    let began = Instant::now();
    let result = take(shared, source, request, began).await;
    result.unwrap_or_else(|problem| {
        let status = problem.status.as_u16();
        tracing::debug!(status, code = problem.code, field = problem.field, latency = ?began.elapsed(), "lead refused");
        problem.into_response()
    })
}

async fn take(shared: &Shared, source: Option<String>, request: Request, began: Instant) -> Result<Response, Problem> {
    if let Some(limit) = &shared.limit {
        limit.check(&auth::network(auth::client(&request, shared.trust_forwarded_for)))?;
    }
    shared.keys.check(request.headers())?;

    let (parts, body) = request.into_parts();
    let media = Media::of(&parts.headers)?;
    let id = idempotency_key(&parts.headers)?;
    let redirect = shared.form_redirect.as_ref().filter(|_| media == Media::Form && wants_page(&parts.headers));

    let body = read(&parts.headers, body, shared.body_limit).await?;
    let payload = match media {
        Media::Json => body,
        Media::Form => json_of_form(parts, body).await?,
    };

    let arrival = shared.sanitiser.read_json(&payload)?;
    let lead_id = shared.lead_ids.lead_id(&arrival.address);
    // Two people never share an id, even where a client uses one key for all it sends.
    let id = id.map(|key| format!("{lead_id}:{key}"));
    Span::current().record("lead_id", lead_id.as_str());
    let lead = Submission { source, payload, content_type: JSON, id, trace: trace::current() };
    if let Err(error) = shared.door.submit(lead).await {
        if let Some(refused) = shared.refusals.to_say() {
            tracing::warn!(refused, error = &error as &dyn Error, "leads refused: the queue does not take them");
        }
        return Err(Problem::of_lead(&error));
    }
    let address = shared.addresses.show(&arrival.address);
    tracing::debug!(%lead_id, %address, status = 202, latency = ?began.elapsed(), "lead accepted");
    Ok(match redirect {
        Some(url) => (StatusCode::SEE_OTHER, [(LOCATION, url.clone())]).into_response(),
        None => accepted(&lead_id),
    })
}

fn accepted(lead_id: &LeadId) -> Response {
    // An id is made of letters, digits and `_`: nothing to escape.
    let mut response = Response::new(Body::from(format!(r#"{{"leadId":"{lead_id}","status":"accepted"}}"#)));
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

/// How a lead is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Media {
    Json,
    Form,
}

impl Media {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        if text(headers, &CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
            return Err(Problem::unsupported_encoding());
        }
        let media = text(headers, &CONTENT_TYPE).ok_or_else(Problem::unsupported_media_type)?;
        let media = media.split(';').next().unwrap_or_default().trim();
        let is_suffixed_json = || {
            let suffix = media.len().checked_sub("+json".len()).and_then(|at| media.get(at..));
            suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"))
        };
        if media.eq_ignore_ascii_case(JSON) || is_suffixed_json() {
            Ok(Self::Json)
        } else if media.eq_ignore_ascii_case(FORM) {
            Ok(Self::Form)
        } else {
            Err(Problem::unsupported_media_type())
        }
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let visible = key.as_bytes().iter().all(u8::is_ascii_graphic);
    match key.to_str() {
        Ok(key) if visible && (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) => Ok(Some(key.to_owned())),
        Ok(_) | Err(_) => Err(Problem::invalid_idempotency_key()),
    }
}

/// A form as a JSON object. A field left empty is left out, as the person left it; one that comes several times (a group
/// of checkboxes) is a list, so that nothing of it is lost.
async fn json_of_form(parts: Parts, body: Bytes) -> Result<Bytes, Problem> {
    let request = Request::from_parts(parts, Body::from(body));
    let form = Form::<Vec<(String, String)>>::from_request(request, &()).await;
    let Form(fields) = form.map_err(|_| Problem::not_a_form())?;
    let mut object = Map::new();
    for (name, value) in fields {
        // What is not UTF-8 was replaced by this: whoever reads it later could not know what it was.
        if name.contains(char::REPLACEMENT_CHARACTER) || value.contains(char::REPLACEMENT_CHARACTER) {
            return Err(Problem::not_a_form());
        }
        if value.trim().is_empty() {
            continue;
        }
        match object.entry(name) {
            map::Entry::Vacant(field) => {
                field.insert(Value::String(value));
            }
            map::Entry::Occupied(mut field) => match field.get_mut() {
                Value::Array(values) => values.push(Value::String(value)),
                first => *first = Value::Array(vec![first.take(), Value::String(value)]),
            },
        }
    }
    serde_json::to_vec(&object).map(Bytes::from).map_err(|_| Problem::not_a_form())
}
