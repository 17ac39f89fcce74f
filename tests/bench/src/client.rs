//! What the scenarios that call the gateway have in common: connections that are kept alive, requests on a schedule, and
//! how long the answers took.
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dripline_test_support::until;
use futures_util::future::try_join_all;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::measure::{now_millis, percentile};
use crate::system::System;

/// One request at a time.
type Connection = SendRequest<Full<Bytes>>;

/// The request of this number.
pub type Make = dyn Fn(usize) -> Result<Request<Full<Bytes>>> + Send + Sync;

/// Connections to one gateway.
pub struct Client {
    open: Vec<Connection>,
    expected: StatusCode,
}

/// What a run of requests showed; times in microseconds, in rising order.
pub struct Run {
    pub took: Duration,
    pub latencies: Vec<i64>,
    /// How much of them is the client's: so much after its time a request began.
    pub late: Vec<i64>,
    /// When each was answered, in milliseconds since 1970, by its number.
    pub answered: Vec<(usize, u64)>,
}

impl Client {
    /// Waits until the gateway listens, and opens so many connections to it. Every answer must have this status.
    pub async fn connect(system: &System, listen: &str, connections: u16, expected: StatusCode) -> Result<Self> {
        until("the gateway listens", async || TcpStream::connect(listen).await.is_ok())
            .await
            .with_context(|| system.end_of_log())?;
        Ok(Self { open: try_join_all((0..connections).map(|_| connect(listen))).await?, expected })
    }

    /// Makes the requests of these numbers, one at a time on each connection; with a rate, none before its time. Where
    /// every connection is busy a request waits for one, and its latency counts that.
    pub async fn run(&mut self, numbers: Range<usize>, per_second: Option<u64>, make: Arc<Make>) -> Result<Run> {
        let (start, next) = (Instant::now(), Arc::new(AtomicUsize::new(numbers.start)));
        let expected = self.expected;
        let tasks = self.open.drain(..).map(|mut connection| {
            let (next, numbers, make) = (Arc::clone(&next), numbers.clone(), Arc::clone(&make));
            tokio::spawn(async move {
                let mut times = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return Ok::<_, anyhow::Error>((connection, times));
                    }
                    let due = match per_second {
                        Some(rate) => {
                            let due = start + Duration::from_micros((number - numbers.start) as u64 * 1_000_000 / rate);
                            sleep_until(due).await;
                            due
                        }
                        None => Instant::now(),
                    };
                    let late = due.elapsed();
                    call(&mut connection, make(number)?, expected).await?;
                    times.push((number, now_millis(), due.elapsed(), late));
                }
            })
        });
        let mut run = Run { took: Duration::ZERO, latencies: Vec::new(), late: Vec::new(), answered: Vec::new() };
        for task in try_join_all(tasks.collect::<Vec<_>>()).await? {
            let (connection, times) = task?;
            self.open.push(connection);
            for (number, answered, latency, late) in times {
                run.latencies.push(micros(latency));
                run.late.push(micros(late));
                run.answered.push((number, answered));
            }
        }
        run.took = start.elapsed();
        run.latencies.sort_unstable();
        run.late.sort_unstable();
        Ok(run)
    }
}

async fn connect(to: &str) -> Result<Connection> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (connection, io) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(io);
    Ok(connection)
}

async fn call(connection: &mut Connection, request: Request<Full<Bytes>>, expected: StatusCode) -> Result<()> {
    connection.ready().await?;
    let response = connection.send_request(request).await?;
    let status = response.status();
    // Read to its end, or the connection cannot be used again.
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(status == expected, "a request was answered {status}: {}", String::from_utf8_lossy(&body));
    Ok(())
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// In milliseconds, of times in microseconds.
// They are far below 2^52 µs.
#[allow(clippy::cast_precision_loss)]
pub fn percentile_ms(micros: &[i64], percent: usize) -> f64 {
    (percentile(micros, percent) as f64 / 10.0).round() / 100.0
}
