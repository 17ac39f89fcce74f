//! `make bench`: Dripline as a whole, with nats-server (fsync before each ack), engine and provider in processes of
//! their own. Each scenario prints one JSON line with what was seen; what goes on meanwhile is said on stderr.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod asleep;
mod bare;
mod client;
mod drip;
mod enrol;
mod http;
mod import;
mod lag;
mod measure;
mod sleepers;
mod stand_in;
mod system;
mod takeover;
mod unsubscribe;
mod webhooks;

use anyhow::Result;
use clap::Parser;

/// Measures Dripline. Without a command: leads × steps, from a backlog in the queue to the last email at the provider,
/// then the bare protocol in the engine's place.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    drip: drip::Options,
    #[command(subcommand)]
    scenario: Option<Scenario>,
}

#[derive(Debug, clap::Subcommand)]
enum Scenario {
    /// How fast a backlog of leads is taken in: from the engine's start until each has its first state on disk.
    Enrol(enrol::Options),
    /// How fast the gateway takes leads by HTTP, each on disk before its 202; then how long an answer takes at half of
    /// that speed.
    Http(http::Options),
    /// How late emails leave under a steady flow: so many are due every second.
    Lag(lag::Options),
    /// What sleeping leads cost: start, memory, and the processor time of a send, beside few of them and beside many.
    Asleep(asleep::Options),
    /// How long the work of an engine lies idle that was killed beside another: until everything that was under way at
    /// the kill is settled.
    Takeover(takeover::Options),
    /// How many events of SendGrid's the gateway takes, signed and each on disk before its 200, and how far behind the
    /// leads' documents are.
    Webhooks(webhooks::Options),
    /// How long a wish to get no more email takes to reach a lead that waits for its email, among many that are due.
    Unsubscribe(unsubscribe::Options),
    /// How fast `dripline import` puts a CSV file into the queue, no engine running.
    Import(import::Options),
    /// The bare protocol, as a process of its own; started by the benchmark itself.
    #[command(hide = true)]
    Bare(bare::Options),
}

/// As in the engine, for the bare protocol's sake.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<()> {
    let Cli { drip, scenario } = Cli::parse();
    // Fails only when there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match scenario {
        None => drip::run(&drip).await,
        Some(Scenario::Enrol(options)) => enrol::run(&options).await,
        Some(Scenario::Http(options)) => http::run(&options).await,
        Some(Scenario::Lag(options)) => lag::run(&options).await,
        Some(Scenario::Asleep(options)) => asleep::run(&options).await,
        Some(Scenario::Takeover(options)) => takeover::run(&options).await,
        Some(Scenario::Webhooks(options)) => webhooks::run(&options).await,
        Some(Scenario::Unsubscribe(options)) => unsubscribe::run(&options).await,
        Some(Scenario::Import(options)) => import::run(&options).await,
        Some(Scenario::Bare(options)) => bare::run(options).await,
    }
}
