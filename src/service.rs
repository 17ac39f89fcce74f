//! The parts put together: connects, applies the topology, and runs the gateway, the engine, or both, until told to
//! stop.
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::stream::Stream;
use dripline_actors::ports::{Clock, Controls, Esp, FrontDoor};
use dripline_actors::{BreakerLimits, Engine, LeadLimits, Ports, Rate, Settings, Subscriber, Watch};
use dripline_domain::{
    CountingRules, DoubtPolicy, LeadIdKey, Limits, RetryPolicy, Sanitiser, SoftBouncePolicy, Timestamp,
};
use dripline_esp::webhooks::Bridge;
use dripline_esp::{
    HttpWebhook, Mailgun, MinijinjaComposer, Outbox, Postmark, Resend, SendGrid, Smtp, UnsubscribeLinks, Webhooks,
};
use dripline_nats::topology::{self, Applied, Change};
use dripline_nats::{
    Connections, ControlParts, ControlService, Figures, JetStreamControls, JetStreamFeedbackDoor, JetStreamFrontDoor,
    JetStreamInbox, JetStreamJournal, JetStreamLeadStore, JetStreamLedger, JetStreamLeftovers, JetStreamPresence,
    JetStreamRejected, JetStreamStatistics, JetStreamSuppressions, JetStreamTimers, Login, Mender, ReadFolder,
    Selection, SequenceBook, SuppressionList,
};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::config::{Config, Esp as EspSettings, Loaded, Provider, check_sequences};
use crate::gateway::health::{QueueCheck, ReadyCheck};
use crate::metrics::{self, Served};
use crate::telemetry::Addresses;
use crate::{canary, gateway, stats, watch};

/// On a stop: so long for what is in flight, then the rest is left to redelivery.
const PATIENCE: Duration = Duration::from_secs(20);

/// What runs in this process.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// Takes leads in.
    pub gateway: bool,
    /// Sends emails.
    pub engine: bool,
}

/// The sequences cannot be used as they are.
#[derive(Debug, thiserror::Error)]
#[error("the sequences cannot be used:\n{}", .0.join("\n"))]
pub struct SequenceProblems(Vec<String>);

/// Resolves at SIGINT or SIGTERM.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};

    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::warn!("signals cannot be caught; the process ends only when it is killed");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Runs these parts until `stop` resolves, then finishes what is in flight.
pub async fn run(loaded: Loaded, parts: Parts, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let config = &loaded.config;
    let esps = if parts.engine { Some(providers(config)?) } else { None };
    let running = Running::start(&loaded, parts, esps).await?;
    tracing::info!(gateway = parts.gateway, engine = parts.engine, provider = ?config.esp.provider, "dripline is running");
    running.until(stop).await
}

/// Makes the topology what it must be.
pub async fn apply_topology(config: &Config) -> anyhow::Result<Vec<Change>> {
    let connections = connect(config, "dripline topology").await?;
    let applied = topology::apply(&Connections::jetstream(&connections.general), topology_options(config)).await?;
    Ok(applied.changes)
}

/// The suppression list, for an operator's commands.
pub(crate) async fn suppression_list(config: &Config) -> anyhow::Result<SuppressionList> {
    let connections = connect(config, "dripline suppression").await?;
    let context = Connections::jetstream(&connections.general);
    let applied = topology::apply(&context, topology_options(config)).await?;
    Ok(SuppressionList::open(context, applied.lead_ids).await?)
}

/// The parts of this process, running.
pub(crate) struct Running {
    connections: Connections,
    stats: AbortHandle,
    engine: Option<Engine>,
    control: Option<ControlService>,
    watch: Watch,
    gateway: Option<(tokio::task::JoinHandle<std::io::Result<()>>, tokio::sync::oneshot::Sender<()>)>,
    metrics: Option<Served>,
    /// Where the gateway listens.
    pub(crate) address: Option<SocketAddr>,
    /// The way in, as the gateway has it.
    pub(crate) front_door: Arc<dyn FrontDoor>,
}

impl Running {
    pub(crate) async fn start(loaded: &Loaded, parts: Parts, esps: Option<Vec<Arc<dyn Esp>>>) -> anyhow::Result<Self> {
        let config = &loaded.config;
        // Before anything is there to be measured.
        let recorder = config.metrics.listen.map(|listen| anyhow::Ok((listen, metrics::install()?))).transpose()?;
        let owner = owner();
        let connections = connect(config, &format!("dripline {owner}")).await?;
        let context = Connections::jetstream(&connections.general);
        let Applied { lead_ids, changes } = topology::apply(&context, topology_options(config)).await?;
        for change in changes {
            tracing::debug!(what = change.what, action = ?change.action, "topology");
        }
        let stats = tokio::spawn(stats::answer_requests(connections.clone())).abort_handle();
        let front_door: Arc<dyn FrontDoor> = Arc::new(JetStreamFrontDoor::open(&connections));
        let listener = if parts.gateway { Some(listen(config.gateway.listen).await?) } else { None };
        let address =
            listener.as_ref().map(TcpListener::local_addr).transpose().context("the listener has no address")?;
        let links = unsubscribe_links(config, &lead_ids, address.unwrap_or(config.gateway.listen));
        let (engine, controls): (_, Arc<dyn Controls>) = match esps {
            Some(esps) => {
                let sequences = sequences(loaded, &connections).await?;
                let ports =
                    ports(config, &connections, esps, links.clone(), lead_ids.clone(), Arc::clone(&sequences)).await?;
                let controls = Arc::clone(&ports.controls);
                let settings = settings(config, owner.clone(), lead_ids.clone());
                let engine = Engine::start(ports, settings).await.context("the engine did not start")?;
                let parts = ControlParts {
                    controller: engine.controller().clone(),
                    controls: Arc::clone(&controls),
                    sequences,
                    folder: folder(loaded.clone()),
                    webhooks: config.outgoing_webhooks.iter().map(|webhook| webhook.name.clone()).collect(),
                    sanitiser: sanitiser(config),
                };
                let control = ControlService::start(&connections, parts).await?;
                (Some((engine, control)), controls)
            }
            None => (None, Arc::new(JetStreamControls::watch(&connections).await.context("bucket controls")?)),
        };
        let (engine, control) = engine.unzip();
        let providers = engine.as_ref().map(|engine| engine.providers().clone());
        let watch = watch::start(config, &connections, owner, &front_door, providers, controls).await?;
        let mut gateway = None;
        if let Some(listener) = listener {
            let bridge = Bridge::new(&config.webhooks).map_err(|error| loaded.wrong("webhooks", error.to_string()))?;
            if !parts.engine && config.unsubscribe.keys.is_empty() {
                tracing::warn!(
                    "unsubscribe.keys is not set here: links that an engine sealed with such a key are refused"
                );
            }
            let router = gateway::router(gateway::Gateway {
                door: Arc::clone(&front_door),
                feedback: Arc::new(JetStreamFeedbackDoor::open(&connections)),
                bridge,
                links,
                clock: Arc::new(SystemClock),
                sanitiser: sanitiser(config),
                lead_ids,
                settings: config.gateway.clone(),
                addresses: Addresses::of(&config.log),
                checks: Vec::new(),
            })
            .context("the page to unsubscribe cannot be shown")?;
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let serving = tokio::spawn(gateway::serve(listener, router, async move {
                // Dropped means stopping as well.
                let _ = stopped.await;
            }));
            tracing::info!(address = ?address, "the gateway listens");
            gateway = Some((serving, stop));
        }
        let metrics = match recorder {
            Some((listen, recorder)) => {
                let figures = Figures::new(context.clone());
                let checks: Vec<Arc<dyn ReadyCheck>> = vec![Arc::new(QueueCheck(Arc::clone(&front_door)))];
                Some(Served::start(listen, recorder, checks, figures, Arc::new(SystemClock)).await?)
            }
            None => None,
        };
        Ok(Self { connections, stats, engine, control, watch, gateway, metrics, address, front_door })
    }

    pub(crate) async fn until(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let tree_ended = async {
            match &mut self.engine {
                Some(engine) => engine.ended().await,
                None => std::future::pending().await,
            }
        };
        let failed = tokio::select! {
            () = stop => false,
            () = tree_ended => true,
        };
        if failed {
            anyhow::bail!(
                "the actor tree failed again and again and was given up; nothing is lost: start dripline again"
            );
        }
        tracing::info!("stopping: finishing what is in flight");
        // First: what stops now is no alert.
        self.watch.stop().await;
        if let Some((serving, stop)) = self.gateway.take() {
            let _ = stop.send(());
            match tokio::time::timeout(PATIENCE, serving).await {
                Ok(Ok(served)) => served.context("the gateway failed")?,
                Ok(Err(error)) => return Err(error).context("the gateway failed"),
                Err(_elapsed) => tracing::warn!("connections to the gateway were cut"),
            }
        }
        // Operators ask another engine from now on.
        drop(self.control.take());
        if let Some(engine) = self.engine.take() {
            engine.stop(PATIENCE).await;
            tracing::info!("the engine has stopped");
        }
        // To the end, so that what happens on a stop can be seen.
        if let Some(metrics) = self.metrics.take() {
            metrics.stop().await;
        }
        self.stats.abort();
        self.connections.flush().await;
        Ok(())
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} (gateway.listen)"))
}

/// The links that emails carry and the gateway knows. Where nothing is set, they lead to this machine, and are sealed with
/// a secret of this installation: good for looking at them.
fn unsubscribe_links(config: &Config, lead_ids: &LeadIdKey, gateway: SocketAddr) -> UnsubscribeLinks {
    let local = || {
        if gateway.ip().is_unspecified() {
            format!("http://localhost:{}", gateway.port())
        } else {
            format!("http://{gateway}")
        }
    };
    let base_url = config.unsubscribe.base_url.clone().unwrap_or_else(local);
    let base_url = base_url.trim_end_matches('/');
    let mut keys = config.unsubscribe.keys.iter().map(|key| key.expose().as_bytes());
    match keys.next() {
        Some(current) => UnsubscribeLinks::new(base_url, current, keys),
        None => UnsubscribeLinks::new(base_url, &lead_ids.derived("unsubscribe links"), []),
    }
}

/// The sequences of the configured folder, published.
///
/// # Errors
/// They cannot be used, or the topology is not there.
pub async fn sequences(loaded: &Loaded, connections: &Connections) -> anyhow::Result<Arc<SequenceBook>> {
    let sequences = folder(loaded.clone())().map_err(SequenceProblems)?;
    let settings = &loaded.config.sequences;
    let selection =
        Selection { by_source: settings.sources.clone().into_iter().collect(), default: settings.default.clone() };
    let context = &Connections::jetstream(&connections.general);
    let bucket = stream(context, topology::SEQUENCES_BUCKET).await?;
    Ok(Arc::new(SequenceBook::publish(context, bucket, sequences, selection).await?))
}

/// Reads the configured folder, and adds the canary's own sequence; every problem where the sequences cannot be used.
fn folder(loaded: Loaded) -> ReadFolder {
    Arc::new(move || {
        let report = check_sequences(&loaded);
        if !report.is_good() {
            return Err(report.problems);
        }
        Ok(report.sequences.into_iter().chain(canary::built_in(&loaded.config.canary)).collect())
    })
}

/// The engine's world: everything on NATS, these sequences, and these providers.
///
/// # Errors
/// The topology is not there.
pub async fn ports(
    config: &Config,
    connections: &Connections,
    esps: Vec<Arc<dyn Esp>>,
    links: UnsubscribeLinks,
    lead_ids: LeadIdKey,
    sequences: Arc<SequenceBook>,
) -> anyhow::Result<Ports> {
    let context = &Connections::jetstream(&connections.general);
    // An older version of a sequence can be on its way that the folder has no more.
    let links = (!config.esp.mails() || config.unsubscribe.missing().is_none()).then_some(links);
    let timers_context = Connections::jetstream(&connections.timers);
    let leads = stream(context, topology::LEADS_BUCKET).await?;
    let timers = stream(context, topology::TIMERS).await?;
    let mender = Mender::new(connections.clone(), topology_options(config));
    Ok(Ports {
        clock: Arc::new(SystemClock),
        store: Arc::new(JetStreamLeadStore::new(leads.clone(), connections.commits.clone())),
        timers: Arc::new(JetStreamTimers::new(timers_context, timers.clone())),
        suppressions: Arc::new(JetStreamSuppressions::watch(
            connections,
            stream(context, topology::SUPPRESSIONS_BUCKET).await?,
            lead_ids,
        )),
        sequences,
        composer: Arc::new(MinijinjaComposer::new(links)),
        esps,
        rejected: Arc::new(JetStreamRejected::new(context.clone())),
        ledger: Arc::new(JetStreamLedger::new(context.clone(), leads, timers, connections.connected.clone())),
        leads: Arc::new(JetStreamInbox::trimming(
            consumer(context, topology::LEADS, topology::INTAKE).await?,
            mender.clone(),
            stream(context, topology::LEADS).await?,
        )),
        due: Arc::new(JetStreamInbox::new(consumer(context, topology::TIMERS, topology::DUE).await?, mender.clone())),
        feedback: Arc::new(JetStreamInbox::trimming(
            consumer(context, topology::FEEDBACK, topology::FEEDBACK_CONSUMER).await?,
            mender.clone(),
            stream(context, topology::FEEDBACK).await?,
        )),
        feedback_reader: Arc::new(Webhooks),
        subscribers: subscribers(config, context, &mender).await?,
        controls: Arc::new(JetStreamControls::watch(connections).await.context("bucket controls")?),
        journal: Arc::new(JetStreamJournal::new(stream(context, topology::JOURNAL).await?)),
        statistics: Arc::new(statistics(connections).await?),
        leftovers: Arc::new(JetStreamLeftovers::new(
            context.get_key_value(topology::OUTGOING).await.context("bucket outgoing")?,
        )),
        presence: Arc::new(JetStreamPresence::new(
            context.get_key_value(topology::ENGINES).await.context("bucket engines")?,
        )),
    })
}

/// How the engine works, as configured. `owner` names this process, and no other, ever.
pub fn settings(config: &Config, owner: String, lead_ids: LeadIdKey) -> Settings {
    let rate = (config.esp.rate > 0.0).then(|| {
        // So few that no five seconds see noticeably more than five times the rate; the cast saturates.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let tenth = std::num::NonZeroU32::new((config.esp.rate / 10.0) as u32).unwrap_or(std::num::NonZeroU32::MIN);
        Rate { per_second: config.esp.rate, burst: config.esp.burst.unwrap_or(tenth) }
    });
    Settings {
        owner,
        leads: LeadLimits {
            resident: config.engine.resident_leads,
            idle: config.engine.idle,
            failures: config.engine.restart_limit,
        },
        due_in_flight: config.engine.in_flight,
        intake_in_flight: config.engine.in_flight,
        feedback_in_flight: config.engine.in_flight,
        calls_in_flight: config.esp.in_flight,
        rate,
        call_within: config.esp.timeout,
        // For the wait before the call, the call itself, and a margin for clocks.
        answer_within: config.esp.timeout * 2 + Duration::from_secs(2),
        retry: RetryPolicy::from(&config.retry),
        doubt: DoubtPolicy { wait: config.esp.in_doubt_wait, then: config.esp.in_doubt.into() },
        soft_bounces: SoftBouncePolicy::from(&config.feedback),
        breaker: BreakerLimits {
            failures: config.esp.breaker_failures,
            longest: config.esp.probe_every,
            ..BreakerLimits::default()
        },
        ack_wait: config.engine.ack_wait,
        sweep_every: config.engine.sweep_every,
        counting: counting_rules(config),
        sanitiser: sanitiser(config),
        lead_ids,
    }
}

/// What is counted, and when a sequence is paused, as configured.
pub(crate) fn counting_rules(config: &Config) -> CountingRules {
    let exclude = config.statistics.exclude.iter().cloned().chain(canary::sequence_name(&config.canary)).collect();
    CountingRules { exclude, guard: (&config.guard).into() }
}

async fn subscribers(
    config: &Config,
    context: &jetstream::Context,
    mender: &Mender,
) -> anyhow::Result<Vec<Subscriber>> {
    let mut subscribers = Vec::with_capacity(config.outgoing_webhooks.len());
    for webhook in &config.outgoing_webhooks {
        let consumer = consumer(context, topology::JOURNAL, &topology::outgoing_consumer(&webhook.name)).await?;
        subscribers.push(Subscriber {
            webhook: Arc::new(HttpWebhook::new(&webhook.name, &webhook.url, &webhook.secret)?),
            inbox: Arc::new(JetStreamInbox::new(consumer, mender.clone())),
            events: webhook.events.clone().map(|events| events.into_iter().collect()),
        });
    }
    Ok(subscribers)
}

/// Tells a lead from what is none, as configured.
pub(crate) fn sanitiser(config: &Config) -> Sanitiser {
    Sanitiser { default_region: config.engine.default_region.clone(), limits: Limits::default() }
}

/// The providers that the configuration names, in order of preference.
pub(crate) fn providers(config: &Config) -> anyhow::Result<Vec<Arc<dyn Esp>>> {
    let esp = &config.esp;
    std::iter::once(esp.provider).chain(esp.fallback.iter().copied()).map(|name| provider(esp, name)).collect()
}

fn provider(esp: &EspSettings, name: Provider) -> anyhow::Result<Arc<dyn Esp>> {
    let (timeout, calls) = (esp.timeout, esp.in_flight);
    // The configuration was checked: the chosen provider's part is there, or its adapter says what is missing.
    Ok(match name {
        Provider::Outbox => Arc::new(Outbox::new(&esp.outbox)?),
        Provider::Sendgrid => Arc::new(SendGrid::new(&esp.sendgrid.clone().unwrap_or_default(), timeout, calls)?),
        Provider::Mailgun => {
            let mailgun = Mailgun::new(&esp.mailgun.clone().unwrap_or_default(), timeout, calls)?;
            if esp.batch { Arc::new(mailgun.batching()) } else { Arc::new(mailgun) }
        }
        Provider::Postmark => {
            let postmark = Postmark::new(&esp.postmark.clone().unwrap_or_default(), timeout, calls)?;
            if esp.batch { Arc::new(postmark.batching()) } else { Arc::new(postmark) }
        }
        Provider::Resend => {
            let resend = Resend::new(&esp.resend.clone().unwrap_or_default(), timeout, calls)?;
            if esp.batch { Arc::new(resend.batching()) } else { Arc::new(resend) }
        }
        Provider::Smtp => Arc::new(Smtp::new(&esp.smtp.clone().unwrap_or_default(), timeout, calls)?),
    })
}

/// Connects as configured; the server shows `name`.
///
/// # Errors
/// The server cannot be reached, or does not let us in.
pub async fn connect(config: &Config, name: &str) -> anyhow::Result<Connections> {
    let nats = &config.nats;
    let secret = |secret: &dripline_esp::Secret| secret.expose().to_owned();
    let login = match (&nats.user, &nats.nkey_seed, &nats.creds_file) {
        (Some(user), _, _) => Login::Password(user.clone(), nats.password.as_ref().map(secret).unwrap_or_default()),
        (None, Some(seed), _) => Login::NkeySeed(secret(seed)),
        (None, None, Some(file)) => Login::CredentialsFile(file.clone()),
        (None, None, None) => Login::None,
    };
    Ok(dripline_nats::connect(&nats.url, &login, name).await?)
}

/// What differs from one installation to the next, as configured.
pub fn topology_options(config: &Config) -> topology::Options {
    topology::Options {
        replicas: config.nats.replicas,
        ack_wait: config.engine.ack_wait,
        max_leads: config.nats.max_leads,
        outgoing_webhooks: config.outgoing_webhooks.iter().map(|webhook| webhook.name.clone()).collect(),
    }
}

/// The counts, as they are kept.
pub(crate) async fn statistics(connections: &Connections) -> anyhow::Result<JetStreamStatistics> {
    let context = Connections::jetstream(&connections.general);
    Ok(JetStreamStatistics::new(connections.clone(), stream(&context, topology::STATISTICS_BUCKET).await?))
}

pub(crate) async fn stream(context: &jetstream::Context, name: &str) -> anyhow::Result<Stream<()>> {
    context.get_stream_no_info(name).await.with_context(|| format!("stream {name}"))
}

async fn consumer(context: &jetstream::Context, stream: &str, name: &str) -> anyhow::Result<Consumer<pull::Config>> {
    context.get_consumer_from_stream(name, stream).await.with_context(|| format!("consumer {stream}/{name}"))
}

/// Names this process, and no other, ever: where it runs, when it started, and chance.
fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    // It is the key of a bucket, too: letters, digits and dashes.
    let host: String = host.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let host = if host.is_empty() { "engine" } else { &host };
    format!("{host}.{}.{:08x}", std::process::id(), rand::random::<u32>())
}

pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}
