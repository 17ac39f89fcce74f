//! The system under torture: every part a process of its own.
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dripline_stand_in::{Accepted, Fault, Refusal, Summary};
use dripline_test_support::{Dripline, NatsCluster, free_port, signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::feedback;
use crate::plan::{PROVIDER, Sequence, Target};

/// An engine's place: a process that a supervisor would start again.
struct Kept {
    dir: PathBuf,
    command: &'static str,
    /// Whether it should run now.
    wanted: bool,
    child: Option<Dripline>,
}

/// What runs.
pub struct World {
    binary: PathBuf,
    variables: Vec<(String, String)>,
    pub(crate) servers: Mutex<NatsCluster>,
    /// For clients; one an own server.
    pub(crate) urls: Vec<String>,
    engines: Vec<Mutex<Kept>>,
    gateway: Mutex<Kept>,
    /// Where sources hand in leads.
    pub(crate) leads_url: String,
    /// Where the provider tells what became of emails.
    pub(crate) webhook_url: String,
    pub(crate) provider: StandIn,
}

/// How to start it.
pub(crate) struct Parts<'a> {
    pub binary: &'a Path,
    pub dir: &'a Path,
    pub sequences: &'a [Sequence],
    pub provider: StandIn,
    pub servers: usize,
    pub engines: usize,
    pub settings: &'a [(String, String)],
}

impl World {
    /// Everything runs, and takes leads.
    pub(crate) async fn start(parts: Parts<'_>) -> Result<Self> {
        let Parts { binary, dir, sequences, provider, servers, engines, settings } = parts;
        write_sequences(dir, sequences)?;
        let cluster = NatsCluster::start(servers).await?;
        let port = free_port()?;
        let mut variables: Vec<(String, String)> = [
            ("NATS__URL", cluster.url()),
            ("NATS__REPLICAS", servers.to_string()),
            ("GATEWAY__LISTEN", format!("127.0.0.1:{port}")),
            ("SEQUENCES__DIR", dir.join("sequences").display().to_string()),
            // No idempotency keys here: what is sent twice is accepted twice, and so is seen.
            ("ESP__PROVIDER", PROVIDER.to_owned()),
            ("ESP__POSTMARK__BASE_URL", provider.url.clone()),
            ("ESP__POSTMARK__SERVER_TOKEN", "test-key".to_owned()),
            ("UNSUBSCRIBE__BASE_URL", format!("http://127.0.0.1:{port}")),
            ("UNSUBSCRIBE__KEYS", "torture-torture-torture-torture-torture".to_owned()),
            ("WEBHOOKS__POSTMARK__USERNAME", feedback::USER.to_owned()),
            ("WEBHOOKS__POSTMARK__PASSWORD", feedback::PASSWORD.to_owned()),
            // More people say no here than any guard bears.
            ("GUARD__BOUNCE_LIMIT", "1".to_owned()),
            ("GUARD__COMPLAINT_LIMIT", "1".to_owned()),
            // Short, so that a pause of some seconds is longer than all of them.
            ("ESP__TIMEOUT", "1s".to_owned()),
            ("ENGINE__ACK_WAIT", "3s".to_owned()),
            ("ENGINE__IDLE", "3s".to_owned()),
            ("ENGINE__SWEEP_EVERY", "10s".to_owned()),
            ("RETRY__FIRST", "200ms".to_owned()),
            ("RETRY__LONGEST", "2s".to_owned()),
            // Every fault ends: nothing is ever to be given up.
            ("RETRY__MAX_ATTEMPTS", "1000".to_owned()),
        ]
        .map(|(name, value)| (format!("DRIPLINE_{name}"), value))
        .into();
        variables.retain(|(name, _)| settings.iter().all(|(set, _)| set != name));
        variables.extend(settings.iter().cloned());

        let kept = |name: String, command| -> Result<Mutex<Kept>> {
            let dir = dir.join(name);
            std::fs::create_dir_all(&dir)?;
            Ok(Mutex::new(Kept { dir, command, wanted: true, child: None }))
        };
        let world = Self {
            binary: binary.to_owned(),
            variables,
            urls: cluster.urls(),
            servers: Mutex::new(cluster),
            engines: (0..engines).map(|n| kept(format!("engine-{n}"), "engine")).collect::<Result<_>>()?,
            gateway: kept("gateway".to_owned(), "gateway")?,
            leads_url: format!("http://127.0.0.1:{port}/v1/leads"),
            webhook_url: format!("http://127.0.0.1:{port}/webhooks/{PROVIDER}"),
            provider,
        };
        let applied = dripline_test_support::command(binary, dir, &["topology", "apply"], &world.variables).output();
        let applied = applied.await?;
        if !applied.status.success() {
            bail!("topology apply: {}", String::from_utf8_lossy(&applied.stderr));
        }
        world.keep_running().await?;
        Ok(world)
    }

    /// Starts every process that should run and does not, as a supervisor does. Gives how many had ended by themselves.
    pub(crate) async fn keep_running(&self) -> Result<usize> {
        let mut ended = 0;
        for kept in self.engines.iter().chain([&self.gateway]) {
            let mut kept = kept.lock().await;
            let runs = match &mut kept.child {
                Some(child) => child.runs()?,
                None => false,
            };
            if kept.wanted && !runs {
                ended += usize::from(kept.child.is_some());
                self.start_one(&mut kept)?;
            }
        }
        Ok(ended)
    }

    fn start_one(&self, kept: &mut Kept) -> Result<()> {
        kept.child = Some(Dripline::start(&self.binary, &kept.dir, &[kept.command], &self.variables)?);
        Ok(())
    }

    /// Ends it as a crash does.
    pub(crate) async fn kill(&self, target: Target) -> Result<()> {
        let Some(kept) = self.kept(target) else {
            let Target::Server(server) = target else { return Ok(()) };
            return self.servers.lock().await.kill(server).await;
        };
        let mut kept = kept.lock().await;
        kept.wanted = false;
        if let Some(mut child) = kept.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Starts what was killed.
    pub(crate) async fn restart(&self, target: Target) -> Result<()> {
        let Some(kept) = self.kept(target) else {
            let Target::Server(server) = target else { return Ok(()) };
            return self.servers.lock().await.restart(server).await;
        };
        let mut kept = kept.lock().await;
        kept.wanted = true;
        self.start_one(&mut kept)
    }

    /// SIGSTOP, or SIGCONT. What does not run now is left alone.
    pub(crate) async fn pause(&self, target: Target, paused: bool) -> Result<()> {
        let pid = match self.kept(target) {
            Some(kept) => kept.lock().await.child.as_ref().and_then(Dripline::pid),
            None => match target {
                Target::Server(server) => self.servers.lock().await.pid(server),
                Target::Engine(_) | Target::Gateway => None,
            },
        };
        match pid {
            Some(pid) => signal(pid, if paused { "STOP" } else { "CONT" }).await,
            None => Ok(()),
        }
    }

    fn kept(&self, target: Target) -> Option<&Mutex<Kept>> {
        match target {
            Target::Engine(engine) => self.engines.get(engine),
            Target::Gateway => Some(&self.gateway),
            Target::Server(_) => None,
        }
    }

    /// Tells everything of dripline to stop. Gives what did not end as it should.
    pub(crate) async fn stop(&self) -> Result<Vec<String>> {
        let mut odd = Vec::new();
        for kept in self.engines.iter().chain([&self.gateway]) {
            let mut kept = kept.lock().await;
            kept.wanted = false;
            if let Some(mut child) = kept.child.take() {
                let name = kept.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
                match child.stop().await {
                    Ok(Some(0)) => {}
                    Ok(code) => odd.push(format!("{name} ended with {code:?} on SIGTERM")),
                    Err(error) => odd.push(format!("{name}: {error:#}")),
                }
            }
        }
        Ok(odd)
    }

    /// Copies the servers' logs beside those of the other processes.
    pub(crate) async fn keep_logs(&self, dir: &Path) -> Result<()> {
        for (number, server) in self.servers.lock().await.servers().iter().enumerate() {
            std::fs::copy(server.log(), dir.join(format!("nats-server-{number}.log")))?;
        }
        Ok(())
    }
}

fn write_sequences(dir: &Path, sequences: &[Sequence]) -> Result<()> {
    for sequence in sequences {
        let folder = dir.join("sequences").join(&sequence.name);
        std::fs::create_dir_all(&folder)?;
        let reentry = if sequence.restarts { "restart" } else { "ignore" };
        let mut toml = format!(
            "name = \"{}\"\nversion = 1\nfrom = \"Acme <hello@acme.example>\"\nreentry = \"{reentry}\"\n",
            sequence.name
        );
        for step in &sequence.steps {
            toml.push_str(&format!(
                "[[steps]]\nid = \"{}\"\nafter = \"{}ms\"\nsend = {{ subject = \"Hello {{{{ firstName }}}}\", template = \"body\" }}\n",
                step.id, step.after_ms
            ));
        }
        std::fs::write(folder.join("sequence.toml"), toml)?;
        let html = "<p>Hello {{ firstName }}, this is {{ step }}.</p>\n<p><a href=\"{{ unsubscribe_url }}\">Unsubscribe</a></p>\n";
        std::fs::write(folder.join("body.html"), html)?;
    }
    Ok(())
}

/// The provider's stand-in. It is the witness, and so is never harmed.
pub struct StandIn {
    url: String,
    http: reqwest::Client,
    _child: Option<Child>,
}

impl StandIn {
    /// As a process of its own, which ends with this value.
    pub async fn process(binary: &Path) -> Result<Self> {
        let mut child = Command::new(binary)
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} does not start", binary.display()))?;
        let stdout = child.stdout.take().context("no output of the stand-in")?;
        let line = BufReader::new(stdout).lines().next_line().await?.context("the stand-in ended")?;
        let url = line.strip_prefix("listening on ").context("the stand-in says something else")?;
        Ok(Self { _child: Some(child), ..Self::at(url)? })
    }

    /// One that is served at this URL already, under the key `test-key`.
    pub fn at(url: &str) -> Result<Self> {
        Ok(Self { url: url.to_owned(), http: http(Duration::from_secs(10))?, _child: None })
    }

    pub(crate) async fn set_faults(&self, faults: &[Fault]) -> Result<()> {
        let response = self.http.post(format!("{}/_/faults", self.url)).json(faults).send().await?;
        if !response.status().is_success() {
            bail!("the stand-in refuses a fault: {}", response.text().await?);
        }
        Ok(())
    }

    pub(crate) async fn summary(&self) -> Result<Summary> {
        Ok(self.http.get(format!("{}/_/summary", self.url)).send().await?.json().await?)
    }

    pub(crate) async fn refusals(&self) -> Result<Vec<Refusal>> {
        Ok(self.http.get(format!("{}/_/refusals", self.url)).send().await?.json().await?)
    }

    pub(crate) async fn accepted(&self) -> Result<Vec<Accepted>> {
        self.read_accepted("").await
    }

    /// Emails to this address alone.
    pub(crate) async fn accepted_by(&self, address: &str) -> Result<Vec<Accepted>> {
        // An address of ours has nothing that needs escaping.
        self.read_accepted(&format!("?to={address}")).await
    }

    async fn read_accepted(&self, query: &str) -> Result<Vec<Accepted>> {
        let text = self.http.get(format!("{}/_/accepted{query}", self.url)).send().await?.text().await?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

/// A client for this machine alone.
pub(crate) fn http(timeout: Duration) -> Result<reqwest::Client> {
    // Fails only when there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(timeout).build()?)
}
