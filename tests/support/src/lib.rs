//! What tests and benchmarks start: a nats-server of their own on a free port or a cluster of them, and dripline as a
//! process. Everything ends with the value that stands for it. And what signs SendGrid's events.
mod cluster;
mod sendgrid;

use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::process::{Child, Command};

pub use cluster::NatsCluster;
pub use sendgrid::SendgridKey;

/// How long anything may take to become true before the test fails.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A nats-server with a store of its own; killed when dropped.
pub struct NatsServer {
    child: Option<Child>,
    name: String,
    port: u16,
    /// The `cluster` block of its configuration; empty where it stands alone.
    cluster: String,
    dir: TempDir,
}

impl NatsServer {
    /// Starts one, with an fsync before each ack.
    pub async fn start() -> Result<Self> {
        let mut server = Self::new("test".to_owned(), String::new())?;
        server.run().await?;
        Ok(server)
    }

    fn new(name: String, cluster: String) -> Result<Self> {
        Ok(Self { child: None, name, port: free_port()?, cluster, dir: tempfile::tempdir()? })
    }

    /// Ends it at once, as a crash does.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Ends it in order: all that it knows is on disk.
    pub async fn stop(&mut self) -> Result<()> {
        if let (Some(pid), Some(mut child)) = (self.pid(), self.child.take()) {
            signal(pid, "TERM").await?;
            tokio::time::timeout(PATIENCE, child.wait()).await.context("nats-server does not end")??;
        }
        Ok(())
    }

    /// Starts it again, with the store it had.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill().await?;
        self.run().await
    }

    async fn run(&mut self) -> Result<()> {
        self.spawn()?;
        self.until_reached().await
    }

    fn spawn(&mut self) -> Result<()> {
        let config = self.dir.path().join("nats-server.conf");
        let store = self.dir.path().join("jetstream");
        let text = format!(
            "listen: 127.0.0.1:{}\nserver_name: {}\njetstream {{ store_dir: {store:?}, sync_interval: always }}\n{}",
            self.port, self.name, self.cluster
        );
        std::fs::write(&config, text)?;
        // Appended to: what it said before a crash is what one wants to read after it.
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let child = Command::new(tool("nats-server")?)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("nats-server does not start")?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until it takes connections.
    async fn until_reached(&self) -> Result<()> {
        until("nats-server is ready", async || {
            async_nats::connect(self.url())
                .await
                .is_ok_and(|client| client.connection_state() == async_nats::connection::State::Connected)
        })
        .await
    }

    /// Where it writes its log, of all its runs.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("nats-server.log")
    }

    /// The folder of a stream.
    pub fn stream(&self, name: &str) -> PathBuf {
        self.dir.path().join("jetstream/jetstream/$G/streams").join(name)
    }

    /// For clients.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Runs the real `nats` CLI against it; gives what it prints.
    pub async fn cli<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Result<String> {
        let mut command = Command::new(tool("nats")?);
        command.arg("-s").arg(self.url()).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        // A context of the developer's own must not send the test elsewhere.
        command.env("XDG_CONFIG_HOME", self.dir.path()).env_remove("NATS_CONTEXT");
        let output = tokio::time::timeout(PATIENCE, command.output()).await.context("nats does not answer")??;
        if !output.status.success() {
            bail!(
                "nats failed: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A dripline process; killed when dropped.
pub struct Dripline {
    child: Child,
}

impl Dripline {
    /// Starts `binary` in `dir` with these arguments and variables. Its log goes to `<dir>/dripline.log`.
    pub fn start(binary: &Path, dir: &Path, arguments: &[&str], variables: &[(String, String)]) -> Result<Self> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("dripline.log"))?;
        let child = command(binary, dir, arguments, variables)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start", binary.display()))?;
        Ok(Self { child })
    }

    /// Ends it at once, as a crash does.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Tells it to stop (SIGTERM) and waits; gives its exit code.
    pub async fn stop(&mut self) -> Result<Option<i32>> {
        self.signal("TERM").await?;
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.context("dripline does not stop")??;
        Ok(status.code())
    }

    /// Sends it a signal, by name.
    pub async fn signal(&self, name: &str) -> Result<()> {
        signal(self.child.id().context("dripline has ended")?, name).await
    }

    /// Whether it was stopped by a signal, and waits to be let on.
    pub fn stands_still(&self) -> bool {
        let stat = self.child.id().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        // The state follows the name, which is in parentheses (proc_pid_stat(5)).
        stat.is_some_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }
}

/// Sends a process a signal, by name: `STOP` pauses it, `CONT` lets it go on.
pub async fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().await?;
    if !status.success() {
        bail!("cannot send SIG{name} to {pid}");
    }
    Ok(())
}

/// A command that sees no dripline variables but these.
pub fn command(binary: &Path, dir: &Path, arguments: &[&str], variables: &[(String, String)]) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DRIPLINE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).current_dir(dir).envs(variables.iter().cloned()).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Waits for a condition.
///
/// # Errors
/// It does not become true within [`PATIENCE`].
pub async fn until(what: impl std::fmt::Display, mut condition: impl AsyncFnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !condition().await {
        if start.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The peak resident memory of a process so far, in bytes; none where the system does not tell.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// The processor time a process has used so far, user and system; none where the system does not tell.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    /// `USER_HZ`, the same on every Linux that runs on today's machines (proc(5)).
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold spaces.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND))
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A tool that `scripts/get-tools.py` puts into `.tools/bin`.
fn tool(name: &str) -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(here)
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("there is no `{name}` in .tools/bin or on the PATH: `make test` gets it"))
}
