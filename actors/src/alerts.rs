//! The alerts: looks for what needs a person, and tells people, once, and once more when it is over.
//!
//! Every process looks, the gateway alone too, since any of them may be the last that lives. What it finds it writes into
//! the bucket `alerts`, one record an alert; the process whose write is first tells. An alert that no process sees any
//! more is resolved, so one that died with its process ends as well.
//!
//! That leads cannot be put on disk is kept in memory, as the bucket is then away too: each process tells it for itself.
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use dripline_domain::{Alert, AlertPolicy, Cause, Condition, Growth, Installation, Pending, Timestamp};
use futures_util::future::join_all;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::Chain;
use crate::breaker::Opened;
use crate::outgoing::GONE;
use crate::ports::{Control, Revision, SaveError, StoreError};
use crate::provider::Providers;
use crate::statistics::GUARD;
use crate::watch::WatchPorts;

/// The server has so long to answer for all of one look.
const LOOK_TIME: Duration = Duration::from_secs(15);
/// So often a record is tried to be written that others write beside.
const TRIES: u32 = 5;

/// When something needs a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlertSettings {
    /// Between two looks.
    pub every: Duration,
    /// What may pass by itself (a provider that is left alone, no engine, no queue) is told after this; and what was not
    /// seen for so long is over. Several times `every`.
    pub patience: Duration,
    /// An alert that stays is told again after this.
    pub repeat: Duration,
    /// A message of a queue that waits for longer is an alert.
    pub queue_age: Duration,
    /// So many rejected messages within `within` are an alert.
    pub rejected: u64,
    /// So many lost answers within `within` are an alert.
    pub in_doubt: u64,
    /// See `rejected` and `in_doubt`.
    pub within: Duration,
}

impl AlertSettings {
    fn policy(&self) -> AlertPolicy {
        AlertPolicy { quiet: self.patience, repeat: self.repeat }
    }
}

pub(crate) enum Message {
    /// Look, and tell.
    Look,
    /// A try to deliver is over: these channels have the notice.
    Tried(Box<Tried>),
}

pub(crate) struct Tried {
    notice: Notice,
    through: Vec<String>,
}

/// A notice that this process is at.
#[derive(Clone)]
struct Notice {
    alert: Alert,
    pending: Pending,
    /// Whether the record is in this process's memory alone.
    local: bool,
}

pub(crate) struct AlertActor;

pub(crate) struct AlertState {
    ports: WatchPorts,
    settings: AlertSettings,
    channels: Vec<String>,
    patience: Patience,
    local_patience: Patience,
    /// Alerts of this process alone.
    local: BTreeMap<String, Alert>,
    rejected: Growth,
    in_doubt: Growth,
}

impl Actor for AlertActor {
    type Msg = Message;
    type State = AlertState;
    type Arguments = (WatchPorts, AlertSettings);

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        (ports, settings): (WatchPorts, AlertSettings),
    ) -> Result<AlertState, ActorProcessingErr> {
        myself.cast(Message::Look)?;
        let channels = ports.channels.iter().map(|channel| channel.name().to_owned()).collect();
        let growth = Growth::new(settings.within);
        Ok(AlertState {
            ports,
            settings,
            channels,
            patience: Patience::default(),
            local_patience: Patience::default(),
            local: BTreeMap::new(),
            rejected: growth.clone(),
            in_doubt: growth,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut AlertState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Look => {
                let mut notices = state.look_here().await;
                match tokio::time::timeout(LOOK_TIME, state.look_around()).await {
                    Ok(Ok(shared)) => notices.extend(shared),
                    Ok(Err(error)) => tracing::debug!(error = %Chain(&error), "the installation cannot be seen now"),
                    Err(_elapsed) => tracing::debug!("the installation cannot be seen now: no answer in time"),
                }
                for notice in notices {
                    tokio::spawn(deliver(state.ports.clone(), notice, myself.clone()));
                }
                myself.send_after(state.settings.every, || Message::Look);
            }
            Message::Tried(tried) => state.tried(*tried).await,
        }
        Ok(())
    }
}

impl AlertState {
    /// What this process alone can know, and tell.
    async fn look_here(&mut self) -> Vec<Notice> {
        let now = self.ports.clock.now();
        let failing = self.ports.front_door.ready().await.err().map(|error| Condition {
            cause: Cause::Ingestion,
            summary: format!("{}: leads cannot be put on disk: {}", self.ports.owner, Chain(&error)),
        });
        let conditions: Vec<_> = failing.into_iter().collect();
        let may_raise = self.local_patience.over(&conditions, self.settings.patience, now);
        let mut notices = Vec::new();
        for (key, condition) in keys(&conditions, self.local.keys()) {
            let before = self.local.get(&key).cloned();
            match advance(before.as_ref(), condition, may_raise.contains(&key), &self.channels, &self.settings, now) {
                Change::None => {}
                Change::Remove => drop(self.local.remove(&key)),
                Change::Write { alert, claimed } => {
                    log(before.as_ref(), &alert);
                    notices.extend(claimed.map(|pending| Notice { alert: alert.clone(), pending, local: true }));
                    self.local.insert(key, alert);
                }
            }
        }
        notices
    }

    /// What every process can see.
    async fn look_around(&mut self) -> Result<Vec<Notice>, StoreError> {
        let conditions = self.conditions().await?;
        let now = self.ports.clock.now();
        let may_raise = self.patience.over(&conditions, self.settings.patience, now);
        let alerts = self.ports.alerts.all().await?;
        let alerts: BTreeMap<_, _> = alerts.into_iter().map(|(alert, at)| (alert.key.clone(), (alert, at))).collect();
        let mut notices = Vec::new();
        for (key, condition) in keys(&conditions, alerts.keys()) {
            let before = alerts.get(&key).map(|(alert, _)| alert);
            let revision = alerts.get(&key).map_or(0, |(_, revision)| *revision);
            let change = advance(before, condition, may_raise.contains(&key), &self.channels, &self.settings, now);
            let written = match &change {
                Change::None => continue,
                Change::Remove => self.ports.alerts.remove(&key, revision).await,
                Change::Write { alert, .. } => self.ports.alerts.save(alert, revision).await.map(drop),
            };
            match (written, change) {
                (Ok(()), Change::Write { alert, claimed }) => {
                    log(before, &alert);
                    notices.extend(claimed.map(|pending| Notice { alert, pending, local: false }));
                }
                (Ok(()), Change::None | Change::Remove) | (Err(SaveError::Conflict), _) => {}
                (Err(SaveError::Store(error)), _) => {
                    // What was written is told all the same.
                    tracing::debug!(error = %Chain(&error), "alerts cannot be written now");
                    break;
                }
            }
        }
        Ok(notices)
    }

    async fn conditions(&mut self) -> Result<Vec<Condition>, StoreError> {
        let installation = self.ports.surveyor.look().await?;
        let now = self.ports.clock.now();
        let grown = Grown {
            rejected: self.rejected.sample(installation.rejected, now),
            in_doubt: self.in_doubt.sample(installation.in_doubt, now),
        };
        let mut conditions = of_installation(&installation, grown, &self.settings, now);
        let stopped = self.ports.providers.iter().flat_map(Providers::stopped);
        conditions.extend(stopped.map(|(name, opened)| of_provider(name, &opened)));
        conditions
            .extend(self.ports.controls.all_paused().iter().filter_map(|(key, control)| of_control(key, control)));
        if let Some(canary) = &self.ports.canary {
            let failure = canary.store.load().await?.0.failure;
            let of_failure =
                failure.map(|failure| Condition { cause: Cause::Canary(failure.link), summary: failure.summary });
            conditions.extend(of_failure);
        }
        Ok(conditions)
    }

    async fn tried(&mut self, Tried { notice: Notice { alert, pending, local }, through }: Tried) {
        let now = self.ports.clock.now();
        if local {
            let delivered = self.local.get(&alert.key).and_then(|alert| alert.delivered(&pending, &through, now));
            self.local.extend(delivered.map(|alert| (alert.key.clone(), alert)));
            return;
        }
        for _ in 0..TRIES {
            let written = async {
                let Some((alert, revision)) = self.ports.alerts.load(&alert.key).await? else { return Ok(()) };
                let Some(alert) = alert.delivered(&pending, &through, now) else { return Ok(()) };
                self.ports.alerts.save(&alert, revision).await.map(|_: Revision| ())
            };
            match written.await {
                Ok(()) => return,
                Err(SaveError::Conflict) => {}
                Err(SaveError::Store(error)) => {
                    tracing::warn!(alert = alert.key, error = %Chain(&error), "people were told, perhaps twice: that they were could not be written down");
                    return;
                }
            }
        }
    }
}

/// Tells people, through all channels that do not have it yet.
async fn deliver(ports: WatchPorts, notice: Notice, actor: ActorRef<Message>) {
    let Notice { alert, pending, .. } = &notice;
    let tries = ports.channels.iter().filter(|channel| pending.left.iter().any(|left| left == channel.name()));
    let tries = tries.map(|channel| async move {
        match channel.tell(alert, pending.kind).await {
            Ok(()) => Some(channel.name().to_owned()),
            Err(error) => {
                tracing::warn!(alert = alert.key, channel = channel.name(), tries = pending.tries, %error, "people could not be told; trying again");
                None
            }
        }
    });
    let through = join_all(tries).await.into_iter().flatten().collect();
    // Fails when this process is stopping: another tries again, once the time for it is over.
    let _ = actor.cast(Message::Tried(Box::new(Tried { notice, through })));
}

enum Change {
    None,
    /// The notice that is to be tried, if there is one.
    Write {
        alert: Alert,
        claimed: Option<Pending>,
    },
    Remove,
}

/// What becomes of one alert.
fn advance(
    before: Option<&Alert>,
    condition: Option<&Condition>,
    may_raise: bool,
    channels: &[String],
    settings: &AlertSettings,
    now: Timestamp,
) -> Change {
    let policy = settings.policy();
    let changed = match (before, condition) {
        (None, None) => return Change::None,
        (None, Some(condition)) => may_raise.then(|| Alert::raise(condition, channels, now)),
        (Some(alert), Some(condition)) => alert.see(condition, channels, policy, now),
        (Some(alert), None) => alert.expire(channels, policy, now),
    };
    let Some(alert) = changed.as_ref().or(before) else { return Change::None };
    if let Some(claimed) = alert.claim(channels, now) {
        let pending = claimed.pending.clone();
        return Change::Write { alert: claimed, claimed: pending };
    }
    // Written once more before it is removed, so that one process alone says that it is over.
    match changed {
        Some(alert) => Change::Write { alert, claimed: None },
        None if alert.is_over() => Change::Remove,
        None => Change::None,
    }
}

/// One line when it begins, one when it is over, whoever else is told.
fn log(before: Option<&Alert>, alert: &Alert) {
    let Alert { key, severity, summary, since, resolved, .. } = alert;
    if before.is_none_or(|before| before.since != *since) {
        tracing::error!(alert = key, %severity, summary, "this needs a person");
    } else if resolved.is_some() && before.is_some_and(|before| before.resolved.is_none()) {
        tracing::info!(alert = key, %since, summary, "resolved");
    }
}

/// Every alert that is seen or known, each once.
fn keys<'a, 'b>(
    conditions: &'a [Condition],
    known: impl Iterator<Item = &'b String>,
) -> BTreeMap<String, Option<&'a Condition>> {
    let mut keys: BTreeMap<_, _> = known.map(|key| (key.clone(), None)).collect();
    keys.extend(conditions.iter().map(|condition| (condition.cause.key(), Some(condition))));
    keys
}

/// Since when what may pass by itself has lasted.
#[derive(Debug, Default)]
struct Patience(HashMap<String, Timestamp>);

impl Patience {
    /// The keys of those that have lasted long enough.
    fn over(&mut self, conditions: &[Condition], patience: Duration, now: Timestamp) -> Vec<String> {
        let keys: Vec<_> = conditions.iter().map(|condition| (condition.cause.key(), &condition.cause)).collect();
        self.0.retain(|known, _| keys.iter().any(|(key, _)| key == known));
        let over = keys.into_iter().filter(|(key, cause)| {
            let since = *self.0.entry(key.clone()).or_insert(now);
            !may_pass(cause) || now.since(since) >= patience
        });
        over.map(|(key, _)| key).collect()
    }
}

/// A restart, or a moment without a connection, is nobody's business.
fn may_pass(cause: &Cause) -> bool {
    match cause {
        Cause::ProviderStopped(_) | Cause::Ingestion | Cause::NoEngine => true,
        Cause::Canary(_)
        | Cause::ProviderMisconfigured(_)
        | Cause::QueueBlocked(_)
        | Cause::QueueFull
        | Cause::InDoubt
        | Cause::Rejected
        | Cause::Guard(_)
        | Cause::OutgoingWebhook(_) => false,
    }
}

/// What came within [`AlertSettings::within`].
#[derive(Debug, Clone, Copy, Default)]
struct Grown {
    rejected: u64,
    in_doubt: u64,
}

fn of_installation(
    installation: &Installation,
    grown: Grown,
    settings: &AlertSettings,
    now: Timestamp,
) -> Vec<Condition> {
    let Installation { engines, leads, feedback, timers, .. } = installation;
    let mut conditions = Vec::new();
    let mut push = |holds: bool, cause: Cause, summary: &dyn Fn() -> String| {
        if holds {
            conditions.push(Condition { cause, summary: summary() });
        }
    };
    push(*engines == 0, Cause::NoEngine, &|| {
        "no engine is alive: leads are taken, and nothing is sent; start one with `dripline engine`".to_owned()
    });
    push(leads.full, Cause::QueueFull, &|| {
        format!("the queue {} is full, and every lead is refused (nats.max_leads); {}", leads.stream, leads.waits())
    });
    for queue in [leads, feedback, timers] {
        let blocked = queue.waiting > 0 && queue.oldest.is_some_and(|oldest| now.since(oldest) > settings.queue_age);
        push(blocked, Cause::QueueBlocked(queue.stream.clone()), &|| {
            format!("the queue {} does not drain: {}", queue.stream, queue.waits())
        });
    }
    let within = settings.within;
    push(grown.rejected >= settings.rejected, Cause::Rejected, &|| {
        let Grown { rejected, .. } = grown;
        format!("messages rejected within {within:?}: {rejected}; look at them with `dripline rejected ls`")
    });
    push(grown.in_doubt >= settings.in_doubt, Cause::InDoubt, &|| {
        let Grown { in_doubt, .. } = grown;
        format!("answers lost within {within:?}: {in_doubt}; whether those emails were sent is not known")
    });
    conditions
}

fn of_provider(name: &str, opened: &Opened) -> Condition {
    let Opened { misconfigured, reason } = opened;
    if *misconfigured {
        let summary = format!("the provider {name} refuses every email until its configuration is mended: {reason}");
        Condition { cause: Cause::ProviderMisconfigured(name.to_owned()), summary }
    } else {
        let summary = format!("the provider {name} fails, and is left alone but for one try now and then: {reason}");
        Condition { cause: Cause::ProviderStopped(name.to_owned()), summary }
    }
}

/// What was held back by itself; what a person holds back, that person knows.
fn of_control(key: &str, Control { reason, by, .. }: &Control) -> Option<Condition> {
    if let Some(name) = key.strip_prefix("sequence.").filter(|_| by == GUARD) {
        let summary =
            format!("the sequence `{name}` was paused by its guard: {reason}; go on with `dripline sequence resume`");
        return Some(Condition { cause: Cause::Guard(name.to_owned()), summary });
    }
    let name = key.strip_prefix("outgoing.").filter(|_| by == GONE)?;
    let summary = format!("nothing more is posted to the outgoing webhook `{name}`: {reason}");
    Some(Condition { cause: Cause::OutgoingWebhook(name.to_owned()), summary })
}

/// Whether this alert says that a provider is stopped.
pub(crate) fn is_of_provider(alert: &Alert) -> bool {
    alert.resolved.is_none() && (alert.key.starts_with("provider.") || alert.key.starts_with("misconfigured."))
}

#[cfg(test)]
mod tests {
    use dripline_domain::QueueState;

    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_000_000);
    const SETTINGS: AlertSettings = AlertSettings {
        every: Duration::from_secs(5),
        patience: Duration::from_secs(30),
        repeat: Duration::from_hours(4),
        queue_age: Duration::from_mins(5),
        rejected: 10,
        in_doubt: 5,
        within: Duration::from_mins(10),
    };

    fn causes(installation: &Installation, grown: Grown, now: Timestamp) -> Vec<String> {
        of_installation(installation, grown, &SETTINGS, now).iter().map(|it| it.cause.key()).collect()
    }

    #[test]
    fn a_working_installation_is_no_alert_and_each_fault_is_its_own() {
        let queue = |stream: &str| QueueState {
            stream: stream.to_owned(),
            waiting: 7,
            oldest: Some(START),
            ..QueueState::default()
        };
        let working = Installation {
            engines: 1,
            leads: queue("LEADS"),
            feedback: queue("FEEDBACK"),
            timers: queue("TIMERS"),
            ..Installation::default()
        };
        let now = START.plus(Duration::from_mins(5));
        let grown = Grown { rejected: 9, in_doubt: 4 };
        assert!(causes(&working, grown, now).is_empty());
        let late = now.plus(Duration::from_millis(1));
        assert_eq!(causes(&working, grown, late), ["queue.LEADS", "queue.FEEDBACK", "queue.TIMERS"]);
        assert_eq!(causes(&working, Grown { rejected: 10, in_doubt: 5 }, now), ["rejected", "in-doubt"]);
        let full = QueueState { full: true, ..queue("LEADS") };
        let broken = Installation { engines: 0, leads: full, ..working };
        assert_eq!(causes(&broken, grown, now), ["no-engine", "queue-full"]);
    }

    #[test]
    fn what_may_pass_must_last_without_a_gap() {
        let gone = || vec![Condition { cause: Cause::NoEngine, summary: String::new() }];
        let mut patience = Patience::default();
        let mut over = |conditions: &[Condition], seconds| {
            patience.over(conditions, SETTINGS.patience, START.plus(Duration::from_secs(seconds)))
        };
        assert!(over(&gone(), 0).is_empty());
        assert!(over(&gone(), 29).is_empty());
        assert!(over(&[], 30).is_empty());
        assert!(over(&gone(), 35).is_empty());
        assert_eq!(over(&gone(), 65), ["no-engine"]);
        let revoked = Condition { cause: Cause::ProviderMisconfigured("smtp".to_owned()), summary: String::new() };
        assert_eq!(over(&[revoked], 65), ["misconfigured.smtp"], "at once");
    }

    #[test]
    fn what_a_person_holds_back_is_no_alert() {
        let control =
            |by: &str| Control { paused: true, reason: "why".to_owned(), by: by.to_owned(), timestamp: START };
        let cause = |key: &str, by| of_control(key, &control(by)).map(|it| it.cause.key());
        assert_eq!(cause("sequence.welcome", "guard").as_deref(), Some("guard.welcome"));
        assert_eq!(cause("outgoing.crm", "dripline").as_deref(), Some("outgoing.crm"));
        for (key, by) in [("sequence.welcome", "ann"), ("outgoing.crm", "ann"), ("provider.smtp", "guard")] {
            assert_eq!(cause(key, by), None, "{key} {by}");
        }
    }
}
