use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use dripline_actors::ports::FrontDoorError;
use dripline_domain::ArrivalError;
use dripline_esp::webhooks::WebhookError;
use serde::Serialize;

/// After how many seconds a source should try again when the queue takes nothing.
const QUEUE_RETRY: u64 = 5;

/// Why a request was refused, as RFC 9457 writes it.
#[derive(Debug)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// For programs; it never changes for a kind of fault.
    pub code: &'static str,
    /// For people: what is wrong and what is right.
    pub detail: Cow<'static, str>,
    /// Which field of the lead, or which header.
    pub field: Option<String>,
    hint: Option<Hint>,
}

/// What a header says beside the document.
#[derive(Debug, Clone, Copy)]
enum Hint {
    /// Try again after so many seconds.
    RetryAfter(u64),
    /// Say who you are.
    Authenticate,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, detail: detail.into(), field: None, hint: None }
    }

    fn of(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    fn retry_after(mut self, seconds: u64) -> Self {
        self.hint = Some(Hint::RetryAfter(seconds));
        self
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "leads go to POST /v1/leads or POST /v1/leads/{source}")
    }

    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "see the Allow header for what is possible here",
        )
    }

    pub fn unauthorised() -> Self {
        let detail = "send a valid API key, as `Authorization: Bearer <key>` or `X-API-Key: <key>`";
        Self { hint: Some(Hint::Authenticate), ..Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail) }
    }

    pub fn too_many_requests(wait: Duration) -> Self {
        // Rounded up: whoever comes back at that second is let in.
        let seconds = wait.as_secs() + 1;
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_requests",
            "more requests than one sender may send in so short a time",
        )
        .retry_after(seconds)
    }

    pub fn unsupported_media_type() -> Self {
        let detail = "send application/json or application/x-www-form-urlencoded";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail).of("Content-Type")
    }

    pub fn unsupported_encoding() -> Self {
        let detail = "send the body as it is, without compression";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", detail).of("Content-Encoding")
    }

    pub fn too_large(limit: usize) -> Self {
        let detail = format!("the body is larger than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    }

    pub fn too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "the body did not arrive in time")
    }

    pub fn broken_body() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "broken_body", "the body ended early or is not well-formed HTTP")
    }

    pub fn invalid_source() -> Self {
        let detail = "a source has 1 to 64 of the characters a-z, 0-9, _ and -";
        Self::new(StatusCode::BAD_REQUEST, "invalid_source", detail).of("source")
    }

    pub fn invalid_idempotency_key() -> Self {
        let detail = "an idempotency key has 1 to 128 visible ASCII characters";
        Self::new(StatusCode::BAD_REQUEST, "invalid_idempotency_key", detail).of("Idempotency-Key")
    }

    /// The queue does not take a lead.
    pub fn of_lead(error: &FrontDoorError) -> Self {
        Self::of_queue(
            error,
            "nothing of this lead was kept: send it again later",
            // An ack that was lost on its way leaves the lead in the queue.
            "this lead may not be kept: send it again later, with the same Idempotency-Key",
        )
    }

    /// The queue does not take what came back: events of a provider, or a person's wish.
    pub fn of_feedback(error: &FrontDoorError) -> Self {
        let advice = "send it again later; what is kept already counts once";
        Self::of_queue(error, advice, advice)
    }

    fn of_queue(error: &FrontDoorError, if_full: &str, if_unavailable: &str) -> Self {
        let unavailable = |code, advice: &str| {
            Self::new(StatusCode::SERVICE_UNAVAILABLE, code, format!("{error}; {advice}")).retry_after(QUEUE_RETRY)
        };
        match error {
            FrontDoorError::Full => unavailable("queue_full", if_full),
            FrontDoorError::Unavailable(_) => unavailable("queue_unavailable", if_unavailable),
            FrontDoorError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "message_too_large", error.to_string())
            }
        }
    }

    /// More deliveries at a time than are held in memory.
    pub fn busy() -> Self {
        let detail = "too many deliveries at the same time; send it again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).retry_after(QUEUE_RETRY)
    }

    pub fn unknown_link() -> Self {
        let detail = "this link to unsubscribe is not one of ours, or was cut short; use the whole link, as it stands in the email";
        Self::new(StatusCode::NOT_FOUND, "unknown_link", detail)
    }

    pub fn not_a_form() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "not_a_form",
            "the body is not a form in UTF-8, such as email=jane%40example.com",
        )
    }
}

impl From<ArrivalError> for Problem {
    fn from(error: ArrivalError) -> Self {
        let problem = Self::new(StatusCode::BAD_REQUEST, error.code(), error.to_string());
        match error {
            ArrivalError::MissingEmail | ArrivalError::InvalidEmail(_) => problem.of("email"),
            ArrivalError::InvalidSequence => problem.of("sequence"),
            ArrivalError::WrongType { field, .. }
            | ArrivalError::ControlCharacters { field }
            | ArrivalError::TooLong { field, .. }
            | ArrivalError::TooDeep { field, .. } => problem.of(field),
            ArrivalError::NotJson(_)
            | ArrivalError::NotMessagePack(_)
            | ArrivalError::NotAnObject
            | ArrivalError::TooManyFields { .. }
            | ArrivalError::TooLarge { .. } => problem,
        }
    }
}

impl From<&WebhookError> for Problem {
    fn from(error: &WebhookError) -> Self {
        let (status, code) = match error {
            WebhookError::UnknownVendor => (StatusCode::NOT_FOUND, "unknown_vendor"),
            WebhookError::NotConfigured(_) => (StatusCode::FORBIDDEN, "webhooks_not_configured"),
            WebhookError::Unauthentic(_) => (StatusCode::UNAUTHORIZED, "unauthentic"),
            WebhookError::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed_webhook"),
            WebhookError::Unavailable { .. } => {
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, "verification_unavailable", error.to_string())
                    .retry_after(QUEUE_RETRY);
            }
        };
        Self::new(status, code, error.to_string())
    }
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = Document {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            field: self.field.as_deref(),
        };
        // Texts and a number: serialising them cannot fail.
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.hint {
            Some(Hint::RetryAfter(seconds)) => {
                headers.insert(RETRY_AFTER, seconds.into());
            }
            Some(Hint::Authenticate) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            None => {}
        }
        response
    }
}
