//! Leads by HTTP: each is on disk before its 202. First as fast as the gateway takes them, then at half of that speed
//! on a schedule, as a source that does not wait for answers sends them.
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use clap::Args;
use dripline_nats::topology;
use dripline_test_support::free_port;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use serde::Serialize;

use crate::client::{Client, percentile_ms};
use crate::measure::{cores, cpu, micros_each, peak_mb, per_second, progress, report};
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

pub async fn run(options: &Options) -> Result<()> {
    let &Options { leads, connections, .. } = options;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let settings = [("DRIPLINE_GATEWAY__LISTEN", &*listen)];
    let system = System::start(&options.common, &[at_once(1, Duration::ZERO)], &settings).await?;
    let mut gateway = system.dripline("gateway")?;
    let mut client = Client::connect(&system, &listen, connections, StatusCode::ACCEPTED).await?;

    progress(format_args!("{leads} leads at full speed"));
    let pid = gateway.pid().into_iter().collect::<Vec<_>>();
    let used = || [cpu(&pid), cpu(&system.servers.pids()), cpu(&[std::process::id()])];
    let before = used();
    let full = client.run(0..leads, None, Arc::new(hand_in)).await?;
    let after = used();
    let each = |of: usize| micros_each(after[of].saturating_sub(before[of]), leads);

    let leads_per_s = per_second(leads, full.took);
    // Speeds are whole numbers far below 2^52.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rate = options.rate.unwrap_or((leads_per_s / 2.0) as u64).max(1);
    progress(format_args!("{leads_per_s} a second; now {} leads at {rate} a second", leads / 2));
    let all = leads + leads / 2;
    let paced = client.run(leads..all, Some(rate), Arc::new(hand_in)).await?;

    let stream = system.jetstream.get_stream(topology::LEADS).await?;
    let stored = usize::try_from(stream.cached_info().state.messages)?;
    let gateway_peak_mb = peak_mb(&pid);
    // Connections that are kept alive would hold up its stop.
    drop(client);
    gateway.stop().await?;
    report(&Report {
        leads,
        connections,
        leads_per_s,
        gateway_cpu_us: each(0),
        nats_server_cpu_us: each(1),
        client_cpu_us: each(2),
        rate,
        rate_seen: per_second(leads / 2, paced.took),
        latency_p50_ms: percentile_ms(&paced.latencies, 50),
        latency_p99_ms: percentile_ms(&paced.latencies, 99),
        latency_max_ms: percentile_ms(&paced.latencies, 100),
        late_p50_ms: percentile_ms(&paced.late, 50),
        late_p99_ms: percentile_ms(&paced.late, 99),
        lost: all.saturating_sub(stored),
        gateway_peak_mb,
        nats_server_peak_mb: peak_mb(&system.servers.pids()),
        cores: cores()?,
    })?;
    ensure!(stored == all, "{all} leads were accepted, and {stored} are in {}", topology::LEADS);
    Ok(())
}

fn hand_in(number: usize) -> Result<Request<Full<Bytes>>> {
    let request = Request::post("/v1/leads").header(HOST, "localhost").header(CONTENT_TYPE, "application/json");
    Ok(request.body(Full::new(lead(number).into()))?)
}
