//! What every scenario needs: servers, the provider's stand-in, a folder with sequences, and engines on them.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream;
use async_nats::jetstream::consumer;
use clap::Args;
use dripline_actors::ports::{FrontDoor, Submission};
use dripline_nats::{Connections, JetStreamFrontDoor, Login, topology};
use dripline_test_support::{Dripline, NatsCluster, until};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tempfile::TempDir;

use crate::stand_in::StandIn;

/// How long emails may fail to come before a scenario gives up.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the links to unsubscribe are sealed with.
pub const UNSUBSCRIBE_KEY: &str = "bench-bench-bench-bench-bench-bench";

/// What every scenario can be told.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Whose wire format.
    #[arg(long, default_value = "resend")]
    provider: String,
    /// Further settings of the engine, `DRIPLINE_X=value`.
    #[arg(long = "set", value_name = "VARIABLE=VALUE")]
    settings: Vec<String>,
    /// How many nats-servers: with 3 they are a cluster, and everything is kept on each.
    #[arg(long, default_value = "1", value_parser = ["1", "3", "5"])]
    servers: String,
    /// Calls to the provider that carry many emails (`DRIPLINE_ESP__BATCH`).
    #[arg(long)]
    batch: bool,
}

impl Common {
    /// The same with this provider.
    pub fn of(&self, provider: &str) -> Self {
        Self { provider: provider.to_owned(), ..self.clone() }
    }
}

/// Everything but the engine.
pub struct System {
    pub servers: NatsCluster,
    pub provider: StandIn,
    pub jetstream: jetstream::Context,
    door: Arc<JetStreamFrontDoor>,
    dir: TempDir,
    variables: Vec<(String, String)>,
}

/// A sequence's name, and the delay before each of its emails.
pub type Delays<'a> = (&'a str, Vec<String>);

/// The sequence `bench`, which leads enter that name none: emails `every` apart, the first at once.
pub fn at_once(steps: usize, every: Duration) -> Delays<'static> {
    let after = |step| if step == 0 { "0s".to_owned() } else { format!("{}ms", every.as_millis()) };
    ("bench", (0..steps).map(after).collect())
}

impl System {
    /// Starts the servers and the stand-in, and applies the topology. `settings` are the scenario's own; `--set` wins
    /// over them.
    pub async fn start(common: &Common, sequences: &[Delays<'_>], settings: &[(&str, &str)]) -> Result<Self> {
        let servers = NatsCluster::start(common.servers.parse()?).await?;
        let provider = StandIn::start().await?;
        let dir = tempfile::tempdir()?;
        for (name, delays) in sequences {
            write_sequence(dir.path(), name, delays)?;
        }
        let variables = variables(common, &servers, &provider, settings)?;
        let applying = ["topology", "apply"];
        let applied =
            dripline_test_support::command(&beside_us("dripline")?, dir.path(), &applying, &variables).output().await?;
        ensure!(applied.status.success(), "topology apply: {}", String::from_utf8_lossy(&applied.stderr));
        let connections = dripline_nats::connect(&servers.url(), &Login::None, "bench").await?;
        let jetstream = Connections::jetstream(&connections.general);
        let door = Arc::new(JetStreamFrontDoor::open(&connections));
        Ok(Self { servers, provider, jetstream, door, dir, variables })
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the engine is told.
    pub fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// Starts `dripline <command>`.
    pub fn dripline(&self, command: &str) -> Result<Dripline> {
        Dripline::start(&beside_us("dripline")?, self.dir(), &[command], &self.variables)
    }

    /// Puts leads of these numbers into the queue: as fast as can be, or so many a second.
    pub async fn queue(&self, numbers: impl Iterator<Item = usize>, per_second: Option<u64>) -> Result<()> {
        let start = tokio::time::Instant::now();
        stream::iter(numbers.enumerate())
            .map(|(before, number)| {
                let door = Arc::clone(&self.door);
                async move {
                    if let Some(rate) = per_second {
                        let after = Duration::from_micros(before as u64 * 1_000_000 / rate);
                        tokio::time::sleep_until(start + after).await;
                    }
                    let payload = lead(number).into();
                    let lead =
                        Submission { source: None, payload, content_type: "application/json", id: None, trace: None };
                    door.submit(lead).await.context("a lead was not taken")
                }
            })
            .buffered(4_000)
            .try_collect::<Vec<()>>()
            .await
            .map(drop)
    }

    /// Waits until so many engines ask for leads and for fired timers: then they work.
    pub async fn engines_are_ready(&self, count: usize) -> Result<()> {
        let asks = async |stream, name| {
            self.consumer(stream, name).await.is_ok_and(|consumer: consumer::Info| consumer.num_waiting >= count)
        };
        until("the engines are ready", async || {
            asks(topology::LEADS, topology::INTAKE).await && asks(topology::TIMERS, topology::DUE).await
        })
        .await
        .with_context(|| self.end_of_log())
    }

    /// How a consumer stands.
    pub async fn consumer(&self, stream: &str, name: &str) -> Result<consumer::Info> {
        let what = || format!("consumer {stream}/{name}");
        let stream = self.jetstream.get_stream_no_info(stream).await.with_context(what)?;
        stream.consumer_info(name).await.with_context(what)
    }

    /// Waits until the stand-in has taken so many emails.
    pub async fn emails(&self, expected: usize, engine: &mut Dripline) -> Result<()> {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            let summary = self.provider.summary().await?;
            if summary.accepted >= expected {
                return Ok(());
            }
            if summary.accepted > seen {
                (seen, since) = (summary.accepted, Instant::now());
            }
            if since.elapsed() > PATIENCE || !engine.runs()? {
                let refused = summary.refused;
                bail!("stuck at {seen} of {expected} emails, {refused} refused:\n{}", self.end_of_log());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// All that the engines have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("dripline.log")).unwrap_or_default()
    }

    /// The newest lines of it, the newest first.
    pub fn end_of_log(&self) -> String {
        self.log().lines().rev().take(20).collect::<Vec<_>>().join("\n")
    }
}

/// A raw lead.
pub fn lead(number: usize) -> String {
    format!("{{\"email\":\"{}\",\"firstName\":\"Lead {number}\"}}", address(number))
}

/// Its address.
pub fn address(number: usize) -> String {
    format!("lead-{number}@example.com")
}

/// A binary of this workspace, built with us.
pub fn beside_us(name: &str) -> Result<PathBuf> {
    let file = std::env::current_exe()?.with_file_name(name);
    ensure!(file.is_file(), "{} is not built: `make bench` builds it", file.display());
    Ok(file)
}

fn variables(
    common: &Common,
    servers: &NatsCluster,
    provider: &StandIn,
    settings: &[(&str, &str)],
) -> Result<Vec<(String, String)>> {
    let name = common.provider.to_uppercase();
    let key = if common.provider == "postmark" { "SERVER_TOKEN" } else { "API_KEY" };
    let mut variables = vec![
        ("DRIPLINE_NATS__URL".to_owned(), servers.url()),
        ("DRIPLINE_NATS__REPLICAS".to_owned(), common.servers.clone()),
        ("DRIPLINE_ESP__PROVIDER".to_owned(), common.provider.clone()),
        (format!("DRIPLINE_ESP__{name}__BASE_URL"), provider.url.clone()),
        (format!("DRIPLINE_ESP__{name}__{key}"), "test-key".to_owned()),
        ("DRIPLINE_SEQUENCES__DEFAULT".to_owned(), "bench".to_owned()),
        ("DRIPLINE_UNSUBSCRIBE__BASE_URL".to_owned(), "https://mail.acme.example".to_owned()),
        ("DRIPLINE_UNSUBSCRIBE__KEYS".to_owned(), UNSUBSCRIBE_KEY.to_owned()),
        ("DRIPLINE_LOG__LEVEL".to_owned(), "warn".to_owned()),
    ];
    if common.provider == "mailgun" {
        variables.push(("DRIPLINE_ESP__MAILGUN__DOMAIN".to_owned(), "acme.example".to_owned()));
    }
    if common.batch {
        variables.push(("DRIPLINE_ESP__BATCH".to_owned(), "true".to_owned()));
    }
    variables.extend(settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())));
    for setting in &common.settings {
        let (name, value) = setting.split_once('=').context("--set takes VARIABLE=VALUE")?;
        variables.push((name.to_owned(), value.to_owned()));
    }
    Ok(variables)
}

fn write_sequence(dir: &Path, name: &str, delays: &[String]) -> Result<()> {
    let folder = dir.join("sequences").join(name);
    std::fs::create_dir_all(&folder)?;
    let mut toml = format!("name = \"{name}\"\nversion = 1\nfrom = \"Acme <hello@acme.example>\"\n");
    for (step, after) in delays.iter().enumerate() {
        toml.push_str(&format!(
            "[[steps]]\nid = \"step-{step}\"\nafter = \"{after}\"\n\
             send = {{ subject = \"Hello {{{{ firstName }}}}\", template = \"text\" }}\n"
        ));
    }
    std::fs::write(folder.join("sequence.toml"), toml)?;
    let html = "<p>Hello {{ firstName }}, this is email {{ step }}.</p>\n<p><a href=\"{{ unsubscribe_url }}\">Unsubscribe</a></p>\n";
    std::fs::write(folder.join("text.html"), html)?;
    let text = "Hello {{ firstName }}, this is email {{ step }}.\n\nUnsubscribe: {{ unsubscribe_url }}\n";
    std::fs::write(folder.join("text.txt"), text)?;
    Ok(())
}
