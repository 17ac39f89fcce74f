//! `dripline provider`: which providers take calls, and which are held back.
use std::process::ExitCode;

use clap::Subcommand;
use dripline_domain::Timestamp;
use serde_json::{Value, json};

use crate::cli::{Output, print, readable};
use crate::config::Config;
use crate::control::{Control, Hold};

#[derive(Debug, Subcommand)]
pub(crate) enum ProviderCommand {
    /// Show each provider, as the engine that answers has it.
    Status(Output),
    /// Make no call to a provider until it is resumed. A fallback takes the emails, where there is one; else they wait.
    Pause(Hold),
    /// Call a provider again.
    Resume(Hold),
}

pub(crate) async fn run(command: ProviderCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let control = Control::connect(config).await?;
    let text = match command {
        ProviderCommand::Status(output) => {
            let answer = control.ask("provider.status", &json!({})).await?;
            if output.json { format!("{answer:#}\n") } else { table(&answer["providers"]) }
        }
        ProviderCommand::Pause(which) => hold(&control, &which, true).await?,
        ProviderCommand::Resume(which) => hold(&control, &which, false).await?,
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

async fn hold(control: &Control, which: &Hold, paused: bool) -> anyhow::Result<String> {
    let verb = if paused { "provider.pause" } else { "provider.resume" };
    let answer = control.change_once(verb, json!({"provider": which.name}), &which.why).await?;
    which.told(paused, answer["changed"] == true, "is called again")
}

/// A line a provider.
pub(crate) fn table(providers: &Value) -> String {
    let mut text = String::new();
    for provider in providers.as_array().map(Vec::as_slice).unwrap_or_default() {
        let (name, calls) = (provider["name"].as_str().unwrap_or_default(), &provider["calls"]);
        let time = |value: &Value| value.as_i64().map_or_else(String::new, |at| readable(Timestamp::from_millis(at)));
        let paused = &provider["paused"];
        let state = if !paused.is_null() {
            let said = |field: &str| paused[field].as_str().unwrap_or_default();
            format!("paused by {}, {}: {}", said("by"), time(&paused["timestamp"]), said("reason"))
        } else if provider["stoppedUntil"].is_null() {
            "takes calls".to_owned()
        } else {
            format!("fails; tried again at {}", time(&provider["stoppedUntil"]))
        };
        text.push_str(&format!("{name:<12}  {calls:>5} calls under way  {state}\n"));
    }
    text
}
