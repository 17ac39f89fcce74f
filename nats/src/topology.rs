//! Every stream, bucket and consumer, each declared once; made, mended or refused by [`apply`].
//!
//! What an operator may set by hand (limits of size and age, placement, descriptions) is left as it is.
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, PersistenceMode, RetentionPolicy, Source, StorageType, Stream,
};
use async_nats::jetstream::{self, ErrorCode};
use dripline_domain::LeadIdKey;
use futures_util::StreamExt;
use serde_json::Value;

/// Raw leads.
pub const LEADS: &str = "LEADS";
/// Verified events of the providers.
pub const FEEDBACK: &str = "FEEDBACK";
/// The stream behind the bucket `leads`.
pub const LEADS_BUCKET: &str = "KV_leads";
/// The bucket of the addresses that must not be mailed.
pub(crate) const SUPPRESSIONS: &str = "suppressions";
/// The stream behind the bucket `suppressions`.
pub const SUPPRESSIONS_BUCKET: &str = "KV_suppressions";
/// The stream behind the bucket `sequences`.
pub const SEQUENCES_BUCKET: &str = "KV_sequences";
/// The bucket of the engine processes that are alive.
pub const ENGINES: &str = "engines";
/// The stream behind it.
pub(crate) const ENGINES_BUCKET: &str = "KV_engines";
/// The stream behind the bucket `statistics`: what the journal comes to.
pub const STATISTICS_BUCKET: &str = "KV_statistics";
/// The bucket of what is held back by an operator or a guard.
pub(crate) const CONTROLS: &str = "controls";
/// The stream behind it.
pub const CONTROLS_BUCKET: &str = "KV_controls";
/// The bucket of journal messages that an outgoing webhook has in part.
pub const OUTGOING: &str = "outgoing";
/// The stream behind it.
const OUTGOING_BUCKET: &str = "KV_outgoing";
/// The bucket of what needs a person.
pub(crate) const ALERTS: &str = "alerts";
/// The stream behind it.
pub(crate) const ALERTS_BUCKET: &str = "KV_alerts";
/// The bucket of the canary's state.
pub(crate) const CANARY: &str = "canary";
/// The stream behind it.
const CANARY_BUCKET: &str = "KV_canary";
/// Scheduled messages.
pub const TIMERS: &str = "TIMERS";
/// What could not be processed.
pub const REJECTED: &str = "REJECTED";
/// Every transition.
pub const JOURNAL: &str = "JOURNAL";

/// Raw leads without a source; `leads.new.<source>` with one.
pub const LEADS_SUBJECT: &str = "leads.new";
/// Events of one provider are on `feedback.<provider>`.
pub(crate) const FEEDBACK_SUBJECT: &str = "feedback";
pub(crate) const LEADS_BUCKET_SUBJECT: &str = "$KV.leads.";
pub(crate) const SUPPRESSIONS_BUCKET_SUBJECT: &str = "$KV.suppressions.";
pub(crate) const SEQUENCES_BUCKET_SUBJECT: &str = "$KV.sequences.";
pub(crate) const STATISTICS_BUCKET_SUBJECT: &str = "$KV.statistics.";
pub(crate) const CONTROLS_BUCKET_SUBJECT: &str = "$KV.controls.";
pub(crate) const ALERTS_BUCKET_SUBJECT: &str = "$KV.alerts.";
pub(crate) const JOURNAL_SUBJECT: &str = "journal.";
pub(crate) const TIMERS_AT_SUBJECT: &str = "timers.at.";
pub(crate) const TIMERS_DUE_SUBJECT: &str = "timers.due.";
pub(crate) const REJECTED_SUBJECT: &str = "rejected.";

/// How long a journal message stays beside the documents: far longer than `JOURNAL` ever needs to copy it.
pub(crate) const JOURNAL_TTL: &str = "48h";

/// An engine that does not announce itself for so long is gone from the bucket `engines`.
const ENGINES_MAX_AGE: Duration = Duration::from_secs(10);

/// Longer than any event is tried.
const OUTGOING_MAX_AGE: Duration = Duration::from_hours(7 * 24);

/// An open alert is written again every few moments: what is older cannot be delivered by anybody any more.
const ALERTS_MAX_AGE: Duration = Duration::from_hours(7 * 24);

/// The consumer of [`LEADS`].
pub const INTAKE: &str = "intake";
/// The consumer of [`TIMERS`].
pub const DUE: &str = "due";
/// The consumer of [`FEEDBACK`].
pub const FEEDBACK_CONSUMER: &str = "feedback";
/// Before the name of an outgoing webhook: its consumer of [`JOURNAL`].
const OUTGOING_CONSUMER: &str = "outgoing-";

/// A journal message holds the events of a whole batch: posting them takes a while.
const OUTGOING_ACK_WAIT: Duration = Duration::from_secs(45);

/// Journal messages that one outgoing webhook has been tried with and does not have yet, of all processes together.
const OUTGOING_ACK_PENDING: i64 = 256;

/// The key of lead ids, in the metadata of the bucket `leads`.
const IDENTITY: &str = "dripline.identity";

/// Unacknowledged messages of a consumer, of all processes together. Each process has its own, lower limit.
const MAX_ACK_PENDING: i64 = 100_000;

/// The largest message of a queue, headers included: below the server's default `max_payload` of 1 MiB, so that it also
/// fits into `REJECTED`, with the reason beside it.
pub(crate) const QUEUE_MESSAGE_BYTES: i32 = 1_000_000;

/// What differs from one installation to the next.
#[derive(Debug, Clone)]
pub struct Options {
    /// Copies of everything: 1, or 3 or 5 on a cluster.
    pub replicas: usize,
    /// An unsettled message is delivered again after this.
    pub ack_wait: Duration,
    /// Raw leads that may wait; more are refused. None for as many as the disk holds.
    pub max_leads: Option<u64>,
    /// The names of the outgoing webhooks.
    pub outgoing_webhooks: Vec<String>,
}

/// What [`apply`] did to one stream or consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `stream LEADS`, `consumer LEADS/intake`.
    pub what: String,
    /// What was done.
    pub action: Action,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It was not there.
    Created,
    /// It was as it should be.
    Unchanged,
    /// These settings were changed; nothing is lost by it.
    Updated(Vec<String>),
}

/// Why the server does not have what we need.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// Ours to change, but not without losing data or a promise.
    #[error(
        "{what}: `{setting}` is {found}, and must be {wanted}. Changing it could lose data, so it was left alone: \
         back up what it holds, remove or change it with the `nats` CLI, then run `dripline topology apply` again"
    )]
    WouldLose {
        /// `stream LEADS`.
        what: String,
        /// The setting, as the server names it.
        setting: String,
        /// As it is.
        found: String,
        /// As it must be.
        wanted: String,
    },
    /// It is not there, and we were asked only to look.
    #[error("{0} does not exist: run `dripline topology apply`")]
    Missing(String),
    /// The server said no, or nothing.
    #[error("{what}: the server refused or did not answer")]
    Server {
        /// `stream LEADS`.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What stands on the server after [`apply`].
#[derive(Debug, Clone)]
pub struct Applied {
    /// In order of declaration.
    pub changes: Vec<Change>,
    /// The key of lead ids, of this installation for good.
    pub lead_ids: LeadIdKey,
}

/// Makes what is missing, mends what can be mended without loss, refuses the rest.
pub async fn apply(context: &jetstream::Context, options: Options) -> Result<Applied, TopologyError> {
    let mut changes = Vec::new();
    let mut identity = None;
    for config in streams(&options) {
        let name = config.name.clone();
        let (stream, action) = apply_stream(context, config).await?;
        if name == LEADS_BUCKET {
            identity = stream.cached_info().config.metadata.get(IDENTITY).cloned();
        }
        changes.push(Change { what: format!("stream {name}"), action });
        for config in consumers(&name, &options) {
            let what = format!("consumer {name}/{}", config.durable_name.clone().unwrap_or_default());
            let action = apply_consumer(&stream, config, &what).await?;
            changes.push(Change { what, action });
        }
        if name == JOURNAL {
            warn_of_unknown_webhooks(&stream, &options).await?;
        }
    }
    let identity = identity.ok_or_else(|| TopologyError::WouldLose {
        what: format!("stream {LEADS_BUCKET}"),
        setting: format!("metadata `{IDENTITY}`"),
        found: "missing".to_owned(),
        wanted: "the key that this installation's lead ids were made with".to_owned(),
    })?;
    Ok(Applied { changes, lead_ids: LeadIdKey::new(identity) })
}

fn streams(options: &Options) -> Vec<Config> {
    let base = |name: &str, subjects: &[&str]| Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(ToString::to_string).collect(),
        storage: StorageType::File,
        num_replicas: options.replicas,
        ..Config::default()
    };
    // Front doors: a full queue refuses, it never drops. Outsiders publish here, so no rollup and no schedules.
    // What is settled is removed by our own inbox, many messages at a time: under `sync_interval: always`, work queue
    // retention removes each one by itself, with an fsync.
    let queue = |name: &str, subjects: &[&str]| Config {
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        allow_atomic_publish: true,
        max_message_size: QUEUE_MESSAGE_BYTES,
        ..base(name, subjects)
    };
    // As the client makes a bucket, but the client cannot ask for atomic batches.
    let bucket = |name: &str, subjects: &[&str]| Config {
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        ..base(name, subjects)
    };
    // Only for what can be rebuilt, and only a single replica can have it.
    let rebuildable = (options.replicas == 1).then_some(PersistenceMode::Async);
    vec![
        Config {
            max_messages: options.max_leads.map_or(-1, |most| i64::try_from(most).unwrap_or(i64::MAX)),
            ..queue(LEADS, &[LEADS_SUBJECT, "leads.new.*"])
        },
        queue(FEEDBACK, &["feedback.*"]),
        Config {
            allow_atomic_publish: true,
            allow_message_ttl: true,
            metadata: [(IDENTITY.to_owned(), format!("{:032x}", rand::random::<u128>()))].into(),
            ..bucket(LEADS_BUCKET, &["$KV.leads.>", "journal.>"])
        },
        bucket(SUPPRESSIONS_BUCKET, &["$KV.suppressions.>"]),
        bucket(SEQUENCES_BUCKET, &["$KV.sequences.>"]),
        Config { max_age: ENGINES_MAX_AGE, ..bucket(ENGINES_BUCKET, &["$KV.engines.>"]) },
        // The counts of many sequences and the place in the journal are stored together or not at all.
        Config { allow_atomic_publish: true, ..bucket(STATISTICS_BUCKET, &["$KV.statistics.>"]) },
        bucket(CONTROLS_BUCKET, &["$KV.controls.>"]),
        Config { max_age: OUTGOING_MAX_AGE, ..bucket(OUTGOING_BUCKET, &["$KV.outgoing.>"]) },
        Config { max_age: ALERTS_MAX_AGE, ..bucket(ALERTS_BUCKET, &["$KV.alerts.>"]) },
        bucket(CANARY_BUCKET, &["$KV.canary.>"]),
        Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::Old,
            // A group can be written anew without one of its timers.
            max_messages_per_subject: 1,
            allow_rollup: true,
            // The sweeper reads them by it.
            allow_direct: true,
            allow_message_schedules: true,
            persist_mode: rebuildable,
            ..base(TIMERS, &["timers.at.>", "timers.due.>"])
        },
        Config { allow_direct: true, ..base(REJECTED, &["rejected.*"]) },
        Config {
            sources: Some(vec![Source {
                name: LEADS_BUCKET.to_owned(),
                filter_subject: Some("journal.>".to_owned()),
                ..Source::default()
            }]),
            allow_direct: true,
            persist_mode: rebuildable,
            ..base(JOURNAL, &[])
        },
    ]
}

fn consumers(stream: &str, options: &Options) -> Vec<pull::Config> {
    let consumer = |name: &str, filter: &str| pull::Config {
        durable_name: Some(name.to_owned()),
        filter_subject: filter.to_owned(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: options.ack_wait,
        max_ack_pending: MAX_ACK_PENDING,
        ..pull::Config::default()
    };
    match stream {
        LEADS => vec![consumer(INTAKE, "")],
        FEEDBACK => vec![consumer(FEEDBACK_CONSUMER, "")],
        TIMERS => vec![consumer(DUE, "timers.due.>")],
        JOURNAL => options
            .outgoing_webhooks
            .iter()
            .map(|webhook| pull::Config {
                // A new subscriber is told what happens from now on.
                deliver_policy: DeliverPolicy::New,
                ack_wait: options.ack_wait.max(OUTGOING_ACK_WAIT),
                max_ack_pending: OUTGOING_ACK_PENDING,
                ..consumer(&outgoing_consumer(webhook), "")
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The consumer of [`JOURNAL`] of one outgoing webhook.
pub fn outgoing_consumer(webhook: &str) -> String {
    format!("{OUTGOING_CONSUMER}{webhook}")
}

/// A webhook that is configured no longer keeps its place in the journal: it may come back.
async fn warn_of_unknown_webhooks(journal: &Stream, options: &Options) -> Result<(), TopologyError> {
    let mut names = journal.consumer_names();
    while let Some(name) = names.next().await {
        let name =
            name.map_err(|error| TopologyError::Server { what: format!("stream {JOURNAL}"), source: error.into() })?;
        let webhook = name.strip_prefix(OUTGOING_CONSUMER);
        if webhook.is_some_and(|webhook| !options.outgoing_webhooks.iter().any(|known| known == webhook)) {
            tracing::warn!(
                consumer = name,
                "an outgoing webhook is configured no longer, but its place in the journal is kept; remove it with \
                 `nats consumer rm JOURNAL`, if it is not to come back"
            );
        }
    }
    Ok(())
}

async fn get_stream(context: &jetstream::Context, name: &str) -> Result<Option<Stream>, TopologyError> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(ref refusal) if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(None)
            }
            _ => Err(TopologyError::Server { what: format!("stream {name}"), source: error.into() }),
        },
    }
}

async fn apply_stream(context: &jetstream::Context, mut wanted: Config) -> Result<(Stream, Action), TopologyError> {
    let what = format!("stream {}", wanted.name);
    let server =
        |source: Box<dyn std::error::Error + Send + Sync>| TopologyError::Server { what: what.clone(), source };
    let Some(stream) = get_stream(context, &wanted.name).await? else {
        return match context.create_stream(&wanted).await {
            Ok(stream) => Ok((stream, Action::Created)),
            // Another process was faster, with an identity of its own: take what it made.
            Err(error) if matches!(error.kind(), CreateStreamErrorKind::JetStream(ref refusal) if refusal.error_code() == ErrorCode::STREAM_NAME_EXIST) =>
            {
                let stream = get_stream(context, &wanted.name).await?.ok_or_else(|| server(error.into()))?;
                Ok((stream, Action::Unchanged))
            }
            Err(error) => Err(server(error.into())),
        };
    };
    let found = &stream.cached_info().config;
    // The identity is drawn once and stays; so does whatever the server or an operator wrote beside it.
    wanted.metadata.clone_from(&found.metadata);
    let differences = stream_differences(found, &wanted);
    for (setting, found, wanted, harmless) in &differences {
        if !harmless {
            return Err(TopologyError::WouldLose {
                what,
                setting: setting.clone(),
                found: found.to_string(),
                wanted: wanted.to_string(),
            });
        }
    }
    if differences.is_empty() {
        return Ok((stream, Action::Unchanged));
    }
    let mended = Config {
        subjects: wanted.subjects,
        num_replicas: wanted.num_replicas,
        max_messages: wanted.max_messages,
        max_message_size: wanted.max_message_size,
        allow_direct: wanted.allow_direct,
        allow_rollup: wanted.allow_rollup,
        allow_message_ttl: wanted.allow_message_ttl,
        allow_atomic_publish: wanted.allow_atomic_publish,
        ..found.clone()
    };
    context.update_stream(&mended).await.map_err(|error| server(error.into()))?;
    let stream = get_stream(context, &mended.name).await?.ok_or(TopologyError::Missing(what))?;
    Ok((stream, Action::Updated(differences.into_iter().map(|(setting, ..)| setting).collect())))
}

/// Setting, as found, as wanted, and whether it can be changed without losing anything.
type Difference = (String, Value, Value, bool);

fn stream_differences(found: &Config, wanted: &Config) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut compare = |setting: &str, found: Value, wanted: Value, harmless: bool| {
        if found != wanted {
            differences.push((setting.to_owned(), found, wanted, harmless));
        }
    };
    let all_kept = found.subjects.iter().all(|subject| wanted.subjects.contains(subject));
    compare("subjects", sorted(&found.subjects), sorted(&wanted.subjects), all_kept);
    compare("retention", json(found.retention), json(wanted.retention), false);
    compare("storage", json(found.storage), json(wanted.storage), false);
    compare("discard", json(found.discard), json(wanted.discard), false);
    compare(
        "max_msgs_per_subject",
        json(normalised(found.max_messages_per_subject)),
        json(normalised(wanted.max_messages_per_subject)),
        false,
    );
    compare(
        "num_replicas",
        json(found.num_replicas),
        json(wanted.num_replicas),
        wanted.num_replicas > found.num_replicas,
    );
    if wanted.max_messages > 0 {
        // Discard new: a lower limit refuses new leads, and drops none that wait.
        compare("max_msgs", json(found.max_messages), json(wanted.max_messages), true);
    }
    if wanted.max_message_size > 0 {
        compare("max_msg_size", json(found.max_message_size), json(wanted.max_message_size), true);
    }
    compare("allow_direct", json(found.allow_direct), json(wanted.allow_direct), true);
    compare("allow_rollup_hdrs", json(found.allow_rollup), json(wanted.allow_rollup), wanted.allow_rollup);
    compare("deny_delete", json(found.deny_delete), json(wanted.deny_delete), false);
    compare("allow_msg_ttl", json(found.allow_message_ttl), json(wanted.allow_message_ttl), true);
    compare("allow_atomic", json(found.allow_atomic_publish), json(wanted.allow_atomic_publish), true);
    compare("allow_msg_schedules", json(found.allow_message_schedules), json(wanted.allow_message_schedules), false);
    compare(
        "persist_mode",
        json(found.persist_mode.unwrap_or_default()),
        json(wanted.persist_mode.unwrap_or_default()),
        false,
    );
    compare("sources", source_names(found), source_names(wanted), false);
    differences
}

fn json(value: impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// The server shows "no limit" as -1, whatever was asked for.
fn normalised(limit: i64) -> i64 {
    if limit <= 0 { -1 } else { limit }
}

fn sorted(subjects: &[String]) -> Value {
    let mut subjects = subjects.to_vec();
    subjects.sort();
    json(subjects)
}

fn source_names(config: &Config) -> Value {
    json(config.sources.iter().flatten().map(|source| (&source.name, &source.filter_subject)).collect::<Vec<_>>())
}

async fn apply_consumer(stream: &Stream, wanted: pull::Config, what: &str) -> Result<Action, TopologyError> {
    let server =
        |source: Box<dyn std::error::Error + Send + Sync>| TopologyError::Server { what: what.to_owned(), source };
    let name = wanted.durable_name.clone().unwrap_or_default();
    let found = match stream.consumer_info(&name).await {
        Ok(info) => info.config,
        Err(_not_found) => {
            stream.create_consumer(wanted).await.map_err(|error| server(error.into()))?;
            return Ok(Action::Created);
        }
    };
    let mut differences = Vec::new();
    for (setting, found, wanted) in [
        ("filter_subject", json(&found.filter_subject), json(&wanted.filter_subject)),
        ("ack_wait", json(found.ack_wait.as_millis()), json(wanted.ack_wait.as_millis())),
        ("max_ack_pending", json(found.max_ack_pending), json(wanted.max_ack_pending)),
    ] {
        if found != wanted {
            differences.push(setting.to_owned());
        }
    }
    if differences.is_empty() {
        return Ok(Action::Unchanged);
    }
    stream.update_consumer(wanted).await.map_err(|error| server(error.into()))?;
    Ok(Action::Updated(differences))
}
