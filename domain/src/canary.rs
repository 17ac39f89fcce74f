//! The canary: a lead of our own goes through the real front door, and each of its emails must arrive. What is missing
//! says which link of the chain is broken.
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::{Address, Enrolment, Entry, Installation, Lead, Sequence, State, Timestamp, What};

/// The results of so many runs are kept.
pub const CANARY_RESULTS: usize = 24;

/// So many addresses of earlier runs are remembered until nothing of them is left.
pub const CANARY_LEFTOVERS: usize = 20;

/// A link of the chain from a lead's source to its mailbox: a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// The lead was not taken.
    FrontDoor,
    /// The queue of raw leads does not drain.
    Queue,
    /// No engine is alive, or it does not act.
    Engine,
    /// The queue of what is due does not drain.
    Timers,
    /// The provider does not take the email.
    Provider,
    /// The provider took the email, and it does not arrive, or not as it was sent.
    Delivery,
    /// The gateway cannot be reached, so no webhook can.
    Bridge,
    /// The queue of what providers tell does not drain.
    Feedback,
    /// The mailbox cannot be asked.
    Mailbox,
}

impl Link {
    /// As programs get it.
    pub fn name(self) -> &'static str {
        match self {
            Self::FrontDoor => "front-door",
            Self::Queue => "queue",
            Self::Engine => "engine",
            Self::Timers => "timers",
            Self::Provider => "provider",
            Self::Delivery => "delivery",
            Self::Bridge => "bridge",
            Self::Feedback => "feedback",
            Self::Mailbox => "mailbox",
        }
    }
}

/// Which link is broken, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The link.
    pub link: Link,
    /// For people; names no recipient.
    pub summary: String,
}

/// The canary of one installation: the run under way, and what became of the earlier ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Canary {
    /// The run under way. There is never another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<CanaryRun>,
    /// No run begins before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    /// What the last run found, until one passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Finding>,
    /// The last runs, the newest last; at most [`CANARY_RESULTS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<CanaryResult>,
    /// Whose lead and emails are not removed yet; at most [`CANARY_LEFTOVERS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<Leftover>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryRun {
    /// Names it, for good.
    pub id: String,
    /// Its lead's.
    pub address: Address,
    /// When it began.
    pub started: Timestamp,
    /// When the front door took its lead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Timestamp>,
    /// What was seen of each step, in order; empty until the lead is enrolled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<CanaryStep>,
    /// The process that looks after it.
    pub owner: String,
    /// After this, another may.
    pub lease: Timestamp,
}

/// What was seen of one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryStep {
    /// Its id.
    pub step: SmolStr,
    /// When the provider took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<Timestamp>,
    /// When it arrived, or was first seen to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrived: Option<Timestamp>,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryResult {
    /// As [`CanaryRun::id`].
    pub id: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// What was seen of each step.
    pub steps: Vec<CanaryStep>,
    /// What was broken; none where it passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Finding>,
}

/// A lead and its emails, to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// Whose.
    pub address: Address,
    /// When its run ended.
    pub since: Timestamp,
    /// Whether its document is removed.
    pub erased: bool,
}

/// The rhythm of the canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanaryRules {
    /// The sequence that its leads enter.
    pub sequence: String,
    /// From the beginning of a run to that of the next.
    pub interval: Duration,
    /// After a run that failed, the next begins sooner.
    pub retry: Duration,
    /// Each thing that must happen has so long for it: to be enrolled, to be sent once it is due, to arrive once it is
    /// sent.
    pub deadline: Duration,
}

/// An email that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// Of this step; none where the email does not say.
    pub step: Option<SmolStr>,
    /// When the mailbox took it; none where only that it arrived is known.
    pub at: Option<Timestamp>,
}

/// What can be seen of a run's lead.
#[derive(Debug, Clone, Copy)]
pub struct Sighting<'a> {
    /// Its document.
    pub lead: Option<&'a Lead>,
    /// The version of the sequence that it is in.
    pub sequence: Option<&'a Sequence>,
    /// What the mailbox, or a webhook, has of it.
    pub arrived: &'a [Arrived],
}

/// Where a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is late.
    Going,
    /// All of it was seen, in time and in order.
    Passed,
    /// This is not as it should be.
    Failed(Missing),
}

/// What should have been seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The front door did not take the lead.
    Acceptance {
        /// What it said.
        reason: String,
    },
    /// The lead is not in the bucket.
    Enrolment {
        /// When the front door took it.
        accepted: Timestamp,
    },
    /// A step was not sent.
    Sending {
        /// Which.
        step: SmolStr,
        /// When it was due.
        due: Timestamp,
        /// What its document says of it.
        standstill: Standstill,
    },
    /// A step was sent and did not arrive.
    Arrival {
        /// Which.
        step: SmolStr,
        /// When the provider took it.
        sent: Timestamp,
        /// What the provider told of it instead.
        told: Option<What>,
    },
    /// A step arrived before the one before it.
    Order {
        /// Which.
        step: SmolStr,
    },
    /// A step arrived twice.
    Once {
        /// Which.
        step: SmolStr,
    },
}

/// Why a step was not sent, as its lead's document has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standstill {
    /// It is as if nobody had tried.
    Untouched,
    /// The provider was called, and did not take it.
    Refused(String),
    /// The enrolment has ended, or cannot go on.
    Ended(String),
}

/// What surrounds a run that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The queues and engines; none where NATS does not tell.
    pub installation: Option<Installation>,
    /// Why a provider is stopped, if one is.
    pub provider: Option<String>,
    /// How arrivals are seen.
    pub evidence: EvidenceState,
}

/// How arrivals are seen, and whether that way is open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum EvidenceState {
    /// By webhooks; nobody has said where the gateway is.
    #[default]
    Webhooks,
    /// By webhooks, and the gateway can be reached.
    GatewayReached,
    /// By webhooks, and it cannot.
    GatewayAway {
        /// For people.
        reason: String,
    },
    /// By a mailbox, and it answers.
    Mailbox,
    /// By a mailbox, and it does not.
    MailboxAway {
        /// For people.
        reason: String,
    },
}

impl CanaryRun {
    /// Takes in what is seen now, and says where the run is.
    pub fn look(&mut self, sighting: Sighting<'_>, rules: &CanaryRules, now: Timestamp) -> Progress {
        let accepted = self.accepted.unwrap_or(self.started);
        let late = |since: Timestamp| now.since(since) > rules.deadline;
        let enrolled = sighting.lead.and_then(|lead| Some((lead, enrolment(lead, &rules.sequence)?)));
        let (Some((lead, enrolment)), Some(sequence)) = (enrolled, sighting.sequence) else {
            return if late(accepted) { Progress::Failed(Missing::Enrolment { accepted }) } else { Progress::Going };
        };
        if self.steps.is_empty() {
            let step = |step: &crate::Step| CanaryStep { step: step.id.clone(), sent: None, arrived: None };
            self.steps = sequence.steps.iter().map(step).collect();
        }
        if let Some(step) = self.see_arrivals(sighting.arrived, now) {
            return Progress::Failed(Missing::Once { step });
        }
        // The events of webhooks come in any order.
        let in_order = sighting.arrived.iter().all(|email| email.at.is_some());
        let mut before = enrolment.began;
        let mut arrived_before = None;
        for (seen, step) in self.steps.iter_mut().zip(&sequence.steps) {
            let due = before.plus(step.after);
            let sent = seen.sent.or_else(|| sent_at(lead, &rules.sequence, &step.id));
            seen.sent = sent;
            let Some(sent) = sent else {
                let standstill = standstill(lead, enrolment, &step.id);
                let ended = matches!(standstill, Standstill::Ended(_));
                if late(due) || ended {
                    return Progress::Failed(Missing::Sending { step: step.id.clone(), due, standstill });
                }
                return Progress::Going;
            };
            before = sent;
            match seen.arrived {
                None if late(sent) => {
                    let told = told_instead(enrolment, &step.id);
                    return Progress::Failed(Missing::Arrival { step: step.id.clone(), sent, told });
                }
                None => {}
                arrived if in_order && arrived < arrived_before => {
                    return Progress::Failed(Missing::Order { step: step.id.clone() });
                }
                arrived => arrived_before = arrived,
            }
        }
        if self.steps.iter().all(|step| step.arrived.is_some()) { Progress::Passed } else { Progress::Going }
    }

    /// The step that arrived twice, if one did.
    fn see_arrivals(&mut self, arrived: &[Arrived], now: Timestamp) -> Option<SmolStr> {
        let named = arrived.iter().any(|email| email.step.is_some());
        for (place, seen) in self.steps.iter_mut().enumerate() {
            if named {
                let mut its = arrived.iter().filter(|email| email.step.as_deref() == Some(&seen.step));
                let first = its.next();
                if its.next().is_some() {
                    return Some(seen.step.clone());
                }
                seen.arrived = seen.arrived.or(first.map(|email| email.at.unwrap_or(now)));
            } else {
                // Emails that do not say which they are: as many as there are steps, in their order.
                seen.arrived = seen.arrived.or(arrived.get(place).map(|email| email.at.unwrap_or(now)));
            }
        }
        None
    }
}

fn enrolment<'a>(lead: &'a Lead, sequence: &str) -> Option<&'a Enrolment> {
    lead.enrolments.iter().find(|enrolment| enrolment.sequence.name == sequence)
}

/// The version of this sequence that the lead is in.
pub fn canary_version(lead: &Lead, sequence: &str) -> Option<u32> {
    Some(enrolment(lead, sequence)?.sequence.version)
}

/// The emails that webhooks have told to have arrived.
pub fn told_by_webhooks(lead: &Lead, sequence: &str) -> Vec<Arrived> {
    let emails = enrolment(lead, sequence).into_iter().flat_map(|enrolment| &enrolment.emails);
    let arrived = emails
        .filter(|email| email.seen.iter().any(|what| matches!(what, What::Delivered | What::Opened | What::Clicked)));
    arrived.map(|email| Arrived { step: Some(email.step.clone()), at: None }).collect()
}

fn of_step<'a>(lead: &'a Lead, sequence: &'a str, step: &'a str) -> impl DoubleEndedIterator<Item = &'a Entry> {
    lead.history
        .iter()
        .map(AsRef::as_ref)
        .filter(move |entry| entry.sequence.as_deref() == Some(sequence) && entry.step.as_deref() == Some(step))
}

fn sent_at(lead: &Lead, sequence: &str, step: &str) -> Option<Timestamp> {
    of_step(lead, sequence, step).find(|entry| entry.event == What::Sent).map(|entry| entry.timestamp)
}

fn standstill(lead: &Lead, enrolment: &Enrolment, step: &str) -> Standstill {
    match &enrolment.state {
        State::Parked { reason, attempts: _ } => Standstill::Ended(format!("it is parked: {reason}")),
        State::Stopped { .. } => Standstill::Ended("the enrolment was ended".to_owned()),
        State::Completed => Standstill::Ended("the enrolment was completed without it".to_owned()),
        State::InDoubt { reason, .. } => Standstill::Refused(format!("the answer to the call was lost: {reason}")),
        State::Sending { attempt, .. } => {
            Standstill::Refused(format!("the call has not been answered since {}", attempt.started_at))
        }
        State::Waiting { .. } => {
            let reason = |entry: &Entry| entry.reason.clone().unwrap_or_else(|| "no reason was given".to_owned());
            let mut failures = of_step(lead, &enrolment.sequence.name, step)
                .rev()
                .filter(|entry| matches!(entry.event, What::Retrying | What::Misconfigured | What::RateLimited));
            failures.next().map_or(Standstill::Untouched, |entry| Standstill::Refused(reason(entry)))
        }
    }
}

/// What a provider told of an email that did not arrive.
fn told_instead(enrolment: &Enrolment, step: &str) -> Option<What> {
    let email = enrolment.emails.iter().find(|email| email.step == step)?;
    let bad = [What::HardBounced, What::SoftBounced, What::Dropped, What::Deferred, What::Complained];
    bad.into_iter().find(|what| email.seen.contains(what))
}

impl Missing {
    /// Which link is broken, by what surrounds the run.
    pub fn diagnose(&self, around: &Surroundings) -> Finding {
        let installation = around.installation.as_ref();
        let no_engine = installation.is_some_and(|installation| installation.engines == 0);
        let finding = |link: Link, summary: String| Finding { link, summary };
        match self {
            Self::Acceptance { reason } => {
                finding(Link::FrontDoor, format!("the front door did not take the canary's lead: {reason}"))
            }
            Self::Enrolment { accepted } => {
                let what = format!("the canary's lead was accepted at {accepted} and is not enrolled");
                match installation {
                    _ if no_engine => finding(Link::Engine, format!("{what}: no engine is alive")),
                    Some(Installation { leads, .. }) if leads.waiting > 0 => finding(
                        Link::Queue,
                        format!("{what}: an engine is alive, but the queue is blocked; {}", leads.waits()),
                    ),
                    Some(_) => finding(
                        Link::Engine,
                        format!(
                            "{what}, although it has left the queue: look for it in REJECTED (`dripline rejected`)"
                        ),
                    ),
                    None => finding(Link::Queue, format!("{what}: NATS does not answer")),
                }
            }
            Self::Sending { step, due, standstill } => {
                let what = format!("the canary's step `{step}` was due at {due} and was not sent");
                match (standstill, installation, &around.provider) {
                    (Standstill::Ended(reason), ..) => finding(Link::Engine, format!("{what}: {reason}")),
                    _ if no_engine => finding(Link::Engine, format!("{what}: no engine is alive")),
                    (_, _, Some(reason)) => finding(Link::Provider, format!("{what}: {reason}")),
                    (Standstill::Refused(reason), ..) => {
                        finding(Link::Provider, format!("{what}: the provider does not take it: {reason}"))
                    }
                    (Standstill::Untouched, Some(Installation { timers, .. }), None) if timers.waiting > 0 => {
                        finding(Link::Timers, format!("{what}: the queue is blocked; {}", timers.waits()))
                    }
                    (Standstill::Untouched, _, None) => finding(
                        Link::Engine,
                        format!(
                            "{what}: an engine is alive and has not tried; is the sequence or the provider paused?"
                        ),
                    ),
                }
            }
            Self::Arrival { step, sent, told } => {
                let what = format!("the provider accepted the canary's step `{step}` at {sent}");
                if let Some(told) = told {
                    return finding(Link::Delivery, format!("{what} and told of it later: {told:?}"));
                }
                match (&around.evidence, installation) {
                    (EvidenceState::MailboxAway { reason }, _) => finding(
                        Link::Mailbox,
                        format!("{what}, and whether it arrived is not known: the mailbox cannot be asked: {reason}"),
                    ),
                    (EvidenceState::Mailbox, _) => finding(
                        Link::Delivery,
                        format!("{what}, but it is not in the mailbox: the provider does not deliver"),
                    ),
                    (EvidenceState::GatewayAway { reason }, _) => finding(
                        Link::Bridge,
                        format!("{what}, but no delivery event arrived: the webhook bridge is down: {reason}"),
                    ),
                    (_, Some(Installation { feedback, .. })) if feedback.waiting > 0 => finding(
                        Link::Feedback,
                        format!(
                            "{what}, but its delivery event is not processed: the queue is blocked; {}",
                            feedback.waits()
                        ),
                    ),
                    (EvidenceState::Webhooks | EvidenceState::GatewayReached, installation) => {
                        let newest = installation.and_then(|installation| installation.feedback.newest);
                        let reached = matches!(around.evidence, EvidenceState::GatewayReached);
                        let else_where = match (newest.filter(|newest| newest > sent), reached) {
                            (Some(newest), _) => format!(
                                "other events arrive (the last at {newest}), so the provider does not deliver this email"
                            ),
                            (None, true) => "no event of any email came since, and the gateway can be reached: the \
                                             provider does not deliver, or its webhooks lead elsewhere"
                                .to_owned(),
                            (None, false) => "no event of any email came since: the provider does not deliver, or the \
                                              webhook bridge is down"
                                .to_owned(),
                        };
                        finding(Link::Delivery, format!("{what}, but no delivery event arrived: {else_where}"))
                    }
                }
            }
            Self::Order { step } => {
                finding(Link::Delivery, format!("the canary's step `{step}` arrived before the one before it"))
            }
            Self::Once { step } => finding(Link::Delivery, format!("the canary's step `{step}` arrived twice")),
        }
    }
}

impl Canary {
    /// When the last run that passed ended, of those that are kept.
    pub fn last_pass(&self) -> Option<Timestamp> {
        self.results.iter().rev().find(|result| result.failure.is_none()).map(|result| result.ended)
    }

    /// Ends the run under way; its lead and emails are left to be removed.
    pub fn end(&mut self, failure: Option<Finding>, rules: &CanaryRules, now: Timestamp) {
        let Some(run) = self.run.take() else { return };
        let next = if failure.is_some() { now.plus(rules.retry) } else { run.started.plus(rules.interval).max(now) };
        self.next = Some(next);
        self.failure.clone_from(&failure);
        let CanaryRun { id, address, started, steps, .. } = run;
        self.results.push(CanaryResult { id, started, ended: now, steps, failure });
        self.leftovers.push(Leftover { address, since: now, erased: false });
        let keep = |kept: usize, most: usize| kept.saturating_sub(most);
        self.results.drain(..keep(self.results.len(), CANARY_RESULTS));
        self.leftovers.drain(..keep(self.leftovers.len(), CANARY_LEFTOVERS));
    }
}

#[cfg(test)]
mod tests;
