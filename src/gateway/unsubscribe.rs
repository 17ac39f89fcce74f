//! `/unsubscribe/{token}`: by one click of a mail program (RFC 8058), or by a page with a button. No log-in: who has the
//! link has the email.
use std::error::Error;
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dripline_actors::ports::{Clock, FeedbackDoor, RawFeedback};
use dripline_domain::Address;
use dripline_esp::webhooks::{UNSUBSCRIBE, UnsubscribeEvent, UnsubscribeKind};
use dripline_esp::{Recipient, UnsubscribeLinks};
use governor::Quota;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, context};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Problem;
use super::auth::KeyedLimit;
use super::refusals::RefusalLog;
use super::request::{read, wants_page};
use crate::telemetry::Addresses;

/// A mail program sends 26 bytes, a form of ours none.
const BODY_LIMIT: usize = 16 * 1024;

/// Changes of mind that are taken for one address in a minute.
const CHANGES_PER_MINUTE: NonZeroU32 = match NonZeroU32::new(20) {
    Some(changes) => changes,
    None => NonZeroU32::MIN,
};

const TEMPLATE: &str = "unsubscribe.html";
const STYLE: &str = include_str!("unsubscribe.css");

/// What the page needs.
pub struct Unsubscribe {
    pub links: UnsubscribeLinks,
    pub door: Arc<dyn FeedbackDoor>,
    pub clock: Arc<dyn Clock>,
    pub addresses: Addresses,
}

struct Shared {
    unsubscribe: Unsubscribe,
    limit: KeyedLimit<Address>,
    refusals: RefusalLog,
    pages: Environment<'static>,
    /// Lets the page have its own style, and nothing else from anywhere.
    policy: HeaderValue,
}

/// The routes.
///
/// # Errors
/// The page's template is wrong.
pub fn router(unsubscribe: Unsubscribe) -> Result<Router, minijinja::Error> {
    let mut pages = Environment::new();
    pages.add_template(TEMPLATE, include_str!("unsubscribe.html"))?;
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        STANDARD.encode(Sha256::digest(STYLE))
    );
    let shared = Shared {
        unsubscribe,
        limit: KeyedLimit::new(Quota::per_minute(CHANGES_PER_MINUTE)),
        refusals: RefusalLog::default(),
        pages,
        policy: HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'")),
    };
    let router = Router::new()
        .route("/unsubscribe/{token}", get(ask).post(unsubscribe_now))
        .route("/unsubscribe/{token}/undo", get(ask_on_undo).post(undo));
    Ok(router.with_state(Arc::new(shared)))
}

type Token = Result<Path<String>, PathRejection>;

/// Changes nothing: scanners and previews follow links.
async fn ask(State(shared): State<Arc<Shared>>, token: Token) -> Response {
    shared.question(&token, Place::Link)
}

/// Who reloads the page after an undo is asked again.
async fn ask_on_undo(State(shared): State<Arc<Shared>>, token: Token) -> Response {
    shared.question(&token, Place::Undo)
}

async fn unsubscribe_now(State(shared): State<Arc<Shared>>, token: Token, request: Request) -> Response {
    shared.answer(token, UnsubscribeKind::Unsubscribed, request).await
}

async fn undo(State(shared): State<Arc<Shared>>, token: Token, request: Request) -> Response {
    shared.answer(token, UnsubscribeKind::Resubscribed, request).await
}

/// Under which of the two paths a page is shown. Its buttons lead to the other relatively, so that they work behind any
/// proxy.
#[derive(Clone, Copy)]
enum Place {
    Link,
    Undo,
}

/// What a page says.
#[derive(Clone, Copy)]
enum Page {
    Ask,
    Done(UnsubscribeKind),
    Failed(UnsubscribeKind),
    UnknownLink,
}

#[derive(Serialize)]
struct Button {
    action: String,
    label: &'static str,
    quiet: bool,
}

impl Shared {
    fn question(&self, token: &Token, place: Place) -> Response {
        match self.recipient(token) {
            Some((token, recipient)) => self.page(StatusCode::OK, Page::Ask, place, Some((token, &recipient.address))),
            None => self.page(StatusCode::NOT_FOUND, Page::UnknownLink, place, None),
        }
    }

    /// Whatever the body says: a POST is the person's wish, whether it comes from a form of ours, from a mail program as
    /// `List-Unsubscribe=One-Click` in one of its encodings, or from one that does it differently.
    async fn answer(&self, token: Token, wish: UnsubscribeKind, request: Request) -> Response {
        let place = match wish {
            UnsubscribeKind::Unsubscribed => Place::Link,
            UnsubscribeKind::Resubscribed => Place::Undo,
        };
        let (parts, body) = request.into_parts();
        let for_person = wants_page(&parts.headers);
        let Some((token, recipient)) = self.recipient(&token) else {
            return if for_person {
                self.page(StatusCode::NOT_FOUND, Page::UnknownLink, place, None)
            } else {
                Problem::unknown_link().into_response()
            };
        };
        let kept = match read(&parts.headers, body, BODY_LIMIT).await {
            Ok(_) => self.keep(wish, &recipient).await,
            Err(problem) => Err(problem),
        };
        let shown = Some((token, &recipient.address));
        match kept {
            Ok(()) if for_person => self.page(StatusCode::OK, Page::Done(wish), place, shown),
            Ok(()) => done(wish).into_response(),
            Err(problem) if for_person => {
                let refusal = problem.into_response();
                let mut page = self.page(refusal.status(), Page::Failed(wish), place, shown);
                page.headers_mut().extend(refusal.headers().get(RETRY_AFTER).map(|at| (RETRY_AFTER, at.clone())));
                page
            }
            Err(problem) => problem.into_response(),
        }
    }

    fn recipient<'a>(&self, token: &'a Token) -> Option<(&'a str, Recipient)> {
        let Path(token) = token.as_ref().ok()?;
        Some((token, self.unsubscribe.links.open(token)?))
    }

    /// On disk once this returns.
    async fn keep(&self, wish: UnsubscribeKind, recipient: &Recipient) -> Result<(), Problem> {
        let Unsubscribe { door, clock, addresses, .. } = &self.unsubscribe;
        self.limit.check(&recipient.address)?;
        let event = UnsubscribeEvent {
            // A change of mind is another event than the same wish before it.
            id: format!("{:032x}", rand::random::<u128>()),
            kind: wish,
            occurred_at: clock.now(),
            address: recipient.address.clone(),
            send_key: Some(recipient.send_key.clone()),
        };
        // Texts and a number: serialising them cannot fail.
        let payload = event.to_payload().unwrap_or_default();
        door.submit(vec![RawFeedback { provider: UNSUBSCRIBE.to_owned(), payload }]).await.map_err(|error| {
            if let Some(refused) = self.refusals.to_say() {
                let error = &error as &dyn Error;
                tracing::warn!(refused, error, "unsubscribes refused: the queue does not take them");
            }
            Problem::of_feedback(&error)
        })?;
        let address = addresses.show(&recipient.address);
        tracing::debug!(%address, send_key = recipient.send_key.as_str(), kind = ?wish, "a person's wish taken");
        Ok(())
    }

    fn page(&self, status: StatusCode, page: Page, place: Place, of: Option<(&str, &Address)>) -> Response {
        let unsubscribe = |token: &str| match place {
            Place::Link => token.to_owned(),
            Place::Undo => format!("../{token}"),
        };
        let undo = |token: &str| match place {
            Place::Link => format!("{token}/undo"),
            Place::Undo => "undo".to_owned(),
        };
        let button = |action: &dyn Fn(&str) -> String, label, quiet| {
            of.map(|(token, _)| Button { action: action(token), label, quiet })
        };
        let (name, title, button) = match page {
            Page::Ask => ("ask", "Unsubscribe", button(&unsubscribe, "Unsubscribe", false)),
            Page::Done(UnsubscribeKind::Unsubscribed) => {
                ("unsubscribed", "You are unsubscribed", button(&undo, "Undo", true))
            }
            Page::Done(UnsubscribeKind::Resubscribed) => {
                ("resubscribed", "You are subscribed again", button(&unsubscribe, "Unsubscribe", true))
            }
            Page::Failed(UnsubscribeKind::Unsubscribed) => {
                ("failed", "That did not work yet", button(&unsubscribe, "Try again to unsubscribe", false))
            }
            Page::Failed(UnsubscribeKind::Resubscribed) => {
                ("failed", "That did not work yet", button(&undo, "Try again to undo", false))
            }
            Page::UnknownLink => ("unknown", "This link does not work", None),
        };
        let address = of.map(|(_, address)| address.masked());
        let button = Value::from(Serde(button));
        let rendered = self
            .pages
            .get_template(TEMPLATE)
            .and_then(|template| template.render(context! { page => name, title, address, button, style => STYLE }));
        match rendered {
            Ok(html) => (status, self.headers(), Html(html)).into_response(),
            Err(error) => {
                tracing::error!(error = &error as &dyn Error, "the page to unsubscribe cannot be shown");
                (status, title).into_response()
            }
        }
    }

    /// The address of the page is a secret of the person's: it goes nowhere, and stays nowhere.
    fn headers(&self) -> [(HeaderName, HeaderValue); 5] {
        [
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            (HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("noindex, nofollow")),
            (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (CONTENT_SECURITY_POLICY, self.policy.clone()),
        ]
    }
}

/// For a mail program.
fn done(wish: UnsubscribeKind) -> impl IntoResponse {
    let text = match wish {
        UnsubscribeKind::Unsubscribed => "You are unsubscribed.\n",
        UnsubscribeKind::Resubscribed => "You are subscribed again.\n",
    };
    ([(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")], text)
}
