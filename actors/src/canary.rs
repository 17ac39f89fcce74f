//! The canary: on its interval it hands a lead of its own to the real front door, and looks whether each of its emails
//! arrives. What it finds is an alert ([`crate::alerts`]).
//!
//! Its state is one document in the bucket `canary`. Every process looks at it, and whoever writes first acts: so there is
//! one run at a time in the whole installation, and a run goes on when the process that began it is gone.
use std::sync::Arc;
use std::time::Duration;

use dripline_domain::{
    Address, Canary, CanaryRules, CanaryRun, EvidenceState, Lead, LeadKey, Leftover, Missing, Progress, Sighting,
    Surroundings, Timestamp, canary_version, told_by_webhooks,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::json;

use crate::Chain;
use crate::alerts::is_of_provider;
use crate::ports::{CanaryStore, FrontDoor, Mailbox, Revision, SaveError, StoreError, Submission};
use crate::watch::WatchPorts;

/// Its leads come from this source, on `leads.new.canary`.
const SOURCE: &str = "canary";
/// Whoever looks after a run writes so at least twice within this; then another may.
const LEASE: Duration = Duration::from_secs(20);
/// The pause between two looks is a part of the deadline, within these bounds.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Of a lead that was accepted and never enrolled nothing is looked for any more after this.
const LEFTOVERS_FOR: Duration = Duration::from_hours(24);

/// What the canary needs beside what all watchers do.
#[derive(Clone)]
pub struct CanaryPorts {
    /// Its state, and what it looks at.
    pub store: Arc<dyn CanaryStore>,
    /// Takes its leads.
    pub door: Arc<dyn FrontDoor>,
    /// The gateway as the internet has it, for the question whether webhooks can come in; none where nobody said where
    /// that is.
    pub gateway: Option<Arc<dyn FrontDoor>>,
    /// How it sees that an email arrived.
    pub evidence: Evidence,
    /// Its leads have this address, with `+<run>` before the `@`.
    pub address: Address,
    /// Its rhythm.
    pub rules: CanaryRules,
}

/// How the canary sees that an email arrived.
#[derive(Clone)]
pub enum Evidence {
    /// The provider says so.
    Webhooks,
    /// It is in this mailbox.
    Mailbox(Arc<dyn Mailbox>),
}

pub(crate) enum Message {
    /// Look, and do what is to be done.
    Look,
}

pub(crate) struct CanaryActor;

#[derive(Clone)]
pub(crate) struct CanaryState {
    pub(crate) canary: CanaryPorts,
    pub(crate) watch: WatchPorts,
}

impl Actor for CanaryActor {
    type Msg = Message;
    type State = CanaryState;
    type Arguments = CanaryState;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        state: CanaryState,
    ) -> Result<CanaryState, ActorProcessingErr> {
        myself.cast(Message::Look)?;
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        Message::Look: Message,
        state: &mut CanaryState,
    ) -> Result<(), ActorProcessingErr> {
        match state.look().await {
            // Another process was faster.
            Ok(()) | Err(SaveError::Conflict) => {}
            Err(SaveError::Store(error)) => {
                tracing::debug!(error = %Chain(&error), "the canary cannot be looked after now");
            }
        }
        let pause = (state.canary.rules.deadline / 20).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        myself.send_after(pause, || Message::Look);
        Ok(())
    }
}

impl CanaryState {
    async fn look(&self) -> Result<(), SaveError> {
        let (canary, revision) = self.canary.store.load().await?;
        let now = self.watch.clock.now();
        match canary.run.clone() {
            Some(run) if run.owner != self.watch.owner && now < run.lease => Ok(()),
            Some(run) if run.accepted.is_none() => self.submit(canary, revision, run).await,
            Some(run) => self.look_after(canary, revision, run).await,
            None => self.rest(canary, revision, now).await,
        }
    }

    /// Between two runs: first what the last ones left behind, then the next.
    async fn rest(&self, mut canary: Canary, revision: Revision, now: Timestamp) -> Result<(), SaveError> {
        let left = self.clean(&canary.leftovers, now).await?;
        if left != canary.leftovers {
            canary.leftovers = left;
            return self.canary.store.save(&canary, revision).await.map(drop);
        }
        if canary.next.is_none_or(|next| next <= now) { self.begin(canary, revision, now).await } else { Ok(()) }
    }

    async fn begin(&self, mut canary: Canary, revision: Revision, now: Timestamp) -> Result<(), SaveError> {
        let id = format!("{:012x}", rand::random::<u64>() >> 16);
        let address = &self.canary.address;
        let address = Address::parse(&format!("{}+{id}@{}", address.local(), address.domain()))
            .map_err(|error| StoreError::Unreadable(error.into()))?;
        let owner = self.watch.owner.clone();
        let run =
            CanaryRun { id, address, started: now, accepted: None, steps: Vec::new(), owner, lease: now.plus(LEASE) };
        canary.run = Some(run.clone());
        // Written first, so that nobody else begins one.
        let revision = self.canary.store.save(&canary, revision).await?;
        self.submit(canary, revision, run).await
    }

    /// The same id on every try: one lead comes of all of them.
    async fn submit(&self, canary: Canary, revision: Revision, mut run: CanaryRun) -> Result<(), SaveError> {
        let CanaryRules { sequence, deadline, .. } = &self.canary.rules;
        let lead = json!({"email": run.address, "firstName": "Canary", "sequence": sequence});
        let submitted = self.canary.door.submit(Submission {
            source: Some(SOURCE.to_owned()),
            payload: lead.to_string().into(),
            content_type: "application/json",
            id: Some(format!("canary-{}", run.id)),
            trace: None,
        });
        let submitted = submitted.await;
        let now = self.watch.clock.now();
        match submitted {
            Ok(()) => {
                run.accepted = Some(now);
                self.keep(canary, revision, run, now).await
            }
            Err(error) if now.since(run.started) > *deadline => {
                let reason = Chain(&error).to_string();
                self.end(canary, revision, run, Some(Missing::Acceptance { reason }), EvidenceState::default()).await
            }
            Err(_) => self.keep(canary, revision, run, now).await,
        }
    }

    async fn look_after(&self, canary: Canary, revision: Revision, mut run: CanaryRun) -> Result<(), SaveError> {
        let CanaryPorts { store, evidence, rules, .. } = &self.canary;
        let before = run.clone();
        let lead = store.lead(&LeadKey::of(&run.address)).await?;
        let sequence = match lead.as_ref().and_then(|lead| canary_version(lead, &rules.sequence)) {
            Some(version) => store.sequence(&rules.sequence, version).await?,
            None => None,
        };
        let (arrived, evidence) = match (evidence, &lead) {
            (Evidence::Webhooks, Some(lead)) => (told_by_webhooks(lead, &rules.sequence), EvidenceState::Webhooks),
            (Evidence::Webhooks, None) => (Vec::new(), EvidenceState::Webhooks),
            (Evidence::Mailbox(mailbox), Some(_)) => match mailbox.arrived(&run.address).await {
                Ok(arrived) => (arrived, EvidenceState::Mailbox),
                Err(error) => (Vec::new(), EvidenceState::MailboxAway { reason: error.to_string() }),
            },
            (Evidence::Mailbox(_), None) => (Vec::new(), EvidenceState::Mailbox),
        };
        let now = self.watch.clock.now();
        let sighting = Sighting { lead: lead.as_ref(), sequence: sequence.as_ref(), arrived: &arrived };
        match run.look(sighting, rules, now) {
            Progress::Going if run == before && now.plus(LEASE / 2) < run.lease => Ok(()),
            Progress::Going => self.keep(canary, revision, run, now).await,
            Progress::Passed => self.end(canary, revision, run, None, evidence).await,
            Progress::Failed(missing) => self.end(canary, revision, run, Some(missing), evidence).await,
        }
    }

    async fn keep(
        &self,
        mut canary: Canary,
        revision: Revision,
        mut run: CanaryRun,
        now: Timestamp,
    ) -> Result<(), SaveError> {
        run.owner.clone_from(&self.watch.owner);
        run.lease = now.plus(LEASE);
        canary.run = Some(run);
        self.canary.store.save(&canary, revision).await.map(drop)
    }

    async fn end(
        &self,
        mut canary: Canary,
        revision: Revision,
        run: CanaryRun,
        missing: Option<Missing>,
        evidence: EvidenceState,
    ) -> Result<(), SaveError> {
        let failure = match &missing {
            Some(missing) => Some(missing.diagnose(&self.surroundings(evidence).await)),
            None => None,
        };
        let (now, id) = (self.watch.clock.now(), run.id.clone());
        canary.run = Some(run);
        canary.end(failure.clone(), &self.canary.rules, now);
        self.canary.store.save(&canary, revision).await?;
        if let Some(failure) = failure {
            tracing::warn!(run = id, link = failure.link.name(), summary = failure.summary, "the canary fails");
        } else {
            tracing::info!(run = id, "the canary passes: every email arrived in time and in order");
        }
        Ok(())
    }

    async fn surroundings(&self, evidence: EvidenceState) -> Surroundings {
        let alerts = self.watch.alerts.all().await.unwrap_or_default();
        let provider = alerts.into_iter().find(|(alert, _)| is_of_provider(alert)).map(|(alert, _)| alert.summary);
        let evidence = match (evidence, &self.canary.gateway) {
            (EvidenceState::Webhooks, Some(gateway)) => match gateway.ready().await {
                Ok(()) => EvidenceState::GatewayReached,
                Err(error) => EvidenceState::GatewayAway { reason: Chain(&error).to_string() },
            },
            (evidence, _) => evidence,
        };
        Surroundings { installation: self.watch.surveyor.look().await.ok(), provider, evidence }
    }

    /// Removes what earlier runs left behind; gives what is left. A lead that is not enrolled yet may still be in the queue, so it is looked
    /// for again and again; an email may be on its way, so the mailbox is looked at again once the deadline is over.
    async fn clean(&self, leftovers: &[Leftover], now: Timestamp) -> Result<Vec<Leftover>, StoreError> {
        let mut left = Vec::with_capacity(leftovers.len());
        for mut leftover in leftovers.iter().cloned() {
            let lead = self.canary.store.lead(&LeadKey::of(&leftover.address)).await?;
            match self.is_clean(&mut leftover, lead.as_ref(), now).await {
                Ok(true) => {}
                Ok(false) => left.push(leftover),
                Err(error) => {
                    // Perhaps this process may not write leads, and another may.
                    tracing::debug!(error = %Chain(&error), "a lead of the canary could not be removed");
                    left.push(leftover);
                }
            }
        }
        Ok(left)
    }

    async fn is_clean(&self, leftover: &mut Leftover, lead: Option<&Lead>, now: Timestamp) -> Result<bool, StoreError> {
        let age = now.since(leftover.since);
        if lead.is_some() {
            self.canary.store.erase(&LeadKey::of(&leftover.address)).await?;
            leftover.erased = true;
            self.empty_mailbox(leftover).await;
        } else if leftover.erased && age >= self.canary.rules.deadline {
            return Ok(self.empty_mailbox(leftover).await || age >= LEFTOVERS_FOR);
        } else if age >= LEFTOVERS_FOR {
            tracing::warn!("a lead of the canary was accepted a day ago and was never seen");
            return Ok(true);
        }
        Ok(false)
    }

    async fn empty_mailbox(&self, leftover: &Leftover) -> bool {
        let Evidence::Mailbox(mailbox) = &self.canary.evidence else { return true };
        match mailbox.remove(&leftover.address).await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "the canary's emails could not be removed; trying again");
                false
            }
        }
    }
}
