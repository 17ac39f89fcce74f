//! `make bench`: leads through their sequence, with nats-server (fsync before each ack), engine and provider in
//! processes of their own, then the bare protocol in the engine's place. One JSON line tells what was seen.
mod bare;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use dripline_actors::ports::{FrontDoor, Submission};
use dripline_nats::{Connections, JetStreamFrontDoor, Login};
use dripline_stand_in::{Accepted, Summary};
use dripline_test_support::{Dripline, NatsServer, cpu_time, peak_memory};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// The bare protocol, as a process of its own; started by the benchmark itself.
    #[command(hide = true)]
    Bare(bare::Options),
}

/// As in the engine, for the bare protocol's sake.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Leads × steps, from a backlog in the queue to the last email at the provider.
#[derive(Debug, clap::Args)]
struct Options {
    /// How many leads.
    #[arg(long, default_value_t = 20_000)]
    leads: usize,
    /// Emails of each.
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Between two emails of a lead, in seconds.
    #[arg(long, default_value_t = 1)]
    every: u64,
    /// Leads arriving a second while the engine runs; 0 puts all of them into the queue before it starts.
    #[arg(long, default_value_t = 0)]
    arrivals: u64,
    /// Whose wire format.
    #[arg(long, default_value = "resend")]
    provider: String,
    /// Further settings of the engine, `DRIPLINE_X=value`.
    #[arg(long = "set", value_name = "VARIABLE=VALUE")]
    settings: Vec<String>,
    /// Measures the engine alone.
    #[arg(long)]
    without_bare: bool,
    /// Measures the bare protocol alone.
    #[arg(long, conflicts_with = "without_bare")]
    only_bare: bool,
}

/// Leads at work at a time in the bare protocol.
const BARE_IN_FLIGHT: usize = 4_096;

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runner {
    Engine,
    Bare,
}

/// What the whole benchmark saw.
#[derive(Debug, Serialize)]
struct Comparison {
    #[serde(flatten)]
    report: Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    bare_sends_per_s: Option<f64>,
    /// Of the engine's speed to the bare protocol's.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    leads: usize,
    sends: usize,
    duplicates: usize,
    missing: usize,
    /// From the engine's start to the last email.
    seconds: f64,
    /// Between the first and the last email.
    sends_per_s: f64,
    /// How much later than its time an email after the first left.
    lag_p50_ms: i64,
    lag_p99_ms: i64,
    /// Processor time a send, user and system, which is steadier than the speed where others use the machine too.
    engine_cpu_us: f64,
    nats_server_cpu_us: f64,
    engine_peak_mb: u64,
    nats_server_peak_mb: u64,
    queued_per_s: f64,
    cores: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Cli { options, command } = Cli::parse();
    // Fails only when there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Some(Command::Bare(options)) = command {
        return bare::run(options).await;
    }
    let comparison = if options.only_bare {
        Comparison { report: run(&options, Runner::Bare).await?, bare_sends_per_s: None, ratio: None }
    } else if options.without_bare {
        Comparison { report: run(&options, Runner::Engine).await?, bare_sends_per_s: None, ratio: None }
    } else {
        let report = run(&options, Runner::Engine).await?;
        let bare = run(&options, Runner::Bare).await?.sends_per_s;
        let ratio = (report.sends_per_s / bare * 100.0).round() / 100.0;
        Comparison { report, bare_sends_per_s: Some(bare), ratio: Some(ratio) }
    };
    say(&serde_json::to_string(&comparison)?);
    let Report { duplicates, missing, .. } = comparison.report;
    if duplicates > 0 || missing > 0 {
        bail!("{duplicates} emails went twice, {missing} did not go");
    }
    Ok(())
}

async fn run(options: &Options, runner: Runner) -> Result<Report> {
    let server = NatsServer::start().await?;
    let provider = StandIn::start().await?;
    let dir = tempfile::tempdir()?;
    write_sequence(dir.path(), options)?;
    let variables = variables(options, &server, &provider)?;
    let binary = beside_us("dripline")?;

    let applied =
        dripline_test_support::command(&binary, dir.path(), &["topology", "apply"], &variables).output().await?;
    if !applied.status.success() {
        bail!("topology apply: {}", String::from_utf8_lossy(&applied.stderr));
    }
    let connections = dripline_nats::connect(&server.url(), &Login::None, "bench").await?;
    let door =
        Arc::new(JetStreamFrontDoor::open(connections.general.clone(), Connections::jetstream(&connections.general)));

    let start = || match runner {
        Runner::Engine => Dripline::start(&binary, dir.path(), &["engine"], &variables),
        Runner::Bare => {
            let (server, steps, every) = (server.url(), options.steps.to_string(), options.every.to_string());
            let in_flight = BARE_IN_FLIGHT.to_string();
            let arguments = ["bare", "--nats", &server, "--provider", &provider.url, "--steps", &steps];
            let arguments = [&arguments[..], &["--every", &every, "--in-flight", &in_flight]].concat();
            Dripline::start(&std::env::current_exe()?, dir.path(), &arguments, &[])
        }
    };

    let queueing = Instant::now();
    let (engine, started, queued_in) = if options.arrivals == 0 {
        submit(&door, options, None).await?;
        let queued_in = queueing.elapsed();
        let engine = start()?;
        (engine, Instant::now(), queued_in)
    } else {
        let engine = start()?;
        let started = Instant::now();
        submit(&door, options, Some(options.arrivals)).await?;
        (engine, started, queueing.elapsed())
    };

    let expected = options.leads * options.steps;
    let mut engine = engine;
    provider.wait_for(expected, &mut engine, dir.path()).await?;
    let seconds = started.elapsed().as_secs_f64();
    let summary = provider.summary().await?;
    let lags = lags(&provider.accepted().await?, options.every);
    let engine_peak = engine.pid().and_then(peak_memory).unwrap_or(0);
    let server_peak = server.pid().and_then(peak_memory).unwrap_or(0);
    let engine_cpu = engine.pid().and_then(cpu_time).unwrap_or_default();
    let server_cpu = server.pid().and_then(cpu_time).unwrap_or_default();
    engine.stop().await?;

    let span_ms = summary.last_at.zip(summary.first_at).map_or(0, |(last, first)| last - first);
    let per_second = |count: usize, seconds: f64| if seconds > 0.0 { (ratio(count, seconds)).round() } else { 0.0 };
    let cpu_per_send = |time: Duration| (time.as_secs_f64() * 1e6 / ratio(summary.accepted, 1.0)).round();
    Ok(Report {
        leads: options.leads,
        sends: summary.accepted,
        duplicates: summary.duplicates,
        missing: expected.saturating_sub(summary.distinct_send_keys),
        seconds: (seconds * 100.0).round() / 100.0,
        sends_per_s: per_second(summary.accepted, Duration::from_millis(span_ms).as_secs_f64()),
        lag_p50_ms: percentile(&lags, 50),
        lag_p99_ms: percentile(&lags, 99),
        engine_cpu_us: cpu_per_send(engine_cpu),
        nats_server_cpu_us: cpu_per_send(server_cpu),
        engine_peak_mb: engine_peak >> 20,
        nats_server_peak_mb: server_peak >> 20,
        queued_per_s: per_second(options.leads, queued_in.as_secs_f64()),
        cores: std::thread::available_parallelism()?.get(),
    })
}

// Counts here are far below 2^52.
#[allow(clippy::cast_precision_loss)]
fn ratio(count: usize, seconds: f64) -> f64 {
    count as f64 / seconds
}

fn variables(options: &Options, server: &NatsServer, provider: &StandIn) -> Result<Vec<(String, String)>> {
    let name = options.provider.to_uppercase();
    let key = if options.provider == "postmark" { "SERVER_TOKEN" } else { "API_KEY" };
    let mut variables = vec![
        ("DRIPLINE_NATS__URL".to_owned(), server.url()),
        ("DRIPLINE_ESP__PROVIDER".to_owned(), options.provider.clone()),
        (format!("DRIPLINE_ESP__{name}__BASE_URL"), provider.url.clone()),
        (format!("DRIPLINE_ESP__{name}__{key}"), "test-key".to_owned()),
        ("DRIPLINE_SEQUENCES__DEFAULT".to_owned(), "bench".to_owned()),
        ("DRIPLINE_LOG__LEVEL".to_owned(), "warn".to_owned()),
    ];
    if options.provider == "mailgun" {
        variables.push(("DRIPLINE_ESP__MAILGUN__DOMAIN".to_owned(), "acme.example".to_owned()));
    }
    for setting in &options.settings {
        let (name, value) = setting.split_once('=').context("--set takes VARIABLE=VALUE")?;
        variables.push((name.to_owned(), value.to_owned()));
    }
    Ok(variables)
}

fn write_sequence(dir: &Path, options: &Options) -> Result<()> {
    let folder = dir.join("sequences/bench");
    std::fs::create_dir_all(&folder)?;
    let mut toml = "name = \"bench\"\nversion = 1\nfrom = \"Acme <hello@acme.example>\"\n".to_owned();
    for step in 0..options.steps {
        let after = if step == 0 { String::new() } else { format!("after = \"{}s\"\n", options.every) };
        toml.push_str(&format!(
            "[[steps]]\nid = \"step-{step}\"\n{after}send = {{ subject = \"Hello {{{{ firstName }}}}\", template = \"text\" }}\n"
        ));
    }
    std::fs::write(folder.join("sequence.toml"), toml)?;
    std::fs::write(folder.join("text.html"), "<p>Hello {{ firstName }}, this is email {{ step }}.</p>\n")?;
    std::fs::write(folder.join("text.txt"), "Hello {{ firstName }}, this is email {{ step }}.\n")?;
    Ok(())
}

/// Puts the leads into the queue, all at once or so many a second.
async fn submit(door: &Arc<JetStreamFrontDoor>, options: &Options, per_second: Option<u64>) -> Result<()> {
    let start = tokio::time::Instant::now();
    stream::iter(0..options.leads)
        .map(|number| {
            let door = Arc::clone(door);
            async move {
                if let Some(rate) = per_second {
                    tokio::time::sleep_until(start + Duration::from_micros(number as u64 * 1_000_000 / rate)).await;
                }
                let payload = format!("{{\"email\":\"lead-{number}@example.com\",\"firstName\":\"Lead {number}\"}}");
                let lead =
                    Submission { source: None, payload: payload.into(), content_type: "application/json", id: None };
                door.submit(lead).await.context("a lead was not taken")
            }
        })
        .buffered(4_000)
        .try_collect::<Vec<()>>()
        .await
        .map(drop)
}

/// In milliseconds, of every email but the first of a lead, in rising order.
fn lags(accepted: &[Accepted], every: u64) -> Vec<i64> {
    let mut by_lead: std::collections::HashMap<&str, Vec<u64>> = std::collections::HashMap::new();
    for email in accepted {
        by_lead.entry(&email.lead_id).or_default().push(email.at);
    }
    let mut lags = Vec::new();
    for times in by_lead.values_mut() {
        times.sort_unstable();
        lags.extend(times.windows(2).map(|pair| i64::try_from(pair[1] - pair[0]).unwrap_or(i64::MAX)));
    }
    let every = i64::try_from(every * 1_000).unwrap_or(i64::MAX);
    for lag in &mut lags {
        *lag -= every;
    }
    lags.sort_unstable();
    lags
}

fn percentile(sorted: &[i64], percent: usize) -> i64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

/// The provider's stand-in, in a process of its own.
struct StandIn {
    url: String,
    http: reqwest::Client,
    _child: Child,
}

impl StandIn {
    async fn start() -> Result<Self> {
        let mut child = tokio::process::Command::new(beside_us("dripline-stand-in")?)
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("no output of the stand-in")?;
        let line = BufReader::new(stdout).lines().next_line().await?.context("the stand-in ended")?;
        let url = line.strip_prefix("listening on ").context("the stand-in says something else")?.to_owned();
        Ok(Self { url, http: reqwest::Client::new(), _child: child })
    }

    async fn summary(&self) -> Result<Summary> {
        Ok(self.http.get(format!("{}/_/summary", self.url)).send().await?.json().await?)
    }

    async fn accepted(&self) -> Result<Vec<Accepted>> {
        let text = self.http.get(format!("{}/_/accepted", self.url)).send().await?.text().await?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    async fn wait_for(&self, expected: usize, engine: &mut Dripline, dir: &Path) -> Result<()> {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            let summary = self.summary().await?;
            if summary.accepted >= expected {
                return Ok(());
            }
            if summary.accepted > seen {
                (seen, since) = (summary.accepted, Instant::now());
            }
            if since.elapsed() > Duration::from_mins(1) || !engine.runs()? {
                let log = std::fs::read_to_string(dir.join("dripline.log")).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(20).collect();
                bail!("stuck at {seen} of {expected} emails, {} refused:\n{}", summary.refused, tail.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A binary of this workspace, built with us.
fn beside_us(name: &str) -> Result<PathBuf> {
    let file = std::env::current_exe()?.with_file_name(name);
    if !file.is_file() {
        bail!("{} is not built: `make bench` builds it", file.display());
    }
    Ok(file)
}

// The report is what this program is for.
#[allow(clippy::print_stdout)]
fn say(text: &str) {
    println!("{text}");
}
