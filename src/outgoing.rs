//! `dripline outgoing`: holds back what is posted to an outgoing webhook, and lets it go on.
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use crate::cli::print;
use crate::config::Config;
use crate::control::{Control, Hold};

#[derive(Debug, Subcommand)]
pub(crate) enum OutgoingCommand {
    /// Post nothing to a webhook until it is resumed. Its place is kept.
    Pause(Hold),
    /// Post to a webhook again, from where it was: also to one that answered 410 Gone.
    Resume(Hold),
}

pub(crate) async fn run(command: OutgoingCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let (verb, which, paused) = match &command {
        OutgoingCommand::Pause(which) => ("outgoing.pause", which, true),
        OutgoingCommand::Resume(which) => ("outgoing.resume", which, false),
    };
    let answer = Control::connect(config).await?.change_once(verb, json!({"webhook": which.name}), &which.why).await?;
    print(&which.told(paused, answer["changed"] == true, "is told again what happens")?)?;
    Ok(ExitCode::SUCCESS)
}
