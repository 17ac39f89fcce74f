//! Leads by HTTP: each is on disk before its 202. First as fast as the gateway takes them, then at half of that speed
//! on a schedule, as a source that does not wait for answers sends them.
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use dripline_nats::topology;
use dripline_test_support::{free_port, until};
use futures_util::future::try_join_all;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::measure::{cores, cpu, micros_each, peak_mb, per_second, percentile, progress, report};
use crate::system::{Common, System, at_once, lead};

#[derive(Debug, Args)]
pub struct Options {
    /// How many leads at full speed; half as many come on the schedule.
    #[arg(long, default_value_t = 100_000)]
    leads: usize,
    /// Connections, each kept alive, with one request at a time.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Leads a second on the schedule; half of full speed without it.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Serialize)]
struct Report {
    leads: usize,
    connections: u16,
    /// At full speed.
    leads_per_s: f64,
    /// Processor time a lead at full speed, user and system. The client shares the machine.
    gateway_cpu_us: f64,
    nats_server_cpu_us: f64,
    client_cpu_us: f64,
    /// On the schedule, as asked for and as it was.
    rate: u64,
    rate_seen: f64,
    /// From the time a request was due, whether or not a connection was free then, to its 202.
    latency_p50_ms: f64,
    latency_p99_ms: f64,
    latency_max_ms: f64,
    /// How much of it is the client's: so much after its time a request began.
    late_p50_ms: f64,
    late_p99_ms: f64,
    /// Answered with 202, and not in the stream.
    lost: usize,
    gateway_peak_mb: u64,
    nats_server_peak_mb: u64,
    cores: usize,
}

type Connection = SendRequest<Full<Bytes>>;

pub async fn run(options: &Options) -> Result<()> {
    let &Options { leads, connections, .. } = options;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let settings = [("DRIPLINE_GATEWAY__LISTEN", &*listen)];
    let system = System::start(&options.common, &[at_once(1, Duration::ZERO)], &settings).await?;
    let mut gateway = system.dripline("gateway")?;
    until("the gateway listens", async || TcpStream::connect(&listen).await.is_ok())
        .await
        .with_context(|| system.end_of_log())?;
    let mut open = try_join_all((0..connections).map(|_| connect(&listen))).await?;

    progress(format_args!("{leads} leads at full speed"));
    let pid = gateway.pid().into_iter().collect::<Vec<_>>();
    let used = || [cpu(&pid), cpu(&system.servers.pids()), cpu(&[std::process::id()])];
    let before = used();
    let full = hand_in(&mut open, 0..leads, None).await?;
    let after = used();
    let each = |of: usize| micros_each(after[of].saturating_sub(before[of]), leads);

    let leads_per_s = per_second(leads, full.took);
    // Speeds are whole numbers far below 2^52.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rate = options.rate.unwrap_or((leads_per_s / 2.0) as u64).max(1);
    progress(format_args!("{leads_per_s} a second; now {} leads at {rate} a second", leads / 2));
    let all = leads + leads / 2;
    let paced = hand_in(&mut open, leads..all, Some(rate)).await?;

    let stream = system.jetstream.get_stream(topology::LEADS).await?;
    let stored = usize::try_from(stream.cached_info().state.messages)?;
    let gateway_peak_mb = peak_mb(&pid);
    // Connections that are kept alive would hold up its stop.
    drop(open);
    gateway.stop().await?;
    let of = |times: &[i64], percent| millis(percentile(times, percent));
    report(&Report {
        leads,
        connections,
        leads_per_s,
        gateway_cpu_us: each(0),
        nats_server_cpu_us: each(1),
        client_cpu_us: each(2),
        rate,
        rate_seen: per_second(leads / 2, paced.took),
        latency_p50_ms: of(&paced.latencies, 50),
        latency_p99_ms: of(&paced.latencies, 99),
        latency_max_ms: of(&paced.latencies, 100),
        late_p50_ms: of(&paced.late, 50),
        late_p99_ms: of(&paced.late, 99),
        lost: all.saturating_sub(stored),
        gateway_peak_mb,
        nats_server_peak_mb: peak_mb(&system.servers.pids()),
        cores: cores()?,
    })?;
    ensure!(stored == all, "{all} leads were accepted, and {stored} are in {}", topology::LEADS);
    Ok(())
}

async fn connect(to: &str) -> Result<Connection> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (connection, io) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(io);
    Ok(connection)
}

/// What a run of requests showed; times in microseconds, in rising order.
struct Run {
    took: Duration,
    latencies: Vec<i64>,
    late: Vec<i64>,
}

/// Hands in leads of these numbers, one at a time on each connection; with a rate, none before its time. Where every
/// connection is busy a request waits for one, and its latency counts that.
async fn hand_in(open: &mut Vec<Connection>, numbers: Range<usize>, per_second: Option<u64>) -> Result<Run> {
    let (start, next) = (Instant::now(), Arc::new(AtomicUsize::new(numbers.start)));
    let tasks = open.drain(..).map(|mut connection| {
        let (next, numbers) = (Arc::clone(&next), numbers.clone());
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
                post(&mut connection, lead(number)).await?;
                times.push((due.elapsed(), late));
            }
        })
    });
    let (mut latencies, mut late) = (Vec::new(), Vec::new());
    for task in try_join_all(tasks.collect::<Vec<_>>()).await? {
        let (connection, times) = task?;
        open.push(connection);
        latencies.extend(times.iter().map(|(latency, _)| micros(*latency)));
        late.extend(times.iter().map(|(_, late)| micros(*late)));
    }
    latencies.sort_unstable();
    late.sort_unstable();
    Ok(Run { took: start.elapsed(), latencies, late })
}

async fn post(connection: &mut Connection, lead: String) -> Result<()> {
    let request = Request::post("/v1/leads")
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(lead.into()))?;
    connection.ready().await?;
    let response = connection.send_request(request).await?;
    let status = response.status();
    // Read to its end, or the connection cannot be used again.
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(status == StatusCode::ACCEPTED, "a lead was answered {status}: {}", String::from_utf8_lossy(&body));
    Ok(())
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

// Latencies are far below 2^52 µs.
#[allow(clippy::cast_precision_loss)]
fn millis(micros: i64) -> f64 {
    (micros as f64 / 10.0).round() / 100.0
}
