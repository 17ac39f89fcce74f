//! The stand-in as a process of its own.
use std::io::{self, Read, Write};
use std::net::SocketAddr;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

/// It must not be what limits a benchmark.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Stands in for `SendGrid`, Mailgun, Postmark and Resend: strict about requests, honest about what it accepted.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The API key, for every vendor
    #[arg(long, default_value = "test-key")]
    key: String,
    /// How many threads serve requests
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    threads: u8,
    /// Exit when standard input closes, so that the stand-in never outlives the test that started it
    #[arg(long)]
    exit_with_stdin: bool,
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    if options.exit_with_stdin {
        std::thread::spawn(exit_when_stdin_closes);
    }
    let mut runtime = match options.threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(options.threads.into()).enable_all().build()?;
    runtime.block_on(run(&options))
}

async fn run(options: &Options) -> io::Result<()> {
    let listener = TcpListener::bind(options.listen).await?;
    announce(listener.local_addr()?)?;
    dripline_stand_in::serve(listener, &options.key).await;
    Ok(())
}

fn announce(address: SocketAddr) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "listening on http://{address}")?;
    stdout.flush()
}

fn exit_when_stdin_closes() {
    let mut ignored = [0; 256];
    let mut stdin = io::stdin().lock();
    while matches!(stdin.read(&mut ignored), Ok(1..)) {}
    std::process::exit(0);
}
