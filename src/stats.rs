//! The statistics, for people (`dripline stats`) and for programs (`dripline stats --json`, a request to
//! `dripline.stats`).
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use dripline_actors::ports::{Journal as _, MOST_CHANGED, StatisticsStore, Tally};
use dripline_actors::{Chain, replay};
use dripline_domain::{
    EmailCounts, EnrolmentCounts, SequenceStatistics, SmolStr, Statistics, VersionStatistics, share,
};
use dripline_nats::{Connections, JetStreamJournal, topology};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cli::{Output, print};
use crate::config::Config;
use crate::service::{connect, counting_rules, statistics, stream, topology_options};

/// Where a program asks.
const SUBJECT: &str = "dripline.stats";
/// One process answers a request.
const QUEUE: &str = "dripline";
/// Requests at work at a time.
const IN_FLIGHT: usize = 4;

#[derive(Debug, Args)]
pub(crate) struct StatsArguments {
    /// Of this sequence alone.
    #[arg(long, value_name = "NAME")]
    sequence: Option<String>,
    /// Count the whole of JOURNAL again, and compare.
    #[arg(long, conflicts_with = "rebuild")]
    verify: bool,
    /// Count the whole of JOURNAL again, and keep that.
    #[arg(long)]
    rebuild: bool,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(arguments: &StatsArguments, config: &Config) -> anyhow::Result<ExitCode> {
    let connections = connect(config, "dripline stats").await?;
    let context = Connections::jetstream(&connections.general);
    topology::apply(&context, topology_options(config)).await?;
    let store = statistics(&connections).await?;
    let mut tally = store.load().await?;
    if arguments.verify || arguments.rebuild {
        let journal = JetStreamJournal::new(stream(&context, topology::JOURNAL).await?);
        if !journal.reaches_back().await? {
            bail!("JOURNAL no longer holds its first message: what was counted cannot be counted again");
        }
        let to = if arguments.rebuild { journal.last().await? } else { tally.position.sequence };
        let again = replay(&journal, &counting_rules(config), to).await?;
        if arguments.rebuild {
            tally = rebuild(&store, tally, again).await?;
        } else if again.position != tally.position {
            bail!("JOURNAL does not hold what was counted last: it was made anew, or has not caught up after a crash");
        } else if !again.statistics.same_counts(&tally.statistics) {
            bail!(
                "a replay gives other numbers: {}; `dripline stats --rebuild` takes them over",
                json(&again, arguments.sequence.as_deref())
            );
        }
    }
    let sequence = arguments.sequence.as_deref();
    if let Some(name) = sequence
        && !tally.statistics.sequences.contains_key(name)
    {
        bail!("nothing was counted of a sequence `{name}`");
    }
    print(&if arguments.output.json {
        format!("{:#}\n", json(&tally, sequence))
    } else {
        table(&tally.statistics, sequence)
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn rebuild(store: &impl StatisticsStore, before: Tally, again: Tally) -> anyhow::Result<Tally> {
    let names = before.statistics.sequences.into_keys().chain(again.statistics.sequences.keys().cloned());
    let changed: std::collections::BTreeSet<SmolStr> = names.collect();
    if changed.len() > MOST_CHANGED {
        bail!("{} sequences are too many to be replaced at a time: {MOST_CHANGED} are the most", changed.len());
    }
    let tally = Tally { revision: before.revision, ..again };
    store.save(&tally, &changed).await.context("the counts were not replaced: try again")?;
    Ok(tally)
}

/// Answers requests until it is aborted.
pub(crate) async fn answer_requests(connections: Connections) {
    let client = &connections.general;
    let store = match statistics(&connections).await {
        Ok(store) => store,
        Err(error) => return tracing::error!(error = format!("{error:#}"), "requests for statistics are not answered"),
    };
    let requests = match client.queue_subscribe(SUBJECT, QUEUE.to_owned()).await {
        Ok(requests) => requests,
        Err(error) => return tracing::error!(%error, "requests for statistics are not answered"),
    };
    requests
        .for_each_concurrent(IN_FLIGHT, async |request| {
            let Some(reply) = request.reply else { return };
            let most = client.server_info().max_payload;
            if let Err(error) = client.publish(reply, answer(&store, &request.payload, most).await).await {
                tracing::debug!(%error, "an answer could not be sent");
            }
        })
        .await;
}

/// A request for all of it is empty or `{}`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    sequence: Option<String>,
}

/// The answer to a request: the statistics as `dripline stats --json` prints them, or `{"error": "…"}`. At most `most`
/// bytes.
async fn answer(store: &impl StatisticsStore, request: &[u8], most: usize) -> Bytes {
    let error = |message: String| Bytes::from(json!({"error": message}).to_string());
    let request = if request.is_empty() { Ok(Request::default()) } else { serde_json::from_slice(request) };
    let Request { sequence } = match request {
        Ok(request) => request,
        Err(wrong) => return error(format!("write {{}} or {{\"sequence\": \"name\"}}: {wrong}")),
    };
    match store.load().await {
        Ok(tally) => {
            let answer = json(&tally, sequence.as_deref()).to_string();
            if answer.len() <= most {
                answer.into()
            } else {
                error(format!("{} bytes do not fit into a message; ask for one sequence", answer.len()))
            }
        }
        Err(unavailable) => error(Chain(&unavailable).to_string()),
    }
}

fn json(tally: &Tally, sequence: Option<&str>) -> Value {
    let chosen = chosen(&tally.statistics, sequence);
    let sequences: Map<String, Value> = chosen
        .map(|(name, SequenceStatistics { versions, earlier, guard: _ })| {
            let mut counts = json!({"versions": versions});
            if let Some(earlier) = earlier {
                counts["earlier"] = json!(earlier);
            }
            (name.to_string(), counts)
        })
        .collect();
    json!({
        "journalSequence": tally.position.sequence,
        "sequences": sequences,
        "unattributed": tally.statistics.unattributed,
    })
}

fn chosen<'a>(
    statistics: &'a Statistics,
    sequence: Option<&'a str>,
) -> impl Iterator<Item = (&'a SmolStr, &'a SequenceStatistics)> {
    statistics.sequences.iter().filter(move |(name, _)| sequence.is_none_or(|sequence| sequence == *name))
}

fn table(statistics: &Statistics, sequence: Option<&str>) -> String {
    let mut text = String::new();
    for (name, SequenceStatistics { versions, earlier, guard: _ }) in chosen(statistics, sequence) {
        for (version, counts) in versions {
            text.push_str(&version_table(&format!("{name} version {version}"), counts));
        }
        if let Some(earlier) = earlier {
            text.push_str(&version_table(&format!("{name}, earlier versions"), earlier));
        }
    }
    if sequence.is_none() && statistics.unattributed != EmailCounts::default() {
        text.push_str("Of which email is not known\n");
        text.push_str(&rows(&[("-", statistics.unattributed)]));
    }
    if text.is_empty() { "nothing was counted yet\n".to_owned() } else { text }
}

fn version_table(title: &str, version: &VersionStatistics) -> String {
    let EnrolmentCounts { enrolled, completed, suppressed, restarted, stopped } = version.enrolments;
    let mut text = format!(
        "{title}: {enrolled} enrolled, {completed} completed, {suppressed} suppressed, {restarted} restarted, \
         {stopped} stopped\n"
    );
    let steps = version.steps.iter().map(|(step, counts)| (if step.is_empty() { "-" } else { step }, *counts));
    let all: Vec<_> = steps.chain((version.steps.len() > 1).then(|| ("all", version.emails()))).collect();
    text.push_str(&rows(&all));
    text.push('\n');
    text
}

/// A head and a row each: counts, with their part of the emails sent where that says something.
fn rows(counts: &[(&str, EmailCounts)]) -> String {
    const HEAD: [&str; 13] = [
        "step",
        "sent",
        "delivered",
        "opened",
        "clicked",
        "bounced",
        "complained",
        "unsubscribed",
        "soft",
        "deferred",
        "dropped",
        "in doubt",
        "parked",
    ];
    let mut table = vec![HEAD.map(str::to_owned)];
    for (step, counts) in counts {
        let rate = |count: u64| match count {
            0 => "0".to_owned(),
            count => format!("{count} ({:.1} %)", share(count, counts.sent) * 100.0),
        };
        table.push([
            (*step).to_owned(),
            counts.sent.to_string(),
            rate(counts.delivered),
            rate(counts.opened),
            rate(counts.clicked),
            rate(counts.hard_bounced),
            rate(counts.complained),
            rate(counts.unsubscribed),
            counts.soft_bounced.to_string(),
            counts.deferred.to_string(),
            counts.dropped.to_string(),
            counts.in_doubt.to_string(),
            counts.parked.to_string(),
        ]);
    }
    let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for row in &table {
        text.push_str(&format!("  {:<width$}", row[0], width = widths[0]));
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            text.push_str(&format!("  {cell:>width$}"));
        }
        text.push('\n');
    }
    text
}
