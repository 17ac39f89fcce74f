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
use crate::ledger::{Entered, Ledger, Refusal};
use crate::vendor::{self, Call, Order, Reply, Vendor};

/// Above what any vendor takes.
const BODY_LIMIT: usize = 32 * 1024 * 1024;

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
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Makes hyper close the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed on purpose")]
struct NoAnswer;

struct StandIn {
    credentials: vendor::Credentials,
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
    stand_in.send(&parts, &body).await.map(Reply::into_response)
}

impl StandIn {
    fn new(key: &str) -> Self {
        let credentials = vendor::Credentials::new(key);
        Self {
            credentials,
            ledger: Ledger::default(),
            faults: Faults::default(),
            ids: Ids::new(),
        }
    }

    /// One send call: right or refused, then what goes wrong on purpose, then accepted.
    async fn send(&self, parts: &Parts, body: &[u8]) -> Result<Reply, NoAnswer> {
        let Some(vendor) = Vendor::of(parts) else {
            self.refuse(None, parts, body, "no vendor has this call".into());
            return Ok(vendor::no_such_call(parts));
        };
        let call = Call {
            path: parts.uri.path(),
            headers: &parts.headers,
            body,
            credentials: &self.credentials,
        };
        let order = match vendor.read(&call) {
            Ok(order) => order,
            Err(refused) => {
                self.refuse(Some(vendor), parts, body, refused.reason);
                return Ok(refused.reply);
            }
        };
        let Some(fault) = self.faults.meet(&order.letters) else {
            return Ok(self.accept(vendor, parts, body, order, Duration::ZERO));
        };
        self.ledger.count_fault();
        self.go_wrong(&fault, vendor, parts, body, order).await
    }

    async fn go_wrong(
        &self,
        fault: &Fault,
        vendor: Vendor,
        parts: &Parts,
        body: &[u8],
        order: Order<'_>,
    ) -> Result<Reply, NoAnswer> {
        match fault.kind {
            FaultKind::None => Ok(self.accept(vendor, parts, body, order, Duration::ZERO)),
            FaultKind::Slow => {
                let reply = self.accept(vendor, parts, body, order, fault.delay());
                tokio::time::sleep(fault.delay()).await;
                Ok(reply)
            }
            FaultKind::DropAfterAccept => {
                self.accept(vendor, parts, body, order, Duration::ZERO);
                tokio::time::sleep(fault.delay()).await;
                Err(NoAnswer)
            }
            FaultKind::Hang if fault.delay_ms.is_none() => std::future::pending().await,
            FaultKind::Hang | FaultKind::DropBeforeAccept => {
                tokio::time::sleep(fault.delay()).await;
                Err(NoAnswer)
            }
            FaultKind::Status => {
                tokio::time::sleep(fault.delay()).await;
                let status = fault
                    .status
                    .and_then(|status| StatusCode::from_u16(status).ok())
                    .unwrap_or_default();
                let usual = vendor.failure(status, "the stand-in was told to refuse this");
                Ok(usual.with_body(fault.body.as_deref()).with_headers(&fault.headers))
            }
            FaultKind::Garbage => {
                tokio::time::sleep(fault.delay()).await;
                Ok(vendor::garbage()
                    .with_body(fault.body.as_deref())
                    .with_headers(&fault.headers))
            }
        }
    }

    fn accept(&self, vendor: Vendor, parts: &Parts, body: &[u8], order: Order<'_>, answered_in: Duration) -> Reply {
        let Order {
            letters,
            idempotency,
            domain,
            test_only,
        } = order;
        let at = unix_ms();
        let message_id = vendor.message_id(self.ids.next(), at, domain).into();
        let letters = if test_only { Vec::new() } else { letters };
        let to = letters.first().map(|letter| letter.to.clone()).unwrap_or_default();
        let answered_at = at + u64::try_from(answered_in.as_millis()).unwrap_or(u64::MAX);
        match self
            .ledger
            .accept(vendor, letters, idempotency, message_id, at, answered_at)
        {
            Entered::Accepted(message_id) => vendor.accepted(&message_id, &to, at, test_only),
            Entered::InProgress => vendor::resend::concurrent(),
            Entered::BodyDiffers => {
                self.refuse(
                    Some(vendor),
                    parts,
                    body,
                    "this Idempotency-Key came with another body before".into(),
                );
                vendor::resend::body_differs()
            }
        }
    }

    fn refuse(&self, provider: Option<Vendor>, parts: &Parts, body: &[u8], reason: String) {
        let request = format!("{} {}", parts.method, parts.uri);
        self.ledger.refuse(|| Refusal {
            provider,
            request,
            reason,
            body: String::from_utf8_lossy(body).into_owned(),
        });
    }
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
        Self {
            run: mix(unix_ms() ^ (u64::from(std::process::id()) << 44)),
            next: AtomicU64::new(1),
        }
    }

    fn next(&self) -> u128 {
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        (u128::from(mix(self.run ^ counter)) << 64) | u128::from(mix(self.run.wrapping_add(mix(counter))))
    }
}
