//! `dripline status`: how it stands with all of it.
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration};
use serde_json::{Value, json};

use crate::cli::{Output, print};
use crate::config::Config;
use crate::control::Control;
use crate::provider;

pub(crate) async fn run(output: &Output, config: &Config) -> anyhow::Result<ExitCode> {
    let answer = Control::connect(config).await?.ask("status", &json!({})).await?;
    print(&if output.json { format!("{answer:#}\n") } else { text(&answer) })?;
    Ok(ExitCode::SUCCESS)
}

fn text(status: &Value) -> String {
    let said = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let uptime = HumanDuration(Duration::from_millis(status["uptimeMs"].as_u64().unwrap_or_default()));
    let mut text = format!("dripline {}, up for {uptime}\n\nEngines\n", said(&status["version"]));
    for engine in status["engines"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let answers = if *engine == status["engine"] { "  answers" } else { "" };
        text.push_str(&format!("  {}{answers}\n", said(engine)));
    }
    text.push_str("\nProviders\n");
    for line in provider::table(&status["providers"]).lines() {
        text.push_str(&format!("  {line}\n"));
    }
    text.push_str("\nQueues\n");
    for (name, queue) in status["queues"].as_object().into_iter().flatten() {
        text.push_str(&format!("  {name:<12}  {:>9} waiting  {:>9} at work\n", queue["waiting"], queue["atWork"]));
    }
    text.push_str("\nStreams\n");
    for (name, stream) in status["streams"].as_object().into_iter().flatten() {
        let bytes = HumanBytes(stream["bytes"].as_u64().unwrap_or_default());
        text.push_str(&format!("  {name:<12}  {:>9} messages  {bytes}\n", stream["messages"]));
    }
    let paused = status["paused"].as_object().filter(|paused| !paused.is_empty());
    if let Some(paused) = paused {
        text.push_str("\nHeld back\n");
        for (what, control) in paused {
            text.push_str(&format!("  {what} by {}: {}\n", said(&control["by"]), said(&control["reason"])));
        }
    }
    text
}
