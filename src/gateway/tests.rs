//! What a caller of the gateway sees.
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::header::{ACCEPT, ALLOW, CONTENT_ENCODING, LOCATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Request, StatusCode, request};
use dripline_actors::ports::{FrontDoorError, RawFeedback, Submission};
use dripline_domain::{Address, Timestamp};
use dripline_esp::webhooks::WebhookSettings;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;

use super::*;

mod unsubscribe;
mod webhooks;

const JANE: &str = r#"{"email":" Jane@Example.com","firstName":"Jane"}"#;

/// A queue in memory.
#[derive(Default)]
struct Queue {
    taken: Mutex<Vec<Submission>>,
    fault: Mutex<Option<fn() -> FrontDoorError>>,
    asked: AtomicUsize,
}

impl Queue {
    fn breaks(&self, fault: fn() -> FrontDoorError) {
        *self.fault.lock().unwrap() = Some(fault);
    }

    fn answer(&self) -> Result<(), FrontDoorError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.fault.lock().unwrap().map_or(Ok(()), |fault| Err(fault()))
    }

    fn taken(&self) -> Vec<Submission> {
        self.taken.lock().unwrap().clone()
    }

    /// The body of the one lead that was taken.
    fn only(&self) -> String {
        let taken = self.taken();
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].content_type, "application/json");
        String::from_utf8(taken[0].payload.to_vec()).unwrap()
    }
}

#[async_trait]
impl FrontDoor for Queue {
    async fn submit(&self, lead: Submission) -> Result<(), FrontDoorError> {
        self.answer()?;
        self.taken.lock().unwrap().push(lead);
        Ok(())
    }

    async fn ready(&self) -> Result<(), FrontDoorError> {
        self.answer()
    }
}

fn away() -> FrontDoorError {
    FrontDoorError::Unavailable("connection refused".into())
}

fn lead_ids() -> LeadIdKey {
    LeadIdKey::new(b"test".to_vec())
}

/// The other queue in memory.
#[derive(Default)]
struct Feedback {
    taken: Mutex<Vec<RawFeedback>>,
    fault: Mutex<Option<fn() -> FrontDoorError>>,
}

impl Feedback {
    fn breaks(&self, fault: Option<fn() -> FrontDoorError>) {
        *self.fault.lock().unwrap() = fault;
    }

    fn taken(&self) -> Vec<RawFeedback> {
        self.taken.lock().unwrap().clone()
    }
}

#[async_trait]
impl FeedbackDoor for Feedback {
    async fn submit(&self, events: Vec<RawFeedback>) -> Result<(), FrontDoorError> {
        self.fault.lock().unwrap().map_or(Ok(()), |fault| Err(fault()))?;
        self.taken.lock().unwrap().extend(events);
        Ok(())
    }
}

/// It is always the same time.
struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_763_985_600_000)
    }
}

fn links() -> UnsubscribeLinks {
    UnsubscribeLinks::new("https://mail.acme.example", b"0123456789abcdef0123456789abcdef", [])
}

struct Door {
    queue: Arc<Queue>,
    feedback: Arc<Feedback>,
    router: Router,
}

fn door(settings: config::Gateway) -> Door {
    door_for(settings, &WebhookSettings::default())
}

fn door_for(settings: config::Gateway, webhooks: &WebhookSettings) -> Door {
    let queue = Arc::new(Queue::default());
    let feedback = Arc::new(Feedback::default());
    let router = router(Gateway {
        door: queue.clone(),
        feedback: feedback.clone(),
        bridge: Bridge::new(webhooks).unwrap(),
        links: links(),
        clock: Arc::new(Noon),
        sanitiser: Sanitiser::default(),
        lead_ids: lead_ids(),
        settings,
        addresses: Addresses::Masked,
        checks: Vec::new(),
    });
    Door { queue, feedback, router: router.unwrap() }
}

fn open_door() -> Door {
    door(config::Gateway::default())
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Asserts a problem document, and gives its field, or nothing.
    fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header(&CONTENT_TYPE), Some("application/problem+json"));
        let document = self.json();
        assert_eq!(document["code"], code, "{document}");
        assert_eq!(document["status"], status);
        assert_eq!(document["title"], self.status.canonical_reason().unwrap());
        assert_eq!(document["type"], "about:blank");
        assert!(!document["detail"].as_str().unwrap().is_empty());
        document["field"].as_str().unwrap_or_default().to_owned()
    }
}

impl Door {
    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    async fn post(&self, path: &str, media: &str, body: impl Into<Body>) -> Answer {
        self.send(post_to(path).header(CONTENT_TYPE, media).body(body.into()).unwrap()).await
    }

    async fn json(&self, body: impl Into<Body>) -> Answer {
        self.post("/v1/leads", "application/json", body).await
    }

    async fn form(&self, body: &'static str) -> Answer {
        self.post("/v1/leads", "application/x-www-form-urlencoded", body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }
}

fn post_to(path: &str) -> request::Builder {
    Request::post(path)
}

fn json_post() -> request::Builder {
    post_to("/v1/leads").header(CONTENT_TYPE, "application/json")
}

#[tokio::test]
async fn a_lead_is_accepted_with_its_id_and_queued_as_it_was_sent() {
    let door = open_door();
    let answer = door.json(JANE).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.header(&CONTENT_TYPE), Some("application/json"));
    let id = lead_ids().lead_id(&Address::parse("jane@example.com").unwrap());
    assert_eq!(answer.json(), serde_json::json!({ "leadId": id.to_string(), "status": "accepted" }));
    assert_eq!(door.queue.only(), JANE);
    assert_eq!(door.queue.taken()[0].source, None);
}

#[tokio::test]
async fn a_lead_from_a_source_is_queued_under_that_source() {
    let door = open_door();
    let answer = door.post("/v1/leads/web-form_2", "application/json; charset=utf-8", JANE).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(door.queue.taken()[0].source.as_deref(), Some("web-form_2"));
    let long = format!("/v1/leads/{}", "a".repeat(65));
    for path in ["/v1/leads/Web", "/v1/leads/a.b", "/v1/leads/%3E", "/v1/leads/%FF", "/v1/leads/%2A", &long] {
        let field = door.post(path, "application/json", JANE).await.problem(400, "invalid_source");
        assert_eq!(field, "source");
    }
    assert_eq!(door.queue.taken().len(), 1);
}

#[tokio::test]
async fn a_form_is_queued_as_json() {
    for (form, json) in [
        ("email=jane%40example.com&firstName=Jane+Ann", r#"{"email":"jane@example.com","firstName":"Jane Ann"}"#),
        ("email=zo%C3%AB%40example.com", r#"{"email":"zoë@example.com"}"#),
        ("email=a%40example.com&phone=&lastName=+", r#"{"email":"a@example.com"}"#),
        ("email=a%40example.com&tag=x&tag=y&tag=z", r#"{"email":"a@example.com","tag":["x","y","z"]}"#),
    ] {
        let door = open_door();
        let answer = door.form(form).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        assert_eq!(door.queue.only(), json);
    }
}

#[tokio::test]
async fn a_form_with_two_emails_or_with_broken_text_is_refused() {
    let door = open_door();
    assert_eq!(door.form("email=a%40example.com&email=b%40example.com").await.problem(400, "wrong_type"), "email");
    door.form("email=a%40example.com&name=%E9").await.problem(400, "not_a_form");
    assert_eq!(door.form("").await.problem(400, "missing_email"), "email");
    assert!(door.queue.taken().is_empty());
}

#[tokio::test]
async fn a_browser_that_sent_a_form_is_shown_the_thank_you_page() {
    let url = "https://acme.example/thanks";
    let door = door(config::Gateway { form_redirect: Some(url.into()), ..config::Gateway::default() });
    let form = |media| {
        let request = post_to("/v1/leads").header(CONTENT_TYPE, media).header(ACCEPT, "text/html,*/*;q=0.8");
        let body = if media == "application/json" { JANE } else { "email=jane%40example.com" };
        request.body(Body::from(body)).unwrap()
    };
    let answer = door.send(form("application/x-www-form-urlencoded")).await;
    assert_eq!((answer.status, answer.header(&LOCATION)), (StatusCode::SEE_OTHER, Some(url)));
    assert_eq!(door.send(form("application/json")).await.status, StatusCode::ACCEPTED);
    assert_eq!(door.form("email=jane%40example.com").await.status, StatusCode::ACCEPTED);
    assert_eq!(door.queue.taken().len(), 3);
}

#[tokio::test]
async fn what_is_no_lead_is_refused_with_the_reason() {
    let door = open_door();
    for (body, code, field) in [
        ("", "not_json", ""),
        ("{", "not_json", ""),
        ("\u{0}\u{1}", "not_json", ""),
        ("[1]", "not_an_object", ""),
        ("{}", "missing_email", "email"),
        (r#"{"email":"jane"}"#, "invalid_email", "email"),
        (r#"{"email":7}"#, "wrong_type", "email"),
        (r#"{"email":"a@example.com","sequence":"a b"}"#, "invalid_sequence", "sequence"),
        (r#"{"email":"a@example.com","firstName":"x\r\nBcc: y@example.com"}"#, "control_characters", "firstName"),
    ] {
        assert_eq!(door.json(body).await.problem(400, code), field, "{body}");
    }
    let deep = format!(r#"{{"email":"a@example.com","a":{}{}}}"#, "[".repeat(500), "]".repeat(500));
    assert_eq!(door.json(deep).await.status, StatusCode::BAD_REQUEST);
    assert!(door.queue.taken().is_empty());
}

#[tokio::test]
async fn an_error_never_repeats_more_than_80_characters_of_what_was_sent() {
    let door = open_door();
    let long = "x".repeat(5_000);
    for body in [
        format!(r#"{{"email":"{long}@example.com"}}"#),
        format!(r#"{{"email":"{long}"}}"#),
        format!(r#"{{"email":"a@example.com","{long}":1}}"#),
        format!(r#"{{"email":"a@example.com","firstName":"{long}"}}"#),
        format!(r#"{{"email":"a@example.com","note":{{"{long}":1}}}}"#),
        long.clone(),
    ] {
        let answer = door.json(body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
        assert!(!answer.text.contains(&"x".repeat(81)), "{}", answer.text);
    }
}

#[tokio::test]
async fn other_media_are_refused_and_the_right_ones_are_named() {
    let door = open_door();
    for media in
        ["text/plain", "multipart/form-data; boundary=x", "application/jsonx", "json", "é+json", "application/msgpack"]
    {
        let answer = door.post("/v1/leads", media, JANE).await;
        assert_eq!(answer.problem(415, "unsupported_media_type"), "Content-Type");
        assert!(answer.text.contains("application/json or application/x-www-form-urlencoded"));
    }
    let nothing = door.send(post_to("/v1/leads").body(Body::from(JANE)).unwrap()).await;
    nothing.problem(415, "unsupported_media_type");
    let zipped = json_post().header(CONTENT_ENCODING, "gzip").body(Body::from(JANE)).unwrap();
    door.send(zipped).await.problem(415, "unsupported_encoding");
    assert_eq!(door.post("/v1/leads", "application/vnd.acme.lead+JSON", JANE).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn an_idempotency_key_becomes_the_id_of_the_submission() {
    let door = open_door();
    let keyed = |key: &str| json_post().header(IDEMPOTENCY_KEY, key).body(Body::from(JANE)).unwrap();
    assert_eq!(door.send(keyed("order-17/a")).await.status, StatusCode::ACCEPTED);
    let id = door.queue.taken()[0].id.clone().unwrap();
    assert!(id.starts_with("ld_") && id.ends_with(":order-17/a"), "the lead's id and the key: {id}");
    for key in ["", "a b", &"k".repeat(129)] {
        let field = door.send(keyed(key)).await.problem(400, "invalid_idempotency_key");
        assert_eq!(field, "Idempotency-Key");
    }
    assert_eq!(door.send(keyed(&"k".repeat(128))).await.status, StatusCode::ACCEPTED);
    door.json(JANE).await;
    assert_eq!(door.queue.taken()[2].id, None);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_it_says_so_or_not() {
    let door = door(config::Gateway { body_limit: 100, ..config::Gateway::default() });
    let body = |length: usize| format!(r#"{{"email":"a@example.com"{}}}"#, " ".repeat(length - 25));
    assert_eq!(door.json(body(100)).await.status, StatusCode::ACCEPTED);
    let answer = door.json(body(101)).await;
    answer.problem(413, "body_too_large");
    assert!(answer.text.contains("100 bytes"));

    let announced = json_post().header("content-length", "10000000").body(Body::from("{")).unwrap();
    door.send(announced).await.problem(413, "body_too_large");

    let chunked = |text: String| {
        let parts: Vec<_> = text.as_bytes().chunks(7).map(|part| Ok::<_, io::Error>(part.to_vec())).collect();
        Body::from_stream(futures_util::stream::iter(parts))
    };
    assert_eq!(door.json(chunked(body(100))).await.status, StatusCode::ACCEPTED);
    door.json(chunked(body(101))).await.problem(413, "body_too_large");
    assert_eq!(door.queue.taken()[1].payload, body(100));
    assert_eq!(door.queue.taken().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_not_waited_for() {
    let door = open_door();
    door.json(Body::from_stream(futures_util::stream::pending::<io::Result<Vec<u8>>>()))
        .await
        .problem(408, "body_too_slow");
    let broken = futures_util::stream::iter([Ok("{"), Err(io::Error::other("reset"))]);
    door.json(Body::from_stream(broken)).await.problem(400, "broken_body");
}

#[tokio::test]
async fn a_wrong_method_or_path_is_told_what_is_possible() {
    let door = open_door();
    for path in ["/v1/leads", "/v1/leads/web"] {
        let answer = door.get(path).await;
        answer.problem(405, "method_not_allowed");
        assert_eq!(answer.header(&ALLOW), Some("POST"), "{path}");
    }
    door.get("/v2/leads").await.problem(404, "not_found");
    door.post("/v1/leads/", "application/json", JANE).await.problem(404, "not_found");
    door.post("/healthz", "application/json", JANE).await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn a_queue_that_takes_nothing_is_a_503_that_says_to_send_it_again() {
    let door = open_door();
    for (fault, code) in
        [(away as fn() -> FrontDoorError, "queue_unavailable"), (|| FrontDoorError::Full, "queue_full")]
    {
        door.queue.breaks(fault);
        let answer = door.json(JANE).await;
        answer.problem(503, code);
        assert_eq!(answer.header(&RETRY_AFTER), Some("5"));
        assert!(answer.text.contains("send it again later"), "{}", answer.text);
        assert!(!answer.text.contains("connection refused"), "an inner cause went out: {}", answer.text);
    }
}

#[tokio::test]
async fn with_api_keys_only_who_has_one_gets_in() {
    let keys = vec!["first-key".into(), "second-key".into()];
    let door = door(config::Gateway { api_keys: keys, ..config::Gateway::default() });
    let with = |name: &str, value: &str| json_post().header(name, value).body(Body::from(JANE)).unwrap();
    for (name, value) in
        [("authorization", "Bearer first-key"), ("authorization", "bearer second-key"), ("x-api-key", "second-key")]
    {
        assert_eq!(door.send(with(name, value)).await.status, StatusCode::ACCEPTED, "{name}: {value}");
    }
    for (name, value) in [
        ("authorization", "first-key"),
        ("authorization", "Basic first-key"),
        ("authorization", "Bearer first-keY"),
        ("authorization", "Bearer "),
        ("x-api-key", ""),
        ("x-api-key", "first"),
        ("accept", "first-key"),
    ] {
        let answer = door.send(with(name, value)).await;
        answer.problem(401, "unauthorized");
        assert_eq!(answer.header(&WWW_AUTHENTICATE), Some("Bearer"));
    }
    assert_eq!(door.queue.taken().len(), 3);
    assert_eq!(door.get("/healthz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_page_of_a_listed_origin_may_post_and_another_may_not() {
    let origin = "https://acme.example";
    let door = door(config::Gateway {
        cors_origins: vec![origin.into()],
        api_keys: vec!["key".into()],
        ..config::Gateway::default()
    });
    let preflight = |origin: &str| {
        Request::options("/v1/leads")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type,x-api-key")
            .body(Body::empty())
            .unwrap()
    };
    let allowed = HeaderName::from_static("access-control-allow-origin");
    let answer = door.send(preflight(origin)).await;
    assert_eq!((answer.status, answer.header(&allowed)), (StatusCode::OK, Some(origin)));
    let headers = answer.header(&HeaderName::from_static("access-control-allow-headers")).unwrap();
    assert!(headers.contains("x-api-key") && headers.contains("idempotency-key"), "{headers}");
    assert_eq!(door.send(preflight("https://evil.example")).await.header(&allowed), None);

    let refused = json_post().header("origin", origin).body(Body::from(JANE)).unwrap();
    let answer = door.send(refused).await;
    answer.problem(401, "unauthorized");
    assert_eq!(answer.header(&allowed), Some(origin), "a script could not read why");
}

#[tokio::test]
async fn without_cors_origins_there_are_no_cors_headers() {
    let request = json_post().header("origin", "https://acme.example").body(Body::from(JANE)).unwrap();
    let answer = open_door().send(request).await;
    assert_eq!(answer.header(&HeaderName::from_static("access-control-allow-origin")), None);
}

/// A door that takes two leads a second from each client.
fn narrow_door(trust_forwarded_for: bool) -> Door {
    door(config::Gateway { rate_per_ip: 2.try_into().ok(), trust_forwarded_for, ..config::Gateway::default() })
}

fn from(peer: &str, forwarded: Option<&str>) -> Request<Body> {
    let mut request = json_post().extension(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 40_000)));
    if let Some(forwarded) = forwarded {
        request = request.header(FORWARDED_FOR, forwarded);
    }
    request.body(Body::from(JANE)).unwrap()
}

#[tokio::test]
async fn who_sends_too_fast_is_told_when_to_come_back_and_nobody_else_is() {
    let door = narrow_door(false);
    for _ in 0..2 {
        assert_eq!(door.send(from("192.0.2.1", None)).await.status, StatusCode::ACCEPTED);
    }
    let answer = door.send(from("192.0.2.1", Some("198.51.100.7"))).await;
    answer.problem(429, "too_many_requests");
    assert_eq!(answer.header(&RETRY_AFTER), Some("1"));
    assert_eq!(door.send(from("::ffff:192.0.2.1", None)).await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(door.send(from("192.0.2.2", None)).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn one_ipv6_household_is_one_client() {
    let door = narrow_door(false);
    for peer in ["2001:db8::1", "2001:db8::2"] {
        assert_eq!(door.send(from(peer, None)).await.status, StatusCode::ACCEPTED);
    }
    assert_eq!(door.send(from("2001:db8::3", None)).await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(door.send(from("2001:db8:0:1::1", None)).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_client_is_whom_the_proxy_saw() {
    let door = narrow_door(true);
    for spoofed in ["203.0.113.1, 192.0.2.1", "203.0.113.2,192.0.2.1:443"] {
        assert_eq!(door.send(from("10.0.0.1", Some(spoofed))).await.status, StatusCode::ACCEPTED);
    }
    let third = door.send(from("10.0.0.1", Some("203.0.113.3, 192.0.2.1"))).await;
    assert_eq!(third.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(door.send(from("10.0.0.1", Some("192.0.2.2"))).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_live_process_is_healthy_and_ready_only_while_its_queue_is() {
    let door = open_door();
    assert_eq!(door.get("/healthz").await.json(), serde_json::json!({ "status": "ok" }));
    assert_eq!(door.get("/readyz").await.json(), serde_json::json!({ "status": "ready" }));
    door.queue.breaks(away);
    let answer = door.get("/readyz").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let reasons = serde_json::json!([{ "name": "queue", "reason": "the queue is unavailable" }]);
    assert_eq!(answer.json()["notReady"], reasons);
    assert_eq!(door.get("/healthz").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_is_not_ready() {
    struct Hangs;

    #[async_trait]
    impl ReadyCheck for Hangs {
        fn name(&self) -> &'static str {
            "engine"
        }

        async fn check(&self) -> Result<(), String> {
            pending().await
        }
    }

    let router = health::router(vec![Arc::new(Hangs)]);
    let response = router.oneshot(Request::get("/readyz").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

/// A gateway on a real socket, and what stops it.
struct Server {
    queue: Arc<Queue>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    stopped: tokio::task::JoinHandle<io::Result<()>>,
}

async fn server(settings: config::Gateway) -> Server {
    let Door { queue, router, .. } = door(settings);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopping) = oneshot::channel::<()>();
    let stopped = tokio::spawn(serve(listener, router, async {
        let _ = stopping.await;
    }));
    Server { queue, address, stop, stopped }
}

/// One response of a connection that stays open.
async fn response(connection: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text.into_owned();
            }
        }
        let read = connection.read_buf(&mut bytes).await.unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&bytes));
    }
}

fn head(length: usize) -> String {
    format!("POST /v1/leads HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n")
}

#[tokio::test]
async fn ten_megabytes_are_refused_and_the_connection_goes_on_taking_leads() {
    let server = server(config::Gateway::default()).await;
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    let small = format!("{}{JANE}", head(JANE.len()));

    connection.write_all(small.as_bytes()).await.unwrap();
    assert!(response(&mut connection).await.starts_with("HTTP/1.1 202 "));

    connection.write_all(head(10_000_000).as_bytes()).await.unwrap();
    connection.write_all(&vec![b'x'; 10_000_000]).await.unwrap();
    let refused = response(&mut connection).await;
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");

    connection.write_all(small.as_bytes()).await.unwrap();
    assert!(response(&mut connection).await.starts_with("HTTP/1.1 202 "));
    assert_eq!(server.queue.taken().len(), 2);

    server.stop.send(()).unwrap();
    server.stopped.await.unwrap().unwrap();
    assert_eq!(connection.read(&mut [0; 1]).await.unwrap(), 0, "an idle connection outlived the server");
}

#[tokio::test]
async fn a_client_that_asks_first_is_refused_before_it_sends() {
    let server = server(config::Gateway::default()).await;
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    let asks = head(10_000_000).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    connection.write_all(asks.as_bytes()).await.unwrap();
    let refused = response(&mut connection).await;
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
}

#[tokio::test]
async fn a_request_under_way_at_the_stop_is_still_answered() {
    let server = server(config::Gateway::default()).await;
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    let asks = head(JANE.len()).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    connection.write_all(asks.as_bytes()).await.unwrap();
    assert!(response(&mut connection).await.starts_with("HTTP/1.1 100 "));
    server.stop.send(()).unwrap();
    connection.write_all(JANE.as_bytes()).await.unwrap();
    assert!(response(&mut connection).await.starts_with("HTTP/1.1 202 "));
    server.stopped.await.unwrap().unwrap();
}
