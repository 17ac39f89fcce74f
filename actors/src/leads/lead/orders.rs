//! What operators order of a lead.
use std::sync::Arc;

use dripline_domain::{Event, LeadId, Operator, OperatorAction, Refusal, Sequence, erase};

use super::{Decided, Document, Interruption, LeadState, Ordered, Services, journal_lines};
use crate::Chain;
use crate::committer::CommitError;
use crate::control::{ControlError, Obeyed, Order, OrderedAction};
use crate::ports::Put;

impl From<Interruption> for ControlError {
    fn from(interruption: Interruption) -> Self {
        match interruption {
            Interruption::Store(error) => error.into(),
            error @ (Interruption::Commit(_)
            | Interruption::Timer(_)
            | Interruption::NotRunning(_)
            | Interruption::Later(_)) => Self::Unavailable(Chain(&error).to_string()),
        }
    }
}

impl LeadState {
    /// An operator orders something. Decided anew on whatever another process has written meanwhile.
    pub(super) async fn obey(&mut self, Ordered { order, lead_id, reply }: Ordered) {
        if reply.is_closed() {
            return;
        }
        let obeyed = self.carry_out(&lead_id, &order).await;
        if let Err(error @ ControlError::Unavailable(_)) = &obeyed {
            tracing::warn!(lead_id = self.lead_id(), %error, "an order was not carried out");
            self.document = Document::Unread;
        }
        // Whoever asked may have gone; what was done is on disk.
        let _ = reply.send(obeyed);
    }

    async fn carry_out(&mut self, lead_id: &LeadId, order: &Order) -> Result<Obeyed, ControlError> {
        let services = Arc::clone(&self.services);
        loop {
            // Another process may have written since we read, or what we read be a copy that is behind; and a refusal must
            // be of what is.
            self.read_anew().await?;
            let decided = match &order.action {
                OrderedAction::Pause => self.operate(order, OperatorAction::Pause).await?,
                OrderedAction::Resume => self.operate(order, OperatorAction::Resume).await?,
                OrderedAction::Move { sequence, step, version, at } => {
                    let on = self.lead().await?.and_then(|lead| lead.newest_enrolment(sequence));
                    let version = version.or(on.map(|enrolment| enrolment.sequence.version));
                    let to = services.version(sequence, version.ok_or(Refusal::NotInSequence)?).await?;
                    self.operate(order, OperatorAction::Move { to: &to, step, at: *at }).await?
                }
                OrderedAction::Migrate { sequence, from, to } => {
                    let (from, to) = (services.version(sequence, *from).await?, services.version(sequence, *to).await?);
                    self.operate(order, OperatorAction::Migrate { from: &from, to: &to }).await?
                }
                OrderedAction::Restart { sequence: name } => {
                    let sequence =
                        services.sequences.current(name).ok_or_else(|| ControlError::NoSuchSequence(name.clone()))?;
                    let address = self.lead().await?.ok_or(ControlError::NoSuchLead)?.address.clone();
                    let suppression = self.suppression_at_arrival(&address, lead_id).await?;
                    self.operate(order, OperatorAction::Restart { sequence: &sequence, suppression }).await?
                }
                OrderedAction::Stop { sequence } => {
                    self.operate(order, OperatorAction::Stop { sequence: sequence.as_deref() }).await?
                }
                OrderedAction::Enroll { arrival } => {
                    let sequence = match &arrival.sequence {
                        Some(name) => services
                            .sequences
                            .current(name)
                            .ok_or_else(|| ControlError::NoSuchSequence(name.clone()))?,
                        None => services.sequences.for_source(None).ok_or(ControlError::NoDefaultSequence)?,
                    };
                    let suppression = self.suppression_at_arrival(&arrival.address, lead_id).await?;
                    let (arrival, lead_id) = (arrival.clone(), lead_id.clone());
                    let action = OperatorAction::Enroll { arrival, lead_id, sequence: &sequence, suppression };
                    self.operate(order, action).await?
                }
                OrderedAction::Resolve { sequence, sent } => {
                    let lead = self.lead().await?.ok_or(ControlError::NoSuchLead)?;
                    let version = lead.in_doubt(sequence).map(|enrolment| enrolment.sequence.version);
                    let sequence = services.version(sequence, version.ok_or(Refusal::NoSuchAttempt)?).await?;
                    self.operate(order, OperatorAction::Resolve { sequence: &sequence, sent: *sent }).await?
                }
                OrderedAction::Erase => match self.erase(lead_id, &order.operator).await? {
                    Some(erased) => return Ok(Obeyed::Erased { lead_id: lead_id.clone(), erased }),
                    None => Decided::Overtaken,
                },
            };
            match decided {
                Decided::Overtaken => continue,
                // Asked again: the crash may have come between the document and its timer.
                Decided::Nothing => self.set_timer_again().await?,
                Decided::Written | Decided::Send(_) => {}
            }
            let lead = self.lead().await?.ok_or(ControlError::NoSuchLead)?;
            return Ok(Obeyed::Lead(Box::new(lead.clone())));
        }
    }

    async fn operate(&mut self, order: &Order, action: OperatorAction<'_>) -> Result<Decided, ControlError> {
        let Order { operator, request, .. } = order;
        Ok(self.decide(Event::Operator { action, operator, request }).await??)
    }

    /// Erases the lead; whether there was a document, and none where another process has written to it meanwhile. What is
    /// known against the address comes first: should we not get further, a repeat does the rest.
    async fn erase(&mut self, lead_id: &LeadId, operator: &Operator) -> Result<Option<bool>, ControlError> {
        let services = Arc::clone(&self.services);
        let context = services.context();
        let entry = match self.lead().await? {
            Some(lead) => Some((erase(lead, operator, &context)?, lead.generation)),
            None => None,
        };
        let address = self.key.address().map_err(|error| ControlError::Unreadable(error.to_string()))?;
        services.suppressions.anonymise(&address).await?;
        if let Some((entry, generation)) = &entry {
            let Document::Known { revision: expected, .. } = self.document else { return Ok(None) };
            let put = Put {
                key: self.key.clone(),
                expected,
                document: None,
                next_action: None,
                generation: *generation,
                status: None,
                write: rand::random(),
            };
            match services.committer.commit(put, journal_lines(lead_id, *generation, [entry])).await {
                Ok(_) => tracing::info!(%lead_id, "lead erased"),
                Err(CommitError::Conflict) => return Ok(None),
                Err(error) => return Err(Interruption::from(error).into()),
            }
            self.document = Document::Unread;
        }
        services.timers.forget(&self.key).await.map_err(Interruption::from)?;
        Ok(Some(entry.is_some()))
    }
}

impl Services {
    /// A version that an operator names.
    async fn version(&self, sequence: &str, version: u32) -> Result<Arc<Sequence>, ControlError> {
        let found = self.sequences.version(sequence, version).await?;
        found.ok_or_else(|| ControlError::NoSuchVersion { sequence: sequence.to_owned(), version })
    }
}
