//! Serves the vendors' calls and the control calls over HTTP/1.1.
//!
//! On hyper itself, not on a framework: a lost answer is a connection closed without one, which a framework's handler
//! cannot ask for.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::control;
use crate::fault::{Fault, FaultKind, Faults, mix};
use crate::ledger::{Entered, Entry, Ledger, Refusal};
use crate::vendor::{self, Call, Credentials, Item, Order, Refused, Reply, Vendor};

/// Above what any vendor takes: Postmark's batches may have 50 MB.
const BODY_LIMIT: usize = 52 * 1024 * 1024;

/// Serves for good. `key` is the API key of every vendor.
pub async fn serve(listener: TcpListener, key: &str) {
    let stand_in = Arc::new(StandIn::new(key));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve_connection(stand_in.clone(), stream))),
            // Out of file descriptors, most likely: some connection will end.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn serve_connection(stand_in: Arc<StandIn>, stream: TcpStream) {
    // Without it, answers are only slower.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| answer(stand_in.clone(), request));
    // A client that went away, or a connection closed on purpose: nothing to do in either case.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Makes hyper close the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed on purpose")]
struct NoAnswer;

struct StandIn {
    credentials: Credentials,
    ledger: Ledger,
    faults: Faults,
    ids: Ids,
}

async fn answer(stand_in: Arc<StandIn>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, NoAnswer> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Ok(Reply::new(StatusCode::PAYLOAD_TOO_LARGE, "text/plain", "too large\n").into_response());
        }
        Err(_) => return Err(NoAnswer),
    };
    if parts.uri.path().starts_with("/_/") {
        return Ok(control::answer(&stand_in.ledger, &stand_in.faults, &parts, &body).into_response());
    }
    let received = Received { parts: &parts, body: &body };
    if let Some(vendor) = Vendor::of_look_up(&parts) {
        return Ok(stand_in.look_up(vendor, received).into_response());
    }
    stand_in.send(received).await.map(Reply::into_response)
}

/// A request to a vendor, whole.
#[derive(Clone, Copy)]
struct Received<'r> {
    parts: &'r Parts,
    body: &'r [u8],
}

impl<'r> Received<'r> {
    fn call(self, credentials: &'r Credentials) -> Call<'r> {
        let Self { parts, body } = self;
        let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
        Call { path, query, headers: &parts.headers, body, credentials }
    }
}

impl StandIn {
    fn new(key: &str) -> Self {
        Self {
            credentials: Credentials::new(key),
            ledger: Ledger::default(),
            faults: Faults::default(),
            ids: Ids::new(),
        }
    }

    /// One send call: right or refused, then what goes wrong on purpose, then accepted.
    async fn send(&self, received: Received<'_>) -> Result<Reply, NoAnswer> {
        let Some(vendor) = Vendor::of(received.parts) else {
            self.refuse(None, received, "no vendor has this call".into());
            return Ok(vendor::no_such_call(received.parts));
        };
        let mut order = match vendor.read(&received.call(&self.credentials)) {
            Ok(order) => order,
            Err(Refused { reason, reply }) => {
                self.refuse(Some(vendor), received, reason);
                return Ok(reply);
            }
        };
        for item in order.batch.iter().flatten() {
            if let Item::Refused { reason } = item {
                self.refuse(Some(vendor), received, reason.clone());
            }
        }
        let fault = self.faults.meet(&order.letters);
        if let (Some(part), Some(_)) = (fault.as_ref().and_then(Fault::refuses_one_of_many), &order.batch) {
            self.ledger.count_fault();
            order.refuse(part, "the stand-in was told to refuse this");
            return Ok(self.accept(vendor, received, order, Duration::ZERO));
        }
        match fault {
            None => Ok(self.accept(vendor, received, order, Duration::ZERO)),
            Some(fault) => self.go_wrong(&fault, vendor, received, order).await,
        }
    }

    /// One look-up: right or refused, then what goes wrong on purpose, then what was accepted and is indexed.
    fn look_up(&self, vendor: Vendor, received: Received<'_>) -> Reply {
        let call = received.call(&self.credentials);
        let search = match vendor.search(&call) {
            Ok(search) => search,
            Err(Refused { reason, reply }) => {
                self.refuse(Some(vendor), received, reason);
                return reply;
            }
        };
        if let Some(fault) = self.faults.meet_look_up() {
            self.ledger.count_fault();
            return told_to_fail(&fault, vendor);
        }
        let (now, lag) = (unix_ms(), self.faults.lag());
        let found = self.ledger.search(vendor, &search, |email| email.at + lag(&email.to) <= now);
        vendor.found(&call, &search, &found)
    }

    async fn go_wrong(
        &self,
        fault: &Fault,
        vendor: Vendor,
        received: Received<'_>,
        order: Order<'_>,
    ) -> Result<Reply, NoAnswer> {
        self.ledger.count_fault();
        let accepted = match fault.kind {
            FaultKind::None | FaultKind::LookUpLag | FaultKind::LookUpStatus => {
                return Ok(self.accept(vendor, received, order, Duration::ZERO));
            }
            FaultKind::Slow => Some(self.accept(vendor, received, order, fault.delay())),
            FaultKind::DropAfterAccept => Some(self.accept(vendor, received, order, Duration::ZERO)),
            FaultKind::Hang if fault.delay_ms.is_none() => return std::future::pending().await,
            FaultKind::Status | FaultKind::Hang | FaultKind::DropBeforeAccept | FaultKind::Garbage => None,
        };
        tokio::time::sleep(fault.delay()).await;
        match fault.kind {
            FaultKind::None | FaultKind::LookUpLag | FaultKind::LookUpStatus | FaultKind::Slow => {
                accepted.ok_or(NoAnswer)
            }
            FaultKind::DropAfterAccept | FaultKind::DropBeforeAccept | FaultKind::Hang => Err(NoAnswer),
            FaultKind::Status => Ok(told_to_fail(fault, vendor)),
            FaultKind::Garbage => Ok(vendor::garbage().with_body(fault.body.as_deref()).with_headers(&fault.headers)),
        }
    }

    fn accept(&self, vendor: Vendor, received: Received<'_>, order: Order<'_>, answered_in: Duration) -> Reply {
        let at = unix_ms();
        let Order { letters, batch, idempotency, domain, message_id, test_only } = order;
        let to = letters.first().map(|letter| letter.to.clone()).unwrap_or_default();
        let id = || vendor.message_id(self.ids.next(), at, domain).into();
        let message_ids = match &batch {
            Some(_) => letters.iter().map(|_| id()).collect(),
            None => [message_id.unwrap_or_else(id)].into(),
        };
        let entered = self.ledger.accept(Entry {
            provider: vendor,
            letters: if test_only { Vec::new() } else { letters },
            idempotency,
            message_ids,
            at,
            answered_at: at + u64::try_from(answered_in.as_millis()).unwrap_or(u64::MAX),
        });
        match entered {
            Entered::Accepted(ids) => match batch {
                Some(items) => vendor.accepted_each(&items, &ids, at),
                None => vendor.accepted(&ids[0], &to, at, test_only),
            },
            Entered::InProgress => vendor::resend::concurrent(),
            Entered::BodyDiffers => {
                self.refuse(Some(vendor), received, "this Idempotency-Key came with another body before".into());
                vendor::resend::body_differs()
            }
        }
    }

    fn refuse(&self, provider: Option<Vendor>, Received { parts, body }: Received<'_>, reason: String) {
        let request = format!("{} {}", parts.method, parts.uri);
        let body = String::from_utf8_lossy(body);
        self.ledger.refuse(|| Refusal { provider, request, reason, body: body.into_owned() });
    }
}

fn told_to_fail(fault: &Fault, vendor: Vendor) -> Reply {
    let status = fault.status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or_default();
    let usual = vendor.failure(status, "the stand-in was told to answer this");
    usual.with_body(fault.body.as_deref()).with_headers(&fault.headers)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Ids unlike those of any other run.
struct Ids {
    run: u64,
    next: AtomicU64,
}

impl Ids {
    fn new() -> Self {
        Self { run: mix(unix_ms() ^ (u64::from(std::process::id()) << 44)), next: AtomicU64::new(1) }
    }

    fn next(&self) -> u128 {
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        (u128::from(mix(self.run ^ counter)) << 64) | u128::from(mix(self.run.wrapping_add(mix(counter))))
    }
}
