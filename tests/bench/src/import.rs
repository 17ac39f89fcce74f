//! How fast a file of leads comes into the queue: `dripline import` of a CSV file, no engine and no gateway running.
use std::fmt::Write as _;

use anyhow::{Result, ensure};
use clap::Args;
use dripline_nats::topology;
use serde::{Deserialize, Serialize};

use crate::measure::{cores, cpu, micros_each, progress, report};
use crate::system::{Common, System, at_once, beside_us};

#[derive(Debug, Args)]
pub struct Options {
    /// Rows of the file.
    #[arg(long, default_value_t = 200_000)]
    rows: usize,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Serialize)]
struct Report {
    rows: usize,
    /// Each row checked, queued, and written down as done.
    rows_per_s: u64,
    /// The same with `--dry-run`: only checked.
    dry_run_rows_per_s: u64,
    nats_server_cpu_us: f64,
    /// Queued, and not in the stream.
    lost: usize,
    cores: usize,
}

/// What the command says with `--json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Imported {
    rows: usize,
    good: usize,
    rows_per_second: u64,
}

pub async fn run(options: &Options) -> Result<()> {
    let rows = options.rows;
    let system = System::start(&options.common, &[at_once(1, std::time::Duration::ZERO)], &[]).await?;
    std::fs::write(system.dir().join("leads.csv"), csv(rows)?)?;
    progress(format_args!("{rows} rows, checked"));
    let checked = import(&system, &["--dry-run"]).await?;
    progress(format_args!("{} a second; now queued", checked.rows_per_second));
    let before = cpu(&system.servers.pids());
    let queued = import(&system, &[]).await?;
    let server_cpu = cpu(&system.servers.pids()).saturating_sub(before);

    let stream = system.jetstream.get_stream(topology::LEADS).await?;
    let lost = rows.saturating_sub(usize::try_from(stream.cached_info().state.messages)?);
    report(&Report {
        rows,
        rows_per_s: queued.rows_per_second,
        dry_run_rows_per_s: checked.rows_per_second,
        nats_server_cpu_us: micros_each(server_cpu, rows),
        lost,
        cores: cores()?,
    })?;
    ensure!(queued.rows == rows && queued.good == rows && lost == 0, "{queued:?}, {lost} lost");
    Ok(())
}

/// Rows as a shop exports them: five fields, the last two attributes.
fn csv(rows: usize) -> Result<String> {
    let mut text = String::from("email,firstName,phone,plan,city\n");
    for row in 0..rows {
        let phone = 2_000_000 + row % 7_000_000;
        writeln!(text, "lead-{row}@example.com,Lead {row},+1415{phone},pro,\"Springfield, {}\"", row % 50)?;
    }
    Ok(text)
}

async fn import(system: &System, more: &[&str]) -> Result<Imported> {
    let arguments = [&["import", "leads.csv", "--json"], more].concat();
    let binary = beside_us("dripline")?;
    let mut command = dripline_test_support::command(&binary, system.dir(), &arguments, system.variables());
    let output = command.output().await?;
    ensure!(output.status.success(), "import: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}
