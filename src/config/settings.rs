use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use dripline_actors::{AlertSettings, BreakerLimits};
use dripline_domain::{Address, DoubtEnd, DoubtPolicy, GuardLimits, JournalEvent, RetryPolicy, SoftBouncePolicy};
use dripline_esp::webhooks::WebhookSettings;
use dripline_esp::{Secret, imap, mailgun, outbox, postmark, resend, sendgrid, smtp};
use serde::{Deserialize, Serialize};

use super::units;

/// Everything that can be set, one struct a concern.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How to reach NATS.
    pub nats: Nats,
    /// Who sends the emails, and how fast.
    pub esp: Esp,
    /// Where the sequences are, and which leads enter which.
    pub sequences: Sequences,
    /// The HTTP door.
    pub gateway: Gateway,
    /// Whose webhooks are taken: `DRIPLINE_WEBHOOKS__<PROVIDER>__*`.
    pub webhooks: WebhookSettings,
    /// The link by which people unsubscribe.
    pub unsubscribe: Unsubscribe,
    /// Limits and rhythms of the engine.
    pub engine: Engine,
    /// When a failed send is tried again.
    pub retry: Retry,
    /// What is made of what providers tell.
    pub feedback: Feedback,
    /// When a sequence is paused by itself.
    pub guard: Guard,
    /// What is counted.
    pub statistics: Statistics,
    /// Who is told what happens.
    pub outgoing_webhooks: Vec<OutgoingWebhook>,
    /// Who is told what needs a person, and when.
    pub alerts: Alerts,
    /// A lead of our own that goes all the way, now and then.
    pub canary: Canary,
    /// What is logged, and how.
    pub log: Log,
    /// What is measured, and where it is served.
    pub metrics: Metrics,
    /// What is traced, and where it is sent.
    pub telemetry: Telemetry,
}

/// How to reach NATS. At most one of user and password, `nkey_seed`, and `creds_file`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nats {
    /// `DRIPLINE_NATS__URL`. One server of the cluster, or several, separated by commas.
    pub url: String,
    /// `DRIPLINE_NATS__USER`.
    pub user: Option<String>,
    /// `DRIPLINE_NATS__PASSWORD`.
    pub password: Option<Secret>,
    /// `DRIPLINE_NATS__NKEY_SEED`: a user's seed, `SU…`.
    pub nkey_seed: Option<Secret>,
    /// `DRIPLINE_NATS__CREDS_FILE`: a file with a JWT and a seed.
    pub creds_file: Option<PathBuf>,
    /// `DRIPLINE_NATS__REPLICAS`: on how many servers of a cluster everything is kept, 1 to 5.
    pub replicas: usize,
    /// `DRIPLINE_NATS__MAX_LEADS`: raw leads that may wait in the queue; more are refused. By default as many as the
    /// server has room for.
    pub max_leads: Option<u64>,
}

impl Default for Nats {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".into(),
            user: None,
            password: None,
            nkey_seed: None,
            creds_file: None,
            replicas: 1,
            max_leads: None,
        }
    }
}

/// Who sends the emails, and how fast.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Esp {
    /// `DRIPLINE_ESP__PROVIDER`.
    pub provider: Provider,
    /// `DRIPLINE_ESP__FALLBACK`: who sends them while the provider is stopped, in order.
    pub fallback: Vec<Provider>,
    /// `DRIPLINE_ESP__BATCH`: gather emails into calls for many, where the provider has them.
    pub batch: bool,
    /// `DRIPLINE_ESP__RATE`: emails a second, of all processes together; 0 is no limit.
    pub rate: f64,
    /// `DRIPLINE_ESP__BURST`: how many may leave at once after a pause; by default the emails of a tenth of a second.
    pub burst: Option<NonZeroU32>,
    /// `DRIPLINE_ESP__IN_FLIGHT`: emails on their way to each provider at the same time.
    pub in_flight: usize,
    /// `DRIPLINE_ESP__BREAKER_FAILURES`: after so many failed calls in a row a provider is left alone for a while.
    pub breaker_failures: u32,
    /// `DRIPLINE_ESP__PROBE_EVERY`: a stopped provider is tried at least this often.
    #[serde(with = "units::duration")]
    pub probe_every: Duration,
    /// `DRIPLINE_ESP__IN_DOUBT`: what becomes of an email whose answer was lost, if nobody can find out.
    pub in_doubt: InDoubt,
    /// `DRIPLINE_ESP__IN_DOUBT_WAIT`: so long it is tried to find out.
    #[serde(with = "units::duration")]
    pub in_doubt_wait: Duration,
    /// `DRIPLINE_ESP__TIMEOUT`: how long one call may take. Shorter than `engine.ack_wait`.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// `DRIPLINE_ESP__SENDGRID__*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sendgrid: Option<sendgrid::Config>,
    /// `DRIPLINE_ESP__MAILGUN__*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mailgun: Option<mailgun::Config>,
    /// `DRIPLINE_ESP__POSTMARK__*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postmark: Option<postmark::Config>,
    /// `DRIPLINE_ESP__RESEND__*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resend: Option<resend::Config>,
    /// `DRIPLINE_ESP__SMTP__*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smtp: Option<smtp::Config>,
    /// `DRIPLINE_ESP__OUTBOX__*`.
    pub outbox: outbox::Config,
}

impl Default for Esp {
    fn default() -> Self {
        Self {
            provider: Provider::Outbox,
            fallback: Vec::new(),
            batch: false,
            rate: 0.0,
            burst: None,
            in_flight: 1_024,
            breaker_failures: BreakerLimits::default().failures,
            probe_every: BreakerLimits::default().longest,
            in_doubt: InDoubt::Hold,
            in_doubt_wait: DoubtPolicy::default().wait,
            timeout: Duration::from_secs(10),
            sendgrid: None,
            mailgun: None,
            postmark: None,
            resend: None,
            smtp: None,
            outbox: outbox::Config::default(),
        }
    }
}

impl Esp {
    /// Whether emails leave for people's mailboxes.
    pub fn mails(&self) -> bool {
        std::iter::once(&self.provider).chain(&self.fallback).any(|provider| *provider != Provider::Outbox)
    }
}

/// What becomes of an email whose answer was lost, if nobody can find out whether it was mailed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InDoubt {
    /// It is sent again: perhaps twice.
    Resend,
    /// It counts as sent: perhaps never.
    Skip,
    /// It waits for a webhook or an operator.
    #[default]
    Hold,
}

impl From<InDoubt> for DoubtEnd {
    fn from(setting: InDoubt) -> Self {
        match setting {
            InDoubt::Resend => Self::Resend,
            InDoubt::Skip => Self::Skip,
            InDoubt::Hold => Self::Hold,
        }
    }
}

/// Who sends the emails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// Nobody: each email becomes a file.
    #[default]
    Outbox,
    /// Twilio's `SendGrid`.
    Sendgrid,
    /// Mailgun.
    Mailgun,
    /// Postmark.
    Postmark,
    /// Resend.
    Resend,
    /// Any mail server.
    Smtp,
}

/// Where the sequences are, and which leads enter which.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sequences {
    /// `DRIPLINE_SEQUENCES__DIR`: one folder a sequence, each with a `sequence.toml`.
    pub dir: PathBuf,
    /// `DRIPLINE_SEQUENCES__DEFAULT`: for a lead that names none and whose source is not in `sources`.
    pub default: Option<String>,
    /// `DRIPLINE_SEQUENCES__SOURCES__<SOURCE>`: the sequence of the leads from one source.
    pub sources: BTreeMap<String, String>,
}

impl Default for Sequences {
    fn default() -> Self {
        Self { dir: "sequences".into(), default: None, sources: BTreeMap::new() }
    }
}

/// The HTTP door.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    /// `DRIPLINE_GATEWAY__LISTEN`.
    #[serde(with = "units::listen")]
    pub listen: SocketAddr,
    /// `DRIPLINE_GATEWAY__API_KEYS`: one of them must come with each lead. Without any, everyone may hand leads in.
    pub api_keys: Vec<Secret>,
    /// `DRIPLINE_GATEWAY__BODY_LIMIT`: the largest lead, such as `64KiB`.
    #[serde(with = "units::size")]
    pub body_limit: usize,
    /// `DRIPLINE_GATEWAY__CORS_ORIGINS`: whose pages may hand leads in by script, such as `https://acme.example`;
    /// `*` for all.
    pub cors_origins: Vec<String>,
    /// `DRIPLINE_GATEWAY__RATE_PER_IP`: requests a second from one address; no limit when it is not set.
    pub rate_per_ip: Option<NonZeroU32>,
    /// `DRIPLINE_GATEWAY__TRUST_FORWARDED_FOR`: whether the client is who the last entry of `X-Forwarded-For` says.
    /// Only behind a proxy that writes this header; anyone else could write it too.
    pub trust_forwarded_for: bool,
    /// `DRIPLINE_GATEWAY__FORM_REDIRECT`: where a browser goes after a plain HTML form was accepted.
    pub form_redirect: Option<String>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            api_keys: Vec::new(),
            body_limit: 64 * 1024,
            cors_origins: Vec::new(),
            rate_per_ip: None,
            trust_forwarded_for: false,
            form_redirect: None,
        }
    }
}

/// The link by which people unsubscribe. The same for all processes: one seals what another opens.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Unsubscribe {
    /// `DRIPLINE_UNSUBSCRIBE__BASE_URL`: where people reach the gateway, such as `https://mail.acme.example`.
    pub base_url: Option<String>,
    /// `DRIPLINE_UNSUBSCRIBE__KEYS`: secrets of 32 characters or more. The first seals; links of all of them are good.
    pub keys: Vec<Secret>,
}

impl Unsubscribe {
    /// What must be set before a link can go into people's mailboxes, and is not.
    pub fn missing(&self) -> Option<&'static str> {
        if self.base_url.is_none() {
            Some("unsubscribe.base_url")
        } else if self.keys.is_empty() {
            Some("unsubscribe.keys")
        } else {
            None
        }
    }
}

/// Limits and rhythms of the engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// `DRIPLINE_ENGINE__RESIDENT_LEADS`: lead actors in memory at the same time.
    pub resident_leads: usize,
    /// `DRIPLINE_ENGINE__IN_FLIGHT`: unacknowledged messages at the same time.
    pub in_flight: usize,
    /// `DRIPLINE_ENGINE__ACK_WAIT`: after how long without an answer NATS delivers a message again. At least `1s`,
    /// and longer than `esp.timeout`.
    #[serde(with = "units::duration")]
    pub ack_wait: Duration,
    /// `DRIPLINE_ENGINE__IDLE`: a lead actor with nothing to do for so long is let go.
    #[serde(with = "units::duration")]
    pub idle: Duration,
    /// `DRIPLINE_ENGINE__SWEEP_EVERY`: how often missing timers are looked for.
    #[serde(with = "units::duration")]
    pub sweep_every: Duration,
    /// `DRIPLINE_ENGINE__RESTART_LIMIT`: a lead actor that failed so often is parked.
    pub restart_limit: u32,
    /// `DRIPLINE_ENGINE__DEFAULT_REGION`: the country of phone numbers without a country code, such as `DE`.
    pub default_region: Option<String>,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            resident_leads: 5_000,
            in_flight: 2_048,
            ack_wait: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            sweep_every: Duration::from_mins(5),
            restart_limit: 5,
            default_region: None,
        }
    }
}

/// When a failed send is tried again: the delay's bound doubles from `first` to `longest`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// `DRIPLINE_RETRY__MAX_ATTEMPTS`: after so many failures of one step the enrolment is parked.
    pub max_attempts: u32,
    /// `DRIPLINE_RETRY__FIRST`: the bound of the first delay.
    #[serde(with = "units::duration")]
    pub first: Duration,
    /// `DRIPLINE_RETRY__LONGEST`: no delay is longer.
    #[serde(with = "units::duration")]
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        let RetryPolicy { first, longest, max_failures } = RetryPolicy::default();
        Self { max_attempts: max_failures, first, longest }
    }
}

impl From<&Retry> for RetryPolicy {
    fn from(retry: &Retry) -> Self {
        Self { first: retry.first, longest: retry.longest, max_failures: retry.max_attempts }
    }
}

/// What is made of what providers tell.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Feedback {
    /// `DRIPLINE_FEEDBACK__SOFT_BOUNCES`: so many emails that did not arrive for a passing reason suppress the address,
    /// 1 to 50.
    pub soft_bounces: usize,
    /// `DRIPLINE_FEEDBACK__SOFT_BOUNCES_WITHIN`: within this time.
    #[serde(with = "units::duration")]
    pub soft_bounces_within: Duration,
}

impl Default for Feedback {
    fn default() -> Self {
        let SoftBouncePolicy { count, within } = SoftBouncePolicy::default();
        Self { soft_bounces: count, soft_bounces_within: within }
    }
}

impl From<&Feedback> for SoftBouncePolicy {
    fn from(feedback: &Feedback) -> Self {
        Self { count: feedback.soft_bounces, within: feedback.soft_bounces_within }
    }
}

/// When a sequence is paused by itself: too many of its emails by one provider bounced, or were reported as spam.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guard {
    /// `DRIPLINE_GUARD__WINDOW`: how far back is looked.
    #[serde(with = "units::duration")]
    pub window: Duration,
    /// `DRIPLINE_GUARD__BOUNCE_LIMIT`: hard bounces for each email sent; 1 turns it off.
    pub bounce_limit: f64,
    /// `DRIPLINE_GUARD__COMPLAINT_LIMIT`: spam complaints for each email sent; 1 turns it off.
    pub complaint_limit: f64,
    /// `DRIPLINE_GUARD__LEAST`: nothing is judged by fewer emails in the window.
    pub least: u64,
}

impl Default for Guard {
    fn default() -> Self {
        let GuardLimits { window, bounces, complaints, least } = GuardLimits::default();
        Self { window, bounce_limit: bounces, complaint_limit: complaints, least }
    }
}

impl From<&Guard> for GuardLimits {
    fn from(guard: &Guard) -> Self {
        let Guard { window, bounce_limit, complaint_limit, least } = *guard;
        Self { window, bounces: bounce_limit, complaints: complaint_limit, least }
    }
}

/// What is counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Statistics {
    /// `DRIPLINE_STATISTICS__EXCLUDE`: sequences that are neither counted nor guarded.
    pub exclude: Vec<String>,
}

/// A subscriber to the events of the journal.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutgoingWebhook {
    /// Its place in the journal is kept under this name.
    pub name: String,
    /// Where each event is posted to.
    pub url: String,
    /// What the posts are signed with: `whsec_` and base64.
    pub secret: Secret,
    /// Which events; without it all but `sending` and `asked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<JournalEvent>>,
}

/// Who is told what needs a person, and when. The log is told in any case.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alerts {
    /// `DRIPLINE_ALERTS__WEBHOOK_URL`: JSON for programs is posted here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_url: Option<Secret>,
    /// `DRIPLINE_ALERTS__SLACK_URL`: what Slack shows is posted here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slack_url: Option<Secret>,
    /// `DRIPLINE_ALERTS__EMAIL_TO`: who gets an email.
    pub email_to: Vec<Address>,
    /// `DRIPLINE_ALERTS__EMAIL_FROM`: its sender, such as `Dripline <ops@acme.example>`.
    pub email_from: Option<String>,
    /// `DRIPLINE_ALERTS__SMTP__*`: the mail server for it. Better not the one that sends the sequences: it may be what is
    /// wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smtp: Option<smtp::Config>,
    /// `DRIPLINE_ALERTS__EVERY`: between two looks.
    #[serde(with = "units::duration")]
    pub every: Duration,
    /// `DRIPLINE_ALERTS__PATIENCE`: what may pass by itself is told after this; what was not seen for so long is over. At
    /// least three times `every`.
    #[serde(with = "units::duration")]
    pub patience: Duration,
    /// `DRIPLINE_ALERTS__REPEAT`: an alert that stays is told again after this.
    #[serde(with = "units::duration")]
    pub repeat: Duration,
    /// `DRIPLINE_ALERTS__QUEUE_AGE`: a message of a queue that waits for longer is an alert.
    #[serde(with = "units::duration")]
    pub queue_age: Duration,
    /// `DRIPLINE_ALERTS__REJECTED`: so many rejected messages within `within` are an alert.
    pub rejected: u64,
    /// `DRIPLINE_ALERTS__IN_DOUBT`: so many lost answers within `within` are an alert.
    pub in_doubt: u64,
    /// `DRIPLINE_ALERTS__WITHIN`: see `rejected` and `in_doubt`.
    #[serde(with = "units::duration")]
    pub within: Duration,
}

impl Default for Alerts {
    fn default() -> Self {
        Self {
            webhook_url: None,
            slack_url: None,
            email_to: Vec::new(),
            email_from: None,
            smtp: None,
            every: Duration::from_secs(5),
            patience: Duration::from_secs(30),
            repeat: Duration::from_hours(4),
            queue_age: Duration::from_mins(5),
            rejected: 10,
            in_doubt: 5,
            within: Duration::from_mins(10),
        }
    }
}

impl From<&Alerts> for AlertSettings {
    fn from(alerts: &Alerts) -> Self {
        let Alerts { every, patience, repeat, queue_age, rejected, in_doubt, within, .. } = *alerts;
        Self { every, patience, repeat, queue_age, rejected, in_doubt, within }
    }
}

/// A lead of our own that goes all the way, now and then: from the front door to the mailbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Canary {
    /// `DRIPLINE_CANARY__ADDRESS`: a mailbox whose server takes `+<anything>` before the `@`. Without it there is no
    /// canary.
    pub address: Option<Address>,
    /// `DRIPLINE_CANARY__INTERVAL`: from one run to the next.
    #[serde(with = "units::duration")]
    pub interval: Duration,
    /// `DRIPLINE_CANARY__RETRY`: from a run that failed to the next.
    #[serde(with = "units::duration")]
    pub retry: Duration,
    /// `DRIPLINE_CANARY__DEADLINE`: each thing that must happen may take so long: to be enrolled, to be sent once it is
    /// due, to arrive once it is sent.
    #[serde(with = "units::duration")]
    pub deadline: Duration,
    /// `DRIPLINE_CANARY__SEQUENCE`: a sequence of yours for it; without it, a built-in one of two emails.
    pub sequence: Option<String>,
    /// `DRIPLINE_CANARY__FROM`: the sender of the built-in sequence.
    pub from: Option<String>,
    /// `DRIPLINE_CANARY__STEP_AFTER`: from the first to the second email of the built-in sequence.
    #[serde(with = "units::duration")]
    pub step_after: Duration,
    /// `DRIPLINE_CANARY__GATEWAY_URL`: the gateway as the internet has it; leads go in there. Without it they go straight
    /// into the queue.
    pub gateway_url: Option<String>,
    /// `DRIPLINE_CANARY__EVIDENCE`: how it is seen that an email arrived.
    pub evidence: CanaryEvidence,
    /// `DRIPLINE_CANARY__MAILPIT_URL`: where Mailpit's API is, for `mailpit`.
    pub mailpit_url: Option<String>,
    /// `DRIPLINE_CANARY__IMAP__*`: the mailbox, for `imap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imap: Option<imap::Config>,
}

impl Default for Canary {
    fn default() -> Self {
        Self {
            address: None,
            interval: Duration::from_hours(1),
            retry: Duration::from_mins(5),
            deadline: Duration::from_mins(5),
            sequence: None,
            from: None,
            step_after: Duration::from_secs(30),
            gateway_url: None,
            evidence: CanaryEvidence::Webhook,
            mailpit_url: None,
            imap: None,
        }
    }
}

/// How it is seen that an email arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CanaryEvidence {
    /// The provider tells, by its webhooks.
    #[default]
    Webhook,
    /// It is in Mailpit.
    Mailpit,
    /// It is in a mailbox that IMAP shows.
    Imap,
}

/// What is logged, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `DRIPLINE_LOG__FORMAT`.
    pub format: LogFormat,
    /// `DRIPLINE_LOG__LEVEL`: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,dripline=debug`.
    /// `DRIPLINE_LOG` wins over it.
    pub level: String,
    /// `DRIPLINE_LOG__SHOW_ADDRESSES`: write email addresses in full rather than as `j***@example.com`.
    pub show_addresses: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".into(), show_addresses: false }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Pretty,
    /// For machines: one JSON object a line.
    Json,
}

/// What is measured, and where it is served.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// `DRIPLINE_METRICS__LISTEN`: where `/metrics`, `/healthz` and `/readyz` are served, for every kind of process.
    /// Nothing is measured without it. Nobody is asked for a key there, so it should not be open to the internet.
    #[serde(with = "units::listen_if_set")]
    pub listen: Option<SocketAddr>,
}

/// What is traced, and where it is sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// `DRIPLINE_TELEMETRY__OTLP_ENDPOINT`: an OpenTelemetry collector that takes OTLP by HTTP, such as
    /// `http://127.0.0.1:4318`; traces go to its `/v1/traces`. Nothing is traced without it.
    pub otlp_endpoint: Option<String>,
    /// `DRIPLINE_TELEMETRY__SAMPLE_RATIO`: the part of the traces that is sent, from 0 to 1. A trace that began elsewhere
    /// is sent if it is there.
    pub sample_ratio: f64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { otlp_endpoint: None, sample_ratio: 1.0 }
    }
}
