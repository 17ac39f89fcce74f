//! `dripline dev`: everything on this machine, to look at. An own nats-server with its store in `./.dripline`, the
//! `outbox` in place of a provider, an example sequence whose delays are seconds, and a sample lead.
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as PortProbe};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use dripline_actors::ports::{Esp, Submission};
use dripline_domain::{Address, Email, LeadKey, Outcome};
use dripline_esp::{Outbox, outbox};
use tokio::process::{Child, Command};

use crate::config::{Loaded, Provider};
use crate::service::{self, Parts, Running};

/// Everything that dev mode keeps.
const DIR: &str = ".dripline";
/// The port people expect; another free one is taken when it is in use.
const USUAL_PORT: u16 = 4222;
/// The same of the figures for Prometheus.
const USUAL_METRICS_PORT: u16 = 9464;
/// The sequence that the sample lead enters.
const EXAMPLE: &str = "quickstart";
/// The example, for a folder that has no sequences: file name and text.
const EXAMPLE_FILES: [(&str, &str); 5] = [
    ("sequence.toml", include_str!("../sequences/quickstart/sequence.toml")),
    ("welcome.html", include_str!("../sequences/quickstart/welcome.html")),
    ("welcome.txt", include_str!("../sequences/quickstart/welcome.txt")),
    ("first-tips.html", include_str!("../sequences/quickstart/first-tips.html")),
    ("case-study.html", include_str!("../sequences/quickstart/case-study.html")),
];

/// Runs until Ctrl-C.
pub(crate) async fn run(mut loaded: Loaded) -> anyhow::Result<()> {
    let dir = Path::new(DIR);
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {DIR}"))?;

    let server = Server::start(dir).await?;
    let config = &mut loaded.config;
    config.nats.url = server.url();
    config.esp.provider = Provider::Outbox;
    config.esp.outbox = outbox::Config { dir: dir.join("outbox") };
    if !config.sequences.dir.is_dir() {
        config.sequences.dir = example(dir)?;
    }
    config.sequences.default.get_or_insert_with(|| EXAMPLE.to_owned());
    if PortProbe::bind(config.gateway.listen).is_err() {
        config.gateway.listen.set_port(0);
    }
    let metrics = match config.metrics.listen {
        Some(metrics) => metrics,
        None => SocketAddr::from((Ipv4Addr::LOCALHOST, free_port(USUAL_METRICS_PORT)?)),
    };
    config.metrics.listen = Some(metrics);
    let outbox = Announced { outbox: Outbox::new(&config.esp.outbox)?, dir: config.esp.outbox.dir.clone() };
    let running = Running::start(&loaded, Parts { gateway: true, engine: true }, Some(vec![Arc::new(outbox)])).await?;

    let sample = sample_address()?;
    introduce(&server, &running, &sample, metrics)?;
    let lead = serde_json::json!({"email": sample.as_str(), "firstName": "Jane", "source": "dripline dev"});
    running
        .front_door
        .submit(Submission {
            source: Some("dev".to_owned()),
            payload: lead.to_string().into(),
            content_type: "application/json",
            id: None,
            trace: None,
        })
        .await
        .context("the sample lead was not taken")?;

    running.until(service::stop_signal()).await?;
    say("\nStopped. Everything is kept in ./.dripline; `make run` or `dripline dev` goes on from there.")?;
    server.stop().await
}

fn example(dir: &Path) -> anyhow::Result<PathBuf> {
    let sequences = dir.join("sequences");
    let folder = sequences.join(EXAMPLE);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, text) in EXAMPLE_FILES {
        let file = folder.join(name);
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(sequences)
}

/// A new one each time: a lead goes through a sequence once.
fn sample_address() -> anyhow::Result<Address> {
    let time = jiff::ZonedDateTime::now().strftime("%Y%m%d-%H%M%S");
    Ok(Address::parse(&format!("jane+{time}@example.com"))?)
}

fn introduce(server: &Server, running: &Running, sample: &Address, metrics: SocketAddr) -> anyhow::Result<()> {
    let url = server.url();
    let nats = if server.port == USUAL_PORT { "nats".to_owned() } else { format!("nats -s {url}") };
    let key = LeadKey::of(sample);
    let mut text = format!(
        "dripline is running on an own nats-server at {url}, with its store in ./{DIR}.\n\
         Emails go into ./{DIR}/outbox instead of a provider.\n\n\
         The sample lead {sample} enters the sequence `{EXAMPLE}`. Look at it:\n  \
         {nats} kv get leads {key} --raw\n\n\
         Hand in your own:\n  \
         {nats} pub -J leads.new '{{\"email\": \"you@example.com\", \"firstName\": \"You\"}}'\n"
    );
    if let Some(address) = running.address {
        text.push_str(&format!(
            "  curl http://{address}/v1/leads -H 'Content-Type: application/json' -d '{{\"email\": \"me@example.com\", \"firstName\": \"Me\"}}'\n"
        ));
    }
    let dripline =
        if server.port == USUAL_PORT { "dripline".to_owned() } else { format!("DRIPLINE_NATS__URL={url} dripline") };
    text.push_str(&format!(
        "\nSee and steer it (`cargo run --` in place of `dripline`, from the source):\n  \
         {dripline} lead show {sample}\n  \
         {dripline} status\n  \
         {dripline} stats\n  \
         {dripline} journal tail --follow\n  \
         {nats} micro info dripline\n  \
         curl http://{metrics}/metrics\n"
    ));
    text.push_str("\nCtrl-C stops it.\n");
    say(&text)
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output is closed")
}

/// The outbox, and a word about each email on the terminal.
struct Announced {
    outbox: Outbox,
    dir: PathBuf,
}

#[async_trait]
impl Esp for Announced {
    fn name(&self) -> &'static str {
        self.outbox.name()
    }

    async fn send(&self, email: &Email) -> Outcome {
        let outcome = self.outbox.send(email).await;
        if let Outcome::Accepted { message_id } = &outcome {
            let time = jiff::ZonedDateTime::now().strftime("%H:%M:%S").to_string();
            let excerpt: String = email
                .text
                .lines()
                .filter(|line| !line.trim().is_empty())
                .take(3)
                .fold(String::new(), |text, line| text + "\n            " + line.trim());
            let text = format!(
                "{time}  to {}  step `{}`\n          {}{excerpt}\n          {}\n",
                email.to,
                email.step,
                email.subject,
                self.dir.join(message_id).display()
            );
            if let Err(error) = say(&text) {
                tracing::warn!(%error, "an email could not be shown");
            }
        }
        outcome
    }
}

/// A nats-server of our own.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    async fn start(dir: &Path) -> anyhow::Result<Self> {
        let binary = find_nats_server()?;
        let dir = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
        let pid_file = dir.join("nats-server.pid");
        stop_left_over(&binary, &pid_file).await;
        let port = free_port(USUAL_PORT)?;
        let config = dir.join("nats-server.conf");
        let text = format!(
            "# Written anew by each `dripline dev`.\nlisten: 127.0.0.1:{port}\nserver_name: dripline-dev\npid_file: {pid_file:?}\nlog_file: {:?}\n\
             jetstream {{\n  store_dir: {:?}\n  # On disk before it is acknowledged.\n  sync_interval: always\n}}\n",
            dir.join("nats-server.log"),
            dir.join("jetstream"),
        );
        std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let mut child = Command::new(&binary)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not Ctrl-C for both at once: the server stops after us.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        for _ in 0..200 {
            if let Some(status) = child.try_wait()? {
                bail!("nats-server ended at once ({status}); see {}", dir.join("nats-server.log").display());
            }
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Ok(Self { child, port });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("nats-server does not listen after 10 s; see {}", dir.join("nats-server.log").display())
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        // SIGINT by way of the server's own option: it closes its store in order.
        if let Some(pid) = self.child.id() {
            signal_quit(&find_nats_server()?, pid).await;
        }
        if tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await.is_err() {
            self.child.kill().await.context("nats-server does not end")?;
        }
        Ok(())
    }
}

async fn signal_quit(binary: &Path, pid: u32) {
    let signal = Command::new(binary)
        .arg(format!("--signal=quit={pid}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    if let Err(error) = signal {
        tracing::warn!(%error, pid, "nats-server could not be told to end");
    }
}

/// A `dripline dev` that was killed leaves its server behind, which holds the store.
async fn stop_left_over(binary: &Path, pid_file: &Path) {
    let Some(pid) = std::fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse::<u32>().ok()) else {
        return;
    };
    let is_ours = || {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let config = pid_file.with_extension("conf");
        String::from_utf8_lossy(&command).contains(&*config.to_string_lossy())
    };
    if !is_ours() {
        return;
    }
    signal_quit(binary, pid).await;
    for _ in 0..100 {
        if !is_ours() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn free_port(usual: u16) -> anyhow::Result<u16> {
    let probe = PortProbe::bind(("127.0.0.1", usual)).or_else(|_| PortProbe::bind(("127.0.0.1", 0)));
    Ok(probe.and_then(|probe| probe.local_addr()).context("no free port")?.port())
}

fn find_nats_server() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(PathBuf::from(".tools/bin")).chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join("nats-server")).find(|file| file.is_file()).context(
        "no nats-server was found in .tools/bin or on the PATH: `make run` gets one, \
         or install version 2.15 or newer",
    )
}
